//! Entries on their way into the log, and reads that the whole log has confirmed. Only the office writes.

use crate::engine::{Engine, Inner, wall_ms};
use crate::entry::{Body, ENTRY_LEN_MAX, Entry};
use crate::gate::lock;
use crate::state::Outcome;
use openraft::ReadPolicy;
use openraft::errors::{ClientWriteError, ForwardReason, LinearizableReadError, RaftError};
use openraft::impls::ProgressResponder;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use synod_wire::Token;

/// A write that met an expired lease right after winning is tried again after this.
const LEASE_RETRY: Duration = Duration::from_millis(5);

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

impl Engine {
    /// Writes an entry and waits until it is applied here.
    pub async fn propose(&self, body: Body, deadline: Duration) -> Result<Committed, ProposeError> {
        let handed_over = AtomicBool::new(false);
        match tokio::time::timeout(deadline, self.0.write(body, &handed_over)).await {
            Ok(result) => result,
            Err(_) => {
                let why = format!("no majority answered within {} ms", deadline.as_millis());
                Err(if handed_over.load(Ordering::Acquire) {
                    ProposeError::Unknown { why }
                } else {
                    ProposeError::Unavailable { why }
                })
            }
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
    async fn write(&self, body: Body, handed_over: &AtomicBool) -> Result<Committed, ProposeError> {
        loop {
            let not_leader = |leader| ProposeError::NotLeader { leader };
            self.in_office()
                .map_err(|_| not_leader(self.look().engine_leader))?;
            let leader = self
                .raft
                .as_leader()
                .map_err(|to| not_leader(to.leader_id.map(Token)))?;
            let (responder, answer) = ProgressResponder::complete_only();
            {
                let mut stamp = self.stamp.lock().await;
                let entry = Entry {
                    time_ms: wall_ms().max(*stamp).max(lock(&self.out.state).log_time_ms),
                    body: body.clone(),
                };
                let found = entry.encode().len();
                if found > ENTRY_LEN_MAX {
                    let why = format!(
                        "a {} entry of {found} bytes, at most {ENTRY_LEN_MAX} are written",
                        body.name()
                    );
                    return Err(ProposeError::Unavailable { why });
                }
                *stamp = entry.time_ms;
                let write = self
                    .raft
                    .write(entry)
                    .with_leader(leader.to_committed_leader_id())
                    .responder(responder);
                handed_over.store(true, Ordering::Release);
                write
                    .await
                    .map_err(|e| ProposeError::Unavailable { why: e.to_string() })?;
            }
            let lost = |_| ProposeError::Unknown {
                why: "the engine stopped".to_owned(),
            };
            match answer.await.map_err(lost)? {
                Ok(done) => {
                    return Ok(Committed {
                        index: done.log_id.index.saturating_add(1),
                        outcome: done.data,
                    });
                }
                Err(ClientWriteError::ForwardToLeader(to))
                    if to.reason == ForwardReason::LeaseExpired =>
                {
                    // nothing was written: right after winning the first heartbeat is still on its way
                    handed_over.store(false, Ordering::Release);
                    tokio::time::sleep(LEASE_RETRY).await;
                }
                Err(ClientWriteError::ForwardToLeader(to)) => {
                    return Err(not_leader(to.leader_id.map(Token)));
                }
                Err(ClientWriteError::LogEntryDiscarded(to)) => {
                    return Err(ProposeError::Unknown {
                        why: format!("the leader changed: {to}"),
                    });
                }
                Err(other) => {
                    return Err(ProposeError::Unavailable {
                        why: other.to_string(),
                    });
                }
            }
        }
    }
}
