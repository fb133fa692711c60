//! One call: HTTP/1.1 POST with JSON over the Unix socket, with limits on time and size.
//!
//! Rule: all calls are idempotent, so a call whose connection breaks before the answer is complete is made once more,
//! on a connection of its own (the agent closes idle ones); nothing else is retried, here or in hyper. Answers may hold
//! keys: our copies of them are wiped. What hyper keeps in its own read buffer until the connection ends is out of our
//! reach.

use crate::{
    AgentError,
    error::{chain, printable},
    refusal::refusal,
};
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HOST, HeaderMap, SERVER},
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

/// The largest answer we read: a quote with its event log.
const ANSWER_MAX: usize = 16 * 1024 * 1024;
/// The largest `Info`, which is kept; a real one has some 25 KB and grows with the compose file.
const INFO_MAX: usize = 2 * 1024 * 1024;
/// The largest answer to what is small by nature: `Version` and `GetKey`, some 400 bytes, and every refusal.
const SMALL_MAX: usize = 64 * 1024;
/// The agent closes idle connections after 10 to 15 s; we drop them before.
const POOL_IDLE: Duration = Duration::from_secs(8);
/// `sun_path` of Linux, with its closing zero.
const SOCKET_PATH_MAX: usize = 108;

/// An answer's body; wiped when dropped.
pub type Body = Zeroizing<Vec<u8>>;

/// A complete answer with status 200.
pub struct Answer {
    pub body: Body,
    /// The `server` header as it came, "" if there is none.
    pub server: String,
}

type Unix = Client<UnixConnector, Full<Bytes>>;

#[derive(Clone)]
pub struct Transport {
    /// Keeps a connection for the next call.
    pooled: Unix,
    /// Opens one for each call: for the second attempt, since a pool may hold more than one stale connection.
    fresh: Unix,
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
        Ok(Self {
            pooled: client(1),
            fresh: client(0),
            socket: socket.to_owned(),
            call_timeout,
        })
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A 200; everything else is an error.
    pub async fn call(
        &self,
        method: &'static str,
        arguments: &serde_json::Value,
    ) -> Result<Answer, AgentError> {
        let body = Bytes::from(arguments.to_string());
        match tokio::time::timeout(self.call_timeout, self.exchange(method, body)).await {
            Ok(result) => result,
            Err(_) => Err(self.timed_out(method)),
        }
    }

    /// No answer to this call within its limit.
    pub fn timed_out(&self, method: &'static str) -> AgentError {
        AgentError::TimedOut {
            socket: self.socket.clone(),
            method,
            after: self.call_timeout,
        }
    }

    pub fn call_timeout(&self) -> Duration {
        self.call_timeout
    }

    async fn exchange(&self, method: &'static str, body: Bytes) -> Result<Answer, AgentError> {
        let (status, answer) = match self.attempt(&self.pooled, method, body.clone()).await {
            Err(Broken::Stale(_)) => self.attempt(&self.fresh, method, body).await,
            result => result,
        }
        .map_err(|broken| broken.into_error(&self.socket, method))?;
        if status == StatusCode::OK {
            Ok(answer)
        } else {
            Err(refusal(method, status.as_u16(), &answer.body))
        }
    }

    async fn attempt(
        &self,
        client: &Unix,
        method: &'static str,
        body: Bytes,
    ) -> Result<(StatusCode, Answer), Broken> {
        let uri: hyper::Uri = hyperlocal::Uri::new(&self.socket, &format!("/{method}")).into();
        let request = Request::post(uri)
            .header(HOST, "localhost") // otherwise the socket path in hex
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| Broken::Other(error.to_string()))?;
        let response = client
            .request(request)
            .await
            .map_err(|error| broken(&error))?;
        let (status, server) = (response.status(), server(response.headers()));
        let body = read(response.into_body(), limit(method, status)).await?;
        Ok((status, Answer { body, server }))
    }
}

/// hyper would try again by itself, uncounted, so it is told not to.
fn client(idle_max: usize) -> Unix {
    Client::builder(TokioExecutor::new())
        .pool_idle_timeout(POOL_IDLE)
        .pool_timer(TokioTimer::new())
        .pool_max_idle_per_host(idle_max)
        .retry_canceled_requests(false)
        .build(UnixConnector)
}

fn limit(method: &str, status: StatusCode) -> usize {
    match method {
        _ if status != StatusCode::OK => SMALL_MAX,
        "Version" | "GetKey" => SMALL_MAX,
        "Info" => INFO_MAX,
        _ => ANSWER_MAX,
    }
}

fn server(headers: &HeaderMap) -> String {
    headers
        .get(SERVER)
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .unwrap_or_default()
}

/// Reads a body of at most `limit` bytes.
async fn read(mut body: Incoming, limit: usize) -> Result<Body, Broken> {
    let mut answer = Zeroizing::new(Vec::with_capacity(8 * 1024));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Broken::Stale(chain(&error)))?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        let needed = answer.len() + data.len();
        if needed > limit {
            return Err(Broken::TooLarge { limit });
        }
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
    /// No connection.
    Other(String),
    /// Somebody answers, but not in HTTP.
    NoHttp(String),
    /// We stopped reading.
    TooLarge { limit: usize },
}

impl Broken {
    fn into_error(self, socket: &Path, method: &'static str) -> AgentError {
        match self {
            Self::Stale(cause) | Self::Other(cause) => AgentError::Unreachable {
                socket: socket.to_owned(),
                method,
                cause: printable(&cause),
            },
            Self::NoHttp(cause) => AgentError::Malformed {
                method,
                expected: "HTTP/1.1".to_owned(),
                found: printable(&cause),
            },
            Self::TooLarge { limit } => AgentError::TooLarge { method, limit },
        }
    }
}

fn broken(error: &legacy::Error) -> Broken {
    let cause = chain(error);
    let no_http = error
        .source()
        .and_then(|e| e.downcast_ref::<hyper::Error>())
        .is_some_and(hyper::Error::is_parse);
    if no_http {
        Broken::NoHttp(cause)
    } else if error.is_connect() {
        Broken::Other(cause)
    } else {
        Broken::Stale(cause)
    }
}
