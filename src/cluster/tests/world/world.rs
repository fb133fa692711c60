//! Nodes, time and the network. `step` is ten milliseconds: what is due arrives, machines tick, effects are
//! performed, then the judge looks.

use crate::contract::{Contract, DOMAIN};
use crate::dice::Dice;
use crate::engine::{Body, Disk, Engine};
use crate::judge::Judge;
use crate::said::{list, said};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use synod_cluster::{Cluster, Effect, Event, Identity, Mute, Settings};
use synod_wire::{
    Authentic, Certificate, ChainView, Incarnation, Message, SessionKey, Term, Token,
};

pub const STEP_MS: u64 = 10;
const POLL_MS: u64 = 250;
const ENGINE_BEAT_MS: u64 = 50;

/// Faults that are switched on in the model, never in the code under test.
#[derive(Clone, Copy, Default)]
pub struct Bugs {
    pub gate_ignores_promise: bool,
    pub restarts_unmuted: bool,
    pub leader_keeps_writing: bool,
}

pub struct Node {
    pub cluster: Option<Cluster>,
    pub incarnation: Incarnation,
    pub session: Arc<SessionKey>,
    pub engine: Engine,
    /// An older state of the disk.
    pub backup: Disk,
    pub view: Option<ChainView>,
    pub look_due: u64,
    /// As leader: when the next seat is asked for.
    pub seat_due: u64,
    pub paused: bool,
    pub rpc_down: bool,
    /// The cluster machine hangs up its engine: it beats, but it does not lead.
    pub hung: bool,
    pub boots_at: Option<u64>,
}

pub enum Due {
    Frame(Token, Incarnation, Authentic<Message>),
    View(Token, Incarnation, ChainView),
    Submit(Token, Incarnation, Certificate),
    Mined(Token, Incarnation, Term, bool),
    /// The leader asks the contract to seat a member.
    Seat(Token, Incarnation, Token),
}

pub struct Network {
    pub loss_percent: u64,
    pub delay_max_ms: u64,
    /// Pairs, lower token first.
    pub udp_cut: BTreeSet<(Token, Token)>,
    pub links_cut: BTreeSet<(Token, Token)>,
}

pub struct World {
    pub now: u64,
    pub nodes: BTreeMap<Token, Node>,
    pub contract: Contract,
    pub network: Network,
    pub bugs: Bugs,
    pub dice: Dice,
    pub judge: Judge,
    pub settings: Settings,
    /// Readable history.
    pub trace: Vec<String>,
    pub diverged: u64,
    pub last_join_response: BTreeMap<Token, Authentic<Message>>,
    pub due: BTreeMap<(u64, u64), Due>,
    pub sequence: u64,
    writes: u64,
    pub sealed: BTreeMap<(Token, u64, u8, Vec<u8>), Authentic<Message>>,
}

impl Node {
    pub fn new() -> Self {
        Self {
            cluster: None,
            incarnation: Incarnation(0),
            session: session(Token(0), Incarnation(0)),
            engine: Engine::default(),
            backup: Disk::default(),
            view: None,
            look_due: 0,
            seat_due: 0,
            paused: false,
            rpc_down: false,
            hung: false,
            boots_at: None,
        }
    }
}

pub fn pair(a: Token, b: Token) -> (Token, Token) {
    (a.min(b), a.max(b))
}

impl World {
    /// `n` registered tokens, no node started; a network without loss and 5 ms of delay.
    pub fn new(n: u64, seed: u64) -> Self {
        Self {
            now: 1_000,
            nodes: (1..=n).map(|token| (Token(token), Node::new())).collect(),
            contract: Contract::new(n),
            network: Network {
                loss_percent: 0,
                delay_max_ms: 5,
                udp_cut: BTreeSet::new(),
                links_cut: BTreeSet::new(),
            },
            bugs: Bugs::default(),
            dice: Dice::new(seed),
            judge: Judge::default(),
            settings: Settings::lan(),
            trace: Vec::new(),
            diverged: 0,
            last_join_response: BTreeMap::new(),
            due: BTreeMap::new(),
            sequence: 0,
            writes: 0,
            sealed: BTreeMap::new(),
        }
    }

    pub fn node(&mut self, token: Token) -> &mut Node {
        self.nodes
            .get_mut(&token)
            .expect("the world has this token")
    }

    pub fn tokens(&self) -> Vec<Token> {
        self.nodes.keys().copied().collect()
    }

    pub fn all_but(&self, token: Token) -> Vec<Token> {
        self.nodes.keys().copied().filter(|t| *t != token).collect()
    }

    pub fn advance(&mut self, ms: u64) {
        let end = self.now + ms;
        while self.now < end {
            self.step();
        }
    }

    fn step(&mut self) {
        self.now += STEP_MS;
        for token in self.tokens() {
            self.boot_if_due(token);
            self.look_if_due(token);
        }
        while let Some(entry) = self.due.first_entry().filter(|e| e.key().0 <= self.now) {
            let due = entry.remove();
            self.arrive(due);
        }
        for token in self.tokens() {
            self.tick(token);
        }
        self.judge_now();
    }

    // ---- what happens to nodes

    pub fn start(&mut self, token: Token) {
        let now = self.now;
        self.node(token).boots_at = Some(now);
    }

    pub fn kill(&mut self, token: Token) {
        let node = self.node(token);
        node.cluster = None;
        node.view = None;
        node.paused = false;
        node.hung = false;
        node.boots_at = None;
        let disk = std::mem::take(&mut node.engine).disk;
        node.engine.disk = disk;
        self.note(format!("{token}: killed"));
    }

    /// Registers anew and begins; without the chain it waits.
    fn boot_if_due(&mut self, token: Token) {
        let now = self.now;
        let node = &self.nodes[&token];
        if node.rpc_down || node.boots_at.is_none_or(|at| now < at) {
            return;
        }
        let next = Incarnation(node.incarnation.0 + 1);
        let session = session(token, next);
        let (incarnation, vacated) = self.contract.register(now, token, session.public());
        let view = self.contract.read(now);
        assert_eq!(incarnation, next, "one registration per boot");
        let restarted = view.elected_block != 0 && !self.bugs.restarts_unmuted;
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&token.0.to_be_bytes());
        nonce[8..].copy_from_slice(&incarnation.0.to_be_bytes());
        let me = Identity {
            token,
            incarnation,
            registered_term: view.term,
            restarted,
            session: Arc::clone(&session),
            domain: DOMAIN,
            nonce,
            http: format!("127.0.0.1:{}", 8_080 + token.0),
        };
        let mut cluster = Cluster::new(self.settings.clone(), me, now);
        cluster.handle(now, Event::Chain(view.clone()));
        let node = self.node(token);
        node.boots_at = None;
        node.incarnation = incarnation;
        node.session = session;
        node.view = Some(view);
        node.cluster = Some(cluster);
        let end = if vacated { ", its office ends" } else { "" };
        self.note(format!(
            "{token}: registers, incarnation {incarnation}{end}"
        ));
    }

    pub fn look_now(&mut self, token: Token) {
        self.node(token).look_due = self.now;
    }

    fn look_if_due(&mut self, token: Token) {
        let now = self.now;
        let node = &self.nodes[&token];
        let down = node.rpc_down || node.paused || node.cluster.is_none();
        let silent = node.rpc_down && !node.paused && node.cluster.is_some();
        let incarnation = node.incarnation;
        if now < node.look_due {
            return;
        }
        self.node(token).look_due = now + POLL_MS;
        if silent {
            self.tell(token, Event::ChainSilent);
        }
        if !down {
            let view = self.contract.read(now);
            let delay = self.dice.between(5, 30);
            self.later(delay, Due::View(token, incarnation, view));
        }
    }

    fn tick(&mut self, token: Token) {
        let now = self.now;
        let fail_ms = self.settings.fail_ms;
        let node = self.node(token);
        let Some(cluster) = &mut node.cluster else {
            return;
        };
        if node.paused {
            return;
        }
        let was = cluster.mute();
        if now >= cluster.deadline() {
            let mut facts = node.engine.facts(now, token, fail_ms);
            facts.leading &= !node.hung;
            cluster.handle(now, Event::Tick(facts));
        }
        self.perform(token, was);
        let node = self.node(token);
        if node.engine.leads && !node.hung && now >= node.engine.beat_due {
            node.engine.beat_due = now + ENGINE_BEAT_MS;
            self.append_to_all(token);
        }
        self.seat_who_caught_up(token);
    }

    // ---- effects

    pub fn perform(&mut self, token: Token, was: Mute) {
        while let Some(effect) = self
            .node(token)
            .cluster
            .as_mut()
            .and_then(|cluster| cluster.poll())
        {
            self.check_muted_signer(token, was, &effect);
            self.check_unseated(token, &effect);
            self.check_join(token, &effect);
            match effect {
                Effect::Send { to, message } => {
                    if let Message::BallotRefused { reason, .. } = &message {
                        let to = to.unwrap_or_default();
                        self.note(format!("{token}: refuses {to} its ballot: {reason:?}"));
                    }
                    self.send(token, to, &message);
                }
                Effect::Elect(certificate) => self.elect(token, certificate),
                Effect::Birth(members) => self.birth(token, members),
                Effect::Seek => {
                    if !self.nodes[&token].hung {
                        self.seek(token);
                    }
                }
                Effect::StartTerm { term, voted_muted } => {
                    self.start_term(token, term, voted_muted);
                }
                Effect::LookAtChain => self.look_now(token),
                Effect::Baseline { .. } => {}
                Effect::Notice(notice) => self.note(format!("{token}: {}", said(&notice))),
            }
        }
    }

    fn elect(&mut self, token: Token, certificate: Certificate) {
        let node = &self.nodes[&token];
        let (incarnation, term, down) = (node.incarnation, certificate.ballot.term, node.rpc_down);
        if down {
            self.later(1_000, Due::Mined(token, incarnation, term, false));
        } else {
            let delay = self.dice.between(10, 60);
            self.later(delay, Due::Submit(token, incarnation, certificate));
        }
    }

    fn birth(&mut self, token: Token, members: Vec<Token>) {
        let Some(term) = self.nodes[&token].cluster.as_ref().and_then(Cluster::won) else {
            return;
        };
        let engine = &mut self.node(token).engine;
        if engine.disk.log.is_empty() {
            engine.append_own(Body::Genesis(token, term, members));
            self.note(format!("{token}: gives birth to the log"));
        }
    }

    fn start_term(&mut self, token: Token, term: Term, voted_muted: Vec<Token>) {
        let engine = &mut self.node(token).engine;
        let written = engine
            .disk
            .log
            .iter()
            .any(|e| matches!(&e.body, Body::TermStart(t, l, _) if (*t, *l) == (term, token)));
        if engine.leads && !written {
            let listed = match voted_muted.as_slice() {
                [] => String::new(),
                some => format!(", voted muted {}", list(some)),
            };
            engine.append_own(Body::TermStart(term, token, voted_muted));
            self.note(format!("{token}: writes TermStart {term}{listed}"));
        }
    }

    /// A client increments at whoever is in office.
    pub fn write(&mut self) -> bool {
        let writes_on = self.bugs.leader_keeps_writing;
        let may_write = |t: &Token| writes_on || !self.pen_down(*t);
        let Some(leader) = self.in_office().filter(may_write) else {
            return false;
        };
        self.writes += 1;
        let id = self.writes;
        self.node(leader).engine.append_own(Body::Write(id));
        true
    }

    /// Who is in office in the highest term.
    pub fn in_office(&self) -> Option<Token> {
        let office = |(token, node): (&Token, &Node)| {
            let cluster = node.cluster.as_ref().filter(|c| c.in_office())?;
            Some((cluster.highest_term(), *token))
        };
        let best = self.nodes.iter().filter_map(office).max()?;
        (!self.nodes[&best.1].paused).then_some(best.1)
    }

    /// One leader, known to everybody, nobody muted, everybody seated.
    pub fn is_settled(&self) -> bool {
        let Some(leader) = self.in_office() else {
            return false;
        };
        let seated = self.nodes.keys().all(|t| self.contract.is_seated(*t));
        seated
            && self.nodes.values().all(|node| {
                node.cluster.as_ref().is_some_and(|c| {
                    c.leader() == Some(leader) && c.mute().may_speak() && !c.leader_gone()
                })
            })
    }

    pub fn note(&mut self, line: String) {
        self.trace.push(format!("{:>6} {line}", self.now - 1_000));
    }
}

fn session(token: Token, incarnation: Incarnation) -> Arc<SessionKey> {
    let mut secret = [1; 32];
    secret[8..16].copy_from_slice(&token.0.to_be_bytes());
    secret[16..24].copy_from_slice(&incarnation.0.to_be_bytes());
    Arc::new(SessionKey::from_bytes(&secret).expect("a small number is a key"))
}
