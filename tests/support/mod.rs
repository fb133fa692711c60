//! Whole processes: a simulator and a development chain in the test, every node a child process of the
//! real binary. Tests wait *for something* with a deadline, never for a time.
#![allow(dead_code)] // each test file uses its part
#![allow(clippy::disallowed_methods)] // tests are the outside world: sockets, files, processes, clock

pub mod anvil;
pub mod class;
pub mod lan;
pub mod proxy;
pub mod pty;

use anvil::{Anvil, TestChain};
use anyhow::{Context, Result, bail, ensure};
use dstack_simulator::{DEVELOPMENT_COMPOSE, InstanceConfig};
use proxy::Proxy;
use serde_json::Value;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use synod_chain::operator::{self, DeployParams};
use synod_chain::{Chain, ChainSettings, Wallet};
use synod_devchain::{DEV_ADDRESSES, DEV_CHAIN_ID, DEV_KEYS};
use synod_wire::{Address, Term, Token};

/// The binary under test.
pub const SYNOD: &str = env!("CARGO_BIN_EXE_synod");
const FIRST_GAS_WEI: u128 = 1_000_000_000_000_000_000;

/// Chain, simulator and contract; nodes are started one by one.
pub struct World {
    pub dir: tempfile::TempDir,
    pub rpc: Arc<Proxy>,
    pub contract: Address,
    pub chain: Chain,
    pub nodes: Vec<Node>,
    direct_rpc: String,
    multicast_port: u16,
    under: TestChain,
    _chain: Running,
    _agents: dstack_simulator::Running,
}

/// The chain's process or task; it ends with the world.
enum Running {
    Instant(synod_devchain::Running),
    Anvil(Anvil),
}

/// One node: how to start it, and its process while it runs.
pub struct Node {
    pub id: u64,
    pub http: u16,
    pub udp: u16,
    pub link: u16,
    pub args: Vec<String>,
    pub log: PathBuf,
    child: Option<Child>,
}

impl World {
    /// A world for `n` members, none of them running, on the chain that `SYNOD_TEST_CHAIN` names.
    pub async fn new(n: u64) -> Result<Self> {
        Self::on(TestChain::chosen()?, n).await
    }

    /// The same on this chain.
    pub async fn on(under: TestChain, n: u64) -> Result<Self> {
        Self::founded(under, n, n).await
    }

    /// The same, where so many members are enough for the first election; the others may come late.
    pub async fn founded(under: TestChain, n: u64, founders: u64) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("synod-test-").tempdir()?;
        let running = Running::start(under, &dir.path().join("chain.log")).await?;
        let direct_rpc = format!("http://{}", running.address());
        let rpc = Proxy::start(running.address()).await?;
        let seed = [7; 32];
        let simulated = Arc::new(dstack_simulator::World::new(
            &seed,
            DEVELOPMENT_COMPOSE.to_owned(),
            None,
        )?);
        let params = DeployParams {
            owner: Address(DEV_ADDRESSES[0]),
            kms_root: Address(simulated.kms_root_address()),
            allowed_apps: vec![Address(simulated.app_id())],
            founders,
            max_nodes: 100,
            max_lifetime_s: 86_400,
        };
        let deployer = Wallet::from_secret(&DEV_KEYS[0])?;
        let contract = operator::deploy(&direct_rpc, &deployer, &params).await?;
        let settings = ChainSettings {
            rpc: direct_rpc.clone(),
            contract,
            chain_id: DEV_CHAIN_ID,
            timeout: Duration::from_secs(5),
        };
        let chain = Chain::connect(&settings).await?;
        let mut instances = Vec::new();
        for id in 1..=n {
            let to = Address(DEV_ADDRESSES[id as usize - 1]);
            operator::mint(&chain, &deployer, to, &format!("node{id}")).await?;
            let seed = dstack_simulator::instance_seed(&seed, id as u32);
            instances.push(InstanceConfig::new(
                dir.path().join(format!("{id}.sock")),
                seed,
            ));
        }
        let agents = dstack_simulator::serve(simulated, instances).await?;
        let multicast_port = free_port();
        let mut world = Self {
            dir,
            rpc,
            contract,
            chain,
            nodes: Vec::new(),
            direct_rpc,
            multicast_port,
            under,
            _chain: running,
            _agents: agents,
        };
        world.nodes = (1..=n).map(|id| world.node_settings(id)).collect();
        Ok(world)
    }

    /// A world of `n` running nodes with one leader.
    pub async fn led(n: u64) -> Result<Self> {
        let mut world = Self::new(n).await?;
        for id in 1..=n {
            world.start(id)?;
        }
        for id in 1..=n {
            world.adopt(id).await?;
        }
        world.leader(Duration::from_secs(20)).await?;
        Ok(world)
    }

    /// How long a transaction may wait for its block: nothing on the instant chain. A deadline of a test that waits
    /// for n transactions in a row needs n of these on top.
    pub fn block_time(&self) -> Duration {
        self.under.block_time()
    }

    fn node_settings(&self, id: u64) -> Node {
        let (http, udp, link) = (free_port(), free_port(), free_port());
        let home = self.dir.path().join(format!("node{id}"));
        let path = |p: PathBuf| p.display().to_string();
        let args = [
            "node".to_owned(),
            id.to_string(),
            "--dstack-socket".to_owned(),
            path(self.dir.path().join(format!("{id}.sock"))),
            "--rpc".to_owned(),
            self.rpc.url(),
            "--contract".to_owned(),
            self.contract.to_string(),
            "--data-dir".to_owned(),
            path(home),
            "--http-port".to_owned(),
            http.to_string(),
            "--udp-port".to_owned(),
            udp.to_string(),
            "--link-port".to_owned(),
            link.to_string(),
            "--multicast-port".to_owned(),
            self.multicast_port.to_string(),
            "--log-level".to_owned(),
            "debug".to_owned(),
        ];
        let log = self.dir.path().join(format!("node{id}.log"));
        Node {
            id,
            http,
            udp,
            link,
            args: args.to_vec(),
            log,
            child: None,
        }
    }

    pub fn node(&self, id: u64) -> &Node {
        &self.nodes[id as usize - 1]
    }

    /// Start (again) from whatever is on its disk.
    pub fn start(&mut self, id: u64) -> Result<()> {
        self.start_under(id, &[])
    }

    /// Start under another program, e.g. strace.
    pub fn start_under(&mut self, id: u64, wrapper: &[String]) -> Result<()> {
        let node = &mut self.nodes[id as usize - 1];
        ensure!(node.child.is_none(), "node {id} is running");
        let log = File::options().create(true).append(true).open(&node.log)?;
        let mut words = wrapper.to_vec();
        words.push(SYNOD.to_owned());
        words.extend(node.args.iter().cloned());
        let child = Command::new(&words[0])
            .args(&words[1..])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", words[0]))?;
        node.child = Some(child);
        Ok(())
    }

    /// kill -9.
    pub fn kill(&mut self, id: u64) -> Result<()> {
        let node = &mut self.nodes[id as usize - 1];
        let mut child = node
            .child
            .take()
            .with_context(|| format!("node {id} is not running"))?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// SIGTERM, and how it ended.
    pub async fn stop(&mut self, id: u64, within: Duration) -> Result<std::process::ExitStatus> {
        let node = &mut self.nodes[id as usize - 1];
        let mut child = node.child.take().context("it does not run")?;
        let pid = i32::try_from(child.id()).ok();
        let pid = pid.and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.context("a pid")?, rustix::process::Signal::TERM)?;
        eventually(within, &format!("node {id} ends"), async || {
            child.try_wait()?.context("it still runs")
        })
        .await
    }

    /// How it ended, if it ended by itself.
    pub fn ended(&mut self, id: u64) -> Result<Option<std::process::ExitStatus>> {
        let node = &mut self.nodes[id as usize - 1];
        let child = node.child.as_mut().context("it was not started")?;
        Ok(child.try_wait()?)
    }

    pub fn pid(&self, id: u64) -> Option<u32> {
        self.node(id).child.as_ref().map(Child::id)
    }

    /// As the token's owner, once the node has said who it is.
    pub async fn adopt(&self, id: u64) -> Result<()> {
        let status = eventually(
            Duration::from_secs(15),
            &format!("node {id} asks for adoption"),
            async || {
                let status = self.status(id).await?;
                ensure!(
                    status["phase"] == "waiting_for_adoption",
                    "phase {}",
                    status["phase"]
                );
                Ok(status)
            },
        )
        .await?;
        let wallet: Address = status["wallet_address"]
            .as_str()
            .context("wallet")?
            .parse()?;
        let instance: Address = status["instance_id"]
            .as_str()
            .context("instance")?
            .parse()?;
        let owner = Wallet::from_secret(&DEV_KEYS[id as usize - 1])?;
        operator::adopt(
            &self.chain,
            &owner,
            Token(id),
            wallet,
            instance,
            FIRST_GAS_WEI,
        )
        .await?;
        Ok(())
    }

    /// A transaction of the chain: to whom it went, and its block.
    pub async fn transaction(&self, tx: &str) -> Result<(String, u64)> {
        let call = serde_json::json!({"jsonrpc": "2.0", "id": 1, "method": "eth_getTransactionByHash", "params": [tx]});
        let answer: Value = client()
            .post(&self.direct_rpc)
            .json(&call)
            .send()
            .await?
            .json()
            .await?;
        let found = &answer["result"];
        let block = found["blockNumber"]
            .as_str()
            .with_context(|| format!("{tx} is not on the chain: {answer}"))?;
        let to = found["to"].as_str().context("to")?.to_lowercase();
        Ok((to, u64::from_str_radix(block.trim_start_matches("0x"), 16)?))
    }

    pub async fn get(&self, id: u64, path: &str) -> Result<Value> {
        ask(self.node(id).http, path).await
    }

    pub async fn status(&self, id: u64) -> Result<Value> {
        self.get(id, "/status").await
    }

    /// One POST /increment: status code and body.
    pub async fn increment(&self, id: u64) -> Result<(u16, Value)> {
        let url = format!("http://127.0.0.1:{}/increment", self.node(id).http);
        let answer = client().post(url).send().await?;
        Ok((answer.status().as_u16(), answer.json().await?))
    }

    /// The one leader that every running node agrees on with the contract and its log.
    pub async fn leader(&self, within: Duration) -> Result<u64> {
        self.leader_after(Term(0), within).await
    }

    /// As [`Self::leader`], of a later term than this one.
    pub async fn leader_after(&self, term: Term, within: Duration) -> Result<u64> {
        let agreed = eventually(within, "one leader everywhere", async || {
            let view = self.chain.view().await?;
            ensure!(
                view.term > term,
                "the contract is still at term {}",
                view.term
            );
            let leader = view.leader.context("the office is vacant")?;
            for node in self.running() {
                let status = self.status(node.id).await?;
                ensure!(
                    status["leader_token"] == leader.0,
                    "node {}: leader {}",
                    node.id,
                    status["leader_token"]
                );
                ensure!(
                    status["term"] == view.term.0,
                    "node {}: term {}",
                    node.id,
                    status["term"]
                );
                let log = &status["log_term"];
                ensure!(
                    log["term"] == view.term.0 && log["leader"] == leader.0,
                    "node {}: log {log}",
                    node.id
                );
                ensure!(
                    status["is_leader"] == (node.id == leader.0),
                    "node {}: is_leader",
                    node.id
                );
            }
            Ok(leader.0)
        });
        agreed.await.with_context(|| self.logs())
    }

    pub fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.child.is_some())
    }

    /// Every running node is unmuted.
    pub async fn all_speak(&self, within: Duration) -> Result<()> {
        eventually(within, "all nodes unmuted", async || {
            for node in self.running() {
                let status = self.status(node.id).await?;
                ensure!(
                    status["phase"] == "serving" && status["muted"] == false,
                    "node {}: {}",
                    node.id,
                    status["summary"]
                );
            }
            Ok(())
        })
        .await
        .with_context(|| self.logs())
    }

    /// Every running node shows this counter value and as many log entries.
    pub async fn all_count(&self, value: u64, within: Duration) -> Result<()> {
        eventually(within, &format!("counter {value} everywhere"), async || {
            for node in self.running() {
                let counter = self.get(node.id, "/counter").await?;
                ensure!(counter["value"] == value, "node {}: {counter}", node.id);
                let log = self.get(node.id, "/log").await?;
                ensure!(
                    log["total_operations"] == value,
                    "node {}: {} operations",
                    node.id,
                    log["total_operations"]
                );
            }
            Ok(())
        })
        .await
        .with_context(|| self.logs())
    }

    /// The last lines of every node's log, for a failure's message.
    pub fn logs(&self) -> String {
        let tail = |node: &Node| {
            let text = std::fs::read_to_string(&node.log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!(
                "--- node {}\n{}",
                node.id,
                lines[lines.len().saturating_sub(40)..].join("\n")
            )
        };
        self.nodes.iter().map(tail).collect::<Vec<_>>().join("\n")
    }
}

impl Running {
    async fn start(under: TestChain, log: &std::path::Path) -> Result<Self> {
        if under == TestChain::Anvil {
            let program = Anvil::find().map_err(anyhow::Error::msg)?;
            return Ok(Self::Anvil(Anvil::start(&program, log)?));
        }
        let settings = synod_devchain::Settings {
            bind: ([127, 0, 0, 1], 0).into(),
            journal: None,
            chain_id: DEV_CHAIN_ID,
        };
        Ok(Self::Instant(synod_devchain::serve(settings).await?))
    }

    fn address(&self) -> std::net::SocketAddr {
        match self {
            Self::Instant(chain) => chain.address(),
            Self::Anvil(anvil) => anvil.address(),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // best effort: it may have ended
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// GET from a node on this machine.
pub async fn ask(port: u16, path: &str) -> Result<Value> {
    let url = format!("http://127.0.0.1:{port}{path}");
    Ok(client().get(url).send().await?.json().await?)
}

fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(10))
        .build()
        .expect("no TLS, nothing to fail")
}

/// Try until it works or the deadline passes; the last refusal is the message.
pub async fn eventually<T>(
    within: Duration,
    what: &str,
    mut attempt: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(why) if started.elapsed() > within => {
                bail!("not within {within:?}: {what}: {why:#}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Below the ephemeral range, so that no outgoing connection takes it in between.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 10_000 + (std::process::id() % 200) as u16 * 100;
    loop {
        let port = start + NEXT.fetch_add(1, Ordering::Relaxed) % 2_000;
        let tcp = std::net::TcpListener::bind(("127.0.0.1", port));
        let udp = std::net::UdpSocket::bind(("127.0.0.1", port));
        if tcp.is_ok() && udp.is_ok() {
            return port;
        }
    }
}

/// The first of so many free ports in a row.
pub fn ports(n: u16) -> u16 {
    let mut first = free_port();
    let mut last = first;
    while last - first + 1 < n {
        let next = free_port();
        if next != last + 1 {
            first = next;
        }
        last = next;
    }
    first
}

/// One cluster at a time: three nodes and their syncs want both cores, and a starved node rightly elects.
pub async fn turn() -> tokio::sync::MutexGuard<'static, ()> {
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    TURN.lock().await
}

/// Something this machine lacks: said aloud, and a failure in CI.
pub fn skipped(name: &str, missing: &str) {
    // the test runner swallows what a passing test prints to stdout through its macros
    let _ = writeln!(std::io::stderr(), "SKIPPED {name}: {missing}");
    assert!(
        std::env::var_os("SYNOD_CI").is_none(),
        "{name}: {missing}: in CI missing is failing"
    );
}
