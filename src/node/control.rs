//! The control socket: the API for whoever may open a file of this node's own user (mode 0600), and what only that
//! person may do. No `Host` or `Origin` is asked for, since no browser can open it. Requests stay bounded.
//!
//! `POST /control/election` and `/control/quit` act; `GET /control/lines` is an endless text of event lines from now on,
//! `/control/lines/all` begins with the last ones of this process, for whoever comes late. Whoever reads too slowly
//! loses lines and is told how many.

use crate::http::problem::Problem;
use crate::http::{Backend, server, trusted};
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs::{DirBuilder, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, watch};
use tokio::task::JoinHandle;

/// Connections at one time; more wait in the kernel.
const CONNECTIONS_MAX: u32 = 16;
/// Readers of lines among them, so that a command always finds a place.
const READERS_MAX: usize = 8;
/// Longest line, in characters.
const LINE_LEN_MAX: usize = 1_000;
/// What `sockaddr_un` holds, its end excluded.
const PATH_LEN_MAX: usize = 107;
/// Made, filled and emptied beside the socket. The path in it is not longer than one to `control.sock`.
const NURSERY: &str = ".control";
/// An answer to the question whether somebody lives at the socket.
const LIVE_MAX: Duration = Duration::from_secs(1);
const ROUTES: &str =
    "GET /control/lines /control/lines/all and POST /control/election /control/quit";

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another process serves it.
    #[error(
        "control socket {path}: expected nobody, found a process that answers there; stop it, or give another --data-dir"
    )]
    Live {
        /// Where.
        path: PathBuf,
    },
    /// Not ours to replace.
    #[error(
        "control socket {path}: expected nothing or a socket, found another kind of file; move it away"
    )]
    Foreign {
        /// Where.
        path: PathBuf,
    },
    /// The kernel takes no such path.
    #[error(
        "control socket {path}: expected a path of at most {PATH_LEN_MAX} bytes, found {found}; give a shorter --data-dir"
    )]
    TooLong {
        /// Where.
        path: PathBuf,
        /// Its length.
        found: usize,
    },
    /// The file system.
    #[error("control socket {path}: {why}; the data directory must be a local, writable one")]
    Io {
        /// Where.
        path: PathBuf,
        /// What it said.
        why: io::Error,
    },
}

/// Serve until `until` is done or the task is aborted. The socket exists when this returns, with mode 0600 since its
/// first moment, and is removed at the end.
pub async fn serve(
    path: &Path,
    backend: Arc<dyn Backend>,
    until: impl Future<Output = ()> + Send + 'static,
) -> Result<JoinHandle<()>, ControlError> {
    let (listener, place) = open(path).await?;
    let stop = watch::Sender::new(false);
    let desk = Desk {
        backend: Arc::clone(&backend),
        readers: Arc::new(Semaphore::new(READERS_MAX)),
        stop: stop.subscribe(),
    };
    let router = trusted(backend, routes(desk), ROUTES);
    let shutdown = async move {
        let _place = place;
        until.await;
        stop.send_replace(true);
    };
    Ok(tokio::spawn(server::stay(
        listener,
        router,
        CONNECTIONS_MAX,
        shutdown,
    )))
}

#[derive(Clone)]
struct Desk {
    backend: Arc<dyn Backend>,
    readers: Arc<Semaphore>,
    stop: watch::Receiver<bool>,
}

fn routes(desk: Desk) -> Router {
    Router::new()
        .route("/control/lines", get(lines))
        .route("/control/lines/all", get(all_lines))
        .route("/control/election", post(election))
        .route("/control/quit", post(quit))
        .with_state(desk)
}

async fn election(State(desk): State<Desk>) -> Result<Json<Value>, Problem> {
    match desk.backend.call_election().await {
        Ok(message) => Ok(Json(json!({ "success": true, "message": message }))),
        Err(why) => Err(Problem::new(StatusCode::CONFLICT, &why)
            .detail(format!("no election was called: {why}"))
            .with("success", json!(false))),
    }
}

async fn quit(State(desk): State<Desk>) -> Json<Value> {
    desk.backend.quit();
    Json(json!({ "success": true, "message": "Shutting down..." }))
}

async fn lines(State(desk): State<Desk>) -> Result<Response, Problem> {
    let (_, lines) = desk.backend.lines();
    feed(desk, VecDeque::new(), lines)
}

async fn all_lines(State(desk): State<Desk>) -> Result<Response, Problem> {
    let (kept, lines) = desk.backend.lines();
    feed(desk, kept.into(), lines)
}

fn feed(
    desk: Desk,
    kept: VecDeque<String>,
    lines: broadcast::Receiver<String>,
) -> Result<Response, Problem> {
    let place = desk.readers.try_acquire_owned().map_err(|_| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "Too many readers")
            .detail(format!(
                "expected at most {READERS_MAX} readers of lines, found another one; end a prompt"
            ))
            .retry_after(1)
    })?;
    let feed = Feed {
        kept,
        lines,
        stop: desk.stop,
        _place: place,
    };
    let text = futures_util::stream::unfold(feed, async |mut feed| {
        let line = feed.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(line)), feed))
    });
    let kind = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    Ok((kind, Body::from_stream(text)).into_response())
}

/// One reader of lines.
struct Feed {
    kept: VecDeque<String>,
    lines: broadcast::Receiver<String>,
    stop: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
}

impl Feed {
    /// None at the end; what was said before it is still told.
    async fn next(&mut self) -> Option<String> {
        if let Some(line) = self.kept.pop_front() {
            return Some(one_line(&line));
        }
        let line = tokio::select! {
            biased;
            line = self.lines.recv() => line,
            // a sender that is gone means the same as a stop
            _ = async { self.stop.wait_for(|stop| *stop).await.is_ok() } => return None,
        };
        match line {
            Ok(line) => Some(one_line(&line)),
            Err(RecvError::Lagged(lost)) => Some(format!(
                "({lost} event lines are lost: this reader was too slow; /status and /trades have the facts)\n"
            )),
            Err(RecvError::Closed) => None,
        }
    }
}

/// A line may quote what came from outside: it ends once, and steers no terminal.
fn one_line(line: &str) -> String {
    let plain = |c: char| {
        if c.is_control() {
            char::REPLACEMENT_CHARACTER
        } else {
            c
        }
    };
    let text = line.chars().take(LINE_LEN_MAX).map(plain);
    text.chain(['\n']).collect()
}

/// The socket's name in the file system; goes with this value, unless another process has taken the name since.
struct Place {
    path: PathBuf,
    inode: (u64, u64),
}

impl Drop for Place {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|found| found == self.inode) {
            // it may be gone already, with its directory
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

async fn open(path: &Path) -> Result<(UnixListener, Place), ControlError> {
    let nursery = path.with_file_name(NURSERY);
    let newborn = nursery.join("s");
    let found = path.as_os_str().len().max(newborn.as_os_str().len());
    if found > PATH_LEN_MAX {
        let path = path.to_owned();
        return Err(ControlError::TooLong { path, found });
    }
    nobody_lives_at(path).await?;
    let opened = named(path, &nursery, &newborn);
    // what is left of an attempt that failed; after one that did not it is empty
    let _ = std::fs::remove_dir_all(&nursery);
    opened.map_err(|why| io_error(path, why))
}

/// Between `bind` and `chmod` a socket has the mode of the umask. So it is born where only we can go, and gets its
/// name when it is private; `rename` puts it in the place of a dead one in the same step.
fn named(path: &Path, nursery: &Path, newborn: &Path) -> io::Result<(UnixListener, Place)> {
    match std::fs::remove_dir_all(nursery) {
        Err(why) if why.kind() != ErrorKind::NotFound => return Err(why),
        _ => DirBuilder::new().mode(0o700).create(nursery)?,
    }
    let listener = UnixListener::bind(newborn)?;
    std::fs::set_permissions(newborn, Permissions::from_mode(0o600))?;
    let place = Place {
        path: path.to_owned(),
        inode: inode(newborn)?,
    };
    std::fs::rename(newborn, path)?;
    Ok((listener, place))
}

/// Nothing there, or the socket of a dead process, which refuses connections.
async fn nobody_lives_at(path: &Path) -> Result<(), ControlError> {
    match std::fs::symlink_metadata(path) {
        Err(why) if why.kind() == ErrorKind::NotFound => return Ok(()),
        Err(why) => return Err(io_error(path, why)),
        Ok(found) if !found.file_type().is_socket() => {
            let path = path.to_owned();
            return Err(ControlError::Foreign { path });
        }
        Ok(_) => {}
    }
    match tokio::time::timeout(LIVE_MAX, UnixStream::connect(path)).await {
        Ok(Err(why))
            if [ErrorKind::ConnectionRefused, ErrorKind::NotFound].contains(&why.kind()) =>
        {
            Ok(())
        }
        // a full queue is somebody's queue
        Ok(Err(why)) if why.kind() != ErrorKind::WouldBlock => Err(io_error(path, why)),
        Ok(_) | Err(_) => Err(ControlError::Live {
            path: path.to_owned(),
        }),
    }
}

fn io_error(path: &Path, why: io::Error) -> ControlError {
    let path = path.to_owned();
    ControlError::Io { path, why }
}
