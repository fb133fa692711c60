//! What a hostile agent answers: a letter for the question (`V`ersion, `I`nfo, `K`ey, `Q`uote, `E`rror), then its body;
//! for `V` and `E` there is more before it, see `read`. Nothing panics, what is accepted has the promised shape, and a
//! refusal is short, printable and repeats no key.

#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use synod_agent::{AgentError, fuzz, keychain};

/// The report data that were asked for; the corpus has answers that echo them.
const ASKED: [u8; 64] = [0x5a; 64];
/// Where a version 4 quote has its report data.
const REPORT_DATA: std::ops::Range<usize> = 568..632;
/// Most characters of a refusal: our own words, and what it quotes (200 characters, each escaped to at most 10).
const WORDS_MAX: usize = 4_000;
/// Longest run of hex digits in the words of a refusal: 40 that are quoted, and the 0 of an escaped `\0` before them.
const HEX_RUN_MAX: usize = 41;

fuzz_target!(|input: &[u8]| -> Corpus {
    let Some((question, rest)) = input.split_first() else {
        return Corpus::Reject;
    };
    match read(*question, rest) {
        Some(Ok(())) => Corpus::Keep,
        Some(Err(error)) => {
            check_words(&error, rest);
            Corpus::Keep
        }
        None => Corpus::Reject,
    }
});

fn read(question: u8, rest: &[u8]) -> Option<Result<(), AgentError>> {
    Some(match question {
        // the server header up to the first line feed, then the body
        b'V' => {
            let mut parts = rest.splitn(2, |byte| *byte == b'\n');
            let server = String::from_utf8_lossy(parts.next()?);
            version(parts.next()?, &server)
        }
        b'I' => info(rest),
        b'K' => key(rest),
        b'Q' => quote(rest),
        // two bytes of status, then the body
        b'E' => {
            let (status, body) = rest.split_first_chunk::<2>()?;
            let error = fuzz::refusal(u16::from_be_bytes(*status), body);
            no_long_hex(&error.to_string());
            Err(error)
        }
        _ => return None,
    })
}

fn version(body: &[u8], server: &str) -> Result<(), AgentError> {
    let version = fuzz::version(body, server)?;
    for text in [&version.version, &version.rev, &version.server] {
        printable(text);
    }
    Ok(())
}

fn info(body: &[u8]) -> Result<(), AgentError> {
    let info = fuzz::info(body)?;
    printable(&info.app_name);
    // what was accepted stands in the answer as it is shown
    let text = String::from_utf8_lossy(body).into_owned();
    let escaped = text.contains('\\');
    let shown = info.app_id.map(|byte| format!("{byte:02x}")).concat();
    assert!(
        escaped || text.contains(&shown),
        "expected the app id {shown} in {text}"
    );
    Ok(())
}

fn key(body: &[u8]) -> Result<(), AgentError> {
    let key = fuzz::key(body)?;
    let public = key.public_compressed();
    assert!(
        matches!(public[0], 2 | 3),
        "expected a compressed key, found {public:02x?}"
    );
    assert!(key.signature_chain.len() <= 8, "expected at most 8 links");
    assert!(key.address() != [0; 20]);
    // nobody holds the key of this root, so no chain may reach it
    let root = keychain::KmsRoot::Address([0xee; 20]);
    let judged = keychain::verify(&public, "fuzz", &[1; 20], &key.signature_chain, &root);
    let why = judged.expect_err("expected a refusal of every chain");
    printable(&why.to_string());
    Ok(())
}

fn quote(body: &[u8]) -> Result<(), AgentError> {
    let quote = fuzz::quote(body, &ASKED)?;
    assert!(
        quote.bytes.starts_with(&[4, 0]),
        "a quote of another version than 4 was accepted"
    );
    assert_eq!(
        quote.bytes.get(REPORT_DATA),
        Some(&ASKED[..]),
        "a quote over other report data was accepted"
    );
    Ok(())
}

fn check_words(error: &AgentError, body: &[u8]) {
    let text = error.to_string();
    printable(&text);
    assert!(
        text.chars().count() <= WORDS_MAX,
        "expected a short refusal, found {} characters",
        text.chars().count()
    );
    if let Some(secret) = key_in(body) {
        assert!(!text.contains(secret), "a refusal repeats the key: {text}");
    }
}

/// The value of the first `"key":"…"`, if it is long enough to be a key; shorter hex may be an address and is shown.
fn key_in(body: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(body).ok()?;
    let value = text.split_once(r#""key":""#)?.1.split('"').next()?;
    let is_hex = value.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_hex && value.len() > HEX_RUN_MAX && text.matches(value).count() == 1).then_some(value)
}

/// A refusal may quote the agent, but nothing that could be a key.
fn no_long_hex(text: &str) {
    let longest = text
        .split(|letter: char| !letter.is_ascii_hexdigit())
        .map(str::len)
        .max();
    assert!(
        longest.unwrap_or(0) <= HEX_RUN_MAX,
        "a refusal repeats what could be a key: {text}"
    );
}

/// For an operator's terminal: no control characters.
fn printable(text: &str) {
    assert!(
        !text.chars().any(char::is_control),
        "expected printable text, found {text:?}"
    );
}
