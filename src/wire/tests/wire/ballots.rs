//! EIP-712 digests against the vectors that the contract's own tests use, and signatures as the contract counts them.

use crate::support::{ALICE, BOB, ballot, key};
use k256::ecdsa::Signature;
use serde_json::Value;
use synod_wire::ballot::Domain;
use synod_wire::{Address, Anchor, Ballot, Hash, SessionKey, SessionPublic, Term, Token};

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../../contracts/vectors/eip712.json")).unwrap()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap()
}

fn hash(value: &Value, field: &str) -> Hash {
    text(value, field).parse().unwrap()
}

fn domain(vectors: &Value) -> Domain {
    Domain {
        chain_id: vectors["domain"]["chain_id"].as_u64().unwrap(),
        contract: text(&vectors["domain"], "verifying_contract")
            .parse()
            .unwrap(),
    }
}

fn vector_ballot(v: &Value) -> Ballot {
    Ballot {
        term: Term(v["term"].as_u64().unwrap()),
        candidate: Token(v["candidate"].as_u64().unwrap()),
        anchor: Anchor {
            index: v["anchor_index"].as_u64().unwrap(),
            root: hash(v, "anchor_root"),
        },
        deadline: v["deadline"].as_u64().unwrap(),
    }
}

#[test]
fn a_ballot_has_the_digest_and_the_signature_that_the_contract_checks() {
    let all = vectors();
    let v = &all["ballot"];
    let (domain, ballot) = (domain(&all), vector_ballot(v));
    assert_eq!(Hash(domain.ballot_digest(&ballot)), hash(v, "digest"));

    let session = SessionKey::from_bytes(&hash(v, "session_private").0).unwrap();
    let address: Address = text(v, "session_address").parse().unwrap();
    assert_eq!(session.public().address(), Ok(address));

    let contract_form = [hash(v, "r").0, hash(v, "vs").0].concat();
    let mut signed = domain.sign(&session, Token(3), &ballot);
    signed.signature.copy_from_slice(&contract_form);
    assert!(
        domain.verify(&session.public(), &ballot, &signed),
        "the vector's signature counts"
    );
    assert_eq!(
        domain
            .sign(&session, Token(3), &ballot)
            .signature
            .as_slice(),
        contract_form,
        "and is ours"
    );
}

#[test]
fn an_adoption_has_the_digest_of_the_contract() {
    let all = vectors();
    let v = &all["adoption"];
    let address = |field| text(v, field).parse::<Address>().unwrap();
    let digest = domain(&all).adoption_digest(
        Token(v["token_id"].as_u64().unwrap()),
        address("wallet"),
        address("instance_id"),
        v["adoption_number"].as_u64().unwrap(),
    );
    assert_eq!(Hash(digest), hash(v, "digest"));
}

#[test]
fn every_field_of_a_ballot_and_of_its_domain_is_signed() {
    let home = domain(&vectors());
    let signed = home.sign(&key(ALICE), ALICE, &ballot());
    assert!(home.verify(&key(ALICE).public(), &ballot(), &signed));
    let changes: [fn(&mut Ballot); 5] = [
        |b| b.term.0 += 1,
        |b| b.candidate.0 += 1,
        |b| b.anchor.index += 1,
        |b| b.anchor.root.0[31] ^= 1,
        |b| b.deadline += 1,
    ];
    for change in changes {
        let mut other = ballot();
        change(&mut other);
        assert!(
            !home.verify(&key(ALICE).public(), &other, &signed),
            "{other:?}"
        );
    }
    let other_chain = Domain {
        chain_id: home.chain_id + 1,
        ..home
    };
    let other_contract = Domain {
        contract: Address([1; 20]),
        ..home
    };
    assert!(!other_chain.verify(&key(ALICE).public(), &ballot(), &signed));
    assert!(!other_contract.verify(&key(ALICE).public(), &ballot(), &signed));
    assert!(
        !home.verify(&key(BOB).public(), &ballot(), &signed),
        "somebody else's key"
    );
}

/// n - s: the other half of the same signature, which plain ECDSA would accept.
fn with_high_s(signature: &[u8; 64]) -> [u8; 64] {
    let parsed = Signature::from_slice(signature).unwrap();
    let (r, s) = parsed.split_scalars();
    Signature::from_scalars(r.to_bytes(), (-s).to_bytes())
        .unwrap()
        .to_bytes()
        .into()
}

#[test]
fn a_high_s_is_refused_and_so_are_zeros_and_a_wrong_parity() {
    let (alice, digest) = (key(ALICE), [0x42; 32]);
    let public = alice.public();
    let good = alice.sign(&digest);
    assert!(public.verify(&digest, &good));
    assert!(!public.verify(&digest, &with_high_s(&good)));
    assert!(!public.verify(&digest, &[0; 64]));
    assert!(!public.verify(&digest, &[0xff; 64]));

    let compact = alice.sign_compact(&digest);
    assert!(public.verify_compact(&digest, &compact));
    for (byte, bit) in [(32, 0x80), (0, 1), (63, 1)] {
        let mut bad = compact;
        bad[byte] ^= bit;
        assert!(!public.verify_compact(&digest, &bad), "byte {byte}");
    }
    assert!(!public.verify_compact(&digest, &[0; 64]));
    assert!(!public.verify_compact(&[0x43; 32], &compact));
}

#[test]
fn compact_and_plain_are_the_same_signature_but_for_the_parity_bit() {
    for number in 0..32_u8 {
        let digest = [number; 32];
        let mut compact = key(BOB).sign_compact(&digest);
        compact[32] &= 0x7f;
        assert_eq!(compact, key(BOB).sign(&digest));
    }
}

#[test]
fn keys_outside_the_group_and_points_off_the_curve_are_no_keys() {
    assert!(SessionKey::from_bytes(&[0; 32]).is_err());
    assert!(SessionKey::from_bytes(&[0xff; 32]).is_err());
    assert!(SessionPublic::from_x([0; 32], false).is_err());
    assert!(!SessionPublic([0; 33]).verify(&[1; 32], &key(ALICE).sign(&[1; 32])));
    assert!(SessionPublic([0; 33]).address().is_err());

    let public = key(ALICE).public();
    let x: [u8; 32] = public.0[1..].try_into().unwrap();
    assert_eq!(SessionPublic::from_x(x, public.0[0] == 3), Ok(public));
    assert_eq!(public.uncompressed().unwrap()[..32], x);
}
