//! `GET /log?from=&limit=`: applied increments, oldest first, in pages.

use super::paging::{PageQuery, page};
use super::problem::Problem;
use super::{Shared, readable, types};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};

pub(super) async fn show(
    State(backend): State<Shared>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<types::LogPage>, Problem> {
    let (from, limit) = page(query)?;
    readable(&backend)?;
    Ok(Json(backend.log(from, limit)))
}
