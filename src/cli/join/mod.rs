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
mod plan;
mod status;

use crate::prompt::{Ended, at_terminal};
use crate::up::say;
use crate::world::{self, Adoption, OWNERS, Simulated, kept};
use anyhow::Context;
use child::Child;
use clap::ArgMatches;
use dstack_simulator::InstanceConfig;
use entrance::{ClassWorld, Entrance};
use plan::{Plan, complete, data_dir, instance_seed};
use serde_json::Value;
use status::{StatusPage, line};
use std::path::{Path, PathBuf};
use std::time::Duration;
use synod_chain::{Chain, ChainError};
use synod_devchain::DEV_CHAIN_ID;
use synod_node::Config;
use synod_wire::{Address, Token};

const LOOK_EVERY: Duration = Duration::from_millis(100);
pub(crate) fn run(args: &ArgMatches) -> anyhow::Result<()> {
    let plan = Plan::from(args, &crate::variable)?;
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
    let (node, socket) = (joined.node, joined.control.clone());
    let typed = async {
        if at_terminal(node, socket).await == Ended::NobodyTypes {
            std::future::pending::<()>().await;
        }
    };
    let ended = tokio::select! {
        ended = joined.attend() => ended,
        () = typed => Ok(()),
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
    /// Where the prompt meets the node.
    control: PathBuf,
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
            world.kms_root == simulated.authority.kms_root,
            "expected the KMS root {} that follows from this class code, found {}; take the class code and the \
             version of synod that the chain was started with",
            simulated.authority.kms_root,
            world.kms_root
        );
        let rpc = entrance.rpc(&class.door_key());
        let chain = world::connect(&rpc, world.contract).await?;
        minted(&chain, node, world.contract).await?;
        let dir = data_dir(&said, node, world.contract, world.kms_root)?;
        kept::private_dir(&dir)?;
        let lock = kept::lock(&dir, "join.lock")?;
        // a data directory's path may be too long for a socket
        let sockets = tempfile::Builder::new().prefix("synod-").tempdir()?;
        let socket = sockets.path().join("agent.sock");
        let agent = InstanceConfig::new(
            socket.clone(),
            instance_seed(&seed, node, &kept::secret(&dir.join("instance.salt"))?),
        );
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
            control: dir.join(synod_node::disk::CONTROL),
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
                let line = line(node, &status);
                if line != self.said {
                    say(&line);
                    self.said = line;
                }
                self.supply(&status).await?;
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
