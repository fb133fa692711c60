//! What nobody may break, looked at after every step:
//! one leader per term, nothing committed is lost, a muted node signs nothing outside a cold start.

use crate::engine::{Body, Entry};
use crate::world::{World, pair};
use std::collections::{BTreeMap, BTreeSet};
use synod_cluster::{Effect, Mute};
use synod_wire::{Incarnation, Message, Term, Token};

/// How stale a muted node's picture of the others may be.
const PICTURE_MS: u64 = 1_500;

#[derive(Default)]
pub struct Judge {
    /// What was ever committed anywhere, in order.
    pub truth: Vec<Entry>,
    /// Who was in office in which term.
    office: BTreeMap<Term, Token>,
    /// When this node last lacked an unmuted majority around it.
    lacked: BTreeMap<Token, u64>,
    elected: BTreeMap<Term, (Token, u64)>,
    /// Who answered the JOIN of which boot.
    pub baselines: BTreeMap<(Token, Incarnation), Token>,
    pub synchronized: BTreeSet<(Token, Incarnation)>,
    pub violations: Vec<String>,
}

impl Judge {
    pub fn elected(&mut self, term: Term, candidate: Token, now: u64) {
        if self.elected.insert(term, (candidate, now)).is_some() {
            self.violations
                .push(format!("two elections of term {term}"));
        }
    }

    /// Elections whose winner never got its TermStart committed.
    pub fn lost_elections(&self) -> Vec<Term> {
        let started = |term: &Term| {
            let is_start = |e: &Entry| matches!(&e.body, Body::TermStart(t, ..) if t == term);
            self.truth.iter().any(is_start)
        };
        self.elected
            .keys()
            .copied()
            .filter(|term| !started(term))
            .collect()
    }
}

impl World {
    pub fn violation(&mut self, what: String) {
        self.note(format!("VIOLATION: {what}"));
        self.judge.violations.push(what);
    }

    pub fn judge_now(&mut self) {
        for token in self.tokens() {
            self.judge_commits(token);
            self.judge_office(token);
            self.watch_majority(token);
        }
    }

    fn judge_commits(&mut self, token: Token) {
        let disk = &self.nodes[&token].engine.disk;
        let truth = &self.judge.truth;
        let known = disk.committed.min(truth.len());
        let agrees = known == 0 || disk.log[known - 1] == truth[known - 1];
        let news: Vec<Entry> = disk.log[known..disk.committed].to_vec();
        if !agrees {
            return self.violation(format!("{token} committed something else at {known}"));
        }
        for entry in news {
            if let Body::TermStart(term, leader, _) = &entry.body
                && self.judge.elected.get(term).map(|(who, _)| who) != Some(leader)
            {
                self.violation(format!("{leader} leads term {term} without an election"));
            }
            self.judge.truth.push(entry);
        }
    }

    fn judge_office(&mut self, token: Token) {
        let node = &self.nodes[&token];
        let Some(term) = node
            .cluster
            .as_ref()
            .filter(|c| c.in_office())
            .map(|c| c.highest_term())
        else {
            return;
        };
        // a later winner commits before its TermStart does; the older office is over then, and cannot know it yet
        let newest = self.judge.elected.keys().next_back().copied();
        let holder = *self.judge.office.entry(term).or_insert(token);
        let len = self.judge.truth.len();
        let holds = len == 0 || node.engine.disk.log.get(len - 1) == self.judge.truth.last();
        if holder != token {
            self.violation(format!("{holder} and {token} in office in term {term}"));
        }
        if newest.is_none_or(|newest| term >= newest) && !holds {
            self.violation(format!(
                "{token} is in office without entry {len} that was committed"
            ));
        }
    }

    fn watch_majority(&mut self, token: Token) {
        let unmuted = |other: &Token| {
            let node = &self.nodes[other];
            let near = *other == token || !self.network.udp_cut.contains(&pair(token, *other));
            near && !node.paused && node.cluster.as_ref().is_some_and(|c| c.mute().may_speak())
        };
        let seated: Vec<Token> = self
            .tokens()
            .into_iter()
            .filter(|t| self.contract.is_seated(*t))
            .collect();
        if seated.iter().filter(|t| unmuted(t)).count() * 2 <= seated.len() {
            self.judge.lacked.insert(token, self.now);
        }
    }

    /// `was`: muted or not before the event that led to this effect.
    pub fn check_muted_signer(&mut self, token: Token, was: Mute, effect: &Effect) {
        let signs = match effect {
            Effect::Send {
                message: Message::Ballot { muted, .. },
                ..
            } => Some(*muted),
            Effect::Send {
                message: Message::BallotRequest { cold_start, .. },
                ..
            } => Some(*cold_start),
            _ => None,
        };
        let (Some(says_so), Mute::Muted { .. }) = (signs, was) else {
            return;
        };
        let unmuted_since = |c: &synod_cluster::Cluster| c.mute().may_speak();
        if self.nodes[&token]
            .cluster
            .as_ref()
            .is_some_and(unmuted_since)
        {
            return;
        }
        let lacked = self.judge.lacked.get(&token).copied().unwrap_or(0);
        if !says_so || self.now - lacked > PICTURE_MS {
            self.violation(format!("{token} signs although it is muted"));
        }
    }
}
