//! One transaction through the EVM. Nothing is committed here.
//!
//! Two ways in: `execute` for what was sent (nonce, fee, balance and code of the sender are checked)
//! and `ask` for `eth_call` and `eth_estimateGas` (no nonce, no fee; value must still be there).

use crate::block::{BASE_FEE, BLOCK_GAS_LIMIT};
use crate::state::View;
use alloy::eips::Typed2718 as _;
use alloy::primitives::{Address, U256};
use alloy::rpc::types::TransactionRequest;
use alloy_consensus::transaction::Recovered;
use alloy_consensus::{Transaction as _, TxEnvelope};
use revm::context::result::{EVMError, ResultAndState};
use revm::context::{BlockEnv, CfgEnv, TxEnv};
use revm::database_interface::WrapDatabaseRef;
use revm::primitives::TxKind;
use revm::primitives::eip7825::TX_GAS_LIMIT_CAP;
use revm::{Context, DatabaseRef as _, ExecuteEvm as _, MainBuilder as _, MainContext as _};
use std::convert::Infallible;

/// What can be wrong before the first opcode runs.
pub type Invalid = EVMError<Infallible>;

/// Where in the chain the code believes to run.
#[derive(Clone, Copy)]
pub struct Place {
    /// CHAINID.
    pub chain_id: u64,
    /// NUMBER.
    pub number: u64,
    /// TIMESTAMP.
    pub time: u64,
}

impl Place {
    fn block(&self) -> BlockEnv {
        BlockEnv {
            number: U256::from(self.number),
            timestamp: U256::from(self.time),
            gas_limit: BLOCK_GAS_LIMIT,
            basefee: BASE_FEE,
            ..BlockEnv::default()
        }
    }
}

/// Execute a signed transaction on top of `view`.
pub fn execute(
    view: View<'_>,
    place: Place,
    tx: &Recovered<TxEnvelope>,
) -> Result<ResultAndState, Invalid> {
    let env = TxEnv {
        tx_type: tx.ty(),
        caller: tx.signer(),
        gas_limit: tx.gas_limit(),
        gas_price: tx.max_fee_per_gas(),
        gas_priority_fee: tx.max_priority_fee_per_gas(),
        kind: tx.kind(),
        value: tx.value(),
        data: tx.input().clone(),
        nonce: tx.nonce(),
        chain_id: tx.chain_id(),
        access_list: tx.access_list().cloned().unwrap_or_default(),
        ..TxEnv::default()
    };
    run(
        view,
        place,
        CfgEnv::new().with_chain_id(place.chain_id),
        env,
    )
}

/// Try out a request on top of `view`; fee fields are ignored, GASPRICE reads 0.
pub fn ask(
    view: View<'_>,
    place: Place,
    request: &TransactionRequest,
    gas: u64,
) -> Result<ResultAndState, Invalid> {
    let caller = request.from.unwrap_or(Address::ZERO);
    let nonce = view
        .basic_ref(caller)
        .unwrap_or_default()
        .map_or(0, |account| account.nonce);
    let env = TxEnv {
        caller,
        gas_limit: gas,
        gas_price: 0,
        kind: request.to.unwrap_or(TxKind::Create),
        value: request.value.unwrap_or_default(),
        data: request.input.input().cloned().unwrap_or_default(),
        nonce,
        chain_id: None,
        access_list: request.access_list.clone().unwrap_or_default(),
        ..TxEnv::default()
    };
    let mut rules = CfgEnv::new().with_chain_id(place.chain_id);
    rules.disable_base_fee = true;
    rules.disable_eip3607 = true;
    rules.disable_nonce_check = true;
    run(view, place, rules, env)
}

/// The most gas that a question may ask for.
pub fn gas_cap(request: &TransactionRequest) -> u64 {
    request
        .gas
        .unwrap_or(u64::MAX)
        .min(TX_GAS_LIMIT_CAP)
        .min(BLOCK_GAS_LIMIT)
}

fn run(view: View<'_>, place: Place, rules: CfgEnv, tx: TxEnv) -> Result<ResultAndState, Invalid> {
    Context::mainnet()
        .with_db(WrapDatabaseRef(view))
        .with_cfg(rules)
        .with_block(place.block())
        .build_mainnet()
        .transact(tx)
}
