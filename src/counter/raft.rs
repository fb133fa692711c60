//! The engine's types as this crate uses them. Engine indexes start at 0 (its first entry is the voter set);
//! outside they start at 1, so that position 0/0 and index 0 mean "nothing yet".

use crate::entry::Entry;
use crate::machine::Machine;
use crate::state::Outcome;
use openraft::alias::{EntryOf, LogIdOf, VoteOf};
use synod_wire::LogPosition;

openraft::declare_raft_types!(
    /// Contract tokens as node ids; a term has one leader (`leader_id_std`).
    pub Types:
        D = Entry,
        R = Outcome,
        NodeId = u64,
        Node = openraft::EmptyNode,
        Term = u64,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
);

pub type Raft = openraft::Raft<Types, Machine>;
pub type RaftEntry = EntryOf<Types>;
/// Who votes and who only takes the log.
pub type Voters = openraft::Membership<u64, openraft::EmptyNode>;
pub type LogId = LogIdOf<Types>;
pub type Vote = VoteOf<Types>;

/// Outside's index of an engine's log id; 0 = none.
pub fn outside(id: Option<LogId>) -> u64 {
    id.map_or(0, |id| id.index.saturating_add(1))
}

/// Outside's position of an engine's log id.
pub fn position(id: Option<LogId>) -> LogPosition {
    id.map_or_else(LogPosition::default, |id| LogPosition {
        raft_term: id.leader_id.term,
        index: id.index.saturating_add(1),
    })
}
