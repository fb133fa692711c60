//! `GET /log?from=&limit=`: applied increments, oldest first, in pages.

use super::problem::Problem;
use super::{Shared, readable, types};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;

/// Operations of one page.
pub(super) const LIMIT_MAX: u32 = 1_000;

pub(super) async fn page(
    State(backend): State<Shared>,
    query: Result<Query<types::LogQuery>, QueryRejection>,
) -> Result<Json<types::LogPage>, Problem> {
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
    readable(&backend)?;
    Ok(Json(backend.log(query.from.unwrap_or(0), limit)))
}
