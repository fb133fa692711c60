//! Trades while the network loses datagrams: all settle in time, none is lost, made or left over.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // tests are the outside world

mod support;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::class::Class;
use support::{eventually, turn};

/// How many trades each of these runs makes, 20 a second.
const TRADES: u32 = 200;

/// Everybody sells to and buys of everybody, one trade each 50 ms.
async fn offer_all(class: &Class) -> Result<()> {
    let started = Instant::now();
    for number in 0..TRADES {
        let at = u64::from(number % 3) + 1;
        let with = u64::from((number + 1 + number / 3 % 2) % 3) + 1;
        let side = if number % 2 == 0 { "sell" } else { "buy" };
        let body = json!({"type": side, "with": with, "amount": "0.1", "wait": false});
        let (status, answer) = class.ask(at, "POST", "/trades", Some(body)).await?;
        ensure!(
            status == 202 || status == 200,
            "trade {number} at node {at} with {with}: {status} {answer}\n{}",
            class.logs()
        );
        let due = started + Duration::from_millis(50) * (number + 1);
        tokio::time::sleep(due.saturating_duration_since(Instant::now())).await;
    }
    Ok(())
}

/// The decided trades, when every node shows the same ones, none open and nothing held back.
async fn all_decided(class: &Class) -> Result<Vec<Value>> {
    let within = Duration::from_secs(30); // the expiry of the last one
    eventually(
        within,
        "all decided, nothing open, nothing held back",
        async || {
            let mut pages = Vec::new();
            for node in class.nodes.keys() {
                let page = class.get(*node, "/trades?limit=1000").await?;
                ensure!(
                    page["total_trades"] == TRADES && page["open"] == json!([]),
                    "node {node}: {} decided, open {}",
                    page["total_trades"],
                    page["open"]
                );
                let clock = class.get(*node, "/clock").await?;
                ensure!(clock["buffered"] == 0, "node {node}: {clock}");
                pages.push(page["trades"].clone());
            }
            ensure!(
                pages.windows(2).all(|two| two[0] == two[1]),
                "the nodes tell different stories"
            );
            Ok(pages[0].as_array().cloned().unwrap_or_default())
        },
    )
    .await
    .with_context(|| class.logs())
}

/// 200 trades at 20 a second under this loss: all settle before they expire, nothing lost, made or left over.
async fn trades_under_loss(percent: u8) -> Result<()> {
    let _turn = turn().await;
    let Some(class) = Class::of_three(3).await? else {
        return Ok(());
    };
    for host in 1..=3 {
        class.lan.lose(host, percent)?;
    }
    let started = Instant::now();
    offer_all(&class).await?;
    let offered = started.elapsed();
    ensure!(
        offered < Duration::from_secs(13),
        "20 a second were promised, {offered:?} it took"
    );
    let trades = all_decided(&class).await?;
    let states: Vec<&Value> = trades.iter().map(|t| &t["status"]).collect();
    ensure!(states.iter().all(|s| **s == "settled"), "{states:?}");
    let mut lost = 0;
    for node in 1..=3 {
        let shown = class.get(node, "/balances").await?;
        ensure!(
            shown["total_wh"] == 300_000 && shown["reserved_wh"] == 0,
            "node {node}: {shown}"
        );
        let ledger = class.get(node, "/status").await?["ledger"].clone();
        lost += ledger["held"].as_u64().unwrap_or(0) + ledger["asked"].as_u64().unwrap_or(0);
    }
    ensure!(lost > 0, "no datagram was lost: nothing was tried");
    eprintln!(
        "{TRADES} trades at {percent} % loss: offered in {offered:.1?}, all settled after {:.1?}",
        started.elapsed()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_trades_survive_ten_percent_loss() -> Result<()> {
    trades_under_loss(10).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_trades_survive_thirty_percent_loss() -> Result<()> {
    trades_under_loss(30).await
}
