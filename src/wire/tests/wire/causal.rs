//! Causal frames: numbered by the clock inside, for all, without a window. Whoever holds one may pass it on.

use crate::support::{
    ALICE, BOB, Pair, clock, cluster, key, largest_clock, one_of_each, signed_anew, trade_confirm,
    trade_request,
};
use synod_wire::bytes::BadBytes;
use synod_wire::clock::SEQUENCE_MAX;
use synod_wire::seal::{Refused, Sealer};
use synod_wire::{Incarnation, Message, Token};

const INCARNATION_AT: usize = 48;
const TO_AT: usize = 56;
const SEQUENCE_AT: usize = 64;

fn put(frame: &mut [u8], at: usize, number: u64) {
    frame[at..at + 8].copy_from_slice(&number.to_be_bytes());
}

/// Alice's nth causal message.
fn nth(sequence: u64) -> Message {
    trade_request(clock(&[(1, 1, sequence)]))
}

fn refused(found: u64) -> Refused {
    let why = BadBytes::Value {
        field: "own clock entry",
        found,
    };
    Refused::Body { token: ALICE, why }
}

#[test]
fn a_causal_frame_is_numbered_by_its_clock_and_for_all_whatever_was_asked() {
    let clock = || clock(&[(1, 1, 6), (2, 1, 4)]);
    for message in [trade_request(clock()), trade_confirm(clock())] {
        let mut pair = Pair::new();
        let frame = pair.sealer.seal(&key(ALICE), Some(BOB), &message);
        assert_eq!(frame, pair.say(&message), "asked for Bob or for all");
        assert_eq!(frame[TO_AT..TO_AT + 8], [0; 8]);
        assert_eq!(frame[SEQUENCE_AT..SEQUENCE_AT + 8], 6_u64.to_be_bytes());
        assert_eq!(pair.open(&frame).unwrap().sequence(), 6);

        let leave = pair.say(&Message::Leave);
        let opened = pair.open(&leave).unwrap();
        assert_eq!(opened.sequence(), 0, "trades use up no other number");
    }
}

#[test]
fn a_causal_frame_opens_each_time_and_in_any_order() {
    let mut pair = Pair::new();
    let frames = [1, 500, SEQUENCE_MAX].map(|n| pair.say(&nth(n)));
    for _ in 0..2 {
        for frame in frames.iter().rev().chain(&frames) {
            assert_eq!(pair.verdict(frame), "ok");
        }
    }
    let confirm = pair.say(&trade_confirm(largest_clock(500)));
    assert_eq!(
        pair.verdict(&confirm),
        "ok",
        "the ledger sees to one number for two"
    );
}

#[test]
fn causal_frames_push_nothing_out_of_a_window() {
    let mut pair = Pair::new();
    let all = one_of_each();
    let (beat, ballot) = (pair.say(&all[0]), pair.say(&all[8]));
    for n in [1 << 20, SEQUENCE_MAX] {
        let trade = pair.say(&nth(n));
        assert_eq!(pair.verdict(&trade), "ok");
    }
    for frame in [beat, ballot] {
        assert_eq!(pair.verdict(&frame), "ok");
        assert_eq!(pair.verdict(&frame), "replayed");
    }
}

#[test]
fn a_clock_without_its_author_is_refused() {
    for clock in [clock(&[]), clock(&[(2, 1, 5)])] {
        for message in [trade_request(clock.clone()), trade_confirm(clock.clone())] {
            for sequence in [0, 5] {
                let mut pair = Pair::new();
                let frame = pair.say(&message);
                let frame = signed_anew(frame, |f| put(f, SEQUENCE_AT, sequence));
                assert_eq!(pair.open(&frame), Err(refused(0)), "number {sequence}");
            }
        }
    }
}

#[test]
fn a_clock_whose_own_entry_is_of_another_incarnation_is_refused() {
    for other in [0, 2, u64::MAX] {
        let clock = || clock(&[(1, other, 5)]);
        for message in [trade_request(clock()), trade_confirm(clock())] {
            let mut pair = Pair::new();
            let frame = pair.say(&message);
            assert_eq!(pair.open(&frame), Err(refused(5)), "incarnation {other}");
        }
    }
}

#[test]
fn a_number_that_is_not_the_clocks_is_refused() {
    for message in [nth(5), trade_confirm(clock(&[(1, 1, 5), (2, 1, 9)]))] {
        for number in [0, 4, 6, 9, u64::MAX] {
            let mut pair = Pair::new();
            let frame = pair.say(&message);
            let frame = signed_anew(frame, |f| put(f, SEQUENCE_AT, number));
            assert_eq!(pair.open(&frame), Err(refused(5)), "number {number}");
        }
    }
}

#[test]
fn a_causal_frame_for_one_member_is_refused_even_by_that_member() {
    for message in [nth(5), trade_confirm(clock(&[(1, 1, 5), (2, 1, 9)]))] {
        let mut pair = Pair::new();
        let frame = pair.say(&message);
        let whispered = signed_anew(frame.clone(), |f| put(f, TO_AT, BOB.0));
        assert_eq!(pair.open(&whispered), Err(refused(5)));
        let to = Token(3);
        let for_three = signed_anew(frame.clone(), |f| put(f, TO_AT, to.0));
        let token = ALICE;
        assert_eq!(pair.open(&for_three), Err(Refused::NotForMe { token, to }));
        assert_eq!(pair.verdict(&frame), "ok", "said to all it is read");
    }
}

#[test]
fn only_the_author_of_this_incarnation_makes_a_causal_frame() {
    let mut pair = Pair::new();
    let mut forged = pair.say(&nth(5));
    let end = forged.len() - 1;
    forged[end] ^= 1;
    assert_eq!(pair.verdict(&forged), "signature");
    let by_bob = Sealer::new(cluster(), ALICE, Incarnation(1)).seal(&key(BOB), None, &nth(5));
    assert_eq!(pair.verdict(&by_bob), "signature");

    let old = pair.say(&nth(5));
    let reborn = key(Token(4));
    let again = (Incarnation(2), reborn.public());
    pair.roster.0.insert(ALICE, again);
    assert_eq!(pair.verdict(&old), "other incarnation");
    let relabelled = signed_anew(old, |f| put(f, INCARNATION_AT, 2));
    assert_eq!(
        pair.verdict(&relabelled),
        "signature",
        "the old key is fenced"
    );
    let mut sealer = Sealer::new(cluster(), ALICE, Incarnation(2));
    let stale = sealer.seal(&reborn, None, &nth(5));
    assert_eq!(pair.open(&stale), Err(refused(5)));
    let first = sealer.seal(&reborn, None, &trade_request(clock(&[(1, 2, 1)])));
    assert_eq!(pair.verdict(&first), "ok");
}
