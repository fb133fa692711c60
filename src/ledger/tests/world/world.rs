//! Nodes, their disks, their network. Time goes in steps of 5 ms.

use crate::dice::Dice;
use crate::judge::{Judge, Said};
use crate::log::{Entry, Log};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use synod_ledger::{
    Accounts, Effect, Event, Facts, Identity, Intent, Ledger, News, Session, Settings, Wish,
};
use synod_wire::seal::{Opener, Sealer, Sessions, Windows};
use synod_wire::trade::{Reply, Side};
use synod_wire::{
    Authentic, ClusterId, Hash, Incarnation, Message, SessionKey, SessionPublic, Token, Wh,
};

pub const STEP_MS: u64 = 5;
pub const CREDIT: Wh = Wh(100_000);
/// Unix milliseconds when the world begins.
const EPOCH_MS: u64 = 1_000_000;

pub fn cluster() -> ClusterId {
    ClusterId(Hash([7; 32]))
}

pub struct Node {
    pub token: Token,
    pub incarnation: Incarnation,
    pub key: Arc<SessionKey>,
    pub ledger: Option<Ledger>,
    pub accounts: Accounts,
    pub applied: usize,
    /// Durable.
    pub outbox: Vec<Intent>,
    pub may_speak: bool,
    /// Its log stands still.
    pub log_paused: bool,
    pub skew_ms: u64,
    pub judge: Judge,
    skipped: u64,
    ticked_at_entry: usize,
}

#[derive(Clone)]
pub enum Due {
    Frame(Token, Arc<Authentic<Message>>, Vec<u8>),
    /// Reaches the log only if its author is still in office.
    Entry(Token, Incarnation, Entry),
}

pub struct World {
    pub now: u64,
    pub dice: Dice,
    pub settings: Settings,
    pub nodes: BTreeMap<Token, Node>,
    pub log: Log,
    pub leader: Option<Token>,
    pub due: BTreeMap<(u64, u64), Due>,
    counter: u64,
    pub loss_percent: u64,
    pub double_percent: u64,
    pub delay_max_ms: u64,
    pub log_loss_percent: u64,
    pub cut: BTreeSet<(Token, Token)>,
    pub said: Said,
    pub trace: Vec<String>,
    pub tickets: u64,
    /// By a node, in its order.
    pub decided: BTreeMap<Token, Vec<synod_wire::TradeId>>,
    /// Somebody says what is no news: what is delivered cannot be told from the news alone.
    pub forged: bool,
    opened: BTreeMap<Vec<u8>, Arc<Authentic<Message>>>,
}

struct Only(Token, Incarnation, SessionPublic);

impl Sessions for Only {
    fn session(&self, token: Token) -> Option<(Incarnation, SessionPublic)> {
        (token == self.0).then_some((self.1, self.2))
    }
}

fn key(token: Token, incarnation: Incarnation) -> Arc<SessionKey> {
    let mut secret = [1; 32];
    secret[..8].copy_from_slice(&token.0.to_be_bytes());
    secret[8..16].copy_from_slice(&incarnation.0.to_be_bytes());
    Arc::new(SessionKey::from_bytes(&secret).unwrap())
}

impl World {
    /// Nodes 1 to n run, are listed and may speak; the highest leads.
    pub fn new(nodes: u64, seed: u64) -> Self {
        Self::with(nodes, seed, Settings::default())
    }

    pub fn with(nodes: u64, seed: u64, settings: Settings) -> Self {
        let mut world = Self {
            now: 0,
            dice: Dice::new(seed),
            settings,
            nodes: BTreeMap::new(),
            log: Log::default(),
            leader: Some(Token(nodes)),
            due: BTreeMap::new(),
            counter: 0,
            loss_percent: 0,
            double_percent: 0,
            delay_max_ms: 10,
            log_loss_percent: 0,
            cut: BTreeSet::new(),
            said: Said::default(),
            trace: Vec::new(),
            tickets: 0,
            decided: BTreeMap::new(),
            forged: false,
            opened: BTreeMap::new(),
        };
        for token in (1..=nodes).map(Token) {
            world.add(token);
        }
        world.write_members();
        for token in world.tokens() {
            world.boot(token);
            world.catch_up(token);
        }
        world.step();
        world
    }

    pub fn tokens(&self) -> Vec<Token> {
        self.nodes.keys().copied().collect()
    }

    pub fn node(&mut self, token: Token) -> &mut Node {
        self.nodes.get_mut(&token).unwrap()
    }

    pub fn note(&mut self, line: String) {
        self.trace.push(format!("{:>6} {line}", self.now));
    }

    /// A member that has never run.
    pub fn add(&mut self, token: Token) {
        let incarnation = Incarnation(1);
        let node = Node {
            token,
            incarnation,
            key: key(token, incarnation),
            ledger: None,
            accounts: Accounts::default(),
            applied: 0,
            outbox: Vec::new(),
            may_speak: false,
            log_paused: false,
            skew_ms: token.0 * 3,
            judge: Judge::default(),
            skipped: 0,
            ticked_at_entry: 0,
        };
        self.nodes.insert(token, node);
    }

    /// The process begins: an empty replica, the durable outbox, the session that is registered.
    pub fn boot(&mut self, token: Token) {
        let settings = self.settings.clone();
        let node = self.node(token);
        let me = Identity {
            token,
            incarnation: node.incarnation,
            cluster: cluster(),
            session: node.key.clone(),
        };
        node.accounts = Accounts::default();
        node.accounts.genesis(cluster(), CREDIT);
        node.applied = 0;
        node.may_speak = false;
        node.log_paused = false;
        node.judge = Judge::default();
        node.skipped = 0;
        node.ticked_at_entry = 0;
        node.ledger = Some(Ledger::new(settings, me));
        let intents = node.outbox.clone();
        if !intents.is_empty() {
            self.tell(token, Event::Restore(intents));
        }
    }

    pub fn kill(&mut self, token: Token) {
        self.node(token).ledger = None;
        if self.leader == Some(token) {
            self.leader = None;
        }
        self.note(format!("{token}: killed"));
    }

    /// Registers again, with a new session.
    pub fn start(&mut self, token: Token) {
        let node = self.node(token);
        node.incarnation.0 += 1;
        node.key = key(token, node.incarnation);
        let incarnation = node.incarnation;
        self.note(format!("{token}: registers, incarnation {incarnation}"));
        self.boot(token);
        self.write_members();
    }

    /// Takes the office: has applied everything.
    pub fn lead(&mut self, token: Token) {
        self.leader = Some(token);
        self.node(token).log_paused = false;
        self.note(format!("{token}: in office"));
        let wall = self.wall(token);
        self.log.write(wall, Entry::Term);
        self.write_members();
        self.catch_up(token);
        // the leader is never muted
        self.node(token).may_speak = true;
    }

    /// The leader lists the sessions that are registered now.
    pub fn write_members(&mut self) {
        let Some(leader) = self.leader else {
            return;
        };
        let listed = |node: &Node| {
            let session = Session {
                incarnation: node.incarnation,
                key: node.key.public(),
            };
            (node.token, session)
        };
        let members: BTreeMap<Token, Session> = self.nodes.values().map(listed).collect();
        let wall = self.wall(leader);
        self.log.write(wall, Entry::Members(members));
    }

    fn wall(&self, token: Token) -> u64 {
        EPOCH_MS + self.now + self.nodes[&token].skew_ms
    }

    /// Applies everything at once; whoever is listed then, takes the leader's clock and speaks.
    pub fn catch_up(&mut self, token: Token) {
        while self.nodes[&token].applied < self.log.entries.len() {
            self.apply_one(token);
        }
    }

    fn apply_one(&mut self, token: Token) {
        let node = self.nodes.get_mut(&token).unwrap();
        self.log.apply(node.applied, &mut node.accounts);
        node.applied += 1;
        let sum: u64 = node.accounts.balances().map(|(_, wh)| wh.0).sum();
        assert_eq!(
            sum,
            node.accounts.issued().0,
            "{token}: the sum of all credits"
        );
        let listed = node.accounts.session(token).map(|s| s.incarnation);
        let unmuted = !node.may_speak
            && listed == Some(node.incarnation)
            && node.applied == self.log.entries.len();
        if unmuted {
            node.may_speak = true;
            let leader = self.leader.filter(|leader| *leader != token);
            let clock =
                leader.and_then(|l| self.nodes[&l].ledger.as_ref().map(|l| l.clock().clone()));
            if let Some(clock) = clock {
                self.node(token).judge.take_over(&clock);
                self.tell(token, Event::Baseline(clock));
            }
        }
    }

    pub fn advance(&mut self, ms: u64) {
        let end = self.now + ms;
        while self.now < end {
            self.step();
        }
    }

    pub fn step(&mut self) {
        self.now += STEP_MS;
        while let Some(entry) = self.due.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let due = entry.remove();
            self.arrive(due);
        }
        for token in self.tokens() {
            let lag = self
                .log
                .entries
                .len()
                .saturating_sub(self.nodes[&token].applied);
            let node = &self.nodes[&token];
            if node.ledger.is_none() || node.log_paused {
                continue;
            }
            let fast = lag > 20 || self.leader == Some(token);
            if lag > 0 && (fast || self.dice.percent(50)) {
                let some = if fast { lag } else { 1 };
                (0..some).for_each(|_| self.apply_one(token));
            }
            self.tick(token);
        }
    }

    /// As the driver does: when the machine wants it, or the log has moved.
    fn tick(&mut self, token: Token) {
        let node = &self.nodes[&token];
        let Some(ledger) = &node.ledger else {
            return;
        };
        if self.now < ledger.deadline() && node.ticked_at_entry == node.applied {
            return;
        }
        let in_office = self.leader == Some(token) && node.may_speak;
        let facts = Facts {
            wall_ms: self.wall(token),
            log_time_ms: self.log.time(node.applied),
            leader: self.leader,
            in_office,
            may_speak: node.may_speak,
            dice: self.dice.between(0, u64::from(u32::MAX)),
        };
        let applied = node.applied;
        self.node(token).ticked_at_entry = applied;
        self.tell(token, Event::Tick(facts));
    }

    fn arrive(&mut self, due: Due) {
        match due {
            Due::Frame(to, message, bytes) => {
                let current = self.nodes[&message.from()].incarnation == message.incarnation();
                if current && self.nodes[&to].ledger.is_some() {
                    let message = Authentic::clone(&message);
                    self.tell(to, Event::Frame { message, bytes });
                }
            }
            Due::Entry(author, incarnation, entry) => {
                let same = self.nodes[&author].incarnation == incarnation;
                if self.leader == Some(author) && same {
                    let wall = self.wall(author);
                    self.log.write(wall, entry);
                }
            }
        }
    }

    pub fn wish(&mut self, from: Token, side: Side, with: Token, amount: Wh) {
        if self.nodes[&from].ledger.is_none() {
            return;
        }
        self.tickets += 1;
        let ticket = self.tickets;
        let wish = Wish { side, with, amount };
        self.tell(from, Event::Wish { ticket, wish });
    }

    pub fn tell(&mut self, token: Token, event: Event) {
        let now = self.now;
        let node = self.nodes.get_mut(&token).unwrap();
        let Some(ledger) = &mut node.ledger else {
            return;
        };
        ledger.handle(now, &node.accounts, event);
        let effects: Vec<Effect> = std::iter::from_fn(|| ledger.poll()).collect();
        let (clock, skipped) = (ledger.clock().clone(), ledger.stats().skipped);
        // a gap that became history in this very step: its deliveries cannot be told apart
        let blind = node.skipped != skipped || self.forged;
        node.skipped = skipped;
        if blind {
            node.judge.take_over(&clock);
        }
        for effect in effects {
            if let (Effect::News(news), false) = (&effect, blind) {
                let node = self.nodes.get_mut(&token).unwrap();
                let me = (token, node.incarnation);
                node.judge.check(me, &self.said, &node.accounts, news);
            }
            self.perform(token, effect);
        }
        let node = self.node(token);
        assert_eq!(
            *node.judge.delivered(),
            clock,
            "{token}: what it said it delivered"
        );
    }

    fn perform(&mut self, token: Token, effect: Effect) {
        match effect {
            Effect::Keep(intents) => self.node(token).outbox = intents,
            Effect::Spread { frame, .. } => {
                let message = self.open(token, &frame);
                self.said.note(token, message.value());
                for to in self.tokens().into_iter().filter(|to| *to != token) {
                    self.send(token, to, &frame);
                }
            }
            Effect::Relay { to, frames } => {
                self.note(format!("{token}: hands {} to {to}", frames.len()));
                frames.iter().for_each(|frame| self.send(token, to, frame));
            }
            Effect::Ask { to, range } => {
                let (author, first, last) = (range.author, range.first, range.last);
                self.note(format!("{token}: asks {to} for {author}:{first}..{last}"));
                let node = &self.nodes[&token];
                let mut sealer = Sealer::new(cluster(), token, node.incarnation);
                let frame = sealer.seal(&node.key, Some(to), &Message::CausalAsk(range));
                self.send(token, to, &frame);
            }
            Effect::Settle(settlement) => self.propose(token, Entry::Settle(settlement)),
            Effect::Close {
                token: author,
                incarnation,
                last,
            } => {
                self.note(format!("{token}: closes {author} after {last}"));
                self.propose(token, Entry::Close(author, incarnation, last));
            }
            Effect::News(news) => self.hear(token, &news),
        }
    }

    fn propose(&mut self, token: Token, entry: Entry) {
        if self.dice.percent(self.log_loss_percent) {
            return;
        }
        let incarnation = self.nodes[&token].incarnation;
        self.later(10, Due::Entry(token, incarnation, entry));
    }

    fn hear(&mut self, token: Token, news: &News) {
        if let News::Decided { record, .. } = news {
            self.decided.entry(token).or_default().push(record.offer.id);
        }
        let line = match news {
            News::Offered { offer, .. } => {
                let (side, amount, with) = (offer.side.name(), offer.amount, offer.with);
                format!("offers {}: {side} {amount} with {with}", offer.id)
            }
            News::Declined { why, .. } => format!("declined: {why}"),
            News::Heard(offer) => format!("hears {}", offer.id),
            News::Answered(offer, Reply::Accepted) => {
                format!("{} accepted", offer.id)
            }
            News::Answered(offer, Reply::Refused(why)) => {
                format!("{} refused: {}", offer.id, why.reason())
            }
            News::Decided { record, .. } => {
                let (payer, payee) = (record.payer_after, record.payee_after);
                let name = record.decision.name();
                format!("{} {name}; payer {payer}, payee {payee}", record.offer.id)
            }
            News::OfferedAnew { void, offer } => format!("offers {void} anew as {}", offer.id),
            News::HeldBack { from, sequence } => format!("holds back {from}:{sequence}"),
            News::Refused { from, why } => format!("refuses {from}: {why}"),
        };
        self.note(format!("{token}: {line}"));
    }

    pub fn open(&mut self, from: Token, frame: &[u8]) -> Arc<Authentic<Message>> {
        if let Some(message) = self.opened.get(frame) {
            return message.clone();
        }
        let node = &self.nodes[&from];
        let only = Only(from, node.incarnation, node.key.public());
        let opener = Opener {
            cluster: cluster(),
            me: Token(u64::MAX),
        };
        // an addressee that is not us: questions are for one member
        let to = u64::from_be_bytes(frame[56..64].try_into().unwrap());
        let me = if to == 0 { opener.me } else { Token(to) };
        let opened = Opener { me, ..opener }.open(frame, &only, &mut Windows::default());
        let message = Arc::new(opened.expect("what was sealed opens"));
        if self.opened.len() > 4_000 {
            self.opened.clear();
        }
        self.opened.insert(frame.to_vec(), message.clone());
        message
    }

    /// One datagram: may be lost, doubled, late. `by` is who sends it, which need not be its author.
    pub fn send(&mut self, by: Token, to: Token, frame: &[u8]) {
        let author = Token(u64::from_be_bytes(frame[40..48].try_into().unwrap()));
        let incarnation = u64::from_be_bytes(frame[48..56].try_into().unwrap());
        if self.nodes[&author].incarnation.0 != incarnation {
            return;
        }
        if self.cut.contains(&(by, to)) || self.dice.percent(self.loss_percent) {
            return;
        }
        let message = self.open(author, frame);
        let copies = if self.dice.percent(self.double_percent) {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let delay = self.dice.between(1, self.delay_max_ms);
            self.later(delay, Due::Frame(to, message.clone(), frame.to_vec()));
        }
    }

    fn later(&mut self, delay: u64, due: Due) {
        self.counter += 1;
        self.due.insert((self.now + delay, self.counter), due);
    }

    /// Everything is decided, delivered and forgotten, and nobody wants to be woken.
    pub fn unrest(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (token, node) in &self.nodes {
            let Some(ledger) = &node.ledger else {
                continue;
            };
            let open: Vec<String> = ledger.open().map(|t| t.offer.id.to_string()).collect();
            let reserved = ledger.reserved(&node.accounts);
            if !open.is_empty()
                || ledger.buffered() > 0
                || !node.outbox.is_empty()
                || reserved != Wh(0)
            {
                let (held, kept) = (ledger.buffered(), node.outbox.len());
                found.push(format!(
                    "{token}: open {open:?}, {held} held, {kept} in the outbox, {reserved} reserved"
                ));
            }
            if node.applied < self.log.entries.len() {
                found.push(format!("{token}: its log is behind"));
            }
            if ledger.deadline() != u64::MAX {
                found.push(format!("{token}: wants a tick at {}", ledger.deadline()));
            }
        }
        found
    }
}
