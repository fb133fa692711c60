//! `GET /counter`: the value applied here, which may lag behind the leader's; 503 while muted.

use super::problem::Problem;
use super::{Shared, readable, types};
use axum::Json;
use axum::extract::State;

pub(super) async fn show(State(backend): State<Shared>) -> Result<Json<types::Counter>, Problem> {
    readable(&backend)?;
    Ok(Json(backend.counter()))
}
