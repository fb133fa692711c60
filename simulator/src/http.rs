//! HTTP/1.1 as the guest agent speaks it: which request is a call, in which encoding, and how its answer goes back.
//!
//! Rule: routes, verbs, status codes, headers and the pages of the web framework are those that were recorded from a
//! real agent. `/v0/` is besides what version 0.5.11 has: later agents serve the same methods there.

use crate::{
    api::{self, Arguments, messages::Failure},
    instance::Instance,
};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Body, Buf as _, Bytes},
    header::{ACCEPT, CONTENT_TYPE, HeaderValue},
};
use prost::Message as _;
use std::{error::Error, pin::pin, time::Duration};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Body limit of the real agent.
pub const BODY_MAX: usize = 10 * 1024 * 1024;
/// A body must be complete within this time.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// A body that nobody reads is waited for this long.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Bodies above this are large: what is made of one takes many times its length.
const BODY_SMALL_MAX: usize = 256 * 1024;
/// Requests with large bodies at a time, in the whole process; more are not read on until one is answered.
const LARGE_BODIES_MAX: usize = 2;
static LARGE_BODIES: Semaphore = Semaphore::const_new(LARGE_BODIES_MAX);

type BoxError = Box<dyn Error + Send + Sync>;

/// Which of an agent's sockets a request came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// `dstack.sock`: methods at `/` and at `/v0/`.
    Dstack,
    /// `tappd.sock`, for old clients: methods at `/prpc/`, with or without `Tappd.` before their names.
    Tappd,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Json,
    Protobuf,
}

/// Answers one request.
pub async fn respond<B>(
    instance: &Instance,
    surface: Surface,
    request: Request<B>,
) -> Response<Full<Bytes>>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let method = match route(surface, request.method(), request.uri().path()) {
        Ok(method) => method,
        Err(status) => {
            let prefers_json = prefers_json(request.headers());
            // a client that still writes when the page comes and the connection ends would see neither
            drain(request.into_body()).await;
            return page(status, prefers_json);
        }
    };
    let query = request.uri().query().unwrap_or_default().to_owned();
    if request.method() != Method::POST {
        let answer = call(instance, surface, &method, Arguments::Query(&query)).await;
        return answered(Encoding::Json, answer);
    }
    let flagged = json_flag(&query);
    let typed = is_json(request.headers());
    let body = match read_body(request.into_body()).await {
        Ok(body) => body,
        // a real agent looks at the content type only when it has the body
        Err(error) => {
            return answered(
                if flagged {
                    Encoding::Json
                } else {
                    Encoding::Protobuf
                },
                Err(error),
            );
        }
    };
    let (encoding, arguments) = match flagged || typed {
        true => (Encoding::Json, Arguments::Json(&body.bytes)),
        false => (Encoding::Protobuf, Arguments::Protobuf(&body.bytes)),
    };
    answered(encoding, call(instance, surface, &method, arguments).await)
}

async fn call(
    instance: &Instance,
    surface: Surface,
    method: &str,
    arguments: Arguments<'_>,
) -> api::Answer {
    match surface {
        Surface::Dstack => api::call(instance, method, arguments).await,
        Surface::Tappd => api::tappd::call(instance, method, arguments).await,
    }
}

/// The method that a path names, or the status of the framework's page. Empty segments do not count, but for the last.
fn route(surface: Surface, verb: &Method, path: &str) -> Result<String, StatusCode> {
    if !matches!(*verb, Method::GET | Method::POST | Method::HEAD) {
        return Err(StatusCode::NOT_FOUND);
    }
    let mut segments: Vec<&str> = path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .collect();
    if path.ends_with('/') {
        segments.push("");
    }
    let name = match (surface, &segments[..]) {
        (Surface::Dstack, [name] | ["v0", name]) | (Surface::Tappd, ["prpc", name]) => name,
        _ => return Err(StatusCode::NOT_FOUND),
    };
    if name.is_empty() {
        return Err(StatusCode::UNPROCESSABLE_ENTITY);
    }
    let name = String::from_utf8_lossy(&percent_decode(name.as_bytes())).into_owned();
    Ok(match surface {
        Surface::Dstack => name,
        Surface::Tappd => name.trim_start_matches("Tappd.").to_owned(),
    })
}

/// Whether the web framework takes the content type for JSON: one that it cannot read to the end is none.
fn is_json(headers: &HeaderMap) -> bool {
    let kind = text(headers.get(CONTENT_TYPE));
    let (kind, mut rest) = kind.split_at(kind.find(';').unwrap_or(kind.len()));
    while let Some(parameter) = rest.strip_prefix(';') {
        let Some(after) = after_parameter(parameter) else {
            return false;
        };
        rest = after;
    }
    rest.is_empty() && kind.eq_ignore_ascii_case("application/json")
}

/// What follows `token=token` or `token="text"`, which blanks may surround.
fn after_parameter(text: &str) -> Option<&str> {
    const BLANKS: [char; 2] = [' ', '\t'];
    let value = after_token(text.trim_start_matches(BLANKS))?.strip_prefix('=')?;
    let rest = match value.strip_prefix('"') {
        Some(quoted) => after_quote(quoted)?,
        None => after_token(value)?,
    };
    Some(rest.trim_start_matches(BLANKS))
}

fn after_token(text: &str) -> Option<&str> {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`{|}~".contains(&byte);
    let end = text.bytes().position(|byte| !is_part(byte));
    let (token, rest) = text.split_at(end.unwrap_or(text.len()));
    (!token.is_empty()).then_some(rest)
}

/// What follows the quotation mark that no backslash precedes.
fn after_quote(text: &str) -> Option<&str> {
    let mut escaped = false;
    let end = text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })?;
    text.get(end + 1..)
}

/// Whether the first field `json` of a query is on.
fn json_flag(query: &str) -> bool {
    query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find(|(name, _)| *name == "json")
        .is_some_and(|(_, value)| matches!(value, "" | "1" | "true"))
}

/// Whether JSON is the first of those that the client likes best.
fn prefers_json(headers: &HeaderMap) -> bool {
    let mut best = (0.0, false);
    for range in text(headers.get(ACCEPT)).split(',') {
        let mut parts = range.split(';').map(str::trim);
        let is_json = parts
            .next()
            .is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"));
        let weight = parts
            .find_map(|part| part.strip_prefix("q="))
            .map_or(Ok(1.0), str::parse::<f32>);
        if let Ok(weight) = weight
            && weight > best.0
        {
            best = (weight, is_json);
        }
    }
    best.1
}

fn text(header: Option<&HeaderValue>) -> &str {
    header
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

/// Percent-decoding; what is no escape stays.
pub fn percent_decode(mut rest: &[u8]) -> Vec<u8> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let mut decoded = Vec::with_capacity(rest.len());
    while let [first, tail @ ..] = rest {
        let escaped = match rest {
            [b'%', high, low, after @ ..] => digit(*high)
                .zip(digit(*low))
                .map(|(high, low)| (high << 4 | low, after)),
            _ => None,
        };
        let (byte, after) = escaped.unwrap_or((*first, tail));
        decoded.push(byte);
        rest = after;
    }
    decoded
}

/// A whole body, with its place among the large ones if it is one.
#[derive(Default)]
struct Received {
    bytes: Vec<u8>,
    place: Option<SemaphorePermit<'static>>,
}

async fn receive<B>(body: B) -> Result<Received, BoxError>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let mut body = pin!(Limited::new(body, BODY_MAX));
    let mut received = Received::default();
    while let Some(frame) = body.frame().await {
        let Ok(mut data) = frame?.into_data() else {
            continue; // a trailer, of which no method knows
        };
        if received.place.is_none() && received.bytes.len() + data.remaining() > BODY_SMALL_MAX {
            let place = LARGE_BODIES.acquire().await;
            received.place = Some(place.expect("nobody closes this semaphore"));
        }
        let data = data.copy_to_bytes(data.remaining());
        received.bytes.extend_from_slice(&data);
    }
    Ok(received)
}

/// Reads a body and forgets it, up to the limits of time and length.
async fn drain<B>(body: B)
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let all = async {
        let mut body = pin!(Limited::new(body, BODY_MAX));
        while let Some(Ok(_)) = body.frame().await {}
    };
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, all).await; // the page comes in any case
}

async fn read_body<B>(body: B) -> Result<Received, String>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    match tokio::time::timeout(BODY_TIMEOUT, receive(body)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err("failed to read data: payload too large".into())
        }
        Ok(Err(error)) => Err(format!(
            "failed to read data: failed to read data: {}",
            chain(error.as_ref())
        )),
        Err(_) => Err(format!(
            "failed to read data: no complete body within {} s",
            BODY_TIMEOUT.as_secs()
        )),
    }
}

/// An error and what it came from.
fn chain(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

fn answered(encoding: Encoding, answer: api::Answer) -> Response<Full<Bytes>> {
    let kind = match encoding {
        Encoding::Json => "application/json",
        Encoding::Protobuf => "application/octet-stream",
    };
    match (answer, encoding) {
        (Ok(body), _) => reply(StatusCode::OK, kind, body),
        (Err(message), Encoding::Json) => {
            let quoted = serde_json::Value::String(message);
            reply(
                StatusCode::BAD_REQUEST,
                kind,
                format!("{{\n  \"error\": {quoted}\n}}").into_bytes(),
            )
        }
        (Err(message), Encoding::Protobuf) => reply(
            StatusCode::BAD_REQUEST,
            kind,
            Failure { message }.encode_to_vec(),
        ),
    }
}

/// The pages of the real agent's web framework, which know nothing of the API.
fn page(status: StatusCode, prefers_json: bool) -> Response<Full<Bytes>> {
    let (code, reason) = (
        status.as_u16(),
        status.canonical_reason().unwrap_or_default(),
    );
    let description = match status {
        StatusCode::UNPROCESSABLE_ENTITY => {
            "The request was well-formed but was unable to be followed due to semantic errors."
        }
        _ => "The requested resource could not be found.",
    };
    if prefers_json {
        let body = format!(
            "{{\n  \"error\": {{\n    \"code\": {code},\n    \"reason\": \"{reason}\",\n    \
             \"description\": \"{description}\"\n  }}\n}}"
        );
        return reply(status, "application/json", body.into_bytes());
    }
    let body = format!(
        r#"<!DOCTYPE html>
<html lang="en">
<head>
    <meta charset="utf-8">
    <meta name="color-scheme" content="light dark">
    <title>{code} {reason}</title>
</head>
<body align="center">
    <div role="main" align="center">
        <h1>{code}: {reason}</h1>
        <p>{description}</p>
        <hr />
    </div>
    <div role="contentinfo" align="center">
        <small>Rocket</small>
    </div>
</body>
</html>"#
    );
    reply(status, "text/html; charset=utf-8", body.into_bytes())
}

fn reply(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    for (name, value) in [
        ("content-type", kind),
        ("server", "dstack Simulator"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "SAMEORIGIN"),
        ("permissions-policy", "interest-cohort=()"),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_segment_or_one_below_v0_and_on_tappd_below_prpc() {
        let dstack = |verb, path| route(Surface::Dstack, &verb, path);
        for path in [
            "/GetKey",
            "//GetKey",
            "/%47etKey",
            "/v0/GetKey",
            "/v0//GetKey",
        ] {
            assert_eq!(dstack(Method::GET, path), Ok("GetKey".into()), "{path}");
        }
        for path in [
            "/GetKey/",
            "/prpc/GetKey",
            "/v0/GetKey/",
            "/v1/GetKey",
            "/a/v0/GetKey",
        ] {
            assert_eq!(
                dstack(Method::POST, path),
                Err(StatusCode::NOT_FOUND),
                "{path}"
            );
        }
        for path in ["/", "//", "/v0/"] {
            assert_eq!(
                dstack(Method::GET, path),
                Err(StatusCode::UNPROCESSABLE_ENTITY),
                "{path}"
            );
        }
        assert_eq!(dstack(Method::PUT, "/GetKey"), Err(StatusCode::NOT_FOUND));

        let tappd = |path| route(Surface::Tappd, &Method::POST, path);
        assert_eq!(tappd("/prpc/Tappd.Info"), Ok("Info".into()));
        assert_eq!(tappd("/prpc/Info"), Ok("Info".into()));
        assert_eq!(tappd("/Info"), Err(StatusCode::NOT_FOUND));
        assert_eq!(tappd("/"), Err(StatusCode::NOT_FOUND));
        assert_eq!(tappd("/v0/Info"), Err(StatusCode::NOT_FOUND));
    }

    #[test]
    fn what_is_no_escape_stays() {
        for (text, decoded) in [
            ("a%2Fb", "a/b"),
            ("%", "%"),
            ("%4", "%4"),
            ("%zz%41", "%zzA"),
            ("+", "+"),
        ] {
            assert_eq!(
                percent_decode(text.as_bytes()),
                decoded.as_bytes(),
                "{text}"
            );
        }
    }

    #[test]
    fn the_first_json_field_of_a_query_counts() {
        for (query, on) in [
            ("json", true),
            ("json=", true),
            ("a&json=1", true),
            ("json=false&json", false),
            ("", false),
        ] {
            assert_eq!(json_flag(query), on, "{query}");
        }
    }

    #[test]
    fn json_is_preferred_where_it_weighs_most_and_comes_first() {
        for (accept, json) in [
            ("application/json", true),
            ("text/html, application/json", false),
            ("text/html;q=0.5, application/json", true),
            ("*/*", false),
            ("application/json;q=x", false),
        ] {
            let headers = [(ACCEPT, HeaderValue::from_static(accept))]
                .into_iter()
                .collect();
            assert_eq!(prefers_json(&headers), json, "{accept}");
        }
    }
}
