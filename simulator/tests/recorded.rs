//! Every recorded question, asked again: the simulator against what a real agent of version 0.5.11 answered.
//!
//! In a world with the keys of the public fixture, whatever depends on the question alone has to be byte-equal, head
//! and body; the rest has to have the recorded shape. What differs on purpose is listed here by name with its reason.
//! The recordings are looked up by `SYNOD_VECTORS` or beside the project; the simulator itself never sees them.

#![allow(clippy::unwrap_used)] // a test says what it expects by failing

#[path = "recorded/binary.rs"]
mod binary;
#[path = "recorded/cases.rs"]
mod cases;
#[path = "recorded/shape.rs"]
mod shape;

use cases::{Case, Recorded, Reply, text};
use dstack_simulator::{
    AppCa, AppKeys, EventLog, InstanceConfig, Running, World, WorldSpec, serve,
};
use std::{collections::BTreeMap, io::Write as _, path::Path, sync::Arc};

/// All recordings of version 0.5.11. A new one stops the test until somebody says what to do with it.
const FILES: [&str; 14] = [
    "attest.json",
    "emit_event.json",
    "get_key.json",
    "get_quote.json",
    "get_tls_key.json",
    "gpu_info.json",
    "info.json",
    "protobuf.json",
    "sign.json",
    "tappd.json",
    "transport.json",
    "verify.json",
    "version.json",
    "worker_external.json",
];

/// Recorded, but of a listener that the simulator does not have: TCP port 8090 of a guest, which serves no keys.
const OUTSIDE: &str = "worker_external.json";

/// Differs on purpose: file, case, reason.
const DIFFERENT: [(&str, &str, &str); 1] = [(
    "transport.json",
    "v0_prefix",
    "later agents serve the same methods at /v0/, and so does the simulator; 0.5.11 has a 404 there",
)];

/// Of the raw conversations, which were recorded from a later agent on the same HTTP library.
const DIFFERENT_EDGES: [(&str, &str); 1] = [(
    SILENT,
    "connections are few, so one that never says anything is closed like an idle one; a real agent keeps it",
)];

#[derive(Default)]
struct Counts {
    matched: usize,
    by_shape: usize,
    different: usize,
}

/// What became of one case.
enum Outcome {
    Matched,
    ByShape,
    Different,
}

/// A served guest of the fixture's world.
struct Fixture {
    running: Running,
    _dir: tempfile::TempDir,
}

impl Fixture {
    async fn start(vectors: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let world = World::build(fixture_world(vectors)).unwrap();
        let mut config = InstanceConfig::new(dir.path().join("dstack.sock"), [1; 32]);
        config.tappd = Some(dir.path().join("tappd.sock"));
        config.traits.event_log = EventLog::Full; // as the recorded agent, which is the official simulator
        let running = serve(Arc::new(world), vec![config]).await.unwrap();
        Self { running, _dir: dir }
    }

    fn socket(&self, name: &str) -> &Path {
        let served = self.running.served().next().unwrap();
        match name {
            "dstack" => served.socket,
            "tappd" => served.tappd.unwrap(),
            other => panic!("no socket {other}"),
        }
    }
}

/// The fixture's keys, certificates, app and compose text; quotes stay under the simulator's own root.
fn fixture_world(vectors: &Path) -> WorldSpec {
    let fixture = cases::json(vectors.join("fixture.json"));
    let keys = &fixture["appkeys"];
    let info: serde_json::Value =
        serde_json::from_slice(cases::cases(vectors.join("v0.5.11/info.json"))[0].bytes()).unwrap();
    let tcb_info: serde_json::Value = serde_json::from_str(&text(&info["tcb_info"])).unwrap();
    let bytes = |value| hex::decode(text(value)).unwrap();
    WorldSpec {
        compose: text(&tcb_info["app_compose"]), // without the line end that the fixture has today
        app_id: Some(bytes(&info["app_id"]).try_into().unwrap()),
        app_keys: Some(AppKeys {
            root: <[u8; 32]>::try_from(bytes(&keys["k256_key"]))
                .unwrap()
                .into(),
            link: bytes(&keys["k256_signature"]),
        }),
        app_ca: Some(AppCa {
            certificates: text(&keys["ca_cert"]),
            key: text(&keys["key_provider"]["None"]["key"]).into(),
        }),
        ..WorldSpec::new([1; 32])
    }
}

#[tokio::test]
async fn every_recorded_case_is_answered_as_recorded() {
    let Some(vectors) = cases::vectors("every_recorded_case_is_answered_as_recorded") else {
        return;
    };
    let mut found: Vec<String> = std::fs::read_dir(vectors.join("v0.5.11"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert_eq!(found, FILES);

    let fixture = Fixture::start(&vectors).await;
    let quoted = cases::cases(vectors.join("v0.5.11/get_quote.json"));
    let (mut table, mut faults, mut different) = (BTreeMap::new(), Vec::new(), Vec::new());
    for file in FILES.into_iter().filter(|file| *file != OUTSIDE) {
        let cases = cases::cases(vectors.join("v0.5.11").join(file));
        let mut counts = Counts::default();
        let mut answered = BTreeMap::new();
        for case in &cases {
            let outcome = match cases::ask(fixture.socket(&case.socket), &case.request).await {
                Ok(reply) => answered.entry(case.name.clone()).or_insert(reply),
                Err(fault) => {
                    faults.push(format!("{file} {}: {fault}", case.name));
                    continue;
                }
            };
            match judge(file, case, &cases, &quoted[0], outcome) {
                Ok(Outcome::Matched) => counts.matched += 1,
                Ok(Outcome::ByShape) => counts.by_shape += 1,
                Ok(Outcome::Different) => {
                    counts.different += 1;
                    different.push((file, case.name.clone()));
                }
                Err(fault) => faults.push(format!("{file} {}: {fault}", case.name)),
            }
        }
        assert!(
            counts.matched + counts.by_shape + counts.different + faults.len() >= cases.len(),
            "a case of {file} was left out"
        );
        table.insert(file, (counts, cases.len()));
    }
    print(
        &table,
        cases::cases(vectors.join("v0.5.11").join(OUTSIDE)).len(),
    );
    assert!(
        faults.is_empty(),
        "{} differ:\n{}",
        faults.len(),
        faults.join("\n")
    );
    for (file, (counts, all)) in &table {
        assert_eq!(
            counts.matched + counts.by_shape + counts.different,
            *all,
            "{file}"
        );
    }
    let listed: Vec<_> = DIFFERENT
        .iter()
        .map(|(file, name, _)| (*file, (*name).to_owned()))
        .collect();
    assert_eq!(
        different, listed,
        "what differs and what is listed as different"
    );
}

/// Compares head and body.
fn judge(
    file: &str,
    case: &Case,
    cases: &[Case],
    first_quote: &Case,
    reply: &Reply,
) -> Result<Outcome, String> {
    if DIFFERENT
        .iter()
        .any(|(of, name, _)| (*of, *name) == (file, case.name.as_str()))
    {
        return differs(case, cases, reply);
    }
    if reply.status_line != case.status_line {
        let body = String::from_utf8_lossy(&reply.body);
        return Err(format!(
            "expected {}, found {}: {body}",
            case.status_line, reply.status_line
        ));
    }
    let equal = matches!(&case.answer, Recorded::Bytes(bytes) if *bytes == reply.body);
    let (mut expected, mut found) = (case.headers.clone(), reply.headers.clone());
    if found.remove("date").is_none() {
        return Err("expected a date".into());
    }
    if !equal && case.is_success() {
        let length = found.remove("content-length").unwrap_or_default();
        expected.remove("content-length");
        if length != reply.body.len().to_string() {
            return Err(format!(
                "expected content-length {}, found {length}",
                reply.body.len()
            ));
        }
    }
    if expected != found {
        return Err(format!("expected headers {expected:?}, found {found:?}"));
    }
    match (&case.answer, equal) {
        (_, true) => Ok(Outcome::Matched),
        (_, false) if case.is_success() => {
            let first = match case.method.as_str() {
                "GetQuote" | "TdxQuote" | "RawQuote" => first_quote,
                "Info" => cases.iter().find(|first| first.method == "Info").unwrap(),
                _ => &cases[0],
            };
            shape::compare(case, first, reply).map(|()| Outcome::ByShape)
        }
        (Recorded::Bytes(bytes), false) => Err(format!(
            "expected {:?}, found {:?}",
            String::from_utf8_lossy(bytes),
            String::from_utf8_lossy(&reply.body)
        )),
        (Recorded::Abbreviated(..), false) => Err("a refusal is recorded in short form".into()),
    }
}

/// The one that is listed: `/v0/GetKey` with `{}` has the answer of `//GetKey` with `{}`.
fn differs(case: &Case, cases: &[Case], reply: &Reply) -> Result<Outcome, String> {
    let same = cases
        .iter()
        .find(|other| other.name == "double_slash")
        .unwrap();
    if reply.status_line == case.status_line {
        return Err("is listed as different, but is as recorded".into());
    }
    match reply.body == same.bytes() {
        true => Ok(Outcome::Different),
        false => Err(format!("expected the answer of {}", same.name)),
    }
}

fn print(table: &BTreeMap<&str, (Counts, usize)>, outside: usize) {
    let mut lines = vec![format!(
        "{:<22}{:>8}{:>10}{:>11}{:>7}",
        "", "matched", "by shape", "different", "cases"
    )];
    let mut sum = [0; 4];
    for (file, (counts, all)) in table {
        let row = [counts.matched, counts.by_shape, counts.different, *all];
        sum = [0, 1, 2, 3].map(|n| sum[n] + row[n]);
        lines.push(format!(
            "{file:<22}{:>8}{:>10}{:>11}{:>7}",
            row[0], row[1], row[2], row[3]
        ));
    }
    lines.push(format!(
        "{:<22}{:>8}{:>10}{:>11}{:>7}",
        "sum", sum[0], sum[1], sum[2], sum[3]
    ));
    for (file, name, reason) in DIFFERENT {
        lines.push(format!("different: {file} {name}: {reason}"));
    }
    lines.push(format!(
        "outside: {OUTSIDE}, {outside} cases: the external listener is not part of the simulator"
    ));
    writeln!(std::io::stderr(), "{}", lines.join("\n")).ok();
}

/// Two cases are waits instead of conversations.
const IDLE: &str = "idle_keep_alive_closed_after_seconds";
const SILENT: &str = "no_request_sent_closed_after_seconds";
/// After so many seconds a real agent closes an idle connection.
const IDLE_SECONDS: f64 = 15.0;
/// What a raw conversation ended with.
const STILL_OPEN: &str = "<still open>";
const CLOSED: &str = "<EOF>";

#[tokio::test]
async fn raw_conversations_go_as_recorded() {
    let Some(vectors) = cases::vectors("raw_conversations_go_as_recorded") else {
        return;
    };
    let fixture = Fixture::start(&vectors).await;
    let recorded = cases::json(vectors.join("http_edge.json"));
    let all = recorded["cases"].as_array().unwrap();
    let version = b"GET /Version HTTP/1.1\r\nHost: x\r\n\r\n";
    let (idle, silent) = tokio::join!(closes(&fixture, version), closes(&fixture, b""));
    let (mut matched, mut different) = (0, Vec::new());
    for case in all {
        let name = text(&case["name"]);
        let fault = match (case["sent"].as_str(), name.as_str()) {
            (Some(sent), _) => conversation(&fixture, &name, sent, &text(&case["received"])).await,
            (None, IDLE) => {
                assert_eq!(case["value"], 15.0, "{case}");
                idle.clone()
            }
            (None, SILENT) => {
                assert!(case["value"].is_null(), "{case}");
                different.push(name.clone());
                silent.clone()
            }
            (None, other) => Err(format!("unknown case {other}")),
        };
        fault.unwrap_or_else(|fault| panic!("{name}: {fault}"));
        if different.last() != Some(&name) {
            matched += 1;
        }
    }
    let listed: Vec<String> = DIFFERENT_EDGES
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    assert_eq!(
        (different, matched),
        (listed, all.len() - DIFFERENT_EDGES.len())
    );
    let mut stderr = std::io::stderr();
    writeln!(
        stderr,
        "http_edge.json: {} as recorded, {} different",
        matched,
        DIFFERENT_EDGES.len()
    )
    .ok();
    for (name, reason) in DIFFERENT_EDGES {
        writeln!(stderr, "different: http_edge.json {name}: {reason}").ok();
    }
}

/// Sends what was sent and compares what comes: each answer byte for byte but for date, order of headers, and the
/// version (these were recorded from a later agent); then whether the connection is open.
async fn conversation(
    fixture: &Fixture,
    name: &str,
    sent: &str,
    received: &str,
) -> Result<(), String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let half_close = matches!(
        name,
        "short_body_half_close" | "client_half_close_after_request"
    );
    let sent = match name {
        "client_half_close_after_request" => {
            "POST /Version HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
        }
        _ => sent,
    };
    let (expected, end) = match received.strip_suffix(STILL_OPEN) {
        Some(expected) => (expected, STILL_OPEN),
        None => (received.strip_suffix(CLOSED).unwrap(), CLOSED),
    };
    let expected = expected
        .replace(
            r#"{"version":"0.6.0","rev":"git:312dc605ebaaf9337253"}"#,
            r#"{"version":"0.5.11","rev":"unknown"}"#,
        )
        .replace("content-length: 52", "content-length: 36");

    let mut stream = tokio::net::UnixStream::connect(fixture.socket("dstack"))
        .await
        .unwrap();
    stream.write_all(sent.as_bytes()).await.unwrap();
    if half_close {
        stream.shutdown().await.unwrap();
    }
    let mut found = Vec::new();
    let complete = async {
        while found.len() < expected.len() {
            if stream.read_buf(&mut found).await.unwrap() == 0 {
                break;
            }
        }
    };
    let deadline = std::time::Duration::from_secs(20);
    if tokio::time::timeout(deadline, complete).await.is_err() {
        return Err(format!(
            "expected {expected:?}, found {:?}",
            String::from_utf8_lossy(&found)
        ));
    }
    same_answers(expected.as_bytes(), &found)?;
    if end == CLOSED {
        let read = tokio::time::timeout(deadline, stream.read(&mut [0])).await;
        return match read {
            Ok(Ok(0)) => Ok(()),
            other => Err(format!("expected the end, found {other:?}")),
        };
    }
    // open means: it still answers
    stream
        .write_all(b"GET /Version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut more = Vec::new();
    match tokio::time::timeout(deadline, stream.read_to_end(&mut more)).await {
        Ok(Ok(_)) if more.starts_with(b"HTTP/1.") => Ok(()),
        other => Err(format!("expected an open connection, found {other:?}")),
    }
}

fn same_answers(mut expected: &[u8], mut found: &[u8]) -> Result<(), String> {
    while !expected.is_empty() {
        let (mut a, rest_a) = Reply::split(expected)?;
        let (mut b, rest_b) = Reply::split(found)?;
        let dated = (
            a.headers.remove("date").is_some(),
            b.headers.remove("date").is_some(),
        );
        let (all_a, all_b) = (
            (a.status_line, a.headers, a.body),
            (b.status_line, b.headers, b.body),
        );
        if all_a != all_b || dated.0 != dated.1 {
            return Err(format!("expected {all_a:?}, found {all_b:?}"));
        }
        (expected, found) = (rest_a, rest_b);
    }
    match found {
        [] => Ok(()),
        more => Err(format!("{} bytes too many", more.len())),
    }
}

/// Waits until the server closes; it must not do so earlier than a real agent.
async fn closes(fixture: &Fixture, first: &[u8]) -> Result<(), String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::UnixStream::connect(fixture.socket("dstack"))
        .await
        .unwrap();
    stream.write_all(first).await.unwrap();
    let since = tokio::time::Instant::now();
    let mut rest = Vec::new();
    let end = stream.read_to_end(&mut rest);
    match tokio::time::timeout(std::time::Duration::from_secs(90), end).await {
        Ok(Ok(_)) if since.elapsed().as_secs_f64() > IDLE_SECONDS - 0.5 => Ok(()),
        Ok(Ok(_)) => Err(format!(
            "expected to be closed after {IDLE_SECONDS} s, was after {:?}",
            since.elapsed()
        )),
        other => Err(format!("expected to be closed, found {other:?}")),
    }
}
