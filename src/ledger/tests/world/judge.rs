//! Follows what one node says it has delivered and compares it with what the authors had delivered when they spoke.

use std::collections::BTreeMap;
use synod_ledger::{Accounts, News};
use synod_wire::{Clock, Incarnation, Message, Tick, Token, TradeId};

/// Every causal message that was ever said, by author and number, with its clock.
#[derive(Default)]
pub struct Said {
    clocks: BTreeMap<(Token, Tick), Clock>,
    requests: BTreeMap<TradeId, Tick>,
    answers: BTreeMap<(TradeId, Token), Vec<Tick>>,
}

impl Said {
    pub fn note(&mut self, from: Token, message: &Message) {
        let Some(clock) = message.clock() else {
            return;
        };
        let tick = clock.tick(from);
        if self.clocks.insert((from, tick), clock.clone()).is_some() {
            return;
        }
        match message {
            Message::TradeRequest(t) => {
                self.requests.insert(t.offer.id, tick);
            }
            Message::TradeConfirm(t) => {
                self.answers
                    .entry((t.offer.id, from))
                    .or_default()
                    .push(tick);
            }
            _ => {}
        }
    }
}

/// One boot of one node.
#[derive(Default)]
pub struct Judge {
    delivered: Clock,
}

impl Judge {
    /// What was taken as history.
    pub fn take_over(&mut self, clock: &Clock) {
        for (token, tick) in clock.iter() {
            if tick > self.delivered.tick(token) {
                self.delivered.set(token, tick);
            }
        }
    }

    /// Upon a delivery: it is the author's next one, and all that it depends on has been delivered or is void.
    pub fn check(
        &mut self,
        me: (Token, Incarnation),
        said: &Said,
        accounts: &Accounts,
        news: &News,
    ) {
        let (me, mine) = me;
        let (author, ticks) = match news {
            News::Offered { offer, .. } | News::OfferedAnew { offer, .. } => {
                (me, vec![said.requests[&offer.id]])
            }
            News::Heard(offer) => (offer.id.proposer, vec![said.requests[&offer.id]]),
            News::Answered(offer, _) => (offer.with, said.answers[&(offer.id, offer.with)].clone()),
            _ => return,
        };
        let before = self.delivered.tick(author);
        let listed = accounts.session(author).map(|s| s.incarnation);
        let next = |tick: &&Tick| {
            Some(tick.incarnation) == listed
                && **tick > before
                && (tick.incarnation > before.incarnation || tick.sequence == before.sequence + 1)
        };
        let tick = *ticks.iter().find(next).unwrap_or_else(|| {
            panic!("{me}: delivers {author}:{ticks:?} after {before:?}");
        });
        assert!(
            tick.incarnation == before.incarnation || tick.sequence == 1,
            "{me}: delivers {author}:{tick:?} first of its incarnation"
        );
        for (about, needed) in said.clocks[&(author, tick)].iter() {
            let listed = accounts.session(about).map(|s| s.incarnation);
            let met = about == author
                || about == me && needed.incarnation < mine
                || self.delivered.tick(about) >= needed
                || listed.is_some_and(|listed| listed > needed.incarnation)
                || accounts
                    .closed(about, needed.incarnation)
                    .is_some_and(|last| needed.sequence > last);
            assert!(
                met,
                "{me}: delivers {author}:{tick:?} before {about}:{needed:?}; at {}",
                self.delivered
            );
        }
        self.delivered.set(author, tick);
    }

    pub fn delivered(&self) -> &Clock {
        &self.delivered
    }
}
