//! Rows of entries, and what each of them did.

use super::*;
use crate::entry::MemberKey;
use synod_ledger::WrongTrade;
use synod_wire::trade::{Answer, Reply, Side, TradeRefusal};
use synod_wire::{
    Address, BlockRef, ClusterId, Hash, Incarnation, Offer, SessionKey, Term, Token, TradeId, Wh,
};

const CLUSTER: ClusterId = ClusterId(Hash([9; 32]));

fn genesis() -> Body {
    let block = BlockRef {
        number: 1,
        ..BlockRef::default()
    };
    Body::Genesis {
        cluster: CLUSTER,
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

/// A session's key, the same in each run.
fn key(token: u64, incarnation: u64) -> SessionKey {
    let mut secret = [7; 32];
    (secret[30], secret[31]) = (
        u8::try_from(token).unwrap(),
        u8::try_from(incarnation).unwrap(),
    );
    SessionKey::from_bytes(&secret).unwrap()
}

fn members(number: u64, tokens: &[u64]) -> Body {
    let first: Vec<(u64, u64)> = tokens.iter().map(|t| (*t, 1)).collect();
    sessions(number, &first)
}

/// A roster of tokens and incarnations.
fn sessions(number: u64, listed: &[(u64, u64)]) -> Body {
    let member = |(token, incarnation): &(u64, u64)| MemberKey {
        token: Token(*token),
        incarnation: Incarnation(*incarnation),
        seated: true,
        session: key(*token, *incarnation).public(),
    };
    let members: Vec<MemberKey> = listed.iter().map(member).collect();
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

/// Token 1 sells token 2 thirty credits; both of incarnation 1.
fn offer(sequence: u64) -> Offer {
    let id = TradeId {
        proposer: Token(1),
        incarnation: Incarnation(1),
        sequence,
    };
    Offer {
        id,
        side: Side::Sell,
        with: Token(2),
        amount: Wh(30_000),
        expires_ms: 1_000,
    }
}

/// Signed by both as they should.
fn signed(offer: Offer, reply: Option<Reply>) -> Settlement {
    let (proposer, other) = (offer.id.proposer.0, offer.with.0);
    let incarnation = Incarnation(1);
    Settlement {
        offered: offer.sign(CLUSTER, &key(proposer, offer.id.incarnation.0)),
        answer: reply
            .map(|reply| Answer::sign(CLUSTER, &key(other, 1), &offer, incarnation, reply)),
        offer,
    }
}

fn agreed(sequence: u64) -> Settlement {
    signed(offer(sequence), Some(Reply::Accepted))
}

fn close(token: u64, incarnation: u64) -> Body {
    Body::Close {
        token: Token(token),
        incarnation: Incarnation(incarnation),
        last: 5,
    }
}

fn balances(state: &State) -> Vec<(u64, u64)> {
    let accounts = state.accounts.balances();
    accounts.map(|(token, wh)| (token.0, wh.0)).collect()
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
        (vec![Body::Settle(agreed(1))], AlarmKind::BeforeGenesis),
        (vec![close(1, 1)], AlarmKind::BeforeGenesis),
        (
            vec![genesis(), Body::Settle(agreed(1))],
            AlarmKind::WrongTrade(WrongTrade::Party),
        ),
        (vec![genesis(), close(1, 1)], AlarmKind::ForeignClose),
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
        (
            vec![genesis(), sessions(5, &[(1, 2)]), sessions(6, &[(1, 1)])],
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

#[test]
fn an_invented_or_altered_trade_moves_nothing_and_raises_an_alarm() {
    type Row = (WrongTrade, fn(&mut Settlement));
    let table: &[Row] = &[
        (WrongTrade::Offer, |s| s.offer.with = Token(1)),
        (WrongTrade::Offer, |s| s.offer.amount = Wh(0)),
        (WrongTrade::Party, |s| s.offer.with = Token(9)),
        (WrongTrade::Party, |s| s.offer.id.proposer = Token(9)),
        (WrongTrade::Party, |s| {
            s.offer.id.incarnation = Incarnation(2)
        }),
        (WrongTrade::Party, |s| {
            s.answer.as_mut().unwrap().incarnation = Incarnation(2)
        }),
        (WrongTrade::OfferSignature, |s| s.offer.amount = Wh(30_001)),
        (WrongTrade::OfferSignature, |s| s.offer.side = Side::Buy),
        (WrongTrade::OfferSignature, |s| s.offer.id.sequence = 4),
        (WrongTrade::OfferSignature, |s| s.offered.0 = [1; 64]),
        (WrongTrade::AnswerSignature, |s| {
            s.answer.as_mut().unwrap().signature.0 = [1; 64]
        }),
        (WrongTrade::AnswerSignature, |s| {
            s.answer.as_mut().unwrap().reply = Reply::Refused(TradeRefusal::Busy)
        }),
        (WrongTrade::AnswerSignature, |s| {
            s.answer = Some(Answer::sign(
                CLUSTER,
                &key(1, 1),
                &s.offer,
                Incarnation(1),
                Reply::Accepted,
            ));
        }),
        (WrongTrade::Unanswered, |s| s.answer = None),
    ];
    for (row, (why, change)) in table.iter().enumerate() {
        let mut settlement = agreed(1);
        change(&mut settlement);
        let (outcome, state) = last(vec![
            genesis(),
            members(1, &[1, 2]),
            Body::Settle(settlement),
        ]);
        assert_eq!(
            refused(outcome),
            AlarmKind::WrongTrade(*why),
            "row {row}: {settlement:?}"
        );
        assert_eq!(balances(&state), [(1, 100_000), (2, 100_000)], "row {row}");
        assert!(state.accounts.trades().is_empty(), "row {row}");
        assert_eq!(state.alarms.back().map(|a| a.index), Some(3));
        // and the true one still goes through
        let mut state = state;
        let entry = Entry {
            time_ms: 9,
            body: Body::Settle(agreed(1)),
        };
        assert_eq!(state.apply(4, &entry), Outcome::Settled(Decided::Settled));
        assert_eq!(balances(&state), [(1, 70_000), (2, 130_000)], "row {row}");
    }
}

#[test]
fn a_trade_is_decided_by_the_first_entry_that_names_it_and_a_repetition_is_no_fault() {
    let settle = |s| Body::Settle(s);
    let no = signed(offer(1), Some(Reply::Refused(TradeRefusal::Busy)));
    let (outcome, state) = last(vec![
        genesis(),
        members(1, &[1, 2]),
        settle(agreed(1)),
        settle(no),
        settle(agreed(1)),
    ]);
    assert_eq!(outcome, Outcome::Settled(Decided::Settled));
    assert_eq!(balances(&state), [(1, 70_000), (2, 130_000)]);
    assert_eq!(state.accounts.trades().len(), 1);
    let record = state.accounts.trades().first().unwrap();
    assert_eq!((record.index, record.time_ms), (3, 3), "log index and time");
    assert!(state.alarms.is_empty());
    // what is left does not cover a third one of this size
    let (outcome, state) = last(vec![
        genesis(),
        members(1, &[1, 2]),
        settle(agreed(1)),
        settle(agreed(2)),
        settle(agreed(3)),
        settle(agreed(4)),
    ]);
    let why = Decided::Refused(TradeRefusal::InsufficientCredits);
    assert_eq!(outcome, Outcome::Settled(why));
    assert_eq!(balances(&state), [(1, 10_000), (2, 190_000)]);
    assert!(state.alarms.is_empty(), "a refusal is no fault");
}

#[test]
fn a_trade_ends_by_log_time_whatever_its_own_entry_says() {
    let mut state = State::default();
    let bodies = [genesis(), members(1, &[1, 2]), start(1, 1, &[])];
    for (index, body) in (1..).zip(bodies) {
        let time_ms = 1_000 + index;
        state.apply(index, &Entry { time_ms, body });
    }
    let late = Entry {
        time_ms: 1,
        body: Body::Settle(signed(offer(1), None)),
    };
    assert_eq!(state.apply(4, &late), Outcome::Settled(Decided::Expired));
    assert_eq!(balances(&state), [(1, 100_000), (2, 100_000)]);
}

#[test]
fn a_signature_of_an_ended_incarnation_decides_nothing_and_is_no_fault() {
    let (outcome, state) = last(vec![
        genesis(),
        members(1, &[1, 2]),
        sessions(2, &[(1, 2), (2, 1)]),
        Body::Settle(agreed(1)),
    ]);
    assert_eq!(outcome, Outcome::Void);
    assert!(state.alarms.is_empty() && state.accounts.trades().is_empty());
}

#[test]
fn credits_come_with_the_first_listing_and_stay_when_the_member_goes() {
    let (_, state) = last(vec![
        genesis(),
        members(1, &[1, 2]),
        Body::Settle(agreed(1)),
        members(2, &[2, 3]),
        members(3, &[1, 2, 3]),
    ]);
    let expected = [(1, 70_000), (2, 130_000), (3, 100_000)];
    assert_eq!(balances(&state), expected);
    assert_eq!(state.accounts.issued(), Wh(300_000));
    // a roster that is refused credits nobody
    let (_, state) = last(vec![genesis(), members(5, &[1]), members(4, &[1, 2])]);
    assert_eq!(balances(&state), [(1, 100_000)]);
    // nor does one whose credits would not fit: it is in force, and an alarm says so
    let Body::Genesis {
        cluster,
        block,
        members: first,
        ..
    } = genesis()
    else {
        panic!("genesis");
    };
    let rich = Body::Genesis {
        cluster,
        block,
        members: first,
        initial_credit: Wh(u64::MAX),
    };
    let (outcome, state) = last(vec![rich, members(1, &[1, 2])]);
    assert_eq!(outcome, Outcome::Members);
    assert_eq!(balances(&state), [(1, u64::MAX)]);
    let alarm = state.alarms.back().unwrap();
    assert_eq!(alarm.kind, AlarmKind::CreditFull);
    assert!(alarm.to_string().contains("got none"), "{alarm}");
}

#[test]
fn only_the_incarnations_of_a_listed_member_are_closed() {
    let before = || vec![genesis(), sessions(1, &[(1, 3), (2, 1)])];
    for (token, incarnation, allowed) in [(1, 3, true), (1, 2, true), (1, 4, false), (9, 1, false)]
    {
        let mut bodies = before();
        bodies.push(close(token, incarnation));
        let (outcome, state) = last(bodies);
        let known = state
            .accounts
            .closed(Token(token), Incarnation(incarnation));
        if allowed {
            assert_eq!((outcome, known), (Outcome::Closed, Some(5)));
            assert!(state.alarms.is_empty());
        } else {
            assert_eq!((refused(outcome), known), (AlarmKind::ForeignClose, None));
        }
    }
}
