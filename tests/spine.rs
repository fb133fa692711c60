//! From nothing to a replicated counter, with real processes: elect, count, die, come back.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // tests are the outside world

mod support;

use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use support::{World, eventually};
use synod_wire::Term;

const SOON: Duration = Duration::from_secs(15);

async fn count(world: &World, leader: u64, times: u64) -> Result<u64> {
    let mut last = 0;
    for _ in 0..times {
        let (code, body) = world.increment(leader).await?;
        ensure!(code == 200, "increment: {code} {body}");
        last = body["new_value"].as_u64().context("new_value")?;
    }
    Ok(last)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_from_nothing_elect_one_leader_and_count_to_a_hundred() -> Result<()> {
    let _turn = support::turn().await;
    let world = World::led(3).await?;
    let leader = world.leader(SOON).await?;
    assert_eq!(leader, 3, "among equally fresh nodes the highest id wins");
    assert_eq!(count(&world, leader, 100).await?, 100);
    world.all_count(100, SOON).await?;
    for id in 1..=3 {
        let log = world.get(id, "/log").await?;
        let operations = log["operations"].as_array().context("operations")?;
        assert_eq!(operations.len(), 100);
        for (n, operation) in operations.iter().enumerate() {
            assert_eq!(operation["new_value"], n as u64 + 1);
            assert_eq!(operation["operation"], "increment");
            assert!(operation["timestamp"].as_f64().context("timestamp")? > 1.7e9);
        }
    }
    a_follower_refuses_with_the_prototypes_words(&world, leader).await?;
    the_engine_never_elected_by_itself(&world).await?;
    every_term_names_its_transaction(&world).await?;
    ballots_travelled_as_frames(&world).await
}

async fn a_follower_refuses_with_the_prototypes_words(world: &World, leader: u64) -> Result<()> {
    let (code, body) = world.increment(1).await?;
    assert_eq!(code, 403);
    assert_eq!(body["error"], "Only leader can increment counter");
    assert_eq!(body["leader"]["token_id"], leader);
    let url = body["leader"]["url"].as_str().context("the leader's url")?;
    assert!(
        url.ends_with(&format!(":{}", world.node(leader).http)),
        "{url}"
    );
    Ok(())
}

async fn the_engine_never_elected_by_itself(world: &World) -> Result<()> {
    for node in &world.nodes {
        assert_eq!(
            world.status(node.id).await?["unasked_elections"],
            0,
            "node {}",
            node.id
        );
    }
    Ok(())
}

/// Every term of every log names the transaction in which the contract elected just this leader.
async fn every_term_names_its_transaction(world: &World) -> Result<()> {
    let mut leaders: BTreeMap<u64, u64> = BTreeMap::new();
    for node in world.running() {
        let terms = world.status(node.id).await?["log_terms"].clone();
        for start in terms.as_array().context("log_terms")? {
            let number = |name: &str| start[name].as_u64().with_context(|| name.to_owned());
            let (term, leader, block) = (number("term")?, number("leader")?, number("block")?);
            let (to, mined) = world
                .transaction(start["tx"].as_str().context("tx")?)
                .await?;
            assert_eq!((to, mined), (world.contract.to_string(), block));
            let record = world
                .chain
                .election(Term(term), block)
                .await?
                .context("LeaderElected")?;
            assert_eq!(
                record.tx.to_string(),
                start["tx"],
                "term {term} names another transaction"
            );
            assert_eq!(
                record.leader.0, leader,
                "term {term}: the contract elected another"
            );
            assert_eq!(
                *leaders.entry(term).or_insert(leader),
                leader,
                "two leaders in term {term}"
            );
        }
    }
    ensure!(!leaders.is_empty(), "no log names a term");
    Ok(())
}

/// Every ballot that one node says it received, another says it sent; and there was a quorum of them.
async fn ballots_travelled_as_frames(world: &World) -> Result<()> {
    let mut sent = BTreeMap::new();
    let mut received = BTreeMap::new();
    for node in &world.nodes {
        let frames = world.status(node.id).await?["frames"].clone();
        for kind in ["BALLOT_REQUEST", "BALLOT"] {
            *sent.entry(kind).or_insert(0) += frames["sent"][kind].as_u64().unwrap_or(0);
            *received.entry(kind).or_insert(0) += frames["received"][kind].as_u64().unwrap_or(0);
        }
    }
    for kind in ["BALLOT_REQUEST", "BALLOT"] {
        assert!(received[kind] >= 1, "{kind}: {received:?}");
        assert!(
            received[kind] <= sent[kind],
            "{kind}: sent {sent:?}, received {received:?}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_replaced_and_comes_back_muted_then_speaks() -> Result<()> {
    let _turn = support::turn().await;
    let mut world = World::led(3).await?;
    let witness = Witness::start(&world);
    let first = world.leader(SOON).await?;
    count(&world, first, 100).await?;
    let term = world.chain.view().await?.term;
    world.kill(first)?;

    let second = world.leader_after(term, SOON).await?;
    assert_ne!(second, first);
    assert_eq!(count(&world, second, 5).await?, 105, "the counter goes on");

    world.start(first)?;
    eventually(
        SOON,
        "the killed node was muted and caught up",
        async || {
            let log = std::fs::read_to_string(&world.node(first).log)?;
            ensure!(log.contains("restarted and muted"), "never muted");
            ensure!(
                log.contains("votes, signs and answers again"),
                "never unmuted"
            );
            Ok(())
        },
    )
    .await
    .with_context(|| world.logs())?;
    world.all_speak(SOON).await?;
    let leader = world.leader(SOON).await?;
    assert_eq!(
        leader, second,
        "a returning node does not disturb the office"
    );
    count(&world, leader, 1).await?;
    world.all_count(106, SOON).await?;
    the_engine_never_elected_by_itself(&world).await?;
    every_term_names_its_transaction(&world).await?;
    let leaders = witness.end().await?;
    println!("leaders by term, as the nodes said: {leaders:?}");
    assert!(leaders.len() >= 2, "both terms were seen: {leaders:?}");
    assert!(
        leaders.values().all(|l| l.len() == 1),
        "two leaders in a term: {leaders:?}"
    );
    Ok(())
}

/// Asks all nodes all the time who leads; ends with what they said: at most one leader in each term.
struct Witness(
    tokio::task::JoinHandle<BTreeMap<u64, BTreeSet<u64>>>,
    tokio::sync::watch::Sender<bool>,
);

impl Witness {
    fn start(world: &World) -> Self {
        let ports: Vec<(u64, u16)> = world
            .nodes
            .iter()
            .map(|node| (node.id, node.http))
            .collect();
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let asking = tokio::spawn(async move {
            let mut leaders: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
            while !*stopped.borrow() {
                for (id, port) in &ports {
                    // nobody answers for a dead one
                    let Ok(status) = support::ask(*port, "/status").await else {
                        continue;
                    };
                    if status["is_leader"] == true {
                        let term = status["log_term"]["term"].as_u64().unwrap_or(0);
                        leaders.entry(term).or_default().insert(*id);
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            leaders
        });
        Self(asking, stop)
    }

    async fn end(self) -> Result<BTreeMap<u64, BTreeSet<u64>>> {
        self.1.send_replace(true);
        Ok(self.0.await?)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_restarted_within_the_fail_time_leaves_nobody_leaderless() -> Result<()> {
    let _turn = support::turn().await;
    let mut world = World::led(3).await?;
    let first = world.leader(SOON).await?;
    count(&world, first, 3).await?;
    let term = world.chain.view().await?.term;
    world.kill(first)?;
    world.start(first)?;
    eventually(SOON, "the restarted node registers anew", async || {
        ensure!(world.status(first).await?["incarnation"] == 2);
        Ok(())
    })
    .await
    .with_context(|| world.logs())?;
    let leader = world.leader_after(term, SOON).await?;
    let now = world.chain.view().await?.term;
    assert_eq!(
        now.0,
        term.0 + 2,
        "its session ended its office, before anybody missed it; then one election"
    );
    assert_eq!(count(&world, leader, 1).await?, 4);
    world.all_speak(SOON).await?;
    world.all_count(4, SOON).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_three_killed_and_restarted_go_on_from_their_disks() -> Result<()> {
    let _turn = support::turn().await;
    let mut world = World::led(3).await?;
    let leader = world.leader(SOON).await?;
    count(&world, leader, 10).await?;
    let term = world.chain.view().await?.term;
    for id in 1..=3 {
        world.kill(id)?;
    }
    for id in 1..=3 {
        world.start(id)?;
    }
    let leader = world.leader_after(term, Duration::from_secs(30)).await?;
    world.all_speak(SOON).await?;
    assert_eq!(count(&world, leader, 1).await?, 11);
    world.all_count(11, SOON).await?;
    let status = world.status(leader).await?;
    assert!(
        status["cold_starts"].as_u64().context("cold_starts")? >= 1,
        "a cold start is visible: {status}"
    );
    assert!(
        !status["log_term"]["voted_muted"]
            .as_array()
            .context("voted_muted")?
            .is_empty()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_decides_without_the_chain_nobody_leads() -> Result<()> {
    let _turn = support::turn().await;
    let mut world = World::led(3).await?;
    let leader = world.leader(SOON).await?;
    count(&world, leader, 2).await?;
    let term = world.chain.view().await?.term;
    world.rpc.switch(false);
    eventually(SOON, "the leader notices and serves on", async || {
        let status = world.status(leader).await?;
        ensure!(
            status["chain"]["reachable"] == false,
            "chain: {}",
            status["chain"]
        );
        Ok(())
    })
    .await?;
    count(&world, leader, 1).await?;
    world.kill(leader)?;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    eventually(SOON, "the others try to elect", async || {
        for id in &others {
            ensure!(
                std::fs::read_to_string(&world.node(*id).log)?.contains("LEADER FAILED"),
                "node {id}"
            );
        }
        Ok(())
    })
    .await?;
    // back from its disk while nobody can say whether that is the newest one: it answers no reads
    world.start(leader)?;
    eventually(SOON, "the restarted node answers at all", async || {
        world.status(leader).await.map(drop)
    })
    .await?;
    for path in ["/counter", "/log"] {
        let answer = world.get(leader, path).await?;
        assert_eq!(answer["status"], 503, "{path}: {answer}");
    }
    world.kill(leader)?;
    // three rounds of ballots pass: time enough for an engine that elects by itself
    let rounds = std::time::Instant::now();
    while rounds.elapsed() < Duration::from_secs(4) {
        for id in &others {
            let status = world.status(*id).await?;
            assert_eq!(
                status["is_leader"], false,
                "node {id} leads without the contract: {status}"
            );
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    world.rpc.switch(true);
    let back = std::time::Instant::now();
    let next = world.leader_after(term, SOON).await?;
    assert!(
        back.elapsed() < Duration::from_secs(3),
        "a leader {:?} after the chain came back",
        back.elapsed()
    );
    assert_eq!(count(&world, next, 1).await?, 4);
    the_engine_never_elected_by_itself_among(&world, &others).await
}

async fn the_engine_never_elected_by_itself_among(world: &World, ids: &[u64]) -> Result<()> {
    for id in ids {
        assert_eq!(
            world.status(*id).await?["unasked_elections"],
            0,
            "node {id}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_alone_leads_counts_and_survives_its_own_death() -> Result<()> {
    let _turn = support::turn().await;
    let mut world = World::led(1).await?;
    assert_eq!(count(&world, 1, 3).await?, 3);
    let term = world.chain.view().await?.term;
    // idle for longer than any lease: who is alone needs nobody's acknowledgement
    let idle = std::time::Instant::now();
    while idle.elapsed() < Duration::from_secs(5) {
        let status = world.status(1).await?;
        assert_eq!(status["is_leader"], true, "{status}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(
        world.chain.view().await?.term,
        term,
        "and calls for no election"
    );
    world.kill(1)?;
    world.start(1)?;
    world.leader_after(term, Duration::from_secs(30)).await?;
    assert_eq!(count(&world, 1, 1).await?, 4);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_told_to_stop_says_leave_once_and_ends_with_0() -> Result<()> {
    let _turn = support::turn().await;
    let mut world = World::led(3).await?;
    let leader = world.leader(Duration::from_secs(15)).await?;
    let (goes, stays) = if leader == 1 { (2, 3) } else { (1, leader) };
    let ended = world.stop(goes, Duration::from_secs(10)).await?;
    ensure!(ended.code() == Some(0), "{ended}");
    eventually(Duration::from_secs(5), "LEAVE arrives", async || {
        let status = world.status(stays).await?;
        let heard = status["frames"]["received"]["LEAVE"].as_u64();
        ensure!(heard >= Some(1), "{}", status["frames"]["received"]);
        Ok(())
    })
    .await?;
    let log = std::fs::read_to_string(&world.node(stays).log)?;
    let told = log.matches(&format!("Node {goes} LEFT")).count();
    ensure!(told == 1, "told {told} times:\n{log}");
    Ok(())
}
