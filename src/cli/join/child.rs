//! The node of `--join`: a child process of the same binary, with an empty environment and a process group of its
//! own. Its log is a file in the data directory.

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use synod_node::Said;
use tokio::process::{Child as Process, Command};

const STOP_WITHIN: Duration = Duration::from_secs(4);
const TAIL_LINES: usize = 8;

pub(crate) struct Child {
    process: Process,
    log: PathBuf,
}

impl Child {
    pub(crate) fn start(said: &Said, dir: &Path) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("where is this program?")?;
        let log = dir.join("node.log");
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| log.display().to_string())?;
        let process = Command::new(&program)
            .args(arguments(said))
            .args(["--supervised-by".to_owned(), std::process::id().to_string()])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(file))
            // Ctrl-C at a terminal goes to the whole group: the child is to hear of it from us, once
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("starting the node")?;
        Ok(Self { process, log })
    }

    /// How it ended, if it has.
    pub(crate) fn died(&mut self) -> anyhow::Result<Option<String>> {
        let Some(status) = self.process.try_wait()? else {
            return Ok(None);
        };
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n  ");
        Ok(Some(format!(
            "{status}; the end of {}:\n  {tail}",
            self.log.display()
        )))
    }

    /// SIGTERM, then a deadline, then SIGKILL.
    pub(crate) async fn stop(&mut self) {
        let id = self.process.id().and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = id.and_then(Pid::from_raw) {
            // it may have ended by itself
            let _ = kill_process(pid, Signal::TERM);
        }
        let ended = tokio::time::timeout(STOP_WITHIN, self.process.wait()).await;
        if ended.is_err() {
            // it is being killed; nothing to do about a failure
            let _ = self.process.kill().await;
        }
    }
}

fn arguments(said: &Said) -> Vec<String> {
    let options = said.0.iter().filter(|(name, _)| **name != "token");
    let token = said.0.get("token").cloned();
    std::iter::once("node".to_owned())
        .chain(token)
        // one word each: a value that begins with - stays a value
        .chain(options.map(|(name, value)| format!("--{name}={value}")))
        .collect()
}
