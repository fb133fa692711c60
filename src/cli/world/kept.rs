//! What a data directory keeps for the next start: secrets and the class, each in a file of its owner, made once.

use crate::class::ClassCode;
use anyhow::Context;
use rand_core::{OsRng, RngCore};
use std::fs::{File, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Longest of these files; more is not ours.
const FILE_LEN_MAX: u64 = 256;

/// A directory that only this user may enter.
pub(crate) fn private_dir(dir: &Path) -> anyhow::Result<()> {
    let named = || format!("data directory {}", dir.display());
    std::fs::create_dir_all(dir).with_context(named)?;
    std::fs::set_permissions(dir, Permissions::from_mode(0o700)).with_context(named)
}

/// 32 random bytes, made at first use.
pub(crate) fn secret(path: &Path) -> anyhow::Result<[u8; 32]> {
    if let Some(bytes) = read(path)? {
        return bytes.try_into().map_err(|found: Vec<u8>| {
            anyhow::anyhow!(
                "{}: expected 32 bytes, found {}; give another --data-dir",
                path.display(),
                found.len()
            )
        });
    }
    let mut secret = [0; 32];
    OsRng.try_fill_bytes(&mut secret)?;
    write(path, &secret)?;
    Ok(secret)
}

/// The class of this directory: the one it has, else the one that is asked for, else a new one.
pub(crate) fn class(path: &Path, asked: Option<ClassCode>) -> anyhow::Result<ClassCode> {
    let Some(bytes) = read(path)? else {
        let code = asked.map_or_else(ClassCode::fresh, Ok)?;
        write(path, format!("{}\n", code.words()).as_bytes())?;
        return Ok(code);
    };
    let kept: ClassCode = String::from_utf8_lossy(&bytes)
        .parse()
        .with_context(|| format!("{}: damaged; give another --data-dir", path.display()))?;
    anyhow::ensure!(
        asked.is_none_or(|asked| asked.is(&kept)),
        "{} keeps another class code than --class says: contract and chain belong to that one; leave out --class, or \
         give another --data-dir",
        path.display()
    );
    Ok(kept)
}

/// A directory for one process at a time; the lock ends with the process, however it ends.
pub(crate) fn lock(dir: &Path, name: &str) -> anyhow::Result<File> {
    let path = dir.join(name);
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| path.display().to_string())?;
    file.try_lock().map_err(|_| {
        anyhow::anyhow!(
            "data directory {} is in use by another process; stop it, or give --data-dir another directory",
            dir.display()
        )
    })?;
    Ok(file)
}

/// Where data of this user lives that nobody named: `synod` in the XDG data home.
pub(crate) fn data_home() -> anyhow::Result<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_DATA_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".local/share")))
        .map(|home| home.join("synod"))
        .context("neither XDG_DATA_HOME nor HOME names a directory for data; give --data-dir DIR")
}

fn read(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    let named = || path.display().to_string();
    let mut bytes = Vec::new();
    match File::open(path) {
        Err(why) if why.kind() == ErrorKind::NotFound => Ok(None),
        Err(why) => Err(why).with_context(named),
        Ok(file) => {
            file.take(FILE_LEN_MAX)
                .read_to_end(&mut bytes)
                .with_context(named)?;
            Ok(Some(bytes))
        }
    }
}

/// Whole or not at all, readable by the owner only.
fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let beside = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    };
    write().with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_keeps_its_class_and_refuses_another() {
        let dir = tempfile::tempdir().expect("scratch");
        let path = dir.path().join("class");
        let first = class(&path, None).expect("made");
        assert!(class(&path, None).expect("kept").is(&first));
        let same = first.words().parse().expect("its own words");
        assert!(class(&path, Some(same)).expect("kept").is(&first));
        let other = ClassCode::fresh().expect("randomness");
        let words = other.words();
        let text = format!(
            "{:#}",
            class(&path, Some(other)).map(drop).expect_err("other")
        );
        assert!(
            text.contains("--data-dir") && !text.contains(&words),
            "{text}"
        );
        let mode = std::fs::metadata(&path)
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_secret_is_made_once_and_a_damaged_one_refused() {
        let dir = tempfile::tempdir().expect("scratch");
        let path = dir.path().join("salt");
        let first = secret(&path).expect("made");
        assert_eq!(secret(&path).expect("kept"), first);
        std::fs::write(&path, [0; 31]).expect("scratch");
        let text = format!("{:#}", secret(&path).expect_err("damaged"));
        assert!(text.contains("32") && text.contains("31"), "{text}");
    }

    #[test]
    fn one_process_at_a_time() {
        let dir = tempfile::tempdir().expect("scratch");
        let first = lock(dir.path(), "lock").expect("free");
        assert!(lock(dir.path(), "lock").is_err());
        drop(first);
        assert!(lock(dir.path(), "lock").is_ok());
    }
}
