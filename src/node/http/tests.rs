//! The API over real TCP sockets, spoken by hand: what a browser, a script and an attacker can send.

use super::guard::BODY_LEN_MAX;
use super::types::*;
use super::*;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

const SOON: Duration = Duration::from_secs(15);

/// A node in memory; `next` is what the next increment says.
struct Memory {
    added: Mutex<u64>,
    refuses: Mutex<Option<IncrementRefused>>,
    muted: Mutex<bool>,
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
    let memory = Arc::new(Memory {
        added: Mutex::new(0),
        refuses: Mutex::new(None),
        muted: Mutex::new(false),
    });
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
    let mut stream = TcpStream::connect(address).await.unwrap();
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

#[tokio::test]
async fn the_prototypes_shapes_are_kept_and_fields_are_added() {
    let api = api().await;
    let get = async |path: &str| {
        let answer = ask(&api, &format!("GET {path}"), &[]).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        assert!(
            answer.head.contains("content-type: application/json")
                && answer.head.contains("cache-control: no-store")
        );
        answer.json()
    };
    assert_eq!(
        get("/counter").await,
        json!({ "value": 0, "instance_id": "ab", "is_leader": true, "applied_index": 9 })
    );
    let added = ask(&api, "POST /increment", &[]).await;
    assert_eq!(added.status, 200);
    assert_eq!(
        added.json(),
        json!({ "success": true, "new_value": 1, "operation_id": 1, "index": 12, "term": 3 })
    );
    let status = get("/status").await;
    for field in [
        "instance_id",
        "name",
        "token_id",
        "wallet_address",
        "host_key_address",
        "is_leader",
        "counter_value",
        "total_active_nodes",
        "required_votes",
        "current_leader",
        "leader_token",
        "last_leader_heartbeat",
        "term",
        "incarnation",
        "muted",
        "phase",
        "summary",
        "missing",
        "chain",
        "log",
        "log_term",
        "cold_starts",
        "frames",
        "links",
        "gate_refusals",
        "unasked_elections",
        "attestation",
        "alarms",
    ] {
        assert!(keys(&status).contains(&field), "{field}");
    }
    assert_eq!(status["last_leader_heartbeat"], Value::Null);
    assert_eq!(status["log_term"]["voted_muted"], json!([2]));
    let members = get("/members").await;
    assert_eq!(
        (&members["active_instances"], &members["total_active"]),
        (&json!(["ab"]), &json!(1))
    );
    assert_eq!(members["members"][0]["state"], "SELF");
    let health = get("/health").await;
    assert_eq!(keys(&health), ["instance_id", "status", "timestamp"]);
    assert!(health["status"] == "healthy" && health["timestamp"].as_f64().unwrap() > 1.7e9);
    let metrics = ask(&api, "GET /metrics", &[]).await;
    assert!(
        metrics.head.contains("application/openmetrics-text")
            && metrics.body.contains("synod_term 3")
    );
}

#[tokio::test]
async fn the_log_comes_in_pages_of_at_most_a_thousand() {
    let api = api().await;
    let page = ask(&api, "GET /log", &[]).await.json();
    assert_eq!(
        keys(&page["operations"][0]),
        ["index", "leader", "new_value", "operation", "timestamp"]
    );
    assert_eq!(
        (&page["total_operations"], &page["next"]),
        (&json!(5_000), &json!(1_000))
    );
    let page = ask(&api, "GET /log?from=7&limit=10", &[]).await.json();
    assert_eq!(
        (
            &page["operations"][0]["new_value"],
            &page["operations"][0]["index"]
        ),
        (&json!(7), &json!(10))
    );
    for bad in [
        "limit=0",
        "limit=1001",
        "from=-1",
        "from=x",
        "limit=99999999999",
        "form=1",
    ] {
        ask(&api, &format!("GET /log?{bad}"), &[])
            .await
            .problem(400);
    }
}

#[tokio::test]
async fn a_follower_refuses_in_the_prototypes_words_and_names_the_leader() {
    let api = api().await;
    let refuse = |refused| *api.memory.refuses.lock().unwrap() = Some(refused);
    let leader = LeaderHint {
        token: 3,
        wallet: "0x03".into(),
        url: Some("http://127.0.0.1:8083".into()),
    };
    refuse(IncrementRefused::NotLeader {
        leader: Some(leader),
    });
    let body = ask(&api, "POST /increment", &[]).await.problem(403);
    assert_eq!(body["error"], "Only leader can increment counter");
    assert_eq!(
        body["leader"],
        json!({ "token_id": 3, "wallet_address": "0x03", "url": "http://127.0.0.1:8083" })
    );
    refuse(IncrementRefused::NotLeader { leader: None });
    assert_eq!(
        ask(&api, "POST /increment", &[]).await.problem(403)["leader"],
        Value::Null
    );
    refuse(IncrementRefused::Unavailable {
        why: "no quorum".into(),
        retry_after_s: 4,
    });
    let busy = ask(&api, "POST /increment", &[]).await;
    assert!(busy.head.contains("retry-after: 4") && busy.problem(503)["detail"] == "no quorum");
    refuse(IncrementRefused::Unknown {
        why: "proposed".into(),
    });
    assert!(
        ask(&api, "POST /increment", &[]).await.problem(504)["detail"]
            .as_str()
            .unwrap()
            .contains("may still be added")
    );
    ask(&api, "POST /increment?forward=true", &[])
        .await
        .problem(501);
    ask(&api, "POST /increment?by=5", &[]).await.problem(400);
    assert_eq!(*api.memory.added.lock().unwrap(), 0);
}

#[tokio::test]
async fn a_muted_node_shows_its_status_but_answers_no_reads() {
    let api = api().await;
    *api.memory.muted.lock().unwrap() = true;
    for path in ["/counter", "/log"] {
        let problem = ask(&api, &format!("GET {path}"), &[]).await.problem(503);
        assert_eq!(problem["detail"], "muted");
    }
    assert_eq!(ask(&api, "GET /status", &[]).await.status, 200);
}

#[tokio::test]
async fn only_our_own_names_are_answered() {
    let api = api().await;
    let port = api.address.port();
    for ours in [
        "127.0.0.1".to_owned(),
        format!("localhost:{port}"),
        "LOCALHOST".into(),
        "[::1]:80".into(),
        "node1.example:8081".into(),
        "10.0.0.7".into(),
    ] {
        assert_eq!(
            ask(&api, "GET /counter", &[&format!("Host: {ours}")])
                .await
                .status,
            200,
            "{ours}"
        );
    }
    for foreign in [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:8081",
        "127.1",
        "2130706433",
        "",
        "[::1",
        "[evil]",
        "localhost:x",
        "localhost:99999",
        "::1",
        "node1.example.",
        "user@127.0.0.1",
    ] {
        let answer = ask(&api, "POST /increment", &[&format!("Host: {foreign}")]).await;
        assert!(
            answer.status == 421 || answer.status == 400,
            "{foreign}: {}",
            answer.status
        );
    }
    ask(
        &api,
        "GET /counter",
        &["Host: 127.0.0.1", "Host: evil.example"],
    )
    .await
    .problem(421);
    ask(&api, "GET /status", &["Host: evil.example"])
        .await
        .problem(421);
    let none = raw(api.address, b"GET /counter HTTP/1.0\r\n\r\n").await;
    none.problem(421);
    assert_eq!(*api.memory.added.lock().unwrap(), 0);
}

#[tokio::test]
async fn a_foreign_page_gets_nothing_by_any_method() {
    let api = api().await;
    let own = format!("Origin: http://{}", api.address);
    assert_eq!(
        ask(
            &api,
            "POST /increment",
            &[&own, "Sec-Fetch-Site: same-origin"]
        )
        .await
        .status,
        200
    );
    for header in [
        "Origin: https://evil.example",
        "Origin: null",
        "Origin: http://127.0.0.1:1",
        "Origin: https://127.0.0.1",
        "Origin:",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: Cross-Site",
    ] {
        for line in ["POST /increment", "GET /status", "OPTIONS /increment"] {
            ask(&api, line, &[header]).await.problem(403);
        }
    }
    assert_eq!(*api.memory.added.lock().unwrap(), 1);
    assert!(
        !ask(&api, "GET /status", &[&own])
            .await
            .head
            .contains("access-control-allow-origin")
    );
}

#[tokio::test]
async fn unknown_routes_and_methods_are_problems() {
    let api = api().await;
    ask(&api, "GET /nothing", &[]).await.problem(404);
    ask(&api, "POST /mint-nft", &[]).await.problem(404);
    let wrong = ask(&api, "GET /increment", &[]).await;
    assert!(
        wrong.problem(405)["detail"]
            .as_str()
            .unwrap()
            .contains("POST /increment")
    );
    ask(&api, "DELETE /counter", &[]).await.problem(405);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_and_one_at_the_limit_is_not() {
    let api = api().await;
    let post = |len: usize| {
        [format!("POST /increment HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n").into_bytes(), vec![b'x'; len]].concat()
    };
    assert_eq!(raw(api.address, &post(BODY_LEN_MAX)).await.status, 200);
    raw(api.address, &post(BODY_LEN_MAX + 1)).await.problem(413);
    assert_eq!(*api.memory.added.lock().unwrap(), 1);
}

#[tokio::test]
async fn slow_headers_and_slow_bodies_are_ended() {
    let api = api().await;
    let half = raw(api.address, b"GET /status HTTP/1.1\r\nHost: local");
    let body = raw(api.address, b"POST /increment HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 5\r\n\r\nx");
    let idle = raw(api.address, b"");
    let (half, body, idle) = tokio::join!(half, body, idle);
    assert!(half.status == 0 || half.status == 408, "{}", half.status);
    body.problem(408);
    assert_eq!(idle.status, 0);
    assert_eq!(*api.memory.added.lock().unwrap(), 0);
}

#[tokio::test]
async fn a_stop_ends_the_server_although_a_connection_is_open() {
    let mut api = api().await;
    let mut open = TcpStream::connect(api.address).await.unwrap();
    open.write_all(b"GET /counter HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    assert!(open.read_u8().await.is_ok());
    api.stop.take().unwrap().send(()).unwrap();
    tokio::time::timeout(SOON, api.serving)
        .await
        .expect("stops in time")
        .unwrap()
        .unwrap();
    assert!(TcpStream::connect(api.address).await.is_err());
}

#[tokio::test]
#[should_panic(expected = "loopback only")]
async fn an_address_that_others_reach_is_not_served() {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let memory = Arc::new(Memory {
        added: Mutex::new(0),
        refuses: Mutex::new(None),
        muted: Mutex::new(false),
    });
    serve(listener, memory, Vec::new(), std::future::pending())
        .await
        .unwrap();
}
