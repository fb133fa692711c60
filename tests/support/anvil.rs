//! The chain under a `World`: our development chain (a block per transaction) or anvil, a second EVM that mines by
//! the clock. `SYNOD_TEST_CHAIN` chooses: nothing or `instant`, or `anvil`. What is asked for and missing is an
//! error, never the other chain.

use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use synod_devchain::DEV_CHAIN_ID;

/// The setting that chooses.
pub const SETTING: &str = "SYNOD_TEST_CHAIN";
const ANVIL_BLOCK_TIME: Duration = Duration::from_secs(1);
const START_MAX: Duration = Duration::from_secs(15);

/// Which chain a test runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TestChain {
    /// In this process, one block per transaction, at once.
    Instant,
    /// A child process that mines every second.
    Anvil,
}

impl TestChain {
    /// As the environment says.
    pub fn chosen() -> Result<Self> {
        match std::env::var(SETTING).as_deref() {
            Err(std::env::VarError::NotPresent) | Ok("" | "instant") => Ok(Self::Instant),
            Ok("anvil") => Ok(Self::Anvil),
            other => bail!("{SETTING}: expected 'instant' or 'anvil', found {other:?}"),
        }
    }

    /// How long a transaction may wait for its block.
    pub const fn block_time(self) -> Duration {
        match self {
            Self::Instant => Duration::ZERO,
            Self::Anvil => ANVIL_BLOCK_TIME,
        }
    }
}

/// A running anvil on loopback; dropped, it is killed.
pub struct Anvil {
    address: std::net::SocketAddr,
    child: Child,
}

impl Anvil {
    /// The pinned anvil, or what to do to have one.
    pub fn find() -> Result<PathBuf, String> {
        let tool = concat!(env!("CARGO_MANIFEST_DIR"), "/contracts/tools/anvil");
        let answer = Command::new(tool)
            .output()
            .map_err(|why| format!("{tool}: {why}"))?;
        if answer.status.success() {
            return Ok(String::from_utf8_lossy(&answer.stdout).trim().into());
        }
        Err(String::from_utf8_lossy(&answer.stderr).trim().to_owned())
    }

    /// Start it on a port that it takes itself, with the ten development accounts; its output goes to `log`.
    pub fn start(program: &Path, log: &Path) -> Result<Self> {
        let mut command = Command::new(program);
        command.env_clear();
        Self::run(command, log)
    }

    /// For a program that brings its own chain (`up`, `devnet`): the words that put it before an anvil instead, when
    /// the environment wants one, and that anvil. `place` makes the command that starts a program where it belongs.
    pub fn instead(
        place: impl FnOnce(&Path) -> Command,
        log: &Path,
    ) -> Result<(Vec<String>, Option<Self>)> {
        if TestChain::chosen()? == TestChain::Instant {
            return Ok((Vec::new(), None));
        }
        let program = Self::find().map_err(anyhow::Error::msg)?;
        let anvil = Self::run(place(&program), log)?;
        let words = ["--dev-chain".to_owned(), anvil.address.port().to_string()];
        Ok((words.to_vec(), Some(anvil)))
    }

    fn run(mut command: Command, log: &Path) -> Result<Self> {
        let child = command
            .args(["--host", "127.0.0.1", "--port", "0", "--chain-id"])
            .arg(DEV_CHAIN_ID.to_string())
            .args(["--block-time", &ANVIL_BLOCK_TIME.as_secs().to_string()])
            .stdin(Stdio::null())
            .stdout(File::create(log)?)
            .stderr(File::options().append(true).open(log)?)
            .spawn()
            .context("starting anvil")?;
        let mut anvil = Self {
            address: ([127, 0, 0, 1], 0).into(),
            child,
        };
        anvil.address = anvil.said(log)?;
        Ok(anvil)
    }

    pub fn address(&self) -> std::net::SocketAddr {
        self.address
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn said(&mut self, log: &Path) -> Result<std::net::SocketAddr> {
        let started = Instant::now();
        loop {
            let text = std::fs::read_to_string(log)?;
            // a whole line only: it may still be writing
            let said = text
                .split_inclusive('\n')
                .filter(|line| line.ends_with('\n'))
                .find_map(|line| line.trim().strip_prefix("Listening on "));
            if let Some(address) = said {
                return address
                    .parse()
                    .with_context(|| format!("anvil's address {address:?}"));
            }
            let ended = self.child.try_wait()?;
            ensure!(ended.is_none(), "anvil ended ({ended:?}): {text}");
            ensure!(
                started.elapsed() < START_MAX,
                "anvil does not listen after {START_MAX:?}: {text}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Anvil {
    fn drop(&mut self) {
        // best effort: it may have ended
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
