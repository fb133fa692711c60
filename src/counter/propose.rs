//! Entries on their way into the log, and reads that a majority has confirmed. Only the office writes. Entries that are
//! proposed together are handed to the engine back to back, so that they share an fsync.

use crate::engine::{Engine, Inner, wall_ms};
use crate::entry::{Body, ENTRY_LEN_MAX, Entry};
use crate::gate::lock;
use crate::raft::Types;
use crate::state::Outcome;
use openraft::ReadPolicy;
use openraft::errors::{ClientWriteError, ForwardReason, LinearizableReadError, RaftError};
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use std::time::Duration;
use synod_wire::Token;
use tokio::time::{Instant, timeout_at};

/// A write that met an expired lease right after winning is tried again after this.
const LEASE_RETRY: Duration = Duration::from_millis(5);

/// So many entries are proposed together at most.
pub const PROPOSE_LEN_MAX: usize = 256;

/// A written entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Where it stands.
    pub index: u64,
    /// What applying it did.
    pub outcome: Outcome,
}

/// An entry was not written, or nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Somebody else leads. Nothing was written.
    #[error("this node does not lead; the engine follows {leader:?}")]
    NotLeader {
        /// Whom the engine follows.
        leader: Option<Token>,
    },
    /// No quorum answers. Nothing was written.
    #[error("not written: {why}")]
    Unavailable {
        /// In words.
        why: String,
    },
    /// It may still be committed; look at the log before trying again.
    #[error("outcome unknown, it may still be committed: {why}")]
    Unknown {
        /// In words.
        why: String,
    },
}

/// What the engine will say about an entry that it was handed.
type Pending = openraft::alias::OneshotReceiverOf<Types, ClientWriteResult<Types>>;

/// Why an entry was not written.
enum Unwritten {
    /// Right after winning the first heartbeat is still on its way: try again.
    Lease,
    /// For good.
    Final(ProposeError),
}

impl From<ProposeError> for Unwritten {
    fn from(why: ProposeError) -> Self {
        Self::Final(why)
    }
}

impl Engine {
    /// Writes an entry and waits until it is applied here.
    pub async fn propose(&self, body: Body, deadline: Duration) -> Result<Committed, ProposeError> {
        let mut results = self.propose_in_order(vec![body], deadline).await;
        results.pop().expect("one entry has one result")
    }

    /// Writes entries back to back and waits once for all of them. Those that are written stand in the log in this
    /// order (others may stand between them); each has its own result, in this order too.
    pub async fn propose_in_order(
        &self,
        bodies: Vec<Body>,
        deadline: Duration,
    ) -> Vec<Result<Committed, ProposeError>> {
        let until = Instant::now() + deadline;
        loop {
            let results = self.0.write_all(&bodies, until).await;
            let is_lease = |r: &Result<_, Unwritten>| matches!(r, Err(Unwritten::Lease));
            // only when nothing at all was written: else the order would break
            let again = !results.is_empty() && results.iter().all(is_lease);
            if again && Instant::now() + LEASE_RETRY < until {
                tokio::time::sleep(LEASE_RETRY).await;
                continue;
            }
            let told = |why| match why {
                Unwritten::Final(why) => why,
                Unwritten::Lease => ProposeError::Unavailable {
                    why: format!("no majority answered within {} ms", deadline.as_millis()),
                },
            };
            return results.into_iter().map(|r| r.map_err(told)).collect();
        }
    }

    /// The index that a linearizable read must have applied, confirmed by a majority and applied here.
    /// ReadIndex, never the lease: a host may stop our clock (attack F25).
    pub async fn read_index(&self, deadline: Duration) -> Result<u64, ProposeError> {
        let read = self.0.raft.ensure_linearizable(ReadPolicy::ReadIndex);
        let why = || {
            format!(
                "no majority confirmed within {} ms that this node leads",
                deadline.as_millis()
            )
        };
        match tokio::time::timeout(deadline, read).await {
            Err(_) => Err(ProposeError::Unavailable { why: why() }),
            Ok(Ok(id)) => Ok(id.index().saturating_add(1)),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to)))) => {
                Err(ProposeError::NotLeader {
                    leader: to.leader_id.map(Token),
                })
            }
            Ok(Err(other)) => Err(ProposeError::Unavailable {
                why: other.to_string(),
            }),
        }
    }
}

impl Inner {
    async fn write_all(
        &self,
        bodies: &[Body],
        until: Instant,
    ) -> Vec<Result<Committed, Unwritten>> {
        let handed_over = self.hand_over_all(bodies, until).await;
        let mut results = Vec::with_capacity(handed_over.len());
        for pending in handed_over {
            results.push(match pending {
                Ok(pending) => match timeout_at(until, pending).await {
                    Ok(Ok(answer)) => written(answer),
                    Ok(Err(_)) => Err(unknown("the engine stopped").into()),
                    Err(_) => Err(unknown("no majority answered before the deadline").into()),
                },
                Err(why) => Err(why.into()),
            });
        }
        results
    }

    /// Nobody else's entry gets an earlier time and a later place: the stamp is held until all are handed over.
    async fn hand_over_all(
        &self,
        bodies: &[Body],
        until: Instant,
    ) -> Vec<Result<Pending, ProposeError>> {
        let Ok(mut stamp) = timeout_at(until, self.stamp.lock()).await else {
            let late = || Err(unavailable("others were written until the deadline"));
            return bodies.iter().map(|_| late()).collect();
        };
        let mut handed_over = Vec::with_capacity(bodies.len());
        for (place, body) in bodies.iter().enumerate() {
            handed_over.push(if place < PROPOSE_LEN_MAX {
                self.hand_over(&mut stamp, body, until).await
            } else {
                Err(unavailable(&format!(
                    "at most {PROPOSE_LEN_MAX} entries are proposed together, found {}",
                    bodies.len()
                )))
            });
        }
        handed_over
    }

    async fn hand_over(
        &self,
        stamp: &mut u64,
        body: &Body,
        until: Instant,
    ) -> Result<Pending, ProposeError> {
        let not_leader = |leader| ProposeError::NotLeader { leader };
        self.in_office()
            .map_err(|_| not_leader(self.look().engine_leader))?;
        let leader = self
            .raft
            .as_leader()
            .map_err(|to| not_leader(to.leader_id.map(Token)))?;
        let entry = Entry {
            time_ms: wall_ms().max(*stamp).max(lock(&self.out.state).log_time_ms),
            body: body.clone(),
        };
        let found = entry.encode().len();
        if found > ENTRY_LEN_MAX {
            return Err(unavailable(&format!(
                "a {} entry of {found} bytes, at most {ENTRY_LEN_MAX} are written",
                body.name()
            )));
        }
        *stamp = entry.time_ms;
        let (responder, answer) = ProgressResponder::complete_only();
        let write = self
            .raft
            .write(entry)
            .with_leader(leader.to_committed_leader_id())
            .responder(responder);
        match timeout_at(until, write).await {
            Ok(Ok(())) => Ok(answer),
            Ok(Err(why)) => Err(unavailable(&why.to_string())),
            Err(_) => Err(unknown(
                "the engine took no more entries until the deadline",
            )),
        }
    }
}

fn written(answer: ClientWriteResult<Types>) -> Result<Committed, Unwritten> {
    match answer {
        Ok(done) => Ok(Committed {
            index: done.log_id.index.saturating_add(1),
            outcome: done.data,
        }),
        Err(ClientWriteError::ForwardToLeader(to)) if to.reason == ForwardReason::LeaseExpired => {
            Err(Unwritten::Lease)
        }
        Err(ClientWriteError::ForwardToLeader(to)) => Err(ProposeError::NotLeader {
            leader: to.leader_id.map(Token),
        }
        .into()),
        Err(ClientWriteError::LogEntryDiscarded(to)) => {
            Err(unknown(&format!("the leader changed: {to}")).into())
        }
        Err(other) => Err(unavailable(&other.to_string()).into()),
    }
}

fn unknown(why: &str) -> ProposeError {
    ProposeError::Unknown {
        why: why.to_owned(),
    }
}

fn unavailable(why: &str) -> ProposeError {
    ProposeError::Unavailable {
        why: why.to_owned(),
    }
}
