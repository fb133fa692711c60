//! The command on what real agents answered: the official simulator (keys of its published fixture, its recorded quote
//! with the report data written in, as it does) and a quote from hardware. The recordings lie outside the project.

use super::liar::Answer;
use super::{FOUR, Simulated, absent, ask, simulated};
use dstack_simulator::AppKeys;
use serde_json::Value;
use std::io::Write;

/// The app of the official simulator's fixture.
const APP_ID: &str = "5bb4ff9a3837357f19dc176407a5709c62eb6c56";

/// A recording, or `None` with a word to whoever runs the tests.
fn recorded(test: &str, file: &str) -> Option<Value> {
    let dir = std::env::var("SYNOD_VECTORS").unwrap_or_else(|_| "../shared/vectors".to_owned());
    let Ok(text) = std::fs::read_to_string(format!("{dir}/{file}")) else {
        assert!(
            std::env::var("SYNOD_CI").is_err(),
            "SYNOD_CI is set and there is no {file} in {dir}"
        );
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED {test}: no {file} in {dir} (SYNOD_VECTORS)"
        );
        return None;
    };
    Some(serde_json::from_str(&text).unwrap())
}

/// The body of the first case of a recording.
fn first_body(recording: &Value) -> String {
    let body = &recording["cases"][0]["response"]["body_text"];
    body.as_str().unwrap().to_owned()
}

fn bytes(hex: &Value) -> Vec<u8> {
    let digits = hex.as_str().unwrap().as_bytes().chunks(2);
    digits
        .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
        .collect()
}

/// A simulator with the app root key and KMS link that the official one publishes.
async fn with_published_keys(fixture: &Value) -> Simulated {
    let keys = &fixture["appkeys"];
    let root: [u8; 32] = bytes(&keys["k256_key"]).try_into().unwrap();
    let link = bytes(&keys["k256_signature"]);
    simulated(|spec| {
        spec.app_id = Some(bytes(&APP_ID.into()).try_into().unwrap());
        spec.app_keys = Some(AppKeys {
            root: root.into(),
            link,
        });
    })
    .await
}

/// This quote with other report data, as the official simulator makes all of its quotes.
fn patched(quote: &str, report_data: &str) -> String {
    [&quote[..2 * 568], report_data, &quote[2 * 632..]].concat()
}

#[tokio::test]
async fn the_official_simulator_as_recorded_passes_and_its_keys_end_at_its_root() {
    let recorded = |file| recorded("the_official_simulator_as_recorded", file);
    let (Some(fixture), Some(keys), Some(quotes), Some(infos), Some(versions)) = (
        recorded("dstack/fixture.json"),
        recorded("dstack/key_derivation.json"),
        recorded("dstack/v0.5.11/get_quote.json"),
        recorded("dstack/v0.5.11/info.json"),
        recorded("dstack/v0.5.11/version.json"),
    ) else {
        return;
    };
    let s = with_published_keys(&fixture).await;
    let (quote, info, version) = (
        first_body(&quotes),
        first_body(&infos),
        first_body(&versions),
    );
    let official = s.liar(move |call| match call.method {
        "GetQuote" => {
            let asked: Value = serde_json::from_str(&call.truth.body).unwrap();
            let body = quote.clone();
            Answer { body, ..call.truth }.with(|json| {
                let asked = asked["report_data"].as_str().unwrap();
                json["report_data"] = asked.into();
                json["quote"] = patched(json["quote"].as_str().unwrap(), asked).into();
            })
        }
        "Info" => Some(Answer {
            body: info.clone(),
            ..call.truth
        }),
        "Version" => Some(Answer {
            body: version.clone(),
            ..call.truth
        }),
        _ => Some(call.truth),
    });
    let ended = ask(&official.socket, &["test"]).await.succeeded();
    assert_eq!(ended.steps(), FOUR);
    ended.says(&["version: 0.5.11 (rev unknown)", "5010 bytes"]);

    let root = keys["kms_link_of_the_fixture"]["signer_recovered_with_that_app_id"]
        .as_str()
        .unwrap();
    let mut compared = 0;
    for row in keys["observed_and_recomputed"].as_array().unwrap() {
        let text = |name: &str| row[name].as_str().unwrap();
        // a path of 4096 letters is abbreviated in the recording
        let abbreviated = text("path").contains(" repeated ");
        if text("algorithm") != "secp256k1" || abbreviated {
            continue;
        }
        let asked = ["key", text("path"), "--purpose", text("purpose")];
        let anchor = ["--kms-root", root, "--app-id", APP_ID];
        let ended = ask(&official.socket, &[&asked[..], &anchor].concat()).await;
        let ended = ended.succeeded();
        assert_eq!(
            ended.value("public key"),
            format!("0x{}", text("public_key"))
        );
        assert_eq!(
            ended.value("address"),
            text("ethereum_address").to_lowercase()
        );
        assert!(ended.value("link 0").starts_with(text("link0")), "{row}");
        assert_eq!(
            ended.value("chain"),
            format!("verified: it ends at KMS root 0x{root}")
        );
        absent(text("key"), &ended);
        compared += 1;
    }
    assert!(compared >= 5, "{compared} rows");
}

#[tokio::test]
async fn a_quote_from_hardware_with_a_stripped_log_is_read() {
    let test = "a_quote_from_hardware_with_a_stripped_log_is_read";
    let Some(hardware) = recorded(test, "tdx/dstack-f-getquote.json") else {
        return;
    };
    let s = simulated(|_| ()).await;
    let mut answer = hardware.clone();
    let log = answer["event_log"].as_str().unwrap();
    let mut log: Vec<Value> = serde_json::from_str(log).unwrap();
    for event in log.iter_mut().filter(|event| event["imr"] == 3) {
        event["digest"] = "".into();
    }
    answer["event_log"] = Value::from(log).to_string().into();
    let body = answer.to_string();
    let agent = s.liar(move |call| match call.method {
        "GetQuote" => Some(Answer {
            body: body.clone(),
            ..call.truth
        }),
        _ => Some(call.truth),
    });
    let ended = ask(&agent.socket, &["quote", "--report-data", "1234"]).await;
    let ended = ended.succeeded();
    assert_eq!(ended.stdout.trim(), hardware["quote"].as_str().unwrap());
    assert_eq!(
        ended.value("app id"),
        "0x3763bc34552cf3a27ff71ad5f7a90471562a1a2d"
    );
    ended.says(&["8 runtime events, recomputed; they replay to rtmr3"]);
    let other = ask(&agent.socket, &["quote", "--report-data", "1235"]).await;
    assert_eq!((other.code, other.stdout.as_str()), (1, ""));
}
