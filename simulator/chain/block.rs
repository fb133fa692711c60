//! A block: empty, or with exactly one transaction and its receipt.
//!
//! Headers have London's form. Two fields carry nothing, because nobody agrees on them here:
//! the state root is zero and the beneficiary is zero. Hashes are real and chained.

use alloy::primitives::{Address, B256, Log};
use alloy::rpc::types::{self as rpc, BlockTransactions};
use alloy_consensus::proofs::{calculate_receipt_root, calculate_transaction_root};
use alloy_consensus::transaction::Recovered;
use alloy_consensus::{EMPTY_OMMER_ROOT_HASH, EMPTY_ROOT_HASH, Header, Transaction as _};
use alloy_consensus::{Eip658Value, Receipt, ReceiptEnvelope, TxEnvelope};

/// Gas of one block.
pub const BLOCK_GAS_LIMIT: u64 = 30_000_000;
/// Wei per gas; fixed, so that costs in tests are the same every time.
pub const BASE_FEE: u64 = 1_000_000_000;

/// One block, small when it is empty (there may be one per second).
pub struct Block {
    /// Its place in the chain.
    pub number: u64,
    /// Hash of the block before.
    pub parent: B256,
    /// Hash of its header.
    pub hash: B256,
    /// Unix seconds.
    pub time: u64,
    /// Its transaction, if it has one.
    pub mined: Option<Box<Mined>>,
}

/// A transaction that was executed.
pub struct Mined {
    /// What was sent, and by whom.
    pub tx: Recovered<TxEnvelope>,
    /// What came of it.
    pub receipt: ReceiptEnvelope<Log>,
    /// Gas it paid for.
    pub gas_used: u64,
    /// The contract it made.
    pub created: Option<Address>,
}

impl Mined {
    /// Put together what the EVM answered.
    pub fn new(
        tx: Recovered<TxEnvelope>,
        success: bool,
        gas_used: u64,
        logs: Vec<Log>,
        created: Option<Address>,
    ) -> Self {
        let receipt = Receipt {
            status: Eip658Value::Eip658(success),
            cumulative_gas_used: gas_used,
            logs,
        };
        let receipt = ReceiptEnvelope::from_typed(tx.inner().tx_type(), receipt.with_bloom());
        Self {
            tx,
            receipt,
            gas_used,
            created,
        }
    }

    /// Hash of the transaction.
    pub fn hash(&self) -> B256 {
        *self.tx.inner().tx_hash()
    }
}

impl Block {
    /// Chain a new block to `parent`.
    pub fn new(number: u64, parent: B256, time: u64, mined: Option<Mined>) -> Self {
        let mut block = Self {
            number,
            parent,
            hash: B256::ZERO,
            time,
            mined: mined.map(Box::new),
        };
        block.hash = block.header().hash_slow();
        block
    }

    /// The header that the hash is taken of.
    pub fn header(&self) -> Header {
        let mined = self.mined.as_deref();
        Header {
            parent_hash: self.parent,
            ommers_hash: EMPTY_OMMER_ROOT_HASH,
            state_root: B256::ZERO,
            transactions_root: mined.map_or(EMPTY_ROOT_HASH, |m| {
                calculate_transaction_root(std::slice::from_ref(m.tx.inner()))
            }),
            receipts_root: mined.map_or(EMPTY_ROOT_HASH, |m| {
                calculate_receipt_root(std::slice::from_ref(&m.receipt))
            }),
            logs_bloom: mined.map(|m| *m.receipt.logs_bloom()).unwrap_or_default(),
            number: self.number,
            gas_limit: BLOCK_GAS_LIMIT,
            gas_used: mined.map_or(0, |m| m.gas_used),
            timestamp: self.time,
            base_fee_per_gas: Some(BASE_FEE),
            ..Header::default()
        }
    }

    /// As `eth_getBlockBy…` shows it.
    pub fn shown(&self, full: bool) -> rpc::Block {
        let header = rpc::Header {
            hash: self.hash,
            inner: self.header(),
            total_difficulty: None,
            size: None,
        };
        let mined = self.mined.as_deref();
        let transactions = if full {
            BlockTransactions::Full(mined.map(|m| self.transaction(m)).into_iter().collect())
        } else {
            BlockTransactions::Hashes(mined.map(Mined::hash).into_iter().collect())
        };
        rpc::Block::new(header, transactions)
    }

    /// As `eth_getTransactionByHash` shows it.
    pub fn transaction(&self, mined: &Mined) -> rpc::Transaction {
        rpc::Transaction {
            inner: mined.tx.clone(),
            block_hash: Some(self.hash),
            block_number: Some(self.number),
            transaction_index: Some(0),
            effective_gas_price: Some(mined.tx.effective_gas_price(Some(BASE_FEE))),
            block_timestamp: Some(self.time),
        }
    }

    /// As `eth_getTransactionReceipt` shows it.
    pub fn receipt(&self, mined: &Mined) -> rpc::TransactionReceipt {
        let mut index = 0..;
        rpc::TransactionReceipt {
            inner: mined
                .receipt
                .clone()
                .map_logs(|log| self.placed(mined, index.next().unwrap_or(0), log)),
            transaction_hash: mined.hash(),
            transaction_index: Some(0),
            block_hash: Some(self.hash),
            block_number: Some(self.number),
            gas_used: mined.gas_used,
            effective_gas_price: mined.tx.effective_gas_price(Some(BASE_FEE)),
            blob_gas_used: None,
            blob_gas_price: None,
            from: mined.tx.signer(),
            to: mined.tx.to(),
            contract_address: mined.created,
        }
    }

    /// Its logs with their place in the chain.
    pub fn logs<'a>(&'a self, mined: &'a Mined) -> impl Iterator<Item = rpc::Log> + 'a {
        (0..)
            .zip(mined.receipt.logs())
            .map(|(index, log)| self.placed(mined, index, log.clone()))
    }

    fn placed(&self, mined: &Mined, index: u64, log: Log) -> rpc::Log {
        rpc::Log {
            inner: log,
            block_hash: Some(self.hash),
            block_number: Some(self.number),
            block_timestamp: Some(self.time),
            transaction_hash: Some(mined.hash()),
            transaction_index: Some(0),
            log_index: Some(index),
            removed: false,
        }
    }
}
