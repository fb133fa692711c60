//! JSON-RPC: eighteen methods of an Ethereum node, single or in batches. Values in, values out.
//!
//! Unknown methods, missing and surplus parameters are refused by name; nothing is guessed.

use crate::block::{BASE_FEE, BLOCK_GAS_LIMIT, Block};
use crate::ledger::{Ledger, Refused};
use alloy::eips::{BlockId, BlockNumberOrTag};
use alloy::primitives::{Address, Bytes, U64, U256};
use alloy::rpc::types::{FeeHistory, Filter, FilterBlockOption, Log, TransactionRequest};
use revm::DatabaseRef as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Most calls in one batch.
pub const BATCH_LEN_MAX: usize = 100;
/// Most logs in one answer.
pub const LOGS_LEN_MAX: usize = 10_000;
/// Most blocks of one fee history.
const FEE_BLOCKS_MAX: u64 = 1_024;

/// An error as JSON-RPC has it.
struct Fault {
    code: i64,
    message: String,
    data: Option<Bytes>,
}

impl Fault {
    fn new(code: i64, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            data: None,
        }
    }

    fn params(message: impl Into<String>) -> Self {
        Self::new(-32_602, message)
    }
}

impl From<Refused> for Fault {
    fn from(refused: Refused) -> Self {
        let message = refused.to_string();
        match refused {
            Refused::Reverted(data) => Self {
                code: 3,
                message,
                data: Some(data),
            },
            Refused::Transaction(_)
            | Refused::Halted(_)
            | Refused::TooOld { .. }
            | Refused::Journal(_)
            | Refused::Full => Self::new(-32_000, message),
        }
    }
}

/// Answer one body: a call or a batch. None = only notifications, nothing to say.
pub fn answer(ledger: &mut Ledger, now: u64, body: &[u8]) -> Option<Value> {
    let calls = match serde_json::from_slice(body) {
        Ok(Value::Array(calls)) if calls.is_empty() => {
            return Some(failed(&Value::Null, Fault::new(-32_600, "an empty batch")));
        }
        Ok(Value::Array(calls)) if calls.len() > BATCH_LEN_MAX => {
            let message = format!(
                "a batch has at most {BATCH_LEN_MAX} calls, found {}",
                calls.len()
            );
            return Some(failed(&Value::Null, Fault::new(-32_600, message)));
        }
        Ok(Value::Array(calls)) => calls,
        Ok(call) => return one(ledger, now, &call),
        Err(error) => {
            return Some(failed(
                &Value::Null,
                Fault::new(-32_700, format!("not JSON: {error}")),
            ));
        }
    };
    let answers: Vec<Value> = calls
        .iter()
        .filter_map(|call| one(ledger, now, call))
        .collect();
    (!answers.is_empty()).then_some(Value::Array(answers))
}

fn one(ledger: &mut Ledger, now: u64, call: &Value) -> Option<Value> {
    let Some(method) = call.get("method").and_then(Value::as_str) else {
        return Some(failed(
            &Value::Null,
            Fault::new(
                -32_600,
                "expected {\"jsonrpc\":\"2.0\",\"id\":…,\"method\":…,\"params\":[…]}",
            ),
        ));
    };
    let none = Vec::new();
    let result = match call.get("params") {
        None | Some(Value::Null) => Ok(&none),
        Some(Value::Array(params)) => Ok(params),
        Some(_) => Err(Fault::params("params: expected an array")),
    }
    .and_then(|params| perform(ledger, now, method, &Params(params)));
    let id = call.get("id")?;
    Some(match result {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err(fault) => failed(id, fault),
    })
}

fn failed(id: &Value, fault: Fault) -> Value {
    let mut error = json!({ "code": fault.code, "message": fault.message });
    if let (Some(data), Some(error)) = (fault.data, error.as_object_mut()) {
        error.insert("data".to_owned(), json!(data));
    }
    json!({ "jsonrpc": "2.0", "id": id, "error": error })
}

#[allow(clippy::too_many_lines)] // the table of contents of this node
fn perform(
    ledger: &mut Ledger,
    now: u64,
    method: &str,
    params: &Params<'_>,
) -> Result<Value, Fault> {
    match method {
        "web3_clientVersion" => shown(concat!("synod-devchain/", env!("CARGO_PKG_VERSION"))),
        "net_version" => shown(ledger.chain_id().to_string()),
        "eth_chainId" => shown(U64::from(ledger.chain_id())),
        "eth_blockNumber" => {
            ledger.refresh(now)?;
            shown(U64::from(ledger.head().number))
        }
        "eth_gasPrice" => shown(U64::from(BASE_FEE)),
        "eth_maxPriorityFeePerGas" => shown(U64::ZERO),
        "eth_feeHistory" => fee_history(ledger, now, params),
        "eth_getBalance" => account(ledger, now, params).and_then(|found| shown(found.balance)),
        "eth_getTransactionCount" => {
            account(ledger, now, params).and_then(|found| shown(U64::from(found.nonce)))
        }
        "eth_getCode" => {
            let hash = account(ledger, now, params)?.code_hash;
            let at = ledger.head().number;
            let code = ledger.view(at)?.code_by_hash_ref(hash).unwrap_or_default();
            shown(code.original_bytes())
        }
        "eth_getBlockByNumber" => {
            let number = tagged(ledger, now, params.at(0, "block")?)?;
            let full = params.or(1, "full transactions", false)?;
            shown(ledger.block(number).map(|block| block.shown(full)))
        }
        "eth_getBlockByHash" => {
            let full = params.or(1, "full transactions", false)?;
            shown(
                ledger
                    .block_by_hash(params.at(0, "block hash")?)
                    .map(|block| block.shown(full)),
            )
        }
        "eth_getTransactionByHash" => shown(
            ledger
                .mined(params.at(0, "transaction hash")?)
                .map(|(block, mined)| block.transaction(mined)),
        ),
        "eth_getTransactionReceipt" => shown(
            ledger
                .mined(params.at(0, "transaction hash")?)
                .map(|(block, mined)| block.receipt(mined)),
        ),
        "eth_getLogs" => logs(ledger, now, &params.at(0, "filter")?),
        "eth_call" => {
            let request = params.request()?;
            let at = existing(ledger, now, params.or(1, "block", BlockId::latest())?)?;
            params.no_overrides(2)?;
            shown(ledger.call(&request, at)?)
        }
        "eth_estimateGas" => {
            let request = params.request()?;
            params.no_overrides(2)?;
            shown(U64::from(ledger.estimate(&request, now)?))
        }
        "eth_sendRawTransaction" => {
            let raw: Bytes = params.at(0, "raw transaction")?;
            shown(ledger.submit(&raw, now)?)
        }
        "eth_accounts" | "eth_sendTransaction" | "eth_sign" => Err(Fault::new(
            -32_601,
            format!(
                "{method}: this chain holds no keys; sign yourself and use eth_sendRawTransaction"
            ),
        )),
        other => {
            let name: String = other.chars().take(64).collect();
            Err(Fault::new(
                -32_601,
                format!("{name}: this development chain does not have that method"),
            ))
        }
    }
}

fn shown(value: impl Serialize) -> Result<Value, Fault> {
    serde_json::to_value(value).map_err(|error| Fault::new(-32_603, error.to_string()))
}

struct Params<'a>(&'a [Value]);

impl Params<'_> {
    fn at<T: DeserializeOwned>(&self, index: usize, name: &str) -> Result<T, Fault> {
        let value = self
            .0
            .get(index)
            .ok_or_else(|| Fault::params(format!("parameter {index} ({name}) is missing")))?;
        T::deserialize(value)
            .map_err(|error| Fault::params(format!("parameter {index} ({name}): {error}")))
    }

    fn or<T: DeserializeOwned>(&self, index: usize, name: &str, default: T) -> Result<T, Fault> {
        match self.0.get(index) {
            None | Some(Value::Null) => Ok(default),
            Some(_) => self.at(index, name),
        }
    }

    fn request(&self) -> Result<TransactionRequest, Fault> {
        let request: TransactionRequest = self.at(0, "request")?;
        if request.authorization_list.is_some() || request.blob_versioned_hashes.is_some() {
            return Err(Fault::params(
                "blobs and authorization lists are not supported here",
            ));
        }
        Ok(request)
    }

    fn no_overrides(&self, index: usize) -> Result<(), Fault> {
        match self.0.get(index) {
            None | Some(Value::Null) => Ok(()),
            Some(_) => Err(Fault::params("state overrides are not supported here")),
        }
    }
}

fn tagged(ledger: &mut Ledger, now: u64, tag: BlockNumberOrTag) -> Result<u64, Fault> {
    match tag {
        BlockNumberOrTag::Number(number) => Ok(number),
        BlockNumberOrTag::Earliest => Ok(0),
        // Nothing is ever taken back here, so every block is final at once.
        BlockNumberOrTag::Latest
        | BlockNumberOrTag::Pending
        | BlockNumberOrTag::Safe
        | BlockNumberOrTag::Finalized => {
            ledger.refresh(now)?;
            Ok(ledger.head().number)
        }
    }
}

fn existing(ledger: &mut Ledger, now: u64, id: BlockId) -> Result<u64, Fault> {
    let number = match id {
        BlockId::Number(tag) => Some(tagged(ledger, now, tag)?),
        BlockId::Hash(hash) => ledger
            .block_by_hash(hash.block_hash)
            .map(|block| block.number),
    };
    let head = ledger.head().number;
    number
        .filter(|number| *number <= head)
        .ok_or_else(|| Fault::new(-32_001, format!("no such block; the newest is {head}")))
}

fn account(
    ledger: &mut Ledger,
    now: u64,
    params: &Params<'_>,
) -> Result<revm::state::AccountInfo, Fault> {
    let address: Address = params.at(0, "address")?;
    let at = existing(ledger, now, params.or(1, "block", BlockId::latest())?)?;
    Ok(ledger
        .view(at)?
        .basic_ref(address)
        .unwrap_or_default()
        .unwrap_or_default())
}

fn logs(ledger: &mut Ledger, now: u64, filter: &Filter) -> Result<Value, Fault> {
    let (from, to) = match filter.block_option {
        FilterBlockOption::AtBlockHash(hash) => {
            let id = BlockId::from(hash);
            let number = existing(ledger, now, id)?;
            (number, number)
        }
        FilterBlockOption::Range {
            from_block,
            to_block,
        } => (
            tagged(ledger, now, from_block.unwrap_or(BlockNumberOrTag::Latest))?,
            tagged(ledger, now, to_block.unwrap_or(BlockNumberOrTag::Latest))?,
        ),
    };
    if from > to {
        return Err(Fault::params(format!(
            "fromBlock {from} is after toBlock {to}"
        )));
    }
    let wanted = ledger
        .mined_between(from, to)
        .filter(|(_, mined)| filter.matches_bloom(*mined.receipt.logs_bloom()));
    let all = wanted
        .flat_map(|(block, mined)| block.logs(mined))
        .filter(|log| filter.matches(&log.inner));
    let found: Vec<Log> = all.take(LOGS_LEN_MAX + 1).collect();
    if found.len() > LOGS_LEN_MAX {
        return Err(Fault::new(
            -32_005,
            format!("more than {LOGS_LEN_MAX} logs; ask for fewer blocks than {from}..={to}"),
        ));
    }
    shown(found)
}

fn fee_history(ledger: &mut Ledger, now: u64, params: &Params<'_>) -> Result<Value, Fault> {
    let count: U256 = params.at(0, "block count")?;
    let newest = existing(ledger, now, BlockId::Number(params.at(1, "newest block")?))?;
    let percentiles: Vec<f64> = params.or(2, "percentiles", Vec::new())?;
    if percentiles.len() > BATCH_LEN_MAX {
        return Err(Fault::params(format!(
            "at most {BATCH_LEN_MAX} percentiles, found {}",
            percentiles.len()
        )));
    }
    let count = count
        .saturating_to::<u64>()
        .min(FEE_BLOCKS_MAX)
        .min(newest + 1);
    let oldest = newest + 1 - count;
    let used = |block: &Block| block.mined.as_ref().map_or(0, |mined| mined.gas_used);
    #[allow(clippy::cast_precision_loss)] // a ratio for people; gas is far below 2^52
    let ratio = |gas: u64| gas as f64 / BLOCK_GAS_LIMIT as f64;
    let blocks = (oldest..oldest + count).filter_map(|number| ledger.block(number));
    let gas_used_ratio: Vec<f64> = blocks.map(|block| ratio(used(block))).collect();
    let history = FeeHistory {
        base_fee_per_gas: vec![u128::from(BASE_FEE); gas_used_ratio.len() + 1],
        reward: (!percentiles.is_empty())
            .then(|| vec![vec![0; percentiles.len()]; gas_used_ratio.len()]),
        gas_used_ratio,
        oldest_block: oldest,
        ..FeeHistory::default()
    };
    shown(history)
}
