//! Development chain: the real EVM (revm) behind JSON-RPC on a loopback port, and for a class on several
//! machines on one named address of the network, behind a key (`door`).
//!
//! REAL EVM, NO CONSENSUS. One process decides what the chain is, the ten funded keys are public, and a
//! journal is its only memory. Good for development, classrooms and tests; never beside real money.
//! One block per transaction; a question about the newest block makes an empty one when the newest is of
//! an earlier second. No mining interval, no pool, no tracing, no subscriptions.

mod accounts;
mod ask;
mod block;
mod door;
mod evm;
mod http;
mod journal;
mod ledger;
mod rpc;
mod state;

pub use accounts::{DEV_ADDRESSES, DEV_KEYS};
pub use door::{Door, door_path};
pub use journal::JournalError;

use http::{Behind, Reach, Shared};
use ledger::Ledger;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, spawn_blocking};

/// The chain id that development tools expect.
pub const DEV_CHAIN_ID: u64 = 31_337;

/// How to run it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen; a loopback address. Port 0 takes a free one.
    pub bind: SocketAddr,
    /// Where the blocks are kept; none = gone with the process.
    pub journal: Option<PathBuf>,
    /// CHAINID, usually [`DEV_CHAIN_ID`].
    pub chain_id: u64,
}

/// Why it does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Everybody knows its keys.
    #[error(
        "the development chain listens on loopback only, found {found}: its keys are public; use 127.0.0.1"
    )]
    NotLoopback {
        /// What was asked for.
        found: SocketAddr,
    },
    /// Not one address, or one that every machine has.
    #[error(
        "the class door listens on one named address of this machine, found {found}; name the address that the \
         other machines reach, not 127.0.0.1, which is open to this machine as it is"
    )]
    NotNamed {
        /// What was asked for.
        found: SocketAddr,
    },
    /// It has a door already.
    #[error("the class door is open already; this is a bug, please report it")]
    OpenAlready,
    /// Somebody else is there.
    #[error("cannot listen on {address}: {why}; stop the program that has port {port} or choose another port", port = address.port())]
    Listen {
        /// What was asked for.
        address: SocketAddr,
        /// Why.
        why: io::Error,
    },
    /// The old chain cannot be brought back.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Our mistake.
    #[error("development chain: replaying the journal panicked; this is a bug, please report it")]
    Replay,
}

/// A running chain. Dropped, it stops at once; [`Running::stop`] also waits until the journal is free.
pub struct Running {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
    admitting: Option<JoinHandle<()>>,
}

/// Start the chain; it answers when this returns.
pub async fn serve(settings: Settings) -> Result<Running, ServeError> {
    let Settings {
        bind,
        journal,
        chain_id,
    } = settings;
    if !bind.ip().is_loopback() {
        return Err(ServeError::NotLoopback { found: bind });
    }
    let (listener, address) = listen(bind).await?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let ledger = spawn_blocking(move || Ledger::open(chain_id, journal.as_deref(), now))
        .await
        .map_err(|_| ServeError::Replay)??;
    tracing::info!(
        "development chain on {address}: chain id {chain_id}, at block {}; real EVM, NO CONSENSUS, public keys: for development only",
        ledger.head().number
    );
    Ok(run(
        listener,
        address,
        Behind::Own(Box::new(Mutex::new(ledger))),
    ))
}

/// Stand before another development chain on this machine, such as anvil: the same doors, its blocks. What it is and
/// what it keeps is its own business.
pub async fn stand_before(chain: SocketAddr, bind: SocketAddr) -> Result<Running, ServeError> {
    for address in [chain, bind] {
        if !address.ip().is_loopback() {
            return Err(ServeError::NotLoopback { found: address });
        }
    }
    let (listener, address) = listen(bind).await?;
    tracing::info!("doors on {address} to the development chain at {chain}");
    Ok(run(listener, address, Behind::Another(chain)))
}

fn run(listener: TcpListener, address: SocketAddr, behind: Behind) -> Running {
    let shared = Arc::new(Shared::new(behind));
    let accepting = tokio::spawn(http::accept(listener, Arc::clone(&shared), Reach::Loopback));
    Running {
        address,
        shared,
        accepting,
        admitting: None,
    }
}

async fn listen(bind: SocketAddr) -> Result<(TcpListener, SocketAddr), ServeError> {
    let failed = |why| ServeError::Listen { address: bind, why };
    let listener = TcpListener::bind(bind).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

impl Running {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on `GET /world` is answered on loopback, and on `lan`, if there is one, everything that carries the
    /// door's key; see `door` for what that protects against. Once.
    pub async fn open(&mut self, door: Door, lan: Option<SocketAddr>) -> Result<(), ServeError> {
        let listener = match lan {
            Some(bind) => {
                let ip = bind.ip();
                // 127.0.0.2 and its like are addresses of their own, for tests
                let everywhere =
                    ip == IpAddr::V4(Ipv4Addr::LOCALHOST) || ip == IpAddr::V6(Ipv6Addr::LOCALHOST);
                if ip.is_unspecified() || ip.is_multicast() || everywhere {
                    return Err(ServeError::NotNamed { found: bind });
                }
                Some(listen(bind).await?)
            }
            None => None,
        };
        self.shared
            .door
            .set(door)
            .map_err(|_| ServeError::OpenAlready)?;
        if let Some((listener, address)) = listener {
            tracing::info!("development chain on {address}: for whoever has the class code");
            let shared = Arc::clone(&self.shared);
            self.admitting = Some(tokio::spawn(http::accept(listener, shared, Reach::Lan)));
        }
        Ok(())
    }

    /// End all connections, finish the block that is being made, let go of port and journal.
    pub async fn stop(mut self) {
        self.accepting.abort();
        let _ = (&mut self.accepting).await;
        if let Some(mut admitting) = self.admitting.take() {
            admitting.abort();
            let _ = (&mut admitting).await;
        }
        let shared = Arc::clone(&self.shared);
        let closed = spawn_blocking(move || {
            if let Behind::Own(ledger) = &shared.behind {
                ledger
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .close();
            }
        })
        .await;
        if closed.is_err() {
            tracing::error!("development chain: closing the journal panicked; this is a bug");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.accepting.abort();
        if let Some(admitting) = &self.admitting {
            admitting.abort();
        }
    }
}
