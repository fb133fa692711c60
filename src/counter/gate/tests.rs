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
        seated: [Token(1), Token(2)].into(),
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
        roster_block: 0,
        voter_sets: vec![],
    }
}

/// The first voter set of a log, as the gate sees it.
fn change(sets: &[&[u64]]) -> VoterSets {
    let set = |ids: &&[u64]| ids.iter().map(|id| Token(*id)).collect();
    let sets: Vec<BTreeSet<Token>> = sets.iter().map(set).collect();
    VoterSets {
        index: 1,
        named: sets.iter().flatten().copied().collect(),
        sets,
        before: Before::default(),
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

type Row = (&'static str, fn(&mut Standing, &mut Head, &mut Peer));

fn check(table: &[Row]) {
    for (row, (expected, change)) in table.iter().enumerate() {
        assert_eq!(verdict(change), *expected, "row {row}");
    }
}

#[test]
fn each_thing_that_is_wrong_is_refused_by_its_name() {
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
        ("unconfirmed", |_, h, _| {
            (h.rosters, h.roster_block) = (vec![Hash([1; 32])], 51)
        }),
        ("passes", |_, h, _| {
            (h.rosters, h.roster_block) = (vec![Hash([1; 32])], 50)
        }),
        ("passes", |_, h, _| h.rosters = vec![Hash([1; 32])]),
        ("passes", |_, h, _| h.newest_time_ms = Some(5_060_000)),
        ("clock_ahead", |_, h, _| h.newest_time_ms = Some(5_060_001)),
        ("unsupported", |_, h, _| h.kind = Kind::Snapshot),
        ("unsupported", |_, h, _| h.kind = Kind::Transfer),
    ];
    check(table);
}

#[test]
fn a_voter_set_names_nobody_whom_neither_chain_nor_log_lists() {
    let table: &[Row] = &[
        ("passes", |_, h, _| h.voter_sets = vec![change(&[&[1, 2]])]),
        // a stranger, as a voter or as a learner
        ("unconfirmed_voters", |_, h, _| {
            h.voter_sets = vec![change(&[&[1, 2, 9]])]
        }),
        ("unconfirmed_voters", |_, h, _| {
            h.voter_sets = vec![VoterSets {
                named: [Token(1), Token(2), Token(9)].into(),
                ..change(&[&[1, 2]])
            }]
        }),
        // the same one, known to the set before, to our log's roster, or to the chain
        ("passes", |_, h, _| {
            let mut change = change(&[&[1, 2, 9]]);
            change.before.known = [Token(9)].into();
            h.voter_sets = vec![change];
        }),
        ("passes", |_, h, _| {
            let mut change = change(&[&[1, 2, 9]]);
            change.before.listed = Some((4, [Token(1), Token(2), Token(9)].into()));
            h.voter_sets = vec![change];
        }),
        ("passes", |s, h, _| {
            s.incarnations.insert(Token(9), Incarnation(1));
            h.voter_sets = vec![change(&[&[1, 2, 9]])];
        }),
    ];
    check(table);
}

#[test]
fn a_voter_set_leaves_out_nobody_who_is_seated_and_votes() {
    let table: &[Row] = &[
        // somebody seated is left out: of one set, of one of two, of the second change
        ("unconfirmed_voters", |_, h, _| {
            h.voter_sets = vec![change(&[&[1]])]
        }),
        ("unconfirmed_voters", |_, h, _| {
            h.voter_sets = vec![change(&[&[1, 2], &[1]])]
        }),
        ("unconfirmed_voters", |_, h, _| {
            h.voter_sets = vec![change(&[&[1], &[1, 2]])]
        }),
        ("unconfirmed_voters", |_, h, _| {
            h.voter_sets = vec![change(&[&[1, 2]]), change(&[&[2]])]
        }),
        // nobody is demanded who is not seated, not active, never voted, or not on the log's roster any more
        ("passes", |s, h, _| {
            s.seated.remove(&Token(2));
            h.voter_sets = vec![change(&[&[1]])];
        }),
        ("passes", |s, h, _| {
            s.incarnations.remove(&Token(2));
            h.voter_sets = vec![change(&[&[1]])];
        }),
        ("passes", |_, h, _| {
            let mut change = change(&[&[1]]);
            change.before.voted = Some([Token(1)].into());
            h.voter_sets = vec![change];
        }),
        ("passes", |_, h, _| {
            let mut change = change(&[&[1, 2], &[1]]);
            change.before.voted = Some([Token(1), Token(2)].into());
            change.before.listed = Some((4, [Token(1)].into()));
            h.voter_sets = vec![change];
        }),
        ("unconfirmed_voters", |_, h, _| {
            let mut change = change(&[&[1, 2], &[1]]);
            change.before.voted = Some([Token(1), Token(2)].into());
            change.before.listed = Some((4, [Token(1), Token(2)].into()));
            h.voter_sets = vec![change];
        }),
    ];
    check(table);
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
