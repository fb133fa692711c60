//! One process, many guest agents: a Unix socket per instance, and beside it one for old clients or a TCP port.
//!
//! Rule: whoever opens a socket gets keys, so sockets have mode 0600 from their first moment on, whatever the umask, a
//! live one is never replaced, and those we made are removed when the agents stop. Connections are bounded.

use crate::{guest::Guest, http::Surface, spec::Traits, world::World};
use rand_core::{OsRng, RngCore as _};
use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::Semaphore,
    task::JoinSet,
};

/// Connections that are served at a time, for each socket; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 32;
/// How long a probe of an existing socket may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// One agent to serve.
pub struct InstanceConfig {
    /// Where its socket shall be; the directory must exist.
    pub socket: PathBuf,
    /// Where its socket for clients of version 0.3 shall be, if anywhere.
    pub tappd: Option<PathBuf>,
    /// Where it shall serve the same as on [`Self::socket`] over TCP, if anywhere; port 0 takes a free one. There is
    /// no mode 0600 here: whoever reaches the address gets the keys.
    pub http: Option<SocketAddr>,
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
            tappd: None,
            http: None,
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
    /// The operating system refused a TCP port.
    #[error("cannot serve http://{address}: {error}; choose a free port of this machine")]
    Http {
        /// The address.
        address: SocketAddr,
        /// What it said.
        error: io::Error,
    },
}

/// Agents that are being served; they end and their sockets vanish when this is dropped.
pub struct Running {
    tasks: JoinSet<()>,
    agents: Vec<Agent>,
}

/// One guest and where it is reached.
struct Agent {
    guest: Guest,
    socket: Socket,
    tappd: Option<Socket>,
    http: Option<SocketAddr>,
}

/// One guest, as people are told about it.
pub struct Served<'a> {
    /// `None` if the compose text asks for none.
    pub instance_id: Option<[u8; 20]>,
    /// Its socket.
    pub socket: &'a Path,
    /// Its socket for old clients.
    pub tappd: Option<&'a Path>,
    /// Its TCP address, with the port that was found free.
    pub http: Option<SocketAddr>,
}

impl Running {
    /// Ends all agents and removes their sockets; returns when no task is left.
    pub async fn stop(mut self) {
        self.agents.clear();
        self.tasks.shutdown().await;
    }

    /// The sockets being served, in the order of their configuration.
    pub fn sockets(&self) -> impl Iterator<Item = &Path> {
        self.served().map(|served| served.socket)
    }

    /// The guests being served, in the order of their configuration.
    pub fn served(&self) -> impl Iterator<Item = Served<'_>> {
        self.agents.iter().map(|agent| Served {
            instance_id: agent.guest.instance_id(),
            socket: &agent.socket.path,
            tappd: agent.tappd.as_ref().map(|socket| socket.path.as_path()),
            http: agent.http,
        })
    }
}

/// Serves one agent per configuration until the returned value is stopped or dropped.
pub async fn serve(
    world: Arc<World>,
    instances: Vec<InstanceConfig>,
) -> Result<Running, ServeError> {
    let mut running = Running {
        tasks: JoinSet::new(),
        agents: Vec::new(),
    };
    for config in instances {
        let guest = Guest::boot(world.clone(), &config.seed, config.traits);
        let (listener, socket) = bind(&config.socket).await?;
        running
            .tasks
            .spawn(accept(listener, guest.clone(), Surface::Dstack));
        let mut agent = Agent {
            guest,
            socket,
            tappd: None,
            http: None,
        };
        if let Some(path) = &config.tappd {
            let (listener, socket) = bind(path).await?;
            let accept = accept(listener, agent.guest.clone(), Surface::Tappd);
            running.tasks.spawn(accept);
            agent.tappd = Some(socket);
        }
        if let Some(address) = config.http {
            let http = |error| ServeError::Http { address, error };
            let listener = TcpListener::bind(address).await.map_err(http)?;
            agent.http = Some(listener.local_addr().map_err(http)?);
            let accept = accept(listener, agent.guest.clone(), Surface::Dstack);
            running.tasks.spawn(accept);
        }
        running.agents.push(agent);
    }
    Ok(running)
}

/// What connections come from.
trait Listener: Send + 'static {
    type Connection: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    fn next(&self) -> impl Future<Output = io::Result<Self::Connection>> + Send;
}

impl Listener for UnixListener {
    type Connection = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }
}

impl Listener for TcpListener {
    type Connection = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        let (stream, _) = self.accept().await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

async fn accept(listener: impl Listener, guest: Guest, surface: Surface) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new(); // dropped with this task, so no connection survives its agent
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = permits.clone().acquire_owned().await else {
            return;
        };
        match listener.next().await {
            Ok(stream) => {
                let guest = guest.clone();
                connections.spawn(async move {
                    guest.converse(stream, surface).await;
                    drop(permit);
                });
            }
            // out of file descriptors, most likely: they come back when connections end
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
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
    bind_unseen(path).map_err(io)
}

/// Binds where nobody else can go and puts the socket in its place when its mode is right. A link never replaces what
/// is there, as a rename would.
fn bind_unseen(path: &Path) -> io::Result<(UnixListener, Socket)> {
    let cell = Cell::beside(path)?;
    let hidden = cell.socket();
    let listener = UnixListener::bind(&hidden)?;
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o600))?;
    let found = fs::symlink_metadata(&hidden)?;
    fs::hard_link(&hidden, path)?;
    let socket = Socket {
        path: path.to_owned(),
        identity: (found.dev(), found.ino()),
    };
    Ok((listener, socket))
}

/// A directory of ours alone in which one socket is made; removed on drop.
struct Cell(PathBuf);

impl Cell {
    /// Its name and that of the socket are short (`.abc/s`), because an address has at most 107 bytes.
    fn beside(path: &Path) -> io::Result<Self> {
        const ATTEMPTS: usize = 64;
        let mut made = Err(io::ErrorKind::AlreadyExists.into());
        for _ in 0..ATTEMPTS {
            let cell = path.with_file_name(format!(".{:03x}", OsRng.next_u32() & 0xFFF));
            made = fs::DirBuilder::new().mode(0o700).create(&cell);
            match &made {
                Ok(()) => return Ok(Self(cell)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(_) => break,
            }
        }
        Err(made.expect_err("the one that was made was returned"))
    }

    fn socket(&self) -> PathBuf {
        self.0.join("s")
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.socket()); // there is none if it could not be made
        let _ = fs::remove_dir(&self.0);
    }
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
