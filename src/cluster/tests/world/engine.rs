//! A model of the log's engine: Raft with elections off, behind the one gate (design section 8). Requests are
//! atomic, but a request or its answer may be lost. The gate asks the node's own cluster machine, as in production.

use crate::world::{Node, World};
use std::collections::BTreeMap;
use synod_cluster::{EngineFacts, Mute};
use synod_wire::{Incarnation, LogPosition, Term, Token};

/// A follower that hears its leader votes for nobody else.
const LEASE_MS: u64 = 300;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Who gave birth, in which term, and the first voters.
    Genesis(Token, Term, Vec<Token>),
    /// The voters from here on; counts as soon as it is written, as in Raft.
    Voters(Vec<Token>),
    /// A new engine leader's empty entry.
    Blank(Token),
    TermStart(Term, Token, Vec<Token>),
    Write(u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub raft_term: u64,
    pub body: Body,
}

/// What survives a crash, unless the host gives back an older one.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub raft_term: u64,
    pub voted_for: Option<Token>,
    pub log: Vec<Entry>,
    pub committed: usize,
}

#[derive(Default)]
pub struct Engine {
    pub disk: Disk,
    pub leads: bool,
    pub beat_due: u64,
    /// Follower: length known to match, time of its last acknowledgement.
    pub acks: BTreeMap<Token, (usize, u64)>,
    /// When the gate admitted the last append.
    pub admitted: Option<u64>,
}

impl Disk {
    pub fn position(&self) -> LogPosition {
        self.log
            .last()
            .map_or(LogPosition::default(), |e| LogPosition {
                raft_term: e.raft_term,
                index: self.log.len() as u64,
            })
    }

    /// Whose acknowledgements and votes count, and the length of the log that says so.
    pub fn voters(&self) -> (&[Token], usize) {
        let named = |(at, entry): (usize, &'_ Entry)| match &entry.body {
            Body::Genesis(..) | Body::Voters(_) => Some(at),
            Body::Blank(_) | Body::TermStart(..) | Body::Write(_) => None,
        };
        match self.log.iter().enumerate().rev().find_map(named) {
            None => (&[], 0),
            Some(at) => match &self.log[at].body {
                Body::Genesis(_, _, voters) | Body::Voters(voters) => (voters, at + 1),
                Body::Blank(_) | Body::TermStart(..) | Body::Write(_) => (&[], 0),
            },
        }
    }

    /// The first TermStart of a term counts, and terms only grow.
    pub fn log_term(&self) -> Option<(Term, Token)> {
        let starts = self.log[..self.committed]
            .iter()
            .filter_map(|e| match &e.body {
                Body::TermStart(term, leader, _) => Some((*term, *leader)),
                Body::Genesis(..) | Body::Voters(_) | Body::Blank(_) | Body::Write(_) => None,
            });
        starts.fold(None, |now, start| match now {
            Some((term, _)) if start.0 <= term => now,
            _ => Some(start),
        })
    }
}

impl Engine {
    pub fn facts(&self, now: u64, me: Token, fail_ms: u64) -> EngineFacts {
        EngineFacts {
            position: self.disk.position(),
            committed: self.disk.committed as u64,
            applied: self.disk.committed as u64,
            born: !self.disk.log.is_empty(),
            leading: self.has_quorum(now, me, fail_ms),
            append_age_ms: self.admitted.map(|at| now - at),
            log_term: self.disk.log_term(),
        }
    }

    /// Leads, and a majority acknowledged it within this time.
    fn has_quorum(&self, now: u64, me: Token, within_ms: u64) -> bool {
        let (voters, _) = self.disk.voters();
        let fresh =
            |t: &&Token| **t == me || self.acks.get(t).is_some_and(|ack| now - ack.1 < within_ms);
        self.leads && voters.iter().filter(fresh).count() > voters.len() / 2
    }

    pub fn append_own(&mut self, body: Body) {
        let raft_term = self.disk.raft_term;
        self.disk.log.push(Entry { raft_term, body });
    }

    fn saw(&mut self, raft_term: u64) {
        if raft_term > self.disk.raft_term {
            self.disk.raft_term = raft_term;
            self.disk.voted_for = None;
            self.leads = false;
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ask {
    Vote,
    Append,
}

impl World {
    /// The gate of `to`. What it learns by refusing, it looks up.
    fn gate(&mut self, from: Token, to: Token, term: Term, ask: Ask) -> bool {
        let now = self.now;
        let blind = self.bugs.gate_ignores_promise;
        let incarnation = self.nodes[&from].incarnation;
        let Some(node) = self.nodes.get_mut(&to) else {
            return false;
        };
        let Some(cluster) = &node.cluster else {
            return false;
        };
        if known_incarnation(node, from) != Some(incarnation) {
            return false;
        }
        let known = cluster.highest_term();
        if term > known {
            node.look_due = now;
        }
        let resting = cluster
            .promise()
            .is_some_and(|p| now < p.until_ms && term < p.term);
        let muted = matches!(cluster.mute(), Mute::Muted { .. });
        let passes = term == known
            && cluster.leader() == Some(from)
            && (blind || !resting)
            && !(muted && ask == Ask::Vote);
        if term < known {
            self.look_now(from);
        }
        passes
    }

    /// `Effect::Seek`: pre-vote, then vote. It never interrupts a leader that is heard.
    pub fn seek(&mut self, from: Token) {
        let Some(term) = self.claim(from) else { return };
        if self.nodes[&from].engine.leads {
            return;
        }
        let willing = |w: &Self, to: Token| {
            let (mine, theirs) = (&w.nodes[&from].engine, &w.nodes[&to].engine);
            let leased = theirs.has_quorum(w.now, to, LEASE_MS)
                || theirs.admitted.is_some_and(|at| w.now - at < LEASE_MS);
            !leased && mine.disk.position() >= theirs.disk.position()
        };
        let voters = self.nodes[&from].engine.disk.voters().0.to_vec();
        if !voters.contains(&from) {
            return;
        }
        let quorum = voters.len() / 2 + 1;
        let others: Vec<Token> = voters.into_iter().filter(|t| *t != from).collect();
        let pre = others.iter().copied().filter(|to| {
            self.request(from, *to)
                && self.gate(from, *to, term, Ask::Vote)
                && willing(self, *to)
                && self.answer()
        });
        if pre.count() + 1 < quorum {
            return;
        }
        let engine = &mut self.node(from).engine;
        engine.disk.raft_term += 1;
        engine.disk.voted_for = Some(from);
        let raft_term = engine.disk.raft_term;
        let mut votes = 1;
        for to in others {
            if !self.request(from, to)
                || !self.gate(from, to, term, Ask::Vote)
                || !willing(self, to)
            {
                continue;
            }
            let peer = &mut self.node(to).engine;
            peer.saw(raft_term);
            let free = peer.disk.voted_for.is_none_or(|other| other == from);
            let theirs = peer.disk.raft_term;
            if theirs == raft_term && free {
                peer.disk.voted_for = Some(from);
                votes += usize::from(self.answer());
            } else if self.answer() {
                self.node(from).engine.saw(theirs);
            }
        }
        let now = self.now;
        let engine = &mut self.node(from).engine;
        if votes >= quorum && engine.disk.raft_term == raft_term {
            engine.leads = true;
            engine.acks.clear();
            engine.beat_due = now;
            engine.append_own(Body::Blank(from));
        }
    }

    /// The engine's heartbeat: everything the follower lacks.
    pub fn append_to_all(&mut self, from: Token) {
        let Some(term) = self.claim(from) else { return };
        for to in self.all_but(from) {
            if self.nodes[&from].engine.leads
                && self.request(from, to)
                && self.gate(from, to, term, Ask::Append)
            {
                self.append(from, to);
            }
        }
        self.commit(from);
    }

    fn append(&mut self, from: Token, to: Token) {
        let (raft_term, committed, log) = {
            let disk = &self.nodes[&from].engine.disk;
            (disk.raft_term, disk.committed, disk.log.clone())
        };
        let now = self.now;
        let peer = &mut self.node(to).engine;
        peer.admitted = Some(now);
        if raft_term < peer.disk.raft_term {
            let theirs = peer.disk.raft_term;
            if self.answer() {
                self.node(from).engine.saw(theirs);
            }
            return;
        }
        peer.saw(raft_term);
        if peer.leads {
            self.violation(format!("{from} and {to} both lead raft term {raft_term}"));
            return;
        }
        let disk = &mut peer.disk;
        let same = disk
            .log
            .iter()
            .zip(&log)
            .take_while(|(a, b)| a == b)
            .count();
        if let (Some(a), Some(b)) = (disk.log.get(same), log.get(same)) {
            if a.raft_term == b.raft_term {
                self.diverged += 1;
                return;
            }
            if same < disk.committed {
                self.violation(format!(
                    "{from} would cut what {to} has committed at {same}"
                ));
                return;
            }
            disk.log.truncate(same);
        }
        disk.log
            .extend_from_slice(&log[disk.log.len().min(log.len())..]);
        disk.committed = disk.committed.max(committed.min(disk.log.len()));
        if self.answer() {
            self.node(from).engine.acks.insert(to, (log.len(), now));
        }
    }

    fn commit(&mut self, from: Token) {
        let engine = &mut self.node(from).engine;
        if !engine.leads {
            return;
        }
        let own = engine.disk.log.len();
        let held = |t: &Token| match engine.acks.get(t) {
            _ if *t == from => own,
            Some((len, _)) => *len,
            None => 0,
        };
        let mut held: Vec<usize> = engine.disk.voters().0.iter().map(held).collect();
        held.sort_unstable_by(|a, b| b.cmp(a));
        let majority = held[held.len() / 2];
        let current = majority > engine.disk.committed
            && engine.disk.log[majority - 1].raft_term == engine.disk.raft_term;
        if current {
            engine.disk.committed = majority;
        }
    }

    /// The term in whose name this node's engine may ask at all.
    fn claim(&self, token: Token) -> Option<Term> {
        self.nodes[&token].cluster.as_ref()?.won()
    }
}

fn known_incarnation(node: &Node, token: Token) -> Option<Incarnation> {
    node.view.as_ref()?.member(token).map(|m| m.incarnation)
}
