//! A server that stands between a client and a simulator: it fetches the true answer and twists it, call by call.

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

pub struct Liar {
    pub socket: PathBuf,
    _tasks: JoinSet<()>, // ends with the liar
}

impl Liar {
    /// Serves `socket`; the truth is asked at `truth`.
    pub fn between(
        truth: &Path,
        socket: PathBuf,
        twist: impl Fn(Call<'_>) -> Option<Answer> + Send + Sync + 'static,
    ) -> Self {
        let _ = std::fs::remove_file(&socket); // of the lie before
        let listener = UnixListener::bind(&socket).unwrap();
        let (truth, twist) = (truth.to_owned(), Arc::new(twist));
        let counts = Arc::new(Mutex::new(BTreeMap::new()));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (truth, twist, counts) = (truth.clone(), twist.clone(), counts.clone());
                connections.spawn(async move { relay(stream, &truth, &*twist, &counts).await });
            }
        });
        Self {
            socket,
            _tasks: tasks,
        }
    }
}

/// The n-th call of a method (from 1; the probe before the first is one) and the true answer to it.
pub struct Call<'a> {
    pub method: &'a str,
    pub n: usize,
    pub truth: Answer,
}

#[derive(Clone)]
pub struct Answer {
    pub status: &'static str,
    pub server: &'static str,
    pub body: String,
}

impl Answer {
    /// The same with another JSON body.
    pub fn with(mut self, change: impl FnOnce(&mut Value)) -> Option<Self> {
        let mut value = serde_json::from_str(&self.body).unwrap();
        change(&mut value);
        self.body = value.to_string();
        Some(self)
    }

    /// A page of some other server.
    pub fn html() -> Option<Self> {
        Some(Self {
            status: "404 Not Found",
            server: "nginx",
            body: "<!DOCTYPE html><title>404 Not Found</title>".to_owned(),
        })
    }
}

/// One connection, one call: the truth is fetched and twisted; `None` closes without an answer.
async fn relay(
    mut stream: UnixStream,
    truth: &Path,
    twist: &(dyn Fn(Call<'_>) -> Option<Answer> + Send + Sync),
    counts: &Mutex<BTreeMap<String, usize>>,
) {
    let Some((head, body)) = message(&mut stream).await else {
        return;
    };
    let method = head.split(' ').nth(1).unwrap().trim_matches('/').to_owned();
    let mut upstream = UnixStream::connect(truth).await.unwrap();
    let request = format!(
        "POST /{method} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    upstream.write_all(request.as_bytes()).await.unwrap();
    let (head, body) = message(&mut upstream).await.unwrap();
    assert!(head.contains(" 200 "), "{method}: {head}");
    let n = {
        let mut counts = counts.lock().unwrap();
        let n = counts.entry(method.clone()).or_insert(0);
        *n += 1;
        *n
    };
    let truth = Answer {
        status: "200 OK",
        server: "dstack Simulator",
        body,
    };
    let call = Call {
        method: &method,
        n,
        truth,
    };
    let Some(answer) = twist(call) else { return };
    let Answer {
        status,
        server,
        body,
    } = answer;
    let text = format!(
        "HTTP/1.1 {status}\r\nserver: {server}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.write_all(text.as_bytes()).await; // who is not heard told nothing
}

/// Head and body of a request or an answer.
async fn message(stream: &mut UnixStream) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let Ok(length @ 1..) = stream.read(&mut piece).await else {
            return None;
        };
        bytes.extend_from_slice(&piece[..length]);
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            continue;
        };
        let (head, body) = (&bytes[..end], &bytes[end + 4..]);
        let head = String::from_utf8(head.to_vec()).unwrap().to_lowercase();
        let length = head.split("content-length: ").nth(1).unwrap();
        if body.len() >= length.lines().next().unwrap().parse().unwrap() {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            return Some((head, String::from_utf8(body.to_vec()).unwrap()));
        }
    }
}
