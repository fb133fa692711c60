//! Round trips, and bytes that have no meaning.

use crate::support::{messages, one_of_each};
use proptest::prelude::*;
use synod_wire::bytes::BadBytes;
use synod_wire::message::{Heartbeat, JoinResponse, Kind, MEMBERS_MAX, Role};
use synod_wire::{LogPosition, Message, Term, Token};

proptest! {
    #[test]
    fn every_message_comes_back_as_it_was_said(message in messages()) {
        prop_assert_eq!(Message::decode(message.kind(), &message.encode()), Ok(message));
    }

    #[test]
    fn what_decodes_at_all_has_this_one_encoding(kind in 0..10_usize, bytes in prop::collection::vec(0..4_u8, 0..160)) {
        if let Ok(message) = Message::decode(Kind::ALL[kind], &bytes) {
            prop_assert_eq!(message.encode(), bytes);
        }
    }
}

#[test]
fn kinds_have_the_numbers_of_their_places_and_their_own_names() {
    for (number, (kind, message)) in (1..).zip(Kind::ALL.into_iter().zip(one_of_each())) {
        assert_eq!(Kind::from_number(number), Some(kind));
        assert_eq!(message.kind(), kind);
    }
    for number in [0, 11, 12, 255] {
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
fn a_join_response_names_64_members_at_the_most() {
    let answer = |count: u64| {
        Message::JoinResponse(JoinResponse {
            nonce: [0; 16],
            term: Term(1),
            position: LogPosition::default(),
            members: (1..=count).map(Token).collect(),
        })
    };
    let most = answer(MEMBERS_MAX as u64);
    assert_eq!(
        Message::decode(Kind::JoinResponse, &most.encode()),
        Ok(most.clone())
    );
    assert_eq!(answer(65).encode(), most.encode(), "a 65th is not written");

    let mut claims_more = most.encode();
    claims_more[40] = 65;
    claims_more.extend([0; 8]);
    let refused = Err(BadBytes::Value {
        field: "members",
        found: 65,
    });
    assert_eq!(Message::decode(Kind::JoinResponse, &claims_more), refused);
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
    });
    let Ok(Message::Heartbeat(read)) = Message::decode(Kind::Heartbeat, &beat.encode()) else {
        panic!("expected a heartbeat");
    };
    assert_eq!(read.http, "é".repeat(127));
}
