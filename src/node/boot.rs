//! From an empty process to a registered member (design section 5): find the agent, derive the wallet, make a
//! session, bind both in a quote, wait for the owner and for gas, register. Nothing here is skipped on a
//! simulator; what cannot be proven refuses.

mod evidence;
mod patience;

use crate::clock::wall_seconds;
use crate::config::Config;
use crate::disk::{Disk, DiskError};
use crate::facts::{Board, Missing, Phase};
use crate::fixture;
use crate::tls::TlsIdentity;
use rand_core::{OsRng, RngCore};
use std::sync::Arc;
use std::time::Duration;
use synod_agent::keychain::{self, KmsRoot};
use synod_agent::{Agent, AgentError};
use synod_chain::{Chain, ChainError, ChainSettings, Registration, Wallet};
use synod_wire::{Address, ChainView, Incarnation, SessionKey, SessionPublic, Term};

/// One call to the RPC endpoint.
const RPC_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks at what is missing.
const LOOK_AGAIN: Duration = Duration::from_millis(300);
/// A registration must be able to pay itself and this many elections.
const ELECTIONS_PAID: u128 = 10;

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// See [`DiskError`].
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// See [`AgentError`].
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// See [`ChainError`].
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The agent serves something that a node must not run on.
    #[error("guest agent at {socket}: expected {expected}, found {found}; {remedy}")]
    Unfit {
        /// Its socket.
        socket: String,
        /// What a node needs.
        expected: String,
        /// What it got.
        found: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The NFT is not there.
    #[error(
        "token {token} does not exist on contract {contract}; have it minted, or correct --token"
    )]
    NoToken {
        /// Asked for.
        token: u64,
        /// The contract.
        contract: Address,
    },
    /// The system has no randomness, or TLS keys cannot be made.
    #[error("making keys: {0}")]
    Keys(String),
}

/// Everything that names this boot of this node.
pub struct Identity {
    /// dstack instance.
    pub instance_id: Address,
    /// dstack app.
    pub app_id: Address,
    /// Pays and registers.
    pub wallet: Arc<Wallet>,
    /// Signs frames, ballots, hellos; new at each boot.
    pub session: Arc<SessionKey>,
    /// New at each boot.
    pub tls: TlsIdentity,
    agent: Agent,
    purpose: String,
    links: KeyLinks,
    compose: String,
}

/// The linked signature chain, ready for the contract.
struct KeyLinks {
    derived_public: [u8; 64],
    app_public: [u8; 64],
    app_signature: [u8; 65],
    kms_signature: [u8; 65],
}

/// Registered.
pub struct Membership {
    /// Of this boot.
    pub incarnation: Incarnation,
    /// The contract right after the registration.
    pub view: ChainView,
    /// The contract's term at the registration.
    pub term: Term,
    /// There had been an election before.
    pub restarted: bool,
    /// The session that this one replaced: its process may still run somewhere.
    pub former: Option<(Incarnation, SessionPublic)>,
}

/// The contract must be there, on the right chain. An endpoint that does not answer is waited for.
pub async fn connect(config: &Config, board: &Board) -> Result<Chain, BootError> {
    let settings = ChainSettings {
        rpc: config.rpc.clone(),
        contract: config.contract,
        chain_id: config.chain_id,
        timeout: RPC_TIMEOUT,
    };
    loop {
        match Chain::connect(&settings).await {
            Ok(chain) => return Ok(chain),
            Err(why @ ChainError::Unavailable { .. }) => {
                board.wait(Phase::WaitingForChain, rpc_missing(config, &why));
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Err(other) => return Err(other.into()),
        }
    }
}

fn rpc_missing(config: &Config, why: &ChainError) -> Missing {
    Missing {
        what: "RPC endpoint",
        expected: format!("answers at {}", config.rpc_shown()),
        found: why.to_string(),
        remedy: "start the chain, or correct --rpc".to_owned(),
    }
}

async fn open_agent(config: &Config, board: &Board) -> Result<Agent, BootError> {
    let socket = Agent::find(config.dstack_socket.clone(), &|name| {
        std::env::var(name).ok()
    })?;
    board.enter(
        Phase::WaitingForAgent,
        format!("waiting for the guest agent at {}", socket.display()),
    );
    Ok(Agent::wait(&socket, config.agent_wait, |line| tracing::info!("{line}")).await?)
}

/// Agent, wallet and session: who we are, before anybody was told.
pub async fn identify(
    config: &Config,
    disk: &Disk,
    chain: &Chain,
    board: &Board,
) -> Result<Identity, BootError> {
    let agent = open_agent(config, board).await?;
    let socket = agent.socket().display().to_string();
    let unfit = |expected: &str, found: String, remedy| BootError::Unfit {
        socket: socket.clone(),
        expected: expected.to_owned(),
        found,
        remedy,
    };
    let info = patience::ask(config, board, async || agent.info().await).await?;
    let of_agent = info.instance_id.ok_or_else(|| {
        let remedy = "remove no_instance_id from the app's compose: without it all instances share one identity";
        unfit("an instance id of 20 bytes", "an empty one".to_owned(), remedy)
    })?;
    let instance_id = fixture::instance(of_agent, config.node_name.as_ref());
    let app_id = Address(info.app_id);
    let compose = app_compose(&info.tcb_info).ok_or_else(|| {
        let remedy = "set public_tcbinfo in the app's compose";
        unfit(
            "the app's compose text in tcb_info",
            "none".to_owned(),
            remedy,
        )
    })?;
    let salt = hex::encode(disk.wallet_salt()?);
    let instance = hex::encode(instance_id.0);
    let purpose = format!(
        "synod-v1:{}:{}:{instance}",
        config.chain_id, config.contract
    );
    let path = format!("synod/wallet/{instance}/{salt}");
    let derived = patience::ask(config, board, async || agent.key(&path, &purpose).await).await?;
    let root = chain.kms_root().await?;
    let links = key_links(&derived, &purpose, &info.app_id, root).map_err(|found| {
        let remedy = "use an agent whose KMS the contract names, and an allowed app";
        let expected = "a key chain that ends at the contract's KMS root";
        unfit(expected, format!("another one: {found}"), remedy)
    })?;
    if !chain.allowed(app_id).await? {
        let expected = format!("an app that contract {} allows", config.contract);
        let remedy = "run this node as an allowed app, or have the contract allow it";
        return Err(unfit(&expected, format!("app {app_id}"), remedy));
    }
    let wallet = Wallet::from_secret(derived.secret.expose())
        .map_err(|why| BootError::Keys(why.to_string()))?;
    let tls = TlsIdentity::generate().map_err(|why| BootError::Keys(why.to_string()))?;
    let identity = Identity {
        instance_id,
        app_id,
        wallet: Arc::new(wallet),
        session: Arc::new(fresh_session()?),
        tls,
        agent,
        purpose,
        links,
        compose,
    };
    let attestation = evidence::fitness(config, &identity, board).await?;
    board.update(|facts| {
        facts.instance_id = Some(instance_id);
        facts.wallet = Some(identity.wallet.address());
        facts.attestation = attestation;
        facts.socket = socket;
    });
    Ok(identity)
}

fn key_links(
    derived: &synod_agent::DerivedKey,
    purpose: &str,
    app_id: &[u8; 20],
    root: Address,
) -> Result<KeyLinks, String> {
    let links = &derived.signature_chain;
    let chain = keychain::verify(
        &derived.public_compressed(),
        purpose,
        app_id,
        links,
        &KmsRoot::Address(root.0),
    )
    .map_err(|why| why.to_string())?;
    let link = |n: usize| -> Result<[u8; 65], String> {
        let bytes = links.get(n).ok_or("a link is missing")?;
        bytes
            .as_slice()
            .try_into()
            .map_err(|_| format!("link {n} has {} bytes", bytes.len()))
    };
    Ok(KeyLinks {
        derived_public: derived.public_uncompressed(),
        app_public: SessionPublic(chain.app_public)
            .uncompressed()
            .map_err(|why| why.to_string())?,
        app_signature: link(0)?,
        kms_signature: link(1)?,
    })
}

/// The compose text inside `tcb_info`; what the evidence shows, and what its hash is compared with.
fn app_compose(tcb_info: &str) -> Option<String> {
    let json: serde_json::Value = serde_json::from_str(tcb_info).ok()?;
    json.get("app_compose")?.as_str().map(str::to_owned)
}

fn fresh_session() -> Result<SessionKey, BootError> {
    let mut secret = zeroize::Zeroizing::new([0u8; 32]);
    OsRng
        .try_fill_bytes(secret.as_mut())
        .map_err(|why| BootError::Keys(why.to_string()))?;
    SessionKey::from_bytes(&secret).map_err(|why| BootError::Keys(why.to_string()))
}

/// Wait until owner and gas are there, then register with a quote over everything that must belong together.
pub async fn register(
    config: &Config,
    identity: &Identity,
    chain: &Chain,
    board: &Board,
) -> Result<Membership, BootError> {
    let mut former = None;
    loop {
        match ready(config, identity, chain).await {
            Ok(None) => {}
            Ok(Some((phase, missing))) => {
                board.wait(phase, missing);
                tokio::time::sleep(LOOK_AGAIN).await;
                continue;
            }
            Err(BootError::Chain(why @ ChainError::Unavailable { .. })) => {
                board.wait(Phase::WaitingForChain, rpc_missing(config, &why));
                tokio::time::sleep(LOOK_AGAIN).await;
                continue;
            }
            Err(other) => return Err(other),
        }
        board.enter(Phase::Registering, "registering with a fresh quote");
        if let Ok(view) = chain.view().await
            && let Some(m) = view.member(config.token)
            && m.session != identity.session.public()
        {
            former = Some((m.incarnation, m.session));
        }
        match register_once(config, identity, chain, board).await {
            Err(BootError::Chain(why @ ChainError::Unavailable { .. })) => {
                tracing::warn!("registration: {why}; looking whether it was mined");
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Err(other) => return Err(other),
            Ok(()) => {}
        }
        if let Some(membership) = registered(config, identity, chain).await {
            return Ok(Membership {
                former,
                ..membership
            });
        }
    }
}

/// The contract is asked, not the receipt: a transaction whose answer was lost may be mined all the same, and the
/// contract takes a session key only once.
async fn registered(config: &Config, identity: &Identity, chain: &Chain) -> Option<Membership> {
    let view = chain.view().await.ok()?;
    let incarnation = view
        .member(config.token)
        .filter(|m| m.session == identity.session.public())?
        .incarnation;
    tracing::info!(
        incarnation = incarnation.0,
        block = view.block.number,
        "registered"
    );
    Some(Membership {
        incarnation,
        term: view.term,
        restarted: view.elected_block != 0,
        former: None,
        view,
    })
}

async fn ready(
    config: &Config,
    identity: &Identity,
    chain: &Chain,
) -> Result<Option<(Phase, Missing)>, BootError> {
    let wallet = identity.wallet.address();
    let state = chain.token(config.token, wallet).await?;
    let Some(owner) = state.owner else {
        return Err(BootError::NoToken {
            token: config.token.0,
            contract: config.contract,
        });
    };
    let adopted = state.adoption == Some((wallet, identity.instance_id)) || owner == wallet;
    if !adopted {
        let found = state.adoption.map_or("nobody".to_owned(), |(w, i)| {
            format!("wallet {w} of instance {i}")
        });
        let remedy = format!(
            "as the owner {owner}, send adopt({}, {wallet}, {}) to contract {} (with some ether as its first gas)",
            config.token, identity.instance_id, config.contract
        );
        let expected = format!("wallet {wallet} of instance {}", identity.instance_id);
        let missing = Missing {
            what: "adoption by the token's owner",
            expected,
            found,
            remedy,
        };
        return Ok(Some((Phase::WaitingForAdoption, missing)));
    }
    let need = chain
        .registration_cost_wei()
        .await?
        .saturating_mul(ELECTIONS_PAID);
    if state.balance_wei < need {
        let missing = Missing {
            what: "gas",
            expected: format!(
                "{need} wei (a registration and {ELECTIONS_PAID} elections) in wallet {wallet}"
            ),
            found: format!("{} wei", state.balance_wei),
            remedy: format!("send ether to {wallet}"),
        };
        return Ok(Some((Phase::WaitingForGas, missing)));
    }
    Ok(None)
}

async fn register_once(
    config: &Config,
    identity: &Identity,
    chain: &Chain,
    board: &Board,
) -> Result<(), BootError> {
    let head = chain.head().await?;
    let (evidence_hash, attestation) = evidence::of_block(config, identity, head, board).await?;
    board.update(|facts| facts.attestation = attestation);
    let lifetime = chain.max_lifetime_s().await?;
    let session_public = identity
        .session
        .public()
        .uncompressed()
        .map_err(|why| BootError::Keys(why.to_string()))?;
    let registration = Registration {
        token: config.token,
        instance_id: identity.instance_id,
        app_id: identity.app_id,
        derived_public: identity.links.derived_public,
        app_public: identity.links.app_public,
        app_signature: identity.links.app_signature,
        kms_signature: identity.links.kms_signature,
        session_public,
        endpoint: config.link.to_string(),
        evidence_hash,
        expires_at: (wall_seconds() as u64).max(head.time) + lifetime.saturating_sub(60),
        owner_signature: Vec::new(),
    };
    tracing::debug!(purpose = identity.purpose, "registering");
    let registered = chain.register(&identity.wallet, &registration).await?;
    tracing::debug!(tx = %registered.tx, "the registration is mined");
    Ok(())
}
