//! What the state is made of: records of what entries did, and alarms about what they did not do.

use crate::entry::MemberKey;
use serde::{Deserialize, Serialize};
use std::fmt;
use synod_ledger::{Decision, WrongTrade};
use synod_wire::trade::TradeRefusal;
use synod_wire::{Address, BlockRef, Hash, Incarnation, Term, Token};

/// One increment that took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Log time, unix milliseconds.
    pub timestamp_ms: u64,
    /// The counter after it.
    pub new_value: u64,
    /// Wallet of the leader that took it.
    pub leader: Address,
    /// Where it stands in the log.
    pub index: u64,
}

/// A term as the log knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TermRecord {
    /// The contract's term.
    pub term: Term,
    /// Its leader, for ever.
    pub leader: Token,
    /// Which registration.
    pub incarnation: Incarnation,
    /// The `elect` transaction.
    pub tx: Hash,
    /// Its block.
    pub block: u64,
    /// Where the TermStart stands.
    pub index: u64,
    /// Who voted while muted.
    pub voted_muted: Vec<Token>,
    /// The wallet that its first increment named; the term knows no other.
    pub author: Option<Address>,
}

/// The newest `Members` entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembersRecord {
    /// Where it was read.
    pub block: BlockRef,
    /// What it hashes to.
    pub roster_hash: Hash,
    /// Ascending by token.
    pub members: Vec<MemberKey>,
    /// Where it stands.
    pub index: u64,
}

/// Why an entry was a no-op, wholly or in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AlarmKind {
    /// Something stands before Genesis.
    BeforeGenesis,
    /// A log is born once.
    SecondGenesis,
    /// A TermStart of a term below the log's.
    TermWentBack,
    /// A TermStart names another leader than the first of its term.
    SecondLeader,
    /// An increment before any TermStart.
    NoTerm,
    /// An increment by another wallet than the term's.
    ForeignAuthor,
    /// A roster of an older block than the one in force.
    RosterWentBack,
    /// A roster that is empty, not ascending, or not the one that its hash names.
    BadRoster,
    /// The counter is at its highest value.
    CounterFull,
    /// A settlement that no honest leader writes: invented, altered, or too early.
    WrongTrade(WrongTrade),
    /// A `Close` of a token that is not listed, or of an incarnation that the log does not know yet.
    ForeignClose,
    /// A member is listed, but its genesis credit would not fit into what was issued; it got none.
    CreditFull,
}

/// An entry that did not fit, with its place as the proof.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// Where it stands.
    pub index: u64,
    /// What it wanted to be.
    pub entry: String,
    /// What did not fit.
    pub kind: AlarmKind,
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { index, entry, kind } = self;
        match kind {
            AlarmKind::CreditFull => write!(
                f,
                "entry {index} ({entry}) lists a member whose credit does not fit: it got none"
            ),
            _ => write!(f, "entry {index} ({entry}) is a no-op: {kind:?}"),
        }
    }
}

/// What applying one entry did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The engine's own entry; the state did not look at it.
    Engine,
    /// The log is born.
    Genesis,
    /// `true`: this is the first of its term and fixes the leader; `false`: a no-op.
    TermStarted(bool),
    /// A roster is in force.
    Members,
    /// The counter went up.
    Incremented {
        /// The counter now.
        new_value: u64,
        /// Number of operations so far.
        operation_id: u64,
    },
    /// The log has decided this trade, by this entry or an earlier one.
    Settled(Decided),
    /// A settlement that decides nothing: a signature is of an incarnation that has ended.
    Void,
    /// An incarnation's messages end here.
    Closed,
    /// A no-op with an alarm.
    Refused(Alarm),
}

/// [`Decision`] as the engine's answer carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decided {
    /// The credits moved.
    Settled,
    /// The other side refused, or the balance did not cover it.
    Refused(TradeRefusal),
    /// Its entry came after its expiry.
    Expired,
}

impl From<Decision> for Decided {
    fn from(decision: Decision) -> Self {
        match decision {
            Decision::Settled => Self::Settled,
            Decision::Refused(why) => Self::Refused(why),
            Decision::Expired => Self::Expired,
        }
    }
}
