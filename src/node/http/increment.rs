//! `POST /increment`: only the leader adds; others say who it is. A refusal means "not added", except for
//! 504, which means "nobody knows yet".

use super::problem::Problem;
use super::{Shared, types};
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

/// The prototype's words; clients compare them.
const ONLY_LEADER: &str = "Only leader can increment counter";

/// Whom to ask instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderHint {
    /// Its token.
    pub token: u64,
    /// Its wallet, 0x and 40 hex digits.
    pub wallet: String,
    /// Its API, when it has told us.
    pub url: Option<String>,
}

/// Why nothing was added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IncrementRefused {
    /// We are not the leader in office.
    NotLeader {
        /// Who is, if anybody.
        leader: Option<LeaderHint>,
    },
    /// Not now: no quorum, muted, too busy.
    Unavailable {
        /// Why.
        why: String,
        /// When to try again.
        retry_after_s: u64,
    },
    /// Proposed, but neither applied nor refused in time: it may still be committed.
    Unknown {
        /// Why.
        why: String,
    },
}

pub(super) async fn add(
    State(backend): State<Shared>,
    headers: HeaderMap,
) -> Result<Json<types::Incremented>, Problem> {
    if headers.contains_key("idempotency-key") {
        return Err(Problem::new(
            StatusCode::NOT_IMPLEMENTED,
            "Idempotency keys are not implemented",
        )
        .detail(
            "a retry would count twice; ask without the header, and after a 504 look at /log first",
        ));
    }
    backend.increment().await.map(Json).map_err(Problem::from)
}

impl From<IncrementRefused> for Problem {
    fn from(refused: IncrementRefused) -> Self {
        match refused {
            IncrementRefused::NotLeader { leader } => {
                let detail = match &leader {
                    Some(LeaderHint {
                        token,
                        url: Some(url),
                        ..
                    }) => format!("the leader is token {token} at {url}; ask there"),
                    Some(LeaderHint {
                        token, url: None, ..
                    }) => format!("the leader is token {token}; ask it"),
                    None => "the office is vacant; try again after the election".to_owned(),
                };
                Self::new(StatusCode::FORBIDDEN, ONLY_LEADER)
                    .detail(detail)
                    .with("leader", hint(leader))
            }
            IncrementRefused::Unavailable { why, retry_after_s } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "Not now")
                    .detail(why)
                    .retry_after(retry_after_s)
            }
            IncrementRefused::Unknown { why } => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, "Outcome unknown").detail(format!(
                    "{why}; it may still be added: look at /log before you try again"
                ))
            }
        }
    }
}

fn hint(leader: Option<LeaderHint>) -> Value {
    leader.map_or(
        Value::Null,
        |l| json!({ "token_id": l.token, "wallet_address": l.wallet, "url": l.url }),
    )
}
