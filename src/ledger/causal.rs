//! Causal order: a message is delivered when it is the next one of its author and everything that its author had
//! delivered before has been delivered here; until then it waits, within bounds. What each author showed of itself
//! is kept for those who missed it. Missing messages are asked for by `gaps.rs`.
//!
//! A clock that is heard is never merged: our own grows by deliveries alone (seed defect D16). An incarnation that
//! the log has ended, or closed, owes nothing any more (review F14).

use crate::plausible::baseline_bound;
use crate::{Accounts, CausalStats, Refusal, Settings};
use std::collections::BTreeMap;
use synod_wire::clock::CLOCK_LEN_MAX;
use synod_wire::{Authentic, Clock, Incarnation, Message, Tick, Token};

/// At the end of every frame.
const SIGNATURE_LEN: usize = 64;

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It waits now; [`Causal::next`] says whether it has to.
    Waits,
    /// Delivered before, or part of the history that we took over.
    Again,
    /// It waits already, there is no place for it, or it is void.
    Ignored,
    /// Beyond what the log lets stand of its incarnation: never delivered, but its trade has still to expire.
    Closed,
}

/// What one author showed of itself in its newest incarnation.
#[derive(Default)]
pub(crate) struct Author {
    pub(crate) incarnation: Incarnation,
    /// Its highest number that we have seen in a frame of its own.
    pub(crate) shown: u64,
    /// The clock of that frame: what it can hand on.
    pub(crate) clock: Clock,
    pub(crate) held: BTreeMap<u64, Held>,
    /// Delivered frames.
    kept: BTreeMap<u64, Vec<u8>>,
    /// It signed two different messages with one number: of all that wait for each other, it is to blame.
    pub(crate) equivocated: bool,
}

pub(crate) struct Held {
    message: Message,
    bytes: Vec<u8>,
    told: bool,
}

/// Somebody's clock names messages too far ahead to wait for. Worth a question, nothing else: it may be a lie.
#[derive(Clone, Copy)]
pub(crate) struct Rumour {
    pub(crate) about: Token,
    pub(crate) tick: Tick,
    pub(crate) heard_at: u64,
}

/// A message whose turn has come.
pub(crate) struct Delivery {
    pub(crate) from: Token,
    pub(crate) tick: Tick,
    pub(crate) message: Message,
}

pub(crate) struct Causal {
    me: Token,
    incarnation: Incarnation,
    pub(crate) held_max: usize,
    kept_max: usize,
    delivered: Clock,
    pub(crate) authors: BTreeMap<Token, Author>,
    /// By whom it was heard of.
    pub(crate) rumours: BTreeMap<Token, Rumour>,
    pub(crate) stats: CausalStats,
}

impl Causal {
    pub(crate) fn new(settings: &Settings, me: Token, incarnation: Incarnation) -> Self {
        Self {
            me,
            incarnation,
            held_max: settings.held_per_author_max.max(1),
            kept_max: settings.kept_per_author_max.max(1),
            delivered: Clock::default(),
            authors: BTreeMap::new(),
            rumours: BTreeMap::new(),
            stats: CausalStats::default(),
        }
    }

    pub(crate) fn me(&self) -> Token {
        self.me
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.delivered
    }

    /// How many messages of this incarnation have been delivered.
    pub(crate) fn delivered(&self, token: Token, incarnation: Incarnation) -> u64 {
        let tick = self.delivered.tick(token);
        if tick.incarnation == incarnation {
            tick.sequence
        } else {
            0
        }
    }

    pub(crate) fn buffered(&self) -> usize {
        self.authors.values().map(|author| author.held.len()).sum()
    }

    /// Upon a verified causal frame. The order of the checks: void, known, implausible, room.
    pub(crate) fn receive(
        &mut self,
        now: u64,
        accounts: &Accounts,
        frame: Authentic<Message>,
        bytes: Vec<u8>,
    ) -> Result<Arrival, Refusal> {
        let (from, incarnation, sequence) = (frame.from(), frame.incarnation(), frame.sequence());
        let over = self.is_over(accounts, from, incarnation);
        let closed = accounts.closed(from, incarnation);
        if over || closed.is_some_and(|last| sequence > last) {
            self.stats.void += 1;
            let arrival = if over {
                Arrival::Ignored
            } else {
                Arrival::Closed
            };
            return Ok(arrival);
        }
        self.begin(from, incarnation);
        if let Some(arrival) = self.known(from, incarnation, sequence, &bytes)? {
            self.stats.duplicates += 1;
            return Ok(arrival);
        }
        let clock = frame.value().clock().cloned().unwrap_or_default();
        self.check_plausible(now, accounts, from, &clock)?;
        if self.delivered.len() >= CLOCK_LEN_MAX && self.delivered.tick(from) == Tick::default() {
            return Err(Refusal::NoRoom);
        }
        let author = self.authors.entry(from).or_default();
        if sequence > author.shown {
            author.shown = sequence;
            author.clock = clock;
        }
        let held = Held {
            message: frame.into_value(),
            bytes,
            told: false,
        };
        author.held.insert(sequence, held);
        if author.held.len() <= self.held_max {
            return Ok(Arrival::Waits);
        }
        // the nearest ones are needed first; what is dropped is asked for when its turn comes
        self.stats.dropped += 1;
        let farthest = author.held.pop_last().map(|(farthest, _)| farthest);
        Ok(if farthest == Some(sequence) {
            Arrival::Ignored
        } else {
            Arrival::Waits
        })
    }

    /// The next message whose turn has come. Call until there is none.
    pub(crate) fn next(&mut self, accounts: &Accounts) -> Option<Delivery> {
        let from = self
            .authors
            .iter()
            .find(|(token, author)| self.can_deliver(accounts, **token, author))
            .map(|(token, _)| *token)?;
        let author = self.authors.get_mut(&from)?;
        let (sequence, held) = author.held.pop_first()?;
        let tick = Tick {
            incarnation: author.incarnation,
            sequence,
        };
        keep(&mut author.kept, self.kept_max, sequence, held.bytes);
        self.delivered.set(from, tick);
        self.stats.delivered += 1;
        Some(Delivery {
            from,
            tick,
            message: held.message,
        })
    }

    /// True once for a message that had to be held back.
    pub(crate) fn tell_held(&mut self, from: Token, sequence: u64) -> bool {
        let held = self
            .authors
            .get_mut(&from)
            .and_then(|author| author.held.get_mut(&sequence));
        let new = held.is_some_and(|held| !std::mem::replace(&mut held.told, true));
        self.stats.held += u64::from(new);
        new
    }

    /// The clock of our next message; none = no room in it.
    pub(crate) fn next_own(&self) -> Option<Clock> {
        let mut clock = self.delivered.clone();
        let sequence = self.delivered(self.me, self.incarnation) + 1;
        let tick = Tick {
            incarnation: self.incarnation,
            sequence,
        };
        clock.set(self.me, tick).then_some(clock)
    }

    /// Our message with this clock is on its way.
    pub(crate) fn sent(&mut self, clock: Clock, bytes: &[u8]) {
        self.begin(self.me, self.incarnation);
        let sequence = clock.tick(self.me).sequence;
        let author = self.authors.entry(self.me).or_default();
        keep(&mut author.kept, self.kept_max, sequence, bytes.to_vec());
        self.delivered = clock;
    }

    /// What the leader had delivered when we joined is history: entries move forward only.
    /// Answers the messages that waited and are history now. One leader's word: see [`baseline_bound`].
    pub(crate) fn take_over(
        &mut self,
        accounts: &Accounts,
        open_max: usize,
        baseline: &Clock,
    ) -> Vec<Delivery> {
        let mut history = Vec::new();
        for (token, tick) in baseline.iter() {
            let ours = token == self.me && tick.incarnation >= self.incarnation;
            let bound = baseline_bound(accounts, open_max, token, tick.incarnation);
            let plausible = bound.is_some_and(|bound| tick.sequence <= bound);
            if !ours && plausible && tick > self.delivered.tick(token) {
                history.append(&mut self.forward(token, tick));
            }
        }
        history
    }

    /// What waits of this author is forgotten here, and not asked for until it is heard of again.
    pub(crate) fn forget(&mut self, from: Token) {
        let Some(author) = self.authors.get_mut(&from) else {
            return;
        };
        self.stats.dropped += author.held.len() as u64;
        author.held.clear();
        author.clock = Clock::default();
        author.shown = 0;
    }

    /// Moves one entry without delivering what lies below it.
    pub(crate) fn forward(&mut self, from: Token, tick: Tick) -> Vec<Delivery> {
        if !self.delivered.set(from, tick) {
            return Vec::new();
        }
        let Some(author) = self.authors.get_mut(&from) else {
            return Vec::new();
        };
        if author.incarnation != tick.incarnation {
            return Vec::new();
        }
        let later = author.held.split_off(&(tick.sequence + 1));
        let passed = std::mem::replace(&mut author.held, later);
        let delivery = |(sequence, held): (u64, Held)| {
            keep(&mut author.kept, self.kept_max, sequence, held.bytes);
            Delivery {
                from,
                tick: Tick { sequence, ..tick },
                message: held.message,
            }
        };
        passed.into_iter().map(delivery).collect()
    }

    /// Upon news in the log: what has ended or is closed waits no longer.
    pub(crate) fn drop_void(&mut self, accounts: &Accounts) {
        for (token, author) in &mut self.authors {
            let voided = if ended(accounts, *token, author.incarnation) {
                std::mem::take(&mut author.held)
            } else if let Some(last) = accounts.closed(*token, author.incarnation) {
                author.shown = author.shown.min(last);
                author.held.split_off(&last.saturating_add(1))
            } else {
                continue;
            };
            self.stats.void += voided.len() as u64;
        }
    }

    /// What we can hand on of this run, in order.
    pub(crate) fn frames(
        &self,
        token: Token,
        incarnation: Incarnation,
        range: std::ops::RangeInclusive<u64>,
        max: usize,
    ) -> Vec<Vec<u8>> {
        let Some(author) = self.authors.get(&token) else {
            return Vec::new();
        };
        if author.incarnation != incarnation {
            return Vec::new();
        }
        let kept = author.kept.range(range.clone()).map(|(_, bytes)| bytes);
        let held = author.held.range(range).map(|(_, held)| &held.bytes);
        kept.chain(held).take(max).cloned().collect()
    }

    /// The last message that is here of those which follow upon the delivered ones.
    pub(crate) fn here(&self, token: Token, incarnation: Incarnation) -> u64 {
        let delivered = self.delivered(token, incarnation);
        let author = self.authors.get(&token);
        let Some(author) = author.filter(|author| author.incarnation == incarnation) else {
            return delivered;
        };
        let waiting = author.held.range(delivered + 1..);
        let run = waiting.zip(delivered + 1..);
        run.take_while(|((held, _), next)| *held == next)
            .last()
            .map_or(delivered, |((held, _), _)| *held)
    }

    /// The highest number that a frame of this incarnation has shown.
    pub(crate) fn shown(&self, token: Token, incarnation: Incarnation) -> u64 {
        let author = self.authors.get(&token);
        let author = author.filter(|author| author.incarnation == incarnation);
        author.map_or(0, |author| author.shown)
    }

    /// The first waiting message of an author, if all before it are here: what else it waits for.
    pub(crate) fn unmet(&self, accounts: &Accounts, from: Token) -> Vec<(Token, Tick)> {
        let Some(author) = self.authors.get(&from) else {
            return Vec::new();
        };
        let expected = self.delivered(from, author.incarnation) + 1;
        let Some(held) = author.held.get(&expected) else {
            return Vec::new();
        };
        let entries = held.message.clock().into_iter().flat_map(Clock::iter);
        entries
            .filter(|(token, tick)| *token != from && !self.is_met(accounts, *token, *tick))
            .collect()
    }

    fn can_deliver(&self, accounts: &Accounts, from: Token, author: &Author) -> bool {
        let expected = self.delivered(from, author.incarnation) + 1;
        let listed = |token| accounts.session(token).map(|s| s.incarnation);
        // beyond its closing: about to be dropped
        let closed = accounts.closed(from, author.incarnation);
        author.held.contains_key(&expected)
            && closed.is_none_or(|last| expected <= last)
            && listed(from) == Some(author.incarnation)
            && self.unmet(accounts, from).is_empty()
    }

    /// Has this been delivered, or will it never be?
    pub(crate) fn is_met(&self, accounts: &Accounts, token: Token, tick: Tick) -> bool {
        self.delivered.tick(token) >= tick
            || token == self.me && tick.incarnation < self.incarnation
            || ended(accounts, token, tick.incarnation)
            || accounts
                .closed(token, tick.incarnation)
                .is_some_and(|last| tick.sequence > last)
    }

    fn is_over(&self, accounts: &Accounts, from: Token, incarnation: Incarnation) -> bool {
        let newest = self.authors.get(&from).map(|author| author.incarnation);
        from == self.me
            || incarnation < self.delivered.tick(from).incarnation
            || newest.is_some_and(|newest| incarnation < newest)
            || ended(accounts, from, incarnation)
    }

    /// A newer incarnation begins anew; what waited of the older one is void.
    pub(crate) fn begin(&mut self, from: Token, incarnation: Incarnation) {
        let author = self.authors.entry(from).or_default();
        if author.incarnation < incarnation {
            self.stats.void += author.held.len() as u64;
            *author = Author {
                incarnation,
                ..Author::default()
            };
        }
    }

    /// A number that we have seen: the same frame, or a fault of its author.
    fn known(
        &mut self,
        from: Token,
        incarnation: Incarnation,
        sequence: u64,
        bytes: &[u8],
    ) -> Result<Option<Arrival>, Refusal> {
        let delivered = self.delivered(from, incarnation);
        let author = self.authors.entry(from).or_default();
        let kept = author.kept.get(&sequence);
        let held = author.held.get(&sequence).map(|held| &held.bytes);
        let (first, waits) = (kept.or(held), held.is_some());
        if first.is_some_and(|first| signed(first) != signed(bytes)) {
            author.equivocated = true;
            return Err(Refusal::Equivocation(sequence));
        }
        if sequence <= delivered {
            return Ok(Some(Arrival::Again));
        }
        Ok(waits.then_some(Arrival::Ignored))
    }
}

/// A later registration is in force, or the member has left.
pub(crate) fn ended(accounts: &Accounts, token: Token, incarnation: Incarnation) -> bool {
    match accounts.session(token) {
        Some(session) => session.incarnation > incarnation,
        None => accounts.balance(token).is_some(),
    }
}

/// What the author signed. The signature itself proves nothing: others may be able to write it in another way.
fn signed(frame: &[u8]) -> &[u8] {
    let len = frame.len().saturating_sub(SIGNATURE_LEN);
    frame.get(..len).unwrap_or_default()
}

fn keep(kept: &mut BTreeMap<u64, Vec<u8>>, max: usize, sequence: u64, bytes: Vec<u8>) {
    kept.insert(sequence, bytes);
    while kept.len() > max {
        kept.pop_first();
    }
}
