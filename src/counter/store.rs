//! The engine's log store. New entries are readable at once from memory and acknowledged after the fsync.
//! Beside each entry stands the chain hash: SHA-256("synod/entry/v1" ‖ 0 ‖ hash before ‖ the entry's bytes with its
//! log id), because the engine compares ids, not contents (attack F1). What is committed is never cut.

use crate::disk::{Disk, OpenError, Order, Record};
use crate::gate::lock;
use crate::raft::{LogId, RaftEntry, Types, Vote, outside};
use openraft::entry::RaftEntry as _;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use synod_wire::{ClusterId, Hash, Token};
use tokio::sync::{oneshot, watch};

/// Durable records that stay in memory for replication.
const TAIL_LEN: u64 = 1024;
/// Bytes of entries in one answer to the replication task.
const CHUNK_BYTES_MAX: usize = 1024 * 1024;

#[derive(Default)]
struct Shared {
    /// The newest records: all that are not durable yet, and some that are.
    tail: BTreeMap<u64, Record>,
    last: Option<LogId>,
    last_hash: Hash,
    purged: Option<LogId>,
    committed: Option<LogId>,
    vote: Option<Vote>,
}

struct Inner {
    shared: Arc<Mutex<Shared>>,
    disk: Disk,
    durable: watch::Receiver<Option<LogId>>,
    flushes: Arc<AtomicU64>,
}

/// Cheap to clone; all clones are one log.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

impl Store {
    /// Opens or makes the log in `dir`.
    pub fn open(dir: &Path, cluster: ClusterId, token: Token) -> Result<Self, OpenError> {
        let shared = Arc::new(Mutex::new(Shared::default()));
        let (sender, durable) = watch::channel(None);
        let flushes = Arc::new(AtomicU64::new(0));
        let (disk, found) = {
            let (shared, flushes) = (Arc::clone(&shared), Arc::clone(&flushes));
            let sender = sender.clone();
            Disk::open(dir, cluster, token, move |id| {
                flushes.fetch_add(1, Ordering::Relaxed);
                forget_old(&mut lock(&shared), id);
                sender.send_replace(id);
            })?
        };
        {
            let mut s = lock(&shared);
            s.last = found.last.as_ref().map(|r| r.id).max(found.purged);
            s.last_hash = found.last.map_or(Hash::ZERO, |r| r.hash);
            (s.vote, s.committed, s.purged) =
                (found.vote, found.committed.min(s.last), found.purged);
            sender.send_replace(s.last);
        }
        Ok(Self(Arc::new(Inner {
            shared,
            disk,
            durable,
            flushes,
        })))
    }

    /// The last id on disk.
    pub fn durable(&self) -> watch::Receiver<Option<LogId>> {
        self.0.durable.clone()
    }

    /// Transactions that this file was flushed for since it was opened.
    pub fn flushes(&self) -> u64 {
        self.0.flushes.load(Ordering::Relaxed)
    }

    /// The highest id that the engine called committed.
    pub fn committed(&self) -> Option<LogId> {
        lock(&self.0.shared).committed
    }

    /// Id and chain hash of the entry at an engine index.
    pub fn at(&self, index: u64) -> io::Result<Option<(LogId, Hash)>> {
        Ok(self
            .records(index, index.saturating_add(1))?
            .pop()
            .map(|r| (r.id, r.hash)))
    }

    /// What stands where this entry would stand: (same id, same bytes); `None` = nothing.
    pub fn holds(&self, entry: &RaftEntry) -> io::Result<Option<(bool, bool)>> {
        let index = entry.index();
        let Some(own) = self.records(index, index.saturating_add(1))?.pop() else {
            return Ok(None);
        };
        let bytes = postcard::to_stdvec(entry).map_err(io::Error::other)?;
        Ok(Some((own.id == entry.log_id(), *own.bytes == *bytes)))
    }

    /// Flush and let go of the file.
    pub async fn close(&self) {
        self.0.disk.close().await;
    }

    fn records(&self, start: u64, end: u64) -> io::Result<Vec<Record>> {
        let (end, split, newer) = {
            let s = lock(&self.0.shared);
            let end = end.min(s.last.map_or(0, |id| id.index.saturating_add(1)));
            let split = s
                .tail
                .keys()
                .next()
                .copied()
                .unwrap_or(end)
                .clamp(start.min(end), end);
            (
                end,
                split,
                s.tail
                    .range(start.max(split)..end.max(start).max(split))
                    .map(|(_, r)| r.clone())
                    .collect::<Vec<_>>(),
            )
        };
        let mut records = if start < split.min(end) {
            self.0.disk.read(start, split)?
        } else {
            Vec::new()
        };
        records.extend(newer);
        Ok(records)
    }

    fn append_records(
        &self,
        entries: impl IntoIterator<Item = RaftEntry>,
    ) -> io::Result<Vec<Record>> {
        let mut s = lock(&self.0.shared);
        let mut records = Vec::new();
        for entry in entries {
            let bytes: Arc<[u8]> = postcard::to_stdvec(&entry)
                .map_err(io::Error::other)?
                .into();
            let hash = chain(s.last_hash, &bytes);
            let record = Record {
                id: entry.log_id(),
                bytes,
                hash,
            };
            (s.last, s.last_hash) = (Some(record.id), hash);
            s.tail.insert(record.id.index, record.clone());
            records.push(record);
        }
        Ok(records)
    }
}

fn chain(before: Hash, bytes: &[u8]) -> Hash {
    Hash(
        Sha256::new()
            .chain_update(b"synod/entry/v1\0")
            .chain_update(before.0)
            .chain_update(bytes)
            .finalize()
            .into(),
    )
}

fn forget_old(s: &mut Shared, durable: Option<LogId>) {
    let keep_from = durable.map_or(0, |id| id.index).saturating_sub(TAIL_LEN);
    while s.tail.keys().next().is_some_and(|first| *first < keep_from) {
        s.tail.pop_first();
    }
}

async fn answered(answer: oneshot::Receiver<io::Result<()>>) -> io::Result<()> {
    answer
        .await
        .map_err(|_| io::Error::other("the log's writer has stopped"))?
}

fn decode(records: Vec<Record>) -> io::Result<Vec<RaftEntry>> {
    let one = |r: Record| {
        postcard::from_bytes(&r.bytes).map_err(|e| {
            io::Error::other(format!(
                "entry {} on our own disk is unreadable: {e}",
                r.id.index
            ))
        })
    };
    records.into_iter().map(one).collect()
}

impl RaftLogReader<Types> for Store {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<RaftEntry>, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(i) => *i,
            Bound::Excluded(i) => i.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(i) => i.saturating_add(1),
            Bound::Excluded(i) => *i,
            Bound::Unbounded => u64::MAX,
        };
        decode(self.records(start, end)?)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(lock(&self.0.shared).vote)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<RaftEntry>, io::Error> {
        let mut bytes = 0;
        let mut records = self.records(start, end.min(start.saturating_add(TAIL_LEN)))?;
        let fits = records.iter().take_while(|r| {
            bytes += r.bytes.len();
            bytes <= CHUNK_BYTES_MAX
        });
        let keep = fits.count().max(1);
        records.truncate(keep);
        decode(records)
    }
}

impl RaftLogStorage<Types> for Store {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let s = lock(&self.0.shared);
        Ok(LogState {
            last_purged_log_id: s.purged,
            last_log_id: s.last,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (done, answer) = oneshot::channel();
        self.0.disk.order(Order::Vote { vote: *vote, done })?;
        answered(answer).await?;
        lock(&self.0.shared).vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let Some(id) = committed else { return Ok(()) };
        let newest = {
            let mut s = lock(&self.0.shared);
            s.committed = s.committed.max(committed);
            s.committed == committed
        };
        if newest {
            self.0.disk.order(Order::Committed(id))
        } else {
            Ok(())
        }
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.committed())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let records = self.append_records(entries)?;
        self.0.disk.order(Order::Append {
            records,
            done: callback,
        })
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        if last >= lock(&self.0.shared).last {
            return Ok(());
        }
        let hash = match last {
            Some(id) => self.at(id.index)?.map(|(_, hash)| hash),
            None => None,
        };
        {
            let mut s = lock(&self.0.shared);
            if s.committed > last {
                let message = format!(
                    "refused to cut behind {}: {} is committed; asked under vote {:?}",
                    outside(last),
                    outside(s.committed),
                    s.vote.map(|v| (v.leader_id.term, v.leader_id.voted_for)),
                );
                tracing::error!("{message}");
                return Err(io::Error::other(message));
            }
            s.tail
                .split_off(&last.map_or(0, |id| id.index.saturating_add(1)));
            s.last = last.max(s.purged);
            s.last_hash = hash.unwrap_or(Hash::ZERO);
        }
        let (done, answer) = oneshot::channel();
        self.0.disk.order(Order::Truncate { after: last, done })?;
        answered(answer).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        {
            let mut s = lock(&self.0.shared);
            s.tail = s.tail.split_off(&upto.index.saturating_add(1));
            s.purged = s.purged.max(Some(upto));
            s.last = s.last.max(Some(upto));
        }
        let (done, answer) = oneshot::channel();
        self.0.disk.order(Order::Purge { upto, done })?;
        answered(answer).await
    }
}
