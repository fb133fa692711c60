//! Rows of entries, and what each of them did.

use super::*;
use crate::entry::MemberKey;
use synod_wire::{Address, BlockRef, ClusterId, Hash, Incarnation, SessionPublic, Term, Token, Wh};

fn genesis() -> Body {
    let block = BlockRef {
        number: 1,
        ..BlockRef::default()
    };
    Body::Genesis {
        cluster: ClusterId(Hash([9; 32])),
        block,
        members: vec![Token(1)],
        initial_credit: Wh(100_000),
    }
}

fn start(term: u64, leader: u64, muted: &[u64]) -> Body {
    Body::TermStart {
        term: Term(term),
        leader: Token(leader),
        incarnation: Incarnation(1),
        tx: Hash([7; 32]),
        block: term,
        voted_muted: muted.iter().map(|t| Token(*t)).collect(),
    }
}

fn members(number: u64, tokens: &[u64]) -> Body {
    let key = |t: &u64| MemberKey {
        token: Token(*t),
        incarnation: Incarnation(1),
        seated: true,
        session: SessionPublic([2; 33]),
    };
    let members: Vec<MemberKey> = tokens.iter().map(key).collect();
    Body::Members {
        block: BlockRef {
            number,
            ..BlockRef::default()
        },
        roster_hash: MemberKey::roster_hash(&members),
        members,
    }
}

fn up(author: u8) -> Body {
    Body::Increment {
        leader: Address([author; 20]),
    }
}

fn refused(outcome: Outcome) -> AlarmKind {
    match outcome {
        Outcome::Refused(alarm) => alarm.kind,
        other => panic!("expected a refusal, found {other:?}"),
    }
}

/// Applies all but the last, answers what the last did.
fn last(bodies: Vec<Body>) -> (Outcome, State) {
    let mut state = State::default();
    let mut outcome = Outcome::Engine;
    for (index, body) in (1..).zip(bodies) {
        outcome = state.apply(
            index,
            &Entry {
                time_ms: index,
                body,
            },
        );
    }
    (outcome, state)
}

#[test]
fn entries_that_do_not_fit_are_no_ops_with_an_alarm() {
    let table: Vec<(Vec<Body>, AlarmKind)> = vec![
        (vec![up(1)], AlarmKind::BeforeGenesis),
        (vec![start(1, 1, &[])], AlarmKind::BeforeGenesis),
        (vec![members(1, &[1])], AlarmKind::BeforeGenesis),
        (vec![genesis(), genesis()], AlarmKind::SecondGenesis),
        (vec![genesis(), up(1)], AlarmKind::NoTerm),
        (
            vec![genesis(), start(2, 1, &[]), start(1, 1, &[])],
            AlarmKind::TermWentBack,
        ),
        (
            vec![genesis(), start(1, 1, &[]), up(1), up(2)],
            AlarmKind::ForeignAuthor,
        ),
        (
            vec![genesis(), members(5, &[1]), members(4, &[1])],
            AlarmKind::RosterWentBack,
        ),
        (vec![genesis(), members(5, &[])], AlarmKind::BadRoster),
        (vec![genesis(), members(5, &[2, 1])], AlarmKind::BadRoster),
        (vec![genesis(), members(5, &[1, 1])], AlarmKind::BadRoster),
    ];
    for (bodies, kind) in table {
        let steps = u64::try_from(bodies.len()).unwrap();
        let (outcome, state) = last(bodies);
        assert_eq!(refused(outcome), kind);
        assert_eq!(
            state.alarms.back().map(|a| (a.index, a.kind)),
            Some((steps, kind))
        );
        assert_eq!(state.applied_index, steps, "a no-op is applied too");
    }
}

#[test]
fn the_first_term_start_of_a_term_fixes_its_leader_for_ever() {
    let (outcome, state) = last(vec![genesis(), start(5, 3, &[]), start(5, 2, &[])]);
    assert_eq!(outcome, Outcome::TermStarted(false));
    assert_eq!(state.term.as_ref().map(|t| t.leader), Some(Token(3)));
    assert_eq!(
        state.alarms.back().map(|a| a.kind),
        Some(AlarmKind::SecondLeader)
    );

    let (outcome, state) = last(vec![
        genesis(),
        start(5, 3, &[]),
        start(5, 3, &[]),
        start(6, 2, &[1]),
    ]);
    assert_eq!(outcome, Outcome::TermStarted(true));
    assert_eq!(
        state.terms.iter().map(|t| t.term).collect::<Vec<_>>(),
        [Term(5)]
    );
    assert_eq!(state.term.as_ref().map(|t| t.leader), Some(Token(2)));
    assert_eq!(state.cold_starts, 1);
    assert!(
        state.alarms.is_empty(),
        "the leader itself may repeat its TermStart"
    );
}

#[test]
fn increments_count_and_log_time_never_goes_back() {
    let mut state = State::default();
    for (index, time_ms, body) in [
        (1, 100, genesis()),
        (2, 90, start(1, 1, &[])),
        (3, 120, up(1)),
        (4, 80, up(1)),
    ] {
        state.apply(index, &Entry { time_ms, body });
    }
    assert_eq!(state.value, 2);
    assert_eq!(
        state
            .operations
            .iter()
            .map(|o| o.timestamp_ms)
            .collect::<Vec<_>>(),
        [120, 120]
    );
    assert_eq!(
        state.log_id,
        Some(
            Entry {
                time_ms: 100,
                body: genesis()
            }
            .hash()
        )
    );
    state.value = u64::MAX;
    let outcome = state.apply(
        5,
        &Entry {
            time_ms: 1,
            body: up(1),
        },
    );
    assert_eq!(refused(outcome), AlarmKind::CounterFull);
}

#[test]
fn alarms_are_bounded() {
    let mut state = State::default();
    for index in 1..=1_000 {
        state.apply(
            index,
            &Entry {
                time_ms: 0,
                body: up(1),
            },
        );
    }
    assert_eq!(state.alarms.len(), ALARMS_LEN_MAX);
    assert_eq!(state.alarms.back().map(|a| a.index), Some(1_000));
}
