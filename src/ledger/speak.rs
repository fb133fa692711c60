//! What we say ourselves: offers, answers, the same again until the log has decided, and offers anew after a restart.
//! Each message of ours is numbered by our clock; whatever must survive us is kept before it is said (design section 10).

use crate::machine::Ledger;
use crate::trades::Sent;
use crate::{Accounts, Declined, Effect, Intent, News, OFFER_TTL_MAX_MS, Wish};
use synod_wire::message::{Kind, TradeConfirm, TradeRequest};
use synod_wire::trade::{Answer, Reply, Side, TradeRefusal};
use synod_wire::{Clock, Message, Offer, TradeId, Wh};

/// After so many copies, or for an answer that nobody asks for again, copies are this much rarer.
const SLOWER: u64 = 5;

impl Ledger {
    /// A person wants to trade.
    pub(crate) fn wish(&mut self, now: u64, accounts: &Accounts, ticket: u64, wish: Wish) {
        match self.check(accounts, &wish) {
            Err(why) => self.news(News::Declined { ticket, why }),
            Ok(clock) => {
                let (offer, frame) = self.offer(now, accounts, clock, Some(ticket), wish);
                self.keep();
                self.spread(frame);
                let ticket = Some(ticket);
                self.news(News::Offered { ticket, offer });
            }
        }
    }

    /// The clock of the request, or why there is none.
    fn check(&self, accounts: &Accounts, wish: &Wish) -> Result<Clock, Declined> {
        if wish.with == self.token() {
            return Err(Declined::SelfTrade);
        }
        if wish.amount == Wh(0) {
            return Err(Declined::Zero);
        }
        if !self.facts.may_speak {
            return Err(Declined::Muted);
        }
        if !self.is_listed(accounts) {
            return Err(Declined::NotListed);
        }
        if self.is_closed(accounts) {
            return Err(Declined::Closed);
        }
        if accounts.session(wish.with).is_none() {
            return Err(Declined::Unknown(wish.with));
        }
        let open = self.trades.proposed_by(self.token());
        let busy = open + self.restored.len();
        if busy >= self.settings.open_per_author_max {
            return Err(Declined::Busy(busy));
        }
        let available = self.available(accounts);
        if wish.side == Side::Sell && wish.amount > available {
            return Err(Declined::Insufficient {
                amount: wish.amount,
                available,
            });
        }
        self.causal.next_own().ok_or(Declined::NoRoom)
    }

    fn available(&self, accounts: &Accounts) -> Wh {
        let balance = accounts.balance(self.token()).unwrap_or_default();
        let reserved = self.reserved(accounts);
        balance.checked_sub(reserved).unwrap_or_default()
    }

    /// Makes an offer of a wish and delivers it to ourselves. Not said yet.
    fn offer(
        &mut self,
        now: u64,
        accounts: &Accounts,
        clock: Clock,
        ticket: Option<u64>,
        wish: Wish,
    ) -> (Offer, (Kind, Vec<u8>)) {
        let tick = clock.tick(self.token());
        let id = TradeId {
            proposer: self.token(),
            incarnation: tick.incarnation,
            sequence: tick.sequence,
        };
        let ttl = self.settings.offer_ttl_ms.min(OFFER_TTL_MAX_MS);
        let offer = Offer {
            id,
            side: wish.side,
            with: wish.with,
            amount: wish.amount,
            expires_ms: self.log_now(now).saturating_add(ttl),
        };
        let request = TradeRequest {
            signature: offer.sign(self.me.cluster, &self.me.session),
            clock,
            offer,
        };
        let message = Message::TradeRequest(request.clone());
        let sent = self.seal(now, &message, self.settings.resend_ms, ticket);
        let said = (message.kind(), sent.frame.clone());
        let bounds = self.bounds(now);
        let heard = self
            .trades
            .hear(accounts, bounds, id.proposer, tick, &request);
        assert_eq!(heard, Ok(true), "our own offers pass our own rules");
        match self.trades.open.get_mut(&id) {
            Some(trade) => trade.proposal = Some(sent),
            // cannot be: `check` asked the same. The wish stays in the outbox
            None => self.restored.push(Intent {
                wish,
                offered: Some(offer),
            }),
        }
        (offer, said)
    }

    /// Numbers and seals a message of ours; with that it is delivered here.
    fn seal(&mut self, now: u64, message: &Message, again: u64, ticket: Option<u64>) -> Sent {
        let frame = self.sealer.seal(&self.me.session, None, message);
        let clock = message.clock().cloned().unwrap_or_default();
        self.causal.sent(clock, &frame);
        Sent {
            frame,
            sent_at: now,
            due: now.saturating_add(again),
            copies: 0,
            ticket,
        }
    }

    fn spread(&mut self, (kind, frame): (Kind, Vec<u8>)) {
        self.effect(Effect::Spread { kind, frame });
    }

    /// Upon a request to us, new or again. The answer to one id never changes; a copy of it is the same frame.
    pub(crate) fn answer(&mut self, now: u64, accounts: &Accounts, id: TradeId) {
        let pause = self.settings.resend_ms / 2;
        let log_now = self.log_now(now);
        let Some(trade) = self.trades.open.get_mut(&id) else {
            return;
        };
        let (offer, offered) = (trade.offer, trade.offered);
        if let Some((_, sent)) = &mut trade.said {
            if now.saturating_sub(sent.sent_at) >= pause {
                sent.sent_at = now;
                let frame = sent.frame.clone();
                self.spread((Kind::TradeConfirm, frame));
            }
            return;
        }
        let speaks = self.facts.may_speak && self.is_listed(accounts) && !self.is_closed(accounts);
        let closed = accounts.closed(id.proposer, id.incarnation);
        let decided = accounts.decision(&id).is_some()
            || log_now > offer.expires_ms
            || closed.is_some_and(|last| id.sequence > last);
        let Some(clock) = self.causal.next_own().filter(|_| speaks && !decided) else {
            return;
        };
        let reply = self.reply(accounts, &offer);
        let (cluster, incarnation) = (self.me.cluster, self.me.incarnation);
        let answer = Answer::sign(cluster, &self.me.session, &offer, incarnation, reply);
        let tick = clock.tick(self.token());
        let confirm = TradeConfirm {
            clock,
            offer,
            offered,
            answer,
        };
        let message = Message::TradeConfirm(confirm.clone());
        let slow = self.settings.resend_ms.saturating_mul(SLOWER);
        let sent = self.seal(now, &message, slow, None);
        let frame = sent.frame.clone();
        if let Some(trade) = self.trades.open.get_mut(&id) {
            trade.said = Some((reply, sent));
        }
        let bounds = self.bounds(now);
        let heard = self
            .trades
            .answered(accounts, bounds, offer.with, tick, &confirm);
        assert_eq!(heard, Ok(true), "our own answers pass our own rules");
        self.spread((message.kind(), frame));
        self.news(News::Answered(offer, reply));
    }

    fn reply(&self, accounts: &Accounts, offer: &Offer) -> Reply {
        let me = self.token();
        let balance = accounts.balance(me).unwrap_or_default();
        let said = self.trades.open.values().filter(|t| t.said.is_some());
        if said.count() >= self.settings.open_per_author_max {
            return Reply::Refused(TradeRefusal::Busy);
        }
        if offer.payer() == me && offer.amount > self.available(accounts) {
            return Reply::Refused(TradeRefusal::InsufficientCredits);
        }
        if offer.payee() == me && balance.checked_add(offer.amount).is_none() {
            return Reply::Refused(TradeRefusal::TooMuch);
        }
        Reply::Accepted
    }

    /// Requests that came while we could not answer.
    pub(crate) fn answer_all(&mut self, now: u64, accounts: &Accounts) {
        let me = self.token();
        let open = self.trades.open.values();
        let waiting = open.filter(|trade| trade.offer.with == me && trade.said.is_none());
        let ids: Vec<TradeId> = waiting.map(|trade| trade.offer.id).collect();
        ids.into_iter()
            .for_each(|id| self.answer(now, accounts, id));
    }

    /// The same frames, until the log has decided: also of an offer that has expired, for the leader must know it.
    pub(crate) fn say_again(&mut self, now: u64) {
        let (rhythm, count) = (self.settings.resend_ms.max(1), self.settings.resend_count);
        let mut again = Vec::new();
        for trade in self.trades.open.values_mut() {
            let proposal = trade.proposal.as_mut();
            let proposal = proposal.map(|sent| (Kind::TradeRequest, sent));
            let said = trade.said.as_mut();
            let said = said.map(|(_, sent)| (Kind::TradeConfirm, sent));
            for (kind, sent) in proposal.into_iter().chain(said) {
                if sent.due > now {
                    continue;
                }
                sent.copies = sent.copies.saturating_add(1);
                let fast = kind == Kind::TradeRequest && sent.copies < count;
                let pause = if fast {
                    rhythm
                } else {
                    rhythm.saturating_mul(SLOWER)
                };
                sent.due = now.saturating_add(pause);
                sent.sent_at = now;
                again.push((kind, sent.frame.clone()));
            }
        }
        again.into_iter().for_each(|frame| self.spread(frame));
    }

    /// The outbox: exactly our undecided wishes.
    pub(crate) fn keep(&mut self) {
        let mine = self.trades.open.values().filter(|t| t.proposal.is_some());
        let mine = mine.map(|trade| Intent::of(&trade.offer));
        let kept = self.restored.iter().copied().chain(mine).collect();
        self.effect(Effect::Keep(kept));
    }

    /// Wishes of an earlier incarnation whose id the log had decided before we looked.
    pub(crate) fn history_of_restored(&mut self, accounts: &Accounts, scanned: usize) -> bool {
        let history = accounts.trades().get(..scanned).unwrap_or_default();
        let mut decided = Vec::new();
        self.restored.retain(|intent| {
            let record = intent.offered.and_then(|o| accounts.decision(&o.id));
            let old =
                record.filter(|record| history.last().is_some_and(|l| record.index <= l.index));
            decided.extend(old.copied());
            old.is_none()
        });
        decided.sort_unstable_by_key(|record| record.index);
        let changed = !decided.is_empty();
        for record in decided {
            let ticket = None;
            self.news(News::Decided { ticket, record });
        }
        changed
    }

    /// Once the log lists this session, an id of an earlier one can never settle: its wish goes out under a new id,
    /// whatever the balance says now: the log will tell.
    pub(crate) fn offer_anew(&mut self, now: u64, accounts: &Accounts) {
        let listed = self.is_listed(accounts) && !self.is_closed(accounts);
        if self.restored.is_empty() || !self.facts.may_speak || !listed {
            return;
        }
        let room = self
            .settings
            .open_per_author_max
            .saturating_sub(self.trades.proposed_by(self.token()));
        let ours = self.me.incarnation;
        let mut anew = Vec::new();
        let mut rest = Vec::new();
        for intent in std::mem::take(&mut self.restored) {
            let void = intent.offered.is_none_or(|o| o.id.incarnation < ours);
            let sane = intent.wish.with != self.token() && intent.wish.amount > Wh(0);
            match (void && sane, anew.len() < room) {
                (true, true) => anew.push(intent),
                (true, false) => rest.push(intent),
                // no prompt made this line; it would never be decided
                (false, _) if !sane => {}
                (false, _) => rest.push(intent),
            }
        }
        self.restored = rest;
        let mut said = Vec::new();
        for intent in anew {
            let Some(clock) = self.causal.next_own() else {
                self.restored.push(intent);
                continue;
            };
            let (offer, frame) = self.offer(now, accounts, clock, None, intent.wish);
            said.push((intent, offer, frame));
        }
        self.keep();
        for (intent, offer, frame) in said {
            self.spread(frame);
            self.news(match intent.offered {
                Some(void) => News::OfferedAnew {
                    void: void.id,
                    offer,
                },
                None => News::Offered {
                    ticket: None,
                    offer,
                },
            });
        }
    }

    /// What wishes of earlier incarnations would pay.
    pub(crate) fn restored_payments(&self, accounts: &Accounts) -> Wh {
        let undecided = self.restored.iter().filter(|intent| {
            let decided = intent.offered.and_then(|o| accounts.decision(&o.id));
            intent.wish.side == Side::Sell && decided.is_none()
        });
        Wh(undecided.fold(0, |sum, intent| sum.saturating_add(intent.wish.amount.0)))
    }
}

impl Intent {
    fn of(offer: &Offer) -> Self {
        Self {
            wish: Wish {
                side: offer.side,
                with: offer.with,
                amount: offer.amount,
            },
            offered: Some(*offer),
        }
    }
}
