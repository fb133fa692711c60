//! dstack's official simulator as recorded: the keys of its published fixture, its Info, and its one recorded quote
//! with the report data written in, as it makes all of its quotes. The recordings lie outside the project.

use super::liar::{Answer, Liar};
use dstack_simulator::{AppKeys, InstanceConfig, Running, World, WorldSpec, serve};
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The app of the official simulator's fixture.
pub const APP_ID: &str = "5bb4ff9a3837357f19dc176407a5709c62eb6c56";

/// A recording, or `None` with a word to whoever runs the tests.
pub fn recorded(test: &str, file: &str) -> Option<Value> {
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
pub fn first_body(recording: &Value) -> String {
    let body = &recording["cases"][0]["response"]["body_text"];
    body.as_str().unwrap().to_owned()
}

fn bytes(hex: &Value) -> Vec<u8> {
    let digits = hex.as_str().unwrap().as_bytes().chunks(2);
    digits
        .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
        .collect()
}

/// One socket for everybody.
pub struct Official {
    pub socket: PathBuf,
    _liar: Liar,
    _running: Running,
}

impl Official {
    /// Serves `official.sock` in this directory; `None` (said aloud) where there are no recordings.
    pub async fn serve(test: &str, dir: &Path) -> Option<Self> {
        let fixture = recorded(test, "dstack/fixture.json")?;
        let quote = first_body(&recorded(test, "dstack/v0.5.11/get_quote.json")?);
        let info = first_body(&recorded(test, "dstack/v0.5.11/info.json")?);
        let version = first_body(&recorded(test, "dstack/v0.5.11/version.json")?);
        let root: [u8; 32] = bytes(&fixture["appkeys"]["k256_key"]).try_into().unwrap();
        let mut spec = WorldSpec::new([5; 32]);
        spec.app_id = Some(bytes(&APP_ID.into()).try_into().unwrap());
        spec.app_keys = Some(AppKeys {
            root: root.into(),
            link: bytes(&fixture["appkeys"]["k256_signature"]),
        });
        let truth = dir.join("keys.sock");
        let config = InstanceConfig::new(truth.clone(), [6; 32]);
        let world = Arc::new(World::build(spec).unwrap());
        let running = serve(world, vec![config]).await.unwrap();
        let socket = dir.join("official.sock");
        let liar = Liar::between(&truth, socket.clone(), move |call| match call.method {
            "GetQuote" => answer(&quote, call.truth),
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
        Some(Self {
            socket,
            _liar: liar,
            _running: running,
        })
    }
}

/// The recorded answer to `GetQuote`, over the report data that were asked for.
pub fn answer(recorded: &str, truth: Answer) -> Option<Answer> {
    let asked: Value = serde_json::from_str(&truth.body).unwrap();
    let body = recorded.to_owned();
    Answer { body, ..truth }.with(|json| {
        let asked = asked["report_data"].as_str().unwrap();
        json["report_data"] = asked.into();
        json["quote"] = patched(json["quote"].as_str().unwrap(), asked).into();
    })
}

/// This quote with other report data.
fn patched(quote: &str, report_data: &str) -> String {
    [&quote[..2 * 568], report_data, &quote[2 * 632..]].concat()
}
