//! The machine: events in, effects out. What it says itself is made in `speak.rs`.

use crate::causal::{Arrival, Causal, Delivery};
use crate::gaps::{Dice, Gaps};
use crate::trades::{Bounds, Fault, Trades};
use crate::{
    Accounts, CausalStats, Effect, Event, Facts, Identity, Intent, News, OFFER_TTL_MAX_MS,
    OpenTrade, Settings,
};
use std::collections::VecDeque;
use synod_wire::seal::Sealer;
use synod_wire::{Authentic, Clock, Message, Token, Wh};

/// Far enough away to be never.
const FAR: u64 = u64::MAX;

/// See the head of this crate.
pub struct Ledger {
    pub(crate) settings: Settings,
    pub(crate) me: Identity,
    pub(crate) sealer: Sealer,
    pub(crate) causal: Causal,
    pub(crate) trades: Trades,
    /// Wishes of earlier incarnations that are neither decided nor offered anew.
    pub(crate) restored: Vec<Intent>,
    pub(crate) facts: Facts,
    gaps: Gaps,
    dice: Dice,
    /// When the facts were told; none = not yet.
    told_at: Option<u64>,
    /// What the leader had delivered when we joined, until the log has gone far enough to judge it.
    baseline: Option<Clock>,
    /// The log has listed this session.
    listed: bool,
    /// Decided trades that people have been told of, or that are history.
    scanned: usize,
    /// Something of ours waits for the log, or for its listing.
    waiting: bool,
    /// The facts may be old: a tick is wanted at once.
    stale: bool,
    effects: VecDeque<Effect>,
}

impl Ledger {
    /// The first tick is wanted at once.
    pub fn new(settings: Settings, me: Identity) -> Self {
        Self {
            sealer: Sealer::new(me.cluster, me.token, me.incarnation),
            causal: Causal::new(&settings, me.token, me.incarnation),
            settings,
            me,
            trades: Trades::default(),
            restored: Vec::new(),
            facts: Facts::default(),
            gaps: Gaps::default(),
            dice: Dice(1),
            told_at: None,
            baseline: None,
            listed: false,
            scanned: 0,
            waiting: true,
            stale: true,
            effects: VecDeque::new(),
        }
    }

    /// Something happened. `accounts` is what the log says now; poll until there is nothing left to do.
    pub fn handle(&mut self, now: u64, accounts: &Accounts, event: Event) {
        self.stale = true;
        match event {
            Event::Tick(facts) => self.tick(now, accounts, facts),
            Event::Frame { message, bytes } => self.frame(now, accounts, message, bytes),
            Event::Wish { ticket, wish } => self.wish(now, accounts, ticket, wish),
            Event::Restore(intents) => self.restored.extend(intents),
            Event::Baseline(clock) => {
                self.baseline = Some(clock);
                self.take_over(now, accounts);
            }
        }
        self.look_for_gaps(now, accounts);
        self.settle(now, accounts);
        self.waiting = !self.facts.may_speak
            || !self.is_listed(accounts)
            || !self.restored.is_empty()
            || !self.trades.open.is_empty()
            || self.causal.buffered() > 0;
    }

    /// What to do next.
    pub fn poll(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When the next tick is wanted. Far away while nothing waits, so an idle cluster is silent.
    pub fn deadline(&self) -> u64 {
        let Some(told_at) = self.told_at else {
            return 0;
        };
        let questions = self.gaps.deadline();
        if !self.waiting && questions.is_none() {
            return FAR;
        }
        if self.stale {
            return told_at;
        }
        let copies = self.trades.open.values().flat_map(|trade| {
            let said = trade.said.as_ref().map(|(_, sent)| sent.due);
            trade
                .proposal
                .as_ref()
                .map(|sent| sent.due)
                .into_iter()
                .chain(said)
        });
        let regular = told_at.saturating_add(self.settings.resend_ms.max(1));
        copies.chain(questions).fold(regular, u64::min)
    }

    /// What has been delivered so far, own messages included.
    pub fn clock(&self) -> &Clock {
        self.causal.clock()
    }

    /// Messages that are held back.
    pub fn buffered(&self) -> usize {
        self.causal.buffered()
    }

    /// What has been done so far.
    pub fn stats(&self) -> CausalStats {
        self.causal.stats.clone()
    }

    /// Every undecided trade that this node has heard of, ascending by id.
    pub fn open(&self) -> impl Iterator<Item = OpenTrade> {
        self.trades.iter()
    }

    /// What our own undecided payments keep back; only the decision, the end of an incarnation, or for
    /// what we answered its expiry, gives it free.
    pub fn reserved(&self, accounts: &Accounts) -> Wh {
        let restored = self.restored_payments(accounts);
        let open = self.trades.reserved(accounts, self.me.token);
        Wh(open.0.saturating_add(restored.0))
    }

    /// The time that decides about expiry, as far as we know: no node's clock alone.
    pub(crate) fn log_now(&self, now: u64) -> u64 {
        let since = now.saturating_sub(self.told_at.unwrap_or(now));
        let wall = self.facts.wall_ms.saturating_add(since);
        wall.max(self.facts.log_time_ms)
    }

    /// What an offer has to keep that is heard now.
    pub(crate) fn bounds(&self, now: u64) -> Bounds {
        Bounds {
            open_max: self.settings.open_per_author_max,
            expires_max_ms: self.log_now(now).saturating_add(OFFER_TTL_MAX_MS),
        }
    }

    pub(crate) fn effect(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }

    pub(crate) fn news(&mut self, news: News) {
        self.effect(Effect::News(news));
    }

    pub(crate) fn refuse(&mut self, (from, why): Fault) {
        let count = self.causal.stats.refused.entry(why.label()).or_default();
        *count += 1;
        self.news(News::Refused { from, why });
    }

    fn tick(&mut self, now: u64, accounts: &Accounts, facts: Facts) {
        self.facts = facts;
        self.told_at = Some(now);
        self.dice.stir(facts.dice);
        self.read_log(accounts);
        let grace = self.settings.offer_ttl_ms;
        let log_now = self.log_now(now);
        self.trades
            .prune(accounts, grace, facts.log_time_ms, log_now);
        self.causal.drop_void(accounts);
        self.take_over(now, accounts);
        self.drain(now, accounts);
        self.offer_anew(now, accounts);
        self.answer_all(now, accounts);
        self.say_again(now);
        self.stale = false;
    }

    /// Tells people of every decided trade of ours, once and in the log's order. What the log decided before it listed
    /// this session is history, wishes of the outbox excepted.
    fn read_log(&mut self, accounts: &Accounts) {
        if !self.listed {
            self.listed = self.is_listed(accounts);
            self.scanned = accounts.trades().len();
        }
        let mut changed = self.history_of_restored(accounts, self.scanned);
        let me = self.me.token;
        for record in accounts.trades().get(self.scanned..).unwrap_or_default() {
            let id = record.offer.id;
            let proposal = self.trades.open.remove(&id).and_then(|t| t.proposal);
            let before = self.restored.len();
            self.restored
                .retain(|intent| intent.offered.is_none_or(|offer| offer.id != id));
            changed |= proposal.is_some() || self.restored.len() < before;
            if id.proposer == me || record.offer.with == me {
                let ticket = proposal.and_then(|sent| sent.ticket);
                let record = *record;
                self.effects
                    .push_back(Effect::News(News::Decided { ticket, record }));
            }
        }
        self.scanned = accounts.trades().len();
        if changed {
            self.keep();
        }
    }

    fn frame(
        &mut self,
        now: u64,
        accounts: &Accounts,
        message: Authentic<Message>,
        bytes: Vec<u8>,
    ) {
        let (from, sequence) = (message.from(), message.sequence());
        if let Message::CausalAsk(range) = *message.value() {
            let (settings, causal) = (&self.settings, &mut self.causal);
            match self.gaps.answer(now, settings, causal, from, range) {
                Ok(relay) => self.effects.extend(relay),
                Err(why) => self.refuse((from, why)),
            }
            return;
        }
        if message.value().clock().is_none() {
            return;
        }
        let tick = synod_wire::Tick {
            incarnation: message.incarnation(),
            sequence,
        };
        let copy = message.value().clone();
        match self.causal.receive(now, accounts, message, bytes) {
            Ok(Arrival::Waits) => {
                self.drain(now, accounts);
                if self.causal.tell_held(from, sequence) {
                    self.news(News::HeldBack { from, sequence });
                }
            }
            Ok(arrival @ (Arrival::Again | Arrival::Closed)) => {
                if arrival == Arrival::Closed && matches!(copy, Message::TradeConfirm(_)) {
                    return;
                }
                let message = copy;
                let again = Delivery {
                    from,
                    tick,
                    message,
                };
                self.history(now, accounts, vec![again]);
            }
            Ok(Arrival::Ignored) => {}
            Err(why) => self.refuse((from, why)),
        }
    }

    /// Once the log lists this session: before, we know too little to doubt what the leader says.
    fn take_over(&mut self, now: u64, accounts: &Accounts) {
        if !self.is_listed(accounts) {
            return;
        }
        if let Some(clock) = self.baseline.take() {
            let open_max = self.settings.open_per_author_max;
            let history = self.causal.take_over(accounts, open_max, &clock);
            self.history(now, accounts, history);
            self.drain(now, accounts);
        }
    }

    /// Delivers everything whose turn has come.
    fn drain(&mut self, now: u64, accounts: &Accounts) {
        while let Some(delivery) = self.causal.next(accounts) {
            let news = match &delivery.message {
                Message::TradeRequest(t) => News::Heard(t.offer),
                Message::TradeConfirm(t) => News::Answered(t.offer, t.answer.reply),
                _ => continue,
            };
            self.learn(now, accounts, &delivery, Some(news));
        }
    }

    /// Messages that are no news in causal order, but may still begin or end a negotiation.
    fn history(&mut self, now: u64, accounts: &Accounts, history: Vec<Delivery>) {
        for delivery in history {
            self.learn(now, accounts, &delivery, None);
        }
    }

    fn learn(&mut self, now: u64, accounts: &Accounts, told: &Delivery, news: Option<News>) {
        let bounds = self.bounds(now);
        let (from, tick) = (told.from, told.tick);
        let (learnt, asked) = match &told.message {
            Message::TradeRequest(t) => {
                let asked = (t.offer.with == self.me.token).then_some(t.offer.id);
                (self.trades.hear(accounts, bounds, from, tick, t), asked)
            }
            Message::TradeConfirm(t) => {
                (self.trades.answered(accounts, bounds, from, tick, t), None)
            }
            _ => return,
        };
        if let Err(fault) = learnt {
            return self.refuse(fault);
        }
        self.effects.extend(news.map(Effect::News));
        if let Some(id) = asked {
            self.answer(now, accounts, id);
        }
    }

    fn look_for_gaps(&mut self, now: u64, accounts: &Accounts) {
        if self.told_at.is_none() {
            return;
        }
        let looked = self.gaps.look(
            now,
            &self.settings,
            accounts,
            &self.facts,
            &mut self.causal,
            &mut self.dice,
        );
        self.effects.extend(looked.effects);
        if !looked.history.is_empty() {
            self.history(now, accounts, looked.history);
            self.drain(now, accounts);
        }
    }

    fn settle(&mut self, now: u64, accounts: &Accounts) {
        if !self.facts.in_office {
            return;
        }
        let log_now = self.log_now(now);
        let due = self.trades.settle(now, log_now, accounts);
        self.effects.extend(due.into_iter().map(Effect::Settle));
    }

    /// Whether the log lists this very session.
    pub(crate) fn is_listed(&self, accounts: &Accounts) -> bool {
        let session = accounts.session(self.me.token);
        session.is_some_and(|s| s.incarnation == self.me.incarnation)
    }

    /// Whether the log has closed our messages before the next one.
    pub(crate) fn is_closed(&self, accounts: &Accounts) -> bool {
        accounts
            .closed(self.me.token, self.me.incarnation)
            .is_some()
    }

    pub(crate) fn token(&self) -> Token {
        self.me.token
    }
}
