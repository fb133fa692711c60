//! Connections, over TCP and over the control socket: a bounded number, slow ones ended, and a stop that lets
//! answers finish.

use super::{Backend, guard, guarded};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};

/// Connections at one time; more wait in the kernel.
const CONNECTIONS_MAX: u32 = 128;
/// A request line with its headers, and an idle connection, take no longer.
const HEADERS_MAX: Duration = Duration::from_secs(5);
/// Headers and buffers of one connection.
const HEADER_BYTES_MAX: usize = 16 << 10;
/// After the stop, answers under way have this long.
const STOP_MAX: Duration = Duration::from_secs(5);
/// After an error of `accept` itself.
const RETRY: Duration = Duration::from_millis(50);

/// Serve until `shutdown` is done; then answers under way are finished.
pub async fn serve(
    listener: TcpListener,
    backend: Arc<dyn Backend>,
    allowed_names: Vec<String>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    // the configuration has refused everything else
    assert!(
        address.ip().is_loopback(),
        "the API has no passwords and listens on loopback only, not on {address}"
    );
    let router = guarded(backend, guard::Guard::new(allowed_names));
    stay(listener, router, CONNECTIONS_MAX, shutdown).await;
    Ok(())
}

/// Where connections come from.
pub(crate) trait Door: Send + Sync {
    /// One connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// The next one.
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Door for TcpListener {
    type Stream = TcpStream;
    async fn next(&self) -> io::Result<TcpStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Door for UnixListener {
    type Stream = UnixStream;
    async fn next(&self) -> io::Result<UnixStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

/// Answer until `shutdown` is done, at most `connections_max` at one time; then answers under way are finished.
pub(crate) async fn stay(
    door: impl Door,
    router: Router,
    connections_max: u32,
    shutdown: impl Future<Output = ()>,
) {
    let places = Arc::new(Semaphore::new(connections_max as usize));
    let stop = watch::Sender::new(false);
    tokio::select! {
        () = shutdown => {}
        () = accept_loop(&door, &router, &places, &stop) => {}
    }
    drop(door);
    stop.send_replace(true);
    // whoever is still talking after this is cut off
    tokio::time::timeout(STOP_MAX, places.acquire_many(connections_max))
        .await
        .ok();
}

async fn accept_loop(
    door: &impl Door,
    router: &Router,
    places: &Arc<Semaphore>,
    stop: &watch::Sender<bool>,
) {
    while let Ok(place) = Arc::clone(places).acquire_owned().await {
        match door.next().await {
            Ok(stream) => {
                let (router, stop) = (router.clone(), stop.subscribe());
                tokio::spawn(async move {
                    talk(stream, router, stop).await;
                    drop(place);
                });
            }
            Err(why) => {
                tracing::warn!(%why, "cannot accept API connections now");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    mut stop: watch::Receiver<bool>,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_MAX)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        // a sender that is gone means the same as a stop
        _ = async { stop.wait_for(|stop| *stop).await.is_ok() } => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(STOP_MAX, connection)
                .await
                .unwrap_or(Ok(()))
        }
    };
    if let Err(why) = ended {
        tracing::debug!(%why, "API connection ended");
    }
}
