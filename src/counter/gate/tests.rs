//! Each refusal has its row.

use super::*;

const NOW: Now = Now {
    mono_ms: 1_000,
    wall_ms: 5_000_000,
};

fn standing() -> Standing {
    Standing {
        term: Term(5),
        leader: Some(Token(1)),
        block: 50,
        incarnations: [(Token(1), Incarnation(3)), (Token(2), Incarnation(1))].into(),
        mute: Mute::Unmuted,
        promise: None,
        confirmed_rosters: VecDeque::from([Hash([1; 32])]),
    }
}

fn head(kind: Kind, term: u64) -> Head {
    Head {
        kind,
        term: Term(term),
        block: 49,
        log_id: None,
        newest_time_ms: None,
        rosters: vec![],
    }
}

fn peer(token: u64, incarnation: u64) -> Peer {
    Peer {
        token: Token(token),
        incarnation: Incarnation(incarnation),
    }
}

/// One row: what differs from a good request, and what is answered.
fn verdict(change: impl Fn(&mut Standing, &mut Head, &mut Peer)) -> &'static str {
    let (mut s, mut h, mut p) = (standing(), head(Kind::Append, 5), peer(1, 3));
    change(&mut s, &mut h, &mut p);
    match judge(&s, NOW, p, &h, Some(Hash([8; 32]))) {
        Ok(()) => "passes",
        Err(refusal) => refusal.reason(),
    }
}

#[test]
fn each_thing_that_is_wrong_is_refused_by_its_name() {
    type Row = (&'static str, fn(&mut Standing, &mut Head, &mut Peer));
    let table: &[Row] = &[
        ("passes", |_, _, _| {}),
        ("passes", |_, h, _| h.kind = Kind::Vote),
        ("passes", |_, h, _| h.log_id = Some(Hash([8; 32]))),
        ("foreign_log", |_, h, _| h.log_id = Some(Hash([7; 32]))),
        ("stale_incarnation", |_, _, p| {
            p.incarnation = Incarnation(2)
        }),
        ("stale_incarnation", |_, _, p| {
            p.incarnation = Incarnation(4)
        }),
        ("stale_incarnation", |_, _, p| p.token = Token(9)),
        ("deposed", |_, h, _| h.term = Term(4)),
        ("behind", |_, h, _| h.term = Term(6)),
        ("not_elected", |_, _, p| *p = peer(2, 1)),
        ("not_elected", |s, _, _| s.leader = None),
        ("muted", |s, h, _| {
            (s.mute, h.kind) = (Mute::Muted, Kind::Vote)
        }),
        ("muted", |s, h, _| {
            (s.mute, h.kind) = (Mute::Muted, Kind::PreVote)
        }),
        ("passes", |s, _, _| s.mute = Mute::Muted),
        ("passes", |s, h, _| {
            (s.mute, h.kind) = (Mute::ColdStart, Kind::Vote)
        }),
        ("resting", |s, _, _| {
            s.promise = Some(Promise {
                term: Term(6),
                until_ms: 1_001,
            })
        }),
        ("resting", |s, h, _| {
            s.promise = Some(Promise {
                term: Term(6),
                until_ms: 1_001,
            });
            h.kind = Kind::Vote;
        }),
        ("passes", |s, _, _| {
            s.promise = Some(Promise {
                term: Term(6),
                until_ms: 1_000,
            })
        }),
        ("passes", |s, _, _| {
            s.promise = Some(Promise {
                term: Term(5),
                until_ms: 9_000,
            })
        }),
        ("unconfirmed", |_, h, _| {
            h.rosters = vec![Hash([1; 32]), Hash([2; 32])]
        }),
        ("passes", |_, h, _| h.rosters = vec![Hash([1; 32])]),
        ("passes", |_, h, _| h.newest_time_ms = Some(5_060_000)),
        ("clock_ahead", |_, h, _| h.newest_time_ms = Some(5_060_001)),
        ("unsupported", |_, h, _| h.kind = Kind::Snapshot),
        ("unsupported", |_, h, _| h.kind = Kind::Transfer),
    ];
    for (row, (expected, change)) in table.iter().enumerate() {
        assert_eq!(verdict(change), *expected, "row {row}");
    }
}

#[test]
fn a_gate_that_was_told_nothing_refuses_everything() {
    let gate = Gate::new(Token(2));
    for kind in [
        Kind::PreVote,
        Kind::Vote,
        Kind::Append,
        Kind::Snapshot,
        Kind::Transfer,
    ] {
        assert!(gate.check(0, peer(1, 1), &head(kind, 0), None).is_err());
    }
    assert_eq!(gate.office(), None);
}

#[test]
fn confirmed_rosters_are_bounded() {
    let gate = Gate::new(Token(2));
    gate.update(|s| s.confirmed_rosters.extend((0..200).map(|i| Hash([i; 32]))));
    assert_eq!(
        gate.read(|s| (
            s.confirmed_rosters.len(),
            s.confirmed_rosters.back().copied()
        )),
        (64, Some(Hash([199; 32])))
    );
}
