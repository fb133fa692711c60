//! Applies committed entries to the state. It is kept in memory and rebuilt from the log at each start, up to the
//! saved commit index; snapshots arrive with the Log issue and are refused until then.

use crate::gate::lock;
use crate::raft::{LogId, RaftEntry, Types, outside};
use crate::state::{Outcome, State};
use futures_util::{Stream, TryStreamExt};
use openraft::alias::{SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::entry::RaftEntry as _;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, StoredMembership};
use std::io;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// There is none: see the head of this file.
pub struct NoSnapshot;

/// What the engine drives.
pub struct Machine {
    state: Arc<Mutex<State>>,
    applied: watch::Sender<u64>,
    last: Option<LogId>,
    membership: StoredMembershipOf<Types>,
}

impl Machine {
    /// Empty; `applied` says how far it is.
    pub fn new(state: Arc<Mutex<State>>, applied: watch::Sender<u64>) -> Self {
        Self {
            state,
            applied,
            last: None,
            membership: StoredMembership::default(),
        }
    }

    fn take(&mut self, entry: &RaftEntry) -> Outcome {
        let id = entry.log_id();
        let index = outside(Some(id));
        let outcome = {
            let mut state = lock(&self.state);
            match &entry.payload {
                EntryPayload::Normal(entry) => state.apply(index, entry),
                EntryPayload::Blank => {
                    state.skip(index);
                    Outcome::Engine
                }
                EntryPayload::Membership(members) => {
                    state.skip(index);
                    self.membership = StoredMembership::new(Some(id), members.clone());
                    Outcome::Engine
                }
            }
        };
        self.last = Some(id);
        self.applied.send_replace(index);
        if let Outcome::Refused(alarm) = &outcome {
            tracing::warn!(%alarm, "a committed entry did not fit; look at its author");
        }
        outcome
    }
}

fn no_snapshots() -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        "snapshots arrive with the Log issue; the log is kept whole until then",
    )
}

impl RaftSnapshotBuilder<Types> for NoSnapshot {
    type SnapshotData = Self;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, Self>, io::Error> {
        Err(no_snapshots())
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = NoSnapshot;
    type SnapshotBuilder = NoSnapshot;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId>, StoredMembershipOf<Types>), io::Error> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let outcome = self.take(&entry);
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> NoSnapshot {
        NoSnapshot
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<NoSnapshot> {
        None
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMetaOf<Types>,
        _snapshot: NoSnapshot,
    ) -> Result<(), io::Error> {
        Err(no_snapshots())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<Types, NoSnapshot>>, io::Error> {
        Ok(None)
    }
}
