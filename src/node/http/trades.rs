//! `GET /trades?from=&limit=` and `POST /trades`. The log decides a trade; what is answered here is its
//! decision, or how far it had got when the wait ended.

use super::paging::{PageQuery, page};
use super::problem::Problem;
use super::types::{Trade, TradeEnd, TradeStatus, TradeWish, TradesPage};
use super::{Shared, readable};
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{from_slice, from_str, json};
use synod_wire::Wh;
use synod_wire::trade::Side;

/// Longest body of a wish: the longest one that makes sense is a fifth of it.
pub(super) const WISH_LEN_MAX: usize = 1 << 10;
/// What people are told of a body that is none.
const WISH: &str = r#"{"type":"sell"|"buy","with":<token>,"amount":<credits>} or "amount_wh" instead of "amount", and "wait":false if the end is not awaited"#;

pub(super) async fn list(
    State(backend): State<Shared>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<TradesPage>, Problem> {
    let (from, limit) = page(query)?;
    readable(&backend)?;
    Ok(Json(backend.trades(from, limit)))
}

pub(super) async fn offer(
    State(backend): State<Shared>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    if headers.contains_key("idempotency-key") {
        return Err(Problem::new(
            StatusCode::NOT_IMPLEMENTED,
            "Idempotency keys are not implemented",
        )
        .detail(
            "a retry would be another trade; ask without the header, and look at /trades first",
        ));
    }
    Ok(answer(backend.trade(wish(&body)?).await?))
}

/// The HTTP status follows from how far the trade is.
fn answer(end: TradeEnd) -> Response {
    match end.trade.status {
        TradeStatus::Settled => (StatusCode::OK, Json(end)).into_response(),
        TradeStatus::Open | TradeStatus::Confirmed => {
            (StatusCode::ACCEPTED, Json(end)).into_response()
        }
        TradeStatus::Refused => failed(&end.trade, "refused"),
        TradeStatus::Expired => failed(&end.trade, "expired"),
    }
}

fn failed(trade: &Trade, how: &str) -> Response {
    let reason = trade.reason.as_deref().unwrap_or(how);
    Problem::new(StatusCode::CONFLICT, reason)
        .detail(format!(
            "trade {} {how}: {reason}; no credits moved",
            trade.id
        ))
        .with("success", json!(false))
        .with("trade", json!(trade))
        .into_response()
}

/// As sent. Amounts stay text until `Wh` reads them: floating point would lose what was typed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked<'a> {
    #[serde(rename = "type")]
    side: AskedSide,
    with: u64,
    #[serde(borrow)]
    amount: Option<&'a RawValue>,
    #[serde(borrow)]
    amount_wh: Option<&'a RawValue>,
    wait: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum AskedSide {
    Sell,
    Buy,
}

fn wish(body: &[u8]) -> Result<TradeWish, Problem> {
    let bad = |found: String| {
        let found: String = found.chars().take(160).collect();
        Problem::new(StatusCode::BAD_REQUEST, "Bad trade")
            .detail(format!("expected {WISH}, found {found}"))
    };
    if body.len() > WISH_LEN_MAX {
        return Err(
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "Body refused").detail(format!(
                "expected at most {WISH_LEN_MAX} bytes, found {}; {WISH}",
                body.len()
            )),
        );
    }
    let asked: Asked<'_> = from_slice(body).map_err(|why| bad(why.to_string()))?;
    let amount = match (asked.amount, asked.amount_wh) {
        (Some(credits), None) => amount_in_credits(credits)?,
        (None, Some(wh)) => amount_in_wh(wh)?,
        (Some(_), Some(_)) => return Err(bad("both amounts".to_owned())),
        (None, None) => return Err(bad("no amount".to_owned())),
    };
    if amount == Wh(0) {
        return Err(not_positive());
    }
    Ok(TradeWish {
        side: match asked.side {
            AskedSide::Sell => Side::Sell,
            AskedSide::Buy => Side::Buy,
        },
        with: asked.with,
        amount,
        wait: asked.wait.unwrap_or(true),
    })
}

/// A JSON number or string, digit by digit as it was sent.
fn amount_in_credits(raw: &RawValue) -> Result<Wh, Problem> {
    let text = raw.get();
    let inner = text
        .starts_with('"')
        .then(|| from_str::<String>(text).unwrap_or_default());
    inner
        .as_deref()
        .unwrap_or(text)
        .parse()
        .map_err(|why: synod_wire::trade::BadAmount| bad_amount(&why.to_string()))
}

fn amount_in_wh(raw: &RawValue) -> Result<Wh, Problem> {
    let text = raw.get();
    // u64 would take a plus sign, JSON does not
    text.parse().map(Wh).map_err(|_| {
        let found: String = text.chars().take(40).collect();
        bad_amount(&format!(
            "expected whole watt-hours as a number (1,000 make one credit), found {found}"
        ))
    })
}

fn bad_amount(what: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, what).detail(format!(
        "{what}; the amount is positive, without sign and exponent"
    ))
}

/// Why a wish did not become a trade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TradeRefused {
    /// With oneself.
    SelfTrade,
    /// Of nothing.
    NotPositive,
    /// The other side is no member.
    UnknownNode {
        /// Its token.
        with: u64,
        /// Who is.
        active: Vec<u64>,
    },
    /// Our own balance, less what is reserved, does not cover it.
    Insufficient {
        /// Wanted.
        amount: Wh,
        /// What is left.
        available: Wh,
    },
    /// Not now: muted, not registered yet, too many undecided trades, stopping.
    Unavailable {
        /// Why.
        why: String,
        /// When to try again.
        retry_after_s: u64,
    },
    /// Not by this boot of this node; the reason says what helps.
    Barred {
        /// Why.
        why: String,
    },
    /// It was handed over, and nobody can say what became of it: it may still settle.
    OutcomeUnknown {
        /// Why.
        why: String,
    },
}

impl From<TradeRefused> for Problem {
    fn from(refused: TradeRefused) -> Self {
        let conflict = |words: &str| Self::new(StatusCode::CONFLICT, words);
        match refused {
            TradeRefused::SelfTrade => conflict("Cannot trade with yourself")
                .detail("expected the token of another member in \"with\", found this node's own"),
            TradeRefused::NotPositive => not_positive(),
            TradeRefused::UnknownNode { with, active } => conflict(&format!(
                "Node {with} is not available in the system. Active nodes: {active:?}"
            ))
            .detail("expected the token of an active member in \"with\"; /members lists them"),
            TradeRefused::Insufficient { amount, available } => conflict(&format!(
                "Cannot sell {amount} energy credits - insufficient balance"
            ))
            .detail(format!(
                "expected at most {available} credits, which is the balance less what undecided trades \
                 reserve, found {amount}; /balances shows both"
            )),
            TradeRefused::Unavailable { why, retry_after_s } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "Not now")
                    .detail(why)
                    .retry_after(retry_after_s)
            }
            TradeRefused::Barred { why } => {
                Self::new(StatusCode::CONFLICT, "This node cannot trade").detail(why)
            }
            TradeRefused::OutcomeUnknown { why } => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, "Outcome unknown").detail(format!(
                    "{why}; it may still be settled: look at /trades before you try again"
                ))
            }
        }
    }
}

fn not_positive() -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "the amount must be positive")
        .detail("expected more than 0 credits, found 0")
}
