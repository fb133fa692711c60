//! The client against recorded answers of real agents: two simulators built from the official source, and two machines.
//! A replaying server gives each recording as it was; every good answer must become its value, every other one its error.

#![allow(clippy::unwrap_used)] // a test says what it expects by failing

mod vectors;

use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    io::Write as _,
    sync::{Arc, Mutex},
    time::Duration,
};
use synod_agent::{
    Agent, AgentError, fuzz,
    keychain::{self, ChainRefused, KmsRoot},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};
use vectors::text;

/// A recorded request and its answer.
#[derive(Clone)]
struct Case {
    name: String,
    request: Value,
    status: u64,
    server: String,
    /// The answer as it went over the wire.
    raw: Vec<u8>,
    body: Vec<u8>,
}

/// The dstack cases of a file, abbreviated bodies written out.
fn cases(test: &str, file: &str) -> Option<Vec<Case>> {
    cases_with(test, file, |_| true)
}

/// The dstack cases of a file with such a status.
fn cases_with(test: &str, file: &str, taken: fn(&Value) -> bool) -> Option<Vec<Case>> {
    let json = vectors::json(test, &format!("dstack/v0.5.11/{file}.json"))?;
    let recorded = json["cases"].as_array().unwrap();
    let first = recorded[0]["response"]["body_text"].as_str().unwrap_or("");
    let first: Value = serde_json::from_str(first).unwrap_or_default();
    let of_dstack = recorded
        .iter()
        .filter(|c| c["request"]["socket"] == "dstack" && taken(&c["response"]["status"]));
    Some(of_dstack.map(|case| one_case(case, &first)).collect())
}

fn one_case(case: &Value, first: &Value) -> Case {
    let response = &case["response"];
    let body = body(response, first);
    let mut raw = format!("{}\r\n", text(response, "status_line")).into_bytes();
    for (name, value) in response["headers"].as_object().unwrap() {
        raw.extend_from_slice(format!("{name}: {}\r\n", value.as_str().unwrap()).as_bytes());
    }
    raw.extend_from_slice(b"\r\n");
    raw.extend_from_slice(&body);
    let length = text(&response["headers"], "content-length");
    assert!(
        length.parse() == Ok(body.len()) || case["request"]["method"] == "HEAD",
        "{}: {length} recorded, {} written out",
        case["name"],
        body.len()
    );
    Case {
        name: text(case, "name").to_owned(),
        request: case["request"].clone(),
        status: response["status"].as_u64().unwrap(),
        server: text(&response["headers"], "server").to_owned(),
        raw,
        body,
    }
}

fn body(response: &Value, first: &Value) -> Vec<u8> {
    if let Some(text) = response["body_text"].as_str() {
        return text.as_bytes().to_vec();
    }
    if let Some(digits) = response["body_hex"].as_str() {
        return hex::decode(digits).unwrap();
    }
    let mut whole = response["body_json_abbreviated"].clone();
    for (field, value) in whole.as_object_mut().unwrap() {
        if value["same_as_first_case_of_this_file"] == true {
            *value = first[field].clone();
        } else if value["otherwise_same_as_first_case"] == true {
            let mut quote = first[field].as_str().unwrap().to_owned();
            let other = text(value, "report_data_bytes_568_to_632");
            quote.replace_range(2 * 568..2 * 632, other);
            *value = json!(quote);
        }
    }
    serde_json::to_vec(&whole).unwrap()
}

/// A server that answers every request with `answer(path, body)` and closes, as the recorded answers announce.
struct Replay {
    agent: Agent,
    /// What was asked: request line and headers in lower case.
    heads: Arc<Mutex<Vec<String>>>,
    _dir: tempfile::TempDir,
}

fn replay(answer: impl Fn(&str, &Value) -> Vec<u8> + Send + Sync + 'static) -> Replay {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("replay.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let (kept, answer) = (heads.clone(), Arc::new(answer));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, kept.clone(), answer.clone()));
        }
    });
    let agent = Agent::with_timeout(&socket, Duration::from_secs(30)).unwrap();
    Replay {
        agent,
        heads,
        _dir: dir,
    }
}

/// The same answer to everybody.
fn always(raw: &[u8]) -> Replay {
    let raw = raw.to_vec();
    replay(move |_, _| raw.clone())
}

async fn serve(
    mut stream: UnixStream,
    heads: Arc<Mutex<Vec<String>>>,
    answer: Arc<impl Fn(&str, &Value) -> Vec<u8>>,
) {
    let mut request = Vec::new();
    let (head, body) = loop {
        let mut piece = [0; 4096];
        let length = stream.read(&mut piece).await.unwrap();
        assert_ne!(length, 0, "half a request: {request:?}");
        request.extend_from_slice(&piece[..length]);
        let text = String::from_utf8(request.clone()).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let lower = head.to_lowercase();
        let expected = lower.split("content-length: ").nth(1).unwrap();
        if body.len().to_string() == expected.lines().next().unwrap() {
            break (head.to_owned(), serde_json::from_str(body).unwrap());
        }
    };
    let path = head.split(' ').nth(1).unwrap().to_owned();
    heads.lock().unwrap().push(head);
    let answer = answer(&path, &body);
    // who has read enough may have closed already
    stream.write_all(&answer).await.ok();
    stream.shutdown().await.ok();
}

fn ok(body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
        .into_bytes()
}

/// What became of a recorded answer, compared with the recording.
async fn outcome(case: &Case) -> &'static str {
    let replay = always(&case.raw);
    let name = &case.name;
    let recorded: Value = serde_json::from_slice(&case.body).unwrap_or_default();
    let path = text(&case.request, "path");
    let result = if path.contains("Key") {
        replay.agent.key("p", "q").await.map(|key| {
            assert_eq!(hex::encode(key.secret.expose()), recorded["key"], "{name}");
            let chain: Vec<String> = key.signature_chain.iter().map(hex::encode).collect();
            assert_eq!(json!(chain), recorded["signature_chain"], "{name}");
        })
    } else if path.contains("GetQuote") {
        quote_of(&replay.agent, &recorded, name).await
    } else if path.contains("Info") {
        replay.agent.info().await.map(|info| {
            assert_eq!(hex::encode(info.app_id), recorded["app_id"], "{name}");
            let instance = info.instance_id.map(hex::encode);
            assert_eq!(json!(instance), recorded["instance_id"], "{name}");
            assert_eq!(hex::encode(info.compose_hash), recorded["compose_hash"]);
            assert_eq!(info.app_name, recorded["app_name"]);
            assert_eq!(info.tcb_info, recorded["tcb_info"]);
            assert_eq!(info.key_provider_info, recorded["key_provider_info"]);
            assert_eq!(info.vm_config, recorded["vm_config"]);
        })
    } else {
        replay.agent.version().await.map(|version| {
            assert_eq!(version.version, recorded["version"], "{name}");
            assert_eq!(version.rev, recorded["rev"], "{name}");
            assert_eq!(version.server, case.server, "{name}");
        })
    };
    match result {
        Ok(()) => "value",
        Err(AgentError::TooOld { .. }) => "too old",
        Err(AgentError::Malformed { .. }) => {
            assert_eq!(case.status, 200, "{name}");
            "not JSON"
        }
        Err(AgentError::Unreachable { .. }) => "cut off",
        Err(AgentError::Answered { status, text, .. }) => {
            assert_eq!(u64::from(status), case.status, "{name}");
            words_of(case, &recorded, &text)
        }
        Err(AgentError::OtherServer { text, .. }) => {
            assert_eq!(case.status, 404, "{name}");
            let form = words_of(case, &recorded, &text);
            assert_eq!(form, "refused by the framework in HTML", "{name}");
            "no page of an agent"
        }
        Err(other) => panic!("{name}: {other}"),
    }
}

async fn quote_of(agent: &Agent, recorded: &Value, name: &str) -> Result<(), AgentError> {
    let mut asked = [0; 64];
    if let Some(echo) = recorded["report_data"].as_str() {
        hex::decode_to_slice(echo, &mut asked).unwrap();
        // the same answer, but we asked for something else
        let mut other = asked;
        other[63] ^= 1;
        let refused = agent.quote(&other).await.unwrap_err();
        let echo = matches!(refused, AgentError::OtherReportData { place: "echo", .. });
        assert!(echo, "{name}: {refused}");
    }
    agent.quote(&asked).await.map(|quote| {
        assert_eq!(hex::encode(&quote.bytes), recorded["quote"], "{name}");
        assert_eq!(quote.event_log, recorded["event_log"], "{name}");
        assert_eq!(quote.vm_config, recorded["vm_config"], "{name}");
    })
}

/// The form of a recorded refusal, and that the client gave its words.
fn words_of(case: &Case, recorded: &Value, found: &str) -> &'static str {
    let name = &case.name;
    if let Some(expected) = recorded["error"].as_str() {
        assert_eq!(found, expected.trim(), "{name}");
        return "refused in JSON";
    }
    if recorded["error"].is_object() {
        assert!(
            found.starts_with(text(&recorded["error"], "reason")),
            "{name}: {found}"
        );
        return "refused by the framework in JSON";
    }
    if case.body.starts_with(b"\n") {
        let length = usize::from(case.body[1]);
        assert_eq!(case.body.len(), 2 + length, "{name}");
        assert_eq!(found.as_bytes(), &case.body[2..], "{name}");
        return "refused in protobuf";
    }
    let page = String::from_utf8(case.body.clone()).unwrap();
    let title = found.split('"').nth(1).unwrap();
    assert!(
        page.contains(&format!("<title>{title}</title>")),
        "{name}: {found}"
    );
    "refused by the framework in HTML"
}

#[tokio::test]
async fn every_recorded_answer_becomes_its_value_or_its_error() {
    let test = "every_recorded_answer_becomes_its_value_or_its_error";
    let mut table = BTreeMap::new();
    let asked = [
        "version",
        "info",
        "get_key",
        "get_quote",
        "transport",
        "protobuf",
    ];
    // methods that our client never calls: it understands their refusals all the same
    let others = [
        "verify",
        "sign",
        "get_tls_key",
        "attest",
        "emit_event",
        "gpu_info",
    ];
    for file in asked.into_iter().chain(others) {
        let taken = if others.contains(&file) {
            |status: &Value| *status != 200
        } else {
            |_: &Value| true
        };
        let Some(cases) = cases_with(test, file, taken) else {
            return;
        };
        for case in cases {
            *table.entry((file, outcome(&case).await)).or_insert(0) += 1;
        }
    }
    for ((file, outcome), count) in &table {
        writeln!(std::io::stderr(), "{file:>10} {count:>3} {outcome}").ok();
    }
    let expected = [
        (("attest", "refused in JSON"), 3),
        (("emit_event", "refused in JSON"), 3),
        (("get_key", "refused in JSON"), 14),
        (("get_key", "refused in protobuf"), 2),
        (("get_key", "value"), 31),
        (("get_quote", "refused in JSON"), 10),
        (("get_quote", "value"), 10),
        (("get_tls_key", "refused in JSON"), 4),
        (("gpu_info", "too old"), 2),
        (("info", "value"), 3),
        (("protobuf", "not JSON"), 5),
        (("protobuf", "refused in protobuf"), 3),
        (("sign", "refused in JSON"), 6),
        // an answer to HEAD: a length and no body
        (("transport", "cut off"), 1),
        // its Version is none of this prefix
        (("transport", "no page of an agent"), 1),
        (("transport", "not JSON"), 1),
        (("transport", "refused by the framework in HTML"), 10),
        (("transport", "refused by the framework in JSON"), 2),
        (("transport", "refused in protobuf"), 3),
        (("transport", "too old"), 5),
        (("transport", "value"), 4),
        (("verify", "refused in JSON"), 8),
        (("version", "value"), 5),
    ];
    assert_eq!(table.into_iter().collect::<Vec<_>>(), expected);
}

/// App id of the recorded fixture, and the KMS key that was recovered from its link.
fn fixture(test: &str) -> ([u8; 20], KmsRoot) {
    let derivation = vectors::json(test, "dstack/key_derivation.json").unwrap();
    let link = &derivation["kms_link_of_the_fixture"];
    let root = vectors::hex(link, "signer_recovered_with_that_app_id");
    let app_id = vectors::hex(link, "app_id_in_fixture_attestation");
    (app_id, KmsRoot::Public(root))
}

/// Arguments as the agent understands them: missing ones are empty, an empty algorithm is secp256k1, k256 too.
fn arguments(body: &Value) -> (String, String, String) {
    let of = |name: &str| body[name].as_str().unwrap_or("").to_owned();
    let algorithm = match of("algorithm").as_str() {
        "" | "k256" => "secp256k1".to_owned(),
        other => other.to_owned(),
    };
    (of("path"), of("purpose"), algorithm)
}

/// Good JSON requests with an object as body: what our client could have sent.
fn asked_in_json(case: &Case) -> Option<Value> {
    let body = serde_json::from_str(case.request["body_text"].as_str()?).ok()?;
    let json = case.request["headers"]["Content-Type"] == "application/json";
    let good = case.status == 200 && case.request["method"] == "POST";
    (good && json && Value::is_object(&body)).then_some(body)
}

#[tokio::test]
async fn asked_as_recorded_the_client_gets_the_recorded_keys_and_their_chains_hold() {
    let test = "asked_as_recorded_the_client_gets_the_recorded_keys_and_their_chains_hold";
    let Some(cases) = cases(test, "get_key") else {
        return;
    };
    let (app_id, root) = fixture(test);
    let asked: Vec<(Value, Case)> = cases
        .into_iter()
        .filter_map(|case| Some((asked_in_json(&case)?, case)))
        .collect();
    let known = asked.clone();
    let replay = replay(move |path, body| {
        assert_eq!(path, "/GetKey");
        let same = |(recorded, _): &&(Value, Case)| arguments(recorded) == arguments(body);
        known.iter().find(same).unwrap().1.raw.clone()
    });
    let mut held = 0;
    for (body, case) in &asked {
        let (path, purpose, algorithm) = arguments(body);
        if algorithm != "secp256k1" {
            continue; // our client never asks so
        }
        let key = replay.agent.key(&path, &purpose).await.unwrap();
        let recorded: Value = serde_json::from_slice(&case.body).unwrap();
        assert_eq!(
            hex::encode(key.secret.expose()),
            recorded["key"],
            "{}",
            case.name
        );
        let (public, chain) = (key.public_compressed(), &key.signature_chain);
        let verify = |purpose: &str| keychain::verify(&public, purpose, &app_id, chain, &root);
        assert!(verify(&purpose).is_ok(), "{}", case.name);
        assert!(verify(&format!("{purpose}x")).is_err(), "{}", case.name);
        held += 1;
    }
    assert_eq!(held, 18);
    for head in replay.heads.lock().unwrap().iter() {
        assert!(head.starts_with("POST /GetKey HTTP/1.1\r\n"), "{head}");
        let json = "content-type: application/json";
        assert_eq!(head.to_lowercase().matches(json).count(), 1, "{head}");
        assert!(head.to_lowercase().contains("host: localhost"), "{head}");
    }
}

#[tokio::test]
async fn the_chain_of_a_recorded_ed25519_key_is_not_taken_for_that_of_our_key() {
    let test = "the_chain_of_a_recorded_ed25519_key_is_not_taken_for_that_of_our_key";
    let Some(cases) = cases(test, "get_key") else {
        return;
    };
    let (app_id, root) = fixture(test);
    // an old agent ignores the algorithm it does not know; the same bytes, another claim
    let case = cases
        .iter()
        .find(|case| case.name == "alg_ed25519")
        .unwrap();
    let key = always(&case.raw).agent.key("p", "q").await.unwrap();
    let (public, chain) = (key.public_compressed(), &key.signature_chain);
    let result = keychain::verify(&public, "mainnet", &app_id, chain, &root);
    assert!(
        matches!(result, Err(ChainRefused::OtherRoot { .. })),
        "{result:?}"
    );
}

/// Real machines: their file, its report data, and whether the agent stripped the digests of its runtime events.
const MACHINES: [(&str, bool); 2] = [
    ("dstack-f-getquote", false),
    ("dstack-g-lite-getquote", true),
];

#[tokio::test]
async fn quotes_of_real_machines_are_accepted_with_their_event_logs_as_they_are() {
    let test = "quotes_of_real_machines_are_accepted_with_their_event_logs_as_they_are";
    for (file, stripped) in MACHINES {
        let Some(answer) = vectors::json(test, &format!("tdx/{file}.json")) else {
            return;
        };
        let asked: [u8; 64] = vectors::hex(&answer, "report_data");
        let expected = hex::encode(asked);
        let (whole, path_asked) = (answer.clone(), expected.clone());
        let replay = replay(move |path, body| {
            assert_eq!(
                (path, text(body, "report_data")),
                ("/GetQuote", &*path_asked)
            );
            ok(&whole)
        });
        let quote = replay.agent.quote(&asked).await.unwrap();
        assert_eq!(hex::encode(&quote.bytes), answer["quote"], "{file}");
        assert_eq!(quote.event_log, answer["event_log"], "{file}");
        assert_eq!(quote.vm_config, answer["vm_config"], "{file}");
        let log: Vec<Value> = serde_json::from_str(&quote.event_log).unwrap();
        let mut runtime = log.iter().filter(|event| event["imr"] == 3);
        assert_eq!(
            runtime.all(|event| event["digest"] == ""),
            stripped,
            "{file}"
        );
    }
}

/// Name, what is done to a good answer, and the error that must come of it.
type Lie = (&'static str, fn(&mut Value), &'static str);

const LIES: [Lie; 17] = [
    (
        "echo of other data",
        |a| edit(a, "report_data", |t| flip(t, 127)),
        "other echo",
    ),
    (
        "a quote over other data",
        |a| edit(a, "quote", |t| flip(t, 2 * 568)),
        "other quote",
    ),
    (
        "the same, last byte",
        |a| edit(a, "quote", |t| flip(t, 2 * 632 - 1)),
        "other quote",
    ),
    (
        "echo too short",
        |a| edit(a, "report_data", |t| t.truncate(126)),
        "malformed",
    ),
    (
        "echo in capitals",
        |a| edit(a, "report_data", |t| *t = format!("AB{}", &t[2..])),
        "malformed",
    ),
    (
        "echo with 0x",
        |a| edit(a, "report_data", |t| t.insert_str(0, "0x")),
        "malformed",
    ),
    (
        "no echo",
        |a| drop(a.as_object_mut().unwrap().remove("report_data")),
        "malformed",
    ),
    ("no quote", |a| a["quote"] = json!(""), "malformed"),
    (
        "a quote cut inside its report data",
        |a| edit(a, "quote", |t| t.truncate(2 * 631)),
        "malformed",
    ),
    (
        "half a byte",
        |a| edit(a, "quote", |t| t.truncate(t.len() - 1)),
        "malformed",
    ),
    (
        "a quote with 0x",
        |a| edit(a, "quote", |t| t.insert_str(0, "0x")),
        "malformed",
    ),
    (
        "a quote that says version 5",
        |a| edit(a, "quote", |t| t.replace_range(..2, "05")),
        "malformed",
    ),
    (
        "a quote that says version 260",
        |a| edit(a, "quote", |t| t.replace_range(2..4, "01")),
        "malformed",
    ),
    (
        "a log that is no text",
        |a| a["event_log"] = json!([]),
        "malformed",
    ),
    (
        "no log",
        |a| drop(a.as_object_mut().unwrap().remove("event_log")),
        "malformed",
    ),
    ("no machine", |a| a["vm_config"] = Value::Null, "malformed"),
    ("a list", |a| *a = json!([]), "malformed"),
];

fn edit(answer: &mut Value, field: &str, change: impl FnOnce(&mut String)) {
    let mut text = answer[field].as_str().unwrap().to_owned();
    change(&mut text);
    answer[field] = json!(text);
}

/// Another digit at this place.
fn flip(text: &mut String, at: usize) {
    let other = if &text[at..=at] == "0" { "1" } else { "0" };
    text.replace_range(at..=at, other);
}

#[tokio::test]
async fn a_real_answer_with_one_lie_in_it_is_refused() {
    let test = "a_real_answer_with_one_lie_in_it_is_refused";
    let mut refused = 0;
    for (file, _) in MACHINES {
        let Some(good) = vectors::json(test, &format!("tdx/{file}.json")) else {
            return;
        };
        let asked: [u8; 64] = vectors::hex(&good, "report_data");
        for (name, lie, expected) in LIES {
            let mut answer = good.clone();
            lie(&mut answer);
            let found = match always(&ok(&answer)).agent.quote(&asked).await {
                Err(AgentError::OtherReportData { place: "echo", .. }) => "other echo",
                Err(AgentError::OtherReportData { place: "quote", .. }) => "other quote",
                Err(AgentError::Malformed { .. }) => "malformed",
                Err(other) => panic!("{file}, {name}: {other}"),
                Ok(_) => "accepted",
            };
            assert_eq!(found, expected, "{file}, {name}");
            refused += 1;
        }
    }
    assert_eq!(refused, 2 * LIES.len());
}

#[test]
fn a_quote_of_version_5_is_refused_by_its_number() {
    let test = "a_quote_of_version_5_is_refused_by_its_number";
    let Some(quote) = vectors::bytes(test, "tdx/quote-b-v5-td15.bin") else {
        return;
    };
    let asked = [0; 64];
    let answer = json!({
        "quote": hex::encode(quote), "event_log": "[]", "report_data": hex::encode(asked), "vm_config": "{}",
    });
    let error = fuzz::quote(answer.to_string().as_bytes(), &asked).unwrap_err();
    assert!(error.to_string().contains("version 5"), "{error}");
}

#[test]
fn no_beginning_of_a_recorded_answer_is_accepted_and_nothing_after_its_end() {
    let test = "no_beginning_of_a_recorded_answer_is_accepted_and_nothing_after_its_end";
    /// Whether the body is taken for an answer.
    type Taken = fn(&[u8]) -> bool;
    let files: [(&str, usize, Taken); 4] = [
        ("version", 1, |body| fuzz::version(body, "").is_ok()),
        ("get_key", 1, |body| fuzz::key(body).is_ok()),
        ("info", 101, |body| fuzz::info(body).is_ok()),
        ("get_quote", 101, |body| {
            fuzz::quote(body, &std::array::from_fn(|i| i as u8)).is_ok()
        }),
    ];
    for (file, step, taken) in files {
        let Some(cases) = cases(test, file) else {
            return;
        };
        let whole = &cases[0].body;
        assert!(taken(whole), "{file}");
        for length in (0..whole.len()).step_by(step) {
            assert!(!taken(&whole[..length]), "{file}, {length} bytes");
        }
        for after in [&b"{}"[..], b"x", b"\0"] {
            assert!(!taken(&[whole, after].concat()), "{file}, {after:?}");
        }
    }
}
