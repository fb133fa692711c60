//! What every simulated world needs, whether it lives on one machine (`up`) or on several (`devnet`, `--join`): the
//! guest agents' KMS, the contract with its tokens, the owners. The first development account deploys; it and the
//! next ones own one token each, as in the prototype. The full key chain is used: the contract knows the
//! simulator's KMS root, and nothing is excepted from its checks.

pub(crate) mod kept;

use anyhow::Context;
use dstack_simulator::{DEVELOPMENT_COMPOSE, InstanceConfig};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use synod_chain::operator::{self, DeployParams};
use synod_chain::{Chain, ChainSettings, Wallet};
use synod_devchain::{DEV_ADDRESSES, DEV_CHAIN_ID, DEV_KEYS};
use synod_wire::{Address, Token};
use tokio::signal::unix::{SignalKind, signal};

/// Development accounts that own a token; the tenth stays for tools.
pub(crate) const OWNERS: u64 = 9;
/// Registrations last this long: the renewal of evidence comes with the Attestation issue.
const LIFETIME_S: u64 = 30 * 24 * 3_600;
/// First gas of a node, forwarded by its owner's adoption: 1 ether.
const FIRST_GAS_WEI: u128 = 1_000_000_000_000_000_000;
const RPC_TIMEOUT: Duration = Duration::from_secs(5);

/// Whom the contract believes about keys: a KMS root, and the app whose instances become nodes.
#[derive(Clone, Copy)]
pub(crate) struct Authority {
    pub kms_root: Address,
    pub app_id: Address,
}

/// The KMS and the app that all simulated guests of one seed belong to.
pub(crate) struct Simulated {
    pub authority: Authority,
    world: Arc<dstack_simulator::World>,
}

impl Simulated {
    pub(crate) fn new(seed: &[u8; 32]) -> anyhow::Result<Self> {
        let world = dstack_simulator::World::new(seed, DEVELOPMENT_COMPOSE.to_owned(), None)?;
        let authority = Authority {
            kms_root: Address(world.kms_root_address()),
            app_id: Address(world.app_id()),
        };
        Ok(Self {
            authority,
            world: Arc::new(world),
        })
    }

    /// A guest agent for each.
    pub(crate) async fn serve(
        &self,
        instances: Vec<InstanceConfig>,
    ) -> anyhow::Result<dstack_simulator::Running> {
        Ok(dstack_simulator::serve(Arc::clone(&self.world), instances).await?)
    }

    /// For people.
    pub(crate) fn shown(&self) -> String {
        let Authority { kms_root, app_id } = self.authority;
        format!(
            "simulator   KMS root {kms_root}, app {app_id} (SIMULATED: keys and quotes prove nothing)"
        )
    }
}

/// The option of `up` and `devnet` for another development chain.
pub(crate) fn other_chain() -> clap::Arg {
    clap::Arg::new("dev-chain")
        .long("dev-chain")
        .value_name("PORT")
        .value_parser(clap::value_parser!(u16).range(1..))
        .help("Another development chain on 127.0.0.1, such as anvil (chain id 31337, its ten known accounts), instead of our own")
}

/// The development chain of a data directory, on loopback; or the doors to another one.
pub(crate) async fn chain(
    dir: &Path,
    rpc_port: u16,
    other: Option<u16>,
) -> anyhow::Result<synod_devchain::Running> {
    let bind = ([127, 0, 0, 1], rpc_port).into();
    if let Some(port) = other {
        return Ok(synod_devchain::stand_before(([127, 0, 0, 1], port).into(), bind).await?);
    }
    Ok(synod_devchain::serve(synod_devchain::Settings {
        bind,
        journal: Some(dir.join("chain.journal")),
        chain_id: DEV_CHAIN_ID,
    })
    .await?)
}

/// What kind of chain it is, for people.
pub(crate) fn chain_shown(rpc: &str, other: Option<u16>) -> String {
    let kind = match other {
        Some(port) => format!("the one on port {port}: a development chain"),
        None => "embedded revm, NO consensus: a development chain".to_owned(),
    };
    format!("chain       {rpc} (chain id {DEV_CHAIN_ID}, {kind})")
}

/// The contract, through this endpoint; no other chain than a development chain.
pub(crate) async fn connect(rpc: &str, contract: Address) -> anyhow::Result<Chain> {
    let settings = ChainSettings {
        rpc: rpc.to_owned(),
        contract,
        chain_id: DEV_CHAIN_ID,
        timeout: RPC_TIMEOUT,
    };
    Ok(Chain::connect(&settings).await?)
}

/// What a contract is made with.
pub(crate) struct Deployment {
    pub authority: Authority,
    /// Members that must be there before the first election.
    pub founders: u64,
    /// The option that says so, for errors.
    pub option: &'static str,
    /// Minted beforehand, one for each owner.
    pub tokens: u64,
}

/// Deployed once per data directory, with its tokens.
pub(crate) async fn contract(path: &Path, rpc: &str, wanted: &Deployment) -> anyhow::Result<Chain> {
    let (shown, founders) = (path.display(), wanted.founders);
    if !path.exists() {
        return deploy(path, rpc, wanted).await;
    }
    let text = std::fs::read_to_string(path)?;
    let (contract, kept) = text
        .trim()
        .split_once(' ')
        .with_context(|| format!("{shown}: damaged; give another --data-dir"))?;
    anyhow::ensure!(
        kept == founders.to_string(),
        "{shown} was made for {kept} nodes, found {} {founders}; give another --data-dir",
        wanted.option
    );
    let chain = connect(rpc, contract.parse()?).await?;
    let (expected, found) = (wanted.authority.kms_root, chain.kms_root().await?);
    anyhow::ensure!(
        found == expected,
        "{shown}: expected a contract with the KMS root {expected} of this guest agent's keys, found {found}: it \
         was made by another command or for another class; give another --data-dir"
    );
    Ok(chain)
}

async fn deploy(path: &Path, rpc: &str, wanted: &Deployment) -> anyhow::Result<Chain> {
    let deployer = owner(1)?;
    let params = DeployParams {
        owner: deployer.address(),
        kms_root: wanted.authority.kms_root,
        allowed_apps: vec![wanted.authority.app_id],
        founders: wanted.founders,
        max_nodes: 100,
        max_lifetime_s: LIFETIME_S,
    };
    let contract = operator::deploy(rpc, &deployer, &params)
        .await
        .context("deploying the contract")?;
    let chain = connect(rpc, contract).await?;
    for node in 1..=wanted.tokens {
        operator::mint(
            &chain,
            &deployer,
            owner_address(node)?,
            &format!("node{node}"),
        )
        .await?;
    }
    std::fs::write(path, format!("{contract} {}", wanted.founders))?;
    Ok(chain)
}

/// The development account that owns node N's token.
fn owner(node: u64) -> anyhow::Result<Wallet> {
    Ok(Wallet::from_secret(account(&DEV_KEYS, node)?)?)
}

/// Its address.
pub(crate) fn owner_address(node: u64) -> anyhow::Result<Address> {
    Ok(Address(*account(&DEV_ADDRESSES, node)?))
}

fn account<T>(accounts: &[T], node: u64) -> anyhow::Result<&T> {
    node.checked_sub(1)
        .filter(|index| *index < OWNERS)
        .and_then(|index| accounts.get(usize::try_from(index).ok()?))
        .with_context(|| {
            format!(
                "expected a node from 1 to {OWNERS}, which development accounts own, found {node}"
            )
        })
}

/// What an adoption found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Adoption {
    /// Done now.
    Made,
    /// This wallet and instance were adopted already.
    Kept,
}

/// As the token's owner: this wallet and instance, and its first gas.
pub(crate) async fn adopt(
    chain: &Chain,
    node: u64,
    wallet: Address,
    instance: Address,
) -> anyhow::Result<Adoption> {
    if chain.token(Token(node), wallet).await?.adoption == Some((wallet, instance)) {
        return Ok(Adoption::Kept);
    }
    fund(chain, node, wallet, instance).await?;
    Ok(Adoption::Made)
}

/// The adoption again, whatever there is: each one brings gas.
pub(crate) async fn fund(
    chain: &Chain,
    node: u64,
    wallet: Address,
    instance: Address,
) -> anyhow::Result<()> {
    let owner = owner(node)?;
    operator::adopt(chain, &owner, Token(node), wallet, instance, FIRST_GAS_WEI)
        .await
        .with_context(|| format!("adopting wallet {wallet} for node {node}"))?;
    Ok(())
}

/// Told once, upon Ctrl-C or SIGTERM.
pub(crate) fn stop_asked() -> anyhow::Result<tokio::sync::mpsc::Receiver<()>> {
    let (mut int, mut term) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        tokio::select! { _ = int.recv() => {}, _ = term.recv() => {} }
        // the receiver is gone only when we stop already
        let _ = sender.send(()).await;
    });
    Ok(receiver)
}
