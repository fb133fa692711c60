//! The API over real sockets, spoken by hand: what a browser, a script and an attacker can send.

mod control;
mod limits;
mod shapes;
mod strangers;
mod trades;

use super::guard::BODY_LEN_MAX;
use super::types::*;
use super::*;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

const SOON: Duration = Duration::from_secs(15);

/// A node in memory; what it is to refuse is set by the test.
struct Memory {
    added: Mutex<u64>,
    refuses: Mutex<Option<IncrementRefused>>,
    muted: Mutex<bool>,
    wishes: Mutex<Vec<TradeWish>>,
    trade: Mutex<Result<Trade, TradeRefused>>,
    election: Mutex<Result<String, String>>,
    said: broadcast::Sender<String>,
    quit: Mutex<bool>,
}

/// Lines that a reader may be behind.
const SAID_MAX: usize = 4;

impl Memory {
    fn new() -> Arc<Self> {
        let trade = Trade {
            id: "1-1-3".into(),
            side: "SELL".into(),
            proposer: 1,
            with: 2,
            payer: 1,
            payee: 2,
            amount: 2.5,
            amount_wh: 2_500,
            ..Trade::default()
        };
        Arc::new(Self {
            added: Mutex::new(0),
            refuses: Mutex::new(None),
            muted: Mutex::new(false),
            wishes: Mutex::default(),
            trade: Mutex::new(Ok(trade)),
            election: Mutex::new(Ok("node 3 leads term 4".into())),
            said: broadcast::channel(SAID_MAX).0,
            quit: Mutex::new(false),
        })
    }

    fn trade_is(&self, status: TradeStatus, reason: Option<&str>) {
        let mut trade = self.trade.lock().unwrap();
        let trade = trade.as_mut().expect("the trade is not refused yet");
        trade.status = status;
        trade.reason = reason.map(str::to_owned);
    }

    fn trade_is_refused(&self, refused: TradeRefused) {
        *self.trade.lock().unwrap() = Err(refused);
    }

    fn wishes(&self) -> Vec<TradeWish> {
        self.wishes.lock().unwrap().clone()
    }
}

impl Backend for Memory {
    fn status(&self) -> Status {
        let log_term = LogTerm {
            term: 3,
            voted_muted: vec![2],
            ..LogTerm::default()
        };
        Status {
            instance_id: "ab".into(),
            token_id: 1,
            phase: "serving".into(),
            log_term: Some(log_term),
            ..Status::default()
        }
    }

    fn members(&self) -> Members {
        let member = Member {
            token_id: 1,
            state: "SELF".into(),
            ..Member::default()
        };
        Members {
            active_instances: vec!["ab".into()],
            total_active: 1,
            members: vec![member],
        }
    }

    fn readable(&self) -> Result<(), String> {
        if *self.muted.lock().unwrap() {
            Err("muted".into())
        } else {
            Ok(())
        }
    }

    fn counter(&self) -> Counter {
        Counter {
            value: *self.added.lock().unwrap(),
            instance_id: "ab".into(),
            is_leader: true,
            applied_index: 9,
        }
    }

    fn log(&self, from: u64, limit: u32) -> LogPage {
        let operation = Operation {
            timestamp: 1.5,
            operation: "increment".into(),
            new_value: from,
            leader: "0x01".into(),
            index: limit.into(),
        };
        LogPage {
            operations: vec![operation],
            total_operations: 5_000,
            next: Some(from + u64::from(limit)),
        }
    }

    fn increment(&self) -> BoxFuture<'static, Result<Incremented, IncrementRefused>> {
        let outcome = match self.refuses.lock().unwrap().clone() {
            Some(refused) => Err(refused),
            None => {
                let mut added = self.added.lock().unwrap();
                *added += 1;
                Ok(Incremented {
                    success: true,
                    new_value: *added,
                    operation_id: *added,
                    index: 12,
                    term: 3,
                })
            }
        };
        Box::pin(async move { outcome })
    }

    fn balances(&self) -> Balances {
        let balance = |token_id, wh: u64| Balance {
            token_id,
            name: format!("node{token_id}"),
            balance: wh as f64 / 1_000.0,
            balance_wh: wh,
        };
        Balances {
            balances: vec![balance(1, 97_500), balance(2, 102_500)],
            total: 200.0,
            total_wh: 200_000,
            issued_wh: 200_000,
            reserved: 0.001,
            reserved_wh: 1,
            instance_id: "ab".into(),
            token_id: 1,
            balance: 97.5,
            balance_wh: 97_500,
            applied_index: 9,
        }
    }

    fn trades(&self, from: u64, limit: u32) -> TradesPage {
        let open = self.trade.lock().unwrap().clone().unwrap();
        let settled = Trade {
            status: TradeStatus::Settled,
            index: Some(from),
            timestamp: Some(1.5),
            payer_balance_wh: Some(97_500),
            payee_balance_wh: Some(102_500),
            ..open.clone()
        };
        TradesPage {
            trades: vec![settled],
            open: vec![open],
            total_trades: 5_000,
            next: Some(from + u64::from(limit)),
        }
    }

    fn clock(&self) -> ClockView {
        let entry = |token_id| ClockEntry {
            token_id,
            incarnation: 2,
            sequence: token_id + 3,
        };
        ClockView {
            clock: [(10, 13), (2, 5)].into(),
            entries: vec![entry(2), entry(10)],
            buffered: 1,
            instance_id: "ab".into(),
        }
    }

    fn trade(&self, wish: TradeWish) -> BoxFuture<'static, Result<TradeEnd, TradeRefused>> {
        self.wishes.lock().unwrap().push(wish);
        let outcome = self.trade.lock().unwrap().clone();
        Box::pin(async move { outcome.map(TradeEnd::from) })
    }

    fn peers(&self) -> Peers {
        Peers {
            peers: vec!["http://127.0.0.1:8082".into()],
            count: 1,
            timestamp: 1.5,
            instance_id: "ab".into(),
        }
    }

    fn info(&self) -> Info {
        Info {
            instance_id: "ab".into(),
            connection_url: "http://127.0.0.1:8081".into(),
            contract_address: "0xcc".into(),
            rpc_url: "http://127.0.0.1:8545".into(),
            registered: true,
            timestamp: 1.5,
        }
    }

    fn wallet_info(&self) -> WalletInfo {
        WalletInfo {
            kind: "dstack".into(),
            address: "0x01".into(),
            key_path: "synod/wallet/ab/<salt>".into(),
            key_purpose: "synod-v1:31337:0xcc:ab".into(),
            socket: "dstack.sock".into(),
            host_key_address: "0x01".into(),
            instance_id: "ab".into(),
        }
    }

    fn call_election(&self) -> BoxFuture<'static, Result<String, String>> {
        let outcome = self.election.lock().unwrap().clone();
        Box::pin(async move { outcome })
    }

    fn lines(&self) -> (Vec<String>, broadcast::Receiver<String>) {
        (vec!["earlier".to_owned()], self.said.subscribe())
    }

    fn quit(&self) {
        *self.quit.lock().unwrap() = true;
    }

    fn metrics(&self) -> String {
        "synod_term 3\n# EOF\n".to_owned()
    }
}

struct Api {
    memory: Arc<Memory>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    serving: tokio::task::JoinHandle<std::io::Result<()>>,
}

async fn api() -> Api {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let memory = Memory::new();
    let (stop, stopped) = oneshot::channel();
    let names = vec!["node1.example".to_owned()];
    let shutdown = async move { drop(stopped.await) };
    let serving = tokio::spawn(serve(listener, memory.clone(), names, shutdown));
    Api {
        memory,
        address,
        stop: Some(stop),
        serving,
    }
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|why| panic!("{why}: {}", self.body))
    }

    /// Every refusal is a problem with an `error`.
    fn problem(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        assert!(
            self.head.contains("content-type: application/problem+json"),
            "{}",
            self.head
        );
        let body = self.json();
        assert_eq!(body["status"], json!(status));
        assert!(
            body["error"].is_string() && body["title"].is_string() && body["detail"].is_string(),
            "{body}"
        );
        body
    }
}

/// One connection, these bytes, everything that comes back.
async fn raw(address: SocketAddr, request: &[u8]) -> Answer {
    speak(TcpStream::connect(address).await.unwrap(), request).await
}

async fn speak(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &[u8]) -> Answer {
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(SOON, stream.read_to_end(&mut answer))
        .await
        .expect("the end of the answer")
        .unwrap();
    let text = String::from_utf8(answer).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .unwrap_or(0);
    Answer {
        status,
        head: head.to_lowercase(),
        body: body.to_owned(),
    }
}

/// `POST` with a body.
fn posting(path: &str, body: &str) -> Vec<u8> {
    let len = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n{body}")
        .into_bytes()
}

async fn ask(api: &Api, line: &str, headers: &[&str]) -> Answer {
    let more: String = headers.iter().map(|h| format!("{h}\r\n")).collect();
    let host = if headers
        .iter()
        .any(|h| h.to_lowercase().starts_with("host:"))
    {
        String::new()
    } else {
        format!("Host: {}\r\n", api.address)
    };
    raw(
        api.address,
        format!("{line} HTTP/1.1\r\n{host}Connection: close\r\n{more}\r\n").as_bytes(),
    )
    .await
}

fn keys(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}
