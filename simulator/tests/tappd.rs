//! The legacy socket: what was recorded comes out again, and keys are those of the other socket.

#![allow(clippy::unwrap_used)] // a test says what it expects by failing

mod certificate;

use certificate::{ask, boot, chain, dstack_extension, error, guest, json, parse, recording};
use dstack_simulator::{
    AppKeys, Guest, KeyProvider,
    Surface::{Dstack, Tappd},
    WorldSpec,
};
use k256::elliptic_curve::zeroize::Zeroizing;
use p256::{ecdsa::SigningKey, pkcs8::DecodePrivateKey as _};
use serde_json::Value;

/// A guest with the public keys of the official simulator.
fn recorded_guest(fixture: &Value) -> Guest {
    let keys = &fixture["appkeys"];
    let bytes = |name: &str| hex::decode(keys[name].as_str().unwrap()).unwrap();
    boot(WorldSpec {
        app_id: Some(*b"whatever was signed?"),
        app_keys: Some(AppKeys {
            root: Zeroizing::new(bytes("k256_key").try_into().unwrap()),
            link: bytes("k256_signature"),
        }),
        ..WorldSpec::new([7; 32])
    })
}

fn case<'a>(recorded: &'a Value, name: &str) -> &'a Value {
    let mut cases = recorded["cases"].as_array().unwrap().iter();
    cases.find(|case| case["name"] == name).unwrap()
}

fn report_data_in(answer: &Value) -> String {
    let quote = answer["quote"].as_str().unwrap();
    quote[2 * 568..2 * 632].to_owned()
}

#[tokio::test]
async fn every_recorded_hash_algorithm_gives_the_recorded_report_data() {
    let name = "every_recorded_hash_algorithm_gives_the_recorded_report_data";
    let (Some(rows), Some(recorded)) = (
        recording(name, "tappd_report_data.json"),
        recording(name, "v0.5.11/tappd.json"),
    ) else {
        return;
    };
    let guest = guest(KeyProvider::Kms);
    let rows = rows["rows"].as_array().unwrap();
    for row in rows {
        let case = case(&recorded, row["case"].as_str().unwrap());
        let body = case["request"]["body_text"].as_str().unwrap();
        let answer = json(&guest, Tappd, "/prpc/Tappd.TdxQuote", body).await;
        assert_eq!(
            report_data_in(&answer),
            row["report_data_in_quote"],
            "{row}"
        );
        // the prefix is that of this version: the rows are of a later one, which says the prefix back
        let expected = &case["response"]["body_json_abbreviated"];
        assert_eq!(
            answer["hash_algorithm"], expected["hash_algorithm"],
            "{row}"
        );
        assert_eq!(answer["prefix"], expected["prefix"], "{row}");
        assert_eq!(
            answer["hash_algorithm"], row["response_hash_algorithm"],
            "{row}"
        );
    }
    assert_eq!(rows.len(), 14);
}

#[tokio::test]
async fn derived_keys_are_the_recorded_ones_to_the_letter() {
    let name = "derived_keys_are_the_recorded_ones_to_the_letter";
    let (Some(fixture), Some(recorded)) = (
        recording(name, "fixture.json"),
        recording(name, "v0.5.11/tappd.json"),
    ) else {
        return;
    };
    let guest = recorded_guest(&fixture);
    for name in ["derive_key", "derive_key_defaults"] {
        let case = case(&recorded, name);
        let body = case["request"]["body_text"].as_str().unwrap();
        let answer = json(&guest, Tappd, "/prpc/Tappd.DeriveKey", body).await;
        let expected: Value =
            serde_json::from_str(case["response"]["body_text"].as_str().unwrap()).unwrap();
        assert_eq!(answer["key"], expected["key"], "{name}");
        let (ours, theirs) = (chain(&answer), chain(&expected));
        let (ours, theirs) = (parse(&ours[0]), parse(&theirs[0]));
        assert_eq!(ours.serial, theirs.serial, "{name}");
        assert_eq!(ours.subject().as_raw(), theirs.subject().as_raw(), "{name}");
        assert_eq!(ours.public_key().raw, theirs.public_key().raw, "{name}");
    }
    for name in [
        "derive_k256_key",
        "derive_k256_key_ed25519",
        "derive_k256_key_defaults",
    ] {
        let case = case(&recorded, name);
        let body = case["request"]["body_text"].as_str();
        let (status, answer) = ask(&guest, Tappd, "/prpc/DeriveK256Key", body).await;
        assert_eq!(status, 200);
        assert_eq!(
            answer,
            case["response"]["body_text"].as_str().unwrap(),
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_derived_key_is_the_scalar_that_the_other_socket_gives_for_the_path() {
    let guest = guest(KeyProvider::Kms);
    let asked = r#"{"path":"node","purpose":"p"}"#;
    let known = json(&guest, Dstack, "/GetKey", asked).await;
    let derived = json(&guest, Tappd, "/prpc/DeriveKey", r#"{"path":"node"}"#).await;
    let key = SigningKey::from_pkcs8_pem(derived["key"].as_str().unwrap()).unwrap();
    assert_eq!(known["key"], hex::encode(key.to_bytes()));
    let again = json(&guest, Tappd, "/prpc/Tappd.DeriveKey", r#"{"path":"node"}"#).await;
    assert_eq!(again["key"], derived["key"]);
    let k256 = json(&guest, Tappd, "/prpc/DeriveK256Key", asked).await;
    assert_eq!(k256["k256_key"], known["key"]);
    assert_eq!(k256["k256_signature_chain"], known["signature_chain"]);
}

#[tokio::test]
async fn a_random_seed_gives_another_key_each_time_and_its_certificate() {
    let guest = guest(KeyProvider::Local);
    let body = r#"{"path":"node","subject":"n","random_seed":true,"usage_server_auth":true}"#;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let answer = json(&guest, Tappd, "/prpc/DeriveKey", body).await;
        let chain = chain(&answer);
        let (leaf, ca) = (parse(&chain[0]), parse(&chain[1]));
        leaf.verify_signature(Some(ca.public_key())).unwrap();
        let key = SigningKey::from_pkcs8_pem(answer["key"].as_str().unwrap()).unwrap();
        let point = key.verifying_key().to_sec1_point(false);
        assert_eq!(
            &*leaf.public_key().subject_public_key.data,
            point.as_bytes()
        );
        assert_eq!(dstack_extension(&leaf, 4), Some(b"app:custom".to_vec()));
        assert!(
            leaf.extended_key_usage()
                .unwrap()
                .unwrap()
                .value
                .server_auth
        );
        seen.push(answer["key"].clone());
    }
    let fixed = json(&guest, Tappd, "/prpc/DeriveKey", r#"{"path":"node"}"#).await;
    seen.push(fixed["key"].clone());
    assert!((1..seen.len()).all(|n| !seen[..n].contains(&seen[n])));
}

#[tokio::test]
async fn a_raw_quote_takes_64_bytes_and_an_unknown_method_has_no_service() {
    let guest = guest(KeyProvider::Kms);
    let body = |length: usize| format!(r#"{{"report_data":"{}"}}"#, "5a".repeat(length));
    let answer = json(&guest, Tappd, "/prpc/RawQuote", &body(64)).await;
    assert_eq!(report_data_in(&answer), "5a".repeat(64));
    assert_eq!(
        (&answer["hash_algorithm"], &answer["prefix"]),
        (&"raw".into(), &"".into())
    );
    let same = json(&guest, Dstack, "/GetQuote", &body(64)).await;
    assert_eq!(answer["quote"], same["quote"]);
    assert_eq!(answer["event_log"], same["event_log"]);
    for length in [0, 63, 65] {
        let refused = error(&guest, Tappd, "/prpc/RawQuote", &body(length)).await;
        assert_eq!(refused, "invalid content length", "{length}");
    }
    for (method, text) in [
        ("Foo", "Service not found: Foo"),
        ("Tappd.GetKey", "Service not found: GetKey"),
        ("GetTlsKey", "Service not found: GetTlsKey"),
    ] {
        let path = format!("/prpc/{method}");
        assert_eq!(error(&guest, Tappd, &path, "{}").await, text);
    }
}

#[tokio::test]
async fn info_and_version_are_those_of_the_other_socket() {
    let guest = guest(KeyProvider::Tpm);
    let told = json(&guest, Tappd, "/prpc/Tappd.Info", "{}").await;
    assert_eq!(told, json(&guest, Dstack, "/Info", "{}").await);
    let (status, version) = ask(&guest, Tappd, "/prpc/Version", None).await;
    assert_eq!(
        (status, &*version),
        (200, r#"{"version":"0.5.11","rev":"unknown"}"#)
    );
}
