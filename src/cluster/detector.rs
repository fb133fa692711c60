//! Two-phase failure detector: ALIVE → SUSPECTED → FAILED by silence alone. A suspect refutes by being
//! heard. A starved node doubts itself first (local health, as in Lifeguard): when *our own* ticks come late,
//! the lateness is credited to everybody, since we may have been too busy to listen.

use crate::settings::Settings;
use std::collections::BTreeMap;
use synod_wire::{Incarnation, Token};

/// What silence says about a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// Heard within the suspicion time.
    Alive,
    /// Silent for longer.
    Suspected,
    /// Silent for the fail time, or gone on purpose.
    Failed,
}

struct Peer {
    incarnation: Incarnation,
    known_since: u64,
    heard: Option<u64>,
    health: Health,
    left: bool,
}

/// Watches every other active member.
pub struct Detector {
    heartbeat_ms: u64,
    suspect_ms: u64,
    fail_ms: u64,
    advanced: Option<u64>,
    starved: Option<u64>,
    peers: BTreeMap<Token, Peer>,
}

impl Detector {
    /// Watches nobody yet.
    pub fn new(settings: &Settings) -> Self {
        Self {
            heartbeat_ms: settings.heartbeat_ms,
            suspect_ms: settings.suspect_ms,
            fail_ms: settings.fail_ms,
            advanced: None,
            starved: None,
            peers: BTreeMap::new(),
        }
    }

    /// Watch exactly these. A new incarnation starts anew: not heard yet, so not alive.
    pub fn follow(&mut self, now: u64, members: &[(Token, Incarnation)]) {
        self.peers
            .retain(|token, peer| members.contains(&(*token, peer.incarnation)));
        for &(token, incarnation) in members {
            self.peers.entry(token).or_insert(Peer {
                incarnation,
                known_since: now,
                heard: None,
                health: Health::Failed,
                left: false,
            });
        }
    }

    /// Is this token watched in the incarnation that `members` names?
    pub fn knows(&self, token: Token, members: &[(Token, Incarnation)]) -> bool {
        self.peers
            .get(&token)
            .is_some_and(|peer| members.contains(&(token, peer.incarnation)))
    }

    /// A frame of this member verified. Answers what it was until now.
    pub fn heard(&mut self, now: u64, token: Token) -> Option<Health> {
        let peer = self.peers.get_mut(&token)?;
        peer.heard = Some(now);
        peer.left = false;
        Some(std::mem::replace(&mut peer.health, Health::Alive))
    }

    /// It said LEAVE.
    pub fn left(&mut self, token: Token) {
        if let Some(peer) = self.peers.get_mut(&token) {
            peer.heard = None;
            peer.health = Health::Failed;
            peer.left = true;
        }
    }

    /// It said LEAVE and nothing since.
    pub fn has_left(&self, token: Token) -> bool {
        self.peers.get(&token).is_some_and(|peer| peer.left)
    }

    /// Time passed: whose health got worse?
    pub fn advance(&mut self, now: u64) -> Vec<(Token, Health)> {
        let late = self
            .advanced
            .map_or(0, |then| now.saturating_sub(then))
            .saturating_sub(2 * self.heartbeat_ms);
        self.advanced = Some(now);
        if late > 0 {
            self.starved = Some(now);
        }
        let mut worse = Vec::new();
        for (token, peer) in &mut self.peers {
            let Some(heard) = &mut peer.heard else {
                continue;
            };
            *heard = (*heard + late).min(now);
            let health = match now - *heard {
                silence if silence >= self.fail_ms => Health::Failed,
                silence if silence >= self.suspect_ms => Health::Suspected,
                _ => Health::Alive,
            };
            if health > peer.health {
                peer.health = health;
                worse.push((*token, health));
            }
        }
        worse
    }

    /// Registered a moment ago and not heard yet: give it the fail time to open its log and speak.
    pub fn is_newcomer(&self, now: u64, token: Token) -> bool {
        self.peers.get(&token).is_some_and(|peer| {
            peer.heard.is_none() && now.saturating_sub(peer.known_since) < self.fail_ms
        })
    }

    /// Our own ticks came late within the fail time: what we did not hear in it proves nothing.
    pub fn was_starved(&self, now: u64) -> bool {
        self.starved.is_some_and(|at| now - at < self.fail_ms)
    }

    /// Health now; members that were never heard are FAILED.
    pub fn health(&self, token: Token) -> Health {
        self.peers
            .get(&token)
            .map_or(Health::Failed, |peer| peer.health)
    }

    /// Everybody: health and milliseconds since last heard (`u64::MAX` = never).
    pub fn iter(&self, now: u64) -> impl Iterator<Item = (Token, Health, u64)> {
        self.peers.iter().map(move |(token, peer)| {
            (
                *token,
                peer.health,
                peer.heard.map_or(u64::MAX, |heard| now - heard),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: Token = Token(2);
    const MEMBERS: [(Token, Incarnation); 1] = [(PEER, Incarnation(1))];

    /// lan: heartbeat 100, suspect 400, fail 800; heard once at 1,000, ticks every 50.
    fn heard_at_1000() -> Detector {
        let mut detector = Detector::new(&Settings::lan());
        detector.follow(1_000, &MEMBERS);
        detector.heard(1_000, PEER);
        detector
    }

    fn tick(detector: &mut Detector, from: u64, to: u64) -> Vec<(Token, Health)> {
        let times = (from..=to).step_by(50);
        times.flat_map(|now| detector.advance(now)).collect()
    }

    #[test]
    fn silence_is_suspected_then_failed_and_each_is_said_once() {
        let mut detector = heard_at_1000();
        assert_eq!(tick(&mut detector, 1_000, 1_350), []);
        assert_eq!(
            tick(&mut detector, 1_400, 1_750),
            [(PEER, Health::Suspected)]
        );
        assert_eq!(tick(&mut detector, 1_800, 5_000), [(PEER, Health::Failed)]);
        assert_eq!(detector.heard(5_010, PEER), Some(Health::Failed));
        assert_eq!(detector.health(PEER), Health::Alive);
    }

    #[test]
    fn our_own_lateness_is_credited_to_everybody() {
        let mut detector = heard_at_1000();
        tick(&mut detector, 1_000, 1_100);
        assert_eq!(detector.advance(4_100), []);
        assert!(detector.was_starved(4_100));
        assert_eq!(
            tick(&mut detector, 4_150, 5_100).last(),
            Some(&(PEER, Health::Failed))
        );
        assert!(!detector.was_starved(5_000));
    }

    #[test]
    fn whoever_left_is_gone_until_it_speaks_again() {
        let mut detector = heard_at_1000();
        detector.left(PEER);
        assert!(detector.has_left(PEER));
        assert_eq!(detector.health(PEER), Health::Failed);
        detector.heard(1_100, PEER);
        assert!(!detector.has_left(PEER));
    }

    #[test]
    fn a_new_incarnation_was_never_heard() {
        let mut detector = heard_at_1000();
        detector.follow(1_100, &[(PEER, Incarnation(2))]);
        assert_eq!(detector.health(PEER), Health::Failed);
        assert!(detector.is_newcomer(1_899, PEER));
        assert!(!detector.is_newcomer(1_900, PEER));
        detector.follow(1_200, &[]);
        assert_eq!(
            detector.heard(1_300, PEER),
            None,
            "strangers are not watched"
        );
    }
}
