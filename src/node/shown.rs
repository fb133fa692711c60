//! What people are shown of the driver, twenty times a second at the most. Nothing decides by it.

use crate::clock::wall_seconds;
use crate::driver::Driver;
use crate::facts::{LedgerFact, PeerFact, Phase};
use synod_cluster::Health;

/// How often the facts for people are renewed.
const PUBLISH_EVERY_MS: u64 = 50;

impl Driver {
    pub(crate) fn publish(&mut self) {
        if self.clock.now_ms() >= self.published_at + PUBLISH_EVERY_MS {
            self.publish_now();
        }
    }

    pub(crate) fn publish_now(&mut self) {
        self.published_at = self.clock.now_ms();
        let muted = !self.cluster.mute().may_speak();
        let (phase, summary) = self.sentence(muted);
        self.board.enter(phase, summary);
        let leader = self.cluster.leader();
        let heard = if self.cluster.in_office() {
            Some(wall_seconds())
        } else {
            self.cluster
                .peers()
                .find(|(token, _, age, _)| Some(*token) == leader && *age != u64::MAX)
                .map(|(_, _, age, _)| wall_seconds() - age as f64 / 1_000.0)
        };
        let peers = self
            .cluster
            .peers()
            .map(|(token, health, age, beat)| {
                let age_ms = (age != u64::MAX).then_some(age);
                (
                    token,
                    PeerFact {
                        health,
                        age_ms,
                        beat: beat.cloned(),
                    },
                )
            })
            .collect();
        let reserved = self
            .engine
            .with_state(|state| self.ledger.reserved(&state.accounts));
        let ledger = LedgerFact {
            clock: self.ledger.clock().clone(),
            buffered: self.ledger.buffered() as u64,
            open: self.ledger.open().collect(),
            reserved,
            stats: self.ledger.stats(),
        };
        self.board.update(|facts| {
            facts.incarnation = self.membership.incarnation;
            facts.view = Some(self.view.clone());
            facts.leader = leader;
            facts.in_office = self.cluster.in_office();
            facts.pen_down = self.cluster.pen_down();
            facts.muted = muted;
            facts.peers = peers;
            facts.leader_heard_at = heard.or(facts.leader_heard_at);
            facts.ledger = ledger;
        });
    }

    fn sentence(&self, muted: bool) -> (Phase, String) {
        let term = self.cluster.highest_term();
        if self
            .view
            .member(self.config.token)
            .is_some_and(|m| !m.seated)
        {
            let text = "registered after the log was born: the leader takes this node into the log, then into the \
                        contract's quorum";
            return (Phase::Joining, text.to_owned());
        }
        let alive = 1 + self
            .cluster
            .peers()
            .filter(|(_, health, _, _)| *health != Health::Failed)
            .count() as u64;
        let quorum = self.view.quorum();
        if alive < quorum && self.view.elected_block != 0 {
            let seated = self.view.seated_count;
            let text = format!(
                "hears {alive} of {seated} members, itself included; {quorum} are needed to write or to elect: restart the others"
            );
            return (
                if muted {
                    Phase::Joining
                } else {
                    Phase::Serving
                },
                text,
            );
        }
        if muted {
            let text = "restarted and muted: takes the leader's appends, does not vote, sign or answer reads yet";
            return (Phase::Joining, text.to_owned());
        }
        let text = match self.cluster.leader() {
            _ if self.cluster.in_office() => format!("leads term {term}"),
            Some(leader) if leader == self.config.token => {
                format!("elected for term {term}, taking the office")
            }
            Some(leader) if self.cluster.leader_gone() => {
                format!("node {leader}, leader of term {term}, is gone: electing")
            }
            Some(leader) => format!("follows node {leader}, leader of term {term}"),
            None if self.view.elected_block == 0 && self.view.seated_count < self.view.founders => {
                format!(
                    "waits for {} founding members, {} are registered",
                    self.view.founders, self.view.seated_count
                )
            }
            None => format!("the office is vacant since term {term}: electing"),
        };
        (Phase::Serving, text)
    }
}
