//! Several machines: discovery, the ways a frame can take, a stranger without the class code, one number on two
//! machines, a death in the middle of a trade. Loss has a file of its own.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // tests are the outside world

mod support;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::time::Duration;
use support::class::Class;
use support::lan::Lan;
use support::{eventually, turn};

const LONG: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn three_machines_find_each_other_elect_trade_and_count() -> Result<()> {
    let _turn = turn().await;
    let Some(class) = Class::of_three(4).await? else {
        return Ok(());
    };
    let leader = class.led().await?;
    class.sell(1, 3, 30).await?;
    class.all_have(&[70_000, 100_000, 130_000]).await?;
    class.increment(leader).await?;
    let [multicast, _, _] = class.ways(3, "TRADE_REQUEST").await?;
    ensure!(
        multicast > 0,
        "discovery and trade are multicast on a LAN that carries it"
    );

    // a fourth machine: without the code, and with a code of another class
    let nobody = class.command(4, 4, "node4", &[]).output()?;
    let why = String::from_utf8_lossy(&nobody.stderr).into_owned();
    ensure!(
        nobody.status.code() == Some(1) && why.contains("class code"),
        "{:?} {why}",
        nobody.status
    );
    let other = [
        "--class".to_owned(),
        "babab-babab-babab-babab-babab".to_owned(),
    ];
    let stranger = class.command(4, 4, "node4", &other).output()?;
    let why = String::from_utf8_lossy(&stranger.stderr).into_owned();
    ensure!(
        stranger.status.code() == Some(1) && why.contains("class"),
        "{:?} {why}",
        stranger.status
    );
    ensure!(
        class.get(1, "/members").await?["total_active"] == 3,
        "nobody else came in"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_multicast_named_peers_find_each_other() -> Result<()> {
    let _turn = turn().await;
    let Some(lan) = Lan::new(3)? else {
        return Ok(());
    };
    for host in 1..=3 {
        lan.drop_multicast(host)?;
    }
    let mut class = Class::start(lan)?;
    for node in 1..=3_u64 {
        let peers: Vec<String> = (1..=3)
            .filter(|n| *n != node)
            .map(|n| format!("{n}:10.77.0.{n}"))
            .collect();
        let options = [
            "--peers".to_owned(),
            peers.join(","),
            "--nodes".to_owned(),
            "1,2,3".to_owned(),
        ];
        class.join(node, &options)?;
    }
    let leader = class.led().await?;
    class.sell(1, 3, 30).await?;
    class.all_have(&[70_000, 100_000, 130_000]).await?;
    class.increment(leader).await?;
    let [multicast, unicast, _] = class.ways(3, "TRADE_REQUEST").await?;
    ensure!(
        multicast == 0 && unicast > 0,
        "{multicast} by multicast, {unicast} by unicast"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_datagram_frames_go_over_the_link() -> Result<()> {
    let _turn = turn().await;
    let Some(class) = Class::of_three(3).await? else {
        return Ok(());
    };
    class.sell(1, 2, 1).await?;
    class.all_have(&[99_000, 101_000, 100_000]).await?;
    let mut datagrams = Vec::new();
    for node in 1..=3 {
        let [multicast, unicast, _] = class.ways(node, "TRADE_REQUEST").await?;
        datagrams.push(multicast + unicast);
    }
    for host in 1..=3 {
        class.lan.drop_udp(host)?;
    }
    class.sell(1, 3, 30).await?;
    class.all_have(&[69_000, 101_000, 130_000]).await?;
    for node in [2, 3] {
        for kind in ["TRADE_REQUEST", "TRADE_CONFIRM"] {
            let [_, _, link] = class.ways(node, kind).await?;
            ensure!(
                link > 0 || (node == 3 && kind == "TRADE_CONFIRM"),
                "node {node}: no {kind} over the link"
            );
        }
        let [multicast, unicast, _] = class.ways(node, "TRADE_REQUEST").await?;
        ensure!(
            multicast + unicast == datagrams[usize::try_from(node)? - 1],
            "a datagram came through"
        );
    }
    // and back
    for host in 1..=3 {
        class.lan.allow_udp(host)?;
    }
    eventually(SOON, "datagrams are used again", async || {
        class.sell(2, 1, 1).await?;
        let [multicast, unicast, _] = class.ways(3, "TRADE_REQUEST").await?;
        ensure!(multicast + unicast > datagrams[2], "still by link only");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_number_on_two_machines_the_newer_wins_and_both_say_so() -> Result<()> {
    let _turn = turn().await;
    let Some(mut class) = Class::of_three(4).await? else {
        return Ok(());
    };
    let mut older = class.nodes.remove(&2).context("node 2")?;
    class.join_on(2, 4, "node2b", &[])?;
    let status = eventually(LONG, "the older one stops", async || {
        older.child.try_wait()?.context("it still runs")
    })
    .await
    .with_context(|| class.logs())?;
    ensure!(status.code() == Some(1), "{status}");
    let node_log = |home: &str| -> Result<String> {
        let own = class.dir.path().join(home).join("node.log");
        let outer = std::fs::read_to_string(class.log(home)).unwrap_or_default();
        Ok(outer + &std::fs::read_to_string(own).unwrap_or_default())
    };
    let told = node_log("node2")?;
    ensure!(
        told.contains("incarnation 2 of token 2 has registered from 10.77.0.4"),
        "{told}"
    );
    class.led().await?;
    let told = node_log("node2b")?;
    ensure!(
        told.contains("frames of another process as node 2 (incarnation 1) arrive from"),
        "{told}"
    );
    class.sell(1, 2, 30).await?;
    class.all_have(&[70_000, 130_000, 100_000]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_party_that_is_killed_in_the_middle_of_a_trade_comes_back_to_its_end() -> Result<()> {
    let _turn = turn().await;
    let Some(mut class) = Class::of_three(3).await? else {
        return Ok(());
    };
    let mut left = 100_000;
    for victim in [1, 3] {
        // the payee is cut off, so the trade cannot end before the death
        class.lan.partition(3)?;
        let body = json!({"type": "sell", "with": 3, "amount": 10, "wait": false});
        let (status, answer) = class.ask(1, "POST", "/trades", Some(body)).await?;
        ensure!(status == 202, "{status} {answer}");
        class.kill(victim).await?;
        class.lan.heal(3)?;
        class.join(victim, &[])?;
        left -= 10_000;
        class.led().await?;
        class.all_have(&[left, 100_000, 200_000 - left]).await?;
    }
    Ok(())
}
