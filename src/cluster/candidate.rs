//! Bully, the proposing half: upon "the leader is gone", ask those that rank higher; if none answers,
//! gather ballots and hand the certificate to the contract. Rank = (log position, id): a plain highest-id
//! rule picks nodes that the engine must refuse for ever (attack F9). Every wait ends by itself.

use crate::{Cluster, Effect, Health, Notice};
use std::collections::BTreeSet;
use synod_wire::ballot::{Ballot, Certificate, SignedBallot};
use synod_wire::message::BallotRefusal;
use synod_wire::{LogPosition, Message, Term, Token};

/// Where our own election stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing under way; not before `until`.
    Idle { until: u64 },
    /// ELECTION is out; whoever ranks higher says OK.
    AwaitOk { term: Term, until: u64 },
    /// Somebody higher lives: it has this long to lead.
    AwaitCoordinator { until: u64 },
    /// Ballots come in.
    Gathering {
        ballot: Ballot,
        signed: Vec<SignedBallot>,
        muted: Vec<Token>,
        cold: bool,
        until: u64,
        ask: u64,
    },
    /// The certificate is with the contract.
    Submitted { term: Term, until: u64 },
}

impl Step {
    pub(crate) fn is_candidate(&self) -> bool {
        matches!(self, Self::Gathering { .. } | Self::Submitted { .. })
    }
}

/// How often ballots are asked for again while they are missing.
const ASK_AGAIN_MS: u64 = 150;

impl Cluster {
    /// What an election of ours needs next.
    pub(crate) fn elect(&mut self) {
        let named = self.is_named();
        if !named && !self.leader_gone() {
            self.gone_said = None;
            self.candidacy_said = None;
            self.free_step();
            return;
        }
        if !self.is_voter() || !(self.mute.may_speak() || self.starts_cold()) {
            return;
        }
        match &self.step {
            Step::Idle { until } if self.now >= *until && named => self.stand_as_named(),
            Step::Idle { until } if self.now >= *until => self.begin(),
            Step::AwaitOk { term, until } if self.now >= *until => {
                let term = *term;
                self.stand(term);
            }
            Step::AwaitCoordinator { until } | Step::Submitted { until, .. }
                if self.now >= *until =>
            {
                self.step = Step::Idle { until: self.now };
            }
            Step::Gathering { until, .. } if self.now >= *until => {
                self.step = Step::Idle {
                    until: self.now + self.settings.heartbeat_ms,
                };
            }
            Step::Gathering { ask, .. } if self.now >= *ask => self.ask_for_ballots(),
            Step::Idle { .. }
            | Step::AwaitOk { .. }
            | Step::AwaitCoordinator { .. }
            | Step::Gathering { .. }
            | Step::Submitted { .. } => {}
        }
    }

    /// Whatever we were doing, something else may begin.
    pub(crate) fn free_step(&mut self) {
        self.step = Step::Idle { until: self.now };
    }

    /// The leader in office named us: nobody has to be asked who ranks higher.
    fn stand_as_named(&mut self) {
        if let Some(term) = self.next_term() {
            self.stand(term);
        }
    }

    fn begin(&mut self) {
        let Some(term) = self.next_term() else { return };
        if self
            .chain
            .as_ref()
            .is_some_and(|v| v.elected_block == 0 && v.seated_count < v.founders)
        {
            return;
        }
        // whoever registered a moment ago may rank higher: at the first election this decides who leads
        if self
            .voters()
            .into_iter()
            .any(|token| self.detector.is_newcomer(self.now, token))
        {
            return;
        }
        if self.gone_said != Some(term) {
            self.gone_said = Some(term);
            self.notice(Notice::LeaderGone(term));
            if self.failed_in_office() {
                let turn = 2 * self.settings.ok_wait_ms + self.settings.gather_ms;
                self.step = Step::Idle {
                    until: self.now + turn,
                };
                return;
            }
        }
        if self.chain_silent {
            return;
        }
        let higher = self.higher();
        if higher.is_empty() {
            return self.stand(term);
        }
        for token in higher {
            self.send(
                Some(token),
                Message::Election {
                    term,
                    position: self.engine.position,
                },
            );
        }
        self.step = Step::AwaitOk {
            term,
            until: self.now + self.settings.ok_wait_ms,
        };
    }

    /// Live voters that outrank us and may lead.
    fn higher(&self) -> Vec<Token> {
        let mine = (self.engine.position, self.me.token);
        let cold = self.starts_cold();
        self.voters()
            .into_iter()
            .filter(|token| {
                *token != self.me.token && self.detector.health(*token) != Health::Failed
            })
            .filter(|token| self.may_elect(*token) && !self.has_yielded_to(*token))
            .filter(|token| {
                self.peers
                    .get(token)
                    .is_some_and(|beat| (cold || !beat.muted) && (beat.position, *token) > mine)
            })
            .collect()
    }

    fn stand(&mut self, term: Term) {
        let Some(view) = &self.chain else { return };
        if self.next_term() != Some(term) || self.chain_silent {
            self.step = Step::Idle { until: self.now };
            return;
        }
        let deadline = view.block.time + self.settings.ballot_ttl_s;
        let ballot = Ballot {
            term,
            candidate: self.me.token,
            anchor: view.anchor,
            deadline,
        };
        let own = self
            .me
            .domain
            .sign(&self.me.session, self.me.token, &ballot);
        let cold = self.starts_cold();
        let muted = if self.mute.may_speak() {
            Vec::new()
        } else {
            vec![self.me.token]
        };
        self.step = Step::Gathering {
            ballot,
            signed: vec![own],
            muted,
            cold,
            until: self.now + self.settings.gather_ms,
            ask: self.now,
        };
        self.say_candidacy(term);
        self.ask_for_ballots();
        self.finish_if_enough();
    }

    /// Without a majority we stand again and again: people hear of it once, and again when somebody came or went.
    fn say_candidacy(&mut self, term: Term) {
        let mut present = self.voters();
        present.retain(|token| self.detector.health(*token) != Health::Failed);
        let candidacy = Some((term, present));
        if self.candidacy_said != candidacy {
            self.candidacy_said = candidacy;
            self.notice(Notice::Candidate(term));
        }
    }

    /// To every seated member that has not answered: frames get lost.
    fn ask_for_ballots(&mut self) {
        let position = self.engine.position;
        let voters = self.voters();
        let Step::Gathering {
            ballot,
            signed,
            cold,
            ask,
            ..
        } = &mut self.step
        else {
            return;
        };
        *ask = self.now + ASK_AGAIN_MS;
        let (ballot, cold_start) = (*ballot, *cold);
        let missing: Vec<Token> = voters
            .into_iter()
            .filter(|t| !signed.iter().any(|s| s.token == *t))
            .collect();
        for token in missing {
            self.send(
                Some(token),
                Message::BallotRequest {
                    ballot,
                    position,
                    cold_start,
                },
            );
        }
    }

    pub(crate) fn heard_ballot(
        &mut self,
        from: Token,
        ballot: Ballot,
        signature: [u8; 64],
        muted: bool,
    ) {
        // the contract refuses a certificate with the ballot of an expired member whole
        if !self.may_elect(from) {
            return;
        }
        let Some(key) = self.seated().find(|m| m.token == from).map(|m| m.session) else {
            return;
        };
        let said = SignedBallot {
            token: from,
            signature,
        };
        let domain = self.me.domain;
        let Step::Gathering {
            ballot: mine,
            signed,
            muted: mutes,
            ..
        } = &mut self.step
        else {
            return;
        };
        let known = signed.iter().any(|s| s.token == from);
        if ballot != *mine || known || !domain.verify(&key, mine, &said) {
            return;
        }
        signed.push(said);
        if muted {
            mutes.push(from);
        }
        self.finish_if_enough();
    }

    fn finish_if_enough(&mut self) {
        let Some(quorum) = self.chain.as_ref().map(|view| view.quorum()) else {
            return;
        };
        let Step::Gathering {
            ballot,
            signed,
            muted,
            ..
        } = &mut self.step
        else {
            return;
        };
        if (signed.len() as u64) < quorum {
            return;
        }
        let mut signatures = std::mem::take(signed);
        signatures.sort_by_key(|s| s.token);
        let ballot = *ballot;
        self.voted_muted = std::mem::take(muted);
        self.voted_muted.sort();
        self.step = Step::Submitted {
            term: ballot.term,
            until: self.now + self.settings.submit_ms,
        };
        // our own ballot leaves us here, and binds from here: before, nobody else could count it
        self.promise_for(&ballot);
        self.vote_by_disk(ballot.term);
        self.effects
            .push_back(Effect::Elect(Certificate { ballot, signatures }));
    }

    /// Our transaction is mined (the contract's view follows), or it failed: again after a breath.
    pub(crate) fn submitted(&mut self, term: Term, mined: bool) {
        if let Step::Submitted { term: ours, .. } = self.step
            && ours == term
            && !mined
        {
            self.step = Step::Idle {
                until: self.now + self.settings.heartbeat_ms,
            };
            self.effects.push_back(Effect::LookAtChain);
        }
    }

    /// Upon ELECTION of a lower-ranked node: we live. Whoever sees the leader gone too elects by itself.
    pub(crate) fn heard_election(&mut self, from: Token, term: Term, position: LogPosition) {
        if self.in_office() {
            let block = self.chain.as_ref().map_or(0, |view| view.elected_block);
            let term = self.highest_term();
            return self.send(Some(from), Message::Coordinator { term, block });
        }
        let outranked = (self.engine.position, self.me.token) > (position, from);
        let eligible = self.is_voter()
            && (self.mute.may_speak() || self.starts_cold())
            && !self.chain_silent
            && !self.failed_in_office();
        if outranked && eligible && self.next_term() == Some(term) {
            self.send(
                Some(from),
                Message::Ok {
                    term,
                    position: self.engine.position,
                },
            );
            self.act_due = self.now;
        }
    }

    pub(crate) fn heard_ok(&mut self, from: Token, term: Term, position: LogPosition) {
        let outranks = (position, from) > (self.engine.position, self.me.token);
        if outranks && self.next_term() == Some(term) {
            self.yield_to(term, from);
        }
        if matches!(self.step, Step::AwaitOk { term: asked, .. } if asked == term) && outranks {
            let wait = 2 * self.settings.ok_wait_ms + self.settings.gather_ms;
            self.step = Step::AwaitCoordinator {
                until: self.now + wait,
            };
        }
    }

    pub(crate) fn heard_ballot_refused(&mut self, _from: Token, term: Term, reason: BallotRefusal) {
        let asked = matches!(&self.step, Step::Gathering { ballot, .. } if ballot.term == term);
        if asked && matches!(reason, BallotRefusal::Term | BallotRefusal::Deadline) {
            self.effects.push_back(Effect::LookAtChain);
        }
    }

    /// The contract names us, and yet we do not lead: our engine hangs or cannot win (attack F7). Rank alone
    /// would elect us again and again, so it is the others' turn first.
    fn failed_in_office(&self) -> bool {
        let view = self.chain.as_ref();
        view.is_some_and(|v| v.leader == Some(self.me.token)) && !self.engine.leading
    }

    /// Whoever says OK gets its turn once a term: a live node that cannot be elected (no gas, no chain) must not
    /// keep the others waiting for ever.
    fn yield_to(&mut self, term: Term, token: Token) {
        if self.yielded.0 != term {
            self.yielded = (term, BTreeSet::new());
        }
        self.yielded.1.insert(token);
    }

    fn has_yielded_to(&self, token: Token) -> bool {
        self.next_term() == Some(self.yielded.0) && self.yielded.1.contains(&token)
    }

    /// Seated and not expired by the newest block: the contract counts its ballot.
    pub(crate) fn may_elect(&self, token: Token) -> bool {
        let time = self.chain.as_ref().map_or(u64::MAX, |view| view.block.time);
        self.seated()
            .any(|m| m.token == token && m.expires_at > time)
    }

    pub(crate) fn next_term(&self) -> Option<Term> {
        self.chain.as_ref()?.term.0.checked_add(1).map(Term)
    }

    pub(crate) fn is_voter(&self) -> bool {
        if !self.may_elect(self.me.token) {
            return false;
        }
        let me = self.me.token;
        let incarnation = self.me.incarnation;
        self.seated()
            .any(|m| m.token == me && m.incarnation == incarnation)
    }
}
