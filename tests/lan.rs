//! Several machines: each host is a network namespace, `synod devnet --lan` runs on one, `synod node N --join` on
//! each. Discovery, the ways a frame can take, loss, a stranger without the class code, one number on two machines.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // tests are the outside world

mod support;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::anvil::Anvil;
use support::lan::Lan;
use support::{SYNOD, eventually, turn};

const LONG: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(20);

/// One class on a LAN: the chain on host 1, node N on host N.
struct Class {
    lan: Lan,
    dir: tempfile::TempDir,
    words: String,
    devnet: Child,
    _chain: Option<Anvil>,
    nodes: BTreeMap<u64, Running>,
}

struct Running {
    host: u8,
    child: Child,
}

impl Class {
    /// `hosts` hosts; node N on host N is started with these further options.
    fn start(lan: Lan) -> Result<Self> {
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

    fn command(&self, node: u64, host: u8, home: &str, options: &[String]) -> Command {
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
    fn join(&mut self, node: u64, options: &[String]) -> Result<()> {
        let host = u8::try_from(node)?;
        self.join_on(node, host, &format!("node{node}"), options)
    }

    fn join_on(&mut self, node: u64, host: u8, home: &str, options: &[String]) -> Result<()> {
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

    fn log(&self, home: &str) -> PathBuf {
        self.dir.path().join(format!("{home}.log"))
    }

    async fn ask(
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

    async fn get(&self, node: u64, path: &str) -> Result<Value> {
        let (status, body) = self.ask(node, "GET", path, None).await?;
        ensure!(status == 200, "node {node} {path}: {status} {body}");
        Ok(body)
    }

    /// One leader for every node that was started, all seated and speaking.
    async fn led(&self) -> Result<u64> {
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

    async fn all_have(&self, wh: &[u64]) -> Result<()> {
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

    async fn sell(&self, at: u64, with: u64, credits: u64) -> Result<Value> {
        let body = json!({"type": "sell", "with": with, "amount": credits});
        let (status, answer) = self.ask(at, "POST", "/trades", Some(body)).await?;
        ensure!(status == 200, "{status} {answer}\n{}", self.logs());
        Ok(answer)
    }

    async fn increment(&self, leader: u64) -> Result<()> {
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
    async fn ways(&self, node: u64, kind: &str) -> Result<[u64; 3]> {
        let ways = self.get(node, "/status").await?["frames"]["by_way"].clone();
        Ok(["multicast", "unicast", "link"].map(|way| ways[way][kind].as_u64().unwrap_or(0)))
    }

    fn logs(&self) -> String {
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

fn none() -> Vec<String> {
    Vec::new()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_machines_find_each_other_elect_trade_and_count() -> Result<()> {
    let _turn = turn().await;
    let Some(lan) = Lan::new(4)? else {
        return Ok(());
    };
    let mut class = Class::start(lan)?;
    for node in 1..=3 {
        class.join(node, &none())?;
    }
    let leader = class.led().await?;
    class.sell(1, 3, 30).await?;
    class.all_have(&[70_000, 100_000, 130_000]).await?;
    class.increment(leader).await?;
    let [multicast, _, _] = class.ways(3, "TRADE_REQUEST").await?;
    ensure!(
        multicast > 0,
        "discovery and trade are multicast on a LAN that carries it"
    );

    // a fourth machine: without the code, and with a code of another class
    let nobody = class.command(4, 4, "node4", &none()).output()?;
    let why = String::from_utf8_lossy(&nobody.stderr).into_owned();
    ensure!(
        nobody.status.code() == Some(1) && why.contains("class code"),
        "{:?} {why}",
        nobody.status
    );
    let other = [
        "--class".to_owned(),
        "babab-babab-babab-babab-babab".to_owned(),
    ];
    let stranger = class.command(4, 4, "node4", &other).output()?;
    let why = String::from_utf8_lossy(&stranger.stderr).into_owned();
    ensure!(
        stranger.status.code() == Some(1) && why.contains("class"),
        "{:?} {why}",
        stranger.status
    );
    ensure!(
        class.get(1, "/members").await?["total_active"] == 3,
        "nobody else came in"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_multicast_named_peers_find_each_other() -> Result<()> {
    let _turn = turn().await;
    let Some(lan) = Lan::new(3)? else {
        return Ok(());
    };
    for host in 1..=3 {
        lan.drop_multicast(host)?;
    }
    let mut class = Class::start(lan)?;
    for node in 1..=3_u64 {
        let peers: Vec<String> = (1..=3)
            .filter(|n| *n != node)
            .map(|n| format!("{n}:10.77.0.{n}"))
            .collect();
        let options = [
            "--peers".to_owned(),
            peers.join(","),
            "--nodes".to_owned(),
            "1,2,3".to_owned(),
        ];
        class.join(node, &options)?;
    }
    let leader = class.led().await?;
    class.sell(1, 3, 30).await?;
    class.all_have(&[70_000, 100_000, 130_000]).await?;
    class.increment(leader).await?;
    let [multicast, unicast, _] = class.ways(3, "TRADE_REQUEST").await?;
    ensure!(
        multicast == 0 && unicast > 0,
        "{multicast} by multicast, {unicast} by unicast"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_datagram_frames_go_over_the_link() -> Result<()> {
    let _turn = turn().await;
    let Some(lan) = Lan::new(3)? else {
        return Ok(());
    };
    let mut class = Class::start(lan)?;
    for node in 1..=3 {
        class.join(node, &none())?;
    }
    class.led().await?;
    class.sell(1, 2, 1).await?;
    class.all_have(&[99_000, 101_000, 100_000]).await?;
    let mut datagrams = Vec::new();
    for node in 1..=3 {
        let [multicast, unicast, _] = class.ways(node, "TRADE_REQUEST").await?;
        datagrams.push(multicast + unicast);
    }
    for host in 1..=3 {
        class.lan.drop_udp(host)?;
    }
    class.sell(1, 3, 30).await?;
    class.all_have(&[69_000, 101_000, 130_000]).await?;
    for node in [2, 3] {
        for kind in ["TRADE_REQUEST", "TRADE_CONFIRM"] {
            let [_, _, link] = class.ways(node, kind).await?;
            ensure!(
                link > 0 || (node == 3 && kind == "TRADE_CONFIRM"),
                "node {node}: no {kind} over the link"
            );
        }
        let [multicast, unicast, _] = class.ways(node, "TRADE_REQUEST").await?;
        ensure!(
            multicast + unicast == datagrams[usize::try_from(node)? - 1],
            "a datagram came through"
        );
    }
    // and back
    for host in 1..=3 {
        class.lan.allow_udp(host)?;
    }
    eventually(SOON, "datagrams are used again", async || {
        class.sell(2, 1, 1).await?;
        let [multicast, unicast, _] = class.ways(3, "TRADE_REQUEST").await?;
        ensure!(multicast + unicast > datagrams[2], "still by link only");
        Ok(())
    })
    .await
}

/// How many trades each of these runs makes, 20 a second.
const TRADES: u32 = 200;

impl Class {
    /// Everybody sells to and buys of everybody, one trade each 50 ms.
    async fn offer_all(&self) -> Result<()> {
        let started = Instant::now();
        for number in 0..TRADES {
            let at = u64::from(number % 3) + 1;
            let with = u64::from((number + 1 + number / 3 % 2) % 3) + 1;
            let side = if number % 2 == 0 { "sell" } else { "buy" };
            let body = json!({"type": side, "with": with, "amount": "0.1", "wait": false});
            let (status, answer) = self.ask(at, "POST", "/trades", Some(body)).await?;
            ensure!(
                status == 202 || status == 200,
                "trade {number} at node {at} with {with}: {status} {answer}\n{}",
                self.logs()
            );
            let due = started + Duration::from_millis(50) * (number + 1);
            tokio::time::sleep(due.saturating_duration_since(Instant::now())).await;
        }
        Ok(())
    }

    /// The decided trades, when every node shows the same ones, none open and nothing held back.
    async fn all_decided(&self) -> Result<Vec<Value>> {
        let within = Duration::from_secs(30); // the expiry of the last one
        eventually(
            within,
            "all decided, nothing open, nothing held back",
            async || {
                let mut pages = Vec::new();
                for node in self.nodes.keys() {
                    let page = self.get(*node, "/trades?limit=1000").await?;
                    ensure!(
                        page["total_trades"] == TRADES && page["open"] == json!([]),
                        "node {node}: {} decided, open {}",
                        page["total_trades"],
                        page["open"]
                    );
                    let clock = self.get(*node, "/clock").await?;
                    ensure!(clock["buffered"] == 0, "node {node}: {clock}");
                    pages.push(page["trades"].clone());
                }
                ensure!(
                    pages.windows(2).all(|two| two[0] == two[1]),
                    "the nodes tell different stories"
                );
                Ok(pages[0].as_array().cloned().unwrap_or_default())
            },
        )
        .await
        .with_context(|| self.logs())
    }
}

/// 200 trades at 20 a second under this loss: all settle before they expire, nothing lost, made or left over.
async fn trades_under_loss(percent: u8) -> Result<()> {
    let _turn = turn().await;
    let Some(lan) = Lan::new(3)? else {
        return Ok(());
    };
    let mut class = Class::start(lan)?;
    for node in 1..=3 {
        class.join(node, &none())?;
    }
    class.led().await?;
    for host in 1..=3 {
        class.lan.lose(host, percent)?;
    }
    let started = Instant::now();
    class.offer_all().await?;
    let offered = started.elapsed();
    ensure!(
        offered < Duration::from_secs(13),
        "20 a second were promised, {offered:?} it took"
    );
    let trades = class.all_decided().await?;
    let states: Vec<&Value> = trades.iter().map(|t| &t["status"]).collect();
    ensure!(states.iter().all(|s| **s == "settled"), "{states:?}");
    let mut lost = 0;
    for node in 1..=3 {
        let shown = class.get(node, "/balances").await?;
        ensure!(
            shown["total_wh"] == 300_000 && shown["reserved_wh"] == 0,
            "node {node}: {shown}"
        );
        let ledger = class.get(node, "/status").await?["ledger"].clone();
        lost += ledger["held"].as_u64().unwrap_or(0) + ledger["asked"].as_u64().unwrap_or(0);
    }
    ensure!(lost > 0, "no datagram was lost: nothing was tried");
    eprintln!(
        "{TRADES} trades at {percent} % loss: offered in {offered:.1?}, all settled after {:.1?}",
        started.elapsed()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_trades_survive_ten_percent_loss() -> Result<()> {
    trades_under_loss(10).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_trades_survive_thirty_percent_loss() -> Result<()> {
    trades_under_loss(30).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_number_on_two_machines_the_newer_wins_and_both_say_so() -> Result<()> {
    let _turn = turn().await;
    let Some(lan) = Lan::new(4)? else {
        return Ok(());
    };
    let mut class = Class::start(lan)?;
    for node in 1..=3 {
        class.join(node, &none())?;
    }
    class.led().await?;
    let mut older = class.nodes.remove(&2).context("node 2")?;
    class.join_on(2, 4, "node2b", &none())?;
    let status = eventually(LONG, "the older one stops", async || {
        older.child.try_wait()?.context("it still runs")
    })
    .await
    .with_context(|| class.logs())?;
    ensure!(status.code() == Some(1), "{status}");
    let node_log = |home: &str| -> Result<String> {
        let own = class.dir.path().join(home).join("node.log");
        let outer = std::fs::read_to_string(class.log(home)).unwrap_or_default();
        Ok(outer + &std::fs::read_to_string(own).unwrap_or_default())
    };
    let told = node_log("node2")?;
    ensure!(
        told.contains("incarnation 2 of token 2 has registered from 10.77.0.4"),
        "{told}"
    );
    class.led().await?;
    let told = node_log("node2b")?;
    ensure!(
        told.contains("frames of another process as node 2 (incarnation 1) arrive from"),
        "{told}"
    );
    class.sell(1, 2, 30).await?;
    class.all_have(&[70_000, 130_000, 100_000]).await
}

impl Class {
    /// kill -9 of the node itself; its supervisor says so and ends.
    async fn kill(&mut self, node: u64) -> Result<()> {
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

#[tokio::test(flavor = "multi_thread")]
async fn a_party_that_is_killed_in_the_middle_of_a_trade_comes_back_to_its_end() -> Result<()> {
    let _turn = turn().await;
    let Some(lan) = Lan::new(3)? else {
        return Ok(());
    };
    let mut class = Class::start(lan)?;
    for node in 1..=3 {
        class.join(node, &none())?;
    }
    class.led().await?;
    let mut left = 100_000;
    for victim in [1, 3] {
        // the payee is cut off, so the trade cannot end before the death
        class.lan.partition(3)?;
        let body = json!({"type": "sell", "with": 3, "amount": 10, "wait": false});
        let (status, answer) = class.ask(1, "POST", "/trades", Some(body)).await?;
        ensure!(status == 202, "{status} {answer}");
        class.kill(victim).await?;
        class.lan.heal(3)?;
        class.join(victim, &none())?;
        left -= 10_000;
        class.led().await?;
        class.all_have(&[left, 100_000, 200_000 - left]).await?;
    }
    Ok(())
}
