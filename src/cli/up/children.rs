//! The nodes: child processes of the same binary, with an empty environment and a command line that holds
//! paths, URLs, addresses and ports. Their logs are files in the data directory. Each can be killed and started again
//! from its disk.

use super::{CREDITS, Plan, World};
use crate::prompt::{Down, Hands};
use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

const STOP_WITHIN: Duration = Duration::from_secs(4);
const TAIL_LINES: usize = 3;

pub(crate) struct Children {
    program: PathBuf,
    nodes: Vec<Node>,
}

struct Node {
    number: u64,
    log: PathBuf,
    /// The words that start it by hand.
    arguments: Vec<String>,
    state: State,
}

enum State {
    Runs(Child),
    /// By us.
    Killed,
    /// By itself, or by somebody else.
    Ended,
}

/// What a look at a node finds.
pub(crate) enum Life {
    Runs,
    /// It does not run, and that is known.
    Down,
    /// It has ended since the last look: how, and what to do.
    Died(String),
}

impl Children {
    /// All of them. On the thread that lives as long as the process: a child dies with the one that made it.
    pub(crate) fn start(plan: &Plan, dir: &Path, world: &World) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("where is this program?")?;
        let mut nodes = Vec::new();
        for number in 1..=plan.nodes {
            let home = home(dir, number);
            std::fs::create_dir_all(&home)?;
            let (log, arguments) = (home.join("node.log"), arguments(plan, number, &home, world));
            let state = State::Runs(spawn(&program, &arguments, &log, number)?);
            nodes.push(Node {
                number,
                log,
                arguments,
                state,
            });
        }
        Ok(Self { program, nodes })
    }

    /// How this node is. Its end is told once.
    pub(crate) fn look(&mut self, number: u64) -> anyhow::Result<Life> {
        let program = self.program.display().to_string();
        let node = self.node(number)?;
        let State::Runs(child) = &mut node.state else {
            return Ok(Life::Down);
        };
        let Some(status) = child.try_wait()? else {
            return Ok(Life::Runs);
        };
        node.state = State::Ended;
        let text = std::fs::read_to_string(&node.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n  ");
        let (again, log) = (node.arguments.join(" "), node.log.display());
        Ok(Life::Died(format!(
            "{status}; bring it back with\n  {program} {again}\nthe end of {log}:\n  {tail}"
        )))
    }

    /// kill -9, as a machine that loses its power.
    async fn kill(&mut self, number: u64) -> anyhow::Result<()> {
        let node = self.node(number)?;
        let State::Runs(child) = &mut node.state else {
            anyhow::bail!("node {number} does not run; start it with: start {number}");
        };
        child
            .kill()
            .await
            .with_context(|| format!("killing node {number}"))?;
        node.state = State::Killed;
        Ok(())
    }

    /// Once more, from its disk.
    fn start_again(&mut self, number: u64) -> anyhow::Result<()> {
        let program = self.program.clone();
        let node = self.node(number)?;
        if let State::Runs(child) = &mut node.state
            && child.try_wait()?.is_none()
        {
            anyhow::bail!("node {number} runs already");
        }
        node.state = State::Runs(spawn(&program, &node.arguments, &node.log, number)?);
        Ok(())
    }

    fn down(&self) -> Down {
        let numbers = |which: fn(&State) -> bool| {
            let nodes = self.nodes.iter().filter(|node| which(&node.state));
            nodes.map(|node| node.number).collect()
        };
        Down {
            all: numbers(|state| !matches!(state, State::Runs(_))),
            killed: numbers(|state| matches!(state, State::Killed)),
        }
    }

    fn node(&mut self, number: u64) -> anyhow::Result<&mut Node> {
        let found = self.nodes.iter_mut().find(|node| node.number == number);
        found.with_context(|| format!("there is no node {number} here"))
    }

    /// SIGTERM, then a deadline, then SIGKILL.
    pub(crate) async fn stop(&mut self) {
        let mut running: Vec<&mut Child> = self
            .nodes
            .iter_mut()
            .filter_map(|node| match &mut node.state {
                State::Runs(child) => Some(child),
                State::Killed | State::Ended => None,
            })
            .collect();
        for child in &running {
            if let Some(pid) = child
                .id()
                .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
            {
                // it may have ended by itself
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        for child in &mut running {
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

/// The prompt's hands. It runs on the thread that made the children, and so do these.
pub(crate) struct Held<'a>(pub &'a Mutex<Children>);

impl Hands for Held<'_> {
    async fn kill(&mut self, node: u64) -> anyhow::Result<String> {
        self.0.lock().await.kill(node).await?;
        Ok(format!(
            "node {node} killed (SIGKILL); its disk is as it was; start it with: start {node}"
        ))
    }

    async fn start(&mut self, node: u64) -> anyhow::Result<String> {
        self.0.lock().await.start_again(node)?;
        Ok(format!("node {node} started from its disk"))
    }

    async fn down(&mut self) -> Down {
        self.0.lock().await.down()
    }
}

/// The directory of one node.
pub(crate) fn home(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("node{number}"))
}

fn spawn(program: &Path, arguments: &[String], log: &Path, number: u64) -> anyhow::Result<Child> {
    let file = File::options().create(true).append(true).open(log)?;
    let supervised = ["--supervised-by".to_owned(), std::process::id().to_string()];
    Command::new(program)
        .args(arguments.iter().chain(&supervised))
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::from(file))
        // Ctrl-C at a terminal goes to the whole group: the children are to hear of it from us, once
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting node {number}"))
}

fn arguments(plan: &Plan, node: u64, home: &Path, world: &World) -> Vec<String> {
    let text = |path: &Path| path.display().to_string();
    let credits = plan.initial_credit.map(|credit| credit.to_string());
    let credits = credits.map(|credits| [format!("--{CREDITS}"), credits]);
    [
        ("node", None),
        ("", Some(node.to_string())),
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
    .chain(world.agents.arguments(node))
    .chain(credits.into_iter().flatten())
    .collect()
}
