//! The JSON of the API, field by field. The prototype's names and shapes stay; fields are added, never
//! renamed. Only these files know them: the node converts by hand.

mod trades;
mod views;

pub use trades::*;
pub use views::*;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `GET /status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// dstack instance id, hex.
    pub instance_id: String,
    /// Name given at minting.
    pub name: String,
    /// NFT.
    pub token_id: u64,
    /// Address of the node's wallet.
    pub wallet_address: String,
    /// The same, under the prototype's later name.
    pub host_key_address: String,
    /// We are the leader in office.
    pub is_leader: bool,
    /// As applied here.
    pub counter_value: u64,
    /// Active members in the contract.
    pub total_active_nodes: u64,
    /// Ballots that an election needs.
    pub required_votes: u64,
    /// The leader's address; the zero address while the office is vacant.
    pub current_leader: String,
    /// The leader's token.
    pub leader_token: Option<u64>,
    /// Unix time.
    pub last_leader_heartbeat: Option<f64>,
    /// Term of the contract.
    pub term: u64,
    /// Our registration.
    pub incarnation: u64,
    /// We may not vote, sign or answer reads.
    pub muted: bool,
    /// How far this node has got: `waiting_for_agent` … `serving`, `fenced`.
    pub phase: String,
    /// The phase in one sentence.
    pub summary: String,
    /// What somebody must bring.
    pub missing: Vec<Missing>,
    /// The chain as seen here.
    pub chain: Chain,
    /// The log as held here.
    pub log: Log,
    /// The last term that the log itself names.
    pub log_term: Option<LogTerm>,
    /// Every term that the log names, oldest first.
    pub log_terms: Vec<LogTerm>,
    /// How often the cluster started with muted voters.
    pub cold_starts: u64,
    /// Datagrams.
    pub frames: Frames,
    /// Links.
    pub links: Links,
    /// Causal messages.
    pub ledger: Causal,
    /// Refusals by our own gates.
    pub gate_refusals: BTreeMap<String, u64>,
    /// Elections that the engine began unasked; 0 or a bug.
    pub unasked_elections: u64,
    /// What this node's evidence is worth: `SIMULATED …`, `UNATTESTED …`.
    pub attestation: String,
    /// What an operator should look at.
    pub alarms: Vec<String>,
}

/// Something that must come from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// What.
    pub what: String,
    /// What it should be.
    pub expected: String,
    /// What it is.
    pub found: String,
    /// What to do.
    pub remedy: String,
}

/// The chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// EIP-155.
    pub chain_id: u64,
    /// Membership contract.
    pub contract: String,
    /// Endpoint, without secrets.
    pub rpc: String,
    /// Number of the block last read.
    pub block: Option<u64>,
    /// The last read succeeded.
    pub reachable: bool,
    /// Why not.
    pub why: Option<String>,
}

/// The log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// Hash of its first entry.
    pub log_id: Option<String>,
    /// Last durable entry.
    pub position: Position,
    /// Last committed index known here.
    pub committed: u64,
    /// Last index applied here.
    pub applied: u64,
    /// The engine's word: leader, follower, learner …
    pub role: String,
}

/// A place in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The engine's own term; not the contract's.
    pub raft_term: u64,
    /// Index.
    pub index: u64,
}

/// A TermStart entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogTerm {
    /// Contract's term.
    pub term: u64,
    /// Token of its leader.
    pub leader: u64,
    /// The leader's incarnation.
    pub incarnation: u64,
    /// Transaction that elected it.
    pub tx: String,
    /// Number of its block.
    pub block: u64,
    /// Tokens that voted although muted.
    pub voted_muted: Vec<u64>,
}

/// Datagrams by kind or reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frames {
    /// By kind.
    pub sent: BTreeMap<String, u64>,
    /// By kind.
    pub received: BTreeMap<String, u64>,
    /// By reason.
    pub refused: BTreeMap<String, u64>,
    /// Received, by way (`multicast`, `unicast`, `link`) and then by kind.
    pub by_way: BTreeMap<String, BTreeMap<String, u64>>,
}

/// Causal messages since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Causal {
    /// Delivered, in causal order.
    pub delivered: u64,
    /// Known already.
    pub duplicates: u64,
    /// Had to wait for others.
    pub held: u64,
    /// Had no place to wait.
    pub dropped: u64,
    /// Questions after missing ones.
    pub asked: u64,
    /// Handed on to who missed them.
    pub relayed: u64,
    /// Of an incarnation that has ended.
    pub void: u64,
    /// Refused, by reason.
    pub refused: BTreeMap<String, u64>,
}

/// Links.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Links {
    /// Now.
    pub open: u64,
    /// Handshakes with both hellos verified, dialled ones too.
    pub accepted: u64,
    /// By reason.
    pub refused: BTreeMap<String, u64>,
}

/// `GET /counter`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// As applied here.
    pub value: u64,
    /// dstack instance id, hex.
    pub instance_id: String,
    /// We are the leader in office.
    pub is_leader: bool,
    /// Last index applied here.
    pub applied_index: u64,
}

/// `POST /increment`, added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incremented {
    /// Always true; a refusal has another status.
    pub success: bool,
    /// The counter after it.
    pub new_value: u64,
    /// Which operation this was, from 1.
    pub operation_id: u64,
    /// Its log index.
    pub index: u64,
    /// Contract's term.
    pub term: u64,
}

/// `GET /log`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LogPage {
    /// Oldest first.
    pub operations: Vec<Operation>,
    /// Of the whole log.
    pub total_operations: u64,
    /// `from` of the next page; null at the end.
    pub next: Option<u64>,
}

/// One applied increment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// Unix time by the leader's clock.
    pub timestamp: f64,
    /// `increment`.
    pub operation: String,
    /// The counter after it.
    pub new_value: u64,
    /// Address of the leader that added it.
    pub leader: String,
    /// Its log index.
    pub index: u64,
}

/// `GET /members`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// Instance ids, hex without 0x.
    pub active_instances: Vec<String>,
    /// How many.
    pub total_active: u64,
    /// In detail, by token.
    pub members: Vec<Member>,
}

/// One member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// NFT.
    pub token_id: u64,
    /// Name given at minting.
    pub name: String,
    /// dstack instance id, hex.
    pub instance_id: String,
    /// Wallet.
    pub wallet_address: String,
    /// Registration.
    pub incarnation: u64,
    /// Has a seat in the contract.
    pub seated: bool,
    /// `SELF`, `ALIVE`, `SUSPECTED`, `FAILED` or `UNKNOWN`.
    pub state: String,
    /// It says that it is muted.
    pub muted: bool,
    /// Its API.
    pub http: Option<String>,
    /// Its link, as the contract has it.
    pub endpoint: String,
    /// Milliseconds since its last verified frame.
    pub last_heard_ms: Option<u64>,
    /// Leader in office.
    pub is_leader: bool,
}

/// `GET /health`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// Always `healthy`: the process answers.
    pub status: String,
    /// dstack instance id, hex.
    pub instance_id: String,
    /// Unix time.
    pub timestamp: f64,
}
