//! Outgoing links: one per peer, dialled by the first call that needs it, with a growing pause after failures.
//! Dialling goes on when the caller runs out of time, so short deadlines reach far peers too.

use super::handshake::{self, Refusal};
use super::pipe::{Pipe, Side};
use super::{ENDED_INCARNATION, HANDSHAKE_MAX, LinkError, LinkPeer, Shared, lock};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use synod_wire::Token;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio_rustls::TlsStream;

/// Pause after the first failure; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(25);
const PAUSE_MAX: Duration = Duration::from_millis(800);

/// The place of one peer's outgoing link.
#[derive(Clone, Default)]
pub(super) struct Slot(Arc<Mutex<Place>>);

#[derive(Default)]
struct Place {
    pipe: Option<Arc<Pipe>>,
    failed: Option<Failed>,
}

struct Failed {
    address: SocketAddr,
    until: Instant,
    pause: Duration,
    why: String,
}

/// The open link to this member, or a new one.
pub(super) async fn link(shared: &Arc<Shared>, token: Token) -> Result<Arc<Pipe>, LinkError> {
    if shared.stopped() {
        return Err(LinkError::Ended {
            token,
            why: "this node stops its links".into(),
        });
    }
    let (incarnation, _) = shared
        .book
        .session(token)
        .ok_or(LinkError::NotAMember { token })?;
    let to = LinkPeer { token, incarnation };
    let slot = lock(&shared.slots).entry(token).or_default().clone();
    let mut place = slot.0.lock_owned().await;
    if let Some(pipe) = place
        .pipe
        .take_if(|pipe| pipe.end().is_some() || pipe.peer() != to)
    {
        pipe.close(ENDED_INCARNATION);
    }
    if let Some(pipe) = &place.pipe {
        return Ok(Arc::clone(pipe));
    }
    let address = shared
        .book
        .address(token)
        .ok_or(LinkError::NoAddress { token })?;
    if let Some(failed) = &place.failed
        && failed.address == address
        && let Some(wait) = failed.until.checked_duration_since(Instant::now())
    {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        return Err(LinkError::BackOff {
            token,
            wait_ms,
            last: failed.why.clone(),
        });
    }
    let dialling = tokio::spawn(dial(Arc::clone(shared), place, to, address));
    dialling.await.unwrap_or_else(|why| {
        Err(LinkError::Ended {
            token,
            why: why.to_string(),
        })
    })
}

/// A call to this member ran into its deadline.
pub(super) fn missed(shared: &Shared, token: Token) {
    let slot = lock(&shared.slots).get(&token).cloned();
    if let Some(slot) = slot
        && let Ok(place) = slot.0.try_lock()
        && let Some(pipe) = &place.pipe
    {
        pipe.missed();
    }
}

async fn dial(
    shared: Arc<Shared>,
    mut place: OwnedMutexGuard<Place>,
    to: LinkPeer,
    address: SocketAddr,
) -> Result<Arc<Pipe>, LinkError> {
    let token = to.token;
    let outcome = match tokio::time::timeout(HANDSHAKE_MAX, connect(&shared, to, address)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Refusal::Slow),
    };
    match outcome {
        Ok((stream, peer)) => {
            shared.counts.dialled.fetch_add(1, Ordering::Relaxed);
            let pipe = Pipe::start(&shared, stream, peer, Side::Dialler);
            *place = Place {
                pipe: Some(Arc::clone(&pipe)),
                failed: None,
            };
            Ok(pipe)
        }
        Err(why) => {
            if !matches!(why, Refusal::Gone(_) | Refusal::Slow | Refusal::There(_)) {
                shared.counts.refuse(why.label());
                tracing::warn!(%token, %address, %why, "link refused by this side");
            }
            let pause = place
                .failed
                .as_ref()
                .map_or(PAUSE_MIN, |failed| (failed.pause * 2).min(PAUSE_MAX));
            let until = Instant::now() + pause;
            place.failed = Some(Failed {
                address,
                until,
                pause,
                why: why.to_string(),
            });
            Err(dial_error(token, address, why))
        }
    }
}

async fn connect(
    shared: &Shared,
    to: LinkPeer,
    address: SocketAddr,
) -> Result<(TlsStream<TcpStream>, LinkPeer), Refusal> {
    let tcp = TcpStream::connect(address)
        .await
        .map_err(|e| Refusal::Gone(e.to_string()))?;
    tcp.set_nodelay(true)
        .map_err(|e| Refusal::Gone(e.to_string()))?;
    handshake::dial(shared, to, tcp).await
}

fn dial_error(token: Token, address: SocketAddr, why: Refusal) -> LinkError {
    match why {
        Refusal::Pin(why) => LinkError::Pin {
            token,
            address,
            why,
        },
        Refusal::Hello(why) => LinkError::Hello {
            token,
            address,
            why,
        },
        Refusal::There(reason) => LinkError::RefusedThere {
            token,
            address,
            reason,
        },
        Refusal::Tls(_) | Refusal::Slow | Refusal::Gone(_) => LinkError::Dial {
            token,
            address,
            why: why.to_string(),
        },
    }
}
