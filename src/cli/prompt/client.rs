//! Client of a node's control socket: HTTP/1.1 over a Unix socket, one connection for each call, bounded in time and
//! size. The node is a process of the same user; its answers are read with care all the same.

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;
use synod_node::http::types::{Balances, ClockView, Members, Status, TradesPage};
use synod_wire::Wh;
use synod_wire::trade::Side;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

/// Reads, and an offer that is on its way.
const CALL_MAX: Duration = Duration::from_secs(5);
/// An election needs ballots and a transaction.
const ELECTION_MAX: Duration = Duration::from_secs(40);
/// A page of a thousand trades has some 400 KB.
const ANSWER_LEN_MAX: usize = 4 << 20;
/// Pages of one history, a thousand trades each.
const PAGES_MAX: usize = 1_000;
/// Longest event line, in bytes; the rest of it is not shown.
const LINE_LEN_MAX: usize = 4_096;

/// Why there is no answer, or no good one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Nobody serves the socket.
    #[error(
        "node {node} does not run: {}: {why}; start it again, or wait until it has begun",
        socket.display()
    )]
    Away {
        node: u64,
        socket: PathBuf,
        why: std::io::Error,
    },
    /// It was there, and went.
    #[error("node {node} ended the connection before its answer to {what}: {why}")]
    Ended {
        node: u64,
        what: String,
        why: hyper::Error,
    },
    #[error("node {node}: expected an answer to {what} within {after:?}, found none; try again")]
    TimedOut {
        node: u64,
        what: String,
        after: Duration,
    },
    /// The node's own words.
    #[error("{}", with_detail(error, detail.as_deref()))]
    Refused {
        error: String,
        detail: Option<String>,
    },
    #[error("node {node}: {what}: expected {expected}, found {found}; is it the same version?")]
    Strange {
        node: u64,
        what: String,
        expected: &'static str,
        found: String,
    },
}

fn with_detail(error: &str, detail: Option<&str>) -> String {
    match detail {
        Some(detail) => format!("{error}\n  {detail}"),
        None => error.to_owned(),
    }
}

/// One node.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    node: u64,
    socket: PathBuf,
}

impl Client {
    pub(crate) fn new(node: u64, socket: &Path) -> Self {
        let socket = socket.to_owned();
        Self { node, socket }
    }

    pub(crate) fn node(&self) -> u64 {
        self.node
    }

    pub(crate) async fn status(&self) -> Result<Status, ClientError> {
        let what = "/status";
        self.read(what, |body| serde_json::from_slice(body)).await
    }

    pub(crate) async fn members(&self) -> Result<Members, ClientError> {
        let what = "/members";
        self.read(what, |body| serde_json::from_slice(body)).await
    }

    pub(crate) async fn balances(&self) -> Result<Balances, ClientError> {
        let what = "/balances";
        self.read(what, |body| serde_json::from_slice(body)).await
    }

    pub(crate) async fn clock(&self) -> Result<ClockView, ClientError> {
        let what = "/clock";
        self.read(what, |body| serde_json::from_slice(body)).await
    }

    /// Every page of the node's trades, oldest first.
    pub(crate) async fn trades(&self, mut take: impl FnMut(TradesPage)) -> Result<(), ClientError> {
        let mut from = 0;
        for _ in 0..PAGES_MAX {
            let what = format!("/trades?from={from}");
            let page: TradesPage = self
                .read(&what, |body| serde_json::from_slice(body))
                .await?;
            let next = page.next;
            take(page);
            match next {
                None => return Ok(()),
                Some(next) => from = next,
            }
        }
        Err(self.strange(
            "/trades",
            "at most a thousand pages",
            "more; read /trades itself",
        ))
    }

    /// Offer a trade; its end is an event line.
    pub(crate) async fn trade(&self, side: Side, with: u64, amount: Wh) -> Result<(), ClientError> {
        let side = match side {
            Side::Sell => "sell",
            Side::Buy => "buy",
        };
        let wish =
            json!({ "type": side, "with": with, "amount": amount.to_string(), "wait": false });
        self.call(Method::POST, "/trades", wish.to_string(), CALL_MAX)
            .await
            .map(drop)
    }

    /// Force an election; what became of it, in words.
    pub(crate) async fn election(&self) -> Result<String, ClientError> {
        let what = "/control/election";
        let body = self
            .call(Method::POST, what, String::new(), ELECTION_MAX)
            .await?;
        let answer: Value = serde_json::from_slice(&body)
            .map_err(|why| self.strange(what, "JSON", &why.to_string()))?;
        match answer.get("message").and_then(Value::as_str) {
            Some(message) => Ok(plain(message)),
            None => Err(self.strange(what, "a message", &answer.to_string())),
        }
    }

    /// Leave the cluster and end the process.
    pub(crate) async fn quit(&self) -> Result<(), ClientError> {
        self.call(Method::POST, "/control/quit", String::new(), CALL_MAX)
            .await
            .map(drop)
    }

    /// Event lines from now on, until the node ends; or also the last ones that this process has said.
    pub(crate) async fn lines(&self, also_earlier: bool) -> Result<Lines, ClientError> {
        let what = if also_earlier {
            "/control/lines/all"
        } else {
            "/control/lines"
        };
        let (response, talk) = self
            .within(CALL_MAX, what, self.send(Method::GET, what, String::new()))
            .await?;
        if !response.status().is_success() {
            let body = self.body(what, response);
            let body = self.within(CALL_MAX, what, body).await?;
            return Err(refused(&body));
        }
        Ok(Lines {
            body: response.into_body(),
            splitter: Splitter::default(),
            ready: VecDeque::new(),
            _talk: talk,
        })
    }

    async fn read<T>(
        &self,
        what: &str,
        parse: impl Fn(&[u8]) -> serde_json::Result<T>,
    ) -> Result<T, ClientError> {
        let body = self
            .call(Method::GET, what, String::new(), CALL_MAX)
            .await?;
        parse(&body).map_err(|why| self.strange(what, "the JSON of this version", &why.to_string()))
    }

    /// The body of a success.
    async fn call(
        &self,
        method: Method,
        what: &str,
        body: String,
        within: Duration,
    ) -> Result<Vec<u8>, ClientError> {
        let exchange = async {
            let (response, _talk) = self.send(method, what, body).await?;
            let success = response.status().is_success();
            Ok((success, self.body(what, response).await?))
        };
        match self.within(within, what, exchange).await? {
            (true, body) => Ok(body),
            (false, body) => Err(refused(&body)),
        }
    }

    async fn within<T>(
        &self,
        after: Duration,
        what: &str,
        doing: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        let (node, what) = (self.node, what.to_owned());
        tokio::time::timeout(after, doing)
            .await
            .unwrap_or(Err(ClientError::TimedOut { node, what, after }))
    }

    async fn send(
        &self,
        method: Method,
        what: &str,
        body: String,
    ) -> Result<(Response<Incoming>, Talk), ClientError> {
        let stream = UnixStream::connect(&self.socket).await;
        let stream = stream.map_err(|why| self.away(why))?;
        let ended = |why| ClientError::Ended {
            node: self.node,
            what: what.to_owned(),
            why,
        };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(ended)?;
        // how a connection ends shows in the answer that it carried, or did not
        let talk = Talk(tokio::spawn(async move { connection.await.ok() }));
        let request = Request::builder()
            .method(method)
            .uri(what)
            .header(HOST, "localhost")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .expect("a fixed path with a number");
        let response = sender.send_request(request).await.map_err(ended)?;
        Ok((response, talk))
    }

    fn away(&self, why: std::io::Error) -> ClientError {
        ClientError::Away {
            node: self.node,
            socket: self.socket.clone(),
            why,
        }
    }

    async fn body(&self, what: &str, response: Response<Incoming>) -> Result<Vec<u8>, ClientError> {
        let mut incoming = response.into_body();
        let mut body = Vec::new();
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|why| ClientError::Ended {
                node: self.node,
                what: what.to_owned(),
                why,
            })?;
            let data = frame.data_ref().map_or(&[][..], |data| data);
            if body.len() + data.len() > ANSWER_LEN_MAX {
                return Err(self.strange(what, "at most 4 MiB", "more"));
            }
            body.extend_from_slice(data);
        }
        Ok(body)
    }

    fn strange(&self, what: &str, expected: &'static str, found: &str) -> ClientError {
        ClientError::Strange {
            node: self.node,
            what: what.to_owned(),
            expected,
            found: plain(found),
        }
    }
}

impl ClientError {
    /// Nobody serves the socket: the process does not run, or has not begun.
    pub(crate) fn is_away(&self) -> bool {
        let Self::Away { why, .. } = self else {
            return false;
        };
        [ErrorKind::NotFound, ErrorKind::ConnectionRefused].contains(&why.kind())
    }
}

/// A problem body (RFC 9457) with the prototype's `error`, or whatever there is.
fn refused(body: &[u8]) -> ClientError {
    let problem: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |name: &str| {
        let text = problem.get(name).and_then(Value::as_str).map(plain);
        text.filter(|text| !text.is_empty())
    };
    ClientError::Refused {
        error: text("error").unwrap_or_else(|| plain(&String::from_utf8_lossy(body))),
        detail: text("detail"),
    }
}

/// The task that carries a connection; it ends with whoever reads the answer.
struct Talk(JoinHandle<Option<()>>);

impl Drop for Talk {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The event lines of one node.
pub(crate) struct Lines {
    body: Incoming,
    splitter: Splitter,
    ready: VecDeque<String>,
    _talk: Talk,
}

impl Lines {
    /// None when the node has ended or cut us off.
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            let frame = self.body.frame().await?.ok()?;
            if let Some(data) = frame.data_ref() {
                self.splitter.take(data, &mut self.ready);
            }
        }
    }
}

/// Bytes become lines; what is longer than a line may be is cut.
#[derive(Debug, Default)]
struct Splitter(Vec<u8>);

impl Splitter {
    fn take(&mut self, bytes: &[u8], lines: &mut VecDeque<String>) {
        for &byte in bytes {
            if byte == b'\n' {
                lines.push_back(plain(&String::from_utf8_lossy(&self.0)));
                self.0.clear();
            } else if self.0.len() < LINE_LEN_MAX {
                self.0.push(byte);
            }
        }
    }
}

/// No text of somebody else steers this terminal or grows without end.
fn plain(text: &str) -> String {
    let plain = |c: char| {
        if c.is_control() {
            char::REPLACEMENT_CHARACTER
        } else {
            c
        }
    };
    text.chars().take(LINE_LEN_MAX).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_where_they_end_and_where_they_grow_too_long() {
        let mut splitter = Splitter::default();
        let mut lines = VecDeque::new();
        splitter.take(b"Node 1: one\nNode", &mut lines);
        splitter.take(b" 2: two", &mut lines);
        assert_eq!(lines, ["Node 1: one"]);
        splitter.take(b"\n\x1b[2J\xff\n", &mut lines);
        assert_eq!(lines, ["Node 1: one", "Node 2: two", "\u{fffd}[2J\u{fffd}"]);
        lines.clear();
        for _ in 0..3 {
            splitter.take(&[b'x'; LINE_LEN_MAX], &mut lines);
        }
        assert_eq!(
            splitter.0.len(),
            LINE_LEN_MAX,
            "an endless line is not kept"
        );
        splitter.take(b"\nnext\n", &mut lines);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1], "next");
    }

    #[test]
    fn a_refusal_is_told_in_the_nodes_words() {
        let told = |body: &[u8]| refused(body).to_string();
        assert_eq!(
            told(br#"{"error":"Cannot trade with yourself","detail":"expected another","status":409}"#),
            "Cannot trade with yourself\n  expected another"
        );
        assert_eq!(told(br#"{"error":"Not now"}"#), "Not now");
        assert_eq!(told(br#"{"error":"Not now","detail":""}"#), "Not now");
        assert_eq!(told(b"<html>\x07"), "<html>\u{fffd}");
    }

    #[tokio::test]
    async fn a_socket_without_a_process_is_away_and_says_which() {
        let socket = Path::new("there-is-no-such-directory/control.sock");
        let why = Client::new(2, socket).status().await.expect_err("nobody");
        assert!(why.is_away());
        let text = why.to_string();
        assert!(
            text.starts_with("node 2 does not run: there-is-no-such-directory/control.sock: "),
            "{text}"
        );
    }
}
