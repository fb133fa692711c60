//! The replicated log: a fence around the Raft engine. Engine inside, plain types outside.
//!
//! `entry` and `state` say what is written and what it means; `gate` says who may speak to the engine at
//! all; `engine` is what the node holds, `propose` what it writes, `members` how its voters follow the
//! roster. Nobody outside this crate sees openraft.

mod answer;
mod disk;
mod engine;
mod entry;
mod gate;
mod machine;
mod members;
mod network;
mod propose;
mod raft;
mod request;
mod state;
mod store;
mod view;

#[cfg(test)]
mod suite;

pub use disk::OpenError;
pub use engine::{Engine, EngineError, Settings};
pub use entry::{BadEntry, Body, ENTRY_LEN_MAX, Entry, MemberKey};
pub use gate::{
    Before, Gate, Head, Kind, Mute, Now, Peer, Promise, Refusal, Standing, VoterSets, judge,
};
pub use members::MembersStep;
pub use network::{Courier, CourierError};
pub use propose::{Committed, PROPOSE_LEN_MAX, ProposeError};
pub use request::REQUEST_LEN_MAX;
pub use state::{Alarm, AlarmKind, Decided, MembersRecord, Operation, Outcome, State, TermRecord};
pub use view::{Role, View};
