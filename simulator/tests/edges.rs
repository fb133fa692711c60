//! What no recording shows: protobuf answers of all methods, `/v0/`, content types and body sizes at the edge.

#![allow(clippy::unwrap_used)] // a test says what it expects by failing

use dstack_simulator::{Guest, Surface, Traits, World, WorldSpec};
use serde_json::Value;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn guest() -> Guest {
    let world = World::build(WorldSpec::new([7; 32])).unwrap();
    Guest::boot(Arc::new(world), &[8; 32], Traits::default())
}

/// Status, content type and body of an answer.
struct Reply {
    status: u16,
    kind: String,
    body: Vec<u8>,
}

impl Reply {
    fn json(&self) -> Value {
        assert_eq!(
            (self.status, &self.kind[..]),
            (200, "application/json"),
            "{}",
            self.body.escape_ascii()
        );
        serde_json::from_slice(&self.body).unwrap()
    }
}

async fn ask(guest: &Guest, surface: Surface, head: &str, body: &[u8]) -> Reply {
    let head = format!(
        "{head}Host: x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let request = [head.as_bytes(), body].concat();
    let (client, server) = tokio::io::duplex(64 * 1024);
    let (mut from, mut to) = tokio::io::split(client);
    let conversation = async {
        let mut answer = Vec::new();
        // a server that refuses early may close before it has read everything
        let (_, read) = tokio::join!(to.write_all(&request), from.read_to_end(&mut answer));
        read.unwrap();
        answer
    };
    let ((), answer) = tokio::join!(guest.converse(server, surface), conversation);
    let end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap();
    let head = std::str::from_utf8(&answer[..end]).unwrap();
    Reply {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        kind: head
            .lines()
            .find_map(|line| line.strip_prefix("content-type: "))
            .unwrap()
            .to_owned(),
        body: answer[end + 4..].to_vec(),
    }
}

async fn json(guest: &Guest, surface: Surface, path: &str, body: &str) -> Reply {
    let head = format!("POST {path} HTTP/1.1\r\nContent-Type: application/json\r\n");
    ask(guest, surface, &head, body.as_bytes()).await
}

async fn protobuf(guest: &Guest, surface: Surface, path: &str, body: &[u8]) -> Reply {
    ask(guest, surface, &format!("POST {path} HTTP/1.1\r\n"), body).await
}

/// Fields of a protobuf message that has lengths and numbers only, as they come.
fn fields(mut message: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let key = varint(&mut message);
        let value = match key & 7 {
            0 => vec![u8::try_from(varint(&mut message)).unwrap()],
            2 => {
                let length = usize::try_from(varint(&mut message)).unwrap();
                message.split_off(..length).unwrap().to_vec()
            }
            other => panic!("wire type {other}"),
        };
        fields.push((key >> 3, value));
    }
    fields
}

fn varint(message: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let byte = *message.split_off_first().unwrap();
        value |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            break;
        }
    }
    value
}

/// One field of a protobuf message.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    [
        &[number << 3 | 2, u8::try_from(value.len()).unwrap()],
        value,
    ]
    .concat()
}

#[derive(Clone, Copy)]
enum Kind {
    Hex,
    Text,
    Bool,
}

/// A JSON answer as the fields that protobuf has; what is empty, zero or false is left out there.
fn expected(answer: &Value, numbers: &[(u64, &str, Kind)]) -> Vec<(u64, Vec<u8>)> {
    assert_eq!(answer.as_object().unwrap().len(), numbers.len(), "{answer}");
    let one = |value: &Value, kind: Kind| match kind {
        Kind::Hex => hex::decode(value.as_str().unwrap()).unwrap(),
        Kind::Text => value.as_str().unwrap().as_bytes().to_vec(),
        Kind::Bool => value.as_bool().unwrap().then_some(1).into_iter().collect(),
    };
    let mut fields = Vec::new();
    for (number, name, kind) in numbers {
        match &answer[*name] {
            Value::Array(list) => {
                fields.extend(list.iter().map(|value| (*number, one(value, *kind))))
            }
            value => fields
                .extend(Some((*number, one(value, *kind))).filter(|(_, value)| !value.is_empty())),
        }
    }
    fields
}

const INFO: [(u64, &str, Kind); 13] = [
    (1, "app_id", Kind::Hex),
    (2, "instance_id", Kind::Hex),
    (3, "app_cert", Kind::Text),
    (4, "tcb_info", Kind::Text),
    (5, "app_name", Kind::Text),
    (8, "device_id", Kind::Hex),
    (9, "mr_aggregated", Kind::Hex),
    (10, "os_image_hash", Kind::Hex),
    (12, "key_provider_info", Kind::Text),
    (13, "compose_hash", Kind::Hex),
    (14, "vm_config", Kind::Text),
    (15, "cloud_vendor", Kind::Text),
    (16, "cloud_product", Kind::Text),
];
const KEY: [(u64, &str, Kind); 2] = [(1, "key", Kind::Hex), (2, "signature_chain", Kind::Hex)];
const QUOTE: [(u64, &str, Kind); 4] = [
    (1, "quote", Kind::Hex),
    (2, "event_log", Kind::Text),
    (3, "report_data", Kind::Hex),
    (4, "vm_config", Kind::Text),
];
const SIGNED: [(u64, &str, Kind); 3] = [
    (1, "signature", Kind::Hex),
    (2, "signature_chain", Kind::Hex),
    (3, "public_key", Kind::Hex),
];
const VERSION: [(u64, &str, Kind); 2] = [(1, "version", Kind::Text), (2, "rev", Kind::Text)];
const K256_KEY: [(u64, &str, Kind); 2] = [
    (1, "k256_key", Kind::Hex),
    (2, "k256_signature_chain", Kind::Hex),
];
const TDX_QUOTE: [(u64, &str, Kind); 4] = [
    (1, "quote", Kind::Hex),
    (2, "event_log", Kind::Text),
    (3, "hash_algorithm", Kind::Text),
    (4, "prefix", Kind::Text),
];

/// One question in both encodings, and the numbers of its answer's fields.
struct Question {
    surface: Surface,
    path: &'static str,
    message: Vec<u8>,
    text: String,
    numbers: &'static [(u64, &'static str, Kind)],
}

/// Every method whose answer is the same each time.
fn questions(signature: &str, public: &str) -> Vec<Question> {
    let key = [field(1, b"a"), field(2, b"b"), field(3, b"ed25519")].concat();
    let key_text = r#"{"path":"a","purpose":"b","algorithm":"ed25519"}"#;
    let report_text = r#"{"report_data":"6869"}"#;
    let signing = [field(1, b"k256"), field(2, b"hi")].concat();
    let [signature_bytes, public_bytes] =
        [signature, public].map(|digits| hex::decode(digits).unwrap());
    let verifying = [
        &signing[..],
        &field(3, &signature_bytes),
        &field(4, &public_bytes),
    ]
    .concat();
    let verifying_text = format!(
        r#"{{"algorithm":"k256","data":"6869","signature":"{signature}","public_key":"{public}"}}"#
    );
    let hashed = [field(1, b"hi"), field(2, b"sha256"), field(3, b"p")].concat();
    let hashed_text = r#"{"report_data":"6869","hash_algorithm":"sha256","prefix":"p"}"#;
    let raw_text = format!(r#"{{"report_data":"{}"}}"#, "09".repeat(64));
    let on = |surface, path, message: &[u8], text: &str, numbers| Question {
        surface,
        path,
        message: message.to_vec(),
        text: text.to_owned(),
        numbers,
    };
    let (dstack, tappd) = (Surface::Dstack, Surface::Tappd);
    vec![
        on(dstack, "/GetKey", &key, key_text, &KEY),
        on(dstack, "/GetQuote", &field(1, b"hi"), report_text, &QUOTE),
        on(
            dstack,
            "/Attest",
            &field(1, b"hi"),
            report_text,
            &ATTESTATION,
        ),
        on(dstack, "/Info", &[], "", &INFO),
        on(dstack, "/Sign", &signing, SIGNING, &SIGNED),
        on(dstack, "/Verify", &verifying, &verifying_text, &VERIFIED),
        on(dstack, "/Version", &[], "", &VERSION),
        on(tappd, "/prpc/DeriveK256Key", &key, key_text, &K256_KEY),
        on(
            tappd,
            "/prpc/Tappd.TdxQuote",
            &hashed,
            hashed_text,
            &TDX_QUOTE,
        ),
        on(
            tappd,
            "/prpc/RawQuote",
            &field(1, &[9; 64]),
            &raw_text,
            &TDX_QUOTE,
        ),
        on(tappd, "/prpc/Info", &[], "", &INFO),
        on(tappd, "/prpc/Version", &[], "", &VERSION),
    ]
}

const SIGNING: &str = r#"{"algorithm":"k256","data":"6869"}"#;
const ATTESTATION: [(u64, &str, Kind); 1] = [(1, "attestation", Kind::Hex)];
const VERIFIED: [(u64, &str, Kind); 1] = [(1, "valid", Kind::Bool)];

#[tokio::test]
async fn every_method_says_the_same_in_both_encodings() {
    let guest = guest();
    let signed = json(&guest, Surface::Dstack, "/Sign", SIGNING).await.json();
    let part = |name: &str| signed[name].as_str().unwrap();
    for question in questions(part("signature"), part("public_key")) {
        let Question {
            surface,
            path,
            message,
            text,
            numbers,
        } = question;
        let answer = json(&guest, surface, path, &text).await.json();
        let reply = protobuf(&guest, surface, path, &message).await;
        assert_eq!(
            (reply.status, &reply.kind[..]),
            (200, "application/octet-stream"),
            "{path}"
        );
        assert_eq!(fields(&reply.body), expected(&answer, numbers), "{path}");
    }
}

#[tokio::test]
async fn certificates_and_refused_events_come_in_protobuf_too() {
    let guest = guest();
    // subject, a name, both usages, a validity, the app
    let wanted = [
        &field(1, b"s")[..],
        &field(2, b"a.example"),
        &[4 << 3, 1, 5 << 3, 1, 6 << 3, 1, 7 << 3, 9, 8 << 3, 1],
    ]
    .concat();
    for (surface, path, message) in [
        (Surface::Dstack, "/GetTlsKey", wanted),
        (
            Surface::Tappd,
            "/prpc/DeriveKey",
            [field(1, b"p"), field(2, b"s"), vec![7 << 3, 1]].concat(),
        ),
    ] {
        let reply = protobuf(&guest, surface, path, &message).await;
        assert_eq!(reply.status, 200, "{path}");
        let fields = fields(&reply.body);
        assert!(
            fields[0].0 == 1 && fields[0].1.starts_with(b"-----BEGIN PRIVATE KEY-----\n"),
            "{path}"
        );
        assert_eq!(
            fields.len(),
            4,
            "{path}: a key, its certificate, and two of the KMS"
        );
        for (number, pem) in &fields[1..] {
            assert!(
                *number == 2 && pem.starts_with(b"-----BEGIN CERTIFICATE-----\n"),
                "{path}"
            );
        }
    }
    let reply = protobuf(
        &guest,
        Surface::Dstack,
        "/EmitEvent",
        &[field(1, b"e"), field(2, b"x")].concat(),
    )
    .await;
    let text = b"runtime event emission is unavailable in simulator mode: e";
    assert_eq!(
        (reply.status, fields(&reply.body)),
        (400, vec![(1, text.to_vec())])
    );
    let reply = protobuf(&guest, Surface::Dstack, "/GetKey", &field(1, b"\xff")).await;
    let text = b"failed to decode Protobuf message: GetKeyArgs.path: invalid string value: data is not UTF-8 encoded";
    assert_eq!(
        (reply.status, fields(&reply.body)),
        (400, vec![(1, text.to_vec())])
    );
}

#[tokio::test]
async fn v0_has_the_same_nine_methods_as_the_root() {
    let guest = guest();
    for method in [
        "GetKey",
        "GetQuote",
        "Attest",
        "Info",
        "Sign",
        "Verify",
        "Version",
        "EmitEvent",
        "Foo",
        "GpuInfo",
    ] {
        let root = json(&guest, Surface::Dstack, &format!("/{method}"), "{}").await;
        let v0 = json(&guest, Surface::Dstack, &format!("/v0/{method}"), "{}").await;
        assert_eq!(
            (root.status, root.kind, root.body),
            (v0.status, v0.kind, v0.body),
            "{method}"
        );
    }
    let tls = json(&guest, Surface::Dstack, "/v0/GetTlsKey", "{}")
        .await
        .json();
    assert_eq!(tls["certificate_chain"].as_array().unwrap().len(), 3);
    let none = json(&guest, Surface::Tappd, "/v0/Info", "{}").await;
    assert_eq!(
        (none.status, &none.kind[..]),
        (404, "text/html; charset=utf-8")
    );
}

#[tokio::test]
async fn a_body_is_json_where_the_web_framework_reads_the_content_type_so() {
    let guest = guest();
    for (kind, is_json) in [
        ("application/json", true),
        ("Application/JSON", true),
        ("application/json; charset=utf-8", true),
        ("application/json;charset=utf-8", true),
        (r#"application/json; charset="utf-8"; a="b\";c""#, true),
        ("application/json;\ta=b ; c=d", true),
        ("application/json;", false),
        ("application/json; charset", false),
        ("application/json; charset=", false),
        ("application/json; charset=utf-8;", false),
        ("application/json; charset=utf 8", false),
        (r#"application/json; charset="utf-8"#, false),
        ("application/json ; charset=utf-8", false),
        ("application/jsonp", false),
    ] {
        let head = format!("POST /GetKey HTTP/1.1\r\nContent-Type: {kind}\r\n");
        let reply = ask(&guest, Surface::Dstack, &head, b"{}").await;
        let expected = match is_json {
            true => (200, "application/json"),
            false => (400, "application/octet-stream"),
        };
        assert_eq!((reply.status, &reply.kind[..]), expected, "{kind}");
    }
}

#[tokio::test]
async fn a_body_of_ten_mebibytes_is_read_and_one_byte_more_is_not() {
    const LIMIT: usize = 10 * 1024 * 1024;
    let guest = guest();
    let body = |length: usize| {
        format!(
            r#"{{"path":"{}"}}"#,
            "a".repeat(length - r#"{"path":""}"#.len())
        )
    };
    assert_eq!(
        json(&guest, Surface::Dstack, "/GetKey", &body(LIMIT))
            .await
            .status,
        200
    );
    let refused = json(&guest, Surface::Dstack, "/GetKey", &body(LIMIT + 1)).await;
    assert_eq!(
        (refused.status, &refused.kind[..]),
        (400, "application/octet-stream")
    );
    assert_eq!(
        fields(&refused.body),
        [(1, b"failed to read data: payload too large".to_vec())]
    );
    let flagged = json(&guest, Surface::Dstack, "/GetKey?json=1", &body(LIMIT + 1)).await;
    assert_eq!(flagged.kind, "application/json");
    assert_eq!(
        flagged.body,
        b"{\n  \"error\": \"failed to read data: payload too large\"\n}"
    );
}

#[tokio::test]
async fn a_certificate_of_the_agent_itself_is_made_once() {
    let guest = guest();
    let first = json(&guest, Surface::Dstack, "/Info", "{}").await.json();
    let again = json(&guest, Surface::Tappd, "/prpc/Info", "{}")
        .await
        .json();
    assert_eq!(first, again);
    assert_eq!(
        first["app_cert"]
            .as_str()
            .unwrap()
            .matches("BEGIN CERTIFICATE")
            .count(),
        3
    );
}

#[tokio::test]
async fn a_page_comes_after_the_body_so_that_who_still_writes_sees_it() {
    let guest = guest();
    // more than the pipe holds: a server that answers first leaves the client with half a body and no reader
    let body = vec![b'x'; 1024 * 1024];
    let head = format!(
        "PUT /GetKey HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let (mut client, server) = tokio::io::duplex(1024);
    let conversation = async {
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(&body).await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let ((), answer) = tokio::join!(guest.converse(server, Surface::Dstack), conversation);
    assert!(
        answer.starts_with(b"HTTP/1.1 404 "),
        "{}",
        answer.escape_ascii()
    );
}
