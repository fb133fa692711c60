//! Three engines that are born, count, die, come back and disagree with the contract.
#![allow(clippy::unwrap_used)] // helpers of tests

mod world;

use std::sync::Arc;
use std::time::{Duration, Instant};
use synod_counter::*;
use synod_wire::{Term, Token};
use tempfile::TempDir;
use world::*;

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_are_born_and_count_to_a_hundred_alike() {
    let world = World::born().await;
    world.count(100).await;
    world.agree(100).await;
    let state = world.engine(2).with_state(State::clone);
    assert_eq!(state.operations.len(), 100);
    assert!(
        state
            .operations
            .iter()
            .zip(1..)
            .all(|(o, value)| o.new_value == value)
    );
    assert!(state.alarms.is_empty());
    let read = world.engine(1).read_index(PATIENCE).await.unwrap();
    assert_eq!(read, state.applied_index);
    assert!(matches!(
        world.engine(2).read_index(PATIENCE).await,
        Err(ProposeError::NotLeader { .. })
    ));
    assert!(matches!(
        world.propose(2, up(2)).await,
        Err(ProposeError::NotLeader { .. })
    ));
    // the followers' majority may commit before the leader's own disk has answered
    eventually("the leader's disk has all of it", || {
        world.engine(1).view().position.index == state.applied_index
    })
    .await;
    let view = world.engine(1).view();
    assert_eq!(view.applied, state.applied_index);
    assert!(view.born && view.quorum_ack_age_ms.is_some_and(|age| age < 1_000));
    let members = [Token(1), Token(2), Token(3)];
    assert!(matches!(
        world.engine(1).birth(&members).await,
        Err(EngineError::AlreadyBorn(_))
    ));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_dies_another_is_elected_and_the_restarted_one_replays_and_does_not_lead() {
    let mut world = World::born().await;
    world.count(50).await;
    let dir = world.stop(1).await;
    world.elect(3).await;
    world.count(50).await;
    world.agree(100).await;
    // F1: back with its own committed vote on disk
    world.restart(1, dir).await;
    assert_ne!(world.engine(1).view().role, Role::Leader);
    assert!(
        world.engine(1).with_state(|s| s.value >= 40),
        "rebuilt from its own disk before anybody spoke to it"
    );
    world.agree(100).await;
    assert_eq!(world.engine(1).view().role, Role::Follower);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_restarts_at_once_leads_again_only_by_a_new_term() {
    let mut world = World::born().await;
    world.count(5).await;
    let dir = world.stop(1).await;
    world.restart(1, dir).await;
    let quiet = Instant::now() + Duration::from_millis(900); // three leases: the engine had its chances
    while Instant::now() < quiet {
        assert_ne!(world.engine(1).view().role, Role::Leader);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.nodes[&1].gate.update(|s| s.mute = Mute::Unmuted);
    world.elect(1).await;
    world.count(5).await;
    world.agree(10).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_muted_node_takes_appends_and_does_not_vote() {
    let mut world = World::born().await;
    let dir = world.stop(2).await;
    world.count(10).await;
    world.restart(2, dir).await;
    world.agree(10).await; // it takes appends
    world.stop(1).await;
    world.name(3);
    let refused = || {
        world.nodes[&2]
            .gate
            .refusals()
            .get("muted")
            .copied()
            .unwrap_or(0)
    };
    let deadline = Instant::now() + PATIENCE;
    while refused() < 5 {
        assert!(Instant::now() < deadline);
        world.engine(3).seek().await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_ne!(world.engine(3).view().role, Role::Leader);
    world.nodes[&2].gate.update(|s| s.mute = Mute::ColdStart);
    world.win().await;
    assert_eq!(world.term_start().await, Outcome::TermStarted(true));
    world.agree(10).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_asks_that_the_contract_did_not_elect_is_refused_counted_and_without_effect() {
    let world = World::born().await;
    world.count(3).await;
    let raft_term = world.engine(2).view().raft_term;
    // node 3 believes (or pretends) that it is elected
    world.nodes[&3].gate.update(|s| s.leader = Some(Token(3)));
    world.engine(3).claim(Some((Term(1), 1)));
    let refused = |token| {
        world.nodes[&token]
            .gate
            .refusals()
            .get("not_elected")
            .copied()
            .unwrap_or(0)
    };
    let deadline = Instant::now() + PATIENCE;
    while refused(1) < 3 || refused(2) < 3 {
        assert!(Instant::now() < deadline, "{} {}", refused(1), refused(2));
        world.engine(3).seek().await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(world.engine(2).view().raft_term, raft_term);
    world.count(3).await;
    assert_eq!(world.engine(1).with_state(|s| s.value), 6);
    // without the office in its own gate it does not even ask
    world.nodes[&3].gate.update(|s| s.leader = Some(Token(1)));
    assert_eq!(world.engine(3).seek().await, Err(EngineError::NotInOffice));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lease_of_a_deposed_leader_that_hears_no_news_runs_out() {
    let mut world = World::born().await;
    world.count(3).await;
    let behind = world.nodes[&1].gate.behind();
    // n2 and n3 know term 2 and its leader 3; the chain is hidden from n1
    world.term = 2;
    for token in [2, 3] {
        world.nodes[&token]
            .gate
            .update(|s| (s.term, s.leader, s.block) = (Term(2), Some(Token(3)), 2));
    }
    world.engine(3).claim(Some((Term(2), 2)));
    tokio::time::timeout(PATIENCE, behind.notified())
        .await
        .expect("n1 is told that a later term began");
    eventually("the lease of n1 ran out", || {
        world
            .engine(1)
            .view()
            .quorum_ack_age_ms
            .is_none_or(|age| age > 500)
    })
    .await;
    assert!(world.nodes[&2].gate.refusals().contains_key("deposed"));
    let late = world
        .engine(1)
        .propose(up(1), Duration::from_millis(300))
        .await;
    assert!(
        matches!(
            late,
            Err(ProposeError::Unavailable { .. } | ProposeError::Unknown { .. })
        ),
        "{late:?}"
    );
    world.leader = 3;
    world.win().await;
    assert_eq!(world.term_start().await, Outcome::TermStarted(true));
    world.count(3).await;
    assert_eq!(world.engine(3).with_state(|s| s.value), 6);
    world.announce(); // the news reaches n1
    world.agree(6).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_disk_is_repaired_after_readmission() {
    let mut world = World::born().await;
    world.count(40).await;
    world.agree(40).await;
    let dir = world.stop(2).await;
    let older = copy(dir.path());
    world.start(2, dir, Mute::Unmuted).await;
    world.count(20).await;
    world.agree(60).await;
    world.stop(2).await;
    world.engine(1).readmit(Token(2));
    world.restart(2, older).await;
    world.engine(1).readmit(Token(2));
    world.count(5).await;
    world.agree(65).await;
    assert_eq!(world.engine(1).view().fault, None);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_disk_is_repaired_after_readmission() {
    let mut world = World::born().await;
    world.count(20).await;
    world.agree(20).await;
    world.stop(2).await;
    world.restart(2, TempDir::new().unwrap()).await;
    world.engine(1).readmit(Token(2));
    world.count(5).await;
    world.agree(25).await;
    assert_eq!(world.engine(1).view().fault, None);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_roster_that_the_followers_chains_do_not_show_rests_until_they_do() {
    let world = World::born().await;
    let (body, lie) = roster(66);
    let refused = world.engine(1).propose(body, Duration::from_secs(1)).await;
    assert!(
        matches!(refused, Err(ProposeError::Unknown { .. })),
        "{refused:?}"
    );
    assert!(world.nodes[&2].gate.refusals().contains_key("unconfirmed"));
    for node in world.nodes.values() {
        assert_eq!(
            node.engine
                .with_state(|s| s.members.as_ref().map(|m| m.roster_hash)),
            Some(roster(1).1)
        );
    }
    world.nodes[&2]
        .gate
        .update(|s| s.confirmed_rosters.push_back(lie)); // one honest view makes a quorum
    eventually("the roster is in force", || {
        world
            .engine(1)
            .with_state(|s| s.members.as_ref().map(|m| m.roster_hash) == Some(lie))
    })
    .await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_term_start_of_a_term_is_a_no_op_on_every_node() {
    let world = World::born().await;
    assert_eq!(
        world.propose(1, start_of(1, 2)).await.unwrap().outcome,
        Outcome::TermStarted(false)
    );
    world.count(1).await;
    world.agree(1).await;
    for node in world.nodes.values() {
        assert_eq!(
            node.engine
                .with_state(|s| s.term.as_ref().map(|t| t.leader)),
            Some(Token(1))
        );
        assert_eq!(
            node.engine.with_state(|s| s.alarms.back().map(|a| a.kind)),
            Some(AlarmKind::SecondLeader)
        );
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_three_restart_and_go_on_where_they_were() {
    let mut world = World::born().await;
    world.count(30).await;
    world.agree(30).await;
    let mut dirs = Vec::new();
    for token in 1..=3 {
        dirs.push((token, world.stop(token).await));
    }
    for (token, dir) in dirs {
        world.restart(token, dir).await;
        assert_eq!(
            world.engine(token).with_state(|s| s.value),
            30,
            "closing wrote the commit index"
        );
        world.nodes[&token]
            .gate
            .update(|s| s.mute = Mute::ColdStart);
    }
    world.elect(2).await;
    world.count(3).await;
    world.agree(33).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_cut_off_says_unknown_or_unavailable_and_never_success() {
    let mut world = World::born().await;
    world.count(3).await;
    world.links.cut.lock().unwrap().insert(1);
    let lost = world
        .engine(1)
        .propose(up(1), Duration::from_millis(700))
        .await;
    assert!(
        matches!(
            lost,
            Err(ProposeError::Unknown { .. } | ProposeError::Unavailable { .. })
        ),
        "{lost:?}"
    );
    assert!(matches!(
        world.engine(1).read_index(Duration::from_millis(300)).await,
        Err(ProposeError::Unavailable { .. })
    ));
    world.elect(2).await;
    world.count(3).await;
    world.links.cut.lock().unwrap().clear();
    world.agree(6).await; // what the old leader wrote alone is gone, on its own disk too
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_another_token_is_refused_by_the_engine() {
    let mut world = World::new().await;
    let dir = world.stop(3).await;
    let post = Arc::new(Post {
        from: 2,
        links: Arc::clone(&world.links),
    });
    let foreign = Engine::open(settings(2, dir.path()), Arc::new(Gate::new(Token(2))), post).await;
    assert!(matches!(
        foreign.err(),
        Some(OpenError::Foreign {
            found_token: Token(3),
            token: Token(2),
            ..
        })
    ));
    world.end().await;
}
