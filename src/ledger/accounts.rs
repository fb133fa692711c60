//! Who has how much: a function of the log alone (design section 10). An entry is judged when it is applied, on
//! every node alike, by the sessions that the `Members` entry before it lists. A trade id is decided once, by the
//! first entry that names it; the sum of all balances is what was issued, after every entry.

use crate::OFFER_TTL_MAX_MS;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use synod_wire::trade::{Answer, Offer, Reply, Signature, TradeRefusal};
use synod_wire::{ClusterId, Incarnation, SessionPublic, Token, TradeId, Wh};

/// What a `Settle` entry says: an offer and, unless it has expired without one, its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settlement {
    /// The offer.
    pub offer: Offer,
    /// The proposer's signature.
    pub offered: Signature,
    /// The other side's answer; none = nobody answered in time.
    pub answer: Option<Answer>,
}

/// How a trade ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Decision {
    /// The credits moved.
    Settled,
    /// The other side refused, or the balance did not cover it here.
    Refused(TradeRefusal),
    /// Its entry came after its expiry.
    Expired,
}

impl Decision {
    /// `settled`, `refused`, `expired`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::Refused(_) => "refused",
            Self::Expired => "expired",
        }
    }
}

/// A trade that the log has decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TradeRecord {
    /// What was offered.
    pub offer: Offer,
    /// How it ended.
    pub decision: Decision,
    /// Where in the log.
    pub index: u64,
    /// Log time of the entry, unix milliseconds.
    pub time_ms: u64,
    /// The payer's balance after it.
    pub payer_after: Wh,
    /// The payee's balance after it.
    pub payee_after: Wh,
}

/// What applying a settlement would do, or did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Decided, now or by an earlier entry.
    Decided(Decision),
    /// A signature is of an incarnation that has ended: nothing happened, the trade is still undecided.
    Void,
    /// No honest leader writes this; nothing happened.
    Wrong(WrongTrade),
}

/// Why a settlement is a fault of its author.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum WrongTrade {
    /// With oneself, of nothing, or for longer than [`OFFER_TTL_MAX_MS`].
    Offer,
    /// A side is no member, or an incarnation that the log does not know yet.
    Party,
    /// Not the proposer's signature.
    OfferSignature,
    /// Not the other side's signature.
    AnswerSignature,
    /// No answer, and the offer has not expired.
    Unanswered,
}

/// One member's session as the log knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Of this registration.
    pub incarnation: Incarnation,
    /// Signs in its name.
    pub key: SessionPublic,
}

/// All accounts, and every trade that was decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    cluster: Option<ClusterId>,
    initial_credit: Wh,
    issued: Wh,
    balances: BTreeMap<Token, Wh>,
    sessions: BTreeMap<Token, Session>,
    decided: BTreeMap<TradeId, usize>,
    trades: Vec<TradeRecord>,
    /// Messages of this incarnation beyond the number are void.
    closed: BTreeMap<(Token, Incarnation), u64>,
}

impl Accounts {
    /// The log is born: what every member is credited once.
    pub fn genesis(&mut self, cluster: ClusterId, initial_credit: Wh) {
        self.cluster = Some(cluster);
        self.initial_credit = initial_credit;
    }

    /// A roster is in force: its sessions sign from here on, and whoever is listed for the first time gets the
    /// genesis credit. False = the sum would not fit; nothing was credited to that member.
    pub fn members(&mut self, listed: impl Iterator<Item = (Token, Session)>) -> bool {
        self.sessions = listed.collect();
        let mut all = true;
        for token in self.sessions.keys() {
            if self.balances.contains_key(token) {
                continue;
            }
            match self.issued.checked_add(self.initial_credit) {
                Some(issued) => {
                    self.issued = issued;
                    self.balances.insert(*token, self.initial_credit);
                }
                None => all = false,
            }
        }
        self.assert_conserved();
        all
    }

    /// Upon a committed settlement: judge it, and do what the judgement says.
    pub fn settle(&mut self, index: u64, log_time_ms: u64, settlement: &Settlement) -> Judgement {
        let known = self.decision(&settlement.offer.id).is_some();
        let judgement = self.judge(log_time_ms, settlement);
        if let (Judgement::Decided(decision), false) = (judgement, known) {
            self.record(index, log_time_ms, &settlement.offer, decision);
        }
        judgement
    }

    /// What [`Self::settle`] would answer now; a leader asks before it writes.
    pub fn judge(&self, log_time_ms: u64, settlement: &Settlement) -> Judgement {
        let Settlement {
            offer,
            offered,
            answer,
        } = settlement;
        if let Some(record) = self.decision(&offer.id) {
            return Judgement::Decided(record.decision);
        }
        let endless = offer.expires_ms > log_time_ms.saturating_add(OFFER_TTL_MAX_MS);
        if offer.check().is_err() || endless {
            return Judgement::Wrong(WrongTrade::Offer);
        }
        let expired = log_time_ms > offer.expires_ms;
        let (Some(cluster), Some(proposer)) = (self.cluster, self.sessions.get(&offer.id.proposer))
        else {
            return Judgement::Wrong(WrongTrade::Party);
        };
        let other = self.sessions.get(&offer.with);
        // nobody need be there for an offer to expire: the other side may have left
        let silent = expired && answer.is_none() && self.balance(offer.with).is_some();
        if other.is_none() && !silent {
            return Judgement::Wrong(WrongTrade::Party);
        }
        let pairs = [
            (Some(offer.id.incarnation), Some(proposer.incarnation)),
            (answer.map(|a| a.incarnation), other.map(|o| o.incarnation)),
        ];
        let pairs = pairs.map(|(said, now)| said.zip(now).map(|(said, now)| said.cmp(&now)));
        if pairs.contains(&Some(Ordering::Greater)) {
            return Judgement::Wrong(WrongTrade::Party);
        }
        if pairs.contains(&Some(Ordering::Less)) {
            return Judgement::Void;
        }
        if !offer.verify(cluster, &proposer.key, offered) {
            return Judgement::Wrong(WrongTrade::OfferSignature);
        }
        if let (Some(answer), Some(other)) = (answer, other)
            && !answer.verify(cluster, &other.key, offer)
        {
            return Judgement::Wrong(WrongTrade::AnswerSignature);
        }
        if expired {
            return Judgement::Decided(Decision::Expired);
        }
        match answer {
            None => Judgement::Wrong(WrongTrade::Unanswered),
            Some(Answer {
                reply: Reply::Refused(why),
                ..
            }) => Judgement::Decided(Decision::Refused(*why)),
            Some(Answer {
                reply: Reply::Accepted,
                ..
            }) => Judgement::Decided(match self.moved(offer) {
                Ok(_) => Decision::Settled,
                Err(why) => Decision::Refused(why),
            }),
        }
    }

    /// An incarnation's messages beyond `last` are void, and dependencies on them count as met. The first word
    /// stands.
    pub fn close(&mut self, token: Token, incarnation: Incarnation, last: u64) {
        self.closed.entry((token, incarnation)).or_insert(last);
    }

    /// The last message of an incarnation that a `Close` entry lets stand.
    pub fn closed(&self, token: Token, incarnation: Incarnation) -> Option<u64> {
        self.closed.get(&(token, incarnation)).copied()
    }

    /// Which cluster; none before Genesis.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    /// None: never a member.
    pub fn balance(&self, token: Token) -> Option<Wh> {
        self.balances.get(&token).copied()
    }

    /// Ascending by token.
    pub fn balances(&self) -> impl Iterator<Item = (Token, Wh)> {
        self.balances.iter().map(|(token, wh)| (*token, *wh))
    }

    /// The sum of all balances.
    pub fn issued(&self) -> Wh {
        self.issued
    }

    /// What every member was credited once.
    pub fn initial_credit(&self) -> Wh {
        self.initial_credit
    }

    /// Who signs for this member now; none = not a member now.
    pub fn session(&self, token: Token) -> Option<Session> {
        self.sessions.get(&token).copied()
    }

    /// Members of the roster in force.
    pub fn sessions(&self) -> impl Iterator<Item = (Token, Session)> {
        self.sessions
            .iter()
            .map(|(token, session)| (*token, *session))
    }

    /// How this trade ended, if it has.
    pub fn decision(&self, id: &TradeId) -> Option<&TradeRecord> {
        self.decided
            .get(id)
            .and_then(|place| self.trades.get(*place))
    }

    /// Every decided trade, in the log's order.
    pub fn trades(&self) -> &[TradeRecord] {
        &self.trades
    }

    /// Balances of payer and payee after the trade.
    fn moved(&self, offer: &Offer) -> Result<(Wh, Wh), TradeRefusal> {
        let balance = |token| self.balance(token).unwrap_or_default();
        let payer = balance(offer.payer())
            .checked_sub(offer.amount)
            .ok_or(TradeRefusal::InsufficientCredits)?;
        let payee = balance(offer.payee())
            .checked_add(offer.amount)
            .ok_or(TradeRefusal::TooMuch)?;
        Ok((payer, payee))
    }

    fn record(&mut self, index: u64, time_ms: u64, offer: &Offer, decision: Decision) {
        if decision == Decision::Settled
            && let Ok((payer, payee)) = self.moved(offer)
        {
            self.balances.insert(offer.payer(), payer);
            self.balances.insert(offer.payee(), payee);
        }
        self.decided.insert(offer.id, self.trades.len());
        self.trades.push(TradeRecord {
            offer: *offer,
            decision,
            index,
            time_ms,
            payer_after: self.balance(offer.payer()).unwrap_or_default(),
            payee_after: self.balance(offer.payee()).unwrap_or_default(),
        });
        self.assert_conserved();
    }

    /// P3. Ours to keep: what others send is judged before it comes here.
    fn assert_conserved(&self) {
        let sum: u128 = self.balances.values().map(|wh| u128::from(wh.0)).sum();
        assert_eq!(
            sum,
            u128::from(self.issued.0),
            "the sum of all credits is what was issued"
        );
    }
}
