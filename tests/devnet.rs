//! `synod devnet` and `synod node N --join`: a class on one machine, where 127.0.0.2 plays the network. Every
//! process is the real binary; each test has a chain, ports and directories of its own.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // tests are the outside world

mod support;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::{Value, json};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::{SYNOD, ask, eventually, free_port};
use synod_chain::{Chain, ChainSettings};
use synod_wire::{Incarnation, Token};

const PLAY_LAN: &str = "127.0.0.2";
const WITHIN: Duration = Duration::from_secs(30);

/// A process of the real binary, in a group of its own as under a terminal.
struct Process {
    child: Child,
    out: PathBuf,
}

impl Process {
    fn start(words: &[String], scratch: &Path, name: &str) -> Result<Self> {
        let out = scratch.join(format!("{name}.out"));
        let file = std::fs::File::create(&out)?;
        let child = Command::new(SYNOD)
            .args(words)
            .env_clear()
            .env("XDG_DATA_HOME", scratch.join("home"))
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()?;
        Ok(Self { child, out })
    }

    fn out(&self) -> String {
        std::fs::read_to_string(&self.out).unwrap_or_default()
    }

    /// Until it has said this.
    async fn says(&mut self, text: &str) -> Result<()> {
        eventually(WITHIN, text, async || {
            ensure!(self.out().contains(text), "{}", self.out());
            Ok(())
        })
        .await
    }

    fn children(&self) -> Vec<u32> {
        let path = format!("/proc/{0}/task/{0}/children", self.child.id());
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.split_whitespace().flat_map(str::parse).collect()
    }

    /// Its exit code, once it has ended.
    async fn ended(&mut self) -> Result<Option<i32>> {
        let out = self.out.clone();
        let status = eventually(WITHIN, "the process ends", async || {
            let said = || std::fs::read_to_string(&out).unwrap_or_default();
            self.child.try_wait()?.with_context(said)
        });
        Ok(status.await?.code())
    }

    /// As a terminal does upon Ctrl-C, to the whole group; clean means exit 0 and no child left.
    async fn ctrl_c(&mut self) -> Result<()> {
        let children = self.children();
        kill_process_group(Pid::from_child(&self.child), Signal::INT)?;
        let code = self.ended().await?;
        ensure!(
            code == Some(0),
            "expected exit 0, found {code:?}: {}",
            self.out()
        );
        for pid in children {
            let left = Path::new(&format!("/proc/{pid}/cmdline")).exists();
            ensure!(!left, "child {pid} outlived its supervisor");
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // best effort: the test may have ended it
        let _ = kill_process(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

/// A devnet that has told its line.
struct Class {
    devnet: Process,
    scratch: tempfile::TempDir,
    port: u16,
    multicast: u16,
    /// Behind `synod`, as printed.
    line: Vec<String>,
}

impl Class {
    async fn start(options: &[&str]) -> Result<Self> {
        let scratch = tempfile::Builder::new().prefix("synod-class-").tempdir()?;
        Self::start_in(scratch, options).await
    }

    async fn start_in(scratch: tempfile::TempDir, options: &[&str]) -> Result<Self> {
        let port = free_port();
        let mut words = vec!["devnet".to_owned(), "--data-dir".to_owned()];
        words.push(scratch.path().join("devnet").display().to_string());
        words.extend(["--rpc-port".to_owned(), port.to_string()]);
        words.extend(options.iter().map(|word| (*word).to_owned()));
        let mut devnet = Process::start(&words, scratch.path(), "devnet")?;
        devnet.says("--class").await?;
        let said = devnet.out();
        let line = said.lines().find_map(|line| line.strip_prefix("synod "));
        let line = line.context("the line for other machines")?;
        Ok(Self {
            line: line.split(' ').map(str::to_owned).collect(),
            devnet,
            scratch,
            port,
            multicast: free_port(),
        })
    }

    fn words(&self) -> &str {
        &self.line[5]
    }

    /// The printed line, as another machine says it: with its own number and its own ports.
    fn line_for(&self, node: u64, home: Option<&str>) -> (Vec<String>, u16) {
        let (http, udp) = (free_port(), free_port());
        let mut line = self.line.clone();
        line[1] = node.to_string();
        let own = [
            ("--http-port", http.to_string()),
            ("--udp-port", udp.to_string()),
            ("--multicast-port", self.multicast.to_string()),
        ];
        line.extend(
            own.into_iter()
                .flat_map(|(option, value)| [option.to_owned(), value]),
        );
        if let Some(home) = home {
            let dir = self.scratch.path().join(home).display().to_string();
            line.extend(["--data-dir".to_owned(), dir]);
        }
        (line, http)
    }

    fn join(&self, node: u64, home: Option<&str>, name: &str) -> Result<(Process, u16)> {
        let (line, http) = self.line_for(node, home);
        Ok((Process::start(&line, self.scratch.path(), name)?, http))
    }

    /// Run to its end: exit code and what it said.
    async fn refused(&self, words: &[&str]) -> Result<String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let mut process = Process::start(&words, self.scratch.path(), "refused")?;
        let code = process.ended().await?;
        ensure!(
            code == Some(1),
            "expected exit 1, found {code:?}: {}",
            process.out()
        );
        Ok(process.out())
    }

    async fn world(&self) -> Result<Value> {
        ask(self.port, "/world").await
    }

    async fn chain(&self) -> Result<Chain> {
        let contract = self.world().await?["contract"]
            .as_str()
            .context("contract")?
            .parse()?;
        let settings = ChainSettings {
            rpc: format!("http://127.0.0.1:{}", self.port),
            contract,
            chain_id: 31_337,
            timeout: Duration::from_secs(5),
        };
        Ok(Chain::connect(&settings).await?)
    }
}

/// Registered: it serves, or it waits to be taken into the log.
async fn registered(http: u16, process: &Process) -> Result<Value> {
    eventually(WITHIN, "registered", async || {
        let status = ask(http, "/status").await.with_context(|| process.out())?;
        let phase = status["phase"].as_str().unwrap_or_default();
        ensure!(
            ["serving", "joining"].contains(&phase),
            "{}: {}",
            phase,
            process.out()
        );
        Ok(status)
    })
    .await
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

async fn post(address: &str, path: &str) -> Result<(u16, Value)> {
    let call = json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": [] });
    let client = reqwest::Client::builder().no_proxy().build()?;
    let answer = client
        .post(format!("http://{address}{path}"))
        .json(&call)
        .send()
        .await?;
    Ok((answer.status().as_u16(), answer.json().await?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_devnet_says_the_line_and_lets_only_the_class_in() -> Result<()> {
    let _turn = support::turn().await;
    let mut class = Class::start(&["--lan", "--host", PLAY_LAN, "--founders", "2"]).await?;
    let (said, lan) = (class.devnet.out(), format!("{PLAY_LAN}:{}", class.port));
    assert_eq!(
        class.line[..5],
        ["node", "2", "--join", &lan, "--class"],
        "{said}"
    );
    assert!(
        said.contains("SIMULATED") && said.contains("NO consensus"),
        "{said}"
    );

    let (status, answer) = post(&lan, "/").await?;
    let reason = text(&answer["error"]["message"]);
    assert_eq!(status, 401, "{answer}");
    assert!(
        reason.contains("class code") && reason.contains("--class"),
        "{reason}"
    );
    let local = format!("127.0.0.1:{}", class.port);
    assert_eq!(
        post(&local, "/").await?.1["result"],
        "0x7a69",
        "open to this machine"
    );

    let world = class.world().await?;
    let facts = (&world["chain_id"], &world["founders"], &world["simulated"]);
    assert_eq!(facts, (&json!(31_337), &json!(2), &json!(true)), "{world}");
    assert!(
        !world.to_string().contains(class.words()),
        "the code does not travel"
    );
    for name in ["contract", "kms_root"] {
        assert!(
            said.contains(&text(&world[name])),
            "{name} of {world} in {said}"
        );
    }
    let view = class.chain().await?;
    for token in 1..=9 {
        let owner = view.token(Token(token), Default::default()).await?.owner;
        assert!(owner.is_some(), "token {token} is minted beforehand");
    }
    class.devnet.ctrl_c().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_join_reads_why_and_what_to_do() -> Result<()> {
    let _turn = support::turn().await;
    let class = Class::start(&["--lan", "--host", PLAY_LAN]).await?;
    let lan = format!("{PLAY_LAN}:{}", class.port);
    let local = format!("127.0.0.1:{}", class.port);
    let other = "lusab-babad-gutih-tugad-bisog";
    for target in [&lan, &local] {
        let said = class
            .refused(&["node", "2", "--join", target, "--class", other])
            .await?;
        assert!(
            said.contains("class code") && said.contains("another class"),
            "{said}"
        );
    }
    let said = class.refused(&["node", "2", "--join", &lan]).await?;
    let expected = format!("the chain at {lan} asks for the class code: --class <words>");
    assert!(said.contains(&expected), "{said}");
    let said = class
        .refused(&["node", "2", "--join", &lan, "--class", "lusab-babad"])
        .await?;
    assert!(
        said.contains("expected five words") && said.contains("found 2"),
        "{said}"
    );
    let nobody = format!("127.0.0.1:{}", free_port());
    let said = class
        .refused(&["node", "2", "--join", &nobody, "--class", other])
        .await?;
    assert!(
        said.contains(&nobody) && said.contains("synod devnet --lan"),
        "{said}"
    );
    let words = class.words();
    let said = class
        .refused(&["node", "12", "--join", &lan, "--class", words])
        .await?;
    assert!(said.contains("1 to 9") && said.contains("12"), "{said}");
    let fixed = ["--rpc", "http://127.0.0.1:1"];
    let said = class
        .refused(&[
            "node", "2", "--join", &lan, "--class", words, fixed[0], fixed[1],
        ])
        .await?;
    assert!(said.contains("leave out --rpc"), "{said}");
    assert!(
        !class.scratch.path().join("home").exists(),
        "nothing is kept of it"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_join_one_after_another_and_leave_nothing_behind() -> Result<()> {
    let _turn = support::turn().await;
    let mut class = Class::start(&["--lan", "--host", PLAY_LAN]).await?;
    let mut nodes = Vec::new();
    let mut wallets = std::collections::BTreeSet::new();
    for node in 1..=3 {
        let (process, http) = class.join(node, None, &format!("node{node}"))?;
        let status = registered(http, &process).await?;
        assert!(
            text(&status["attestation"]).contains("SIMULATED"),
            "{status}"
        );
        wallets.insert(text(&status["wallet_address"]));
        nodes.push((process, http));
    }
    assert_eq!(wallets.len(), 3, "one wallet per node");
    let view = class.chain().await?.view().await?;
    for token in 1..=3 {
        let member = view.member(Token(token)).context("registered")?;
        assert_eq!(member.incarnation, Incarnation(1), "token {token}");
    }
    for (process, _) in &nodes {
        let children = process.children();
        assert_eq!(children.len(), 1, "one child: {}", process.out());
        assert!(std::fs::read(format!("/proc/{}/environ", children[0]))?.is_empty());
        let command = std::fs::read(format!("/proc/{}/cmdline", children[0]))?;
        let command = String::from_utf8(command)?;
        assert!(command.contains("--interface=127.0.0.") && !command.contains(class.words()));
    }
    // the same directory: the same instance, a newer incarnation
    let before = ask(nodes[2].1, "/status").await?;
    nodes[2].0.ctrl_c().await?;
    let (again, http) = class.join(3, None, "node3-again")?;
    let after = registered(http, &again).await?;
    assert_eq!(after["instance_id"], before["instance_id"]);
    assert_eq!(after["wallet_address"], before["wallet_address"]);
    let view = class.chain().await?.view().await?;
    assert_eq!(
        view.member(Token(3)).context("registered")?.incarnation,
        Incarnation(2)
    );
    // the same directory twice at a time is refused before the chain hears of it
    let (line, _) = class.line_for(3, None);
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    let said = class.refused(&line).await?;
    assert!(said.contains("in use by another process"), "{said}");

    nodes[2].0 = again;
    for (process, _) in &mut nodes {
        process.ctrl_c().await?;
    }
    class.devnet.ctrl_c().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_machine_that_says_the_same_number_fences_the_first() -> Result<()> {
    let _turn = support::turn().await;
    let class = Class::start(&[]).await?;
    assert_eq!(class.line[3], format!("127.0.0.1:{}", class.port));
    let (mut first, http) = class.join(2, Some("first"), "first")?;
    let first_status = registered(http, &first).await?;
    let (mut second, http) = class.join(2, Some("second"), "second")?;
    let status = registered(http, &second).await?;
    assert_ne!(status["instance_id"], first_status["instance_id"]);
    assert_ne!(status["wallet_address"], first_status["wallet_address"]);
    assert_eq!(
        first.ended().await?,
        Some(1),
        "the first one stops by itself"
    );
    assert!(first.out().contains("node 2 ended"), "{}", first.out());
    let view = class.chain().await?.view().await?;
    assert_eq!(
        view.member(Token(2)).context("registered")?.incarnation,
        Incarnation(2)
    );
    second.ctrl_c().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_directory_keeps_contract_chain_and_class() -> Result<()> {
    let _turn = support::turn().await;
    let mut class = Class::start(&["--class", "LUSAB babad gutih tugad bisog"]).await?;
    let (line, world) = (class.line.clone(), class.world().await?);
    assert_eq!(class.words(), "lusab-babad-gutih-tugad-bisog");
    let dir = class.scratch.path().join("devnet").display().to_string();
    let port = free_port().to_string();
    let second = ["devnet", "--data-dir", &dir, "--rpc-port", &port];
    let said = class.refused(&second).await?;
    assert!(said.contains("in use by another process"), "{said}");
    class.devnet.ctrl_c().await?;

    let other = "mudof-sakat-haguz-biram-mabiv";
    let said = class
        .refused(&[&second[..], &["--class", other]].concat())
        .await?;
    assert!(
        said.contains("another class code") && !said.contains(class.words()),
        "{said}"
    );
    let said = class
        .refused(&[&second[..], &["--founders", "3"]].concat())
        .await?;
    assert!(said.contains("--founders 3"), "{said}");

    let again = Class::start_in(class.scratch, &[]).await?;
    assert_eq!(again.line[5], line[5]);
    assert_eq!(again.world().await?, world);
    Ok(())
}
