//! Elections that people force. A call goes to the leader in office, which names a successor, the highest id that
//! keeps up, and says HAND_OVER; upon it the others sign for that one although the leader lives.
//!
//! ```text
//! person ──► CALL_ELECTION ──► leader in office ──HAND_OVER(term + 1, to)──► all
//!                                                  `to` stands at once ──ballots──► contract ──► term + 1
//! ```
//!
//! HAND_OVER only loosens "the leader lives" for one candidate, one term and one window; every other rule of signing
//! stays, so it can make two leaders of a term no more than an ordinary election. When it leads nowhere (the candidate
//! dies, ballots or the transaction are lost) the window ends and the leader goes on. Signers may still rest its
//! appends until their promise ends; if it loses its quorum by that, it is gone after the fail time like any leader
//! without appends, and the ordinary election heals it.
//!
//! **Who rests.** A ballot for another than the leader is the promise it always is. A ballot for the leader itself
//! promises nothing: what a signer still takes is the candidate's own log, so no signer gets ahead of it.
//! **The pen.** A leader that has handed over to another puts its pen down ([`Cluster::pen_down`]): what it wrote after
//! its own ballot the winner would lack, and in a small cluster the winner needs this very vote in the engine.

use crate::{CallRefusal, Cluster, Effect, Health, Notice};
use synod_wire::{Message, Term, Token};

/// A HAND_OVER of the leader in office, said or heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HandOver {
    term: Term,
    to: Token,
    since: u64,
    until: u64,
}

/// A person's wish on its way to the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    term: Term,
    leader: Token,
    due: u64,
    until: u64,
}

/// A member's calls are heard once in so many intervals (one minute in lan, six in seed).
const CALLER_INTERVALS: u64 = 12;

impl Cluster {
    /// Handing over to another node, or bound by our ballot for it: the log takes nothing new from us until this is
    /// over. The shell answers writes with "try again".
    pub fn pen_down(&self) -> bool {
        let handing = self.handed_to().is_some_and(|to| to != self.me.token);
        let signed = self
            .promise
            .is_some_and(|p| self.now < p.until_ms && p.term > self.highest_term());
        self.won().is_some() && (handing || signed)
    }

    /// A person at this node wants an election.
    pub(crate) fn call_election(&mut self) {
        let term = match self.may_call() {
            Ok(term) => term,
            Err(reason) => return self.notice(Notice::CallRefused(reason)),
        };
        if self.in_office() {
            let Some(to) = self.successor() else {
                return self.notice(Notice::CallRefused(CallRefusal::NotAVoter));
            };
            self.notice(Notice::ElectionCalled(term));
            return self.hand_over(term, to);
        }
        self.notice(Notice::ElectionCalled(term));
        match self.leader() {
            Some(leader) if !self.leader_gone() => {
                self.call = Some(Call {
                    term,
                    leader,
                    due: self.now,
                    until: self.now + self.window_ms(),
                });
                self.repeat_call();
            }
            // nobody to ask: the ordinary election needs no permission
            Some(_) | None => self.act_due = self.now,
        }
    }

    fn may_call(&self) -> Result<Term, CallRefusal> {
        let need = |holds: bool, reason| if holds { Ok(()) } else { Err(reason) };
        need(self.mute.may_speak(), CallRefusal::Muted)?;
        need(!self.chain_silent, CallRefusal::ChainSilent)?;
        let term = self.next_term().ok_or(CallRefusal::ChainSilent)?;
        need(self.is_voter(), CallRefusal::NotAVoter)?;
        let elected_just_now = self.won().is_some() && !self.in_office() && !self.leader_gone();
        let soon = self.called_within(self.call_interval_ms()) || self.call.is_some();
        need(!soon && !elected_just_now, CallRefusal::TooSoon)?;
        Ok(term)
    }

    /// CALL_ELECTION once per heartbeat, until the term changes, HAND_OVER is heard, the leader is gone (then the
    /// ordinary election does what was asked) or the window ends.
    pub(crate) fn repeat_call(&mut self) {
        let Some(call) = self.call else { return };
        let answered = self.handed_to().is_some() || self.next_term() != Some(call.term);
        if answered || self.leader_gone() {
            self.call = None;
        } else if self.now >= call.until {
            self.call = None;
            self.notice(Notice::CallRefused(CallRefusal::NoAnswer));
        } else if self.now >= call.due {
            let due = self.now + self.settings.heartbeat_ms;
            self.call = Some(Call { due, ..call });
            let term = call.term;
            self.send(Some(call.leader), Message::CallElection { term });
        }
    }

    /// Upon CALL_ELECTION, at the leader in office. A member that calls for ever is heard once per interval.
    pub(crate) fn heard_call_election(&mut self, from: Token, term: Term) {
        let entitled =
            self.may_elect(from) && self.peers.get(&from).is_some_and(|beat| !beat.muted);
        let free = self.in_office() && self.mute.may_speak() && !self.chain_silent;
        let soon = self.called_within(self.call_interval_ms());
        if !entitled || !free || soon || self.next_term() != Some(term) {
            return;
        }
        // each election is a transaction: nobody may force one after another
        let again = self.call_interval_ms() * CALLER_INTERVALS;
        let heard = self.callers.get(&from);
        if heard.is_some_and(|at| self.now - at < again) {
            return;
        }
        if let Some(to) = self.successor() {
            self.callers.insert(from, self.now);
            self.hand_over(term, to);
        }
    }

    /// The highest id that keeps up, ourselves included.
    fn successor(&self) -> Option<Token> {
        let fits = |token: &Token| {
            self.may_elect(*token) && (*token == self.me.token || self.keeps_up(*token))
        };
        self.voters().into_iter().rev().find(fits)
    }

    /// Alive, unmuted, in our term, and within one heartbeat of us: its last heartbeat shows a position of our Raft
    /// term with at least what we had committed one heartbeat before our newest one. (Its word is up to one heartbeat
    /// older than ours, so what we have committed since proves nothing against it.)
    fn keeps_up(&self, token: Token) -> bool {
        let ours = self.engine.position.raft_term;
        let near = self.peers.get(&token).is_some_and(|beat| {
            !beat.muted
                && beat.term == self.highest_term()
                && beat.position.raft_term == ours
                && beat.position.index >= self.committed_before
        });
        near && self.detector.health(token) == Health::Alive
    }

    fn hand_over(&mut self, term: Term, to: Token) {
        self.open_window(term, to);
        for _ in 0..self.settings.join_copies {
            self.send(None, Message::HandOver { term, to });
        }
    }

    /// Upon HAND_OVER: only from the leader of the highest term known here, for the term that follows, to a seated
    /// and unmuted member. The first one counts; another one only after half an interval, whatever the leader says.
    pub(crate) fn heard_hand_over(&mut self, from: Token, term: Term, to: Token) {
        let Some(next) = self.next_term() else { return };
        if term > next {
            self.effects.push_back(Effect::LookAtChain);
            return;
        }
        let gives = self.holds_office(from) && from != self.me.token && term == next;
        let soon = self.called_within(self.call_interval_ms() / 2);
        if gives && !soon && self.may_be_named(to) {
            self.open_window(term, to);
        }
    }

    /// Contract and log name it, in the incarnation that speaks.
    pub(crate) fn holds_office(&self, token: Token) -> bool {
        let Some(view) = &self.chain else {
            return false;
        };
        let elected = view
            .member(token)
            .is_some_and(|m| m.incarnation == view.leader_incarnation);
        let named = view.leader == Some(token) && self.leader() == Some(token);
        elected && named && view.term == self.highest_term()
    }

    fn may_be_named(&self, to: Token) -> bool {
        if to == self.me.token {
            return self.is_voter() && self.mute.may_speak();
        }
        self.may_elect(to) && self.peers.get(&to).is_some_and(|beat| !beat.muted)
    }

    fn open_window(&mut self, term: Term, to: Token) {
        self.called_at = Some(self.now);
        self.hand_over = Some(HandOver {
            term,
            to,
            since: self.now,
            until: self.now + self.window_ms(),
        });
        self.notice(Notice::HandsOver { term, to });
        if to == self.me.token {
            self.free_step();
        }
        self.act_due = self.now;
    }

    /// Whom the leader in office names for the term that follows, while the window is open.
    pub(crate) fn handed_to(&self) -> Option<Token> {
        let open = |h: &HandOver| self.now < h.until && self.next_term() == Some(h.term);
        self.hand_over.filter(open).map(|h| h.to)
    }

    /// We are named, and may stand although the leader lives.
    pub(crate) fn is_named(&self) -> bool {
        self.mute.may_speak() && self.handed_to() == Some(self.me.token)
    }

    /// A leader signs for another only by facts that are newer than its last stroke.
    pub(crate) fn knows_its_last_stroke(&self) -> bool {
        self.won().is_none() || self.hand_over.is_some_and(|h| self.ticked > h.since)
    }

    fn called_within(&self, ms: u64) -> bool {
        self.called_at.is_some_and(|at| self.now - at < ms)
    }

    /// How long a hand-over loosens the rule.
    fn window_ms(&self) -> u64 {
        self.settings.gather_ms + self.settings.ok_wait_ms
    }

    /// Windows never overlap, however long the waits are set.
    fn call_interval_ms(&self) -> u64 {
        self.settings.call_interval_ms.max(2 * self.window_ms())
    }
}
