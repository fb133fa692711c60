//! What the node may know about its engine at a glance.

use crate::raft::{LogId, Types, outside, position};
use openraft::{Instant as _, RaftMetrics, ServerState};
use std::time::{Duration, Instant};
use synod_wire::{LogPosition, Token};

/// What the engine is at the moment. It says nothing about the office: the contract and the log do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Not in the voter set, or not born.
    #[default]
    Learner,
    /// Follows.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Leads the engine.
    Leader,
    /// Takes no part any more; `View::fault` says why.
    Stopped,
}

/// One look at the engine. Indexes start at 1; 0 = nothing yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Last durable log id.
    pub position: LogPosition,
    /// Highest index known to be committed here.
    pub committed: u64,
    /// Highest index applied to the state.
    pub applied: u64,
    /// What the engine is.
    pub role: Role,
    /// The engine's own term.
    pub raft_term: u64,
    /// Whom the engine follows.
    pub engine_leader: Option<Token>,
    /// Leader: since a quorum acknowledged.
    pub quorum_ack_age_ms: Option<u64>,
    /// Is there anything in the log?
    pub born: bool,
    /// Since the gate admitted an append.
    pub append_age_ms: Option<u64>,
    /// Who votes in the log, by the last voter set known here to be committed (in each half of a joint one). Ascending.
    pub voters: Vec<Token>,
    /// Who takes the log and does not vote in it, by the same set. Ascending.
    pub learners: Vec<Token>,
    /// Why this engine takes no part any more (another content under the same id, a broken disk).
    pub fault: Option<String>,
}

/// What a view is made of, beside the engine's metrics.
pub struct Sight {
    pub durable: Option<LogId>,
    pub applied: u64,
    pub last_append: Option<Instant>,
    pub fault: Option<String>,
}

impl View {
    /// Ages run all the time; a change of anything else is news.
    pub(crate) fn is_news(&self, old: &Self) -> bool {
        let ageless = |v: &Self| Self {
            quorum_ack_age_ms: None,
            append_age_ms: None,
            ..v.clone()
        };
        ageless(self) != ageless(old)
    }

    pub(crate) fn of(metrics: &RaftMetrics<Types>, sight: Sight) -> Self {
        let stopped = metrics
            .running_state
            .as_ref()
            .err()
            .map(ToString::to_string);
        let fault = sight.fault.or(stopped);
        let role = match metrics.state {
            _ if fault.is_some() => Role::Stopped,
            ServerState::Learner => Role::Learner,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Leader => Role::Leader,
            ServerState::Shutdown => Role::Stopped,
        };
        let committed = metrics.committed_membership_config.membership();
        let (voters, learners) = committed
            .nodes()
            .map(|(id, _)| *id)
            .partition::<Vec<u64>, _>(|id| {
                committed
                    .get_joint_config()
                    .iter()
                    .all(|set| set.contains(id))
            });
        // who leads alone is its own quorum, and nobody acknowledges it
        let alone = metrics.membership_config.voter_ids().count() == 1;
        let acknowledged = metrics.last_quorum_acked.map(|at| millis(at.elapsed()));
        Self {
            position: position(sight.durable),
            committed: outside(metrics.local_committed),
            applied: sight.applied,
            role,
            raft_term: metrics.current_term,
            engine_leader: metrics.current_leader.map(Token),
            quorum_ack_age_ms: if alone && role == Role::Leader {
                Some(0)
            } else {
                acknowledged
            },
            born: metrics.last_log_index.is_some(),
            append_age_ms: sight.last_append.map(|at| millis(at.elapsed())),
            voters: voters.into_iter().map(Token).collect(),
            learners: learners.into_iter().map(Token).collect(),
            fault,
        }
    }
}

fn millis(age: Duration) -> u64 {
    u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
}
