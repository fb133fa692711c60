//! Who holds the office, when it counts as empty, and what its winner does next. The highest term
//! known counts, whether the contract or the log told it; of equal terms the log's first TermStart is right
//! for ever (attack F8).

use crate::{Cluster, Effect, Health, Notice};
use synod_wire::message::Role;
use synod_wire::{Message, Term, Token};

impl Cluster {
    /// The highest term that the contract or the log shows.
    pub fn highest_term(&self) -> Term {
        let contract = self.chain.as_ref().map(|view| view.term);
        let log = self.engine.log_term.map(|(term, _)| term);
        contract.max(log).unwrap_or_default()
    }

    /// Whom the highest term known here names; none = vacant.
    pub fn leader(&self) -> Option<Token> {
        let contract = self.chain.as_ref().map_or(Term(0), |view| view.term);
        match self.engine.log_term {
            Some((term, leader)) if term >= contract => Some(leader),
            _ => self.chain.as_ref().and_then(|view| view.leader),
        }
    }

    /// The contract names us for a term that the log has not given to somebody else.
    pub fn won(&self) -> Option<Term> {
        let view = self.chain.as_ref()?;
        let mine =
            view.leader == Some(self.me.token) && view.leader_incarnation == self.me.incarnation;
        let log_agrees = match self.engine.log_term {
            Some((term, leader)) => {
                term < view.term || term == view.term && leader == self.me.token
            }
            None => true,
        };
        (mine && log_agrees).then_some(view.term)
    }

    /// In office: named by the contract, TermStart committed, engine's lease alive.
    pub fn in_office(&self) -> bool {
        self.won()
            .is_some_and(|term| self.engine.log_term == Some((term, self.me.token)))
            && self.engine.leading
    }

    /// Design section 8: FAILED; or vacant, or held by an older incarnation; or for the fail time no append of the
    /// leader in office reached us. A process that beats but does not lead is gone.
    pub fn leader_gone(&self) -> bool {
        let Some(view) = &self.chain else {
            return false;
        };
        if self.engine.log_term.is_some_and(|(term, leader)| {
            term > view.term || term == view.term && Some(leader) != view.leader
        }) {
            return true;
        }
        let Some(leader) = view.leader else {
            return true;
        };
        let current = view
            .member(leader)
            .is_some_and(|m| m.incarnation == view.leader_incarnation);
        if !current {
            return true;
        }
        if self.detector.has_left(leader) {
            return true;
        }
        let settled = self.now - self.term_since >= self.settings.office_grace_ms
            && !self.detector.was_starved(self.now);
        if leader == self.me.token {
            return settled && !self.engine.leading;
        }
        let silent = self
            .engine
            .append_age_ms
            .is_none_or(|age| age >= self.settings.fail_ms)
            && !self.rests_its_appends(leader);
        self.detector.health(leader) == Health::Failed && (settled || self.ever_heard(leader))
            || settled && silent
    }

    /// Our own promise keeps out the appends of a leader that still claims its quorum: that is no silence.
    /// Otherwise a signer of a lost election would call for new ones, and renew its promise, for ever.
    fn rests_its_appends(&self, leader: Token) -> bool {
        let promised = self.promise.is_some_and(|p| {
            self.now < p.until_ms + self.settings.fail_ms && p.term > self.highest_term()
        });
        promised
            && self
                .peers
                .get(&leader)
                .is_some_and(|beat| beat.role == Role::Leader && beat.term == self.highest_term())
    }

    fn ever_heard(&self, token: Token) -> bool {
        self.detector
            .iter(self.now)
            .any(|(t, _, age)| t == token && age != u64::MAX)
    }

    pub(crate) fn lead_or_elect(&mut self) {
        if let Some(term) = self.won() {
            // A muted winner stays outside: its engine would vote for itself by a disk that may be an older one. It
            // was elected with a ballot of its former session, or by others; after the grace they elect again.
            if self.mute.may_vote() {
                self.take_office(term);
            }
            if !self.leader_gone() && !self.is_named() {
                // a hand-over that has run out is over
                self.free_step();
                return;
            }
        }
        self.elect();
    }

    /// The winner's steps, each repeated until the facts show it done.
    fn take_office(&mut self, term: Term) {
        if self.in_office() {
            return self.announce(term);
        }
        if !self.engine.born {
            self.birth(term);
        } else if !self.engine.leading {
            self.effects.push_back(Effect::Seek);
        } else {
            let voted_muted = self.voted_muted.clone();
            self.effects
                .push_back(Effect::StartTerm { term, voted_muted });
        }
    }

    /// Only a node that was here before the first election gives birth to the log: whoever restarted since
    /// cannot know that its empty disk is the whole truth.
    fn birth(&mut self, term: Term) {
        if !self.me.restarted {
            let members = self.voters().into_iter().collect();
            self.effects.push_back(Effect::Birth(members));
        } else if self.gone_said != Some(term) {
            self.gone_said = Some(term);
            self.notice(Notice::NoLog(term));
        }
    }

    fn announce(&mut self, term: Term) {
        if self.announced == Some(term) {
            return;
        }
        self.announced = Some(term);
        self.notice(Notice::Leading(term));
        let block = self.chain.as_ref().map_or(0, |view| view.elected_block);
        for _ in 0..self.settings.join_copies {
            self.send(None, Message::Coordinator { term, block });
        }
    }
}
