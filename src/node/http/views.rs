//! `GET /peers`, `/info`, `/wallet-info`: what `/status` and `/members` say, in the prototype's shapes.

use super::{Shared, types};
use axum::Json;
use axum::extract::State;

pub(super) async fn peers(State(backend): State<Shared>) -> Json<types::Peers> {
    Json(backend.peers())
}

pub(super) async fn info(State(backend): State<Shared>) -> Json<types::Info> {
    Json(backend.info())
}

pub(super) async fn wallet_info(State(backend): State<Shared>) -> Json<types::WalletInfo> {
    Json(backend.wallet_info())
}
