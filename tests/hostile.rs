//! What strangers and liars send: refused, counted, without effect.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // tests are the outside world

#[path = "support/liar.rs"]
mod liar;
mod support;

use anyhow::{Context, Result, ensure};
use liar::Liar;
use std::time::Duration;
use support::{World, eventually};
use synod_wire::message::{Heartbeat, Role};
use synod_wire::seal::Sealer;
use synod_wire::{
    Anchor, Ballot, ClusterId, Incarnation, LogPosition, Message, SessionKey, Term, Token,
};

const SOON: Duration = Duration::from_secs(15);

/// Nodes 1 and 2 are real; token 3 is the liar.
async fn two_and_a_liar() -> Result<(World, Liar, u64)> {
    let mut world = World::new(3).await?;
    for id in [1, 2] {
        world.start(id)?;
        world.adopt(id).await?;
    }
    let liar = Liar::register(&world, 3).await?;
    let leader = world.leader(SOON).await?;
    // the others may have registered after it
    liar.book.follow(&world.chain.view().await?);
    assert_eq!(leader, 2);
    Ok((world, liar, leader))
}

async fn counted(
    world: &World,
    node: u64,
    what: &str,
    reason: &str,
    more_than: u64,
) -> Result<u64> {
    eventually(
        SOON,
        &format!("{what}: {reason} counted at node {node}"),
        async || {
            let status = world.status(node).await?;
            let count = at(&status, what, reason);
            ensure!(
                count > more_than,
                "{what}: {}",
                status[what.split('/').next().unwrap()]
            );
            Ok(count)
        },
    )
    .await
}

fn at(status: &serde_json::Value, what: &str, reason: &str) -> u64 {
    let table = what.split('/').fold(status, |value, key| &value[key]);
    table[reason].as_u64().unwrap_or(0)
}

fn beat(term: u64) -> Message {
    Message::Heartbeat(Heartbeat {
        role: Role::Leader,
        muted: false,
        term: Term(term),
        position: LogPosition {
            raft_term: 99,
            index: 99,
        },
        committed: 99,
        http: "127.0.0.1:1".to_owned(),
        unheard: Vec::new(),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_of_strangers_and_replayed_ballots_have_no_effect() -> Result<()> {
    let _turn = support::turn().await;
    let (world, mut liar, leader) = two_and_a_liar().await?;
    let term = world.chain.view().await?.term;
    let cluster = ClusterId::of(31_337, world.contract);
    let stranger = SessionKey::from_bytes(&[9; 32])?;

    let mut posing = Sealer::new(cluster, Token(1), Incarnation(1));
    // beyond every number that node 1 has used, or the cheaper check for replays would refuse first
    for _ in 0..3_000 {
        posing.seal(&stranger, None, &beat(0));
    }
    liar.send(
        &world,
        leader,
        &posing.seal(&stranger, None, &beat(term.0 + 5)),
    )?;
    counted(&world, leader, "frames/refused", "signature", 0).await?;
    let mut nobody = Sealer::new(cluster, Token(77), Incarnation(1));
    liar.send(
        &world,
        leader,
        &nobody.seal(&stranger, None, &beat(term.0 + 5)),
    )?;
    counted(&world, leader, "frames/refused", "unknown sender", 0).await?;
    liar.send(
        &world,
        leader,
        br#"{"message_type":"COORDINATOR","sender_id":88}"#,
    )?;
    counted(&world, leader, "frames/refused", "not a frame", 0).await?;

    // a genuine ballot of a registered member, and its recording
    let ballot = Ballot {
        term: term_after(term),
        candidate: Token(leader),
        anchor: Anchor::default(),
        deadline: 1,
    };
    let message = Message::Ballot {
        ballot,
        signature: [1; 64],
        muted: false,
    };
    let frame = liar.frame(Some(Token(leader)), &message);
    liar.send(&world, leader, &frame)?;
    counted(&world, leader, "frames/received", "BALLOT", 0).await?;
    let received = at(&world.status(leader).await?, "frames/received", "BALLOT");
    for _ in 0..20 {
        liar.send(&world, leader, &frame)?;
    }
    counted(&world, leader, "frames/refused", "replayed", 19).await?;
    let status = world.status(leader).await?;
    assert_eq!(
        at(&status, "frames/received", "BALLOT"),
        received,
        "a replay is not read"
    );
    assert_eq!(world.chain.view().await?.term, term, "and elects nobody");
    assert_eq!(world.increment(leader).await?.0, 200);
    Ok(())
}

fn term_after(term: Term) -> Term {
    Term(term.0 + 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn votes_and_appends_of_a_node_that_the_contract_did_not_elect_are_refused() -> Result<()> {
    let _turn = support::turn().await;
    let (world, liar, leader) = two_and_a_liar().await?;
    assert_eq!(world.increment(leader).await?.0, 200);
    let term = world.chain.view().await?.term;
    // over a genuine link, with a genuine session, naming the true term
    liar.usurp(term);
    liar.engine.birth(&[Token(1), Token(2), Token(3)]).await?;
    eventually(SOON, "both gates refused and counted it", async || {
        liar.engine.seek().await?;
        for id in [1, 2] {
            let status = world.status(id).await?;
            ensure!(
                at(&status, "gate_refusals", "not_elected") > 0,
                "node {id}: {}",
                status["gate_refusals"]
            );
        }
        Ok(())
    })
    .await?;
    // and one that names a later term than there is
    liar.usurp(Term(term.0 + 7));
    eventually(SOON, "a term that nobody was elected for", async || {
        liar.engine.seek().await?;
        for id in [1, 2] {
            let status = world.status(id).await?;
            ensure!(
                at(&status, "gate_refusals", "behind") > 0,
                "node {id}: {}",
                status["gate_refusals"]
            );
        }
        Ok(())
    })
    .await?;
    assert_eq!(world.leader(SOON).await?, leader);
    assert_eq!(world.increment(leader).await?.1["new_value"], 2);
    assert_eq!(world.chain.view().await?.term, term);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leaders_own_appends_are_refused_from_anybody_else() -> Result<()> {
    let _turn = support::turn().await;
    let (world, liar, leader) = two_and_a_liar().await?;
    assert_eq!(world.increment(leader).await?.0, 200);
    let append = eventually(
        SOON,
        "the leader sends appends to the liar too",
        async || {
            let heard = liar.door.heard.lock().expect("not poisoned");
            // the newest: with the log's id, in the term that is in force
            heard.last().cloned().context("nothing heard yet")
        },
    )
    .await?;
    let before = world.get(1, "/counter").await?;
    let refused = at(&world.status(1).await?, "gate_refusals", "not_elected");
    let answer = liar
        .links
        .call(Token(1), append, Duration::from_secs(2))
        .await?;
    counted(&world, 1, "gate_refusals", "not_elected", refused).await?;
    let said = String::from_utf8_lossy(&answer).into_owned();
    assert!(said.contains("not_elected"), "the answer says why: {said}");
    assert_eq!(world.get(1, "/counter").await?["value"], before["value"]);
    assert_eq!(world.leader(SOON).await?, leader);
    Ok(())
}
