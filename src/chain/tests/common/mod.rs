//! A small world for tests: KMS root and app key made by hand, three nodes, a chain to put them on.
#![allow(dead_code, clippy::unwrap_used)] // each test file uses a part of it; a test that cannot go on stops where it stands

use k256::ecdsa::{SigningKey, VerifyingKey};
use sha3::{Digest as _, Keccak256};
use std::path::Path;
use std::time::Duration;
use synod_chain::operator::{self, DeployParams};
use synod_chain::{Chain, ChainSettings, Registration, Wallet};
use synod_devchain::{DEV_CHAIN_ID, DEV_KEYS, Running, Settings, serve};
use synod_wire::{Address, Anchor, Ballot, Certificate, Hash, SessionKey, Term, Token};

/// 0.1 ether.
pub const FIRST_GAS: u128 = 100_000_000_000_000_000;

pub struct Kms {
    root: SigningKey,
    app: SigningKey,
    pub app_id: Address,
}

/// One node: its wallet key, its session of this boot, its instance.
pub struct Node {
    pub token: Token,
    secret: SigningKey,
    pub wallet: Wallet,
    pub session: SessionKey,
    pub instance_id: Address,
}

pub fn key(seed: u8) -> SigningKey {
    SigningKey::from_slice(&[seed; 32]).unwrap()
}

pub fn session(seed: u8) -> SessionKey {
    SessionKey::from_bytes(&[seed; 32]).unwrap()
}

pub fn uncompressed(key: &SigningKey) -> [u8; 64] {
    VerifyingKey::from(key).to_encoded_point(false).as_bytes()[1..]
        .try_into()
        .unwrap()
}

fn compressed(key: &SigningKey) -> Vec<u8> {
    VerifyingKey::from(key)
        .to_encoded_point(true)
        .as_bytes()
        .to_vec()
}

pub fn address(key: &SigningKey) -> Address {
    Address(
        Keccak256::digest(uncompressed(key))[12..]
            .try_into()
            .unwrap(),
    )
}

/// r ‖ s ‖ v over Keccak-256, v 0 or 1 as dstack has it.
fn sign(key: &SigningKey, message: &[u8]) -> [u8; 65] {
    let digest: [u8; 32] = Keccak256::digest(message).into();
    let (signature, parity) = key.sign_prehash_recoverable(&digest).unwrap();
    [&signature.to_bytes()[..], &[parity.to_byte()]]
        .concat()
        .try_into()
        .unwrap()
}

impl Kms {
    pub fn new() -> Self {
        Self {
            root: key(0xaa),
            app: key(0xbb),
            app_id: Address([0xcc; 20]),
        }
    }

    pub fn root(&self) -> Address {
        address(&self.root)
    }

    /// What a node hands in, for the purpose that `chain`'s contract expects.
    pub fn registration(&self, chain: &Chain, node: &Node, expires_at: u64) -> Registration {
        let domain = chain.domain();
        let instance = hex::encode(node.instance_id.0);
        let purpose = format!(
            "synod-v1:{}:{}:{instance}",
            domain.chain_id, domain.contract
        );
        let derived = format!("{purpose}:{}", hex::encode(compressed(&node.secret)));
        let app = [
            b"dstack-kms-issued:".as_slice(),
            &self.app_id.0,
            &compressed(&self.app),
        ]
        .concat();
        Registration {
            token: node.token,
            instance_id: node.instance_id,
            app_id: self.app_id,
            derived_public: uncompressed(&node.secret),
            app_public: uncompressed(&self.app),
            app_signature: sign(&self.app, derived.as_bytes()),
            kms_signature: sign(&self.root, &app),
            session_public: node.session.public().uncompressed().unwrap(),
            endpoint: format!("127.0.0.1:{}", 7000 + node.token.0),
            evidence_hash: Hash([0xee; 32]),
            expires_at,
            owner_signature: Vec::new(),
        }
    }
}

impl Node {
    pub fn new(token: u64) -> Self {
        let seed = u8::try_from(token).unwrap();
        let secret = key(0x10 + seed);
        let wallet = Wallet::from_secret(&[0x10 + seed; 32]).unwrap();
        assert_eq!(wallet.address(), address(&secret));
        Self {
            token: Token(token),
            secret,
            wallet,
            session: session(0x20 + seed),
            instance_id: Address([seed; 20]),
        }
    }
}

pub fn dev(index: usize) -> Wallet {
    Wallet::from_secret(&DEV_KEYS[index]).unwrap()
}

pub async fn devchain(journal: Option<&Path>) -> Running {
    let settings = Settings {
        bind: ([127, 0, 0, 1], 0).into(),
        journal: journal.map(Path::to_owned),
        chain_id: DEV_CHAIN_ID,
    };
    serve(settings).await.unwrap()
}

pub fn url(running: &Running) -> String {
    format!("http://{}", running.address())
}

pub fn settings(rpc: &str, contract: Address) -> ChainSettings {
    ChainSettings {
        rpc: rpc.to_owned(),
        contract,
        chain_id: DEV_CHAIN_ID,
        timeout: Duration::from_secs(5),
    }
}

/// The contract, deployed and owned by the first development account.
pub async fn deploy(rpc: &str, kms: &Kms) -> Chain {
    let params = DeployParams {
        owner: dev(0).address(),
        kms_root: kms.root(),
        allowed_apps: vec![kms.app_id],
        founders: 3,
        max_nodes: 10,
        max_lifetime_s: 86_400,
    };
    let contract = operator::deploy(rpc, &dev(0), &params).await.unwrap();
    Chain::connect(&settings(rpc, contract)).await.unwrap()
}

/// Tokens 1 to 3, held by development accounts 1 to 3, adopted with gas; nobody is registered yet.
pub async fn adopted(chain: &Chain) -> Vec<Node> {
    let mut nodes = Vec::new();
    for index in 1..=3 {
        let owner = dev(index);
        let token = operator::mint(chain, &dev(0), owner.address(), &format!("node{index}"))
            .await
            .unwrap();
        let node = Node::new(token.0);
        operator::adopt(
            chain,
            &owner,
            token,
            node.wallet.address(),
            node.instance_id,
            FIRST_GAS,
        )
        .await
        .unwrap();
        nodes.push(node);
    }
    nodes
}

pub async fn registered(chain: &Chain, kms: &Kms) -> Vec<Node> {
    let nodes = adopted(chain).await;
    for node in &nodes {
        let expires_at = chain.head().await.unwrap().time + 3_600;
        chain
            .register(&node.wallet, &kms.registration(chain, node, expires_at))
            .await
            .unwrap();
    }
    nodes
}

pub async fn certificate(
    chain: &Chain,
    term: u64,
    candidate: Token,
    voters: &[&Node],
) -> Certificate {
    let deadline = chain.head().await.unwrap().time + 30;
    let ballot = Ballot {
        term: Term(term),
        candidate,
        anchor: Anchor {
            index: 7,
            root: Hash([7; 32]),
        },
        deadline,
    };
    let domain = chain.domain();
    let signatures = voters
        .iter()
        .map(|node| domain.sign(&node.session, node.token, &ballot))
        .collect();
    Certificate { ballot, signatures }
}
