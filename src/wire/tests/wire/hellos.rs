//! The first words on a link: every field that could be another's, false once.

use crate::support::{ALICE, BOB, cluster, key, roster};
use sha2::{Digest, Sha256};
use synod_wire::hello::{Expected, HELLO_LEN, Hello, HelloRefused};
use synod_wire::{ClusterId, Hash, Incarnation, Token};

fn hello() -> Hello {
    Hello {
        cluster: cluster(),
        log_id: Some(Hash([3; 32])),
        token: ALICE,
        incarnation: Incarnation(1),
        spki: Hash([4; 32]),
        peer: BOB,
        exporter: [5; 32],
    }
}

fn expected() -> Expected {
    Expected {
        cluster: cluster(),
        log_id: Some(Hash([3; 32])),
        token: Some(ALICE),
        me: BOB,
        spki: Hash([4; 32]),
        exporter: [5; 32],
    }
}

fn open(hello: &Hello) -> Result<(), HelloRefused> {
    Hello::open(&hello.seal(&key(ALICE)), &expected(), &roster()).map(|_| ())
}

#[test]
fn a_hello_names_its_author_for_the_life_of_the_link() {
    let bytes = hello().seal(&key(ALICE));
    assert_eq!(bytes.len(), HELLO_LEN);
    assert_eq!(
        hex::encode(Sha256::digest(&bytes)),
        "84e5c05e3c8d21149292654be28cec5556368768d6cd423c36688f60ca7939db"
    );
    let opened = Hello::open(&bytes, &expected(), &roster()).unwrap();
    assert_eq!(
        (opened.from(), opened.incarnation()),
        (ALICE, Incarnation(1))
    );
    assert_eq!(opened.into_value(), hello());
}

#[test]
fn each_field_that_differs_is_refused_by_its_name() {
    type Row = (&'static str, fn(&mut Hello));
    let table: [Row; 7] = [
        ("cluster", |h| h.cluster = ClusterId(Hash([9; 32]))),
        ("log id", |h| h.log_id = Some(Hash([9; 32]))),
        ("token", |h| h.token = Token(3)),
        ("incarnation", |h| h.incarnation = Incarnation(2)),
        ("certificate key", |h| h.spki = Hash([9; 32])),
        ("peer", |h| h.peer = Token(3)),
        ("TLS session", |h| h.exporter = [9; 32]),
    ];
    for (name, change) in table {
        let mut changed = hello();
        change(&mut changed);
        match open(&changed) {
            Err(HelloRefused::Differs {
                field,
                expected,
                found,
                ..
            }) => {
                assert_eq!(field, name);
                assert_ne!(expected, found);
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn a_log_that_one_side_does_not_know_yet_separates_nobody() {
    let unborn = Hello {
        log_id: None,
        ..hello()
    };
    assert_eq!(open(&unborn), Ok(()));
    let waiting = Expected {
        log_id: None,
        token: None,
        ..expected()
    };
    assert!(Hello::open(&hello().seal(&key(ALICE)), &waiting, &roster()).is_ok());
}

#[test]
fn strangers_and_impostors_are_refused() {
    let stranger = Hello {
        token: Token(9),
        ..hello()
    };
    assert_eq!(
        open(&stranger),
        Err(HelloRefused::UnknownSender { token: Token(9) })
    );
    let forged = hello().seal(&key(BOB));
    let refused = Hello::open(&forged, &expected(), &roster()).map(|_| ());
    assert_eq!(refused, Err(HelloRefused::Signature { token: ALICE }));
}

#[test]
fn whoever_changes_one_byte_of_a_hello_is_refused() {
    let whole = hello().seal(&key(ALICE));
    for at in 0..whole.len() {
        for mask in [1 << (at % 8), 0xff] {
            let mut changed = whole.clone();
            changed[at] ^= mask;
            assert!(
                Hello::open(&changed, &expected(), &roster()).is_err(),
                "byte {at}, mask {mask:#x}"
            );
        }
    }
}

#[test]
fn other_lengths_other_versions_and_a_hidden_log_id_are_not_a_hello() {
    let whole = hello().seal(&key(ALICE));
    let refused = |bytes: &[u8]| {
        Hello::open(bytes, &expected(), &roster()).map(|_| ()) == Err(HelloRefused::NotAHello)
    };
    for len in 0..whole.len() {
        assert!(refused(&whole[..len]), "{len} bytes");
    }
    assert!(refused(&[whole.as_slice(), &[0]].concat()));
    for (at, value) in [(0, 2), (33, 2), (33, 0)] {
        let mut changed = whole.clone();
        changed[at] = value;
        assert!(refused(&changed), "byte {at} = {value}");
    }
}
