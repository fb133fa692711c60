//! One file, one writer thread. The thread drains its queue into one transaction and answers after the fsync
//! (group commit): many entries, one flush. The commit index travels with the next write, or after a short
//! idle: it may be older than the truth, never newer than the log in the file.

use crate::raft::{LogId, Types, Vote};
use openraft::storage::IOFlushed;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use synod_wire::{ClusterId, Hash, Token};
use tokio::sync::oneshot;

const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
/// 2: entries know trades.
const FORMAT: u8 = 2;
const FILE: &str = "log.redb";
/// Orders that wait; more than this and the engine's task waits for the disk.
const QUEUE_LEN_MAX: usize = 1024;
/// Orders in one transaction.
const BATCH_LEN_MAX: usize = 512;
/// A commit index that nothing follows is written after this.
const IDLE: Duration = Duration::from_millis(200);
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// The log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another cluster's or another token's directory.
    #[error(
        "{path} belongs to cluster {found_cluster}, token {found_token}; this node is cluster {cluster}, token {token}: give it its own directory"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Ours.
        cluster: ClusterId,
        /// Ours.
        token: Token,
        /// What the file says.
        found_cluster: ClusterId,
        /// What the file says.
        found_token: Token,
    },
    /// Another format.
    #[error("{path}: log format {FORMAT} expected, found {found:?}: written by another version")]
    Format {
        /// The file.
        path: PathBuf,
        /// What stood there.
        found: Vec<u8>,
    },
    /// The file says something that no log says.
    #[error(
        "{path}: {what}: the file is damaged, restore the volume or let the node join anew with an empty directory"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The disk.
    #[error("{path}: {why}")]
    Disk {
        /// The file.
        path: PathBuf,
        /// What it said.
        why: String,
    },
    /// The engine.
    #[error("the engine refuses to start: {0}")]
    Engine(String),
}

/// One entry as it is kept: its id, the engine's canonical bytes, the chain hash up to and including it.
#[derive(Clone)]
pub struct Record {
    pub id: LogId,
    pub bytes: Arc<[u8]>,
    pub hash: Hash,
}

/// What the writer is told.
pub enum Order {
    Append {
        records: Vec<Record>,
        done: IOFlushed<Types>,
    },
    Vote {
        vote: Vote,
        done: oneshot::Sender<io::Result<()>>,
    },
    /// Everything behind this index goes; `None` = everything.
    Truncate {
        after: Option<LogId>,
        done: oneshot::Sender<io::Result<()>>,
    },
    Purge {
        upto: LogId,
        done: oneshot::Sender<io::Result<()>>,
    },
    Committed(LogId),
    Close {
        done: oneshot::Sender<()>,
    },
}

/// What the file said when it was opened.
#[derive(Default)]
pub struct Found {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    pub last: Option<Record>,
}

/// Handle on the file; the writer thread holds the other one.
pub struct Disk {
    reader: Mutex<Option<Arc<Database>>>,
    orders: SyncSender<Order>,
}

impl Disk {
    /// Opens or makes the file. `durable` is called with the last id that is on disk, after each flush.
    pub fn open(
        dir: &Path,
        cluster: ClusterId,
        token: Token,
        durable: impl Fn(Option<LogId>) + Send + 'static,
    ) -> Result<(Self, Found), OpenError> {
        let path = dir.join(FILE);
        let disk = |why: String| OpenError::Disk {
            path: path.clone(),
            why,
        };
        std::fs::create_dir_all(dir).map_err(|e| disk(e.to_string()))?;
        let db = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(&path)
            .map_err(|e| disk(e.to_string()))?;
        check_owner(&db, &path, cluster, token)?;
        let found = read_all(&db, &path)?;
        let db = Arc::new(db);
        let (orders, queue) = sync_channel(QUEUE_LEN_MAX);
        let writer = Writer {
            db: Arc::clone(&db),
            last: found.last.as_ref().map(|r| r.id),
            durable: Box::new(durable),
        };
        std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || writer.run(&queue))
            .map_err(|e| disk(e.to_string()))?;
        Ok((
            Self {
                reader: Mutex::new(Some(db)),
                orders,
            },
            found,
        ))
    }

    /// Queue an order. A writer that is gone answers by dropping the order.
    pub fn order(&self, order: Order) -> io::Result<()> {
        self.orders
            .send(order)
            .map_err(|_| io::Error::other("the log's writer has stopped"))
    }

    /// Records in `start..end` that are in the file.
    pub fn read(&self, start: u64, end: u64) -> io::Result<Vec<Record>> {
        let db = crate::gate::lock(&self.reader)
            .clone()
            .ok_or_else(|| io::Error::other("the log is closed"))?;
        read_range(&db, start, end).map_err(io::Error::other)
    }

    /// Flush, stop the writer, let go of the file.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.order(Order::Close { done }).is_ok() {
            let _ = closed.await;
        }
        crate::gate::lock(&self.reader).take();
    }
}

fn check_owner(
    db: &Database,
    path: &Path,
    cluster: ClusterId,
    token: Token,
) -> Result<(), OpenError> {
    let disk = |e: redb::Error| OpenError::Disk {
        path: path.to_owned(),
        why: e.to_string(),
    };
    let owner = [&cluster.0.0[..], &token.0.to_be_bytes()].concat();
    let found = claim_file(db, &owner).map_err(disk)?;
    let Some((format, found)) = found else {
        return Ok(());
    };
    if format != [FORMAT] {
        return Err(OpenError::Format {
            path: path.to_owned(),
            found: format,
        });
    }
    if found == owner {
        return Ok(());
    }
    let damaged = || OpenError::Damaged {
        path: path.to_owned(),
        what: "no owner".to_owned(),
    };
    let (found_cluster, found_token) = found.split_first_chunk::<32>().ok_or_else(damaged)?;
    let found_token = u64::from_be_bytes(found_token.try_into().map_err(|_| damaged())?);
    Err(OpenError::Foreign {
        path: path.to_owned(),
        cluster,
        token,
        found_cluster: ClusterId(Hash(*found_cluster)),
        found_token: Token(found_token),
    })
}

/// Format and owner.
type Claim = (Vec<u8>, Vec<u8>);

/// Writes format and owner into a new file; answers what an old one says.
fn claim_file(db: &Database, owner: &[u8]) -> Result<Option<Claim>, redb::Error> {
    let txn = db.begin_write()?;
    let found = {
        let mut meta = txn.open_table(META)?;
        txn.open_table(LOG)?;
        let format = meta.get("format")?.map(|v| v.value().to_vec());
        let old = meta.get("owner")?.map(|v| v.value().to_vec());
        if format.is_none() && old.is_none() {
            meta.insert("format", &[FORMAT][..])?;
            meta.insert("owner", owner)?;
            None
        } else {
            Some((format.unwrap_or_default(), old.unwrap_or_default()))
        }
    };
    txn.commit()?;
    Ok(found)
}

fn read_all(db: &Database, path: &Path) -> Result<Found, OpenError> {
    let read = || -> Result<(Found, Option<String>), redb::Error> {
        let txn = db.begin_read()?;
        let meta = txn.open_table(META)?;
        let log = txn.open_table(LOG)?;
        let text = |key: &str| -> Result<Option<Vec<u8>>, redb::Error> {
            Ok(meta.get(key)?.map(|v| v.value().to_vec()))
        };
        let (vote, committed, purged) = (text("vote")?, text("committed")?, text("purged")?);
        let last = log.last()?.map(|(_, v)| parse_record(v.value()));
        let mut damage = None;
        let mut note = |what: &str| damage = Some(what.to_owned());
        let found = Found {
            vote: vote.and_then(|b| {
                postcard::from_bytes(&b)
                    .map_err(|_| note("vote unreadable"))
                    .ok()
            }),
            committed: committed.and_then(|b| {
                postcard::from_bytes(&b)
                    .map_err(|_| note("commit index unreadable"))
                    .ok()
            }),
            purged: purged.and_then(|b| {
                postcard::from_bytes(&b)
                    .map_err(|_| note("purge index unreadable"))
                    .ok()
            }),
            last: last.and_then(|r| r.map_err(|_| note("last entry unreadable")).ok()),
        };
        Ok((found, damage))
    };
    match read() {
        Ok((found, None)) => Ok(found),
        Ok((_, Some(what))) => Err(OpenError::Damaged {
            path: path.to_owned(),
            what,
        }),
        Err(e) => Err(OpenError::Disk {
            path: path.to_owned(),
            why: e.to_string(),
        }),
    }
}

/// In the file: chain hash, then the engine's bytes.
fn parse_record(value: &[u8]) -> Result<Record, String> {
    let (hash, bytes) = value
        .split_first_chunk::<32>()
        .ok_or("a record is shorter than its hash")?;
    let (id, _) = postcard::take_from_bytes::<LogId>(bytes).map_err(|e| e.to_string())?;
    Ok(Record {
        id,
        bytes: bytes.into(),
        hash: Hash(*hash),
    })
}

fn read_range(db: &Database, start: u64, end: u64) -> Result<Vec<Record>, String> {
    let read = || -> Result<Vec<Result<Record, String>>, redb::Error> {
        let txn = db.begin_read()?;
        let log = txn.open_table(LOG)?;
        let mut records = Vec::new();
        for item in log.range(start..end)? {
            records.push(parse_record(item?.1.value()));
        }
        Ok(records)
    };
    read().map_err(|e| e.to_string())?.into_iter().collect()
}

struct Writer {
    db: Arc<Database>,
    last: Option<LogId>,
    durable: Box<dyn Fn(Option<LogId>) + Send>,
}

impl Writer {
    fn run(mut self, queue: &Receiver<Order>) {
        let mut committed = None;
        let mut broken: Option<String> = None;
        loop {
            let first = match queue.recv_timeout(IDLE) {
                Ok(order) => Some(order),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let idle = first.is_none();
            let mut batch: Vec<Order> = Vec::new();
            let mut closing = None;
            for order in first
                .into_iter()
                .chain(queue.try_iter().take(BATCH_LEN_MAX))
            {
                match order {
                    Order::Committed(id) => committed = committed.max(Some(id)),
                    Order::Close { done } => closing = Some(done),
                    other => batch.push(other),
                }
            }
            let flush = !batch.is_empty() || (committed.is_some() && (idle || closing.is_some()));
            if flush && broken.is_none() {
                match self.write(&batch, committed) {
                    Ok(()) => committed = None,
                    Err(why) => {
                        tracing::error!(%why, "the log cannot be written; this node stops taking part until it is restarted with a working disk");
                        broken = Some(why.to_string());
                    }
                }
            }
            if flush && broken.is_none() {
                (self.durable)(self.last);
            }
            batch
                .into_iter()
                .for_each(|order| answer(order, broken.as_deref()));
            if let Some(done) = closing {
                drop(self);
                let _ = done.send(());
                return;
            }
        }
    }

    /// One transaction, one fsync.
    fn write(&mut self, batch: &[Order], committed: Option<LogId>) -> Result<(), redb::Error> {
        let mut last = self.last;
        let mut txn = self.db.begin_write()?;
        txn.set_durability(Durability::Immediate)?;
        {
            let mut log = txn.open_table(LOG)?;
            let mut meta = txn.open_table(META)?;
            for order in batch {
                match order {
                    Order::Append { records, .. } => {
                        for record in records {
                            log.insert(
                                record.id.index,
                                [&record.hash.0[..], &record.bytes].concat().as_slice(),
                            )?;
                            last = Some(record.id);
                        }
                    }
                    Order::Vote { vote, .. } => {
                        meta.insert("vote", encode(vote).as_slice())?;
                    }
                    Order::Truncate { after, .. } => {
                        log.retain_in(
                            after.map_or(0, |id| id.index.saturating_add(1))..,
                            |_, _| false,
                        )?;
                        last = *after;
                    }
                    Order::Purge { upto, .. } => {
                        log.retain_in(..=upto.index, |_, _| false)?;
                        meta.insert("purged", encode(upto).as_slice())?;
                        last = last.max(Some(*upto));
                    }
                    Order::Committed(_) | Order::Close { .. } => {}
                }
            }
            // never newer than the log in this same file
            if let Some(id) = committed.min(last) {
                meta.insert("committed", encode(&id).as_slice())?;
            }
        }
        txn.commit()?;
        self.last = last;
        Ok(())
    }
}

fn encode(value: &impl serde::Serialize) -> Vec<u8> {
    postcard::to_stdvec(value).expect("writing to memory does not fail")
}

fn answer(order: Order, broken: Option<&str>) {
    let result = || broken.map_or(Ok(()), |why| Err(io::Error::other(why.to_owned())));
    match order {
        Order::Append { done, .. } => done.io_completed(result()),
        // whoever asked may have gone: then nobody relies on the answer
        Order::Vote { done, .. } | Order::Truncate { done, .. } | Order::Purge { done, .. } => {
            let _ = done.send(result());
        }
        Order::Committed(_) | Order::Close { .. } => {}
    }
}
