//! One call: HTTP/1.1 POST with JSON over the Unix socket, with limits on time and size.
//!
//! Rule: all calls are idempotent, so a connection that breaks before its answer is tried once more on a new one (the
//! agent closes idle connections); nothing else is retried here. Answers may hold keys: our copies of them are wiped.
//! What hyper keeps in its own read buffer until the connection ends is out of our reach.

use crate::{AgentError, error::printable};
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::{
    client::legacy::{self, Client},
    rt::{TokioExecutor, TokioTimer},
};
use hyperlocal::UnixConnector;
use std::{
    error::Error,
    path::{Path, PathBuf},
    time::Duration,
};
use zeroize::Zeroizing;

/// The largest answer we read; a real `Info` has some 25 KB.
const ANSWER_MAX: usize = 16 * 1024 * 1024;
/// The agent closes idle connections after 10 to 15 s; we drop them before.
const POOL_IDLE: Duration = Duration::from_secs(8);
/// `sun_path` of Linux, with its closing zero.
const SOCKET_PATH_MAX: usize = 108;

/// An answer's body; wiped when dropped.
pub type Body = Zeroizing<Vec<u8>>;

#[derive(Clone)]
pub struct Transport {
    client: Client<UnixConnector, Full<Bytes>>,
    socket: PathBuf,
    call_timeout: Duration,
}

impl Transport {
    pub fn new(socket: &Path, call_timeout: Duration) -> Result<Self, AgentError> {
        let bad = |found, remedy| {
            Err(AgentError::BadSocket {
                path: socket.to_owned(),
                found,
                remedy,
            })
        };
        // the path travels as text inside an address
        match socket.to_str() {
            None => return bad("a path that is no UTF-8", "choose another path"),
            Some("") => return bad("an empty path", "name the socket"),
            Some(path) if path.len() >= SOCKET_PATH_MAX => {
                return bad(
                    "a path of 108 bytes or more",
                    "sockets cannot have that: choose a shorter path",
                );
            }
            Some(_) => {}
        }
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(1)
            .build(UnixConnector);
        Ok(Self {
            client,
            socket: socket.to_owned(),
            call_timeout,
        })
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The body of a 200; everything else is an error.
    pub async fn call(
        &self,
        method: &'static str,
        arguments: &serde_json::Value,
    ) -> Result<Body, AgentError> {
        let body = Bytes::from(arguments.to_string());
        match tokio::time::timeout(self.call_timeout, self.exchange(method, body)).await {
            Ok(result) => result,
            Err(_) => Err(AgentError::TimedOut {
                socket: self.socket.clone(),
                method,
                after: self.call_timeout,
            }),
        }
    }

    async fn exchange(&self, method: &'static str, body: Bytes) -> Result<Body, AgentError> {
        let (status, answer) = match self.attempt(method, body.clone()).await {
            Err(Broken::Stale(_)) => self.attempt(method, body).await,
            result => result,
        }
        .map_err(|broken| broken.into_error(&self.socket, method))?;
        if status == StatusCode::OK {
            Ok(answer)
        } else {
            Err(refusal(method, status, &answer))
        }
    }

    async fn attempt(
        &self,
        method: &'static str,
        body: Bytes,
    ) -> Result<(StatusCode, Body), Broken> {
        let uri: hyper::Uri = hyperlocal::Uri::new(&self.socket, &format!("/{method}")).into();
        let request = Request::post(uri)
            .header(HOST, "localhost") // otherwise the socket path in hex
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| Broken::Other(error.to_string()))?;
        let response = self
            .client
            .request(request)
            .await
            .map_err(|error| broken(&error))?;
        let status = response.status();
        Ok((status, read(response.into_body()).await?))
    }
}

/// Reads a body of at most [`ANSWER_MAX`] bytes.
async fn read(mut body: Incoming) -> Result<Body, Broken> {
    let mut answer = Zeroizing::new(Vec::with_capacity(8 * 1024));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Broken::Stale(chain(&error)))?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        if answer.len() + data.len() > ANSWER_MAX {
            return Err(Broken::TooLarge);
        }
        let needed = answer.len() + data.len();
        if needed > answer.capacity() {
            // grown by hand, because a Vec that grows by itself leaves its old bytes behind
            let mut larger = Zeroizing::new(Vec::with_capacity(needed * 2));
            larger.extend_from_slice(&answer);
            answer = larger;
        }
        answer.extend_from_slice(data);
    }
    Ok(answer)
}

/// Why there is no answer.
enum Broken {
    /// The connection ended before the answer did.
    Stale(String),
    /// No connection, or no HTTP.
    Other(String),
    TooLarge,
}

impl Broken {
    fn into_error(self, socket: &Path, method: &'static str) -> AgentError {
        match self {
            Self::Stale(cause) | Self::Other(cause) => AgentError::Unreachable {
                socket: socket.to_owned(),
                method,
                cause: printable(&cause),
            },
            Self::TooLarge => AgentError::TooLarge {
                method,
                limit: ANSWER_MAX,
            },
        }
    }
}

fn broken(error: &legacy::Error) -> Broken {
    let cause = chain(error);
    let no_http = error
        .source()
        .and_then(|e| e.downcast_ref::<hyper::Error>())
        .is_some_and(hyper::Error::is_parse);
    if error.is_connect() || no_http {
        Broken::Other(cause)
    } else {
        Broken::Stale(cause)
    }
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// What an answer other than 200 means. Its `error` is a text from the agent, an object from its web framework, and
/// 404 pages are HTML.
fn refusal(method: &'static str, status: StatusCode, body: &[u8]) -> AgentError {
    let text = match serde_json::from_slice::<serde_json::Value>(body) {
        Ok(json) => match json.get("error") {
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => json.to_string(),
        },
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    if text.starts_with("Service not found: ") {
        return AgentError::TooOld { method };
    }
    AgentError::Answered {
        method,
        status: status.as_u16(),
        text: printable(&text),
    }
}
