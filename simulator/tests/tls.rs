//! `GetTlsKey` and `Attest`: certificates like the recorded ones, read and verified with other code.

#![allow(clippy::unwrap_used)] // a test says what it expects by failing

mod certificate;

use certificate::{ask, boot, chain, dstack_extension, error, guest, json, parse, recording};
use dstack_simulator::{AppCa, Guest, KeyProvider, Surface::Dstack, WorldSpec};
use k256::elliptic_curve::zeroize::Zeroizing;
use p256::{ecdsa::SigningKey, pkcs8::DecodePrivateKey as _};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use std::time::{SystemTime, UNIX_EPOCH};
use x509_parser::{certificate::X509Certificate, x509::X509Name};

const PROVIDERS: [KeyProvider; 4] = [
    KeyProvider::Kms,
    KeyProvider::Local,
    KeyProvider::Tpm,
    KeyProvider::None,
];
const DAY: i64 = 24 * 60 * 60;

async fn tls_key(guest: &Guest, body: &str) -> Value {
    json(guest, Dstack, "/GetTlsKey", body).await
}

#[tokio::test]
async fn every_recorded_leaf_has_the_shape_of_ours() {
    let name = "every_recorded_leaf_has_the_shape_of_ours";
    let Some(recorded) = recording(name, "v0.5.11/get_tls_key.json") else {
        return;
    };
    // the recorded agent signs with a CA of its own, although its event log names a KMS
    let guest = guest(KeyProvider::Local);
    let mut compared = 0;
    for case in recorded["cases"].as_array().unwrap() {
        let request = &case["request"];
        let path = request["path"].as_str().unwrap();
        let (status, answer) = ask(&guest, Dstack, path, request["body_text"].as_str()).await;
        assert_eq!(status, case["response"]["status"], "{case}");
        let expected = case["response"]["body_text"].as_str().unwrap();
        if status != 200 {
            assert_eq!(answer, expected, "{}", case["name"]);
            continue;
        }
        let expected: Value = serde_json::from_str(expected).unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(form(&answer["key"]), form(&expected["key"]));
        let (theirs, ours) = (chain(&expected), chain(&answer));
        assert_eq!(ours.len(), theirs.len());
        same_leaf(&case["name"], &parse(&ours[0]), &parse(&theirs[0]));
        compared += 1;
    }
    assert_eq!(compared, 10);
}

/// First line, lengths of lines, last line.
fn form(pem: &Value) -> (String, Vec<usize>, String) {
    let lines: Vec<&str> = pem.as_str().unwrap().split('\n').collect();
    (
        lines[0].to_owned(),
        lines.iter().map(|line| line.len()).collect(),
        lines[lines.len() - 2].to_owned(),
    )
}

fn same_leaf(case: &Value, ours: &X509Certificate<'_>, theirs: &X509Certificate<'_>) {
    assert_eq!(ours.version(), theirs.version(), "{case}");
    assert_eq!(
        ours.signature_algorithm, theirs.signature_algorithm,
        "{case}"
    );
    assert_eq!(ours.subject().as_raw(), theirs.subject().as_raw(), "{case}");
    assert_eq!(kinds(ours.subject()), kinds(theirs.subject()), "{case}");
    assert_eq!(serial(ours), stripped_hash(ours), "{case}");
    assert_eq!(serial(theirs), stripped_hash(theirs), "{case}");
    assert_eq!(ours.public_key().algorithm, theirs.public_key().algorithm);
    assert_eq!(
        ours.validity().not_before,
        theirs.validity().not_before,
        "{case}"
    );
    let (our_end, their_end) = (ours.validity().not_after, theirs.validity().not_after);
    if (2_000_000_000..2_200_000_000).contains(&their_end.timestamp()) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let days = (our_end.timestamp() - i64::try_from(now.as_secs()).unwrap()) / DAY;
        assert!((3649..=3650).contains(&days), "{case}: {days} days");
    } else {
        assert_eq!(our_end, their_end, "{case}");
    }
    let listed = |certificate: &X509Certificate<'_>| -> Vec<(String, bool)> {
        let extensions = certificate.extensions().iter();
        extensions
            .map(|extension| (extension.oid.to_id_string(), extension.critical))
            .collect()
    };
    assert_eq!(listed(ours), listed(theirs), "{case}");
    for (our, their) in ours.extensions().iter().zip(theirs.extensions()) {
        match our.oid.to_id_string().as_str() {
            "1.3.6.1.4.1.62397.1.8" => {
                let (our, their) = (attested(ours), attested(theirs));
                assert_eq!(our.names(), their.names(), "{case}");
            }
            "1.3.6.1.4.1.62397.1.9" => {
                let (our, their) = (app_info(ours), app_info(theirs));
                let lengths = |info: &[Vec<u8>]| info.iter().map(Vec::len).collect::<Vec<_>>();
                // the seventh, the image hash, is empty in the recorded one, which contradicts its own event log
                assert_eq!(lengths(&our)[..6], lengths(&their)[..6], "{case}");
                assert_eq!((our.len(), our[6].len()), (their.len(), 32), "{case}");
            }
            _ => assert_eq!(our.value, their.value, "{case}: {}", our.oid),
        }
    }
}

fn serial(certificate: &X509Certificate<'_>) -> Vec<u8> {
    without_zeros(certificate.raw_serial())
}

/// The serial number that follows from the public key: 20 bytes of its hash, positive.
fn stripped_hash(certificate: &X509Certificate<'_>) -> Vec<u8> {
    let mut hash = Sha256::digest(&certificate.public_key().subject_public_key.data);
    hash[0] &= 0x7F;
    without_zeros(&hash[..20])
}

fn without_zeros(number: &[u8]) -> Vec<u8> {
    number
        .iter()
        .copied()
        .skip_while(|byte| *byte == 0)
        .collect()
}

/// Attribute types and string types of a name.
fn kinds(name: &X509Name<'_>) -> Vec<(String, u32)> {
    name.iter_attributes()
        .map(|attribute| {
            (
                attribute.attr_type().to_id_string(),
                attribute.attr_value().tag().0,
            )
        })
        .collect()
}

#[tokio::test]
async fn the_root_of_a_kms_has_the_shape_of_the_recorded_ca() {
    let name = "the_root_of_a_kms_has_the_shape_of_the_recorded_ca";
    let Some(recorded) = recording(name, "v0.5.11/get_tls_key.json") else {
        return;
    };
    let theirs = recorded["cases"][0]["response"]["body_text"]
        .as_str()
        .unwrap();
    let theirs = chain(&serde_json::from_str(theirs).unwrap());
    let ours = chain(&tls_key(&guest(KeyProvider::Kms), "{}").await);
    let (ours, theirs) = (parse(&ours[2]), parse(&theirs[1]));
    assert_eq!(kinds(ours.subject()), kinds(theirs.subject()));
    assert_eq!(
        ours.subject().iter_common_name().next().unwrap().as_str(),
        Ok("Dstack KMS CA")
    );
    assert_eq!(ours.validity().not_before, theirs.validity().not_before);
    for (our, their) in ours.extensions().iter().zip(theirs.extensions()) {
        assert_eq!((&our.oid, our.critical), (&their.oid, their.critical));
        match our.oid.to_id_string().as_str() {
            "2.5.29.14" => assert_eq!(our.value.len(), their.value.len()), // hash of the key
            // theirs is written with a byte too many
            "2.5.29.15" => assert_eq!(
                ours.key_usage().unwrap().unwrap().value,
                theirs.key_usage().unwrap().unwrap().value
            ),
            _ => assert_eq!(our.value, their.value, "{}", our.oid),
        }
    }
    assert_eq!(ours.extensions().len(), theirs.extensions().len());
}

#[tokio::test]
async fn every_certificate_is_signed_by_the_next_one_and_the_last_by_itself() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = i64::try_from(now.as_secs()).unwrap();
    for provider in PROVIDERS {
        let guest = guest(provider);
        let answer = tls_key(&guest, r#"{"subject":"a","usage_ra_tls":true}"#).await;
        let chain = chain(&answer);
        let certificates: Vec<_> = chain.iter().map(|der| parse(der)).collect();
        let is_kms = provider == KeyProvider::Kms;
        assert_eq!(
            certificates.len(),
            if is_kms { 3 } else { 2 },
            "{provider:?}"
        );
        for (n, certificate) in certificates.iter().enumerate() {
            let signer = certificates.get(n + 1).unwrap_or(certificate);
            assert_eq!(certificate.issuer().as_raw(), signer.subject().as_raw());
            certificate
                .verify_signature(Some(signer.public_key()))
                .unwrap();
            assert_eq!(certificate.is_ca(), n > 0);
            let validity = certificate.validity();
            assert!(validity.not_before.timestamp() < now && now < validity.not_after.timestamp());
        }
        let wrong = certificates[0].verify_signature(Some(certificates[0].public_key()));
        assert!(wrong.is_err(), "a leaf does not sign itself");

        let key = SigningKey::from_pkcs8_pem(answer["key"].as_str().unwrap()).unwrap();
        assert_eq!(
            &*certificates[0].public_key().subject_public_key.data,
            key.verifying_key().to_sec1_point(false).as_bytes()
        );
        let app_id = hex_field(&info(&guest).await, "app_id");
        let named = dstack_extension(&certificates[0], 3);
        assert_eq!(named, is_kms.then_some(app_id), "{provider:?}");
    }
}

#[tokio::test]
async fn a_kms_signs_an_app_ca_that_is_bound_to_the_app() {
    let guest = guest(KeyProvider::Kms);
    let chain = chain(&tls_key(&guest, "{}").await);
    let (app_ca, root) = (parse(&chain[1]), parse(&chain[2]));
    let info = info(&guest).await;
    let app_id = hex_field(&info, "app_id");
    assert_eq!(
        app_ca.subject().iter_common_name().next().unwrap().as_str(),
        Ok("Dstack App CA")
    );
    assert_eq!(dstack_extension(&app_ca, 3), Some(app_id));
    assert_eq!(dstack_extension(&app_ca, 4), Some(b"app:ca".to_vec()));
    let provider: Value =
        serde_json::from_str(info["key_provider_info"].as_str().unwrap()).unwrap();
    assert_eq!(
        provider["id"],
        hex::encode(root.public_key().raw),
        "the log names this root"
    );
}

#[tokio::test]
async fn a_given_ca_without_a_root_above_it_names_no_app() {
    let name = "a_given_ca_without_a_root_above_it_names_no_app";
    let Some(fixture) = recording(name, "fixture.json") else {
        return;
    };
    let keys = &fixture["appkeys"];
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let guest = boot(WorldSpec {
        app_ca: Some(AppCa {
            certificates: text(&keys["ca_cert"]),
            key: Zeroizing::new(text(&keys["key_provider"]["None"]["key"])),
        }),
        ..WorldSpec::new([7; 32])
    });
    let answer = tls_key(&guest, "{}").await;
    assert_eq!(answer["certificate_chain"][1], keys["ca_cert"]);
    let chain = chain(&answer);
    let (leaf, ca) = (parse(&chain[0]), parse(&chain[1]));
    leaf.verify_signature(Some(ca.public_key())).unwrap();
    assert_eq!(dstack_extension(&leaf, 3), None);
    assert_eq!(dstack_extension(&leaf, 4), Some(b"app:custom".to_vec()));
}

#[tokio::test]
async fn a_key_is_random_and_its_ca_is_not() {
    let guest = guest(KeyProvider::Kms);
    let (one, other) = (tls_key(&guest, "{}").await, tls_key(&guest, "{}").await);
    assert_ne!(one["key"], other["key"]);
    assert_ne!(one["certificate_chain"][0], other["certificate_chain"][0]);
    assert_eq!(one["certificate_chain"][1], other["certificate_chain"][1]);
    assert_eq!(one["certificate_chain"][2], other["certificate_chain"][2]);
}

#[tokio::test]
async fn a_quote_in_a_certificate_commits_to_its_key() {
    for provider in PROVIDERS {
        let guest = guest(provider);
        let chain = chain(&tls_key(&guest, r#"{"usage_ra_tls":true}"#).await);
        let leaf = parse(&chain[0]);
        let attested = attested(&leaf);
        let expected = Sha512::new()
            .chain_update(b"ratls-cert:")
            .chain_update(leaf.public_key().raw)
            .finalize();
        let quote = &attested.platform.data.quote;
        assert_eq!(quote[568..632], expected[..], "{provider:?}");
        assert_eq!(attested.stack.data.report_data, expected[..]);
        for event in &attested.platform.data.event_log {
            assert!(event.imr == 3 && event.digest.is_empty(), "{}", event.event);
        }
        assert_eq!(
            quote[520..568],
            replayed_from_payloads(&attested),
            "{provider:?}"
        );
        let app_id = &attested.stack.data.runtime_events[1];
        assert_eq!(app_id.event, "app-id");
        assert_eq!(app_id.payload, hex_field(&info(&guest).await, "app_id"));
    }
}

#[tokio::test]
async fn what_a_certificate_tells_about_the_app_is_what_info_tells() {
    for provider in PROVIDERS {
        let guest = guest(provider);
        let chain = chain(&tls_key(&guest, r#"{"with_app_info":true}"#).await);
        let told = app_info(&parse(&chain[0]));
        let info = info(&guest).await;
        assert_eq!(told[0], hex_field(&info, "app_id"));
        assert_eq!(told[1], hex_field(&info, "compose_hash"));
        assert_eq!(told[2], hex_field(&info, "instance_id"));
        assert_eq!(told[3], hex_field(&info, "device_id"));
        assert_eq!(told[5], hex_field(&info, "mr_aggregated"));
        assert_eq!(told[6], hex_field(&info, "os_image_hash"));
        assert_eq!(
            told[7],
            info["key_provider_info"].as_str().unwrap().as_bytes()
        );
        let tcb: Value = serde_json::from_str(info["tcb_info"].as_str().unwrap()).unwrap();
        let system = ["mrtd", "rtmr0", "rtmr1", "rtmr2"]
            .iter()
            .fold(Sha256::new(), |hash, name| {
                hash.chain_update(hex_field(&tcb, name))
            })
            .chain_update(Sha256::digest(&told[7]))
            .finalize();
        assert_eq!(told[4], system[..]);
        assert_eq!(told.len(), 8);
    }
}

#[tokio::test]
async fn extensions_come_in_the_order_in_which_an_agent_adds_them() {
    let all = r#"{"alt_names":["a","::1"],"usage_server_auth":true,"usage_client_auth":true,
        "usage_ra_tls":true,"with_app_info":true}"#;
    let chain = chain(&tls_key(&guest(KeyProvider::Kms), all).await);
    let leaf = parse(&chain[0]);
    let oids: Vec<_> = leaf
        .extensions()
        .iter()
        .map(|e| e.oid.to_id_string())
        .collect();
    let own = |n: u32| format!("1.3.6.1.4.1.62397.1.{n}");
    let expected = ["2.5.29.17", "2.5.29.15", "2.5.29.37"].map(str::to_owned);
    assert_eq!(
        oids,
        [&expected[..], &[own(3), own(9), own(4), own(8)]].concat()
    );
}

#[tokio::test]
async fn a_name_or_time_that_no_certificate_can_hold_is_refused() {
    let guest = guest(KeyProvider::Kms);
    let refused = async |body: &str| error(&guest, Dstack, "/GetTlsKey", body).await;
    let prefix = "Failed to sign the CSR: Failed to sign certificate: Failed to sign certificate: ";
    let name = refused(r#"{"alt_names":["a","ключ"]}"#).await;
    assert_eq!(name, format!("{prefix}Invalid IA5String: 'ключ'"));
    for field in ["not_before", "not_after"] {
        for seconds in [253_402_300_800, u64::MAX] {
            assert_eq!(
                refused(&format!(r#"{{"{field}":{seconds}}}"#)).await,
                format!(
                    "{prefix}{field} must be at most 253402300799 (the end of the year 9999), found {seconds}"
                )
            );
        }
        let last = tls_key(&guest, &format!(r#"{{"{field}":253402300799}}"#)).await;
        assert_eq!(chain(&last).len(), 3);
    }
}

#[tokio::test]
async fn an_attestation_holds_quote_log_and_report_data() {
    for provider in PROVIDERS {
        let guest = guest(provider);
        let answer = json(&guest, Dstack, "/Attest", r#"{"report_data":"48656c6c6f"}"#).await;
        let attested: Attested = rmp_serde::from_slice(&hex_field(&answer, "attestation")).unwrap();
        let (platform, stack) = (&attested.platform.data, &attested.stack.data);
        let expected = [b"Hello".to_vec(), vec![0; 59]].concat();
        assert_eq!(platform.quote[568..632], expected);
        assert_eq!(stack.report_data, expected);
        let asked = json(
            &guest,
            Dstack,
            "/GetQuote",
            r#"{"report_data":"48656c6c6f"}"#,
        )
        .await;
        assert_eq!(platform.quote, hex_field(&asked, "quote"));
        for imr in 0..4u8 {
            let events = platform.event_log.iter().filter(|event| event.imr == imr);
            let register = replay(events.map(|event| event.digest.clone()));
            let at = 376 + 48 * usize::from(imr);
            assert_eq!(platform.quote[at..at + 48], register, "register {imr}");
        }
        assert_eq!(platform.quote[520..568], replayed_from_payloads(&attested));
        let config: Value = serde_json::from_str(&stack.config).unwrap();
        assert_eq!(config["vm_config"], info(&guest).await["vm_config"]);
    }
    let guest = guest(KeyProvider::Kms);
    let long = format!(r#"{{"report_data":"{}"}}"#, "00".repeat(65));
    assert_eq!(
        error(&guest, Dstack, "/Attest", &long).await,
        "Report data is too long"
    );
}

async fn info(guest: &Guest) -> Value {
    json(guest, Dstack, "/Info", "{}").await
}

fn hex_field(object: &Value, name: &str) -> Vec<u8> {
    hex::decode(object[name].as_str().unwrap()).unwrap()
}

/// An attestation, read by names.
#[derive(Deserialize)]
struct Attested {
    platform: Tagged<Platform>,
    stack: Tagged<Stack>,
}

#[derive(Deserialize)]
struct Tagged<T> {
    kind: String,
    data: T,
}

#[derive(Deserialize)]
struct Platform {
    quote: Vec<u8>,
    event_log: Vec<Logged>,
}

#[derive(Deserialize)]
struct Logged {
    imr: u8,
    digest: Vec<u8>,
    event: String,
}

#[derive(Deserialize)]
struct Stack {
    report_data: Vec<u8>,
    runtime_events: Vec<Runtime>,
    config: String,
}

#[derive(Deserialize)]
struct Runtime {
    event: String,
    payload: Vec<u8>,
}

impl Attested {
    /// Kinds, and the runtime events by name, except for what only a KMS has.
    fn names(&self) -> Vec<String> {
        let log = self
            .platform
            .data
            .event_log
            .iter()
            .map(|logged| &logged.event);
        let runtime = self
            .stack
            .data
            .runtime_events
            .iter()
            .map(|runtime| &runtime.event);
        [&self.platform.kind, &self.stack.kind]
            .into_iter()
            .chain(log)
            .chain(runtime)
            .filter(|name| *name != "os-image-hash")
            .cloned()
            .collect()
    }
}

fn attested(leaf: &X509Certificate<'_>) -> Attested {
    rmp_serde::from_slice(&dstack_extension(leaf, 8).unwrap()).unwrap()
}

fn app_info(leaf: &X509Certificate<'_>) -> Vec<Vec<u8>> {
    rmp_serde::from_slice(&dstack_extension(leaf, 9).unwrap()).unwrap()
}

/// RTMR3 without believing any digest.
fn replayed_from_payloads(attested: &Attested) -> [u8; 48] {
    replay(attested.stack.data.runtime_events.iter().map(|runtime| {
        Sha384::new()
            .chain_update([1, 0, 0, 8])
            .chain_update(b":")
            .chain_update(&runtime.event)
            .chain_update(b":")
            .chain_update(&runtime.payload)
            .finalize()
            .to_vec()
    }))
}

fn replay(digests: impl Iterator<Item = Vec<u8>>) -> [u8; 48] {
    digests.fold([0; 48], |register, digest| {
        Sha384::new()
            .chain_update(register)
            .chain_update(digest)
            .finalize()
            .into()
    })
}
