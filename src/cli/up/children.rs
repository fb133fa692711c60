//! The nodes: child processes of the same binary, with an empty environment and a command line that holds
//! paths, URLs, addresses and ports. Their logs are files in the data directory.

use super::{Plan, World};
use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

const STOP_WITHIN: Duration = Duration::from_secs(4);
const TAIL_LINES: usize = 3;

pub(crate) struct Children {
    /// Its number, its process, its log, and the words that start it by hand.
    nodes: Vec<(u64, Child, PathBuf, Vec<String>)>,
    reported: BTreeSet<u64>,
}

impl Children {
    pub(crate) fn start(plan: &Plan, dir: &Path, world: &World) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("where is this program?")?;
        let mut nodes = Vec::new();
        for node in 1..=plan.nodes {
            let home = dir.join(format!("node{node}"));
            std::fs::create_dir_all(&home)?;
            let log = home.join("node.log");
            let file = File::options().create(true).append(true).open(&log)?;
            let arguments = arguments(plan, node, &home, world);
            let supervised = ["--supervised-by".to_owned(), std::process::id().to_string()];
            let child = Command::new(&program)
                .args(arguments.iter().chain(&supervised))
                .env_clear()
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::from(file))
                // Ctrl-C at a terminal goes to the whole group: the children are to hear of it from us, once
                .process_group(0)
                .kill_on_drop(true)
                .spawn()
                .with_context(|| format!("starting node {node}"))?;
            let again = std::iter::once(program.display().to_string())
                .chain(arguments)
                .collect();
            nodes.push((node, child, log, again));
        }
        Ok(Self {
            nodes,
            reported: BTreeSet::new(),
        })
    }

    /// How this node ended, if it has.
    pub(crate) fn died(&mut self, node: u64) -> anyhow::Result<Option<String>> {
        let Some((_, child, log, again)) = self.nodes.iter_mut().find(|(n, ..)| *n == node) else {
            return Ok(None);
        };
        let Some(status) = child.try_wait()? else {
            return Ok(None);
        };
        let text = std::fs::read_to_string(&*log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n  ");
        let again = again.join(" ");
        let log = log.display();
        Ok(Some(format!(
            "{status}; bring it back with\n  {again}\nthe end of {log}:\n  {tail}"
        )))
    }

    /// True the first time.
    pub(crate) fn report_death(&mut self, node: u64) -> bool {
        self.reported.insert(node)
    }

    /// SIGTERM, then a deadline, then SIGKILL.
    pub(crate) async fn stop(&mut self) {
        for (_, child, ..) in &self.nodes {
            if let Some(pid) = child
                .id()
                .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
            {
                // it may have ended by itself
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        for (_, child, ..) in &mut self.nodes {
            if tokio::time::timeout(STOP_WITHIN, child.wait())
                .await
                .is_err()
            {
                // it is being killed; nothing to do about a failure
                let _ = child.kill().await;
            }
        }
    }
}

fn arguments(plan: &Plan, node: u64, home: &Path, world: &World) -> Vec<String> {
    let text = |path: &Path| path.display().to_string();
    [
        ("node", None),
        ("", Some(node.to_string())),
        ("--dstack-socket", Some(text(&world.socket(node)))),
        ("--rpc", Some(format!("http://127.0.0.1:{}", plan.rpc_port))),
        ("--contract", Some(world.contract.to_string())),
        ("--data-dir", Some(text(home))),
        ("--http-port", Some(plan.http_port(node).to_string())),
        ("--udp-port", Some(plan.udp_port(node).to_string())),
        ("--multicast-port", Some(plan.multicast_port.to_string())),
        ("--profile", Some(plan.profile.clone())),
        ("--log-level", Some(plan.log_level.clone())),
    ]
    .into_iter()
    .flat_map(|(option, value)| [Some(option.to_owned()).filter(|o| !o.is_empty()), value])
    .flatten()
    .collect()
}
