//! Round trips, and bytes that have no meaning.

use crate::support::{clock, messages, one_of_each};
use proptest::prelude::*;
use synod_wire::bytes::BadBytes;
use synod_wire::message::{Heartbeat, JoinResponse, Kind, MEMBERS_MAX, Role};
use synod_wire::{Clock, LogPosition, Message, Term, Token};

proptest! {
    #[test]
    fn every_message_comes_back_as_it_was_said(message in messages()) {
        prop_assert_eq!(Message::decode(message.kind(), &message.encode()), Ok(message));
    }

    #[test]
    fn what_decodes_at_all_has_this_one_encoding(kind in 0..Kind::ALL.len(), bytes in prop::collection::vec(0..4_u8, 0..160)) {
        if let Ok(message) = Message::decode(Kind::ALL[kind], &bytes) {
            prop_assert_eq!(message.encode(), bytes);
        }
    }

    #[test]
    fn a_changed_byte_changes_what_is_said(message in messages(), at: prop::sample::Index, mask in 1..=255_u8) {
        let mut bytes = message.encode();
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] ^= mask;
            if let Ok(other) = Message::decode(message.kind(), &bytes) {
                prop_assert_ne!(&other, &message);
                prop_assert_eq!(other.encode(), bytes);
            }
        }
    }
}

#[test]
fn only_trades_carry_a_clock_of_their_own() {
    let causal: Vec<_> = one_of_each()
        .iter()
        .filter(|message| message.clock().is_some())
        .map(Message::kind)
        .collect();
    assert_eq!(causal, [Kind::TradeRequest, Kind::TradeConfirm]);
}

#[test]
fn kinds_have_the_numbers_of_their_places_and_their_own_names() {
    for (number, (kind, message)) in (1..).zip(Kind::ALL.into_iter().zip(one_of_each())) {
        assert_eq!(Kind::from_number(number), Some(kind));
        assert_eq!(message.kind(), kind);
    }
    assert_eq!((Kind::ALL.len(), one_of_each().len()), (15, 15));
    for number in [0, 16, 17, 255] {
        assert_eq!(Kind::from_number(number), None);
    }
    let names: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|k| k.name()).collect();
    assert_eq!(names.len(), Kind::ALL.len());
}

#[test]
fn a_body_cut_anywhere_or_longer_by_one_byte_is_refused() {
    for message in one_of_each() {
        let (kind, whole) = (message.kind(), message.encode());
        for len in 0..whole.len() {
            let short = Message::decode(kind, &whole[..len]);
            assert!(
                matches!(short, Err(BadBytes::Short { .. })),
                "{kind:?}, {len} bytes: {short:?}"
            );
        }
        let longer = [whole.as_slice(), &[0]].concat();
        assert_eq!(
            Message::decode(kind, &longer),
            Err(BadBytes::Trailing { left: 1 })
        );
    }
}

#[test]
fn enumerations_and_flags_know_their_values_only() {
    // kind, offset of the byte, first value without a meaning, its field
    let table = [
        (Kind::Heartbeat, 0, 3, "role"),
        (Kind::Heartbeat, 1, 2, "muted"),
        (Kind::BallotRequest, 80, 2, "cold start"),
        (Kind::Ballot, 128, 2, "muted"),
        (Kind::BallotRefused, 8, 6, "reason"),
        (Kind::TradeRequest, 49 + 24, 2, "side"),
        (Kind::TradeConfirm, 49 + 24, 2, "side"),
        (Kind::TradeConfirm, 49 + 49 + 64 + 8, 4, "reply"),
    ];
    for (kind, offset, first_unknown, field) in table {
        let message = one_of_each()
            .into_iter()
            .find(|m| m.kind() == kind)
            .unwrap();
        for value in [first_unknown, 255] {
            let mut bytes = message.encode();
            bytes[offset] = value;
            let found = u64::from(value);
            assert_eq!(
                Message::decode(kind, &bytes),
                Err(BadBytes::Value { field, found })
            );
        }
    }
}

#[test]
fn a_message_names_24_members_at_the_most() {
    let answer = |count: u64| {
        Message::JoinResponse(JoinResponse {
            nonce: [0; 16],
            term: Term(1),
            position: LogPosition::default(),
            members: (1..=count).map(Token).collect(),
            clock: Clock::default(),
        })
    };
    let beat = |count: u64| {
        Message::Heartbeat(Heartbeat {
            role: Role::Follower,
            muted: false,
            term: Term(1),
            position: LogPosition::default(),
            committed: 0,
            http: String::new(),
            unheard: (1..=count).map(Token).collect(),
        })
    };
    assert_eq!(MEMBERS_MAX, 24);
    // the message, the same with one more, where the count stands
    for (most, more, at) in [(answer(24), answer(25), 40), (beat(24), beat(25), 35)] {
        let kind = most.kind();
        assert_eq!(Message::decode(kind, &most.encode()), Ok(most.clone()));
        assert_eq!(more.encode(), most.encode(), "a 25th is not written");

        let mut claims_more = most.encode();
        assert_eq!(claims_more[at], 24);
        claims_more[at] = 25;
        claims_more.extend([0; 8]);
        let refused = Err(BadBytes::Value {
            field: "members",
            found: 25,
        });
        assert_eq!(Message::decode(kind, &claims_more), refused);
    }
}

/// The one entry of a JOIN_RESPONSE's clock begins behind nonce, term, position, no members and the count.
const ENTRY_AT: usize = 16 + 8 + 16 + 1 + 1;

fn with_clock(clock: Clock) -> Message {
    Message::JoinResponse(JoinResponse {
        nonce: [0; 16],
        term: Term(1),
        position: LogPosition::default(),
        members: Vec::new(),
        clock,
    })
}

#[test]
fn the_tokens_of_a_clock_ascend() {
    let said = with_clock(clock(&[(7, 1, 1), (9, 1, 1)]));
    assert_eq!(
        Message::decode(said.kind(), &said.encode()),
        Ok(said.clone())
    );
    for second in [7, 6, 0] {
        let mut bytes = said.encode();
        bytes[ENTRY_AT + 31] = second;
        let refused = Err(BadBytes::Value {
            field: "clock token",
            found: second.into(),
        });
        assert_eq!(Message::decode(said.kind(), &bytes), refused);
    }
}

#[test]
fn a_sequence_of_a_clock_is_between_1_and_2_to_the_53() {
    let said = with_clock(clock(&[(7, 1, 1)]));
    let with = |sequence: u64| {
        let mut bytes = said.encode();
        bytes[ENTRY_AT + 16..ENTRY_AT + 24].copy_from_slice(&sequence.to_be_bytes());
        Message::decode(said.kind(), &bytes)
    };
    assert_eq!(with(1), Ok(said.clone()));
    assert_eq!(with(1 << 53), Ok(with_clock(clock(&[(7, 1, 1 << 53)]))));
    for found in [0, (1 << 53) + 1, u64::MAX] {
        let field = "clock sequence";
        assert_eq!(with(found), Err(BadBytes::Value { field, found }));
    }
}

#[test]
fn a_clock_names_32_members_at_the_most() {
    let entries: Vec<_> = (1..=32).map(|token| (token, 1, 1)).collect();
    let said = with_clock(clock(&entries));
    let mut bytes = said.encode();
    assert_eq!(Message::decode(said.kind(), &bytes), Ok(said.clone()));
    bytes[ENTRY_AT - 1] = 33;
    for number in [33, 1, 1_u64] {
        bytes.extend(number.to_be_bytes());
    }
    let refused = Err(BadBytes::Value {
        field: "clock",
        found: 33,
    });
    assert_eq!(Message::decode(said.kind(), &bytes), refused);
}

#[test]
fn a_text_that_is_too_long_is_cut_between_two_characters() {
    let beat = Message::Heartbeat(Heartbeat {
        role: Role::Follower,
        muted: true,
        term: Term(0),
        position: LogPosition::default(),
        committed: 0,
        http: "é".repeat(200),
        unheard: Vec::new(),
    });
    let Ok(Message::Heartbeat(read)) = Message::decode(Kind::Heartbeat, &beat.encode()) else {
        panic!("expected a heartbeat");
    };
    assert_eq!(read.http, "é".repeat(127));
}
