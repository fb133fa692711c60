//! `GET /balances`: everybody's credits as applied here; 503 while muted.

use super::problem::Problem;
use super::{Shared, readable, types};
use axum::Json;
use axum::extract::State;

pub(super) async fn show(State(backend): State<Shared>) -> Result<Json<types::Balances>, Problem> {
    readable(&backend)?;
    Ok(Json(backend.balances()))
}
