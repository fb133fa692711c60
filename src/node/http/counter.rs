//! `GET /counter`: the value applied here, which may lag behind the leader's.

use super::{Shared, types};
use axum::Json;
use axum::extract::State;

pub(super) async fn show(State(backend): State<Shared>) -> Json<types::Counter> {
    Json(backend.counter())
}
