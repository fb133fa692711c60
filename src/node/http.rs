//! The HTTP API of a node: the prototype's routes and fields, fields added. Loopback only until there is a
//! token for writers; a browser page of somebody else gets nothing (`guard`). Every error is an RFC 9457
//! body that keeps the prototype's `error` field.

mod counter;
mod guard;
mod health;
mod increment;
mod log;
mod members;
mod metrics;
pub mod problem;
mod server;
mod status;
mod trades;
pub mod types;

pub use increment::{IncrementRefused, LeaderHint};
pub use server::serve;
pub use trades::TradeRefused;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};
use futures_util::future::BoxFuture;
use problem::Problem;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast;

/// What the API shows and the prompt asks for; what returns no future answers from what this node has at hand.
pub trait Backend: Send + Sync + 'static {
    /// The whole state.
    fn status(&self) -> types::Status;
    /// Who is a member.
    fn members(&self) -> types::Members;
    /// May counter and log be shown? A restarted node is muted: its disk may be an older one.
    fn readable(&self) -> Result<(), String>;
    /// The counter, as applied here.
    fn counter(&self) -> types::Counter;
    /// Applied increments from position `from` on (0, or the `next` of the page before), `limit` at most.
    fn log(&self, from: u64, limit: u32) -> types::LogPage;
    /// Add one; the future ends when the entry is applied, or is refused.
    fn increment(&self) -> BoxFuture<'static, Result<types::Incremented, IncrementRefused>>;
    /// Everybody's credits, as applied here.
    fn balances(&self) -> types::Balances;
    /// Decided trades from position `from` on (as in [`Backend::log`]); undecided ones are in every page.
    fn trades(&self, from: u64, limit: u32) -> types::TradesPage;
    /// Causal messages delivered here.
    fn clock(&self) -> types::ClockView;
    /// Offer a trade. With `wait` the future ends when the log has decided or after [`TRADE_WAIT_MAX`], without it
    /// when the offer is on its way.
    fn trade(
        &self,
        wish: types::TradeWish,
    ) -> BoxFuture<'static, Result<types::TradeEnd, TradeRefused>>;
    /// The prototype's `/peers`.
    fn peers(&self) -> types::Peers;
    /// The prototype's `/info`.
    fn info(&self) -> types::Info;
    /// The prototype's `/wallet-info`.
    fn wallet_info(&self) -> types::WalletInfo;
    /// Prometheus text.
    fn metrics(&self) -> String;

    /// Control socket only: an election now; what became of it, in words.
    fn call_election(&self) -> BoxFuture<'static, Result<String, String>>;
    /// Control socket only: the prototype's event lines from now on, each without its newline.
    fn lines(&self) -> broadcast::Receiver<String>;
    /// Control socket only: leave the cluster and end the process.
    fn quit(&self);
}

/// A trade that is undecided by then is answered as it is. Shorter than the guard's limit for any answer.
pub const TRADE_WAIT_MAX: Duration = Duration::from_secs(25);

type Shared = Arc<dyn Backend>;

/// The API on one screen.
fn routes(backend: Shared, guard: guard::Guard) -> Router {
    Router::new()
        .route("/status", get(status::show))
        .route("/counter", get(counter::show))
        .route("/increment", post(increment::add))
        .route("/members", get(members::show))
        .route("/log", get(log::page))
        .route("/health", get(health::show))
        .route("/metrics", get(metrics::show))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(axum::middleware::from_fn_with_state(
            Arc::new(guard),
            guard::check,
        ))
        .with_state(backend)
}

/// 503 until this node may answer reads.
fn readable(backend: &Shared) -> Result<(), Problem> {
    let refused = |why: String| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "Not now")
            .detail(why)
            .retry_after(1)
    };
    backend.readable().map_err(refused)
}

async fn unknown(uri: axum::http::Uri) -> Problem {
    let path: String = uri.path().chars().take(80).collect();
    Problem::new(StatusCode::NOT_FOUND, "No such route")
        .detail(format!("{path:?} is not a route; there are {ROUTES}"))
}

async fn wrong_method(method: axum::http::Method, uri: axum::http::Uri) -> Problem {
    let path: String = uri.path().chars().take(80).collect();
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "Wrong method")
        .detail(format!("{path} does not take {method}; there are {ROUTES}"))
}

const ROUTES: &str = "GET /status /counter /members /log /health /metrics and POST /increment";

#[cfg(test)]
mod tests;
