//! `GET /trades?from=&limit=` and `POST /trades`. The log decides a trade; what is answered here is its
//! decision, or how far it had got when the wait ended.

use super::problem::Problem;
use axum::http::StatusCode;
use synod_wire::Wh;

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
