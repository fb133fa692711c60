//! `GET /metrics`: Prometheus text.

use super::Shared;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) async fn show(State(backend): State<Shared>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, OPEN_METRICS)], backend.metrics())
}
