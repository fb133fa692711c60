//! The undecided trades as this node has heard of them: who offered, who answered, what the leader may settle.
//! Everything here goes by trade id and may be said twice: negotiation does not depend on causal history, so a member
//! that joined after a request can still answer it (review F15 e). Nothing here decides: the log does.

use crate::{Accounts, Judgement, OpenTrade, Refusal, Settlement};
use std::collections::BTreeMap;
use synod_wire::message::{TradeConfirm, TradeRequest};
use synod_wire::trade::{Answer, Reply, Signature};
use synod_wire::{Offer, Tick, Token, TradeId, Wh};

/// The same settlement is written again after this.
pub(crate) const SETTLE_AGAIN_MS: u64 = 1_000;
/// Settlements of one round: each is two signatures to check.
pub(crate) const SETTLE_MAX: usize = 128;

pub(crate) struct Trade {
    pub(crate) offer: Offer,
    pub(crate) offered: Signature,
    /// With its place among the answers that were delivered here.
    answer: Option<(u64, Answer)>,
    /// Ours: we proposed it.
    pub(crate) proposal: Option<Sent>,
    /// Ours: what we answered.
    pub(crate) said: Option<(Reply, Sent)>,
    settled_at: Option<u64>,
}

/// A frame of ours that is said again until the log has decided.
pub(crate) struct Sent {
    pub(crate) frame: Vec<u8>,
    pub(crate) sent_at: u64,
    pub(crate) due: u64,
    pub(crate) copies: u32,
    /// Whose wish it was.
    pub(crate) ticket: Option<u64>,
}

/// What an offer that is heard now has to keep.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    /// Undecided trades of one author.
    pub(crate) open_max: usize,
    /// No offer expires later.
    pub(crate) expires_max_ms: u64,
}

/// A fault, and whose.
pub(crate) type Fault = (Token, Refusal);

#[derive(Default)]
pub(crate) struct Trades {
    pub(crate) open: BTreeMap<TradeId, Trade>,
    answers: u64,
}

impl Trades {
    pub(crate) fn iter(&self) -> impl Iterator<Item = OpenTrade> {
        self.open.values().map(|trade| OpenTrade {
            offer: trade.offer,
            reply: trade.answer.map(|(_, answer)| answer.reply),
        })
    }

    /// Undecided trades that this member proposed.
    pub(crate) fn proposed_by(&self, token: Token) -> usize {
        let id = |incarnation, sequence| TradeId {
            proposer: token,
            incarnation: synod_wire::Incarnation(incarnation),
            sequence,
        };
        self.open.range(id(0, 0)..=id(u64::MAX, u64::MAX)).count()
    }

    /// What `me` has promised to pay and the log has not decided.
    pub(crate) fn reserved(&self, accounts: &Accounts, me: Token) -> Wh {
        let promised = self.open.values().filter(|trade| {
            let accepted = matches!(trade.said, Some((Reply::Accepted, _)));
            trade.offer.payer() == me && (trade.proposal.is_some() || accepted)
        });
        let undecided = promised.filter(|trade| accounts.decision(&trade.offer.id).is_none());
        Wh(undecided.fold(0, |sum, trade| sum.saturating_add(trade.offer.amount.0)))
    }

    /// A request. True: a trade that was not known here. False also when the log has decided it, has ended its
    /// incarnation or does not list it yet: then it is heard again when it is said again.
    pub(crate) fn hear(
        &mut self,
        accounts: &Accounts,
        bounds: Bounds,
        from: Token,
        tick: Tick,
        request: &TradeRequest,
    ) -> Result<bool, Fault> {
        let offer = &request.offer;
        let named = TradeId {
            proposer: from,
            incarnation: tick.incarnation,
            sequence: tick.sequence,
        };
        if offer.id != named {
            return Err((from, Refusal::NotItsOwn(offer.id.proposer)));
        }
        self.learn(accounts, bounds, from, offer, &request.signature)
    }

    /// An answer. True: it is the first one of this incarnation to this offer.
    pub(crate) fn answered(
        &mut self,
        accounts: &Accounts,
        bounds: Bounds,
        from: Token,
        tick: Tick,
        confirm: &TradeConfirm,
    ) -> Result<bool, Fault> {
        let TradeConfirm {
            offer,
            offered,
            answer,
            ..
        } = confirm;
        if offer.with != from || answer.incarnation != tick.incarnation {
            return Err((from, Refusal::NotItsOwn(offer.with)));
        }
        let session = accounts.session(from);
        let Some(session) = session.filter(|s| s.incarnation == tick.incarnation) else {
            return Ok(false);
        };
        self.learn(accounts, bounds, from, offer, offered)?;
        let Some(cluster) = accounts.cluster() else {
            return Ok(false);
        };
        let Some(trade) = self.open.get_mut(&offer.id) else {
            return Ok(false);
        };
        match trade.answer {
            Some((_, before)) if before == *answer => return Ok(false),
            Some((_, before)) if before.incarnation > answer.incarnation => return Ok(false),
            Some((_, before)) if before.incarnation == answer.incarnation => {
                return Err((from, Refusal::SecondAnswer));
            }
            Some(_) | None => {}
        }
        if !answer.verify(cluster, &session.key, offer) {
            return Err((from, Refusal::AnswerSignature));
        }
        self.answers += 1;
        trade.answer = Some((self.answers, *answer));
        trade.settled_at = None;
        Ok(true)
    }

    fn learn(
        &mut self,
        accounts: &Accounts,
        bounds: Bounds,
        from: Token,
        offer: &Offer,
        offered: &Signature,
    ) -> Result<bool, Fault> {
        let proposer = offer.id.proposer;
        if offer.check().is_err() {
            return Err((from, Refusal::Offer));
        }
        if accounts.balance(offer.with).is_none() {
            return Err((from, Refusal::Unknown(offer.with)));
        }
        let session = accounts.session(proposer);
        let session = session.filter(|s| s.incarnation == offer.id.incarnation);
        let (Some(session), Some(cluster)) = (session, accounts.cluster()) else {
            return Ok(false);
        };
        if accounts.decision(&offer.id).is_some() {
            return Ok(false);
        }
        let known = self.open.get(&offer.id);
        if known.is_some_and(|known| known.offer == *offer) {
            return Ok(false);
        }
        // not before: what has been taken stays, though a clock be put back
        if offer.expires_ms > bounds.expires_max_ms {
            return Err((from, Refusal::Offer));
        }
        if !offer.verify(cluster, &session.key, offered) {
            return Err((from, Refusal::OfferSignature));
        }
        if known.is_some() {
            return Err((proposer, Refusal::Equivocation(offer.id.sequence)));
        }
        if self.proposed_by(proposer) >= bounds.open_max {
            return Err((proposer, Refusal::TooMany(proposer)));
        }
        self.open.insert(
            offer.id,
            Trade {
                offer: *offer,
                offered: *offered,
                answer: None,
                proposal: None,
                said: None,
                settled_at: None,
            },
        );
        Ok(true)
    }

    /// What the leader writes now, in the order in which the answers were delivered here; then what has expired.
    pub(crate) fn settle(
        &mut self,
        now: u64,
        log_time_ms: u64,
        accounts: &Accounts,
    ) -> Vec<Settlement> {
        let mut due: Vec<(u64, TradeId)> = self
            .open
            .values()
            .filter(|trade| {
                let rested = |at| now.saturating_sub(at) >= SETTLE_AGAIN_MS;
                let ready = trade.answer.is_some() || log_time_ms > trade.offer.expires_ms;
                ready && trade.settled_at.is_none_or(rested)
            })
            .map(|trade| {
                let place = trade.answer.map_or(u64::MAX, |(place, _)| place);
                (place, trade.offer.id)
            })
            .collect();
        due.sort_unstable();
        due.truncate(SETTLE_MAX);
        let ids = due.iter().map(|(_, id)| id);
        ids.filter_map(|id| self.open.get_mut(id)?.propose(now, log_time_ms, accounts))
            .collect()
    }

    /// Upon news in the log: what it has decided, and what can never be decided, is open no longer. What others trade
    /// is forgotten `grace_ms` after its expiry; if the log still owes an answer, its proposer says it again. So is what
    /// we answered, `now_ms` being the later one of log time and our wall: the log may have decided another offer of
    /// that id, or hear of none.
    pub(crate) fn prune(
        &mut self,
        accounts: &Accounts,
        grace_ms: u64,
        log_time_ms: u64,
        now_ms: u64,
    ) {
        self.open.retain(|id, trade| {
            let session = accounts.session(id.proposer);
            let ended = session.is_none_or(|s| s.incarnation > id.incarnation);
            let time_ms = if trade.said.is_some() {
                now_ms
            } else {
                log_time_ms
            };
            let stale = time_ms > trade.offer.expires_ms.saturating_add(grace_ms);
            trade.proposal.is_some() || !ended && accounts.decision(id).is_none() && !stale
        });
    }
}

impl Trade {
    /// Its settlement, if an honest leader writes one now.
    fn propose(&mut self, now: u64, log_time_ms: u64, accounts: &Accounts) -> Option<Settlement> {
        self.settled_at = Some(now);
        let mut settlement = Settlement {
            offer: self.offer,
            offered: self.offered,
            answer: self.answer.map(|(_, answer)| answer),
        };
        if let Some(answer) = settlement.answer {
            match accounts.judge(log_time_ms, &settlement) {
                Judgement::Decided(_) => return Some(settlement),
                // an answer of an ended incarnation makes place for one of the new
                Judgement::Void | Judgement::Wrong(_) => {
                    let session = accounts.session(self.offer.with);
                    if session.is_none_or(|s| s.incarnation > answer.incarnation) {
                        self.answer = None;
                    }
                    settlement.answer = None;
                }
            }
        }
        let judgement = accounts.judge(log_time_ms, &settlement);
        matches!(judgement, Judgement::Decided(_)).then_some(settlement)
    }
}
