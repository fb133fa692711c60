//! Every bound at its edge, and silence when nothing happens.

use crate::world::{World, cluster};
use synod_ledger::Settings;
use synod_wire::message::CausalRange;
use synod_wire::seal::Sealer;
use synod_wire::trade::Side;
use synod_wire::{Incarnation, Message, Token, Wh};

const ONE: Token = Token(1);
const TWO: Token = Token(2);
const THREE: Token = Token(3);

fn refused(world: &World, token: Token, label: &str) -> u64 {
    let stats = world.nodes[&token].ledger.as_ref().unwrap().stats();
    stats.refused.get(label).copied().unwrap_or_default()
}

fn ask(world: &mut World, first: u64, last: u64) {
    let range = CausalRange {
        author: ONE,
        incarnation: Incarnation(1),
        first,
        last,
    };
    let key = world.nodes[&TWO].key.clone();
    let mut sealer = Sealer::new(cluster(), TWO, Incarnation(1));
    let frame = sealer.seal(&key, Some(THREE), &Message::CausalAsk(range));
    world.send(TWO, THREE, &frame);
    world.advance(300);
}

#[test]
fn what_waits_is_bounded_and_drains_all_the_same() {
    let settings = Settings {
        held_per_author_max: 4,
        ..Settings::default()
    };
    let mut world = World::with(3, 1, settings);
    world.cut.insert((ONE, TWO));
    for _ in 0..20 {
        world.wish(ONE, Side::Sell, THREE, Wh(1));
    }
    world.advance(5);
    world.cut.clear();
    for _ in 0..20 {
        world.wish(ONE, Side::Sell, THREE, Wh(1));
    }
    world.advance(15);
    let held = world.nodes[&TWO].ledger.as_ref().unwrap().buffered();
    assert!(
        (4..=8).contains(&held),
        "{held} held: 4 of each of two authors at the most"
    );
    assert!(world.nodes[&TWO].ledger.as_ref().unwrap().stats().dropped > 0);
    world.advance(10_000);
    assert_eq!(world.unrest(), Vec::<String>::new());
    assert_eq!(
        world.nodes[&TWO]
            .ledger
            .as_ref()
            .unwrap()
            .clock()
            .tick(ONE)
            .sequence,
        40
    );
    assert_eq!(world.nodes[&TWO].accounts.trades().len(), 40);
}

#[test]
fn a_lag_beyond_every_bound_is_caught_up_with() {
    let settings = Settings {
        held_per_author_max: 4,
        ..Settings::default()
    };
    let mut world = World::with(3, 1, settings);
    for token in [ONE, THREE] {
        world.cut.insert((token, TWO));
    }
    for _ in 0..100 {
        world.wish(ONE, Side::Sell, THREE, Wh(1));
    }
    world.advance(5_000);
    world.cut.clear();
    // 1 says nothing more: only 3's clock tells how much 2 has missed
    world.wish(THREE, Side::Sell, TWO, Wh(1));
    world.advance(20_000);
    assert_eq!(world.unrest(), Vec::<String>::new());
    assert_eq!(
        world.nodes[&TWO]
            .ledger
            .as_ref()
            .unwrap()
            .clock()
            .tick(ONE)
            .sequence,
        100
    );
}

#[test]
fn the_trade_beyond_the_bound_is_declined_and_none_before() {
    let settings = Settings {
        open_per_author_max: 3,
        ..Settings::default()
    };
    let mut world = World::with(3, 1, settings);
    for _ in 0..4 {
        world.wish(ONE, Side::Sell, TWO, Wh(1));
    }
    assert_eq!(world.nodes[&ONE].ledger.as_ref().unwrap().open().count(), 3);
    let last = world.trace.last().unwrap();
    assert!(
        last.contains("3 trades of this node are undecided"),
        "{last}"
    );
    assert_eq!(world.nodes[&ONE].outbox.len(), 3);
    world.advance(2_000);
    assert_eq!(world.unrest(), Vec::<String>::new());
}

#[test]
fn questions_for_nonsense_are_refused_and_answers_bounded() {
    let mut world = World::new(3, 1);
    for _ in 0..100 {
        world.wish(ONE, Side::Sell, THREE, Wh(1));
    }
    world.advance(2_000);
    let relayed = |w: &World| w.nodes[&THREE].ledger.as_ref().unwrap().stats().relayed;
    let nonsense = |w: &World| refused(w, THREE, "nonsense question");
    for (first, last) in [(0, 1), (2, 1), (1, 1_025), (1, u64::MAX)] {
        let before = nonsense(&world);
        ask(&mut world, first, last);
        assert_eq!(nonsense(&world), before + 1, "{first}..={last}");
    }
    assert_eq!(relayed(&world), 0);
    ask(&mut world, 1, 1_024);
    assert_eq!(relayed(&world), 64);
    ask(&mut world, 100, 100);
    assert_eq!(relayed(&world), 65);
    ask(&mut world, 101, 101);
    assert_eq!((relayed(&world), nonsense(&world)), (65, 4));
}

#[test]
fn an_idle_ledger_says_nothing_and_changes_nothing() {
    let mut world = World::new(3, 1);
    world.wish(ONE, Side::Sell, TWO, Wh(1));
    world.advance(2_000);
    assert_eq!(world.unrest(), Vec::<String>::new());
    let clocks = |w: &World| -> Vec<String> {
        w.nodes
            .values()
            .map(|n| n.ledger.as_ref().unwrap().clock().to_string())
            .collect()
    };
    let (before, said) = (clocks(&world), world.trace.len());
    world.advance(60_000);
    assert_eq!((clocks(&world), world.trace.len()), (before, said));
    assert!(world.due.is_empty());
}
