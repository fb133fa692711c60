//! What an answer with another status than 200 means. Pure.
//!
//! The agent writes JSON with `error` as a text, and, when it fails before it looked at the content type, the same text
//! as protobuf; its web framework writes JSON with `error` as an object, or a page of HTML.
//!
//! Rule: the body decides what it is, its content type is not asked; and no long run of hex digits is ever repeated,
//! since it could be a key. Upon `GetKey` digits that only blanks, commas or other signs part are one run, so a list of
//! bytes, hex or decimal, is hidden too. Limit: a key that is written otherwise (base64, words between its digits) or cut
//! into pieces of at most 40 digits is not recognised.

use crate::{AgentError, error::printable};

/// Agents before 0.6 say it with 400, later ones with 404.
const UNKNOWN_METHOD: &str = "Service not found: ";
const UNKNOWN_METHOD_STATUS: [u16; 2] = [400, 404];
/// What a web page is called, before its title.
const WEB_PAGE: &str = "a web page, ";
/// No word is that long; an address or an app id still shows.
const HEX_RUN_MAX: usize = 40;

pub fn refusal(method: &'static str, status: u16, body: &[u8]) -> AgentError {
    let text = words(body);
    let shown = || printable(&without_secrets(&text, method == "GetKey"));
    if UNKNOWN_METHOD_STATUS.contains(&status) && text.starts_with(UNKNOWN_METHOD) {
        return AgentError::TooOld { method };
    }
    // every agent that we take knows this method, and says so if it does not: only another server has a page for it
    if (method, status) == ("Version", 404) && text.starts_with(WEB_PAGE) {
        let text = shown();
        return AgentError::OtherServer {
            method,
            status,
            text,
        };
    }
    AgentError::Answered {
        method,
        status,
        text: shown(),
    }
}

/// What the body says, in whichever form.
fn words(body: &[u8]) -> String {
    if let Ok(json) = serde_json::from_slice::<serde_json::Value>(body) {
        return of_json(&json);
    }
    if let Some(text) = of_protobuf(body) {
        return text.to_owned();
    }
    match std::str::from_utf8(body).map(str::trim) {
        Ok("") => "(no words)".to_owned(),
        Ok(text) => title(text).map_or_else(|| text.to_owned(), |it| format!("{WEB_PAGE}{it:?}")),
        Err(_) => format!("({} bytes that are no text)", body.len()),
    }
}

fn of_json(json: &serde_json::Value) -> String {
    let text = |value: Option<&serde_json::Value>| {
        value
            .and_then(serde_json::Value::as_str)
            .map(ToOwned::to_owned)
    };
    let error = json.get("error");
    let page = |name| text(error.and_then(|page| page.get(name)));
    let framework = match (page("reason"), page("description")) {
        (Some(reason), Some(description)) => Some(format!("{reason}: {description}")),
        (reason, description) => reason.or(description),
    };
    text(error)
        .or(framework)
        .unwrap_or_else(|| "(JSON without an error in words)".to_owned())
}

/// A message whose only field is 1, a text: `0a`, its length as a varint, its bytes.
fn of_protobuf(body: &[u8]) -> Option<&str> {
    let (mut rest, mut length) = (body.strip_prefix(&[0x0a])?, 0);
    for shift in [0, 7, 14] {
        let (&byte, more) = rest.split_first()?;
        length |= usize::from(byte & 0x7f) << shift;
        rest = more;
        if byte & 0x80 == 0 {
            return (rest.len() == length)
                .then_some(rest)
                .and_then(|text| std::str::from_utf8(text).ok());
        }
    }
    None
}

/// Title of an HTML page.
fn title(page: &str) -> Option<&str> {
    if !page.starts_with('<') {
        return None;
    }
    let (_, after) = page.split_once("<title>")?;
    let (title, _) = after.split_once("</title>")?;
    Some(title.trim())
}

/// Replaces long runs of hex digits by their length.
fn without_secrets(text: &str, joined: bool) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let (length, digits) = run(rest, joined);
        let (piece, after) = rest.split_at(length.max(letter.len_utf8()));
        if digits > HEX_RUN_MAX {
            shown.push_str(&format!("({digits} hex digits)"));
        } else {
            shown.push_str(piece);
        }
        rest = after;
    }
    shown
}

/// The run at the beginning of a text: its bytes, and how many of them are hex digits. If `joined`, signs between digits
/// belong to it, and so does the `0x` before a number, which is not counted.
fn run(text: &str, joined: bool) -> (usize, usize) {
    let (mut length, mut digits, mut at) = (0, 0, 0);
    while let Some(rest) = text.get(at..) {
        let prefix = rest.starts_with("0x") || rest.starts_with("0X");
        match rest.chars().next() {
            Some(_) if joined && prefix => {
                at += 2;
                length = at;
            }
            Some(letter) if letter.is_ascii_hexdigit() => {
                at += 1;
                digits += 1;
                length = at;
            }
            Some(sign) if joined && digits > 0 && !sign.is_ascii_alphanumeric() => {
                at += sign.len_utf8();
            }
            _ => break,
        }
    }
    (length, digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: u16, body: &[u8]) -> String {
        match refusal("GetKey", status, body) {
            AgentError::TooOld { .. } => "too old".to_owned(),
            AgentError::Answered { text, .. } => text,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn each_form_gives_its_words() {
        for (body, expected) in [
            (
                &b"{\n  \"error\": \"Unsupported algorithm\"\n}"[..],
                "Unsupported algorithm",
            ),
            (
                br#"{"error":{"code":422,"reason":"Unprocessable Entity","description":"no"}}"#,
                "Unprocessable Entity: no",
            ),
            (br#"{"error":{"reason":"Not Found"}}"#, "Not Found"),
            (
                br#"{"error":{"code":404}}"#,
                "(JSON without an error in words)",
            ),
            (br#"{"error":null}"#, "(JSON without an error in words)"),
            (b"[]", "(JSON without an error in words)"),
            (b"\x0a\x15Unsupported algorithm", "Unsupported algorithm"),
            (
                b"<!DOCTYPE html>\n<title>404 Not Found</title><p>long</p>",
                "a web page, \"404 Not Found\"",
            ),
            (b"<html>", "<html>"),
            (b"upstream connect error", "upstream connect error"),
            (b"", "(no words)"),
            (b" \r\n", "(no words)"),
            (b"\xff\xfe\x00", "(3 bytes that are no text)"),
        ] {
            assert_eq!(check(400, body), expected, "{body:?}");
        }
    }

    #[test]
    fn an_unknown_method_is_too_old_in_json_and_protobuf_with_400_and_404_only() {
        let json = br#"{"error":"Service not found: GetKey"}"#;
        let protobuf = b"\x0a\x19Service not found: GetKey";
        for (status, expected) in [(400, true), (404, true), (500, false), (413, false)] {
            for body in [&json[..], protobuf] {
                assert_eq!(check(status, body) == "too old", expected, "{status}");
            }
        }
        assert_eq!(check(404, b"Service not found"), "Service not found");
    }

    #[test]
    fn protobuf_is_read_only_if_it_is_exactly_one_text() {
        let long = [&b"\x0a\x80\x01"[..], &[b'x'; 128]].concat();
        assert_eq!(check(400, &long), "x".repeat(128));
        // too short, too long, a varint without an end, no UTF-8: not a message, so it is shown as what it is
        for body in [
            &b"\x0a\x03ab"[..],
            b"\x0a\x03abcd",
            b"\x0a\x80\x80\x80\x00",
            b"\x0a\x01\xff",
        ] {
            assert_eq!(of_protobuf(body), None, "{body:?}");
        }
    }

    #[test]
    fn a_key_in_an_error_is_not_repeated() {
        let key = "8e3800142f8df327fdb464017904eaee5a4561c1a72cc14bfeb3e85929c1a134";
        for body in [
            format!(r#"{{"key":"{key}","signature_chain":[]}}"#),
            format!(r#"{{"error":"cannot use {key}!"}}"#),
            format!("\n\u{40}{key}"),
            format!("<title>{key}</title>"),
            key.to_owned(),
            key.to_uppercase(),
            format!("é{key}"),
        ] {
            for status in [201, 400, 500] {
                let text = check(status, body.as_bytes()).to_lowercase();
                assert!(!text.contains(&key[..41]), "{text}");
            }
        }
        let app = "5bb4ff9a3837357f19dc176407a5709c62eb6c56";
        assert_eq!(check(400, app.as_bytes()), app);
    }

    #[test]
    fn upon_get_key_a_key_in_pieces_is_not_repeated_either() {
        let key = "8e3800142f8df327fdb464017904eaee5a4561c1a72cc14bfeb3e85929c1a134";
        let bytes: Vec<&str> = (0..64).step_by(2).map(|at| &key[at..at + 2]).collect();
        let decimal = bytes.iter().map(|b| u8::from_str_radix(b, 16).unwrap());
        let decimal = decimal.map(|b| b.to_string()).collect::<Vec<_>>();
        for list in [
            bytes.join(" "),
            bytes.join(", "),
            bytes.join(":"),
            bytes.join("\n"),
            bytes.join("·"),
            format!("[0x{}]", bytes.join(", 0x")),
            format!("{} {}", &key[..32], &key[32..]),
            decimal.join(", "),
        ] {
            let text = check(500, format!("no use for {list}!").as_bytes());
            assert!(text.contains("no use for "), "{text}");
            assert!(text.contains(" hex digits)"), "{text}");
            assert!(!text.contains(bytes[30]) && text.len() < 40, "{text}");
        }
        // words and one address are shown as they are
        let app = "bad app 0x5bb4ff9a3837357f19dc176407a5709c62eb6c56 is no app, 0xyz 0x0x";
        assert_eq!(check(400, app.as_bytes()), app);
        // another method has no key to hide: only what is one run by itself
        let list = bytes.join(" ");
        let error = refusal("GetQuote", 500, list.as_bytes()).to_string();
        assert!(error.ends_with(&list), "{error}");
    }

    #[test]
    fn a_page_instead_of_a_version_is_of_another_server() {
        let page = b"<title>404 Not Found</title>";
        let error = |method, status, body| refusal(method, status, body).to_string();
        assert!(
            error("Version", 404, &page[..]).ends_with("is this tappd.sock, or another server?")
        );
        for other in [
            error("GetKey", 404, page),
            error("Version", 500, page),
            error("Version", 404, br#"{"error":"a web"}"#),
        ] {
            assert!(!other.contains("tappd"), "{other}");
        }
    }
}
