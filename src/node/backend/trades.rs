//! Balances, trades and the clock as the API shows them, and wishes on their way to the driver.

use super::{Late, NodeBackend};
use crate::desk::{Desk, Progress};
use crate::facts::Facts;
use crate::http::{TRADE_WAIT_MAX, TradeRefused, types};
use std::sync::Arc;
use std::time::Duration;
use synod_cluster::Health;
use synod_ledger::{CausalStats, Decision, Declined, OpenTrade, TradeRecord, Wish};
use synod_wire::trade::Reply;
use synod_wire::{Offer, Token, Wh};
use tokio::sync::mpsc;

const RETRY_AFTER_S: u64 = 1;
/// From a wish to its offer: a write of the outbox.
const OFFERED_WITHIN: Duration = Duration::from_secs(5);

pub(super) fn balances(node: &NodeBackend, facts: &Facts) -> types::Balances {
    let mut shown = types::Balances {
        instance_id: NodeBackend::instance(facts),
        token_id: node.config.token.0,
        reserved: facts.ledger.reserved.credits(),
        reserved_wh: facts.ledger.reserved.0,
        ..types::Balances::default()
    };
    let Some(late) = node.late.get() else {
        return shown;
    };
    let name = |token: Token| {
        let view = facts.view.as_ref();
        let member = view.and_then(|view| view.members.iter().find(|m| m.token == token));
        member.map(|m| m.name.clone()).unwrap_or_default()
    };
    late.engine.with_state(|state| {
        let accounts = &state.accounts;
        let balance = |(token, wh): (Token, Wh)| types::Balance {
            token_id: token.0,
            name: name(token),
            balance: wh.credits(),
            balance_wh: wh.0,
        };
        shown.balances = accounts.balances().map(balance).collect();
        let total = Wh(shown.balances.iter().map(|b| b.balance_wh).sum());
        let own = accounts.balance(node.config.token).unwrap_or_default();
        (shown.total, shown.total_wh) = (total.credits(), total.0);
        (shown.balance, shown.balance_wh) = (own.credits(), own.0);
        shown.issued_wh = accounts.issued().0;
        shown.applied_index = state.applied_index;
    });
    shown
}

pub(super) fn page(late: &Late, facts: &Facts, from: u64, limit: u32) -> types::TradesPage {
    late.engine.with_state(|state| {
        let all = state.accounts.trades();
        let start = usize::try_from(from).unwrap_or(usize::MAX).min(all.len());
        let end = start.saturating_add(limit as usize).min(all.len());
        let undecided = |trade: &&OpenTrade| state.accounts.decision(&trade.offer.id).is_none();
        types::TradesPage {
            trades: all[start..end].iter().map(decided).collect(),
            open: facts
                .ledger
                .open
                .iter()
                .filter(undecided)
                .map(open)
                .collect(),
            total_trades: all.len() as u64,
            next: (end < all.len()).then_some(end as u64),
        }
    })
}

pub(super) fn clock(facts: &Facts) -> types::ClockView {
    let ticks = || facts.ledger.clock.iter();
    types::ClockView {
        clock: ticks()
            .map(|(token, tick)| (token.0, tick.sequence))
            .collect(),
        entries: ticks()
            .map(|(token, tick)| types::ClockEntry {
                token_id: token.0,
                incarnation: tick.incarnation.0,
                sequence: tick.sequence,
            })
            .collect(),
        buffered: facts.ledger.buffered,
        instance_id: NodeBackend::instance(facts),
    }
}

pub(super) fn causal(stats: &CausalStats) -> types::Causal {
    types::Causal {
        delivered: stats.delivered,
        duplicates: stats.duplicates,
        held: stats.held,
        dropped: stats.dropped,
        asked: stats.asked,
        relayed: stats.relayed,
        void: stats.void,
        refused: super::text_keys(stats.refused.clone()),
    }
}

/// Whom a trade may name: members that are heard, and this node itself.
pub(super) fn active(node: &NodeBackend, facts: &Facts) -> Vec<u64> {
    let heard = facts
        .peers
        .iter()
        .filter(|(_, peer)| peer.health != Health::Failed);
    let mut tokens: Vec<u64> = heard.map(|(token, _)| token.0).collect();
    tokens.push(node.config.token.0);
    tokens.sort_unstable();
    tokens
}

pub(super) async fn trade(
    desk: Arc<Desk>,
    active: Vec<u64>,
    asked: types::TradeWish,
) -> Result<types::TradeEnd, TradeRefused> {
    let wish = Wish {
        side: asked.side,
        with: Token(asked.with),
        amount: asked.amount,
    };
    let unavailable = |why: &str| TradeRefused::Unavailable {
        why: why.to_owned(),
        retry_after_s: RETRY_AFTER_S,
    };
    let mut progress = desk.trade(wish).ok_or_else(|| {
        unavailable("this node is stopping, or has too many wishes before this one")
    })?;
    let first = tokio::time::timeout(OFFERED_WITHIN, progress.recv()).await;
    let offer = match first {
        Ok(Some(Progress::Offered(offer))) => offer,
        Ok(Some(Progress::Declined(why))) => return Err(declined(why, active)),
        Ok(Some(Progress::Decided(record))) => return Ok(decided(&record).into()),
        Ok(None) | Err(_) => {
            let why = "the node has not said whether the offer left".to_owned();
            return Err(TradeRefused::OutcomeUnknown { why });
        }
    };
    if !asked.wait {
        return Ok(offered(&offer).into());
    }
    let ended = tokio::time::timeout(TRADE_WAIT_MAX, until_decided(&mut progress)).await;
    Ok(match ended {
        Ok(Some(record)) => decided(&record).into(),
        Ok(None) | Err(_) => offered(&offer).into(),
    })
}

async fn until_decided(progress: &mut mpsc::Receiver<Progress>) -> Option<TradeRecord> {
    loop {
        match progress.recv().await? {
            Progress::Decided(record) => return Some(record),
            Progress::Offered(_) | Progress::Declined(_) => {}
        }
    }
}

fn declined(why: Declined, active: Vec<u64>) -> TradeRefused {
    match why {
        Declined::SelfTrade => TradeRefused::SelfTrade,
        Declined::Zero => TradeRefused::NotPositive,
        Declined::Unknown(with) => TradeRefused::UnknownNode {
            with: with.0,
            active,
        },
        Declined::Insufficient { amount, available } => {
            TradeRefused::Insufficient { amount, available }
        }
        // trying again does not help: the reason says what does
        Declined::NoRoom | Declined::Closed => TradeRefused::Barred {
            why: why.to_string(),
        },
        Declined::Muted | Declined::NotListed | Declined::Busy(_) => TradeRefused::Unavailable {
            why: why.to_string(),
            retry_after_s: RETRY_AFTER_S,
        },
    }
}

fn offered(offer: &Offer) -> types::Trade {
    types::Trade {
        id: offer.id.to_string(),
        side: offer.side.name().to_owned(),
        proposer: offer.id.proposer.0,
        with: offer.with.0,
        payer: offer.payer().0,
        payee: offer.payee().0,
        amount: offer.amount.credits(),
        amount_wh: offer.amount.0,
        status: types::TradeStatus::Open,
        ..types::Trade::default()
    }
}

fn open(trade: &OpenTrade) -> types::Trade {
    let (status, reason) = match trade.reply {
        None => (types::TradeStatus::Open, None),
        Some(Reply::Accepted) => (types::TradeStatus::Confirmed, None),
        Some(Reply::Refused(why)) => (types::TradeStatus::Open, Some(why.reason().to_owned())),
    };
    types::Trade {
        status,
        reason,
        ..offered(&trade.offer)
    }
}

fn decided(record: &TradeRecord) -> types::Trade {
    let (status, reason) = match record.decision {
        Decision::Settled => (types::TradeStatus::Settled, None),
        Decision::Refused(why) => (types::TradeStatus::Refused, Some(why.reason().to_owned())),
        Decision::Expired => (
            types::TradeStatus::Expired,
            Some("nobody confirmed it in time".to_owned()),
        ),
    };
    types::Trade {
        status,
        reason,
        index: Some(record.index),
        timestamp: Some(record.time_ms as f64 / 1_000.0),
        payer_balance_wh: Some(record.payer_after.0),
        payee_balance_wh: Some(record.payee_after.0),
        ..offered(&record.offer)
    }
}
