//! Synod on dstack's official simulator, as recorded: one instance for everybody and a quote that never verifies. A
//! cluster runs on it only when somebody asks for it by name, and everything that is shown says UNATTESTED.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // tests are the outside world

#[path = "agents/liar.rs"]
#[allow(dead_code)] // the command's tests use the rest
mod liar;
#[path = "agents/official.rs"]
mod official;
mod support;

use anyhow::{Context, Result, ensure};
use official::Official;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::{SYNOD, eventually, free_port, ports};

const SOON: Duration = Duration::from_secs(30);

/// `synod up` on the official simulator; ends with the test.
struct Up {
    child: Child,
    dir: PathBuf,
    rpc: u16,
    http: u16,
    nodes: u16,
}

impl Up {
    fn start(official: &Official, dir: &Path, nodes: u16) -> Result<Self> {
        let (rpc, http, udp) = (free_port(), ports(nodes), ports(nodes + 1));
        let child = Command::new(SYNOD)
            .args(["up", "--no-prompt", "--nodes", &nodes.to_string()])
            .arg("--dstack-socket")
            .arg(&official.socket)
            .arg("--data-dir")
            .arg(dir.join("data"))
            .args(["--rpc-port", &rpc.to_string()])
            .args(["--base-http-port", &http.to_string()])
            .args(["--udp-port-base", &udp.to_string()])
            .args(["--multicast-port", &free_port().to_string()])
            .stdin(Stdio::null())
            .stdout(File::create(dir.join("out"))?)
            .stderr(File::create(dir.join("err"))?)
            .spawn()?;
        Ok(Self {
            child,
            dir: dir.to_owned(),
            rpc,
            http,
            nodes,
        })
    }

    fn told(&self) -> String {
        let read = |name| std::fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        read("out") + &read("err")
    }

    /// Waits for a line that begins so, and gives the rest of it.
    async fn line(&self, begins: &str) -> Result<String> {
        eventually(SOON, begins, async || {
            let told = self.told();
            let line = told.lines().find_map(|line| line.strip_prefix(begins));
            line.map(|rest| rest.trim().to_owned())
                .with_context(|| told.clone())
        })
        .await
    }

    fn apis(&self) -> std::ops::Range<u16> {
        self.http..self.http + self.nodes
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // best effort: it may have ended
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn ask(method: &str, port: u16, path: &str, body: Option<Value>) -> Result<(u16, Value)> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let request = client.request(method.parse()?, format!("http://127.0.0.1:{port}{path}"));
    let request = match body {
        Some(body) => request.json(&body),
        None => request,
    };
    let answer = request.send().await?;
    Ok((answer.status().as_u16(), answer.json().await?))
}

async fn get(port: u16, path: &str) -> Result<Value> {
    let (status, body) = ask("GET", port, path, None).await?;
    ensure!(status == 200, "{path}: {status} {body}");
    Ok(body)
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_share_the_official_simulator_and_say_that_nothing_is_attested() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let test = "three_nodes_share_the_official_simulator";
    let Some(official) = Official::serve(test, dir.path()).await else {
        return Ok(());
    };
    let up = Up::start(&official, dir.path(), 3)?;
    up.line("ready").await?;
    let told = up.told();
    ensure!(
        told.contains("UNATTESTED") && !told.contains("SIMULATED"),
        "{told}"
    );

    let mut wallets = BTreeSet::new();
    let mut instances = BTreeSet::new();
    let mut leader = None;
    for port in up.apis() {
        let status = get(port, "/status").await?;
        let shown = status["attestation"].as_str().context("a verdict")?;
        ensure!(
            shown.starts_with("UNATTESTED: dstack simulator fixture"),
            "{shown}"
        );
        wallets.insert(status["wallet_address"].to_string());
        instances.insert(status["instance_id"].to_string());
        if status["is_leader"] == true {
            leader = Some(port);
        }
    }
    ensure!(
        wallets.len() == 3 && instances.len() == 3,
        "{wallets:?} {instances:?}"
    );
    let leader = leader.context("no leader")?;
    let (status, body) = ask("POST", leader, "/increment", None).await?;
    ensure!(status == 200, "{status} {body}");
    let trade = json!({"type": "sell", "with": 2, "amount": 30});
    let (status, body) = ask("POST", up.http, "/trades", Some(trade)).await?;
    ensure!(status == 200, "{status} {body}");
    eventually(
        SOON,
        "the same counter and balances everywhere",
        async || {
            for port in up.apis() {
                let counter = get(port, "/counter").await?;
                let balances = get(port, "/balances").await?;
                ensure!(counter["value"] == 1, "{counter}");
                let of = |n: usize| balances["balances"][n]["balance_wh"].clone();
                ensure!(
                    [of(0), of(1), of(2)] == [json!(70_000), json!(130_000), json!(100_000)],
                    "{balances}"
                );
            }
            Ok(())
        },
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_being_asked_a_node_does_not_run_on_the_official_simulator() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let test = "without_being_asked_a_node_does_not_run";
    let Some(official) = Official::serve(test, dir.path()).await else {
        return Ok(());
    };
    // a chain with a contract whose KMS root is that simulator's: made by `up`, which is left running
    let up = Up::start(&official, dir.path(), 1)?;
    let contract = up.line("contract").await?;
    let node = async |options: &[&str]| {
        let run = tokio::process::Command::new(SYNOD)
            .args(["node", "1", "--contract", &contract, "--dstack-socket"])
            .arg(&official.socket)
            .args(["--rpc", &format!("http://127.0.0.1:{}", up.rpc)])
            .args(["--http-port", "0", "--udp-port", "0", "--link-port", "0"])
            .args(["--multicast-port", &free_port().to_string()])
            .arg("--data-dir")
            .arg(dir.path().join("alone"))
            .args(options)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        tokio::time::timeout(SOON, run)
            .await
            .context("it runs instead of refusing")?
            .context("started")
    };
    let refused = node(&[]).await?;
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(1), "{why}");
    for part in [
        "UNATTESTED: dstack simulator fixture",
        "--insecure-unattested-peers",
        "--node-name",
    ] {
        ensure!(why.contains(part), "{part} is missing in {why}");
    }
    ensure!(
        !why.contains("registered"),
        "it registered before it refused: {why}"
    );

    let elsewhere = node(&["--insecure-unattested-peers", "--chain-id", "1"]).await?;
    let why = String::from_utf8_lossy(&elsewhere.stderr).into_owned();
    ensure!(
        elsewhere.status.code() == Some(1)
            && why.contains("--insecure-unattested-peers: expected no such option"),
        "{why}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn up_refuses_an_agent_without_a_kms() -> Result<()> {
    use dstack_simulator::{InstanceConfig, KeyProvider, World, WorldSpec, serve};
    let dir = tempfile::tempdir()?;
    let mut spec = WorldSpec::new([5; 32]);
    spec.key_provider = KeyProvider::None;
    spec.compose = r#"{"name":"x","key_provider":"none"}"#.to_owned();
    let socket = dir.path().join("a.sock");
    let config = InstanceConfig::new(socket.clone(), [6; 32]);
    let running = serve(World::build(spec)?.into(), vec![config]).await?;
    let mut up = Command::new(SYNOD);
    up.args(["up", "--no-prompt", "--dstack-socket"])
        .arg(&socket)
        .args(["--rpc-port", &free_port().to_string()])
        .args(["--base-http-port", &ports(3).to_string()])
        .args(["--udp-port-base", &ports(4).to_string()])
        .stdin(Stdio::null());
    let ended = tokio::task::spawn_blocking(move || up.output()).await??;
    let why = String::from_utf8_lossy(&ended.stderr).into_owned();
    ensure!(
        ended.status.code() == Some(1) && why.contains("runs without a KMS"),
        "{why}"
    );
    running.stop().await;
    Ok(())
}
