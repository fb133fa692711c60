//! A hundred thousand hostile datagrams: refused, none opened, no panic. Not random but worse: half of
//! them are real frames and hellos with some bytes torn out, repeated or replaced.

use crate::support::{ALICE, BOB, Pair, cluster, key, one_of_each, roster};
use synod_wire::hello::{Expected, Hello};
use synod_wire::message::Kind;
use synod_wire::{Hash, Message};

/// A small generator (xorshift64*): the same bytes on every machine.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap()
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_be_bytes()[0]).collect()
    }

    fn mangle(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        match self.below(4) {
            0 => bytes.truncate(self.below(bytes.len())),
            1 => {
                let len = self.below(40);
                let more = self.bytes(len);
                bytes.extend(more);
            }
            2 => {
                let (from, to) = (self.below(bytes.len()), self.below(bytes.len()));
                let len = bytes.len();
                bytes.copy_within(from..(from + 8).min(len), to.min(len - 8));
            }
            _ => {
                let at = self.below(bytes.len());
                bytes[at] ^= u8::try_from(1 + self.below(255)).unwrap();
            }
        }
        bytes
    }
}

#[test]
fn a_hundred_thousand_hostile_datagrams_open_nothing() {
    let mut dice = Dice(0x5eed);
    let honest: Vec<_> = one_of_each()
        .iter()
        .map(|message| Pair::new().say(message))
        .collect();
    let mut pair = Pair::new();
    for round in 0..100_000 {
        let bytes = if round % 2 == 0 {
            let len = dice.below(1_300);
            let mut noise = dice.bytes(len);
            if round % 4 == 0 && len > 8 {
                noise[..8].copy_from_slice(&[
                    b'S',
                    b'Y',
                    b'N',
                    b'D',
                    1,
                    0,
                    1 + (round % 15) as u8,
                    0,
                ]);
            }
            noise
        } else {
            let whole = honest[dice.below(honest.len())].clone();
            let mangled = dice.mangle(whole.clone());
            if mangled == whole {
                continue;
            }
            mangled
        };
        assert!(pair.open(&bytes).is_err(), "round {round}");
    }
}

#[test]
fn hostile_bodies_and_hellos_never_panic() {
    let mut dice = Dice(0x0dd5);
    let expected = Expected {
        cluster: cluster(),
        log_id: None,
        token: None,
        me: BOB,
        spki: Hash::ZERO,
        exporter: [0; 32],
    };
    let bodies: Vec<_> = one_of_each().iter().map(Message::encode).collect();
    for round in 0..50_000 {
        let kind = Kind::ALL[dice.below(Kind::ALL.len())];
        let body = bodies[dice.below(bodies.len())].clone();
        let body = if body.len() > 8 {
            dice.mangle(body)
        } else {
            body
        };
        if let Ok(message) = Message::decode(kind, &body) {
            assert_eq!(message.encode(), body, "round {round}");
        }
        let len = dice.below(300);
        let noise = dice.bytes(len);
        assert!(Hello::open(&noise, &expected, &roster()).is_err());
    }
    assert_eq!(key(ALICE).public().0.len(), 33);
}
