//! The clock as a value: what it holds is what can be said. Its bytes are tried in messages.rs.

use crate::support::{clock, clocks};
use proptest::prelude::*;
use synod_wire::clock::{CLOCK_LEN_MAX, SEQUENCE_MAX};
use synod_wire::{Clock, Incarnation, Tick, Token};

fn tick(incarnation: u64, sequence: u64) -> Tick {
    Tick {
        incarnation: Incarnation(incarnation),
        sequence,
    }
}

proptest! {
    #[test]
    fn the_order_in_which_entries_came_does_not_show(clock in clocks()) {
        let mut other = Clock::default();
        let entries: Vec<_> = clock.iter().collect();
        for (token, tick) in entries.iter().rev() {
            prop_assert!(other.set(*token, *tick));
        }
        prop_assert_eq!(&other, &clock);
        prop_assert!(entries.windows(2).all(|two| two[0].0 < two[1].0));
        prop_assert!(entries.iter().all(|(token, tick)| clock.tick(*token) == *tick));
    }
}

#[test]
fn a_member_without_an_entry_has_sent_nothing() {
    let empty = Clock::default();
    assert_eq!((empty.len(), empty.is_empty()), (0, true));
    let one = clock(&[(1, 2, 3)]);
    assert_eq!((one.len(), one.is_empty()), (1, false));
    assert_eq!(one.tick(Token(1)), tick(2, 3));
    assert_eq!(one.tick(Token(2)), tick(0, 0));
}

#[test]
fn a_thirty_third_member_finds_no_room_and_changes_nothing() {
    assert_eq!(CLOCK_LEN_MAX, 32);
    let entries: Vec<_> = (1..=32).map(|token| (token, 1, 1)).collect();
    let mut full = clock(&entries);
    let before = full.clone();
    assert!(!full.set(Token(33), tick(1, 1)));
    assert_eq!(full, before);
    assert!(full.set(Token(32), tick(1, 2)), "an entry still moves");
    assert_eq!((full.len(), full.tick(Token(32))), (32, tick(1, 2)));
}

#[test]
fn a_sequence_that_nobody_would_read_is_not_held() {
    let mut held = clock(&[(1, 1, 4)]);
    let before = held.clone();
    for sequence in [0, SEQUENCE_MAX + 1, u64::MAX] {
        for token in [1, 2].map(Token) {
            assert!(!held.set(token, tick(2, sequence)), "{sequence}");
        }
    }
    assert_eq!(held, before);
    assert!(held.set(Token(1), tick(2, 1)));
    assert!(held.set(Token(1), tick(2, SEQUENCE_MAX)));
}

#[test]
fn a_later_incarnation_is_later_whatever_the_sequences() {
    assert!(tick(2, 1) > tick(1, SEQUENCE_MAX));
    assert!(tick(1, 2) > tick(1, 1));
    assert!(tick(1, 1) > Tick::default());
}

#[test]
fn a_clock_is_shown_as_the_prototype_showed_it() {
    assert_eq!(Clock::default().to_string(), "[]");
    assert_eq!(clock(&[(2, 5, 7), (1, 1, 4)]).to_string(), "[1:4, 2:7]");
}
