//! What may stand behind the `?` of a route, told before the route sees it: a parameter that nobody reads would be a
//! wish that is silently not met.

use super::paging::LIMIT_MAX;
use super::problem::Problem;
use axum::extract::Request;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

const PAGE: &[&str] = &["from", "limit"];

/// The layer of every route that answers.
pub(super) async fn check(request: Request, next: Next) -> Response {
    match admit(request.method(), request.uri()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn admit(method: &Method, uri: &Uri) -> Result<(), Problem> {
    let taken = match uri.path() {
        "/log" => PAGE,
        "/trades" if *method != Method::POST => PAGE,
        _ => &[],
    };
    let all = uri.query().unwrap_or_default().split('&');
    for parameter in all.filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=').unwrap_or((parameter, "")) {
            ("forward", "true") => return Err(no_forwarding()),
            // what happens anyway
            ("forward", "false") => {}
            ("forward", _) => return Err(bad("forward=false", parameter)),
            (name, _) if taken.contains(&name) => {}
            _ if *method == Method::POST => {
                return Err(bad(
                    "no parameters (what there is to say stands in the body)",
                    parameter,
                ));
            }
            _ if taken.is_empty() => return Err(bad("no parameters", parameter)),
            _ => {
                let expected = format!("from=0… and limit=1…{LIMIT_MAX}");
                return Err(bad(&expected, parameter));
            }
        }
    }
    Ok(())
}

fn no_forwarding() -> Problem {
    Problem::new(StatusCode::NOT_IMPLEMENTED, "Forwarding is not implemented").detail(
        "ask without forward=true: each node answers reads from what it has applied, and only the leader adds; \
         /status names it, and so does a follower's 403",
    )
}

fn bad(expected: &str, found: &str) -> Problem {
    let found: String = found.chars().take(80).collect();
    Problem::new(StatusCode::BAD_REQUEST, "Bad query")
        .detail(format!("expected {expected}, found {found:?}"))
}
