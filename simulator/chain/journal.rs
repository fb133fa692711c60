//! The journal: every block of the chain, appended in order, so that a restart brings the same
//! chain back. A transaction is on the disk (fdatasync) before its sender hears of it.
//!
//! File: magic ‖ chain id ‖ time of block 0, then records. A record is
//! `length u32 ‖ check of the length ‖ body ‖ check of the body`, a check being the first 4 bytes of
//! Keccak-256; a body is `number u64 ‖ time u64 ‖ block hash ‖ raw transaction (none = empty block)`.
//! Rule: a last record that was torn by a crash is cut; damage before it refuses the file.

use alloy::primitives::{B256, keccak256};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 16] = b"synod-devchain-1";
const HEAD_LEN: usize = MAGIC.len() + 16;
const CHECK_LEN: usize = 4;
const FIXED_LEN: usize = 8 + 8 + 32;
/// Longest raw transaction, as in other nodes.
pub const RAW_LEN_MAX: usize = 128 * 1024;
/// Longest journal that is read at the start.
const FILE_LEN_MAX: u64 = 4 << 30;

/// The file cannot be used. Nothing of it was changed.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system said no.
    #[error("journal {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Two chains on one file would destroy it.
    #[error(
        "journal {path}: another development chain has it open; stop that one or name another file"
    )]
    InUse {
        /// Which file.
        path: PathBuf,
    },
    /// Not one of ours.
    #[error(
        "journal {path}: expected a development chain's journal, found something else; name another file"
    )]
    Foreign {
        /// Which file.
        path: PathBuf,
    },
    /// Of another chain.
    #[error("journal {path}: expected chain id {expected}, found {found}; name another file")]
    OtherChain {
        /// Which file.
        path: PathBuf,
        /// Asked for.
        expected: u64,
        /// In the file.
        found: u64,
    },
    /// Somebody wrote into it, or the disk forgot.
    #[error(
        "journal {path}: damaged at byte {offset}: {what}; restore it from a copy, or start a new chain with another file"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where the record begins.
        offset: u64,
        /// What does not fit.
        what: String,
    },
}

/// One block as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number.
    pub number: u64,
    /// Its time, unix seconds.
    pub time: u64,
    /// Its hash: the replay must arrive at the same.
    pub hash: B256,
    /// EIP-2718 bytes; empty = a block without transaction.
    pub raw: Vec<u8>,
}

/// What the file held at the start.
pub struct Opened {
    /// Time of block 0.
    pub genesis_time: u64,
    /// All blocks after it, each with the offset where it stands.
    pub records: Vec<(u64, Record)>,
    /// Bytes of a torn last record that were cut.
    pub cut_len: u64,
}

/// An open journal; holds the file's lock.
pub struct Journal {
    file: File,
    path: PathBuf,
    len: u64,
    broken: bool,
}

impl Journal {
    /// Open or begin the journal. `now` becomes the time of block 0 of a new one.
    pub fn open(path: &Path, chain_id: u64, now: u64) -> Result<(Self, Opened), JournalError> {
        let failed = |source| JournalError::Io {
            path: path.to_owned(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => JournalError::InUse {
                path: path.to_owned(),
            },
            TryLockError::Error(source) => failed(source),
        })?;
        if file.metadata().map_err(failed)?.len() > FILE_LEN_MAX {
            return Err(failed(io::Error::other(format!(
                "longer than {FILE_LEN_MAX} bytes; name another file"
            ))));
        }
        let mut bytes = Vec::new();
        let mut bounded = (&mut file).take(FILE_LEN_MAX);
        bounded.read_to_end(&mut bytes).map_err(failed)?;
        let head = head(chain_id, now);
        // A crash while the head was written leaves a beginning of it.
        if bytes.len() < HEAD_LEN && MAGIC.starts_with(&bytes[..bytes.len().min(MAGIC.len())]) {
            file.set_len(0)
                .and_then(|()| file.seek(SeekFrom::Start(0)))
                .map_err(failed)?;
            file.write_all(&head)
                .and_then(|()| file.sync_all())
                .map_err(failed)?;
            let folder = path
                .parent()
                .filter(|folder| !folder.as_os_str().is_empty())
                .unwrap_or(Path::new("."));
            File::open(folder)
                .and_then(|folder| folder.sync_all())
                .map_err(failed)?;
            let journal = Self {
                file,
                path: path.to_owned(),
                len: HEAD_LEN as u64,
                broken: false,
            };
            return Ok((
                journal,
                Opened {
                    genesis_time: now,
                    records: Vec::new(),
                    cut_len: 0,
                },
            ));
        }
        let opened = read(path, &bytes, chain_id)?;
        let len = bytes.len() as u64 - opened.cut_len;
        file.set_len(len)
            .and_then(|()| file.seek(SeekFrom::Start(len)))
            .map_err(failed)?;
        Ok((
            Self {
                file,
                path: path.to_owned(),
                len,
                broken: false,
            },
            opened,
        ))
    }

    /// From now on every write fails, as on a full disk.
    #[cfg(test)]
    pub fn break_for_test(&mut self) {
        self.file = File::open(&self.path).expect("the journal was just written");
    }

    /// Append a block. One with a transaction is on the disk when this returns.
    pub fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        let failed = |source| JournalError::Io {
            path: self.path.clone(),
            source,
        };
        if self.broken {
            return Err(failed(io::Error::other(
                "an earlier write failed; restart the chain",
            )));
        }
        let bytes = encode(record);
        let written = self.file.write_all(&bytes);
        let synced = written.and_then(|()| {
            if record.raw.is_empty() {
                Ok(())
            } else {
                self.file.sync_data()
            }
        });
        if let Err(source) = synced {
            // What is on the disk is unknown now: no more promises until a restart has read it.
            self.broken = true;
            let _ = self.file.set_len(self.len);
            return Err(failed(source));
        }
        self.len += bytes.len() as u64;
        Ok(())
    }
}

fn head(chain_id: u64, genesis_time: u64) -> Vec<u8> {
    [
        MAGIC.as_slice(),
        &chain_id.to_be_bytes(),
        &genesis_time.to_be_bytes(),
    ]
    .concat()
}

fn check(bytes: &[u8]) -> [u8; CHECK_LEN] {
    let [a, b, c, d, ..] = keccak256(bytes).0;
    [a, b, c, d]
}

fn encode(record: &Record) -> Vec<u8> {
    let body = [
        &record.number.to_be_bytes(),
        record.time.to_be_bytes().as_slice(),
        record.hash.as_slice(),
        &record.raw,
    ]
    .concat();
    let len = u32::try_from(body.len())
        .expect("a body is at most RAW_LEN_MAX + 48 bytes")
        .to_be_bytes();
    [len.as_slice(), &check(&len), &body, &check(&body)].concat()
}

fn read(path: &Path, bytes: &[u8], chain_id: u64) -> Result<Opened, JournalError> {
    let foreign = || JournalError::Foreign {
        path: path.to_owned(),
    };
    let rest = bytes.strip_prefix(MAGIC.as_slice()).ok_or_else(foreign)?;
    let (found, rest) = number(rest).ok_or_else(foreign)?;
    let (genesis_time, mut rest) = number(rest).ok_or_else(foreign)?;
    if found != chain_id {
        return Err(JournalError::OtherChain {
            path: path.to_owned(),
            expected: chain_id,
            found,
        });
    }
    let mut records = Vec::new();
    while !rest.is_empty() {
        let offset = (bytes.len() - rest.len()) as u64;
        match take(rest) {
            Taken::Whole(record, after) => {
                records.push((offset, record));
                rest = after;
            }
            Taken::Torn => break,
            Taken::Damaged(what) => {
                return Err(JournalError::Damaged {
                    path: path.to_owned(),
                    offset,
                    what: what.to_owned(),
                });
            }
        }
    }
    Ok(Opened {
        genesis_time,
        records,
        cut_len: rest.len() as u64,
    })
}

enum Taken<'a> {
    Whole(Record, &'a [u8]),
    Torn,
    Damaged(&'static str),
}

fn take(bytes: &[u8]) -> Taken<'_> {
    let (Some((len, rest)), Some((len_check, _))) = (
        bytes.split_first_chunk::<4>(),
        bytes.get(4..).and_then(<[u8]>::split_first_chunk::<4>),
    ) else {
        return Taken::Torn;
    };
    if check(len) != *len_check {
        // A file that grew before its bytes arrived ends in zeros.
        let zeros = bytes.iter().all(|byte| *byte == 0);
        return if zeros {
            Taken::Torn
        } else {
            Taken::Damaged("the check of a record's length does not match")
        };
    }
    let len = u32::from_be_bytes(*len) as usize;
    if !(FIXED_LEN..=FIXED_LEN + RAW_LEN_MAX).contains(&len) {
        return Taken::Damaged("a record's length is out of range");
    }
    let Some((body, rest)) = rest
        .get(CHECK_LEN..)
        .and_then(|rest| rest.split_at_checked(len))
    else {
        return Taken::Torn;
    };
    let Some((body_check, after)) = rest.split_first_chunk::<CHECK_LEN>() else {
        return Taken::Torn;
    };
    if check(body) != *body_check {
        return if after.is_empty() {
            Taken::Torn
        } else {
            Taken::Damaged("the check of a record does not match")
        };
    }
    let parsed = number(body).and_then(|(number_, rest)| {
        let (time, rest) = number(rest)?;
        let (hash, raw) = rest.split_first_chunk::<32>()?;
        Some(Record {
            number: number_,
            time,
            hash: B256::from(*hash),
            raw: raw.to_vec(),
        })
    });
    parsed.map_or(Taken::Damaged("a record is too short"), |record| {
        Taken::Whole(record, after)
    })
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    bytes
        .split_first_chunk::<8>()
        .map(|(number, rest)| (u64::from_be_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: u64, raw: &[u8]) -> Record {
        Record {
            number,
            time: 1_000 + number,
            hash: B256::repeat_byte(7),
            raw: raw.to_vec(),
        }
    }

    fn written(path: &Path) -> Vec<Record> {
        let records = vec![record(1, b""), record(2, b"two"), record(3, b"three")];
        let (mut journal, opened) = Journal::open(path, 31_337, 1_000).unwrap();
        assert!(opened.records.is_empty());
        for record in &records {
            journal.append(record).unwrap();
        }
        records
    }

    fn reread(path: &Path) -> Result<Vec<Record>, JournalError> {
        Journal::open(path, 31_337, 9_999).map(|(_, opened)| {
            assert_eq!(opened.genesis_time, 1_000);
            opened
                .records
                .into_iter()
                .map(|(_, record)| record)
                .collect()
        })
    }

    #[test]
    fn what_was_appended_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let records = written(&path);
        assert_eq!(reread(&path).unwrap(), records);
    }

    #[test]
    fn a_record_torn_at_any_byte_is_cut_and_the_ones_before_it_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let records = written(&path);
        let whole = std::fs::read(&path).unwrap();
        let last = encode(&records[2]).len();
        for keep in whole.len() - last..whole.len() {
            std::fs::write(&path, &whole[..keep]).unwrap();
            assert_eq!(
                reread(&path).unwrap(),
                records[..2],
                "torn after {keep} bytes"
            );
            assert_eq!(
                std::fs::metadata(&path).unwrap().len() as usize,
                whole.len() - last
            );
        }
    }

    #[test]
    fn a_changed_bit_before_the_last_record_refuses_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let records = written(&path);
        let whole = std::fs::read(&path).unwrap();
        for at in HEAD_LEN..whole.len() - encode(&records[2]).len() {
            let mut bad = whole.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            assert!(
                matches!(reread(&path), Err(JournalError::Damaged { .. })),
                "bit at byte {at}"
            );
            assert_eq!(
                std::fs::read(&path).unwrap(),
                bad,
                "a refused file is left as it is"
            );
        }
    }

    #[test]
    fn a_journal_of_another_chain_or_another_program_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        written(&path);
        assert!(matches!(
            Journal::open(&path, 1, 0),
            Err(JournalError::OtherChain {
                expected: 1,
                found: 31_337,
                ..
            })
        ));
        std::fs::write(&path, b"my diary").unwrap();
        assert!(matches!(
            Journal::open(&path, 31_337, 0),
            Err(JournalError::Foreign { .. })
        ));
        assert_eq!(std::fs::read(&path).unwrap(), b"my diary");
    }

    #[test]
    fn a_journal_that_is_open_cannot_be_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let held = Journal::open(&path, 31_337, 1_000).unwrap();
        assert!(matches!(
            Journal::open(&path, 31_337, 1_000),
            Err(JournalError::InUse { .. })
        ));
        drop(held);
        assert!(Journal::open(&path, 31_337, 1_000).is_ok());
    }
}
