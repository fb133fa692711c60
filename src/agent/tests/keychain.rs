//! The chain verifier against the chain that a real agent's fixture carries: it holds, and no changed part of it does.

#![allow(clippy::unwrap_used)] // a test says what it expects by failing

mod vectors;

use proptest::{prelude::*, sample::Index, test_runner::TestRunner};
use std::{collections::BTreeSet, io::Write as _};
use synod_agent::keychain::{self, Chain, ChainRefused, KmsRoot, Link};

/// Everything that enters a verification.
#[derive(Clone, Debug, PartialEq)]
struct Inputs {
    derived: [u8; 33],
    purpose: String,
    app_id: [u8; 20],
    chain: Vec<Vec<u8>>,
    root: KmsRoot,
}

impl Inputs {
    fn verify(&self) -> Result<Chain, ChainRefused> {
        keychain::verify(
            &self.derived,
            &self.purpose,
            &self.app_id,
            &self.chain,
            &self.root,
        )
    }
}

struct Recorded {
    /// Name and inputs of each recorded secp256k1 row.
    rows: Vec<(String, Inputs)>,
    app_public: [u8; 33],
}

/// The rows of the fixture's app, whose KMS key was recovered from the recorded link.
fn recorded(test: &str) -> Option<Recorded> {
    let json = vectors::json(test, "dstack/key_derivation.json")?;
    let link = &json["kms_link_of_the_fixture"];
    let root = KmsRoot::Public(vectors::hex(link, "signer_recovered_with_that_app_id"));
    let app_id = vectors::hex(link, "app_id_in_fixture_attestation");
    let upper = hex::decode(vectors::text(link, "link1")).unwrap();
    let rows = json["observed_and_recomputed"].as_array().unwrap().iter();
    let rows = rows
        .filter(|row| row["algorithm"] == "secp256k1")
        .map(|row| {
            let lower = hex::decode(vectors::text(row, "link0")).unwrap();
            let inputs = Inputs {
                derived: vectors::hex(row, "public_key"),
                purpose: vectors::text(row, "purpose").to_owned(),
                app_id,
                chain: vec![lower, upper.clone()],
                root,
            };
            (vectors::text(row, "case").to_owned(), inputs)
        });
    Some(Recorded {
        rows: rows.collect(),
        app_public: vectors::hex(&json, "app_root_public_compressed"),
    })
}

/// The row with a purpose in which every part can be changed.
fn row(recorded: &Recorded) -> Inputs {
    let named = |(name, _): &&(String, Inputs)| name == "path_test_purpose_signing";
    recorded.rows.iter().find(named).unwrap().1.clone()
}

#[test]
fn every_recorded_chain_holds_against_its_kms_key_and_against_its_address() {
    let test = "every_recorded_chain_holds_against_its_kms_key_and_against_its_address";
    let Some(recorded) = recorded(test) else {
        return;
    };
    let app_public = recorded.app_public;
    for (name, inputs) in &recorded.rows {
        assert_eq!(inputs.verify(), Ok(Chain { app_public }), "{name}");
        let KmsRoot::Public(public) = inputs.root else {
            unreachable!()
        };
        let key = k256::ecdsa::VerifyingKey::from_sec1_bytes(&public).unwrap();
        let by_address = Inputs {
            root: KmsRoot::Address(keychain::address(&key)),
            ..inputs.clone()
        };
        assert_eq!(by_address.verify(), Ok(Chain { app_public }), "{name}");
    }
    assert!(recorded.rows.len() >= 10, "{} rows", recorded.rows.len());
}

#[test]
fn a_chain_of_another_app_or_another_kms_does_not_hold() {
    let test = "a_chain_of_another_app_or_another_kms_does_not_hold";
    let Some(json) = vectors::json(test, "dstack/key_derivation.json") else {
        return;
    };
    let recorded = recorded(test).unwrap();
    for constructed in json["kms_constructed"].as_array().unwrap() {
        let mut inputs = row(&recorded);
        inputs.app_id = vectors::hex(constructed, "app_id");
        inputs.root = KmsRoot::Public(vectors::hex(constructed, "kms_root_public_compressed"));
        inputs.chain[1] = hex::decode(vectors::text(constructed, "link1")).unwrap();
        // a good link of that KMS, but over another app root key than the one that signed the lower link
        let result = inputs.verify();
        assert!(
            matches!(result, Err(ChainRefused::OtherRoot { .. })),
            "{result:?}"
        );
    }
}

/// What a changed part must be told.
enum Reason {
    /// The upper link ends at somebody who is not the KMS; each time at somebody else.
    Elsewhere,
    Exactly(ChainRefused),
}

fn flip_v(link: &mut [u8]) {
    link[64] ^= 1;
}

fn high_s(link: &mut Vec<u8>) {
    let signature = k256::ecdsa::Signature::from_slice(&link[..64]).unwrap();
    let high = k256::ecdsa::Signature::from_scalars(*signature.r(), -*signature.s()).unwrap();
    *link = [&high.to_bytes()[..], &[link[64] ^ 1]].concat();
}

type Change = Box<dyn Fn(&mut Inputs)>;

/// Every part that is no link, and the links as wholes, changed alone.
fn changes() -> Vec<(String, Change, Reason)> {
    use ChainRefused::{Links, NoKmsLink};
    use Reason::{Elsewhere, Exactly};
    let mut table: Vec<(String, Change, Reason)> = Vec::new();
    let mut row = |name: &str, reason, change: fn(&mut Inputs)| {
        table.push((name.to_owned(), Box::new(change), reason));
    };
    row("derived key", Elsewhere, |i| i.derived[32] ^= 1);
    row("derived key, the other point", Elsewhere, |i| {
        i.derived[0] ^= 1
    });
    row("purpose, a letter", Elsewhere, |i| {
        i.purpose = "Signing".to_owned()
    });
    row("purpose, longer", Elsewhere, |i| i.purpose.push(':'));
    row("purpose, none", Elsewhere, |i| i.purpose.clear());
    row("app id", Elsewhere, |i| i.app_id[19] ^= 1);
    row("no links", Exactly(Links { found: 0 }), |i| i.chain.clear());
    row("one link", Exactly(Links { found: 1 }), |i| {
        i.chain.truncate(1)
    });
    row("three links", Exactly(Links { found: 3 }), |i| {
        i.chain.push(i.chain[1].clone());
    });
    row("no KMS", Exactly(NoKmsLink), |i| i.chain[1].clear());
    row("links swapped", Elsewhere, |i| i.chain.swap(0, 1));
    row("the lower link twice", Elsewhere, |i| {
        i.chain[1] = i.chain[0].clone()
    });
    row("the upper link twice", Elsewhere, |i| {
        i.chain[0] = i.chain[1].clone()
    });
    table
}

/// Every part of each link, changed alone.
fn changes_of_links(good: &Inputs) -> Vec<(String, Change, Reason)> {
    use ChainRefused::{HighS, Length, RecoveryByte, Unrecoverable};
    use Reason::{Elsewhere, Exactly};
    let mut table: Vec<(String, Change, Reason)> = Vec::new();
    for (at, link) in [(0, Link::Derived), (1, Link::App)] {
        let v = good.chain[at][64];
        let mut row = |name: &str, reason, change: fn(&mut Vec<u8>)| {
            let change: Change = Box::new(move |i| change(&mut i.chain[at]));
            table.push((format!("{link:?} link, {name}"), change, reason));
        };
        row("r is nought", Exactly(Unrecoverable { link }), |l| {
            l[..32].fill(0)
        });
        row(
            "r is no number of the field",
            Exactly(Unrecoverable { link }),
            |l| {
                l[..32].fill(0xff);
            },
        );
        row("s", Elsewhere, |l| l[63] ^= 1);
        row("s is nought", Exactly(Unrecoverable { link }), |l| {
            l[32..64].fill(0)
        });
        row("s is the high one", Exactly(HighS { link }), high_s);
        row("v", Elsewhere, |l| flip_v(l));
        row(
            "v as Ethereum writes it",
            Exactly(RecoveryByte {
                link,
                found: v + 27,
            }),
            |l| {
                l[64] += 27;
            },
        );
        row(
            "v for a large r",
            Exactly(RecoveryByte { link, found: v + 2 }),
            |l| l[64] += 2,
        );
        row("v missing", Exactly(Length { link, found: 64 }), |l| {
            l.truncate(64)
        });
        row("a byte more", Exactly(Length { link, found: 66 }), |l| {
            l.push(0)
        });
        row("a byte before", Exactly(Length { link, found: 66 }), |l| {
            l.insert(0, 0)
        });
    }
    // an empty lower link; the upper one means that there is no KMS
    let empty: fn(&mut Inputs) = |i| i.chain[0].clear();
    let reason = Exactly(Length {
        link: Link::Derived,
        found: 0,
    });
    table.push(("Derived link, empty".to_owned(), Box::new(empty), reason));
    table
}

#[test]
fn every_single_changed_part_is_refused_with_its_own_reason() {
    let Some(recorded) = recorded("every_single_changed_part_is_refused_with_its_own_reason")
    else {
        return;
    };
    let good = row(&recorded);
    let mut signers = BTreeSet::new();
    let (mut elsewhere, mut exactly) = (0, 0);
    for (name, change, reason) in changes().into_iter().chain(changes_of_links(&good)) {
        let mut changed = good.clone();
        change(&mut changed);
        let result = changed.verify();
        match (reason, result) {
            (Reason::Elsewhere, Err(ChainRefused::OtherRoot { expected, found })) => {
                assert_ne!(expected, found, "{name}");
                assert!(signers.insert(found), "{name}: {}", hex::encode(found));
                elsewhere += 1;
            }
            (Reason::Exactly(expected), Err(refused)) if refused == expected => exactly += 1,
            (_, result) => panic!("{name}: {result:?}"),
        }
    }
    assert_eq!((elsewhere, exactly), (13, 23));
    // r on its own: about half of all numbers are no x of a point, so the answer depends on the number
    let mut reasons = BTreeSet::new();
    for (at, link) in [(0, Link::Derived), (1, Link::App)] {
        for bit in 0..8 {
            let mut changed = good.clone();
            changed.chain[at][31] ^= 1 << bit;
            reasons.insert(match changed.verify() {
                Err(ChainRefused::Unrecoverable { link: found }) if found == link => 0,
                Err(ChainRefused::OtherRoot { .. }) => 1,
                other => panic!("r of {link:?}, bit {bit}: {other:?}"),
            });
        }
    }
    assert_eq!(
        reasons.len(),
        2,
        "16 changed r met only one of the two reasons"
    );
}

#[test]
fn another_root_is_refused_and_named() {
    let Some(recorded) = recorded("another_root_is_refused_and_named") else {
        return;
    };
    let good = row(&recorded);
    let KmsRoot::Public(public) = good.root else {
        unreachable!()
    };
    let signer = keychain::address(&k256::ecdsa::VerifyingKey::from_sec1_bytes(&public).unwrap());
    let with = |root| {
        Inputs {
            root,
            ..good.clone()
        }
        .verify()
    };
    for expected in [
        [0; 20],
        [0xff; 20],
        recorded.app_public[13..].try_into().unwrap(),
    ] {
        let refused = ChainRefused::OtherRoot {
            expected,
            found: signer,
        };
        assert_eq!(with(KmsRoot::Address(expected)), Err(refused));
    }
    let mut other_point = public;
    other_point[0] ^= 1;
    for root in [other_point, recorded.app_public, good.derived] {
        let result = with(KmsRoot::Public(root));
        let Err(ChainRefused::OtherRoot { found, .. }) = result else {
            panic!("{result:?}")
        };
        assert_eq!(found, signer);
    }
    let nothing = KmsRoot::Public([0; 33]);
    assert_eq!(
        with(nothing),
        Err(ChainRefused::BadAnchor { found: [0; 33] })
    );
}

/// One change of one part, anywhere.
#[derive(Clone, Debug)]
enum Mutation {
    Bit(usize, Index, u8),
    Byte(usize, Index, u8),
    Insert(usize, Index, u8),
    Remove(usize, Index),
    Letter(Index, char),
    SwapLinks,
    Links(usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let part = 0..5_usize;
    prop_oneof![
        8 => (part.clone(), any::<Index>(), 0..8_u8).prop_map(|(p, at, bit)| Mutation::Bit(p, at, bit)),
        8 => (part, any::<Index>(), any::<u8>()).prop_map(|(p, at, byte)| Mutation::Byte(p, at, byte)),
        2 => (3..5_usize, any::<Index>(), any::<u8>()).prop_map(|(p, at, byte)| Mutation::Insert(p, at, byte)),
        2 => (3..5_usize, any::<Index>()).prop_map(|(p, at)| Mutation::Remove(p, at)),
        4 => (any::<Index>(), any::<char>()).prop_map(|(at, letter)| Mutation::Letter(at, letter)),
        1 => Just(Mutation::SwapLinks),
        1 => (0..5_usize).prop_map(Mutation::Links),
    ]
}

/// Parts in bytes: derived key, app id, root, lower link, upper link.
fn apply(inputs: &mut Inputs, mutation: &Mutation) {
    let change = |bytes: &mut [u8], at: &Index, change: &dyn Fn(u8) -> u8| {
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = change(bytes[at]);
        }
    };
    let root = |root: &mut KmsRoot, at: &Index, how: &dyn Fn(u8) -> u8| match root {
        KmsRoot::Address(bytes) => change(bytes, at, how),
        KmsRoot::Public(bytes) => change(bytes, at, how),
    };
    let mut part = |part: usize, at: &Index, how: &dyn Fn(u8) -> u8| match part {
        0 => change(&mut inputs.derived, at, how),
        1 => change(&mut inputs.app_id, at, how),
        2 => root(&mut inputs.root, at, how),
        part => {
            if let Some(link) = inputs.chain.get_mut(part - 3) {
                change(link, at, how);
            }
        }
    };
    match mutation {
        Mutation::Bit(which, at, bit) => part(*which, at, &|byte| byte ^ (1 << bit)),
        Mutation::Byte(which, at, new) => part(*which, at, &|_| *new),
        Mutation::Insert(which, at, byte) => {
            if let Some(link) = inputs.chain.get_mut(which - 3) {
                link.insert(at.index(link.len() + 1), *byte);
            }
        }
        Mutation::Remove(which, at) => {
            if let Some(link) = inputs.chain.get_mut(which - 3).filter(|l| !l.is_empty()) {
                link.remove(at.index(link.len()));
            }
        }
        Mutation::Letter(at, letter) => {
            let mut letters: Vec<char> = inputs.purpose.chars().collect();
            let at = at.index(letters.len() + 1);
            match letters.get_mut(at) {
                Some(old) => *old = *letter,
                None => letters.push(*letter),
            }
            inputs.purpose = letters.into_iter().collect();
        }
        Mutation::SwapLinks => inputs.chain.reverse(),
        Mutation::Links(count) => inputs.chain.resize(*count, vec![0; 65]),
    }
}

#[test]
fn no_random_change_of_one_to_three_parts_is_ever_accepted() {
    const CASES: u32 = 2_000;
    let Some(recorded) = recorded("no_random_change_of_one_to_three_parts_is_ever_accepted") else {
        return;
    };
    let good = row(&recorded);
    let KmsRoot::Public(public) = good.root else {
        unreachable!()
    };
    let key = k256::ecdsa::VerifyingKey::from_sec1_bytes(&public).unwrap();
    let by_address = Inputs {
        root: KmsRoot::Address(keychain::address(&key)),
        ..good.clone()
    };
    let changed = std::cell::Cell::new(0_u32);
    let config = ProptestConfig {
        cases: CASES,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let changes = (prop::bool::ANY, prop::collection::vec(mutation(), 1..=3));
    TestRunner::new(config)
        .run(&changes, |(address, mutations)| {
            let good = if address { &by_address } else { &good };
            let mut inputs = good.clone();
            for mutation in &mutations {
                apply(&mut inputs, mutation);
            }
            if inputs == *good {
                prop_assert!(inputs.verify().is_ok());
            } else {
                changed.set(changed.get() + 1);
                prop_assert!(inputs.verify().is_err(), "accepted: {inputs:?}");
            }
            Ok(())
        })
        .unwrap();
    writeln!(
        std::io::stderr(),
        "{} changed chains, none accepted",
        changed.get()
    )
    .ok();
    assert!(changed.get() > CASES * 9 / 10, "{changed:?}");
}
