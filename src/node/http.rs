//! The HTTP API of a node: the prototype's routes and fields, fields added. Loopback only until there is a
//! token for writers; a browser page of somebody else gets nothing (`guard`). Every error is an RFC 9457
//! body that keeps the prototype's `error` field. The control socket serves the same routes (`control`).

mod balances;
mod clock;
mod counter;
mod gone;
mod guard;
mod health;
mod increment;
mod log;
mod members;
mod metrics;
mod paging;
pub mod problem;
mod query;
pub(crate) mod server;
mod status;
mod trades;
pub mod types;
mod views;

pub use increment::{IncrementRefused, LeaderHint};
pub use server::serve;
pub use trades::TradeRefused;

use axum::Router;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{any, get, post};
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
    /// Control socket only: the prototype's event lines, each without its newline: the last ones so far, and those from
    /// now on.
    fn lines(&self) -> (Vec<String>, broadcast::Receiver<String>);
    /// Control socket only: leave the cluster and end the process.
    fn quit(&self);
}

/// A trade that is undecided by then is answered as it is. Shorter than the guard's limit for any answer.
pub const TRADE_WAIT_MAX: Duration = Duration::from_secs(25);

type Shared = Arc<dyn Backend>;

/// The API on one screen.
fn routes() -> Router<Shared> {
    Router::new()
        .route("/status", get(status::show))
        .route("/counter", get(counter::show))
        .route("/increment", post(increment::add))
        .route("/members", get(members::show))
        .route("/log", get(log::show))
        .route("/balances", get(balances::show))
        .route("/trades", get(trades::list).post(trades::offer))
        .route("/clock", get(clock::show))
        .route("/peers", get(views::peers))
        .route("/info", get(views::info))
        .route("/wallet-info", get(views::wallet_info))
        .route("/health", get(health::show))
        .route("/metrics", get(metrics::show))
        .route_layer(from_fn(query::check))
        .route("/mint-nft", any(gone::mint))
        .route("/register", any(gone::register))
        .route("/register-instance", any(gone::register))
        .route("/register-peer", any(gone::register_peer))
}

/// For TCP: behind the guard.
fn guarded(backend: Shared, guard: guard::Guard) -> Router {
    let check = from_fn_with_state(Arc::new(guard), guard::check);
    closed(routes().with_state(backend), ROUTES).layer(check)
}

/// For whoever may open the control socket: no name and no origin is asked for, and there is `more`.
pub(crate) fn trusted(backend: Shared, more: Router, more_routes: &str) -> Router {
    let more = more.route_layer(from_fn(query::check));
    let all = routes().with_state(backend).merge(more);
    closed(all, &format!("{ROUTES}; here also {more_routes}")).layer(from_fn(guard::bounded))
}

const ROUTES: &str = "GET /status /counter /members /log /balances /trades /clock /peers /info /wallet-info /health \
                      /metrics and POST /increment /trades";

/// What is no route is a problem, too.
fn closed(router: Router, routes: &str) -> Router {
    let (one, two) = (Arc::<str>::from(routes), Arc::<str>::from(routes));
    router
        .fallback(move |uri: Uri| async move { unknown(&uri, &one) })
        .method_not_allowed_fallback(move |method: Method, uri: Uri| async move {
            wrong_method(&method, &uri, &two)
        })
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

fn unknown(uri: &Uri, routes: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "No such route").detail(format!(
        "{:?} is not a route; there are {routes}",
        path(uri)
    ))
}

fn wrong_method(method: &Method, uri: &Uri, routes: &str) -> Problem {
    let method: String = method.as_str().chars().take(20).collect();
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "Wrong method").detail(format!(
        "{} does not take {method}; there are {routes}",
        path(uri)
    ))
}

fn path(uri: &Uri) -> String {
    uri.path().chars().take(80).collect()
}

#[cfg(test)]
mod tests;
