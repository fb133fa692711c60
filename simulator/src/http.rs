//! HTTP/1.1 as the guest agent speaks it: which request is a call, and in which shape the answer goes back.
//!
//! Rule: routes, verbs, status codes and headers are those that were recorded from a real agent. A protobuf body is
//! refused with a JSON error that says so (a real agent takes it).

use crate::{
    api::{self, Arguments},
    instance::Instance,
};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ACCEPT, CONTENT_TYPE, HeaderValue, SERVER},
};
use std::time::Duration;

/// Body limit of the real agent.
pub const BODY_MAX: usize = 10 * 1024 * 1024;
/// A body must be complete within this time.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Answers one request.
pub async fn respond(instance: &Instance, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let accepts_json = request
        .headers()
        .get(ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|a| a.contains("json"));
    let method = match route(request.method(), request.uri().path()) {
        Ok(method) => method,
        Err(status) => return page(status, accepts_json),
    };
    let query = request.uri().query().unwrap_or_default().to_owned();
    if request.method() != Method::POST {
        return match decode_query(&query) {
            Some(pairs) => json(api::call(instance, &method, Arguments::Query(pairs))),
            None => json(Err("the query is not percent-encoded UTF-8".into())),
        };
    }
    let is_json = is_json(&request, &query);
    let body = match read_body(request).await {
        Ok(body) => body,
        Err(error) => return json(Err(error)),
    };
    if !is_json {
        return json(Err(
            "this simulator reads JSON only (protobuf comes with the issue \"Guest agent\"); \
            send the header Content-Type: application/json"
                .into(),
        ));
    }
    json(api::call(instance, &method, Arguments::Json(&body)))
}

/// The method that a path names: `/<Method>` or `/v0/<Method>`; otherwise the status of the framework's page.
fn route(verb: &Method, path: &str) -> Result<String, StatusCode> {
    if !matches!(*verb, Method::GET | Method::POST | Method::HEAD) {
        return Err(StatusCode::NOT_FOUND);
    }
    let path = path.trim_start_matches('/');
    let name = path.strip_prefix("v0/").unwrap_or(path);
    if name.is_empty() {
        return Err(StatusCode::UNPROCESSABLE_ENTITY);
    }
    if name.contains('/') {
        return Err(StatusCode::NOT_FOUND);
    }
    percent_decode(name, false).ok_or(StatusCode::NOT_FOUND)
}

fn is_json(request: &Request<Incoming>, query: &str) -> bool {
    let typed = request
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
    typed
        || query
            .split('&')
            .any(|pair| matches!(pair, "json" | "json=true" | "json=1"))
}

async fn read_body(request: Request<Incoming>) -> Result<Bytes, String> {
    let body = Limited::new(request.into_body(), BODY_MAX).collect();
    match tokio::time::timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err("failed to read data: payload too large".into())
        }
        Ok(Err(error)) => Err(format!("failed to read data: {error}")),
        Err(_) => Err(format!(
            "failed to read data: no complete body within {} s",
            BODY_TIMEOUT.as_secs()
        )),
    }
}

fn json(answer: api::Answer) -> Response<Full<Bytes>> {
    let (status, body) = match answer {
        Ok(body) => (StatusCode::OK, body),
        Err(error) => {
            let quoted = serde_json::Value::String(error);
            (
                StatusCode::BAD_REQUEST,
                format!("{{\n  \"error\": {quoted}\n}}"),
            )
        }
    };
    reply(status, "application/json", body)
}

/// The pages of the real agent's web framework, which know nothing of the API.
fn page(status: StatusCode, accepts_json: bool) -> Response<Full<Bytes>> {
    let reason = status.canonical_reason().unwrap_or_default();
    if accepts_json {
        let error = serde_json::json!({"error": {
            "code": status.as_u16(), "reason": reason, "description": "There is no such page on a guest agent."}});
        return reply(status, "application/json", format!("{error:#}"));
    }
    let body = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n    <title>{} {reason}</title>\n</head>\n<body>\n    \
         <h1>{0}: {reason}</h1>\n</body>\n</html>",
        status.as_u16()
    );
    reply(status, "text/html; charset=utf-8", body)
}

fn reply(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(SERVER, HeaderValue::from_static("dstack Simulator"));
    headers.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    headers.insert("x-frame-options", HeaderValue::from_static("SAMEORIGIN"));
    headers.insert(
        "permissions-policy",
        HeaderValue::from_static("interest-cohort=()"),
    );
    response
}

fn decode_query(query: &str) -> Option<Vec<(String, String)>> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((percent_decode(name, true)?, percent_decode(value, true)?))
        })
        .collect()
}

/// Percent-decoding; in a query `+` is a space. `None` for a broken escape or no UTF-8.
fn percent_decode(text: &str, plus_is_space: bool) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' if plus_is_space => b' ',
            b'%' => {
                let (high, low) = (char::from(bytes.next()?), char::from(bytes.next()?));
                u8::try_from(high.to_digit(16)? * 16 + low.to_digit(16)?).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_segment_or_one_below_v0() {
        assert_eq!(route(&Method::POST, "/GetKey"), Ok("GetKey".into()));
        assert_eq!(route(&Method::POST, "//GetKey"), Ok("GetKey".into()));
        assert_eq!(route(&Method::GET, "/%47etKey"), Ok("GetKey".into()));
        assert_eq!(route(&Method::GET, "/v0/GetKey"), Ok("GetKey".into()));
        assert_eq!(
            route(&Method::GET, "/"),
            Err(StatusCode::UNPROCESSABLE_ENTITY)
        );
        assert_eq!(route(&Method::GET, "/GetKey/"), Err(StatusCode::NOT_FOUND));
        assert_eq!(
            route(&Method::GET, "/prpc/GetKey"),
            Err(StatusCode::NOT_FOUND)
        );
        assert_eq!(route(&Method::PUT, "/GetKey"), Err(StatusCode::NOT_FOUND));
    }

    #[test]
    fn a_broken_escape_decodes_to_nothing() {
        assert_eq!(percent_decode("a%2Fb+c", true).as_deref(), Some("a/b c"));
        for broken in ["%", "%4", "%zz", "%ff"] {
            assert_eq!(percent_decode(broken, true), None, "{broken}");
        }
    }
}
