//! One call with a request that is well-formed up to its arguments: a letter for the method (see `METHODS`, from `A`), a
//! letter for the encoding (`j` JSON, `q` query, anything else protobuf), then the arguments. There is exactly one
//! answer, 200 or 400, in the encoding of the request; a refusal says why; an answer that must repeat itself does.

#![no_main]

use dstack_simulator::Surface;
use libfuzzer_sys::{Corpus, fuzz_target};
use serde_json::Value;
use synod_fuzz::{Answer, End, answers, converse};

const METHODS: &[(Surface, &str)] = &[
    (Surface::Dstack, "/GetKey"),
    (Surface::Dstack, "/GetQuote"),
    (Surface::Dstack, "/Info"),
    (Surface::Dstack, "/Version"),
    (Surface::Dstack, "/GetTlsKey"),
    (Surface::Dstack, "/Attest"),
    (Surface::Dstack, "/EmitEvent"),
    (Surface::Dstack, "/v0/Sign"),
    (Surface::Dstack, "/Verify"),
    (Surface::Tappd, "/prpc/DeriveKey"),
    (Surface::Tappd, "/prpc/Tappd.DeriveK256Key"),
    (Surface::Tappd, "/prpc/TdxQuote"),
    (Surface::Tappd, "/prpc/RawQuote"),
    (Surface::Tappd, "/prpc/Info"),
    (Surface::Tappd, "/prpc/Tappd.Version"),
];
/// Their answers contain fresh keys or signatures.
const RANDOM: &[&str] = &[
    "/GetQuote",
    "/GetTlsKey",
    "/Attest",
    "/prpc/DeriveKey",
    "/prpc/TdxQuote",
    "/prpc/RawQuote",
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Json,
    Query,
    Protobuf,
}

fuzz_target!(|input: &[u8]| -> Corpus {
    let [method, encoding, arguments @ ..] = input else {
        return Corpus::Reject;
    };
    let Some((surface, path)) = METHODS.get(usize::from(method.wrapping_sub(b'A'))) else {
        return Corpus::Reject;
    };
    let encoding = match encoding {
        b'j' => Encoding::Json,
        b'q' => Encoding::Query,
        _ => Encoding::Protobuf,
    };
    let request = request(path, encoding, arguments);
    let answer = ask(*surface, &request);
    match encoding {
        Encoding::Json | Encoding::Query => check_json(&answer, path),
        // the method is known and the request complete, so even a refusal is protobuf
        Encoding::Protobuf => assert_eq!(answer.kind, "application/octet-stream"),
    }
    if !RANDOM.contains(path) {
        let again = ask(*surface, &request);
        assert_eq!(
            (answer.status, answer.body),
            (again.status, again.body),
            "the same question, two answers"
        );
    }
    Corpus::Keep
});

fn request(path: &str, encoding: Encoding, arguments: &[u8]) -> Vec<u8> {
    let kind = match encoding {
        Encoding::Query => {
            return format!(
                "GET {path}?{} HTTP/1.1\r\nHost: a\r\n\r\n",
                as_query(arguments)
            )
            .into_bytes();
        }
        Encoding::Json => "Content-Type: application/json\r\n",
        Encoding::Protobuf => "",
    };
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: a\r\n{kind}Content-Length: {}\r\n\r\n",
        arguments.len()
    );
    [head.as_bytes(), arguments].concat()
}

/// What may stand in a target stays, the rest is escaped; a `%` stays too, so broken escapes are tried.
fn as_query(arguments: &[u8]) -> String {
    let one = |byte: &u8| match byte {
        b'a'..=b'z'
        | b'A'..=b'Z'
        | b'0'..=b'9'
        | b'&'
        | b'='
        | b'%'
        | b'+'
        | b'['
        | b']'
        | b'_'
        | b'.'
        | b'/' => char::from(*byte).to_string(),
        other => format!("%{other:02x}"),
    };
    arguments.iter().map(one).collect()
}

fn ask(surface: Surface, request: &[u8]) -> Answer {
    let heard = converse(surface, request, End::HalfClose);
    let mut all = answers(&heard, false);
    assert_eq!(all.len(), 1, "expected one answer, found {all:?}");
    let answer = all.remove(0);
    assert!(
        matches!(answer.status, 200 | 400),
        "expected 200 or 400, found {answer:?}"
    );
    answer
}

fn check_json(answer: &Answer, path: &str) {
    assert_eq!(answer.kind, "application/json");
    let json: Value = serde_json::from_slice(&answer.body).unwrap_or_else(|why| {
        panic!(
            "expected JSON, found {why} in {}",
            answer.body.escape_ascii()
        )
    });
    let hex_field = |name: &str, digits: usize| {
        let text = json[name]
            .as_str()
            .unwrap_or_else(|| panic!("expected the text {name} in {json}"));
        let is_hex = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        assert!(
            is_hex && text.len() == digits,
            "expected {digits} hex digits in {name}, found {text:?}"
        );
    };
    match (answer.status, path) {
        (400, _) => assert!(
            json["error"].as_str().is_some_and(|why| !why.is_empty()),
            "a refusal without a reason: {json}"
        ),
        (_, "/GetKey") => hex_field("key", 64),
        (_, "/GetQuote" | "/prpc/TdxQuote" | "/prpc/RawQuote") => {
            let quote = json["quote"].as_str().unwrap_or_default();
            assert!(
                quote.len() > 2 * 632 && quote.len().is_multiple_of(2),
                "expected a quote, found {quote:?}"
            );
        }
        (_, "/v0/Sign") => hex_field("signature", 128),
        (_, "/Verify") => assert!(
            json["valid"].is_boolean(),
            "expected a verdict, found {json}"
        ),
        _ => assert!(json.is_object(), "expected an object, found {json}"),
    }
}
