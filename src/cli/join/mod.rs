//! `synod node N --join HOST:PORT --class WORDS`: one node of a class, whose chain another machine keeps
//! (`synod devnet`). A supervisor like `up`, with one node: the guest agent is simulated in this process, the node
//! is a child process of the same binary with an empty environment.
//!
//! The class code seeds the simulator, so its KMS is the one that the contract names. The instance is this machine's
//! own: its seed depends on a salt in the data directory, so two machines that both say node 2 are two instances;
//! the one that registers later has the newer incarnation, and the other stops by fencing.
//!
//! The child's command line holds the key of the class door, in the path of `--rpc`: whoever may list processes here
//! may read it, as he may read `--class` of this one. It opens a development chain and nothing else.

mod child;
mod entrance;

use crate::class::ClassCode;
use crate::devnet::route_to;
use crate::up::say;
use crate::world::{self, Adoption, OWNERS, Simulated, kept};
use anyhow::Context;
use child::Child;
use clap::ArgMatches;
use dstack_simulator::{InstanceConfig, SharedSecret};
use entrance::{ClassWorld, Entrance};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use synod_chain::{Chain, ChainError};
use synod_devchain::DEV_CHAIN_ID;
use synod_node::{Config, SOURCES, Said};
use synod_wire::{Address, ClusterId, Token};

const LOOK_EVERY: Duration = Duration::from_millis(100);
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);
const STATUS_LEN_MAX: usize = 1 << 20;
/// What `--join` finds out or makes itself.
const OWN: &[&str] = &["rpc", "contract", "chain-id", "dstack-socket"];
/// Digits of the cluster id that name its folder: a whole id makes paths too long for sockets, and the node checks
/// the whole id in its directory.
const CLUSTER_DIGITS: usize = 16;

/// What was asked for.
struct Plan {
    node: u64,
    entrance: Entrance,
    class: ClassCode,
    /// Options of the node, from the command line or the environment.
    said: Said,
}

impl Plan {
    fn from(args: &ArgMatches, env: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        let given = |name: &str| args.get_one::<String>(name);
        let target = given("join").context("--join expects HOST:PORT")?;
        let words = given("class").with_context(|| entrance::no_class(target))?;
        let class = words.parse().context("--class")?;
        let own: Vec<String> = OWN
            .iter()
            .filter(|name| given(name).is_some())
            .map(|name| format!("--{name}"))
            .collect();
        anyhow::ensure!(
            own.is_empty(),
            "--join finds chain, contract and guest agent itself; leave out {}",
            own.join(", ")
        );
        let value = |name: &str, variable: &str| given(name).cloned().or_else(|| env(variable));
        let said: Said = Said(
            SOURCES
                .iter()
                .filter(|(name, ..)| !OWN.contains(name))
                .filter_map(|(name, variable, _)| Some((*name, value(name, variable)?)))
                .collect(),
        );
        let token = said.0.get("token").map_or("", String::as_str);
        let node = token
            .parse()
            .ok()
            .filter(|node| (1..=OWNERS).contains(node))
            .with_context(|| {
                format!("node number: expected 1 to {OWNERS}, whose tokens synod devnet mints, found {token:?}")
            })?;
        Ok(Self {
            node,
            entrance: Entrance::find(target)?,
            class,
            said,
        })
    }
}

pub(crate) fn run(args: &ArgMatches) -> anyhow::Result<()> {
    let plan = Plan::from(args, &|name| {
        std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
    })?;
    // the child is told to die with the thread that made it: this one, which lives as long as the process
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(2)
        .build()?;
    let ended = runtime.block_on(join(plan));
    runtime.shutdown_timeout(Duration::from_millis(500));
    ended
}

async fn join(plan: Plan) -> anyhow::Result<()> {
    let mut stop = world::stop_asked()?;
    let mut joined = tokio::select! {
        joined = Joined::start(plan) => joined?,
        _ = stop.recv() => return Ok(()),
    };
    // the prompt belongs here, beside `attend`, when stdin is a terminal
    let ended = tokio::select! {
        ended = joined.attend() => ended,
        _ = stop.recv() => Ok(()),
    };
    say("stopping");
    joined.stop().await;
    ended
}

/// The node, its guest agent, and the chain as its owner sees it.
struct Joined {
    node: u64,
    chain: Chain,
    status: StatusPage,
    child: Child,
    agent: dstack_simulator::Running,
    /// Wallet and instance were adopted by this process: once, or two machines of one number would take turns.
    adopted: bool,
    /// Gas was sent by this process, once for the same reason.
    funded: bool,
    said: String,
    _sockets: tempfile::TempDir,
    _lock: std::fs::File,
}

impl Joined {
    async fn start(plan: Plan) -> anyhow::Result<Self> {
        let Plan {
            node,
            entrance,
            class,
            mut said,
        } = plan;
        let world = entrance.world(&class.door_key()).await?;
        let seed = class.world_seed();
        let simulated = Simulated::new(&seed)?;
        anyhow::ensure!(
            world.kms_root == simulated.kms_root,
            "expected the KMS root {} that follows from this class code, found {}; take the class code and the \
             version of synod that the chain was started with",
            simulated.kms_root,
            world.kms_root
        );
        let rpc = entrance.rpc(&class.door_key());
        let chain = world::connect(&rpc, world.contract).await?;
        minted(&chain, node, world.contract).await?;
        let dir = data_dir(&said, node, world.contract)?;
        kept::private_dir(&dir)?;
        let lock = kept::lock(&dir, "join.lock")?;
        // a data directory's path may be too long for a socket
        let sockets = tempfile::Builder::new().prefix("synod-").tempdir()?;
        let socket = sockets.path().join("agent.sock");
        let agent = InstanceConfig {
            socket: socket.clone(),
            seed: instance_seed(&seed, node, &kept::secret(&dir.join("instance.salt"))?),
        };
        let agent = simulated.serve(vec![agent]).await?;
        complete(&mut said, &entrance, &dir)?;
        said.0.insert("rpc", rpc);
        said.0.insert("contract", world.contract.to_string());
        said.0.insert("chain-id", DEV_CHAIN_ID.to_string());
        said.0.insert("dstack-socket", socket.display().to_string());
        let config = Config::resolve(&said, &|_| None)?;
        let status = StatusPage::new(config.http)?;
        tell(&entrance, &world, &simulated, &dir, &config);
        Ok(Self {
            node,
            chain,
            status,
            child: Child::start(&said, &dir)?,
            agent,
            adopted: false,
            funded: false,
            said: String::new(),
            _sockets: sockets,
            _lock: lock,
        })
    }

    /// Adopt the node when it asks for it, then tell what happens, until it ends.
    async fn attend(&mut self) -> anyhow::Result<()> {
        let node = self.node;
        loop {
            if let Some(death) = self.child.died()? {
                anyhow::bail!("node {node} ended: {death}");
            }
            if let Some(status) = self.status.read().await {
                self.supply(&status).await?;
                let line = line(node, &status);
                if line != self.said {
                    say(&line);
                    self.said = line;
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// What only the token's owner can give.
    async fn supply(&mut self, status: &Value) -> anyhow::Result<()> {
        let phase = status["phase"].as_str().unwrap_or_default();
        if !["waiting_for_adoption", "waiting_for_gas"].contains(&phase) {
            return Ok(());
        }
        let address = |name: &str| -> anyhow::Result<Address> {
            let text = status[name].as_str().unwrap_or_default();
            text.parse()
                .ok()
                .with_context(|| format!("/status: expected an address as {name}, found {text:?}"))
        };
        let (wallet, instance) = (address("wallet_address")?, address("instance_id")?);
        let given = match phase {
            "waiting_for_adoption" if !self.adopted => self.adopt(wallet, instance).await,
            "waiting_for_adoption" => self.still_ours(wallet, instance).await,
            _ if !self.funded => self.fund(wallet, instance).await,
            _ => Ok(()),
        };
        match given {
            // the node rides out an endpoint that is away, and so do we
            Err(why) if is_away(&why) => {
                tracing::debug!("{why:#}");
                Ok(())
            }
            other => other,
        }
    }

    async fn adopt(&mut self, wallet: Address, instance: Address) -> anyhow::Result<()> {
        let adoption = world::adopt(&self.chain, self.node, wallet, instance).await?;
        self.adopted = true;
        if adoption == Adoption::Made {
            say(&format!(
                "adopted     wallet {wallet} of instance {instance} for token {}",
                self.node
            ));
        }
        Ok(())
    }

    async fn fund(&mut self, wallet: Address, instance: Address) -> anyhow::Result<()> {
        world::fund(&self.chain, self.node, wallet, instance).await?;
        self.funded = true;
        Ok(())
    }

    /// The node's page may lag behind our adoption; another adoption is another machine.
    async fn still_ours(&self, wallet: Address, instance: Address) -> anyhow::Result<()> {
        let found = self.chain.token(Token(self.node), wallet).await?.adoption;
        let Some((other, _)) = found.filter(|found| *found != (wallet, instance)) else {
            return Ok(());
        };
        anyhow::bail!(
            "expected wallet {wallet} adopted for token {node}, found {other}: another machine says node {node} too; \
             choose another number",
            node = self.node
        )
    }

    async fn stop(mut self) {
        self.child.stop().await;
        self.agent.stop().await;
    }
}

fn is_away(why: &anyhow::Error) -> bool {
    matches!(
        why.downcast_ref(),
        Some(ChainError::Unavailable { .. } | ChainError::Unmined { .. })
    )
}

/// The token is there and its owner is the development account that we can sign for.
async fn minted(chain: &Chain, node: u64, contract: Address) -> anyhow::Result<()> {
    let expected = world::owner_address(node)?;
    match chain.token(Token(node), expected).await?.owner {
        Some(found) if found == expected => Ok(()),
        Some(found) => anyhow::bail!(
            "token {node} of contract {contract}: expected the development account {expected} as its owner, found \
             {found}; choose another number"
        ),
        None => anyhow::bail!(
            "token {node} does not exist on contract {contract}: synod devnet mints 1 to {OWNERS} before it tells \
             anybody; start it again, or choose another number"
        ),
    }
}

/// This machine's own: the plain seed of the number, and a salt that only this directory has.
fn instance_seed(world_seed: &[u8; 32], node: u64, salt: &[u8; 32]) -> [u8; 32] {
    let number = u32::try_from(node).unwrap_or(u32::MAX);
    let plain = dstack_simulator::instance_seed(world_seed, number);
    let mut both = [0; 64];
    let (left, right) = both.split_at_mut(32);
    left.copy_from_slice(&plain);
    right.copy_from_slice(salt);
    *SharedSecret::new(both).derive("synod/join/v1/instance")
}

fn data_dir(said: &Said, node: u64, contract: Address) -> anyhow::Result<PathBuf> {
    if let Some(dir) = said.0.get("data-dir") {
        return Ok(PathBuf::from(dir));
    }
    let cluster = ClusterId::of(DEV_CHAIN_ID, contract).to_string();
    let digits = cluster.trim_start_matches("0x").chars();
    let cluster: String = digits.take(CLUSTER_DIGITS).collect();
    Ok(kept::data_home()?.join(cluster).join(format!("node{node}")))
}

/// What follows from where the chain is: the address that others reach us by, and the group's interface.
fn complete(said: &mut Said, entrance: &Entrance, dir: &Path) -> anyhow::Result<()> {
    let host = match said.0.get("host") {
        Some(host) => host.clone(),
        None => route_to(entrance.address)
            .context("--host: no route to the chain's machine; name this machine's address")?
            .to_string(),
    };
    said.0.entry("interface").or_insert_with(|| host.clone());
    said.0.insert("host", host);
    said.0.insert("data-dir", dir.display().to_string());
    Ok(())
}

fn tell(
    entrance: &Entrance,
    world: &ClassWorld,
    simulated: &Simulated,
    dir: &Path,
    config: &Config,
) {
    say(&format!(
        "chain       http://{} (chain id {DEV_CHAIN_ID}, of synod devnet, NO consensus: a development chain)",
        entrance.address
    ));
    say(&format!(
        "contract    {} (first election with {} node(s))",
        world.contract, world.founders
    ));
    say(&simulated.shown());
    say(&format!("data        {}", dir.display()));
    say(&format!(
        "node {}      http://{} (others reach it at {}); stop with Ctrl-C",
        config.token, config.http, config.link
    ));
}

/// One sentence; it changes when something has happened.
fn line(node: u64, status: &Value) -> String {
    let phase = status["phase"].as_str().unwrap_or("?").replace('_', " ");
    match status["leader_token"].as_u64() {
        Some(leader) => format!(
            "node {node}: {phase}, term {}: node {leader} leads",
            status["term"]
        ),
        None => format!("node {node}: {phase}"),
    }
}

/// `/status` of the child, asked like anybody asks it.
struct StatusPage {
    client: reqwest::Client,
    url: String,
}

impl StatusPage {
    fn new(http: SocketAddr) -> anyhow::Result<Self> {
        anyhow::ensure!(
            http.port() != 0,
            "--http-port: expected a port that this supervisor can ask, found 0"
        );
        Ok(Self {
            client: reqwest::Client::builder()
                .no_proxy()
                .timeout(STATUS_TIMEOUT)
                .build()?,
            url: format!("http://{http}/status"),
        })
    }

    /// None while nobody answers.
    async fn read(&self) -> Option<Value> {
        let mut answer = self.client.get(&self.url).send().await.ok()?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.ok()? {
            if body.len() + chunk.len() > STATUS_LEN_MAX {
                return None;
            }
            body.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&body).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(words: &[&str], env: &[(&str, &str)]) -> Result<Plan, String> {
        let args = crate::node::command()
            .try_get_matches_from(["node"].iter().chain(words))
            .map_err(|why| why.to_string())?;
        let env = |name: &str| {
            let found = env.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Plan::from(&args, &env).map_err(|why| format!("{why:#}"))
    }

    const CLASS: &str = "lusab-babad-gutih-tugad-bisog";

    #[test]
    fn what_join_finds_itself_is_not_said_beside_it() {
        let words = ["2", "--join", "127.0.0.1:8545", "--class", CLASS];
        let plan_ok = plan(
            &words,
            &[
                ("SYNOD_RPC", "http://10.0.0.1"),
                ("DS_HEARTBEAT_INTERVAL", "0.5"),
            ],
        );
        let said = plan_ok.expect("complete").said;
        assert_eq!(
            said.0.get("heartbeat-interval").map(String::as_str),
            Some("0.5")
        );
        assert!(
            !said.0.contains_key("rpc"),
            "the command line wins over the environment"
        );
        for own in ["rpc", "contract", "chain-id", "dstack-socket"] {
            let option = format!("--{own}");
            let words: Vec<&str> = words
                .iter()
                .copied()
                .chain([option.as_str(), "x"])
                .collect();
            let text = plan(&words, &[]).map(drop).expect_err("said twice");
            assert!(text.contains(&option), "{text}");
        }
    }

    #[test]
    fn a_missing_class_and_a_number_without_owner_are_named() {
        let text = plan(&["2", "--join", "127.0.0.1:8545"], &[])
            .map(drop)
            .expect_err("no class");
        assert!(
            text.contains("127.0.0.1:8545 asks for the class code: --class"),
            "{text}"
        );
        for number in ["0", "10", "two"] {
            let words = [number, "--join", "127.0.0.1:8545", "--class", CLASS];
            let text = plan(&words, &[]).map(drop).expect_err("no owner");
            assert!(text.contains("1 to 9") && text.contains(number), "{text}");
        }
        assert!(
            plan(&["2", "--class", CLASS], &[]).is_err(),
            "--class belongs to --join"
        );
    }

    #[test]
    fn two_machines_of_one_number_are_two_instances() {
        let seed = |node, salt| instance_seed(&[1; 32], node, &[salt; 32]);
        assert_eq!(seed(2, 1), seed(2, 1));
        assert_ne!(seed(2, 1), seed(2, 2));
        assert_ne!(seed(2, 1), seed(3, 1));
        assert_ne!(seed(2, 1), dstack_simulator::instance_seed(&[1; 32], 2));
    }
}
