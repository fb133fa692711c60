//! Which way frames reach a member: the group, its own address, or the link. Decided by what arrives: whoever is
//! not heard in the group is written to by name, whoever is not heard by datagrams at all, or says that ours do
//! not arrive, gets every frame over the link too. Better twice than never: a frame's number counts once.
//!
//! Pure. Heartbeats say whose datagrams their sender misses, so a path that is open one way only is noticed at
//! both ends.

use std::collections::BTreeMap;
use synod_wire::Token;

/// How a frame came, or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// A datagram to the group.
    Multicast,
    /// A datagram to one address.
    Unicast,
    /// The TLS link.
    Link,
}

impl Way {
    /// All, in the order of their cost.
    pub const ALL: [Self; 3] = [Self::Multicast, Self::Unicast, Self::Link];

    /// For counters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Multicast => "multicast",
            Self::Unicast => "unicast",
            Self::Link => "link",
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Heard {
    multicast: Option<u64>,
    unicast: Option<u64>,
    /// Its last heartbeat says that our datagrams do not arrive.
    misses_us: bool,
}

/// What arrived from whom, and how.
pub struct Ways {
    stale_ms: u64,
    peers: BTreeMap<Token, Heard>,
}

impl Ways {
    /// A way is open while something came by it within `stale_ms`.
    pub fn new(stale_ms: u64) -> Self {
        Self {
            stale_ms,
            peers: BTreeMap::new(),
        }
    }

    /// A verified frame of this member came.
    pub fn heard(&mut self, now: u64, from: Token, way: Way) {
        let peer = self.peers.entry(from).or_default();
        match way {
            Way::Multicast => peer.multicast = Some(now),
            Way::Unicast => peer.unicast = Some(now),
            Way::Link => {}
        }
    }

    /// Its heartbeat names those whose datagrams it misses.
    pub fn told(&mut self, from: Token, misses_us: bool) {
        self.peers.entry(from).or_default().misses_us = misses_us;
    }

    /// Only these are members; a new incarnation begins unheard.
    pub fn keep(&mut self, stays: impl Fn(Token) -> bool) {
        self.peers.retain(|token, _| stays(*token));
    }

    /// The group is not enough for what goes to all: write to this member's address too.
    pub fn needs_unicast(&self, now: u64, to: Token) -> bool {
        !self.open(now, self.peer(to).multicast) || self.peer(to).misses_us
    }

    /// Datagrams are not enough.
    pub fn needs_link(&self, now: u64, to: Token) -> bool {
        !self.hears(now, to) || self.peer(to).misses_us
    }

    /// Does any datagram of this member arrive?
    pub fn hears(&self, now: u64, from: Token) -> bool {
        let peer = self.peer(from);
        self.open(now, peer.multicast) || self.open(now, peer.unicast)
    }

    fn peer(&self, token: Token) -> Heard {
        self.peers.get(&token).copied().unwrap_or_default()
    }

    fn open(&self, now: u64, heard: Option<u64>) -> bool {
        heard.is_some_and(|at| now.saturating_sub(at) < self.stale_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: Token = Token(2);

    /// (unicast needed, link needed)
    fn needs(ways: &Ways, now: u64) -> (bool, bool) {
        (ways.needs_unicast(now, PEER), ways.needs_link(now, PEER))
    }

    #[test]
    fn each_way_is_used_while_the_cheaper_one_is_silent() {
        let mut ways = Ways::new(300);
        assert_eq!(needs(&ways, 0), (true, true), "nobody was heard yet");
        ways.heard(1_000, PEER, Way::Multicast);
        assert_eq!(needs(&ways, 1_299), (false, false));
        assert_eq!(needs(&ways, 1_300), (true, true));
        ways.heard(1_300, PEER, Way::Unicast);
        assert_eq!(needs(&ways, 1_400), (true, false));
        ways.heard(1_700, PEER, Way::Link);
        assert_eq!(
            needs(&ways, 1_700),
            (true, true),
            "a link proves no datagram"
        );
    }

    #[test]
    fn whoever_says_that_we_are_not_heard_gets_the_link_until_it_says_otherwise() {
        let mut ways = Ways::new(300);
        ways.heard(0, PEER, Way::Multicast);
        ways.told(PEER, true);
        assert_eq!(needs(&ways, 10), (true, true));
        ways.told(PEER, false);
        assert_eq!(needs(&ways, 10), (false, false));
        ways.keep(|_| false);
        assert_eq!(needs(&ways, 10), (true, true));
    }
}
