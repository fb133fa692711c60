//! The wallet and the one way a transaction goes out: estimated, priced, signed, sent, awaited.
//!
//! Rules: one transaction of a wallet is prepared at a time, so no nonce is taken twice; nothing is signed
//! that costs more than our limits; a receipt that says "reverted" is an error with the contract's words.

use crate::convert;
use crate::error::ChainError;
use crate::read::{Head, head};
use crate::rpc::{Rpc, words};
use alloy::consensus::{SignableTransaction as _, TxEip1559, TxEnvelope};
use alloy::eips::Encodable2718 as _;
use alloy::primitives::{B256, Bytes, TxKind, U64, U256};
use alloy::rpc::types::Log;
use alloy::signers::SignerSync as _;
use alloy::signers::local::PrivateKeySigner;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;
use synod_wire::Address;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

/// Most gas that one transaction may take; an election by 100 members takes about 0.9 million.
const GAS_MAX: u64 = 6_000_000;
/// Most wei per gas that we sign: 2,000 gwei.
const FEE_MAX: u128 = 2_000_000_000_000;
/// How long a transaction may take into a block.
const MINED_PATIENCE: Duration = Duration::from_secs(60);
const POLL_FIRST: Duration = Duration::from_millis(10);
const POLL_MAX: Duration = Duration::from_millis(500);

/// A secp256k1 key that sends transactions. No `Debug`; the key is wiped on drop.
pub struct Wallet {
    signer: PrivateKeySigner,
    turn: Mutex<()>,
}

/// One transaction to be.
pub struct Order {
    /// What it does, for errors.
    pub function: &'static str,
    /// The contract, or none to make one.
    pub to: TxKind,
    /// Wei that go along.
    pub value_wei: u128,
    /// Encoded call.
    pub input: Bytes,
}

/// What came of it; `status` is already checked.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// Its hash.
    pub transaction_hash: B256,
    /// Where it is.
    pub block_number: U64,
    /// 1 = done.
    pub status: U64,
    /// Gas that was paid.
    pub gas_used: U64,
    /// Made by it; only `operator::deploy` makes any.
    #[cfg(feature = "operator")]
    pub contract_address: Option<alloy::primitives::Address>,
    /// Said by it.
    pub logs: Vec<Log>,
}

impl Wallet {
    /// From 32 secret bytes.
    pub fn from_secret(secret: &[u8; 32]) -> Result<Self, ChainError> {
        let signer = PrivateKeySigner::from_slice(secret).map_err(|_| ChainError::BadKey)?;
        Ok(Self {
            signer,
            turn: Mutex::new(()),
        })
    }

    /// Its account.
    pub fn address(&self) -> Address {
        convert::address(self.signer.address())
    }

    /// Sign 32 bytes: r ‖ s ‖ v with v 27 or 28.
    #[cfg(feature = "operator")]
    pub(crate) fn sign_digest(&self, digest: [u8; 32]) -> Vec<u8> {
        let signature = self
            .signer
            .sign_hash_sync(&digest.into())
            .expect("a local key signs every digest");
        signature.as_bytes().to_vec()
    }

    /// Send and wait until it is in a block.
    pub(crate) async fn send(
        &self,
        rpc: &Rpc,
        chain_id: u64,
        order: &Order,
    ) -> Result<Receipt, ChainError> {
        let hash = {
            let _turn = self.turn.lock().await;
            self.submit(rpc, chain_id, order).await?
        };
        let receipt = mined(rpc, order.function, hash).await?;
        if receipt.status.to::<u64>() == 1 {
            return Ok(receipt);
        }
        Err(self.why_reverted(rpc, order, &receipt).await)
    }

    async fn submit(&self, rpc: &Rpc, chain_id: u64, order: &Order) -> Result<B256, ChainError> {
        let account = self.address().to_string();
        let nonce = rpc.ask::<U64>("eth_getTransactionCount", json!([account, "pending"]));
        let (nonce, gas, (fee, tip)) =
            tokio::try_join!(nonce, self.gas(rpc, order), fees(rpc, order.function))?;
        let tx = TxEip1559 {
            chain_id,
            nonce: nonce.to(),
            gas_limit: gas,
            max_fee_per_gas: fee,
            max_priority_fee_per_gas: tip,
            to: order.to,
            value: U256::from(order.value_wei),
            input: order.input.clone(),
            ..TxEip1559::default()
        };
        let signature = self
            .signer
            .sign_hash_sync(&tx.signature_hash())
            .expect("a local key signs every digest");
        let tx = TxEnvelope::from(tx.into_signed(signature));
        let raw = Bytes::from(tx.encoded_2718());
        match rpc
            .try_ask::<B256>("eth_sendRawTransaction", json!([raw]))
            .await?
        {
            Ok(hash) if hash == *tx.tx_hash() => Ok(hash),
            Ok(hash) => Err(rpc.nonsense(
                "eth_sendRawTransaction",
                format!("expected hash {}, found {hash}", tx.tx_hash()),
            )),
            Err(fault) if fault.message.contains("already known") => Ok(*tx.tx_hash()),
            Err(fault) if fault.message.contains("insufficient funds") => Err(ChainError::NoGas {
                wallet: self.address(),
                function: order.function,
                why: words(&fault.message),
            }),
            Err(fault) => Err(rpc.refused("eth_sendRawTransaction", &fault)),
        }
    }

    // The estimate and a quarter more: what the next block finds may differ a little.
    async fn gas(&self, rpc: &Rpc, order: &Order) -> Result<u64, ChainError> {
        let function = order.function;
        let estimate = match rpc
            .try_ask::<U256>("eth_estimateGas", json!([self.request(order)]))
            .await?
        {
            Ok(estimate) => estimate.saturating_to::<u128>(),
            Err(fault) if fault.is_revert() => {
                return Err(ChainError::Reverted {
                    function,
                    reason: convert::reason(&fault.returned().unwrap_or_default()),
                });
            }
            Err(fault)
                if fault.message.to_lowercase().contains("insufficient funds")
                    || fault.message.contains("lack of funds") =>
            {
                return Err(ChainError::NoGas {
                    wallet: self.address(),
                    function,
                    why: words(&fault.message),
                });
            }
            Err(fault) => return Err(rpc.refused("eth_estimateGas", &fault)),
        };
        let found = estimate.saturating_add(estimate / 4);
        u64::try_from(found)
            .ok()
            .filter(|gas| *gas <= GAS_MAX)
            .ok_or_else(|| ChainError::TooExpensive {
                function,
                what: "gas",
                max: GAS_MAX.into(),
                found,
                rpc: rpc.shown(),
            })
    }

    fn request(&self, order: &Order) -> Value {
        let mut request = json!({ "from": self.address().to_string(), "value": U256::from(order.value_wei), "data": order.input });
        if let (TxKind::Call(to), Some(request)) = (order.to, request.as_object_mut()) {
            request.insert("to".to_owned(), json!(to));
        }
        request
    }

    // Receipts carry no reason: run it again on top of the block before.
    async fn why_reverted(&self, rpc: &Rpc, order: &Order, receipt: &Receipt) -> ChainError {
        let before = U64::from(receipt.block_number.to::<u64>().saturating_sub(1));
        let reason = match rpc
            .try_ask::<Bytes>("eth_call", json!([self.request(order), before]))
            .await
        {
            Ok(Err(fault)) if fault.is_revert() => {
                convert::reason(&fault.returned().unwrap_or_default())
            }
            _ => format!(
                "mined and reverted (transaction {}); the reason could not be read",
                receipt.transaction_hash
            ),
        };
        ChainError::Reverted {
            function: order.function,
            reason,
        }
    }
}

/// (max fee, tip) per gas, in wei.
pub async fn fees(rpc: &Rpc, function: &'static str) -> Result<(u128, u128), ChainError> {
    let tip = rpc.ask::<U256>("eth_maxPriorityFeePerGas", Value::Array(Vec::new()));
    let (
        Head {
            base_fee_per_gas, ..
        },
        tip,
    ) = tokio::try_join!(head(rpc), tip)?;
    let tip = tip.saturating_to::<u128>();
    let base = base_fee_per_gas.unwrap_or_default().saturating_to::<u128>();
    // Twice the base fee lasts for six full blocks.
    let found = base.saturating_mul(2).saturating_add(tip);
    if found > FEE_MAX {
        return Err(ChainError::TooExpensive {
            function,
            what: "wei per gas",
            max: FEE_MAX,
            found,
            rpc: rpc.shown(),
        });
    }
    Ok((found, tip))
}

async fn mined(rpc: &Rpc, function: &'static str, hash: B256) -> Result<Receipt, ChainError> {
    let deadline = Instant::now() + MINED_PATIENCE;
    let mut pause = POLL_FIRST;
    loop {
        let receipt = rpc
            .ask::<Option<Receipt>>("eth_getTransactionReceipt", json!([hash]))
            .await?;
        if let Some(receipt) = receipt {
            if receipt.transaction_hash == hash {
                return Ok(receipt);
            }
            let why = format!(
                "expected the receipt of {hash}, found that of {}",
                receipt.transaction_hash
            );
            return Err(rpc.nonsense("eth_getTransactionReceipt", why));
        }
        if Instant::now() + pause > deadline {
            return Err(ChainError::Unmined {
                function,
                tx: convert::hash(hash),
                waited_s: MINED_PATIENCE.as_secs(),
                rpc: rpc.shown(),
            });
        }
        sleep(pause).await;
        pause = (pause * 2).min(POLL_MAX);
    }
}
