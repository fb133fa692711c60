//! One process, many guest agents: a Unix socket per instance.
//!
//! Rule: whoever opens a socket gets keys, so sockets have mode 0600, a live one is never replaced, and those we made
//! are removed when the agents stop. Connections and idle times are bounded.

use crate::{http, instance::Instance, spec::Traits, world::World};
use hyper::{Request, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    convert::Infallible,
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    task::JoinSet,
};

/// Connections that one instance serves at a time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 32;
/// An idle connection is closed after this time, as the real agent does.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a probe of an existing socket may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// One agent to serve.
pub struct InstanceConfig {
    /// Where its socket shall be; the directory must exist.
    pub socket: PathBuf,
    /// What makes this instance different from the others of the app.
    pub seed: [u8; 32],
    /// Its habits.
    pub traits: Traits,
}

impl InstanceConfig {
    /// An agent in good health on this socket.
    pub fn new(socket: PathBuf, seed: [u8; 32]) -> Self {
        Self {
            socket,
            seed,
            traits: Traits::default(),
        }
    }
}

/// Why agents cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Somebody answers on this socket.
    #[error(
        "expected a free socket path, found an agent that answers on {0}; stop it or choose another path"
    )]
    Live(PathBuf),
    /// There is a file of another kind.
    #[error(
        "expected a free socket path, found a file that is no socket at {0}; remove it or choose another path"
    )]
    NotASocket(PathBuf),
    /// The operating system refused.
    #[error(
        "cannot serve a socket at {path}: {error}; its directory must exist, belong to this user and the path be \
        shorter than 108 bytes"
    )]
    Io {
        /// The socket.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
}

/// Agents that are being served; they end and their sockets vanish when this is dropped.
pub struct Running {
    tasks: JoinSet<()>,
    sockets: Vec<Socket>,
}

impl Running {
    /// Ends all agents and removes their sockets; returns when no task is left.
    pub async fn stop(mut self) {
        self.sockets.clear();
        self.tasks.shutdown().await;
    }

    /// The sockets being served, in the order of their configuration.
    pub fn sockets(&self) -> impl Iterator<Item = &Path> {
        self.sockets.iter().map(|socket| socket.path.as_path())
    }
}

/// Serves one agent per configuration until the returned value is stopped or dropped.
pub async fn serve(
    world: Arc<World>,
    instances: Vec<InstanceConfig>,
) -> Result<Running, ServeError> {
    let mut running = Running {
        tasks: JoinSet::new(),
        sockets: Vec::new(),
    };
    for config in instances {
        let (listener, socket) = bind(&config.socket).await?;
        running.sockets.push(socket);
        let instance = Arc::new(Instance::boot(world.clone(), &config.seed, config.traits));
        running.tasks.spawn(accept(listener, instance));
    }
    Ok(running)
}

async fn accept(listener: UnixListener, instance: Arc<Instance>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new(); // dropped with this task, so no connection survives its agent
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = permits.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let instance = instance.clone();
                connections.spawn(async move {
                    converse(stream, instance).await;
                    drop(permit);
                });
            }
            // out of file descriptors, most likely: they come back when connections end
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn converse(stream: UnixStream, instance: Arc<Instance>) {
    let service = service_fn(move |request: Request<_>| {
        let instance = instance.clone();
        async move { Ok::<_, Infallible>(http::respond(&instance, request).await) }
    });
    // the client's faults end its connection and concern nobody else
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// A socket file of ours; removed on drop unless somebody has put another file there.
struct Socket {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for Socket {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == self.identity)
        {
            let _ = fs::remove_file(&self.path); // nothing to be done if the directory is gone
        }
    }
}

async fn bind(path: &Path) -> Result<(UnixListener, Socket), ServeError> {
    let io = |error| ServeError::Io {
        path: path.to_owned(),
        error,
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ServeError::NotASocket(path.to_owned()));
        }
        Ok(_) => replace_stale(path).await?,
    }
    let listener = UnixListener::bind(path).map_err(io)?;
    let found = fs::symlink_metadata(path).map_err(io)?;
    let socket = Socket {
        path: path.to_owned(),
        identity: (found.dev(), found.ino()),
    };
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(io)?;
    Ok((listener, socket))
}

/// Removes a socket file that nobody serves any more.
async fn replace_stale(path: &Path) -> Result<(), ServeError> {
    match tokio::time::timeout(PROBE_TIMEOUT, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)
            .map_err(|error| ServeError::Io {
                path: path.to_owned(),
                error,
            }),
        Ok(Err(error)) => Err(ServeError::Io {
            path: path.to_owned(),
            error,
        }),
        Ok(Ok(_)) | Err(_) => Err(ServeError::Live(path.to_owned())),
    }
}
