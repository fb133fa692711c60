//! `GET /health`: the process answers, as in the prototype. Whether the node can do its work says `/status`.

use super::{Shared, types};
use axum::Json;
use axum::extract::State;

pub(super) async fn show(State(backend): State<Shared>) -> Json<types::Health> {
    let instance_id = backend.counter().instance_id;
    Json(types::Health {
        status: "healthy".to_owned(),
        instance_id,
        timestamp: crate::clock::wall_seconds(),
    })
}
