//! Muting (design section 11, attack F6). What I acknowledged before a restart is contained in every
//! leader that was elected without my new vote; so I may take its appends, but until I have caught up with
//! it I do not vote, sign, or answer reads: my disk may be an older one.
//!
//! ```text
//! restarted ──► Muted ──JOIN_RESPONSE of the leader in office──► Muted{target} ──applied──► Unmuted
//!                 └──no unmuted majority for cold_start_wait, majority present──► ColdStart ──TermStart──► Unmuted
//! ```

use crate::{Cluster, Health, Notice};
use std::collections::BTreeSet;
use synod_wire::{Term, Token};

/// May this node vote, sign and answer reads?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mute {
    /// Yes.
    Unmuted,
    /// No; with a target once the leader in office has said how far we must get.
    Muted {
        /// Applied index to reach, and the term of the leader that named it.
        target: Option<(u64, Term)>,
    },
    /// No unmuted majority is left: votes by its disk, as in plain Raft, in this term or later.
    ColdStart {
        /// The first term it signed for while muted.
        term: Term,
    },
}

impl Mute {
    /// Fully a member again.
    pub fn may_speak(self) -> bool {
        self == Self::Unmuted
    }

    /// Fully a member, or voting by its disk.
    pub fn may_vote(self) -> bool {
        !matches!(self, Self::Muted { .. })
    }
}

impl Cluster {
    pub(crate) fn unmute_when_caught_up(&mut self) {
        match self.mute {
            Mute::Unmuted | Mute::Muted { target: None } => {}
            Mute::Muted {
                target: Some((_, term)),
            } if term < self.highest_term() => {
                self.mute = Mute::Muted { target: None };
            }
            // the target's leader must be the log's too: its TermStart is applied here
            Mute::Muted {
                target: Some((index, term)),
            } => {
                if self.engine.applied >= index
                    && self.engine.log_term.is_some_and(|(t, _)| t >= term)
                {
                    self.unmute(term);
                }
            }
            Mute::ColdStart { term } => match self.engine.log_term {
                Some((log_term, _)) if log_term >= term => self.unmute(log_term),
                _ => {}
            },
        }
    }

    fn unmute(&mut self, term: Term) {
        self.mute = Mute::Unmuted;
        self.notice(Notice::Unmuted(term));
        self.synchronized();
    }

    /// A cluster that starts cold: too few unmuted voters present for a quorum, enough voters present, nobody leads.
    pub(crate) fn watch_cold_start(&mut self) {
        let voters = self.voters();
        let quorum = voters.len() / 2 + 1;
        let present = voters
            .iter()
            .filter(|token| self.is_present(**token))
            .count();
        let unmuted = voters
            .iter()
            .filter(|token| self.is_present(**token) && self.speaks(**token))
            .count();
        let cold =
            !voters.is_empty() && present >= quorum && unmuted < quorum && self.leader_gone();
        // a wait that we slept through proves nothing
        let awake = !self.detector.was_starved(self.now);
        self.cold_since = if cold {
            self.cold_since.filter(|_| awake).or(Some(self.now))
        } else {
            None
        };
    }

    /// The cold start has lasted long enough to vote by disks, as far as the last tick knows; a frame that
    /// comes before the tick after a long sleep meets an old picture.
    pub(crate) fn starts_cold(&self) -> bool {
        let fresh = self.now - self.ticked <= 2 * self.settings.heartbeat_ms;
        fresh
            && self
                .cold_since
                .is_some_and(|since| self.now - since >= self.settings.cold_start_wait_ms)
    }

    /// Signing while muted: from here on our engine votes too, by its disk.
    pub(crate) fn vote_by_disk(&mut self, term: Term) {
        if matches!(self.mute, Mute::Muted { .. }) {
            self.mute = Mute::ColdStart { term };
            self.notice(Notice::ColdStart(term));
        }
    }

    fn is_present(&self, token: Token) -> bool {
        token == self.me.token || self.detector.health(token) != Health::Failed
    }

    fn speaks(&self, token: Token) -> bool {
        if token == self.me.token {
            return self.mute.may_speak();
        }
        self.peers.get(&token).is_some_and(|beat| !beat.muted)
    }

    /// Who votes: the contract's seated members. Until the Log issue brings changes of the engine's voters, the log's are
    /// those that were seated at its birth.
    pub(crate) fn voters(&self) -> BTreeSet<Token> {
        self.seated().map(|m| m.token).collect()
    }
}
