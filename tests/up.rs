//! `synod up`, the supervisor: one process per node, keys stay apart, everything ends with it, what was kept goes
//! on, and a taken port is named.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // tests are the outside world

mod support;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::anvil::Anvil;
use support::{SYNOD, eventually, free_port, ports};

/// What a command line may hold: options, numbers, URLs without a path, 20-byte addresses, paths, words of the profile.
fn is_harmless(word: &str) -> bool {
    let option = word
        .strip_prefix("--")
        .is_some_and(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '-'));
    let address = word
        .strip_prefix("0x")
        .is_some_and(|hex| hex.len() == 40 && hex.chars().all(|c| c.is_ascii_hexdigit()));
    let url = word
        .strip_prefix("http://127.0.0.1:")
        .is_some_and(|port| port.parse::<u16>().is_ok());
    let path = std::path::Path::new(word).is_absolute()
        && std::path::Path::new(word)
            .parent()
            .is_some_and(|p| p.exists());
    option
        || address
        || url
        || path
        || word.parse::<u32>().is_ok()
        || ["node", "lan", "info"].contains(&word)
}

struct Up {
    child: Child,
    http: u16,
    dir: tempfile::TempDir,
    /// The chain behind it, when it is not its own, and the words that say so.
    chain: (Vec<String>, Option<Anvil>),
}

impl Up {
    fn start(nodes: u16) -> Result<Self> {
        Self::with(nodes, &[])
    }

    /// With these variables in its environment.
    fn with(nodes: u16, env: &[(&str, &str)]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("synod-up-").tempdir()?;
        let http = ports(nodes);
        let udp = ports(nodes + 1);
        let (other, chain) = Anvil::instead(
            |program| Command::new(program),
            &dir.path().join("chain.out"),
        )?;
        let child = Command::new(SYNOD)
            .args(["up", "--nodes", &nodes.to_string(), "--data-dir"])
            .arg(dir.path())
            .args(&other)
            .args([
                "--rpc-port",
                &free_port().to_string(),
                "--base-http-port",
                &http.to_string(),
            ])
            .args([
                "--udp-port-base",
                &udp.to_string(),
                "--multicast-port",
                &free_port().to_string(),
            ])
            .envs(env.iter().copied())
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(dir.path().join("out"))?)
            .stderr(std::fs::File::create(dir.path().join("err"))?)
            .spawn()?;
        let chain = (other, chain);
        Ok(Self {
            child,
            http,
            dir,
            chain,
        })
    }

    fn out(&self) -> String {
        let read = |name| std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
        format!("{}{}", read("out"), read("err"))
    }

    async fn status(&self, node: u16) -> Result<Value> {
        self.get(node, "status").await
    }

    async fn get(&self, node: u16, what: &str) -> Result<Value> {
        let url = format!("http://127.0.0.1:{}/{what}", self.http + node - 1);
        Ok(reqwest::Client::builder()
            .no_proxy()
            .build()?
            .get(url)
            .send()
            .await?
            .json()
            .await?)
    }

    async fn ready(&mut self) -> Result<()> {
        eventually(Duration::from_secs(30), "ready", async || {
            ensure!(self.out().contains("ready"), "{}", self.out());
            Ok(())
        })
        .await
    }

    fn children(&self) -> Vec<u32> {
        let path = format!("/proc/{0}/task/{0}/children", self.child.id());
        std::fs::read_to_string(path)
            .unwrap_or_default()
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .collect()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // best effort: the test may have ended it
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn up_keeps_keys_apart_and_leaves_cleanly() -> Result<()> {
    let mut up = Up::start(3)?;
    up.ready().await?;
    let children = up.children();
    assert_eq!(children.len(), 3, "one process per node");
    let mut wallets = std::collections::BTreeSet::new();
    for node in 1..=3 {
        wallets.insert(
            up.status(node).await?["wallet_address"]
                .as_str()
                .context("wallet")?
                .to_owned(),
        );
    }
    assert_eq!(wallets.len(), 3, "one wallet per node");
    for pid in &children {
        let read = |what: &str| std::fs::read(format!("/proc/{pid}/{what}"));
        // field 5 of stat (proc(5)): a terminal's Ctrl-C must reach a child through the supervisor only, once
        let stat = String::from_utf8(read("stat")?)?;
        let group = stat
            .rsplit(") ")
            .next()
            .and_then(|rest| rest.split(' ').nth(2));
        assert_eq!(
            group,
            Some(pid.to_string().as_str()),
            "a process group of its own: {stat}"
        );
        assert!(
            read("environ")?.is_empty(),
            "a child's environment is empty"
        );
        let cmdline = String::from_utf8(read("cmdline")?)?;
        for word in cmdline.split('\0').filter(|word| !word.is_empty()) {
            assert!(
                is_harmless(word),
                "neither option, number, URL, address nor path: {word}"
            );
        }
    }
    let pid = rustix::process::Pid::from_child(&up.child);
    // as a terminal does upon Ctrl-C: to the whole group, of which the children must not be
    rustix::process::kill_process_group(pid, rustix::process::Signal::INT)?;
    let status = up.child.wait()?;
    assert!(
        status.success(),
        "Ctrl-C leaves cleanly: {status}: {}",
        up.out()
    );
    for pid in children {
        assert!(
            !std::path::Path::new(&format!("/proc/{pid}/cmdline")).exists(),
            "child {pid} outlived the supervisor"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn children_die_with_a_supervisor_that_was_killed() -> Result<()> {
    let mut up = Up::start(1)?;
    up.ready().await?;
    let children = up.children();
    assert_eq!(children.len(), 1);
    up.child.kill()?;
    up.child.wait()?;
    eventually(Duration::from_secs(10), "the child is gone", async || {
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", children[0])).unwrap_or_default();
        ensure!(
            stat.is_empty() || stat.contains(") Z "),
            "still there: {stat}"
        );
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn up_alone_increments_and_a_kept_directory_goes_on() -> Result<()> {
    let mut up = Up::start(1)?;
    up.ready().await?;
    let url = format!("http://127.0.0.1:{}/increment", up.http);
    let answer: Value = reqwest::Client::builder()
        .no_proxy()
        .build()?
        .post(&url)
        .send()
        .await?
        .json()
        .await?;
    assert_eq!(answer["new_value"], 1, "{answer}");
    let pid = rustix::process::Pid::from_child(&up.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    assert!(up.child.wait()?.success());

    std::fs::write(up.dir.path().join("out"), "")?;
    let args = [
        ("--nodes", "1".to_owned()),
        ("--rpc-port", free_port().to_string()),
        ("--base-http-port", up.http.to_string()),
        ("--udp-port-base", ports(2).to_string()),
        ("--multicast-port", free_port().to_string()),
    ];
    up.child = Command::new(SYNOD)
        .args(["up", "--data-dir"])
        .arg(up.dir.path())
        .args(&up.chain.0)
        .args(
            args.iter()
                .flat_map(|(option, value)| [(*option).to_owned(), value.clone()]),
        )
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(up.dir.path().join("out"))?)
        .stderr(std::fs::File::create(up.dir.path().join("err"))?)
        .spawn()?;
    up.ready().await?;
    assert_eq!(
        up.status(1).await?["counter_value"],
        1,
        "what was kept goes on"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn up_hands_the_initial_credits_of_its_environment_to_its_nodes() -> Result<()> {
    let mut up = Up::with(1, &[("DS_INITIAL_CREDITS", "2.5")])?;
    up.ready().await?;
    eventually(Duration::from_secs(10), "the credit", async || {
        let balances = up.get(1, "balances").await?;
        ensure!(balances["balance_wh"] == 2_500, "{balances}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_stops_up_with_the_option_that_moves_it() -> Result<()> {
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port().to_string();
    let output = Command::new(SYNOD)
        .args(["up", "--rpc-port", &port])
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text.contains(&port) && text.contains("--rpc-port"),
        "{text}"
    );
    Ok(())
}
