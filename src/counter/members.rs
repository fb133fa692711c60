//! The engine's voters follow the roster that the log has adopted. The leader's loop asks for one step at a time; each
//! step is one change of the engine's membership, or a reason to wait. What a leader before us left half done is
//! finished first; whoever is promoted holds the log and answers; we never remove ourselves.
//!
//! `next` is the rule and knows no engine; `follow_members` looks, asks it and does what it says.

use crate::engine::{Engine, EngineError, Inner};
use crate::gate::lock;
use crate::raft::Types;
use crate::request::VOTERS_MAX;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::raft::Precondition;
use openraft::{ChangeMembers, EmptyNode, RaftMetrics};
use std::collections::BTreeSet;
use std::time::Duration;
use synod_wire::Token;

/// A learner that lacks at most so many entries has caught up.
const LAG_MAX: u64 = 64;

/// What a call of [`Engine::follow_members`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MembersStep {
    /// Nothing is left to do.
    Steady,
    /// This member gets the log from now on.
    Learning(Token),
    /// This member votes from now on.
    Promoted(Token),
    /// This one, which the roster no longer lists, gets the log no longer.
    Removed(Token),
    /// Because of this member: it lacks entries, it does not answer, or a change that concerns it is not committed.
    Waiting(Token),
}

type Change = ChangeMembers<u64, EmptyNode>;

/// What the rule looks at.
#[derive(Clone, Debug, Default)]
struct Scene {
    me: u64,
    /// Whom the roster in force lists.
    listed: BTreeSet<u64>,
    /// The effective voters; two sets = half way.
    sets: Vec<BTreeSet<u64>>,
    /// All that get the log.
    nodes: BTreeSet<u64>,
    /// The effective set is not committed yet, and this member is what it changes.
    pending: Option<u64>,
    /// Who holds the log and has answered of late.
    ready: BTreeSet<u64>,
}

/// The rule. Who has left goes first, since he counts in quorums and helps none; one change at a time.
fn next(scene: &Scene) -> (MembersStep, Option<Change>) {
    let one = |id: u64| BTreeSet::from([id]);
    if let Some(id) = scene.pending {
        return (MembersStep::Waiting(Token(id)), None);
    }
    if let [from, .., to] = &scene.sets[..] {
        // the engine goes to the last set, whatever else is asked of it
        let finish = Some(ChangeMembers::AddVoterIds(BTreeSet::new()));
        let step = match to.difference(from).next() {
            Some(id) => MembersStep::Promoted(Token(*id)),
            None => {
                let gone = from.difference(to).next().copied();
                MembersStep::Removed(Token(gone.unwrap_or(scene.me)))
            }
        };
        return (step, finish);
    }
    let votes = |id: &u64| scene.sets.iter().any(|set| set.contains(id));
    let gone = |id: &&u64| **id != scene.me && !scene.listed.contains(id);
    if let Some(id) = scene.nodes.iter().find(gone) {
        let change = if votes(id) {
            ChangeMembers::RemoveVoters(one(*id))
        } else {
            ChangeMembers::RemoveNodes(one(*id))
        };
        return (MembersStep::Removed(Token(*id)), Some(change));
    }
    let room = scene.nodes.len() < VOTERS_MAX;
    let missing = scene.listed.difference(&scene.nodes).next();
    if let (Some(id), true) = (missing, room) {
        let node = [(*id, EmptyNode::new())].into();
        return (
            MembersStep::Learning(Token(*id)),
            Some(ChangeMembers::AddNodes(node)),
        );
    }
    let mut learners = scene.nodes.iter().filter(|id| !votes(id)).peekable();
    let waiting = learners.peek().copied().or(missing);
    if let Some(id) = learners.find(|id| scene.ready.contains(id)) {
        let change = ChangeMembers::AddVoterIds(one(*id));
        return (MembersStep::Promoted(Token(*id)), Some(change));
    }
    let step = waiting.map_or(MembersStep::Steady, |id| MembersStep::Waiting(Token(*id)));
    (step, None)
}

impl Engine {
    /// One step of the engine's voters towards the last applied `Members` entry: every member listed there votes in
    /// the log, seated or not. For the leader in office, once its TermStart is applied; call it again and again.
    pub async fn follow_members(&self, deadline: Duration) -> Result<MembersStep, EngineError> {
        let engine = &self.0;
        engine.in_office()?;
        let leader = engine
            .raft
            .as_leader()
            .map_err(|_| EngineError::NotInOffice)?;
        let Some(listed) = engine.listed() else {
            return Ok(MembersStep::Waiting(engine.token));
        };
        let metrics = engine.metrics();
        let (step, change) = next(&engine.scene(&metrics, listed));
        let (Some(change), Some(about)) = (change, step.about()) else {
            return Ok(step);
        };
        // nothing happens if anything has changed since we looked
        let unless_changed = [
            Precondition::CommittedLeaderId {
                committed_leader_id: leader.to_committed_leader_id(),
            },
            Precondition::LastMembershipLogId {
                last_membership_log_id: *metrics.membership_config.log_id(),
            },
        ];
        let changing = engine
            .raft
            .change_membership_if(change, false, unless_changed);
        match tokio::time::timeout(deadline, changing).await {
            Ok(Ok(_)) => Ok(step),
            // it may still be committed; the next call sees what became of it
            Err(_) => Ok(MembersStep::Waiting(about)),
            Ok(Err(RaftError::APIError(
                ClientWriteError::PreconditionFailed(_)
                | ClientWriteError::ChangeMembershipError(_)
                | ClientWriteError::ForwardToLeader(_)
                | ClientWriteError::LogEntryDiscarded(_),
            ))) => Ok(MembersStep::Waiting(about)),
            Ok(Err(RaftError::Fatal(why))) => Err(EngineError::Stopped(why.to_string())),
        }
    }
}

impl MembersStep {
    fn about(self) -> Option<Token> {
        match self {
            Self::Steady => None,
            Self::Learning(token)
            | Self::Promoted(token)
            | Self::Removed(token)
            | Self::Waiting(token) => Some(token),
        }
    }
}

impl Inner {
    /// The roster in force, once everything before our own TermStart is applied: an older one would undo steps.
    fn listed(&self) -> Option<BTreeSet<u64>> {
        let office = lock(&self.out.office).map(|(term, _)| term);
        let state = lock(&self.out.state);
        let started = state.term.as_ref().filter(|term| term.leader == self.token);
        let members = state.members.as_ref()?;
        (started?.term == office?).then(|| members.members.iter().map(|m| m.token.0).collect())
    }

    fn scene(&self, metrics: &RaftMetrics<Types>, listed: BTreeSet<u64>) -> Scene {
        let effective = metrics.membership_config.membership();
        let committed = metrics.committed_membership_config.membership();
        let sets = effective.get_joint_config().clone();
        let pending = (metrics.membership_config.log_id()
            != metrics.committed_membership_config.log_id())
        .then(|| {
            let ids = |m: &crate::raft::Voters| {
                let voters: BTreeSet<(u64, bool)> = m
                    .nodes()
                    .map(|(id, _)| (*id, m.get_joint_config().iter().all(|s| s.contains(id))))
                    .collect();
                voters
            };
            let changed = ids(effective)
                .symmetric_difference(&ids(committed))
                .next()
                .copied();
            changed.map_or(self.token.0, |(id, _)| id)
        });
        let nodes: BTreeSet<u64> = effective.nodes().map(|(id, _)| *id).collect();
        let ready = nodes
            .iter()
            .filter(|id| self.is_ready(metrics, **id))
            .copied()
            .collect();
        Scene {
            me: self.token.0,
            listed,
            sets,
            nodes,
            pending,
            ready,
        }
    }

    /// Holds (nearly) all of the log and has answered within a lease: a learner that died is not promoted.
    fn is_ready(&self, metrics: &RaftMetrics<Types>, id: u64) -> bool {
        let matched = metrics
            .replication
            .as_ref()
            .and_then(|r| r.get(&id).copied().flatten());
        let answered = metrics
            .heartbeat
            .as_ref()
            .and_then(|h| h.get(&id).copied().flatten());
        let last = metrics.last_log_index.unwrap_or(0);
        matched.is_some_and(|id| last.saturating_sub(id.index) <= LAG_MAX)
            && answered.is_some_and(|at| openraft::Instant::elapsed(&*at) <= self.lease)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use MembersStep::{Learning, Promoted, Removed, Steady, Waiting};

    fn set(ids: &[u64]) -> BTreeSet<u64> {
        ids.iter().copied().collect()
    }

    /// Node 1 leads 1, 2, 3, all listed.
    fn scene(change: impl Fn(&mut Scene)) -> Scene {
        let mut scene = Scene {
            me: 1,
            listed: set(&[1, 2, 3]),
            sets: vec![set(&[1, 2, 3])],
            nodes: set(&[1, 2, 3]),
            pending: None,
            ready: set(&[1, 2, 3]),
        };
        change(&mut scene);
        scene
    }

    #[test]
    fn one_step_at_a_time_and_none_while_a_change_is_on_its_way() {
        type Row = (MembersStep, Option<Change>, fn(&mut Scene));
        let table: Vec<Row> = vec![
            (Steady, None, |_| {}),
            (Waiting(Token(4)), None, |s| {
                (s.listed, s.pending) = (set(&[1, 2]), Some(4));
            }),
            (
                Learning(Token(4)),
                Some(ChangeMembers::AddNodes([(4, EmptyNode::new())].into())),
                |s| s.listed = set(&[1, 2, 3, 4, 5]),
            ),
            (Waiting(Token(4)), None, |s| {
                (s.listed, s.nodes) = (set(&[1, 2, 3, 4]), set(&[1, 2, 3, 4]));
            }),
            (
                Promoted(Token(5)),
                Some(ChangeMembers::AddVoterIds(set(&[5]))),
                |s| {
                    s.listed = set(&[1, 2, 3, 4, 5, 6]);
                    s.nodes = s.listed.clone();
                    s.ready = set(&[2, 3, 5, 6]);
                },
            ),
            (
                Removed(Token(3)),
                Some(ChangeMembers::RemoveVoters(set(&[3]))),
                |s| s.listed = set(&[1, 2, 4]),
            ),
            (
                Removed(Token(4)),
                Some(ChangeMembers::RemoveNodes(set(&[4]))),
                |s| s.nodes = set(&[1, 2, 3, 4]),
            ),
            (Steady, None, |s| s.listed = set(&[2, 3])),
            // what another leader left half done is finished, and nothing else is begun
            (
                Promoted(Token(4)),
                Some(ChangeMembers::AddVoterIds(set(&[]))),
                |s| {
                    s.sets = vec![set(&[1, 2, 3]), set(&[1, 2, 3, 4])];
                    s.nodes = set(&[1, 2, 3, 4]);
                },
            ),
            (
                Removed(Token(3)),
                Some(ChangeMembers::AddVoterIds(set(&[]))),
                |s| {
                    s.sets = vec![set(&[1, 2, 3]), set(&[1, 2])];
                    s.listed = set(&[1, 2, 4]);
                },
            ),
            // a full house takes nobody in: followers would refuse the entry, and the log would stop there
            (Waiting(Token(65)), None, |s| {
                s.nodes = (1..=64).collect();
                s.sets = vec![s.nodes.clone()];
                s.listed = (1..=65).collect();
            }),
        ];
        for (row, (step, change, bend)) in table.into_iter().enumerate() {
            assert_eq!(next(&scene(bend)), (step, change), "row {row}");
        }
    }
}
