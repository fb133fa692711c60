//! Links between members: mutual TLS, then one hello in each direction, then messages. Until both hellos have
//! verified nothing else is read (attack F17), so whoever reaches [`LinkService`] is a registered member in
//! its current incarnation, on this very TLS session.
//!
//! ```text
//! dialler                                acceptor
//!    | ---- TLS 1.3, both certificates ---- |   handshake: who shows a key holds it, and it is the pinned one
//!    | -- hello {me, you, key, session} --> |   links/handshake: or two bytes back, 0 and the reason
//!    | <-- hello {me, you, key, session} -- |
//!    | -- request 1, request 2, frame --->  |   links/pipe: {length u32, id u64, kind u8, body}
//!    | <---------- answer 2, answer 1 ----- |
//! ```
//! One link per peer in each direction, dialled on demand: the dialler asks, the acceptor answers. A link ends
//! with the incarnation of either side. What a request means is none of this file's business.

mod accept;
mod dial;
mod handshake;
mod pipe;
mod stats;

pub use accept::LinkListener;
pub use stats::LinkStats;

use crate::tls::{PinDiffers, TlsFault, TlsIdentity};
use futures_util::future::BoxFuture;
use pipe::Pipe;
use stats::Counts;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use synod_wire::hello::HelloRefused;
use synod_wire::{ClusterId, Hash, Incarnation, SessionKey, Token};
use tokio::sync::watch;

/// TCP, TLS and both hellos take no longer.
pub const HANDSHAKE_MAX: Duration = Duration::from_secs(2);
/// Strangers that are being shaken hands with at one time.
pub const HANDSHAKES_MAX: usize = 32;
/// Longest body of a message.
pub const BODY_LEN_MAX: usize = 4 << 20;
/// Requests of one link without an answer.
pub const IN_FLIGHT_MAX: usize = 256;
/// A second incoming link of one member is its redial after a loss that only it noticed; a third ends the first.
pub const INCOMING_PER_PEER_MAX: usize = 2;
/// A link without a message for so long is closed; the next call dials again.
pub const IDLE_MAX: Duration = Duration::from_secs(60);
/// Links of ended incarnations are looked for this often.
const PRUNE_EVERY: Duration = Duration::from_millis(250);

/// Who we are on every link.
#[derive(Clone, Copy, Debug)]
pub struct LinkSettings {
    /// Which cluster.
    pub cluster: ClusterId,
    /// Our token.
    pub me: Token,
    /// Our registration.
    pub incarnation: Incarnation,
}

/// Who is at the other end; verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkPeer {
    /// Its token.
    pub token: Token,
    /// In this incarnation.
    pub incarnation: Incarnation,
}

/// What the links look up.
pub trait PeerBook: synod_wire::seal::Sessions + Send + Sync + 'static {
    /// Where this member's link listens.
    fn address(&self, token: Token) -> Option<SocketAddr>;
    /// Hash of the log's first entry, once known.
    fn log_id(&self) -> Option<Hash>;
}

/// What the links carry to.
pub trait LinkService: Send + Sync + 'static {
    /// Answer a request; after 60 s nobody waits any more.
    fn answer(&self, from: LinkPeer, request: Vec<u8>) -> BoxFuture<'static, Vec<u8>>;
    /// A frame where UDP cannot go; must not block.
    fn frame(&self, from: LinkPeer, bytes: Vec<u8>);
}

/// Why a call got no answer.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The port.
    #[error(
        "cannot listen for links on {address}: {why}; another process (perhaps a second copy of this node) has the port: stop it, or choose with --link-port"
    )]
    Bind {
        /// Which.
        address: SocketAddr,
        /// What the system says.
        why: std::io::Error,
    },
    /// No random numbers, most likely.
    #[error(transparent)]
    Tls(#[from] TlsFault),
    /// The contract does not list it.
    #[error("token {token} is not a registered member")]
    NotAMember {
        /// Whom we meant.
        token: Token,
    },
    /// The contract lists no usable endpoint.
    #[error("no address is known for token {token}; its owner sets the endpoint in the contract")]
    NoAddress {
        /// Whom we meant.
        token: Token,
    },
    /// TCP or TLS did not come about.
    #[error("token {token} at {address}: {why}")]
    Dial {
        /// Whom we meant.
        token: Token,
        /// Where.
        address: SocketAddr,
        /// What the system or TLS says.
        why: String,
    },
    /// Another key than this member's.
    #[error("token {token} at {address}: {why}")]
    Pin {
        /// Whom we meant.
        token: Token,
        /// Where.
        address: SocketAddr,
        /// Expected and found.
        why: PinDiffers,
    },
    /// Who answered is not whom we meant.
    #[error("token {token} at {address}: {why}")]
    Hello {
        /// Whom we meant.
        token: Token,
        /// Where.
        address: SocketAddr,
        /// Expected and found.
        why: HelloRefused,
    },
    /// It refused our hello.
    #[error("token {token} at {address} refused our hello: {reason}; its own log says more")]
    RefusedThere {
        /// Whom we meant.
        token: Token,
        /// Where.
        address: SocketAddr,
        /// Label of the reason.
        reason: &'static str,
    },
    /// Dialling failed a moment ago.
    #[error("token {token}: not dialled again for {wait_ms} ms after: {last}")]
    BackOff {
        /// Whom we meant.
        token: Token,
        /// How long.
        wait_ms: u64,
        /// The last failure.
        last: String,
    },
    /// Our own message is longer than a link carries.
    #[error("a message of {len} bytes; a link carries {BODY_LEN_MAX}")]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// Too many requests wait.
    #[error("token {token}: {IN_FLIGHT_MAX} requests wait for an answer already")]
    Busy {
        /// Whom we meant.
        token: Token,
    },
    /// The link ended under the call.
    #[error("link with token {token} ended: {why}")]
    Ended {
        /// Whom we meant.
        token: Token,
        /// Why.
        why: String,
    },
    /// The caller's own limit.
    #[error("token {token} did not answer within {deadline_ms} ms")]
    Deadline {
        /// Whom we meant.
        token: Token,
        /// The limit.
        deadline_ms: u64,
    },
}

/// All links of this node. A clone is the same links.
#[derive(Clone)]
pub struct Links(Arc<Shared>);

/// What all tasks of the links share.
struct Shared {
    settings: LinkSettings,
    session: Arc<SessionKey>,
    tls: TlsIdentity,
    book: Arc<dyn PeerBook>,
    service: Arc<dyn LinkService>,
    counts: Counts,
    /// Keys that verified hellos have named.
    pins: Mutex<BTreeMap<Token, (Incarnation, Hash)>>,
    slots: Mutex<BTreeMap<Token, dial::Slot>>,
    pipes: Mutex<Vec<Arc<Pipe>>>,
    stop: watch::Sender<bool>,
}

impl Links {
    /// Take the port, before registration: a port that is taken must not cost a transaction.
    pub fn bind(address: SocketAddr) -> Result<LinkListener, LinkError> {
        LinkListener::bind(address)
    }

    /// Ask a member; dials when there is no link.
    pub async fn call(
        &self,
        to: Token,
        request: Vec<u8>,
        deadline: Duration,
    ) -> Result<Vec<u8>, LinkError> {
        let asked = async {
            let pipe = dial::link(&self.0, to).await?;
            pipe.request(request).await
        };
        match tokio::time::timeout(deadline, asked).await {
            Ok(outcome) => outcome,
            Err(_) => {
                dial::missed(&self.0, to);
                let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
                Err(LinkError::Deadline {
                    token: to,
                    deadline_ms,
                })
            }
        }
    }

    /// Send a frame where UDP does not go. Success says that it was queued, not that it arrived.
    pub async fn frame(
        &self,
        to: Token,
        frame: Vec<u8>,
        deadline: Duration,
    ) -> Result<(), LinkError> {
        let sent = async { dial::link(&self.0, to).await?.frame(frame).await };
        tokio::time::timeout(deadline, sent)
            .await
            .unwrap_or_else(|_| {
                let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
                Err(LinkError::Deadline {
                    token: to,
                    deadline_ms,
                })
            })
    }

    /// Counts since the start.
    pub fn stats(&self) -> LinkStats {
        self.0.counts.read(self.0.lock_pipes().len())
    }

    /// End links of ended incarnations now; also done four times a second.
    pub fn prune(&self) {
        self.0.prune();
    }

    /// End every link and stop listening. No call succeeds afterwards.
    pub fn close_all(&self) {
        self.0.stop.send_replace(true);
        for pipe in self.0.lock_pipes().drain(..) {
            pipe.close("this node stops its links");
        }
    }
}

impl Shared {
    /// Is this still the registered incarnation, and are we still ours?
    fn is_current(&self, peer: LinkPeer) -> bool {
        let registered = |token| self.book.session(token).map(|(incarnation, _)| incarnation);
        let me = self.settings;
        registered(peer.token) == Some(peer.incarnation)
            && registered(me.me).is_none_or(|incarnation| incarnation == me.incarnation)
    }

    fn prune(&self) {
        let ended: Vec<_> = self
            .lock_pipes()
            .iter()
            .filter(|pipe| !self.is_current(pipe.peer()))
            .map(Arc::clone)
            .collect();
        ended.iter().for_each(|pipe| pipe.close(ENDED_INCARNATION));
        let members = |token: &Token| self.book.session(*token).is_some();
        lock(&self.slots).retain(|token, _| members(token));
        lock(&self.pins).retain(|token, _| members(token));
    }

    /// The key that this incarnation's verified hello named.
    fn pin(&self, peer: LinkPeer) -> Option<Hash> {
        lock(&self.pins)
            .get(&peer.token)
            .filter(|(i, _)| *i == peer.incarnation)
            .map(|(_, pin)| *pin)
    }

    fn learn_pin(&self, peer: LinkPeer, spki: Hash) {
        lock(&self.pins).insert(peer.token, (peer.incarnation, spki));
    }

    fn stopped(&self) -> bool {
        *self.stop.borrow()
    }

    fn lock_pipes(&self) -> MutexGuard<'_, Vec<Arc<Pipe>>> {
        lock(&self.pipes)
    }
}

const ENDED_INCARNATION: &str = "the incarnation of one side has ended";

/// A task that panicked must not take the links with it: what they share is only maps.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
