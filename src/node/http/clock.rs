//! `GET /clock`: the vector clock of what was delivered here; 503 while muted.

use super::problem::Problem;
use super::{Shared, readable, types};
use axum::Json;
use axum::extract::State;

pub(super) async fn show(State(backend): State<Shared>) -> Result<Json<types::ClockView>, Problem> {
    readable(&backend)?;
    Ok(Json(backend.clock()))
}
