//! Verdicts over evidence that the simulator made (testdata) and, where the vectors are at hand, over real evidence.

#![allow(clippy::unwrap_used)] // a test says what it expects by failing
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // the tests read files; the crate does not

use serde_json::Value;
use sha2::{Digest, Sha256};
use std::io::Write as _;
use synod_attest::{
    Evidence, Expected, Outcome, Policy, Reason, Simulator, Verdict, appraise,
    event_log::{self, LogRefused},
    own_verdict,
    quote::{self, QuoteRefused},
};

/// Evidence that a test may spoil, and what is expected of it.
struct Case {
    quote: Vec<u8>,
    log: String,
    compose: String,
    expected: Expected,
    policy: Policy,
}

fn fixed<const N: usize>(value: &Value) -> [u8; N] {
    hex::decode(value.as_str().unwrap())
        .unwrap()
        .try_into()
        .unwrap()
}

fn good() -> Case {
    let file: Value = serde_json::from_str(include_str!("../testdata/simulated.json")).unwrap();
    let text = |name: &str| file[name].as_str().unwrap().to_owned();
    let quote = hex::decode(text("quote")).unwrap();
    let root = quote::parse(&quote).unwrap().root_hash();
    Case {
        quote,
        log: text("event_log"),
        compose: text("app_compose"),
        expected: Expected {
            report_data: [0x42; 64],
            compose_hashes: vec![Sha256::digest(text("app_compose")).into()],
            app_id: Some(fixed(&file["app_id"])),
            instance_id: Some(fixed(&file["instance_id"])),
            key_provider: Some(text("key_provider")),
        },
        policy: Policy {
            simulator: Simulator::Root(root),
        },
    }
}

fn check(change: impl FnOnce(&mut Case)) -> Verdict {
    let mut case = good();
    change(&mut case);
    let evidence = Evidence {
        quote: &case.quote,
        event_log: &case.log,
        compose: &case.compose,
    };
    appraise(&evidence, &case.expected, &case.policy)
}

fn reason(change: impl FnOnce(&mut Case)) -> Reason {
    match check(change) {
        Verdict::Refused { reason, .. } => reason,
        Verdict::Simulated { .. } => panic!("expected a refusal"),
    }
}

#[test]
fn consistent_evidence_of_an_allowed_simulator_is_simulated_and_lists_what_was_not_checked() {
    for policy in [good().policy.simulator, Simulator::AnyRoot] {
        let verdict = check(|case| case.policy.simulator = policy);
        assert!(matches!(verdict, Verdict::Simulated { .. }), "{verdict}");
        assert!(
            verdict
                .checks()
                .iter()
                .all(|check| check.outcome != Outcome::Failed)
        );
        let open: Vec<_> = verdict
            .checks()
            .iter()
            .filter(|c| c.outcome == Outcome::NotChecked)
            .collect();
        assert!(
            open.iter().any(|check| check.name.contains("signatures")),
            "{open:?}"
        );
        assert!(
            verdict.to_string().starts_with("SIMULATED")
                && verdict.to_string().contains("not checked")
        );
    }
}

#[test]
fn a_simulator_is_refused_unless_the_policy_names_it() {
    assert_eq!(
        reason(|case| case.policy.simulator = Simulator::Refused),
        Reason::SimulatorNotAllowed
    );
    assert_eq!(
        reason(|case| case.policy.simulator = Simulator::Root([0; 32])),
        Reason::SimulatorNotAllowed
    );
}

#[test]
fn each_changed_value_is_refused_with_its_own_reason() {
    assert_eq!(
        reason(|case| case.expected.report_data[63] ^= 1),
        Reason::Check("report data")
    );
    assert_eq!(
        reason(|case| case.quote[568] ^= 1),
        Reason::Check("report data")
    );
    assert_eq!(
        reason(|case| case.quote[168] |= 1),
        Reason::Check("debug attribute")
    );
    assert_eq!(reason(|case| case.quote[520] ^= 1), Reason::Check("RTMR3"));
    assert_eq!(
        reason(|case| case.quote[240] ^= 1),
        Reason::Check("MRCONFIGID")
    );
    assert_eq!(
        reason(|case| case.compose.push(' ')),
        Reason::Check("compose text")
    );
    assert_eq!(
        reason(|case| case.expected.compose_hashes.clear()),
        Reason::Check("compose hash")
    );
    assert_eq!(
        reason(|case| case.expected.compose_hashes[0][0] ^= 1),
        Reason::Check("compose hash")
    );
    assert_eq!(
        reason(|case| case.expected.app_id = Some([0; 20])),
        Reason::Check("app id")
    );
    assert_eq!(
        reason(|case| case.expected.instance_id = Some([0; 20])),
        Reason::Check("instance id")
    );
    assert_eq!(
        reason(|case| case.expected.key_provider = Some("{}".into())),
        Reason::Check("key provider")
    );
    let told = check(|case| case.expected.app_id = Some([0; 20])).to_string();
    assert!(
        told.contains("app id") && told.contains(&"00".repeat(20)),
        "{told}"
    );
}

#[test]
fn a_changed_or_missing_event_does_not_replay() {
    let instance = hex::encode(good().expected.instance_id.unwrap());
    let forged = reason(|case| case.log = case.log.replace(&instance, &"99".repeat(20)));
    assert_eq!(forged, Reason::Check("RTMR3"));
    let renamed = reason(|case| case.log = case.log.replace("storage-fs", "storage_fs"));
    assert_eq!(renamed, Reason::Check("RTMR3"));
    let without = reason(|case| case.log = "[]".to_owned());
    assert_eq!(without, Reason::Check("RTMR3"));
    let broken = reason(|case| case.log.truncate(100));
    assert!(matches!(broken, Reason::Log(LogRefused::Shape { .. })));
}

#[test]
fn every_prefix_of_a_quote_is_refused_and_no_flipped_bit_of_its_frame_passes() {
    let quote = good().quote;
    for length in 0..quote.len() {
        assert!(quote::parse(&quote[..length]).is_err(), "{length} bytes");
    }
    // header without user data, lengths and types, certificates
    let frame = (0..28)
        .chain(632..636)
        .chain(764..770)
        .chain(1218..1220)
        .chain(1252..quote.len());
    let original = quote::parse(&quote).unwrap();
    for at in frame {
        for bit in 0..8 {
            let mut flipped = quote.clone();
            flipped[at] ^= 1 << bit;
            // inside the base64 another certificate may come out; the same quote must not
            if let Ok(other) = quote::parse(&flipped) {
                assert!(
                    at >= 1258 && other.certificates != original.certificates,
                    "bit {bit} of byte {at}"
                );
            }
        }
    }
}

#[test]
fn padding_is_zero_and_bounded() {
    let with = |padding: Vec<u8>| quote::parse(&[good().quote, padding].concat());
    assert_eq!(
        with(vec![0; 70]).unwrap().shape,
        quote::parse(&good().quote).unwrap().shape
    );
    assert!(with(vec![1]).is_err() && with(vec![0; 4097]).is_err());
    assert!(matches!(
        quote::parse(&vec![0; quote::QUOTE_MAX + 1]),
        Err(QuoteRefused::TooLarge { .. })
    ));
}

#[test]
fn a_node_says_simulated_about_its_own_consistent_evidence_and_unattested_otherwise() {
    let Case {
        mut quote,
        log,
        compose,
        ..
    } = good();
    assert!(
        own_verdict(&quote, &log, &compose, &[0x42; 64])
            .to_string()
            .starts_with("SIMULATED")
    );
    assert!(
        own_verdict(&quote, &log, &compose, &[0; 64])
            .to_string()
            .starts_with("UNATTESTED")
    );
    quote[0] = 5;
    assert!(
        own_verdict(&quote, &log, &compose, &[0x42; 64])
            .to_string()
            .contains("version")
    );
}

/// A file of the attestation vectors, if they are there.
fn vector(test: &str, name: &str) -> Option<Value> {
    let dir =
        std::env::var("SYNOD_VECTORS").unwrap_or_else(|_| "../../../shared/vectors".to_owned());
    let Ok(text) = std::fs::read_to_string(format!("{dir}/tdx/{name}")) else {
        assert!(
            std::env::var("SYNOD_CI").is_err(),
            "SYNOD_CI is set and {name} is not in {dir}"
        );
        writeln!(std::io::stderr(), "SKIPPED {test}: vectors not found").ok();
        return None;
    };
    Some(serde_json::from_str(&text).unwrap())
}

#[test]
fn real_quotes_parse_replay_and_are_refused_for_want_of_a_verifier() {
    let name = "real_quotes_parse_replay_and_are_refused_for_want_of_a_verifier";
    for (file, fixture) in [
        ("dstack-f-getquote.json", false),
        ("dstack-g-lite-getquote.json", false),
        ("dstack-h-simulator-getquote.json", true),
    ] {
        let Some(json) = vector(name, file) else {
            return;
        };
        let quote = hex::decode(json["quote"].as_str().unwrap()).unwrap();
        let log = json["event_log"].as_str().unwrap();
        let parsed = quote::parse(&quote).unwrap();
        let rtmr3 = event_log::replay_rtmr3(log).unwrap();
        assert_eq!(rtmr3.digest, parsed.rtmr[3], "{file}");
        let identity = rtmr3.identity().unwrap();
        assert!(
            !rtmr3.events.is_empty() && identity.instance_id.is_some(),
            "{file}"
        );
        let verdict = own_verdict(&quote, log, "", &parsed.report_data);
        let Verdict::Refused { reason, .. } = &verdict else {
            panic!("{file}: {verdict}")
        };
        assert_eq!(
            *reason,
            if fixture {
                Reason::DstackFixture
            } else {
                Reason::CannotVerify
            },
            "{file}"
        );
    }
}
