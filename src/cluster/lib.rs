//! Who is here, and who leads: detector, Bully, ballots, muting, the winner's steps.
//!
//! Pure: told what happened and what time it is, answers what to do. Bully *proposes*, signed ballots
//! *decide*, the contract *records*, the log *confirms*: nothing in this crate can make two leaders, whatever
//! it gets wrong; it can only elect too often or too late. Design sections 8 and 11.
//!
//! People may force an election (`handover.rs`): the leader in office hands over to the highest id that keeps up. Nobody
//! takes over from a healthy leader unasked.

mod ballots;
mod candidate;
mod detector;
mod events;
mod handover;
mod join;
mod mute;
mod office;
mod settings;

pub use detector::{Detector, Health};
pub use events::{CallRefusal, Effect, EngineFacts, Event, Identity, Notice, Promise};
pub use mute::Mute;
pub use settings::{Settings, SettingsFault};

use handover::{Call, HandOver};
use join::Joined;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use synod_wire::message::{Heartbeat, Role};
use synod_wire::{Authentic, ChainView, Hash, Incarnation, Member, Message, Term, Token};

/// The machine.
pub struct Cluster {
    settings: Settings,
    me: Identity,
    now: u64,
    chain: Option<ChainView>,
    chain_silent: bool,
    /// When this term was first seen here.
    term_since: u64,
    engine: EngineFacts,
    detector: Detector,
    peers: BTreeMap<Token, Heartbeat>,
    mute: Mute,
    promise: Option<Promise>,
    step: candidate::Step,
    /// Who said OK in which term, and so had its turn.
    yielded: (Term, BTreeSet<Token>),
    heartbeat_due: u64,
    join_due: u64,
    joins_left: u32,
    act_due: u64,
    voted_muted: Vec<Token>,
    announced: Option<Term>,
    gone_said: Option<Term>,
    /// The candidacy that people were told of.
    candidacy_said: Option<(Term, BTreeSet<Token>)>,
    cold_since: Option<u64>,
    joined: Joined,
    call: Option<Call>,
    hand_over: Option<HandOver>,
    /// When an election was last forced, as far as we heard.
    called_at: Option<u64>,
    /// Members whose call forced an election of ours, and when.
    callers: BTreeMap<Token, u64>,
    /// Committed at our newest heartbeat, and at the one before it.
    committed_at_beat: u64,
    committed_before: u64,
    ticked: u64,
    effects: VecDeque<Effect>,
}

impl Cluster {
    /// A node that has just registered.
    pub fn new(settings: Settings, me: Identity, now: u64) -> Self {
        let mute = if me.restarted {
            Mute::Muted { target: None }
        } else {
            Mute::Unmuted
        };
        Self {
            detector: Detector::new(&settings),
            joins_left: settings.join_copies,
            settings,
            me,
            now,
            chain: None,
            chain_silent: false,
            term_since: now,
            engine: EngineFacts::default(),
            peers: BTreeMap::new(),
            mute,
            promise: None,
            step: candidate::Step::Idle { until: 0 },
            yielded: (Term(0), BTreeSet::new()),
            heartbeat_due: now,
            join_due: now,
            act_due: now,
            voted_muted: Vec::new(),
            announced: None,
            gone_said: None,
            candidacy_said: None,
            cold_since: None,
            joined: Joined::Asking,
            call: None,
            hand_over: None,
            called_at: None,
            callers: BTreeMap::new(),
            committed_at_beat: 0,
            committed_before: 0,
            ticked: now,
            effects: VecDeque::new(),
        }
    }

    /// Tell what happened at `now` (monotonic milliseconds).
    pub fn handle(&mut self, now: u64, event: Event) {
        self.now = self.now.max(now);
        match event {
            Event::Tick(facts) => {
                self.engine = facts;
                self.tick();
            }
            Event::Frame(frame) => self.hear(frame),
            Event::Chain(view) => {
                self.chain_silent = false;
                self.look(view);
            }
            Event::ChainSilent => self.chain_silent = true,
            Event::CallElection => self.call_election(),
            Event::Elected { term, mined } => self.submitted(term, mined),
        }
    }

    /// What to do next; none = nothing more for now.
    pub fn poll(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When the next tick is wanted at the latest.
    pub fn deadline(&self) -> u64 {
        self.heartbeat_due.min(self.act_due)
    }

    /// May we vote, sign and answer reads?
    pub fn mute(&self) -> Mute {
        self.mute
    }

    /// The newest promise that a ballot of ours made.
    pub fn promise(&self) -> Option<Promise> {
        self.promise
    }

    /// Health of every peer, and what it last said.
    pub fn peers(&self) -> impl Iterator<Item = (Token, Health, u64, Option<&Heartbeat>)> {
        self.detector
            .iter(self.now)
            .map(|(token, health, age)| (token, health, age, self.peers.get(&token)))
    }

    /// What we are at this moment.
    pub fn role(&self) -> Role {
        if self.in_office() {
            Role::Leader
        } else if self.step.is_candidate() {
            Role::Candidate
        } else {
            Role::Follower
        }
    }

    fn tick(&mut self) {
        self.ticked = self.now;
        self.detect();
        if self.now >= self.heartbeat_due {
            self.heartbeat_due = self.now + self.settings.heartbeat_ms;
            self.beat();
        }
        self.join();
        self.watch_cold_start();
        self.unmute_when_caught_up();
        if self.now >= self.act_due {
            self.act_due = self.now + self.settings.act_ms;
            self.repeat_call();
            self.lead_or_elect();
        }
    }

    fn detect(&mut self) {
        for (token, health) in self.detector.advance(self.now) {
            self.notice(match health {
                Health::Suspected => Notice::Suspected(token),
                Health::Failed => Notice::Failed(token),
                Health::Alive => Notice::Alive(token),
            });
        }
    }

    fn beat(&mut self) {
        self.committed_before = self.committed_at_beat;
        self.committed_at_beat = self.engine.committed;
        let beat = Heartbeat {
            role: self.role(),
            muted: !self.mute.may_speak(),
            term: self.highest_term(),
            position: self.engine.position,
            committed: self.engine.committed,
            http: self.me.http.clone(),
            // the shell's: it knows which datagrams arrive
            unheard: Vec::new(),
        };
        self.send(None, Message::Heartbeat(beat));
    }

    /// The contract was read: a later term ends whatever we were doing for an earlier one.
    fn look(&mut self, view: ChainView) {
        let known = self.chain.as_ref();
        if known.is_some_and(|old| old.block.number > view.block.number) {
            return;
        }
        if known.is_none_or(|old| old.term != view.term) {
            self.term_since = self.now;
            self.step = candidate::Step::Idle { until: self.now };
            self.hand_over = None;
        }
        if self.promise.is_some_and(|p| view.term >= p.term) {
            self.promise = None;
        }
        let others: Vec<(Token, Incarnation)> = view
            .members
            .iter()
            .filter(|m| m.active && m.token != self.me.token)
            .map(|m| (m.token, m.incarnation))
            .collect();
        self.detector.follow(self.now, &others);
        self.peers
            .retain(|token, _| self.detector.health(*token) != Health::Failed);
        self.chain = Some(view);
    }

    fn hear(&mut self, frame: Authentic<Message>) {
        let from = frame.from();
        // whoever says that it goes is not back by saying it again
        if *frame.value() != Message::Leave
            && let Some(health) = self.detector.heard(self.now, from)
            && health == Health::Failed
        {
            self.notice(Notice::Alive(from));
        }
        match frame.into_value() {
            Message::Heartbeat(beat) => self.heard_heartbeat(from, beat),
            Message::Join(join) => self.heard_join(from, &join),
            Message::JoinResponse(answer) => self.heard_join_response(from, answer),
            Message::Leave => self.heard_leave(from),
            Message::Election { term, position } => self.heard_election(from, term, position),
            Message::Ok { term, position } => self.heard_ok(from, term, position),
            Message::Coordinator { term, .. } => self.heard_coordinator(term),
            Message::BallotRequest {
                ballot,
                position,
                cold_start,
            } => {
                self.heard_ballot_request(from, ballot, position, cold_start);
            }
            Message::Ballot {
                ballot,
                signature,
                muted,
            } => self.heard_ballot(from, ballot, signature, muted),
            Message::BallotRefused { term, reason, .. } => {
                self.heard_ballot_refused(from, term, reason)
            }
            Message::CallElection { term } => self.heard_call_election(from, term),
            Message::HandOver { term, to } => self.heard_hand_over(from, term, to),
            // the ledger's: here they only say that their sender lives
            Message::TradeRequest(_) | Message::TradeConfirm(_) | Message::CausalAsk(_) => {}
        }
    }

    fn heard_heartbeat(&mut self, from: Token, beat: Heartbeat) {
        if beat.term > self.highest_term() {
            self.effects.push_back(Effect::LookAtChain);
        }
        self.peers.insert(from, beat);
    }

    fn heard_leave(&mut self, from: Token) {
        // LEAVE comes in several copies, because datagrams get lost
        if !self.detector.has_left(from) {
            self.notice(Notice::Left(from));
        }
        self.detector.left(from);
        self.peers.remove(&from);
        self.act_due = self.now;
    }

    fn heard_coordinator(&mut self, term: Term) {
        if term > self.highest_term() {
            self.effects.push_back(Effect::LookAtChain);
        }
    }

    fn send(&mut self, to: Option<Token>, message: Message) {
        self.effects.push_back(Effect::Send { to, message });
    }

    fn notice(&mut self, notice: Notice) {
        self.effects.push_back(Effect::Notice(notice));
    }

    /// Seated members: the electorate of the contract.
    fn seated(&self) -> impl Iterator<Item = &Member> {
        self.chain
            .iter()
            .flat_map(|view| view.members.iter().filter(|m| m.active && m.seated))
    }

    /// A short id of the roster for tests and logs.
    pub fn roster_hash(&self) -> Option<Hash> {
        self.chain.as_ref().map(ChainView::roster_hash)
    }
}
