//! What every request passes before a route sees it. The API has no passwords yet, so the danger is the
//! owner's own browser: a foreign page that posts here, or a foreign name that resolves to this machine (DNS
//! rebinding). Both carry a `Host`, `Origin` or `Sec-Fetch-Site` that gives them away. A command line sends
//! none of the latter two.

use super::problem::Problem;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

/// Longest request body.
pub(super) const BODY_LEN_MAX: usize = 64 << 10;
/// A body must have arrived by then.
pub(super) const BODY_MAX: Duration = Duration::from_secs(5);
/// An answer must exist by then; the node's own limits are shorter.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Names under which this node may be addressed.
pub(super) struct Guard {
    allowed_names: Vec<String>,
}

impl Guard {
    pub(super) fn new(allowed_names: Vec<String>) -> Self {
        Self { allowed_names }
    }

    fn admit(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let host = self.host(headers)?;
        if headers
            .get_all(header::ORIGIN)
            .iter()
            .any(|origin| !same_origin(origin, host))
        {
            let found = shown(headers.get(header::ORIGIN));
            return Err(Problem::new(StatusCode::FORBIDDEN, "Foreign origin")
                .detail(format!("expected no Origin or \"http://{host}\", found {found}; other pages may not use this API")));
        }
        let site = headers.get_all("sec-fetch-site");
        if site
            .iter()
            .any(|site| site.as_bytes().eq_ignore_ascii_case(b"cross-site"))
        {
            return Err(
                Problem::new(StatusCode::FORBIDDEN, "Cross-site request").detail(
                    "a page of another site asked the browser for this; open the address yourself",
                ),
            );
        }
        Ok(())
    }

    /// The one `Host`, if it is ours.
    fn host<'a>(&self, headers: &'a HeaderMap) -> Result<&'a str, Problem> {
        let mut all = headers.get_all(header::HOST).iter();
        let (first, second) = (all.next(), all.next());
        let host = first
            .filter(|_| second.is_none())
            .and_then(|host| host.to_str().ok());
        host.filter(|host| self.is_ours(host)).ok_or_else(|| {
            let found = shown(first);
            Problem::new(StatusCode::MISDIRECTED_REQUEST, "Unknown host name").detail(format!(
                "expected Host to be an IP address, localhost or a name of --http-names, found {found}"
            ))
        })
    }

    fn is_ours(&self, host: &str) -> bool {
        let Some(name) = without_port(host) else {
            return false;
        };
        let literal = match name
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            Some(inner) => inner.parse::<Ipv6Addr>().is_ok(),
            None => name.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4()),
        };
        literal
            || name.eq_ignore_ascii_case("localhost")
            || self
                .allowed_names
                .iter()
                .any(|allowed| !allowed.is_empty() && allowed.eq_ignore_ascii_case(name))
    }
}

/// `name`, `name:port`, `[v6]` or `[v6]:port`.
fn without_port(host: &str) -> Option<&str> {
    let end = if host.starts_with('[') {
        host.find(']')? + 1
    } else {
        host.find(':').unwrap_or(host.len())
    };
    let (name, port) = host.split_at_checked(end)?;
    let fits = port.is_empty()
        || port
            .strip_prefix(':')
            .is_some_and(|digits| digits.parse::<u16>().is_ok());
    fits.then_some(name)
}

fn same_origin(origin: &HeaderValue, host: &str) -> bool {
    let origin = origin.to_str().unwrap_or_default();
    origin
        .strip_prefix("http://")
        .is_some_and(|rest| rest.eq_ignore_ascii_case(host))
}

fn shown(value: Option<&HeaderValue>) -> String {
    match value {
        Some(value) => format!(
            "{:?}",
            String::from_utf8_lossy(value.as_bytes())
                .chars()
                .take(80)
                .collect::<String>()
        ),
        None => "none".to_owned(),
    }
}

/// The layer of the API.
pub(super) async fn check(
    State(guard): State<Arc<Guard>>,
    request: Request,
    next: Next,
) -> Response {
    match guard.admit(request.headers()) {
        Err(problem) => labelled(problem.into_response()),
        Ok(()) => bounded(request, next).await,
    }
}

/// The layer of whoever was let in: sizes and times. The control socket has only this one, since no browser can open it.
pub(super) async fn bounded(request: Request, next: Next) -> Response {
    labelled(match with_bounded_body(request).await {
        Err(problem) => problem.into_response(),
        Ok(request) => tokio::time::timeout(ANSWER_MAX, next.run(request))
            .await
            .unwrap_or_else(|_| {
                Problem::new(StatusCode::GATEWAY_TIMEOUT, "No answer in time")
                    .detail("the outcome is unknown; ask /status before you try again")
                    .into_response()
            }),
    })
}

fn labelled(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

async fn with_bounded_body(request: Request) -> Result<Request, Problem> {
    let (parts, body) = request.into_parts();
    let reading = axum::body::to_bytes(body, BODY_LEN_MAX);
    match tokio::time::timeout(BODY_MAX, reading).await {
        Ok(Ok(bytes)) => Ok(Request::from_parts(parts, Body::from(bytes))),
        Ok(Err(_)) => Err(
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "Body refused").detail(format!(
                "expected a complete body of at most {BODY_LEN_MAX} bytes; no route needs more"
            )),
        ),
        Err(_) => Err(
            Problem::new(StatusCode::REQUEST_TIMEOUT, "Body too slow").detail(format!(
                "expected the whole body within {} s",
                BODY_MAX.as_secs()
            )),
        ),
    }
}
