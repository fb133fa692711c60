//! `from=` and `limit=`: how lists that only grow are read.

use super::problem::Problem;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::StatusCode;
use serde::Deserialize;

/// Items of one page.
pub(super) const LIMIT_MAX: u32 = 1_000;

/// As asked for; other names do not come this far (`query`).
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) struct PageQuery {
    from: Option<u64>,
    limit: Option<u32>,
}

/// Where the page begins, and how long it is at the most.
pub(super) fn page(query: Result<Query<PageQuery>, QueryRejection>) -> Result<(u64, u32), Problem> {
    let bad = |found: String| {
        Problem::new(StatusCode::BAD_REQUEST, "Bad query").detail(format!(
            "expected from=0… and limit=1…{LIMIT_MAX}, found {found}"
        ))
    };
    let Query(query) = query.map_err(|why| bad(why.body_text()))?;
    let limit = query.limit.unwrap_or(LIMIT_MAX);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(bad(format!("limit={limit}")));
    }
    Ok((query.from.unwrap_or(0), limit))
}
