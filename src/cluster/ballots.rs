//! Bully, the deciding half: when does a member sign? When it too considers the leader gone, the
//! candidate's log is at least as far as its own, and the ballot's facts are those that it reads from the
//! contract itself. A ballot is also a promise: until its deadline no append of an earlier term's leader passes
//! (attack F9b), so whoever live signers elect also wins in the engine.

use crate::{Cluster, Effect, Promise};
use synod_wire::ballot::Ballot;
use synod_wire::message::BallotRefusal;
use synod_wire::{LogPosition, Message, Term, Token};

/// The contract refuses deadlines further away than this many seconds (attack F24); so do we.
pub const DEADLINE_MAX_S: u64 = 60;
/// Blocks come late: a promise outlives its deadline by this much of our own clock.
const PROMISE_SLACK_MS: u64 = 1_000;

impl Cluster {
    pub(crate) fn heard_ballot_request(
        &mut self,
        from: Token,
        ballot: Ballot,
        position: LogPosition,
        cold: bool,
    ) {
        let answer = match self.may_sign(from, &ballot, position, cold) {
            Ok(()) => self.sign(&ballot),
            Err(reason) => {
                if matches!(reason, BallotRefusal::Term | BallotRefusal::Deadline) {
                    self.effects.push_back(Effect::LookAtChain);
                }
                Message::BallotRefused {
                    term: ballot.term,
                    reason,
                    position: self.engine.position,
                }
            }
        };
        self.send(Some(from), answer);
    }

    fn may_sign(
        &self,
        from: Token,
        ballot: &Ballot,
        position: LogPosition,
        cold: bool,
    ) -> Result<(), BallotRefusal> {
        let need = |holds: bool, reason| if holds { Ok(()) } else { Err(reason) };
        let view = self.chain.as_ref().ok_or(BallotRefusal::Term)?;
        need(
            view.term.0.checked_add(1) == Some(ballot.term.0),
            BallotRefusal::Term,
        )?;
        // no newest block is known while the chain is silent
        need(!self.chain_silent, BallotRefusal::Deadline)?;
        need(ballot.deadline > view.block.time, BallotRefusal::Deadline)?;
        need(
            ballot.deadline <= view.block.time.saturating_add(DEADLINE_MAX_S),
            BallotRefusal::Deadline,
        )?;
        let candidate = view
            .member(from)
            .filter(|m| m.seated && m.expires_at > view.block.time);
        let fits = ballot.candidate == from && candidate.is_some() && ballot.anchor == view.anchor;
        need(fits, BallotRefusal::NotACandidate)?;
        // our own ballot would spoil the certificate when we have expired
        need(self.is_voter(), BallotRefusal::NotACandidate)?;
        let handed = self.handed_to() == Some(from);
        need(handed || self.leader_gone(), BallotRefusal::LeaderLives)?;
        need(
            self.mute.may_speak() || cold && self.starts_cold(),
            BallotRefusal::Muted,
        )?;
        // a leader that has written since it looked is ahead of whomever it names
        let written = handed && !self.knows_its_last_stroke();
        need(
            !written && position >= self.engine.position,
            BallotRefusal::Behind,
        )
    }

    fn sign(&mut self, ballot: &Ballot) -> Message {
        let muted = !self.mute.may_speak();
        self.vote_by_disk(ballot.term);
        self.promise_for(ballot);
        let signed = self.me.domain.sign(&self.me.session, self.me.token, ballot);
        Message::Ballot {
            ballot: *ballot,
            signature: signed.signature,
            muted,
        }
    }

    /// A ballot for another than the leader binds us. One that confirms the leader does not: we take nothing but the
    /// candidate's own entries, so we cannot get ahead of it, and writes need not wait for the contract.
    pub(crate) fn promise_for(&mut self, ballot: &Ballot) {
        let confirms =
            self.handed_to() == Some(ballot.candidate) && self.holds_office(ballot.candidate);
        if !confirms {
            self.promise_until(ballot.term, ballot.deadline);
        }
    }

    /// From block time to our own monotonic clock.
    fn promise_until(&mut self, term: Term, deadline: u64) {
        let block_time = self.chain.as_ref().map_or(deadline, |view| view.block.time);
        let left_ms = deadline.saturating_sub(block_time).min(DEADLINE_MAX_S) * 1_000;
        let until_ms = self.now + left_ms + PROMISE_SLACK_MS;
        let until_ms = self
            .promise
            .filter(|p| p.term == term)
            .map_or(until_ms, |p| p.until_ms.max(until_ms));
        self.promise = Some(Promise { term, until_ms });
    }
}
