//! `GET /members`: the contract's members, with what the detector says of each.

use super::{Shared, types};
use axum::Json;
use axum::extract::State;

pub(super) async fn show(State(backend): State<Shared>) -> Json<types::Members> {
    Json(backend.members())
}
