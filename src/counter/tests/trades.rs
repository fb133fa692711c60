//! Trades in the log of three engines: what is agreed moves credits once, what is invented moves none, and entries
//! that are proposed together keep their order.
#![allow(clippy::unwrap_used)] // helpers of tests

mod world;

use std::time::{Duration, Instant};
use synod_counter::*;
use synod_ledger::{Settlement, WrongTrade};
use synod_wire::trade::{Answer, Reply, Side};
use synod_wire::{Incarnation, Offer, Token, TradeId, Wh};
use world::*;

/// Token 1 sells token 2 one credit, signed by both.
/// Entries carry the leader's clock, and no offer may outlast it by more than ten minutes.
fn wall_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(since.unwrap().as_millis()).unwrap()
}

fn trade(sequence: u64) -> Settlement {
    let id = TradeId {
        proposer: Token(1),
        incarnation: Incarnation(1),
        sequence,
    };
    let offer = Offer {
        id,
        side: Side::Sell,
        with: Token(2),
        amount: Wh(1_000),
        expires_ms: wall_ms() + 60_000,
    };
    let (incarnation, reply) = (Incarnation(1), Reply::Accepted);
    Settlement {
        offered: offer.sign(CLUSTER, &key(1)),
        answer: Some(Answer::sign(CLUSTER, &key(2), &offer, incarnation, reply)),
        offer,
    }
}

fn balances(state: &State) -> Vec<(u64, u64)> {
    let accounts = state.accounts.balances();
    accounts.map(|(token, wh)| (token.0, wh.0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agreed_trade_moves_credits_once_and_an_invented_one_moves_none_on_any_node() {
    let world = World::born().await;
    let settle = |s| world.propose(1, Body::Settle(s));
    for _ in 0..2 {
        let done = settle(trade(1)).await.unwrap();
        assert_eq!(done.outcome, Outcome::Settled(Decided::Settled));
    }
    let mut invented = trade(2);
    invented.offer.amount = Wh(50_000);
    let Outcome::Refused(alarm) = settle(invented).await.unwrap().outcome else {
        panic!("an invented trade took effect");
    };
    let why = AlarmKind::WrongTrade(WrongTrade::OfferSignature);
    assert_eq!((alarm.kind, alarm.entry.as_str()), (why, "Settle"));
    let close = Body::Close {
        token: Token(2),
        incarnation: Incarnation(1),
        last: 9,
    };
    assert_eq!(
        world.propose(1, close).await.unwrap().outcome,
        Outcome::Closed
    );
    world.agree(0).await; // the whole state, accounts and alarms included
    for token in 1..=3 {
        let state = world.engine(token).with_state(State::clone);
        let expected = [(1, 99_000), (2, 101_000), (3, 100_000)];
        assert_eq!(balances(&state), expected, "node {token}");
        assert_eq!(state.alarms.back(), Some(&alarm), "node {token}");
        assert_eq!(state.accounts.trades().len(), 1);
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_are_the_same_after_a_restart() {
    let mut world = World::born().await;
    world.propose(1, Body::Settle(trade(1))).await.unwrap();
    world.agree(0).await;
    let before = world.engine(3).with_state(|s| s.accounts.clone());
    let dir = world.stop(3).await;
    world.restart(3, dir).await;
    assert_eq!(
        world.engine(3).with_state(|s| s.accounts.clone()),
        before,
        "rebuilt from its own disk"
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_proposed_together_keeps_its_order_and_shares_its_flushes() {
    let world = World::born().await;
    let trades = |from: u64| (from..from + 50).map(|n| Body::Settle(trade(n)));
    let flushes = || world.engine(1).flushes();
    let (begun, before) = (Instant::now(), flushes());
    let results = world
        .engine(1)
        .propose_in_order(trades(1).collect(), PATIENCE)
        .await;
    let together = (begun.elapsed(), flushes() - before);
    let indexes: Vec<u64> = results.iter().map(|r| r.as_ref().unwrap().index).collect();
    let first = indexes.first().copied().unwrap();
    assert_eq!(indexes, (first..first + 50).collect::<Vec<_>>());
    let order: Vec<u64> = world.engine(1).with_state(|s| {
        let trades = s.accounts.trades().iter();
        trades.map(|t| t.offer.id.sequence).collect()
    });
    assert_eq!(order, (1..=50).collect::<Vec<_>>());
    let (begun, before) = (Instant::now(), flushes());
    for body in trades(51) {
        world.propose(1, body).await.unwrap();
    }
    let alone = (begun.elapsed(), flushes() - before);
    println!("50 trades (time, flushes): together {together:?}, one by one {alone:?}");
    assert!(together.1 <= 25, "{together:?} against {alone:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_entry_of_a_batch_has_its_own_result() {
    let world = World::born().await;
    let refused = world
        .engine(2)
        .propose_in_order(vec![up(2); 3], PATIENCE)
        .await;
    assert_eq!(refused.len(), 3);
    assert!(
        refused
            .iter()
            .all(|r| matches!(r, Err(ProposeError::NotLeader { .. })))
    );
    assert!(
        world
            .engine(1)
            .propose_in_order(vec![], PATIENCE)
            .await
            .is_empty()
    );
    // one too many, and one too long in the middle
    let mut bodies = vec![up(1); PROPOSE_LEN_MAX + 1];
    bodies[1] = Body::TermStart {
        term: synod_wire::Term(1),
        leader: Token(1),
        incarnation: Incarnation(1),
        tx: synod_wire::Hash::ZERO,
        block: 1,
        voted_muted: vec![Token(u64::MAX); ENTRY_LEN_MAX],
    };
    let results = world.engine(1).propose_in_order(bodies, PATIENCE).await;
    for (place, result) in results.iter().enumerate() {
        let written = place != 1 && place < PROPOSE_LEN_MAX;
        assert_eq!(result.is_ok(), written, "{place}: {result:?}");
    }
    let why = results[PROPOSE_LEN_MAX].as_ref().unwrap_err().to_string();
    assert!(why.contains("at most 256") && why.contains("257"), "{why}");
    world.agree(255).await;
    // without a majority nobody knows what became of them
    world.links.cut.lock().unwrap().insert(1);
    let deadline = Duration::from_millis(200);
    let lost = world
        .engine(1)
        .propose_in_order(vec![up(1); 3], deadline)
        .await;
    assert!(lost.iter().all(|r| matches!(
        r,
        Err(ProposeError::Unknown { .. } | ProposeError::Unavailable { .. })
    )));
    world.end().await;
}
