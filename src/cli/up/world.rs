//! What `up` simulates: the guest agents' KMS and instances, the chain, and the owners of the tokens. The
//! first development account deploys; it and the next ones own one token each, as in the prototype. The full
//! key chain is used: the contract knows this simulator's KMS root, and nothing is excepted from its checks.

use super::Plan;
use super::doorway::Status;
use anyhow::Context;
use dstack_simulator::{DEVELOPMENT_COMPOSE, InstanceConfig};
use rand_core::{OsRng, RngCore};
use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use synod_chain::operator::{self, DeployParams};
use synod_chain::{Chain, ChainSettings, Wallet};
use synod_devchain::{DEV_ADDRESSES, DEV_CHAIN_ID, DEV_KEYS};
use synod_wire::{Address, Token};

/// Registrations last this long: the renewal of evidence comes with the Attestation issue.
const LIFETIME_S: u64 = 30 * 24 * 3_600;
/// First gas of a node, forwarded by its owner's adoption: 1 ether.
const FIRST_GAS_WEI: u128 = 1_000_000_000_000_000_000;
const RPC_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) struct World {
    pub contract: Address,
    pub kms_root: Address,
    pub app_id: Address,
    chain: synod_devchain::Running,
    agents: dstack_simulator::Running,
    sockets: PathBuf,
    client: Chain,
}

impl World {
    pub(crate) async fn start(plan: &Plan, dir: &Path) -> anyhow::Result<Self> {
        let seed = kept_seed(&dir.join("simulator.seed"))?;
        let world = Arc::new(dstack_simulator::World::new(
            &seed,
            DEVELOPMENT_COMPOSE.to_owned(),
            None,
        )?);
        let (kms_root, app_id) = (Address(world.kms_root_address()), Address(world.app_id()));
        let sockets = dir.join("agents");
        std::fs::create_dir_all(&sockets)?;
        // whoever opens a socket gets its keys
        std::fs::set_permissions(&sockets, Permissions::from_mode(0o700))?;
        let instances = (1..=plan.nodes)
            .map(|node| InstanceConfig {
                socket: sockets.join(format!("{node}.sock")),
                seed: dstack_simulator::instance_seed(
                    &seed,
                    u32::try_from(node).unwrap_or(u32::MAX),
                ),
            })
            .collect();
        let agents = dstack_simulator::serve(world, instances).await?;
        let chain = synod_devchain::serve(synod_devchain::Settings {
            bind: ([127, 0, 0, 1], plan.rpc_port).into(),
            journal: Some(dir.join("chain.journal")),
            chain_id: DEV_CHAIN_ID,
        })
        .await?;
        let rpc = format!("http://127.0.0.1:{}", plan.rpc_port);
        let contract = kept_contract(&dir.join("contract"), &rpc, plan, kms_root, app_id).await?;
        let settings = ChainSettings {
            rpc,
            contract,
            chain_id: DEV_CHAIN_ID,
            timeout: RPC_TIMEOUT,
        };
        let client = Chain::connect(&settings).await?;
        Ok(Self {
            contract,
            kms_root,
            app_id,
            chain,
            agents,
            sockets,
            client,
        })
    }

    pub(crate) fn socket(&self, node: u64) -> PathBuf {
        self.sockets.join(format!("{node}.sock"))
    }

    /// As the token's owner: this wallet and instance, and its first gas.
    pub(crate) async fn adopt(&self, node: u64, status: &Status) -> anyhow::Result<()> {
        let wallet: Address = status.wallet_address.parse()?;
        let instance: Address = status.instance_id.parse()?;
        let token = Token(node);
        if self.client.token(token, wallet).await?.adoption == Some((wallet, instance)) {
            return Ok(());
        }
        operator::adopt(
            &self.client,
            &owner(node)?,
            token,
            wallet,
            instance,
            FIRST_GAS_WEI,
        )
        .await
        .with_context(|| format!("adopting wallet {wallet} for node {node}"))?;
        Ok(())
    }

    pub(crate) async fn stop(self) {
        self.agents.stop().await;
        self.chain.stop().await;
    }
}

/// The development account that owns node N's token.
fn owner(node: u64) -> anyhow::Result<Wallet> {
    let index = usize::try_from(node.saturating_sub(1))?;
    let key = DEV_KEYS
        .get(index)
        .with_context(|| format!("no development account for node {node}"))?;
    Ok(Wallet::from_secret(key)?)
}

/// One seed per data directory, so that wallets and instances come back as they were.
fn kept_seed(path: &Path) -> anyhow::Result<[u8; 32]> {
    if path.exists() {
        let bytes = std::fs::read(path)?;
        return bytes.try_into().map_err(|found: Vec<u8>| {
            anyhow::anyhow!(
                "{}: expected 32 bytes, found {}",
                path.display(),
                found.len()
            )
        });
    }
    let mut seed = [0; 32];
    OsRng.try_fill_bytes(&mut seed)?;
    // every wallet of this world follows from it
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(&seed)?;
    file.sync_all()?;
    Ok(seed)
}

/// Deployed once per data directory, with one token for each node.
async fn kept_contract(
    path: &Path,
    rpc: &str,
    plan: &Plan,
    kms_root: Address,
    app: Address,
) -> anyhow::Result<Address> {
    if path.exists() {
        let text = std::fs::read_to_string(path)?;
        let (contract, nodes) = text
            .trim()
            .split_once(' ')
            .with_context(|| format!("{}: damaged", path.display()))?;
        anyhow::ensure!(
            nodes == plan.nodes.to_string(),
            "{} was made for {nodes} nodes, found --nodes {}; give another --data-dir",
            path.display(),
            plan.nodes
        );
        return Ok(contract.parse()?);
    }
    let deployer = owner(1)?;
    let params = DeployParams {
        owner: Address(DEV_ADDRESSES[0]),
        kms_root,
        allowed_apps: vec![app],
        founders: plan.nodes,
        max_nodes: 100,
        max_lifetime_s: LIFETIME_S,
    };
    let contract = operator::deploy(rpc, &deployer, &params)
        .await
        .context("deploying the contract")?;
    let settings = ChainSettings {
        rpc: rpc.to_owned(),
        contract,
        chain_id: DEV_CHAIN_ID,
        timeout: RPC_TIMEOUT,
    };
    let chain = Chain::connect(&settings).await?;
    for node in 1..=plan.nodes {
        let index = usize::try_from(node - 1)?;
        let to = Address(
            *DEV_ADDRESSES
                .get(index)
                .context("more nodes than development accounts")?,
        );
        operator::mint(&chain, &deployer, to, &format!("node{node}")).await?;
    }
    std::fs::write(path, format!("{contract} {}", plan.nodes))?;
    Ok(contract)
}
