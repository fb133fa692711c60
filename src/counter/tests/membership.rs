//! Members that come after the birth, and members that go: the engine's voters follow the log's roster, and no step
//! of it needs more trust than a quorum's own view of the chain.
#![allow(clippy::unwrap_used)] // helpers of tests

mod world;

use futures_util::FutureExt;
use std::time::{Duration, Instant};
use synod_counter::MembersStep::{Learning, Promoted, Removed, Steady, Waiting};
use synod_counter::*;
use synod_wire::{Term, Token};
use tempfile::TempDir;
use world::*;

/// Longer than the lease of these engines: an answer from before is not a recent one.
const BEYOND_THE_LEASE: Duration = Duration::from_millis(450);

/// Increments in batches: a long log in a short time.
async fn grow(world: &World, by: usize) {
    let mut left = by;
    while left > 0 {
        let batch = left.min(PROPOSE_LEN_MAX);
        let bodies = vec![up(world.leader); batch];
        let engine = world.engine(world.leader);
        for done in engine.propose_in_order(bodies, PATIENCE).await {
            assert!(matches!(done.unwrap().outcome, Outcome::Incremented { .. }));
        }
        left -= batch;
    }
}

/// Token 4 has registered, is a voter of the log, and then gets its seat.
async fn four() -> World {
    let mut world = World::born().await;
    world.join(4).await;
    world.adopt(&[1, 2, 3, 4]).await;
    world.follow(Promoted(Token(4))).await;
    world.seated.insert(Token(4));
    world.announce();
    world
}

async fn has_voters(world: &World, at: u64, expected: &[u64]) {
    eventually(&format!("node {at} knows the voters {expected:?}"), || {
        world.voters(at) == expected
    })
    .await;
}

/// A node that lacks entries of a majority cannot win, however often the contract elects it.
async fn holds_the_log(world: &World, token: u64) {
    let leader = world.engine(world.leader);
    eventually(&format!("node {token} holds the log"), || {
        world.engine(token).view().position == leader.view().position
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_comes_after_a_thousand_entries_learns_votes_and_makes_a_quorum() {
    let mut world = World::born().await;
    grow(&world, 1_000).await;
    assert_eq!(world.step().await, Steady, "all that are listed vote");
    world.join(4).await;
    assert_eq!(
        world.step().await,
        Steady,
        "whom the log does not list gets nothing"
    );
    world.adopt(&[1, 2, 3, 4]).await;
    let mut steps = world.follow(Promoted(Token(4))).await;
    steps.retain(|step| *step != Waiting(Token(4)));
    assert_eq!(steps, [Learning(Token(4)), Promoted(Token(4))]);
    assert_eq!(world.voters(1), [1, 2, 3, 4]);
    assert!(world.engine(1).view().learners.is_empty());
    assert_eq!(world.step().await, Steady);
    world.agree(1_000).await;
    has_voters(&world, 4, &[1, 2, 3, 4]).await;
    // three of four: without the newcomer nothing is committed
    world.stop(3).await;
    world.count(5).await;
    world.agree(1_005).await;
    world.links.cut.lock().unwrap().insert(4);
    let lost = world
        .engine(1)
        .propose(up(1), Duration::from_millis(700))
        .await;
    assert!(lost.is_err(), "1 and 2 are no quorum of four: {lost:?}");
    world.end().await;
}

/// The leader's loop is polled once and dropped: it has handed one entry to the engine and will never hand over the
/// second. False: there was nothing to hand over yet.
async fn half_a_step(world: &World, before: u64) -> bool {
    let leader = world.engine(world.leader);
    match leader.follow_members(PATIENCE).now_or_never() {
        Some(step) => {
            assert_eq!(step, Ok(Waiting(Token(4))));
            false
        }
        None => {
            eventually("the joint set is on the leader's disk", || {
                leader.view().position.index > before
            })
            .await;
            true
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_that_its_leader_left_half_done_is_finished_by_the_next() {
    let mut world = World::born().await;
    world.join(4).await;
    world.adopt(&[1, 2, 3, 4]).await;
    world.follow(Learning(Token(4))).await;
    eventually("the leader's own disk has what is committed", || {
        let view = world.engine(1).view();
        view.position.index >= view.committed
    })
    .await;
    // the leader has proposed the joint set, and dies before it proposes the set behind it
    let before = world.engine(1).view().position.index;
    let deadline = Instant::now() + PATIENCE;
    while !half_a_step(&world, before).await {
        assert!(Instant::now() < deadline, "never proposed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for token in [2, 3, 4] {
        eventually(&format!("node {token} holds the joint set"), || {
            world.engine(token).view().position.index > before
        })
        .await;
    }
    world.stop(1).await;
    world.nodes[&4].gate.update(|s| s.mute = Mute::Unmuted); // half of the joint set needs its vote
    world.elect(2).await;
    assert_ne!(world.voters(2), [1, 2, 3, 4]);
    let steps = world.follow(Promoted(Token(4))).await;
    assert!(!steps.contains(&Learning(Token(4))), "{steps:?}");
    assert_eq!(world.voters(2), [1, 2, 3, 4]);
    assert_eq!(world.step().await, Steady);
    world.count(3).await;
    world.agree(3).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_that_only_the_old_leader_knew_of_is_begun_again_by_the_next() {
    let mut world = World::born().await;
    world.join(4).await;
    world.adopt(&[1, 2, 3, 4]).await;
    world.follow(Learning(Token(4))).await;
    for token in [2, 3, 4] {
        holds_the_log(&world, token).await;
    }
    let before = world.engine(1).view().position.index;
    let deadline = Instant::now() + PATIENCE;
    loop {
        world.links.cut.lock().unwrap().insert(1);
        if half_a_step(&world, before).await {
            break; // the joint set is on its disk alone
        }
        // the newcomer's last answer was too old when the link was cut: once more
        assert!(Instant::now() < deadline, "never proposed");
        world.links.cut.lock().unwrap().clear();
        eventually("the leader is heard again", || {
            let age = world.engine(1).view().quorum_ack_age_ms;
            age.is_some_and(|age| age < 100)
        })
        .await;
    }
    world.elect(2).await;
    world.follow(Promoted(Token(4))).await;
    world.links.cut.lock().unwrap().clear();
    world.count(3).await;
    world.agree(3).await;
    has_voters(&world, 1, &[1, 2, 3, 4]).await;
    assert_eq!(world.engine(1).view().fault, None);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_the_roster_no_longer_lists_is_removed_and_no_quorum_counts_him() {
    let mut world = four().await;
    world.count(3).await;
    world.join(5).await;
    world.adopt(&[1, 2, 3, 4, 5]).await;
    world.follow(Learning(Token(5))).await;
    let five = world.stop(5).await;
    drop(five);
    // the voter is dead, the contract has ended both
    world.stop(3).await;
    world.leave(3);
    world.leave(5);
    world.adopt(&[1, 2, 4]).await;
    let steps = world.follow(Steady).await;
    assert_eq!(steps, [Removed(Token(3)), Removed(Token(5)), Steady]);
    assert_eq!(world.voters(1), [1, 2, 4]);
    assert!(world.engine(1).view().learners.is_empty());
    // two of three now: one more may go
    world.stop(4).await;
    world.count(3).await;
    world.agree(6).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_never_removes_itself() {
    let mut world = World::born().await;
    world.adopt(&[2, 3]).await;
    assert_eq!(world.step().await, Steady);
    assert_eq!(world.voters(1), [1, 2, 3]);
    world.count(1).await;
    holds_the_log(&world, 2).await;
    world.elect(2).await;
    assert_eq!(world.follow(Steady).await, [Removed(Token(1)), Steady]);
    assert_eq!(world.voters(2), [2, 3]);
    world.count(1).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_that_died_is_not_promoted_and_one_that_came_back_is() {
    let mut world = World::born().await;
    world.join(4).await;
    world.adopt(&[1, 2, 3, 4]).await;
    world.follow(Learning(Token(4))).await;
    holds_the_log(&world, 4).await;
    let dir = world.stop(4).await;
    tokio::time::sleep(BEYOND_THE_LEASE).await;
    world.count(5).await; // it lacks little, but it does not answer
    for _ in 0..20 {
        assert_eq!(world.step().await, Waiting(Token(4)));
    }
    world.restart(4, dir).await;
    world.engine(1).readmit(Token(4));
    world.follow(Promoted(Token(4))).await;
    world.agree(5).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn learners_and_voters_that_lost_their_disk_are_repaired_after_readmission() {
    let mut world = World::born().await;
    grow(&world, 300).await;
    world.join(4).await;
    world.adopt(&[1, 2, 3, 4]).await;
    world.follow(Learning(Token(4))).await;
    holds_the_log(&world, 4).await;
    world.stop(4).await;
    world.restart(4, TempDir::new().unwrap()).await;
    world.engine(1).readmit(Token(4));
    world.count(2).await;
    world.follow(Promoted(Token(4))).await;
    world.agree(302).await;
    // and again as a voter
    world.stop(4).await;
    world.restart(4, TempDir::new().unwrap()).await;
    world.engine(1).readmit(Token(4));
    world.count(2).await;
    world.agree(304).await;
    has_voters(&world, 4, &[1, 2, 3, 4]).await;
    assert_eq!(world.engine(1).view().fault, None);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_set_waits_for_a_chain_that_shows_its_members() {
    let mut world = World::new().await;
    world.name(1);
    for token in [2, 3] {
        // their endpoints lag: they see the leader and themselves
        let gate = &world.nodes[&token].gate;
        gate.update(|s| s.incarnations.retain(|t, _| *t == Token(1)));
    }
    let behind = world.nodes[&2].gate.behind();
    let members = [Token(1), Token(2), Token(3)];
    world.engine(1).birth(&members).await.unwrap();
    world.win().await;
    tokio::time::timeout(PATIENCE, behind.notified())
        .await
        .expect("node 2 is told to look at the chain");
    eventually("both refuse the set", || {
        [2, 3]
            .iter()
            .all(|t| world.refused(*t, "unconfirmed_voters") > 0)
    })
    .await;
    assert!(!world.engine(2).view().born && !world.engine(3).view().born);
    let gate = &world.nodes[&2].gate;
    gate.update(|s| {
        let seen = members.iter().map(|t| (*t, synod_wire::Incarnation(1)));
        s.incarnations.extend(seen);
    });
    // one honest view makes a quorum
    eventually("node 2 holds the log and it is committed", || {
        world.engine(1).view().committed > 0 && world.engine(2).view().born
    })
    .await;
    assert!(!world.engine(3).view().born);
    world.announce();
    eventually("node 3 follows", || world.engine(3).view().born).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_leader_in_office_whose_term_has_started_takes_steps() {
    let mut world = four().await;
    let not_in_office = Err(EngineError::NotInOffice);
    let deadline = Duration::from_millis(200);
    assert_eq!(
        world.engine(2).follow_members(deadline).await,
        not_in_office
    );
    world.join(5).await;
    world.adopt(&[1, 2, 3, 4, 5]).await;
    holds_the_log(&world, 2).await;
    world.name(2);
    assert_eq!(
        world.engine(1).follow_members(deadline).await,
        not_in_office
    );
    world.win().await;
    assert_eq!(
        world.step().await,
        Waiting(Token(2)),
        "its TermStart is not applied: a newer roster may be on its way"
    );
    assert_eq!(world.term_start().await, Outcome::TermStarted(true));
    assert_eq!(world.step().await, Learning(Token(5)));
    assert_eq!(
        world
            .engine(2)
            .with_state(|s| s.term.as_ref().map(|t| t.term)),
        Some(Term(2))
    );
    world.end().await;
}
