//! The address book: sessions as the contract lists them, addresses as verified frames show them. No
//! address is believed because of a datagram that did not verify (defect D15 of the prototype).

use crate::links::PeerBook;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use synod_wire::seal::Sessions;
use synod_wire::{ChainView, Hash, Incarnation, SessionPublic, Token};

#[derive(Default)]
struct Pages {
    members: BTreeMap<Token, Entry>,
    log_id: Option<Hash>,
    hints: BTreeMap<Token, SocketAddr>,
}

struct Entry {
    incarnation: Incarnation,
    session: SessionPublic,
    link: Option<SocketAddr>,
    udp: Option<SocketAddr>,
}

/// Shared by frames, links and the driver.
#[derive(Default)]
pub struct Book(RwLock<Pages>);

impl Book {
    /// Where an operator says that members are (`--peers`): used until a frame of theirs has verified.
    pub fn hint(&self, peers: &BTreeMap<Token, SocketAddrV4>) {
        let hints = peers.iter().map(|(token, at)| (*token, (*at).into()));
        self.write().hints = hints.collect();
    }

    /// The contract was read.
    pub fn follow(&self, view: &ChainView) {
        let mut pages = self.write();
        pages.members.retain(|token, entry| {
            view.member(*token)
                .is_some_and(|m| m.incarnation == entry.incarnation)
        });
        for m in view.members.iter().filter(|m| m.active) {
            let link = literal(&m.endpoint);
            let fresh = Entry {
                incarnation: m.incarnation,
                session: m.session,
                link,
                udp: None,
            };
            pages.members.entry(m.token).or_insert(fresh).link = link;
        }
    }

    /// A frame of this member verified, and came from here.
    pub fn learn(&self, token: Token, from: SocketAddr) {
        if let Some(entry) = self.write().members.get_mut(&token) {
            entry.udp = Some(from);
        }
    }

    /// Where this member's unicast frames go: learnt, else said by the operator, else the endpoint in the contract
    /// (UDP and link share a port number by default).
    pub fn udp(&self, token: Token) -> Option<SocketAddr> {
        let pages = self.read();
        let entry = pages.members.get(&token)?;
        let hint = pages.hints.get(&token).copied();
        entry.udp.or(hint).or(entry.link)
    }

    /// The log's first entry is known.
    pub fn set_log_id(&self, log_id: Hash) {
        if self.read().log_id != Some(log_id) {
            self.write().log_id = Some(log_id);
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Pages> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Pages> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sessions for Book {
    fn session(&self, token: Token) -> Option<(Incarnation, SessionPublic)> {
        self.read()
            .members
            .get(&token)
            .map(|entry| (entry.incarnation, entry.session))
    }
}

impl PeerBook for Book {
    fn address(&self, token: Token) -> Option<SocketAddr> {
        self.read().members.get(&token).and_then(|entry| entry.link)
    }

    fn log_id(&self) -> Option<Hash> {
        self.read().log_id
    }
}

/// An endpoint on chain is set by whoever holds an NFT: only literal unicast addresses are dialled, names
/// never resolved.
fn literal(endpoint: &str) -> Option<SocketAddr> {
    let address: SocketAddr = endpoint.parse().ok()?;
    let ip = address.ip();
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    (!ip.is_unspecified() && !ip.is_multicast() && !broadcast && address.port() != 0)
        .then_some(address)
}
