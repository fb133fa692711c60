//! The data directory: one node, one cluster, one process. What it holds besides the log is the salt of the
//! wallet's path (design section 5): any instance of an app can compute any key whose path it can guess, so
//! the path holds 32 bytes that only this disk knows. Directory lost = new wallet = the owner adopts again.

use rand_core::{OsRng, RngCore};
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use synod_ledger::Intent;
use synod_wire::{ClusterId, Token};

/// An opened, locked data directory. The lock ends with the process, however it ends.
pub struct Disk {
    dir: PathBuf,
    _lock: File,
}

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The file system refuses.
    #[error("data directory {}: {path}: {why}; give --data-dir a directory that this user may write", dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// What was being opened.
        path: String,
        /// What the system said.
        why: io::Error,
    },
    /// Somebody else has it open.
    #[error("data directory {} is in use by another process; stop it, or give --data-dir another directory", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// Made for another node.
    #[error("data directory {} belongs to {found}, this node is {expected}; give --data-dir another directory", dir.display())]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// Us.
        expected: String,
        /// What its marker says.
        found: String,
    },
}

const MARKER: &str = "node";
const LOCK: &str = "lock";
const SALT: &str = "wallet.salt";
const OUTBOX: &str = "outbox.json";
/// A thousand wishes and more.
const OUTBOX_LEN_MAX: u64 = 1 << 20;
/// The control socket's name in the data directory.
pub const CONTROL: &str = "control.sock";
const MARKER_LEN_MAX: u64 = 512;

impl Disk {
    /// Open, or make, and lock.
    pub fn open(dir: &Path, cluster: ClusterId, token: Token) -> Result<Self, DiskError> {
        let fail = |path: &str| {
            let (dir, path) = (dir.to_owned(), path.to_owned());
            move |why| DiskError::Io { dir, path, why }
        };
        std::fs::create_dir_all(dir).map_err(fail("."))?;
        std::fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(fail("."))?;
        let lock = private(OpenOptions::new().write(true).create(true).truncate(false))
            .open(dir.join(LOCK))
            .map_err(fail(LOCK))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| DiskError::Locked {
            dir: dir.to_owned(),
        })?;
        let disk = Self {
            dir: dir.to_owned(),
            _lock: lock,
        };
        disk.mark(cluster, token)?;
        Ok(disk)
    }

    /// Where the log lives.
    pub fn log_dir(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// 32 random bytes, made at first use.
    pub fn wallet_salt(&self) -> Result<[u8; 32], DiskError> {
        if let Some(bytes) = self.read(SALT, 33)? {
            return bytes
                .try_into()
                .map_err(|found: Vec<u8>| DiskError::Foreign {
                    dir: self.dir.clone(),
                    expected: format!("{SALT} of 32 bytes"),
                    found: format!("{SALT} of {} bytes", found.len()),
                });
        }
        let mut salt = [0; 32];
        OsRng.fill_bytes(&mut salt);
        self.write(SALT, &salt)?;
        Ok(salt)
    }

    /// The durable outbox: this node's wishes to trade that the log has not decided. Empty at first.
    pub fn outbox(&self) -> Result<Vec<Intent>, DiskError> {
        let Some(bytes) = self.read(OUTBOX, OUTBOX_LEN_MAX)? else {
            return Ok(Vec::new());
        };
        serde_json::from_slice(&bytes).map_err(|why| DiskError::Foreign {
            dir: self.dir.clone(),
            expected: format!("{OUTBOX} as this version writes it"),
            found: why.to_string(),
        })
    }

    /// From now on the outbox holds exactly these, whatever happens to this process.
    pub fn keep_outbox(&self, intents: &[Intent]) -> Result<(), DiskError> {
        let bytes = serde_json::to_vec(intents).map_err(|why| self.io(OUTBOX, why.into()))?;
        self.write(OUTBOX, &bytes)
    }

    /// Where the prompt meets the node.
    pub fn control_socket(&self) -> PathBuf {
        self.dir.join(CONTROL)
    }

    fn mark(&self, cluster: ClusterId, token: Token) -> Result<(), DiskError> {
        let expected = format!("synod data 1, cluster {cluster}, token {token}");
        match self.read(MARKER, MARKER_LEN_MAX)? {
            None => self.write(MARKER, expected.as_bytes()),
            Some(found) if found == expected.as_bytes() => Ok(()),
            Some(found) => {
                let found = String::from_utf8_lossy(&found).into_owned();
                Err(DiskError::Foreign {
                    dir: self.dir.clone(),
                    expected,
                    found,
                })
            }
        }
    }

    fn read(&self, name: &str, len_max: u64) -> Result<Option<Vec<u8>>, DiskError> {
        let mut bytes = Vec::new();
        match File::open(self.dir.join(name)) {
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(why) => return Err(self.io(name, why)),
            Ok(file) => file
                .take(len_max)
                .read_to_end(&mut bytes)
                .map_err(|why| self.io(name, why))?,
        };
        Ok(Some(bytes))
    }

    /// Whole or not at all: written beside, synced, renamed, directory synced.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
        let beside = self.dir.join(format!("{name}.new"));
        let write = || -> io::Result<()> {
            let mut file = private(OpenOptions::new().write(true).create(true).truncate(true))
                .open(&beside)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            std::fs::rename(&beside, self.dir.join(name))?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|why| self.io(name, why))
    }

    fn io(&self, name: &str, why: io::Error) -> DiskError {
        DiskError::Io {
            dir: self.dir.clone(),
            path: name.to_owned(),
            why,
        }
    }
}

fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options.mode(0o600)
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_wire::Address;

    fn cluster(n: u64) -> ClusterId {
        ClusterId::of(n, Address::ZERO)
    }

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("synod-disk-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        dir
    }

    #[test]
    fn the_salt_is_made_once_and_readable_by_the_owner_only() {
        let dir = scratch("salt");
        let first = Disk::open(&dir, cluster(1), Token(1))
            .expect("fresh")
            .wallet_salt()
            .expect("made");
        let again = Disk::open(&dir, cluster(1), Token(1))
            .expect("same")
            .wallet_salt()
            .expect("read");
        assert_eq!(first, again);
        assert_ne!(first, [0; 32]);
        let mode = std::fs::metadata(dir.join(SALT))
            .expect("is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_directory_of_another_cluster_or_token_is_refused_with_both_names() {
        let dir = scratch("foreign");
        drop(Disk::open(&dir, cluster(1), Token(1)).expect("fresh"));
        for (other, token) in [(cluster(2), Token(1)), (cluster(1), Token(2))] {
            let text = Disk::open(&dir, other, token)
                .map(drop)
                .expect_err("foreign")
                .to_string();
            assert!(
                text.contains(&cluster(1).to_string()) && text.contains(&other.to_string()),
                "{text}"
            );
        }
    }

    #[test]
    fn a_second_process_on_the_same_directory_is_refused() {
        let dir = scratch("lock");
        let _first = Disk::open(&dir, cluster(1), Token(1)).expect("fresh");
        assert!(matches!(
            Disk::open(&dir, cluster(1), Token(1)),
            Err(DiskError::Locked { .. })
        ));
    }
}
