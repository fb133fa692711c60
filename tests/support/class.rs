//! One class on several machines: each host is a network namespace, `synod devnet --lan` runs on one, `synod node N
//! --join` on each. Used by the tests that need a network that can be broken.

use super::anvil::Anvil;
use super::lan::Lan;
use super::{SYNOD, eventually};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(20);

/// One class on a LAN: the chain on host 1, node N on host N.
pub struct Class {
    pub lan: Lan,
    pub dir: tempfile::TempDir,
    words: String,
    devnet: Child,
    _chain: Option<Anvil>,
    pub nodes: BTreeMap<u64, Running>,
}

/// The supervisor of a node, and the host it runs on.
pub struct Running {
    host: u8,
    pub child: Child,
}

impl Class {
    /// Nodes 1 to 3 on a LAN of so many hosts, led; `None` (said aloud) where there are no namespaces.
    pub async fn of_three(hosts: u8) -> Result<Option<Self>> {
        let Some(lan) = Lan::new(hosts)? else {
            return Ok(None);
        };
        let mut class = Self::start(lan)?;
        for node in 1..=3 {
            class.join(node, &[])?;
        }
        class.led().await?;
        Ok(Some(class))
    }

    /// The chain on host 1, and no node yet.
    pub fn start(lan: Lan) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("synod-lan-").tempdir()?;
        let chain_log = dir.path().join("chain.out");
        let (other, chain) = Anvil::instead(|program| lan.command(1, program), &chain_log)?;
        let mut devnet = lan
            .command(1, SYNOD)
            .args(["devnet", "--lan", "--host", "10.77.0.1", "--data-dir"])
            .arg(dir.path().join("devnet"))
            .args(other)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(dir.path().join("devnet.log"))?)
            .spawn()?;
        let output = BufReader::new(devnet.stdout.take().context("piped")?);
        let mut words = None;
        for line in output.lines() {
            let line = line?;
            if let Some((_, after)) = line.split_once("--class ") {
                words = Some(after.trim().to_owned());
                break;
            }
        }
        let words = words.context("devnet ended without printing the class code")?;
        Ok(Self {
            lan,
            dir,
            words,
            devnet,
            _chain: chain,
            nodes: BTreeMap::new(),
        })
    }

    /// The command that runs a node in a home of this name on a host, without the class code.
    pub fn command(&self, node: u64, host: u8, home: &str, options: &[String]) -> Command {
        let mut command = self.lan.command(host, SYNOD);
        command
            .args(["node", &node.to_string(), "--join", "10.77.0.1:8545"])
            .args(["--host", &self.lan.address(host), "--log-level", "debug"])
            .arg("--data-dir")
            .arg(self.dir.path().join(home))
            .args(options)
            .stdin(Stdio::null());
        command
    }

    /// Node N on host N.
    pub fn join(&mut self, node: u64, options: &[String]) -> Result<()> {
        let host = u8::try_from(node)?;
        self.join_on(node, host, &format!("node{node}"), options)
    }

    /// A node on any host, with a home of this name.
    pub fn join_on(&mut self, node: u64, host: u8, home: &str, options: &[String]) -> Result<()> {
        let log = File::create(self.log(home))?;
        let child = self
            .command(node, host, home, options)
            .args(["--class", &self.words])
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.nodes.insert(node, Running { host, child });
        Ok(())
    }

    /// What a node's process said on its terminal.
    pub fn log(&self, home: &str) -> PathBuf {
        self.dir.path().join(format!("{home}.log"))
    }

    /// Status and body of one request to a node.
    pub async fn ask(
        &self,
        node: u64,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Result<(u16, Value)> {
        let host = self.nodes.get(&node).context("not started")?.host;
        let port = u16::try_from(8_080 + node)?;
        self.lan.http(host, port, method, path, body.as_ref()).await
    }

    /// The body of a GET that has to succeed.
    pub async fn get(&self, node: u64, path: &str) -> Result<Value> {
        let (status, body) = self.ask(node, "GET", path, None).await?;
        ensure!(status == 200, "node {node} {path}: {status} {body}");
        Ok(body)
    }

    /// One leader for every node that was started, all seated and speaking.
    pub async fn led(&self) -> Result<u64> {
        let all = self.nodes.len();
        eventually(LONG, "one leader everywhere, all seated", async || {
            let mut leaders = Vec::new();
            for node in self.nodes.keys() {
                let status = self.get(*node, "/status").await?;
                ensure!(
                    status["phase"] == "serving",
                    "node {node}: {}",
                    status["summary"]
                );
                let members = self.get(*node, "/members").await?;
                let seated = members["members"]
                    .as_array()
                    .map(|m| m.iter().filter(|m| m["seated"] == true).count());
                ensure!(seated == Some(all), "node {node}: {members}");
                let log = &status["log_term"];
                ensure!(
                    log["leader"] == status["leader_token"],
                    "node {node}: {log}"
                );
                leaders.push(status["leader_token"].as_u64().context("no leader")?);
            }
            ensure!(
                leaders.windows(2).all(|two| two[0] == two[1]),
                "{leaders:?}"
            );
            Ok(leaders[0])
        })
        .await
        .with_context(|| self.logs())
    }

    /// Waits for these balances, in order of the ids, on every node.
    pub async fn all_have(&self, wh: &[u64]) -> Result<()> {
        eventually(SOON, &format!("balances {wh:?} everywhere"), async || {
            for node in self.nodes.keys() {
                let shown = self.get(*node, "/balances").await?;
                let found: Vec<_> = shown["balances"]
                    .as_array()
                    .context("list")?
                    .iter()
                    .map(|b| b["balance_wh"].clone())
                    .collect();
                ensure!(json!(found) == json!(wh), "node {node}: {shown}");
            }
            Ok(())
        })
        .await
        .with_context(|| self.logs())
    }

    /// Sells, and waits for the word.
    pub async fn sell(&self, at: u64, with: u64, credits: u64) -> Result<Value> {
        let body = json!({"type": "sell", "with": with, "amount": credits});
        let (status, answer) = self.ask(at, "POST", "/trades", Some(body)).await?;
        ensure!(status == 200, "{status} {answer}\n{}", self.logs());
        Ok(answer)
    }

    /// The first increment, seen everywhere.
    pub async fn increment(&self, leader: u64) -> Result<()> {
        let (status, answer) = self.ask(leader, "POST", "/increment", None).await?;
        ensure!(status == 200, "{status} {answer}");
        eventually(SOON, "counter 1 everywhere", async || {
            for node in self.nodes.keys() {
                let counter = self.get(*node, "/counter").await?;
                ensure!(counter["value"] == 1, "node {node}: {counter}");
            }
            Ok(())
        })
        .await
    }

    /// How many frames of this kind came to a node by each way.
    pub async fn ways(&self, node: u64, kind: &str) -> Result<[u64; 3]> {
        let ways = self.get(node, "/status").await?["frames"]["by_way"].clone();
        Ok(["multicast", "unicast", "link"].map(|way| ways[way][kind].as_u64().unwrap_or(0)))
    }

    /// The end of every log, for a failing test.
    pub fn logs(&self) -> String {
        let mut all = String::new();
        for entry in std::fs::read_dir(self.dir.path())
            .into_iter()
            .flatten()
            .flatten()
        {
            let path = entry.path();
            if path.extension().is_none_or(|e| e != "log") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(30)..].join("\n");
            all.push_str(&format!("--- {}\n{tail}\n", path.display()));
        }
        all
    }

    /// kill -9 of the node itself; its supervisor says so and ends.
    pub async fn kill(&mut self, node: u64) -> Result<()> {
        let mut running = self.nodes.remove(&node).context("not started")?;
        let tasks = format!("/proc/{}/task", running.child.id());
        let mut killed = 0;
        for task in std::fs::read_dir(tasks)? {
            let children = std::fs::read_to_string(task?.path().join("children"))?;
            for pid in children
                .split_whitespace()
                .filter_map(|pid| pid.parse().ok())
            {
                let pid = rustix::process::Pid::from_raw(pid).context("a pid")?;
                rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
                killed += 1;
            }
        }
        ensure!(
            killed == 1,
            "expected one node below its supervisor, found {killed}"
        );
        eventually(SOON, "the supervisor ends", async || {
            running.child.try_wait()?.map(drop).context("it still runs")
        })
        .await
    }
}

impl Drop for Class {
    fn drop(&mut self) {
        for child in self
            .nodes
            .values_mut()
            .map(|r| &mut r.child)
            .chain([&mut self.devnet])
        {
            // best effort: it may have ended; what it started dies with it and with the namespaces
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
