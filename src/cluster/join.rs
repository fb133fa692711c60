//! Joining: JOIN until the leader in office has answered, then its JOIN_RESPONSE says how far a muted node has to get
//! (`mute.rs`) and what the ledger starts from. A member that registered after the first election joins in the same
//! way; that it is not seated yet keeps it from standing and signing (`is_voter`), from nothing else.

use crate::{Cluster, Effect, Mute, Notice};
use synod_wire::message::{Join, JoinResponse};
use synod_wire::{Message, Token};

/// How far our joining is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Joined {
    /// No leader in office has answered yet.
    Asking,
    /// It has; we are muted until we hold what it held.
    Told { leader: Token, members: Vec<Token> },
    /// Said once; or we lead ourselves, and nobody could tell us.
    Done,
}

impl Cluster {
    pub(crate) fn join(&mut self) {
        if self.in_office() {
            self.joined = Joined::Done;
        }
        let lost = matches!(
            self.mute,
            Mute::Muted { target: None } | Mute::ColdStart { .. }
        );
        let unanswered = self.mute.may_speak() && self.joined != Joined::Done;
        let wanted = self.joins_left > 0 || lost || unanswered;
        if !wanted || self.now < self.join_due {
            return;
        }
        self.joins_left = self.joins_left.saturating_sub(1);
        self.join_due = self.now + self.settings.join_ms;
        self.send(
            None,
            Message::Join(Join {
                nonce: self.me.nonce,
                http: self.me.http.clone(),
            }),
        );
    }

    /// Upon JOIN, at the leader in office: say what we hold now. Whoever has applied this has everything
    /// that was acknowledged before its new incarnation.
    pub(crate) fn heard_join(&mut self, from: Token, join: &Join) {
        if !self.in_office() {
            return;
        }
        let answer = JoinResponse {
            nonce: join.nonce,
            term: self.highest_term(),
            position: self.engine.position,
            members: self.voters().into_iter().collect(),
            // the ledger's; the driver puts it in
            clock: synod_wire::Clock::default(),
        };
        self.send(Some(from), Message::JoinResponse(answer));
    }

    /// Upon JOIN_RESPONSE: only a fresh answer of the leader in office, elected at our registration or later. It
    /// mutes nobody who speaks: to such a node it is news, once.
    pub(crate) fn heard_join_response(&mut self, from: Token, answer: JoinResponse) {
        let speaks = self.mute.may_speak();
        if answer.nonce != self.me.nonce || speaks && self.joined == Joined::Done {
            return;
        }
        if answer.term > self.highest_term() {
            self.effects.push_back(Effect::LookAtChain);
            return;
        }
        let names_leader = self.leader() == Some(from) && answer.term == self.highest_term();
        if !names_leader || answer.term < self.me.registered_term {
            return;
        }
        self.effects.push_back(Effect::Baseline {
            leader: from,
            clock: answer.clock,
        });
        self.joined = Joined::Told {
            leader: from,
            members: answer.members,
        };
        if speaks {
            return self.synchronized();
        }
        self.mute = Mute::Muted {
            target: Some((answer.position.index, answer.term)),
        };
    }

    /// We hold what the leader held when it answered; nothing is said when nobody has answered yet.
    pub(crate) fn synchronized(&mut self) {
        let Joined::Told { leader, members } = &self.joined else {
            return;
        };
        let (leader, mut members) = (*leader, members.clone());
        members.push(self.me.token);
        members.sort();
        members.dedup();
        self.joined = Joined::Done;
        self.notice(Notice::Synchronized { leader, members });
    }
}
