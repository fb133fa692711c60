//! HTTP/1.1 around the chain: bounded bodies, connections, waiting requests and patience.
//!
//! The keys here are public and any page in a browser can reach a loopback port, so a request that
//! names another host or comes from a page (`Origin`) is refused. Beyond loopback the class door decides.

use crate::door::{Door, Passage, turned_away};
use crate::ledger::Ledger;
use crate::rpc;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderValue, ORIGIN};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;

/// Longest request body.
pub const BODY_LEN_MAX: usize = 1 << 20;
/// Most connections at a time; the next one waits in the listener's queue.
const CONNECTIONS_MAX: usize = 256;
/// Most requests that wait for the chain; more are told to come again.
const PENDING_MAX: usize = 128;
/// Patience with a client that sends slowly.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// Longest answer of another chain.
const ANSWER_LEN_MAX: usize = 16 << 20;
/// Patience with another chain.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

/// Who answers JSON-RPC.
pub enum Behind {
    /// Our own chain, one request at a time.
    Own(Box<Mutex<Ledger>>),
    /// Another development chain on this machine.
    Another(SocketAddr),
}

/// What all connections share.
pub struct Shared {
    /// Who answers.
    pub behind: Behind,
    /// For other machines; none is open until somebody opens it.
    pub door: OnceLock<Door>,
    pending: Semaphore,
}

/// Whom a listener serves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Programs on this machine: no key is needed.
    Loopback,
    /// Other machines, through the class door only.
    Lan,
}

impl Shared {
    /// Around a chain.
    pub fn new(behind: Behind) -> Self {
        Self {
            behind,
            door: OnceLock::new(),
            pending: Semaphore::new(PENDING_MAX),
        }
    }
}

/// Accept until aborted; the connections end with it.
pub async fn accept(listener: TcpListener, shared: Arc<Shared>, reach: Reach) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Usually too many open files: let others finish first.
                tracing::warn!("development chain: cannot accept: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            serve(stream, shared, reach).await;
            drop(place);
        });
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>, reach: Reach) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(respond(request, shared, reach).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(30))
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!("development chain: connection ended: {error}");
    }
}

async fn respond(
    request: Request<Incoming>,
    shared: Arc<Shared>,
    reach: Reach,
) -> Response<Full<Bytes>> {
    if is_from_a_page(&request, reach) {
        return text(
            StatusCode::FORBIDDEN,
            "development chain: only programs on this machine, not web pages or other host names",
        );
    }
    match page(&request, shared.door.get(), reach) {
        Page::Chain => chain(request, shared).await,
        Page::Answer(response) => response,
    }
}

/// Pages say where they are from. On loopback another host name means one too (a page's own name may lead here, by
/// DNS rebinding); beyond loopback the machine has whatever name the class uses, and a page does not know the key.
fn is_from_a_page(request: &Request<Incoming>, reach: Reach) -> bool {
    let named = request.headers().get(HOST).is_some_and(is_loopback);
    request.headers().contains_key(ORIGIN) || (reach == Reach::Loopback && !named)
}

/// Where a request goes.
enum Page {
    /// JSON-RPC.
    Chain,
    /// Answered already.
    Answer(Response<Full<Bytes>>),
}

fn page(request: &Request<Incoming>, door: Option<&Door>, reach: Reach) -> Page {
    let path = request.uri().path();
    let (path, world) = match (reach, door.map(|door| (door.passage(path), door.world()))) {
        (Reach::Loopback, None) => (path, None),
        (_, Some((Passage::Open(rest), world))) => (rest, Some(world)),
        (Reach::Loopback, Some((Passage::Keyless(path), world))) => (path, Some(world)),
        (_, Some((Passage::Wrong, _))) => return Page::Answer(closed("the key of another class")),
        (Reach::Lan, Some((Passage::Keyless(_), _)) | None) => {
            return Page::Answer(closed("none"));
        }
    };
    match (request.method(), world) {
        (&Method::POST, _) => Page::Chain,
        (&Method::GET, Some(world)) if path == "/world" => {
            Page::Answer(json(StatusCode::OK, world.to_owned()))
        }
        (_, None) => Page::Answer(text(
            StatusCode::METHOD_NOT_ALLOWED,
            "development chain: POST JSON-RPC here",
        )),
        (_, Some(_)) => Page::Answer(text(
            StatusCode::METHOD_NOT_ALLOWED,
            "development chain: POST JSON-RPC here, or GET /world",
        )),
    }
}

/// Turned away; the connection ends, because the body behind it is not read.
fn closed(found: &str) -> Response<Full<Bytes>> {
    let mut response = json(StatusCode::UNAUTHORIZED, turned_away(found));
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

async fn chain(request: Request<Incoming>, shared: Arc<Shared>) -> Response<Full<Bytes>> {
    let Ok(_place) = shared.pending.try_acquire() else {
        return text(
            StatusCode::SERVICE_UNAVAILABLE,
            "development chain: too many requests are waiting, try again",
        );
    };
    let body = match timeout(
        BODY_PATIENCE,
        Limited::new(request.into_body(), BODY_LEN_MAX).collect(),
    )
    .await
    {
        Err(_) => {
            return text(
                StatusCode::REQUEST_TIMEOUT,
                "the body did not arrive within 10 s",
            );
        }
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return text(StatusCode::PAYLOAD_TOO_LARGE, "a body has at most 1 MiB");
        }
        Ok(Err(_)) => return text(StatusCode::BAD_REQUEST, "the body broke off"),
        Ok(Ok(body)) => body.to_bytes(),
    };
    if let Behind::Another(address) = shared.behind {
        return match timeout(ANSWER_PATIENCE, pass_on(address, body)).await {
            Ok(Ok(answer)) => json(StatusCode::OK, answer),
            Ok(Err(why)) => {
                tracing::warn!("the development chain at {address}: {why}");
                text(
                    StatusCode::BAD_GATEWAY,
                    "the development chain behind this door does not answer; is it still running?",
                )
            }
            Err(_) => text(
                StatusCode::GATEWAY_TIMEOUT,
                "the development chain behind this door did not answer within 30 s",
            ),
        };
    }
    let chain = Arc::clone(&shared);
    // The EVM computes; the runtime's threads must not wait for it.
    let answer = spawn_blocking(move || {
        let Behind::Own(ledger) = &chain.behind else {
            return None;
        };
        let mut ledger = ledger
            .lock()
            .expect("no request panicked inside the chain; after that none is answered");
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        rpc::answer(&mut ledger, now, &body).map(|answer| answer.to_string())
    });
    match answer.await {
        Ok(Some(answer)) => json(StatusCode::OK, answer),
        Ok(None) => Response::new(Full::default()),
        Err(_) => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "development chain: a bug stopped this request; see its log",
        ),
    }
}

/// One request, one connection: a chain that we stand before is for tests and classrooms.
async fn pass_on(address: SocketAddr, body: Bytes) -> Result<String, String> {
    let words = |why: &dyn std::fmt::Display| why.to_string();
    let stream = TcpStream::connect(address).await.map_err(|e| words(&e))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| words(&e))?;
    let connection = tokio::spawn(connection);
    let request = Request::post("/")
        .header(HOST, address.to_string())
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|e| words(&e))?;
    let answer = sender.send_request(request).await.map_err(|e| words(&e))?;
    if answer.status() != StatusCode::OK {
        return Err(format!("expected status 200, found {}", answer.status()));
    }
    let body = Limited::new(answer.into_body(), ANSWER_LEN_MAX).collect();
    let body = body.await.map_err(|e| words(&e))?.to_bytes();
    connection.abort();
    String::from_utf8(body.to_vec()).map_err(|e| words(&e))
}

fn is_loopback(host: &HeaderValue) -> bool {
    let Ok(authority) = hyper::http::uri::Authority::try_from(host.as_bytes()) else {
        return false;
    };
    let name = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn json(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn text(status: StatusCode, why: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(why.as_bytes())));
    *response.status_mut() = status;
    response
}
