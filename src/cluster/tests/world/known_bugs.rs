//! The world bites: three bugs, switched on in the model only, must be found by it, and without them the
//! same story must go well.

use crate::story::{check_with, history};
use crate::world::Bugs;

/// A slow leader's late entry reaches a signer between its ballot and the contract's word (attack F9b).
#[test]
fn a_gate_that_ignores_the_promise_lets_the_elected_node_lose_in_the_engine() {
    let lost = |gate_ignores_promise| {
        let bugs = Bugs {
            gate_ignores_promise,
            ..Bugs::default()
        };
        let world = check_with("bug_promise.txt", bugs);
        assert!(world.judge.violations.is_empty(), "{}", history(&world));
        world.judge.lost_elections()
    };
    assert_eq!(
        lost(false),
        Vec::new(),
        "elected by live signers, so it wins in the engine"
    );
    assert!(!lost(true).is_empty(), "the bug is found");
}

/// What a leader writes after its own ballot the elected one lacks, and here it needs this very vote.
#[test]
fn a_leader_that_writes_on_after_handing_over_lets_the_elected_node_lose_in_the_engine() {
    let lost = |leader_keeps_writing| {
        let bugs = Bugs {
            leader_keeps_writing,
            ..Bugs::default()
        };
        let world = check_with("bug_pen.txt", bugs);
        assert!(world.judge.violations.is_empty(), "{}", history(&world));
        world.judge.lost_elections()
    };
    assert_eq!(lost(false), Vec::new(), "its pen is down");
    assert!(!lost(true).is_empty(), "the bug is found");
}

/// An older disk that is believed loses what was acknowledged (attack F6).
#[test]
fn a_restarted_node_that_is_not_muted_loses_what_it_acknowledged() {
    let violations = |restarts_unmuted| {
        let bugs = Bugs {
            restarts_unmuted,
            ..Bugs::default()
        };
        check_with("bug_unmuted.txt", bugs).judge.violations
    };
    assert_eq!(violations(false), Vec::<String>::new());
    let found = violations(true);
    assert!(
        found.iter().any(|v| v.contains("committed")),
        "the bug is found: {found:?}"
    );
}
