//! `GET /status`: everything this node knows about itself, for the owner and for scripts.

use super::{Shared, types};
use axum::Json;
use axum::extract::State;

pub(super) async fn show(State(backend): State<Shared>) -> Json<types::Status> {
    Json(backend.status())
}
