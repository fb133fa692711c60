//! The command on what real agents answered: the official simulator (keys of its published fixture, its recorded quote
//! with the report data written in, as it does) and a quote from hardware. The recordings lie outside the project.

use super::liar::Answer;
use super::official::{APP_ID, Official, recorded};
use super::{FOUR, absent, ask, simulated};

#[tokio::test]
async fn the_official_simulator_as_recorded_passes_and_its_keys_end_at_its_root() {
    let test = "the_official_simulator_as_recorded";
    let dir = tempfile::tempdir().unwrap();
    let Some(keys) = recorded(test, "dstack/key_derivation.json") else {
        return;
    };
    let Some(official) = Official::serve(test, dir.path()).await else {
        return;
    };
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
    let Some(hardware) = recorded(test, "tdx/dstack-g-lite-getquote.json") else {
        return;
    };
    let log = hardware["event_log"].as_str().unwrap();
    assert!(log.contains(r#""digest":"","event":"app-id""#), "{log}");
    let s = simulated(|_| ()).await;
    let body = hardware.to_string();
    let agent = s.liar(move |call| match call.method {
        "GetQuote" => Some(Answer {
            body: body.clone(),
            ..call.truth
        }),
        _ => Some(call.truth),
    });
    let asked = hardware["report_data"].as_str().unwrap();
    let ended = ask(&agent.socket, &["quote", "--report-data", asked]).await;
    let ended = ended.succeeded();
    assert_eq!(ended.stdout.trim(), hardware["quote"].as_str().unwrap());
    assert_eq!(
        ended.value("app id"),
        "0x86b0e55f2fa8e4fb69d890f14f54d5612707646e"
    );
    ended.says(&["9 runtime events, recomputed; they replay to rtmr3"]);
    let other = ask(&agent.socket, &["quote", "--report-data", &asked[..126]]).await;
    assert_eq!((other.code, other.stdout.as_str()), (1, ""));
}
