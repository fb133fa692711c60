//! The engine's own storage suite on our log store and state machine, and the rules that are ours alone.

use crate::OpenError;
use crate::entry::{Body, Entry};
use crate::machine::Machine;
use crate::raft::{LogId, RaftEntry, Types};
use crate::state::State;
use crate::store::Store;
use futures_util::Stream;
use openraft::alias::{SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::entry::RaftEntry as _;
use openraft::storage::{EntryResponder, IOFlushed, RaftLogStorage, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt as _;
use openraft::{
    OptionalSend, RaftLogReader, RaftSnapshotBuilder, SnapshotMeta, StorageError, Vote,
};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use synod_wire::{Address, ClusterId, Hash, Token};
use tempfile::TempDir;
use tokio::sync::watch;

const CLUSTER: ClusterId = ClusterId(Hash([1; 32]));

fn open(dir: &Path) -> Store {
    Store::open(dir, CLUSTER, Token(1)).unwrap()
}

/// Our machine with snapshots in memory: the suite purges logs and then asks for one. The real machine refuses, the
/// log is kept whole; what the suite has to prove here is the log store.
struct Remembering {
    machine: Machine,
    current: Option<Snap>,
}

type Snap = SnapshotOf<Types, ()>;

struct Built(Snap);

impl RaftSnapshotBuilder<Types> for Built {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> Result<Snap, io::Error> {
        Ok(self.0.clone())
    }
}

impl RaftStateMachine<Types> for Remembering {
    type SnapshotData = ();
    type SnapshotBuilder = Built;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId>, StoredMembershipOf<Types>), io::Error> {
        match &self.current {
            Some(snap) => Ok((snap.meta.last_log_id, snap.meta.last_membership.clone())),
            None => self.machine.applied_state().await,
        }
    }

    async fn apply<S>(&mut self, entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        self.machine.apply(entries).await
    }

    async fn get_snapshot_builder(&mut self) -> Built {
        let (last_log_id, last_membership) = self.machine.applied_state().await.unwrap();
        let snap = Snap {
            meta: SnapshotMeta {
                last_log_id,
                last_membership,
            },
            snapshot: (),
        };
        Built(snap)
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<Types>,
        (): (),
    ) -> Result<(), io::Error> {
        self.current = Some(Snap {
            meta: meta.clone(),
            snapshot: (),
        });
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snap>, io::Error> {
        Ok(self.current.clone())
    }
}

struct Fresh;

impl StoreBuilder<Types, Store, Remembering, TempDir> for Fresh {
    async fn build(&self) -> Result<(TempDir, Store, Remembering), StorageError<Types>> {
        let dir = TempDir::new().unwrap();
        let store = open(dir.path());
        let machine = Machine::new(Arc::new(Mutex::new(State::default())), watch::channel(0).0);
        Ok((
            dir,
            store,
            Remembering {
                machine,
                current: None,
            },
        ))
    }
}

type Theirs = Suite<Types, Store, Remembering, Fresh, TempDir>;

/// All of the suite but its three tests of snapshots themselves: there are none yet, and they are refused loudly.
macro_rules! suite {
    ($($name:ident),* $(,)?) => { $(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            let (_dir, store, machine) = Fresh.build().await.unwrap();
            Theirs::$name(store, machine).await.unwrap();
        }
    )* };
}

mod theirs {
    use super::*;
    suite!(
        last_membership_in_log_initial,
        last_membership_in_log,
        last_membership_in_log_multi_step,
        get_membership_initial,
        get_membership_from_log_and_empty_sm,
        get_membership_from_empty_log_and_sm,
        get_membership_from_log_le_sm_last_applied,
        get_membership_from_log_gt_sm_last_applied_1,
        get_membership_from_log_gt_sm_last_applied_2,
        get_initial_state_without_init,
        get_initial_state_membership_from_empty_log_and_sm,
        get_initial_state_membership_from_sm_inlog_is_smaller,
        get_initial_state_membership_from_log_insm_is_smaller,
        get_initial_state_with_state,
        get_initial_state_last_log_gt_sm,
        get_initial_state_last_log_lt_sm,
        get_initial_state_inverted_log_order,
        get_initial_state_conflict_at_same_index,
        get_initial_state_log_ids,
        get_initial_state_re_apply_committed,
        save_vote,
        get_log_entries,
        limited_get_log_entries,
        leader_bounded_stream,
        entries_stream,
        try_get_log_entry,
        log_reader_reads_new_entries,
        initial_logs,
        get_log_state,
        get_log_id,
        last_id_in_log,
        last_applied_state,
        purge_logs_upto_0,
        purge_logs_upto_5,
        purge_logs_upto_20,
        delete_logs_after_11,
        delete_logs_after_5,
        delete_logs_after_0,
        delete_logs_after_none,
        append_to_log,
        apply_single,
        apply_multiple,
    );
}

fn id(term: u64, index: u64) -> LogId {
    LogId {
        leader_id: term.into(),
        index,
    }
}

fn up(term: u64, index: u64, author: u8) -> RaftEntry {
    RaftEntry::new_normal(
        id(term, index),
        Entry {
            time_ms: index,
            body: Body::Increment {
                leader: Address([author; 20]),
            },
        },
    )
}

async fn append(store: &mut Store, entries: Vec<RaftEntry>) -> io::Result<()> {
    let (done, flushed) = Types::oneshot();
    store.append(entries, IOFlushed::signal(done)).await?;
    flushed.await.unwrap()
}

#[tokio::test]
async fn nothing_at_or_below_the_committed_index_is_ever_cut() {
    let dir = TempDir::new().unwrap();
    let mut store = open(dir.path());
    append(&mut store, (0..10).map(|i| up(1, i, 1)).collect())
        .await
        .unwrap();
    store
        .save_vote(&Vote {
            leader_id: openraft::impls::leader_id_std::LeaderId {
                term: 7,
                voted_for: 3,
            },
            committed: true,
        })
        .await
        .unwrap();
    store.save_committed(Some(id(1, 5))).await.unwrap();
    for last in [None, Some(id(1, 0)), Some(id(1, 4))] {
        let why = store.truncate_after(last).await.unwrap_err().to_string();
        assert!(
            why.contains("6 is committed") && why.contains("(7, 3)"),
            "names what and who asked: {why}"
        );
    }
    assert_eq!(store.try_get_log_entries(..).await.unwrap().len(), 10);
    store.truncate_after(Some(id(1, 5))).await.unwrap();
    assert_eq!(store.try_get_log_entries(..).await.unwrap().len(), 6);
}

#[tokio::test]
async fn log_vote_commit_and_chain_hash_survive_a_restart() {
    let dir = TempDir::new().unwrap();
    let vote = Vote {
        leader_id: openraft::impls::leader_id_std::LeaderId {
            term: 7,
            voted_for: 3,
        },
        committed: false,
    };
    let (before, tip) = {
        let mut store = open(dir.path());
        append(&mut store, (0..10).map(|i| up(1, i, 1)).collect())
            .await
            .unwrap();
        store.truncate_after(Some(id(1, 7))).await.unwrap();
        append(&mut store, vec![up(2, 8, 1)]).await.unwrap();
        store.save_vote(&vote).await.unwrap();
        store.save_committed(Some(id(1, 4))).await.unwrap();
        let found = (
            store.try_get_log_entries(..).await.unwrap(),
            store.at(8).unwrap(),
        );
        store.close().await;
        found
    };
    let mut store = open(dir.path());
    assert_eq!(store.try_get_log_entries(..).await.unwrap(), before);
    assert_eq!((before.len(), store.at(8).unwrap()), (9, tip));
    assert_eq!(store.read_vote().await.unwrap(), Some(vote));
    assert_eq!(store.read_committed().await.unwrap(), Some(id(1, 4)));
    assert_eq!(*store.durable().borrow(), Some(id(2, 8)));
    // and the chain goes on where it was
    let other_dir = TempDir::new().unwrap();
    let mut other = open(other_dir.path());
    append(&mut store, vec![up(2, 9, 1)]).await.unwrap();
    append(
        &mut other,
        before.into_iter().chain([up(2, 9, 1)]).collect(),
    )
    .await
    .unwrap();
    assert_eq!(store.at(9).unwrap(), other.at(9).unwrap());
}

#[tokio::test]
async fn equal_ids_with_other_content_have_another_chain_hash_from_there_on() {
    let (a_dir, b_dir) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (mut a, mut b) = (open(a_dir.path()), open(b_dir.path()));
    append(&mut a, vec![up(1, 0, 1), up(1, 1, 1), up(1, 2, 1)])
        .await
        .unwrap();
    append(&mut b, vec![up(1, 0, 1), up(1, 1, 2), up(1, 2, 1)])
        .await
        .unwrap();
    let same = |i| a.at(i).unwrap() == b.at(i).unwrap();
    assert_eq!([same(0), same(1), same(2)], [true, false, false]);
    assert_eq!(a.holds(&up(1, 1, 2)).unwrap(), Some((true, false)));
    assert_eq!(a.holds(&up(1, 3, 2)).unwrap(), None);
}

#[tokio::test]
async fn a_long_log_is_read_from_memory_and_disk_without_a_seam() {
    let dir = TempDir::new().unwrap();
    let mut store = open(dir.path());
    for start in (0..3_000).step_by(100) {
        append(
            &mut store,
            (start..start + 100).map(|i| up(1, i, 1)).collect(),
        )
        .await
        .unwrap();
    }
    let indexes: Vec<u64> = store
        .try_get_log_entries(5..2_995)
        .await
        .unwrap()
        .iter()
        .map(|e| e.index())
        .collect();
    assert_eq!(indexes, (5..2_995).collect::<Vec<_>>());
    assert!(
        store
            .try_get_log_entries(3_000..4_000)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn the_directory_of_another_cluster_or_token_is_refused_with_both_names() {
    let dir = TempDir::new().unwrap();
    open(dir.path()).close().await;
    let other = ClusterId(Hash([2; 32]));
    for (cluster, token) in [(other, Token(1)), (CLUSTER, Token(2))] {
        let Err(why) = Store::open(dir.path(), cluster, token) else {
            panic!("{cluster} {token} opened it")
        };
        assert!(
            matches!(
                why,
                OpenError::Foreign {
                    found_cluster: CLUSTER,
                    found_token: Token(1),
                    ..
                }
            ),
            "{why}"
        );
        assert!(
            why.to_string().contains(&cluster.to_string())
                && why.to_string().contains(&CLUSTER.to_string())
        );
    }
    open(dir.path()).close().await;
}

#[tokio::test]
async fn a_log_of_the_format_before_is_refused_by_its_number() {
    let dir = TempDir::new().unwrap();
    open(dir.path()).close().await;
    let meta = redb::TableDefinition::<&str, &[u8]>::new("meta");
    let db = redb::Database::open(dir.path().join("log.redb")).unwrap();
    let txn = db.begin_write().unwrap();
    txn.open_table(meta)
        .unwrap()
        .insert("format", &[1u8][..])
        .unwrap();
    txn.commit().unwrap();
    drop(db);
    let Err(why) = Store::open(dir.path(), CLUSTER, Token(1)) else {
        panic!("an old log was opened");
    };
    assert!(
        matches!(&why, OpenError::Format { found, .. } if *found == [1]),
        "{why}"
    );
    assert!(why.to_string().contains("log format 2 expected"), "{why}");
}
