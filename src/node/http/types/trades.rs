//! Balances, trades and the clock. An amount is a JSON number of credits; the whole watt-hours beside it
//! (`*_wh`) are the exact figure.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use synod_wire::Wh;
use synod_wire::trade::Side;

/// `GET /balances`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Balances {
    /// Everybody's, by token.
    pub balances: Vec<Balance>,
    /// Their sum.
    pub total: f64,
    /// The same in watt-hours.
    pub total_wh: u64,
    /// What all members together were ever credited; `total_wh` is never another number.
    pub issued_wh: u64,
    /// What this node's own undecided payments keep back.
    pub reserved: f64,
    /// The same in watt-hours.
    pub reserved_wh: u64,
    /// dstack instance id, hex.
    pub instance_id: String,
    /// Whose node answers.
    pub token_id: u64,
    /// Its own balance.
    pub balance: f64,
    /// The same in watt-hours.
    pub balance_wh: u64,
    /// Last index applied here.
    pub applied_index: u64,
}

/// One member's balance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Balance {
    /// NFT.
    pub token_id: u64,
    /// Name given at minting.
    pub name: String,
    /// Credits.
    pub balance: f64,
    /// The same in watt-hours.
    pub balance_wh: u64,
}

/// How far a trade is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TradeStatus {
    /// Offered; the other side has not answered here.
    #[default]
    Open,
    /// The other side agrees; the log has not decided.
    Confirmed,
    /// The log moved the credits.
    Settled,
    /// Refused, by the other side or by the log.
    Refused,
    /// Nobody confirmed it in time.
    Expired,
}

/// One trade. What only a decision gives is null before it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Trade {
    /// `proposer-incarnation-sequence`.
    pub id: String,
    /// Seen from the proposer: `SELL` or `BUY`.
    #[serde(rename = "type")]
    pub side: String,
    /// Token that offered it.
    pub proposer: u64,
    /// Token of the other side.
    pub with: u64,
    /// Token that pays.
    pub payer: u64,
    /// Token that is paid.
    pub payee: u64,
    /// Credits.
    pub amount: f64,
    /// The same in watt-hours.
    pub amount_wh: u64,
    /// How far it is.
    pub status: TradeStatus,
    /// Why it was refused or has expired.
    pub reason: Option<String>,
    /// Log index of the decision.
    pub index: Option<u64>,
    /// Unix time of the decision by the leader's clock.
    pub timestamp: Option<f64>,
    /// The payer's balance after it.
    pub payer_balance_wh: Option<u64>,
    /// The payee's balance after it.
    pub payee_balance_wh: Option<u64>,
}

/// `GET /trades`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TradesPage {
    /// Decided ones, oldest first.
    pub trades: Vec<Trade>,
    /// Undecided ones that were delivered here; in every page.
    pub open: Vec<Trade>,
    /// Decided ones in the whole log.
    pub total_trades: u64,
    /// `from` of the next page; null at the end.
    pub next: Option<u64>,
}

/// `GET /clock`: the causal messages that were delivered here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockView {
    /// Token to sequence, as the prototype showed it.
    pub clock: BTreeMap<u64, u64>,
    /// The same with incarnations.
    pub entries: Vec<ClockEntry>,
    /// Messages that wait for those before them.
    pub buffered: u64,
    /// dstack instance id, hex.
    pub instance_id: String,
}

/// How far one member had got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockEntry {
    /// NFT.
    pub token_id: u64,
    /// Its registration.
    pub incarnation: u64,
    /// Messages of that registration so far.
    pub sequence: u64,
}

/// What `POST /trades` asks for, checked: the amount is positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TradeWish {
    /// Which way.
    pub side: Side,
    /// Token of the other side.
    pub with: u64,
    /// How much.
    pub amount: Wh,
    /// Answer when it is decided, not when it is on its way.
    pub wait: bool,
}

/// Body of an answer to `POST /trades`; its HTTP status follows from `trade.status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TradeEnd {
    /// The credits moved.
    pub success: bool,
    /// As far as it is.
    pub trade: Trade,
}

impl From<Trade> for TradeEnd {
    fn from(trade: Trade) -> Self {
        Self {
            success: trade.status == TradeStatus::Settled,
            trade,
        }
    }
}
