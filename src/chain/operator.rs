//! What owners do, not nodes: deploy the contract, mint, adopt. For the command line, `synod up` and tests.

use crate::abi;
use crate::act::{Sent, sent};
use crate::convert;
use crate::error::ChainError;
use crate::read::{Chain, chain_id};
use crate::rpc::Rpc;
use crate::wallet::{Order, Wallet};
use alloy::primitives::{Bytes, TxKind, U256};
use alloy::sol_types::SolConstructor as _;
use std::time::Duration;
use synod_wire::ballot::Domain;
use synod_wire::{Address, Token};

const TIMEOUT: Duration = Duration::from_secs(10);

/// What the constructor fixes for ever.
#[derive(Clone, Debug)]
pub struct DeployParams {
    /// Mints and may deactivate.
    pub owner: Address,
    /// Whose signature every app key must carry.
    pub kms_root: Address,
    /// Apps whose code may register.
    pub allowed_apps: Vec<Address>,
    /// Members that must be seated before the first election.
    pub founders: u64,
    /// Most tokens.
    pub max_nodes: u64,
    /// Longest registration, seconds.
    pub max_lifetime_s: u64,
}

/// Put the contract on the chain; returns its address.
pub async fn deploy(
    rpc: &str,
    wallet: &Wallet,
    params: &DeployParams,
) -> Result<Address, ChainError> {
    let rpc = Rpc::new(rpc, TIMEOUT)?;
    let arguments = abi::constructorCall {
        initialOwner: convert::to_address(params.owner),
        root: convert::to_address(params.kms_root),
        allowedApps: params
            .allowed_apps
            .iter()
            .copied()
            .map(convert::to_address)
            .collect(),
        founders: params.founders,
        maxNodes: U256::from(params.max_nodes),
        lifetime: params.max_lifetime_s,
    };
    let input = Bytes::from([abi::BYTECODE.as_ref(), &arguments.abi_encode()].concat());
    let order = Order {
        function: "deploy",
        to: TxKind::Create,
        value_wei: 0,
        input,
    };
    let receipt = wallet.send(&rpc, chain_id(&rpc).await?, &order).await?;
    let made = receipt
        .contract_address
        .ok_or_else(|| rpc.nonsense("eth_getTransactionReceipt", "no contract address"))?;
    Ok(convert::address(made))
}

/// Mint a token to `to`; by the contract's owner.
pub async fn mint(
    chain: &Chain,
    wallet: &Wallet,
    to: Address,
    name: &str,
) -> Result<Token, ChainError> {
    let call = abi::mintNodeAccessCall {
        to: convert::to_address(to),
        name: name.to_owned(),
    };
    let receipt = chain.act(wallet, "mintNodeAccess", &call, 0).await?;
    let event = chain.event::<abi::NodeAccessMinted>("mintNodeAccess", &receipt)?;
    convert::token(event.tokenId).map_err(|why| chain.nonsense("mintNodeAccess", why))
}

/// Adopt a node's wallet and instance and give it its first gas; by the token's owner.
pub async fn adopt(
    chain: &Chain,
    owner: &Wallet,
    token: Token,
    wallet: Address,
    instance_id: Address,
    value_wei: u128,
) -> Result<Sent, ChainError> {
    let (wallet, instance) = (
        convert::to_address(wallet),
        convert::to_address(instance_id),
    );
    let call = abi::adoptCall {
        tokenId: convert::to_id(token),
        wallet,
        instanceId: instance,
    };
    chain
        .act(owner, "adopt", &call, value_wei)
        .await
        .map(|receipt| sent(&receipt))
}

/// The same adoption as a signature, for owners that send no transactions; goes into `owner_signature`.
pub fn sign_adoption(
    owner: &Wallet,
    domain: &Domain,
    token: Token,
    wallet: Address,
    instance_id: Address,
    number: u64,
) -> Vec<u8> {
    owner.sign_digest(domain.adoption_digest(token, wallet, instance_id, number))
}

/// Sell or give away a token; by its owner.
pub async fn transfer(
    chain: &Chain,
    owner: &Wallet,
    token: Token,
    to: Address,
) -> Result<Sent, ChainError> {
    let call = abi::transferFromCall {
        from: convert::to_address(owner.address()),
        to: convert::to_address(to),
        tokenId: convert::to_id(token),
    };
    chain
        .act(owner, "transferFrom", &call, 0)
        .await
        .map(|receipt| sent(&receipt))
}
