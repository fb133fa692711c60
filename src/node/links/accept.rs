//! The listening side: a bounded number of strangers at a time, each with one deadline for TLS and hello.

use super::pipe::{Pipe, Side};
use super::stats::Counts;
use super::{
    HANDSHAKE_MAX, HANDSHAKES_MAX, INCOMING_PER_PEER_MAX, LinkError, LinkPeer, LinkService,
    LinkSettings, Links, PRUNE_EVERY, PeerBook, Shared, handshake,
};
use crate::tls::TlsIdentity;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use synod_wire::SessionKey;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

/// Connections that the kernel keeps for us.
const BACKLOG: u32 = 128;
/// After an error of `accept` itself (no file descriptors), which says nothing about the next one.
const RETRY: Duration = Duration::from_millis(50);

/// The port is ours; nobody is answered yet.
pub struct LinkListener(TcpListener);

impl LinkListener {
    pub(super) fn bind(address: SocketAddr) -> Result<Self, LinkError> {
        let listen = || {
            let socket = if address.is_ipv4() {
                TcpSocket::new_v4()?
            } else {
                TcpSocket::new_v6()?
            };
            // for a quick restart; a port that somebody listens on stays refused
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket.listen(BACKLOG)
        };
        listen()
            .map(Self)
            .map_err(|why| LinkError::Bind { address, why })
    }

    /// With the real port, when 0 was asked for.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Registered: answer from now on.
    pub fn start(
        self,
        settings: LinkSettings,
        session: Arc<SessionKey>,
        tls: TlsIdentity,
        book: Arc<dyn PeerBook>,
        service: Arc<dyn LinkService>,
    ) -> Result<Links, LinkError> {
        let shared = Arc::new(Shared {
            settings,
            session,
            tls,
            book,
            service,
            counts: Counts::default(),
            pins: Mutex::default(),
            slots: Mutex::default(),
            pipes: Mutex::default(),
            stop: watch::Sender::new(false),
        });
        let acceptor = handshake::acceptor(&shared)?;
        let mut stop = shared.stop.subscribe();
        let (accepting, pruned) = (Arc::downgrade(&shared), Arc::downgrade(&shared));
        tokio::spawn(async move {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => {}
                () = accept_loop(self.0, acceptor, accepting) => {}
                () = prune_loop(pruned) => {}
            }
        });
        Ok(Links(shared))
    }
}

async fn prune_loop(shared: Weak<Shared>) {
    while let Some(shared) = shared.upgrade() {
        shared.prune();
        drop(shared);
        tokio::time::sleep(PRUNE_EVERY).await;
    }
}

async fn accept_loop(listener: TcpListener, acceptor: TlsAcceptor, shared: Weak<Shared>) {
    let places = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let accepted = listener.accept().await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let (tcp, from) = match accepted {
            Ok(accepted) => accepted,
            Err(why) => {
                tracing::warn!(%why, "cannot accept links now");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            shared.counts.refuse("busy");
            continue;
        };
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            greet(&shared, &acceptor, tcp, from).await;
            drop(place);
        });
    }
}

async fn greet(shared: &Arc<Shared>, acceptor: &TlsAcceptor, tcp: TcpStream, from: SocketAddr) {
    if let Err(why) = tcp.set_nodelay(true) {
        tracing::debug!(%from, %why, "connection lost at once");
        return;
    }
    let greeting = handshake::accept(shared, acceptor, tcp);
    match tokio::time::timeout(HANDSHAKE_MAX, greeting)
        .await
        .unwrap_or(Err(handshake::Refusal::Slow))
    {
        Ok((stream, peer)) => {
            shared.counts.accepted.fetch_add(1, Ordering::Relaxed);
            make_room(shared, peer);
            Pipe::start(shared, stream, peer, Side::Acceptor);
        }
        Err(why) => {
            shared.counts.refuse(why.label());
            tracing::debug!(%from, %why, "link refused");
        }
    }
}

/// The newest incoming links of a member win.
fn make_room(shared: &Shared, peer: LinkPeer) {
    let pipes = shared.lock_pipes();
    let of_peer: Vec<_> = pipes
        .iter()
        .filter(|p| p.side() == Side::Acceptor && p.peer().token == peer.token)
        .collect();
    let excess = (of_peer.len() + 1).saturating_sub(INCOMING_PER_PEER_MAX);
    of_peer
        .iter()
        .take(excess)
        .for_each(|pipe| pipe.close("a newer link of this member took its place"));
}
