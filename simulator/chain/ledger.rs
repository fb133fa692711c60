//! The chain itself: blocks, state and journal moving together, one block per transaction.
//!
//! Time: the clients judge deadlines by the newest block, so that one must not be old. Upon a question
//! about the newest block in a later second than its own, an empty block of now is appended first; at
//! most one per second, none while nobody asks. Those blocks are in the journal like all others, so
//! a restart never takes back a block that somebody saw. There is no pool: a transaction is mined now or
//! refused now. Told the time, never asks for it.

use crate::accounts::{DEV_ADDRESSES, DEV_BALANCE};
use crate::block::{BLOCK_GAS_LIMIT, Block, Mined};
use crate::evm::{self, Invalid, Place};
use crate::journal::{Journal, JournalError, Opened, RAW_LEN_MAX, Record};
use crate::state::{State, View};
use alloy::eips::Decodable2718 as _;
use alloy::primitives::{Address, B256, Bytes};
use alloy_consensus::transaction::{Recovered, SignerRecoverable as _};
use alloy_consensus::{Transaction as _, TxEnvelope};
use revm::context::result::{InvalidTransaction, ResultAndState};
use std::collections::HashMap;
use std::path::Path;

/// Longest chain, empty blocks included (about 100 bytes each): four months of one per second.
pub const BLOCKS_MAX: usize = 10_000_000;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The transaction cannot be mined as it is.
    #[error("{0}")]
    Transaction(String),
    /// The code ran and said no.
    #[error("execution reverted")]
    Reverted(Bytes),
    /// The code ran and broke.
    #[error("execution stopped: {0}")]
    Halted(String),
    /// Past the undo list.
    #[error(
        "the state of block {found} is gone: this development chain reads from block {oldest} on"
    )]
    TooOld {
        /// Asked for.
        found: u64,
        /// First that is there.
        oldest: u64,
    },
    /// Not promised to be durable, so not done.
    #[error("not mined: {0}")]
    Journal(#[from] JournalError),
    /// The chain has reached its limit.
    #[error("not mined: the chain has {BLOCKS_MAX} blocks, which is its limit; start a new one")]
    Full,
}

/// The chain.
pub struct Ledger {
    chain_id: u64,
    state: State,
    blocks: Vec<Block>,
    by_hash: HashMap<B256, u64>,
    by_tx: HashMap<B256, u64>,
    mined: Vec<u64>,
    journal: Option<Journal>,
}

impl Ledger {
    /// A new chain, or the one in the journal.
    pub fn open(chain_id: u64, journal: Option<&Path>, now: u64) -> Result<Self, JournalError> {
        let Some(path) = journal else {
            return Ok(Self::born(chain_id, now));
        };
        let (
            journal,
            Opened {
                genesis_time,
                records,
                cut_len,
            },
        ) = Journal::open(path, chain_id, now)?;
        if cut_len > 0 {
            tracing::warn!(
                "journal {}: cut {cut_len} bytes of a block that was never finished",
                path.display()
            );
        }
        let mut ledger = Self::born(chain_id, genesis_time);
        for (offset, record) in records {
            ledger
                .replay(&record)
                .map_err(|what| JournalError::Damaged {
                    path: path.to_owned(),
                    offset,
                    what,
                })?;
        }
        ledger.journal = Some(journal);
        Ok(ledger)
    }

    fn born(chain_id: u64, time: u64) -> Self {
        let genesis = Block::new(0, B256::ZERO, time, None);
        Self {
            chain_id,
            state: State::with_balances(DEV_ADDRESSES.iter().map(Address::from), DEV_BALANCE),
            by_hash: HashMap::from([(genesis.hash, 0)]),
            blocks: vec![genesis],
            by_tx: HashMap::new(),
            mined: Vec::new(),
            journal: None,
        }
    }

    fn replay(&mut self, record: &Record) -> Result<(), String> {
        let head = self.head();
        if record.number != head.number + 1 || record.time < head.time {
            return Err(format!(
                "expected block {} at or after {}, found {} at {}",
                head.number + 1,
                head.time,
                record.number,
                record.time
            ));
        }
        let hash = if record.raw.is_empty() {
            self.mine_empty(record.time)
                .map_err(|error| error.to_string())?;
            self.head().hash
        } else {
            self.submit(&record.raw, record.time)
                .map_err(|error| error.to_string())?;
            self.head().hash
        };
        if hash == record.hash {
            Ok(())
        } else {
            Err(format!(
                "block {}: expected hash {}, found {hash}",
                record.number, record.hash
            ))
        }
    }

    /// CHAINID.
    pub fn chain_id(&self) -> u64 {
        self.chain_id
    }

    /// The newest block.
    pub fn head(&self) -> &Block {
        self.blocks.last().expect("block 0 is never removed")
    }

    /// The block of this number.
    pub fn block(&self, number: u64) -> Option<&Block> {
        self.blocks.get(usize::try_from(number).ok()?)
    }

    /// The block with this hash.
    pub fn block_by_hash(&self, hash: B256) -> Option<&Block> {
        self.by_hash
            .get(&hash)
            .and_then(|number| self.block(*number))
    }

    /// The block that mined this transaction.
    pub fn mined(&self, tx: B256) -> Option<(&Block, &Mined)> {
        let block = self.block(*self.by_tx.get(&tx)?)?;
        block.mined.as_deref().map(|mined| (block, mined))
    }

    /// The blocks from..=to that mined a transaction.
    pub fn mined_between(&self, from: u64, to: u64) -> impl Iterator<Item = (&Block, &Mined)> {
        let first = self.mined.partition_point(|number| *number < from);
        let inside = self
            .mined
            .iter()
            .skip(first)
            .take_while(move |number| **number <= to);
        inside
            .filter_map(|number| self.block(*number))
            .filter_map(|block| Some((block, block.mined.as_deref()?)))
    }

    /// Upon a question about the newest block: see to it that it is of this second.
    pub fn refresh(&mut self, now: u64) -> Result<(), Refused> {
        if now > self.head().time {
            self.mine_empty(now)
        } else {
            Ok(())
        }
    }

    /// The state as the block `at` left it.
    pub fn view(&self, at: u64) -> Result<View<'_>, Refused> {
        let oldest = self.state.oldest();
        if at < oldest {
            return Err(Refused::TooOld { found: at, oldest });
        }
        Ok(View {
            state: &self.state,
            blocks: &self.blocks,
            at,
        })
    }

    /// Mine a raw transaction, or say why not.
    pub fn submit(&mut self, raw: &[u8], now: u64) -> Result<B256, Refused> {
        let tx = self.decode(raw)?;
        let parent = self.head();
        let (number, time, parent_hash) = (parent.number + 1, now.max(parent.time), parent.hash);
        let place = Place {
            chain_id: self.chain_id,
            number,
            time,
        };
        let ResultAndState { result, state } = evm::execute(self.view(parent.number)?, place, &tx)
            .map_err(|invalid| Refused::Transaction(explain(&invalid, &tx)))?;
        let hash = *tx.inner().tx_hash();
        let (success, gas_used) = (result.is_success(), result.tx_gas_used());
        let created = result.created_address();
        let mined = Mined::new(tx, success, gas_used, result.into_logs(), created);
        self.append(Block::new(number, parent_hash, time, Some(mined)), raw)?;
        self.state.commit(number, state);
        self.by_tx.insert(hash, number);
        self.mined.push(number);
        Ok(hash)
    }

    fn decode(&self, raw: &[u8]) -> Result<Recovered<TxEnvelope>, Refused> {
        let refused = |why: String| Refused::Transaction(why);
        if raw.len() > RAW_LEN_MAX {
            return Err(refused(format!(
                "transaction too long: at most {RAW_LEN_MAX} bytes, found {}",
                raw.len()
            )));
        }
        let tx = TxEnvelope::decode_2718_exact(raw)
            .map_err(|error| refused(format!("not a transaction: {error}")))?;
        if !matches!(
            tx,
            TxEnvelope::Legacy(_) | TxEnvelope::Eip2930(_) | TxEnvelope::Eip1559(_)
        ) {
            return Err(refused(format!(
                "transaction type {:?} is not supported here; send type 2 (EIP-1559)",
                tx.tx_type()
            )));
        }
        if self.by_tx.contains_key(tx.tx_hash()) {
            return Err(refused("already known".to_owned()));
        }
        if tx.chain_id() != Some(self.chain_id) {
            let found = tx.chain_id().map_or("none".to_owned(), |id| id.to_string());
            return Err(refused(format!(
                "invalid chain id for signer: expected {}, found {found}",
                self.chain_id
            )));
        }
        let signer = tx
            .recover_signer()
            .map_err(|error| refused(format!("invalid sender: {error}")))?;
        Ok(Recovered::new_unchecked(tx, signer))
    }

    fn mine_empty(&mut self, time: u64) -> Result<(), Refused> {
        let parent = self.head();
        self.append(Block::new(parent.number + 1, parent.hash, time, None), &[])
    }

    // The journal first: what cannot be kept has not happened.
    fn append(&mut self, block: Block, raw: &[u8]) -> Result<(), Refused> {
        assert!(
            block.number == self.blocks.len() as u64 && block.time >= self.head().time,
            "blocks are counted and time goes on"
        );
        if self.blocks.len() >= BLOCKS_MAX {
            return Err(Refused::Full);
        }
        if let Some(journal) = &mut self.journal {
            journal.append(&Record {
                number: block.number,
                time: block.time,
                hash: block.hash,
                raw: raw.to_vec(),
            })?;
        }
        self.by_hash.insert(block.hash, block.number);
        self.blocks.push(block);
        Ok(())
    }

    /// Stop writing and let go of the file.
    pub fn close(&mut self) {
        self.journal = None;
    }
}

// The opening words are those of other nodes: clients look for them.
fn explain(invalid: &Invalid, tx: &Recovered<TxEnvelope>) -> String {
    let Invalid::Transaction(why) = invalid else {
        return format!("cannot be executed: {invalid}");
    };
    let sender = tx.signer();
    match why {
        InvalidTransaction::NonceTooLow { tx, state } => {
            format!("nonce too low: {sender} is at {state}, found {tx}")
        }
        InvalidTransaction::NonceTooHigh { tx, state } => {
            format!(
                "nonce too high: {sender} is at {state}, found {tx}; this chain keeps no pool, send in order"
            )
        }
        InvalidTransaction::LackOfFundForMaxFee { fee, balance } => {
            format!(
                "insufficient funds for gas * price + value: {sender} has {balance} wei, wants {fee}"
            )
        }
        InvalidTransaction::GasPriceLessThanBasefee => {
            format!(
                "max fee per gas less than block base fee: expected at least {}, found {}",
                crate::block::BASE_FEE,
                tx.max_fee_per_gas()
            )
        }
        InvalidTransaction::CallerGasLimitMoreThanBlock => {
            format!(
                "exceeds block gas limit: expected at most {BLOCK_GAS_LIMIT}, found {}",
                tx.gas_limit()
            )
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_whose_replay_gives_another_hash_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let (mut journal, _) = Journal::open(&path, 31_337, 1_000).unwrap();
        let record = Record {
            number: 1,
            time: 1_001,
            hash: B256::repeat_byte(1),
            raw: Vec::new(),
        };
        journal.append(&record).unwrap();
        drop(journal);
        let error = Ledger::open(31_337, Some(&path), 2_000).err().unwrap();
        assert!(matches!(error, JournalError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("expected hash"), "{error}");
    }

    #[test]
    fn a_block_that_cannot_be_written_has_not_happened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut ledger = Ledger::open(31_337, Some(&path), 1_000).unwrap();
        ledger.refresh(1_001).unwrap();
        assert_eq!(ledger.head().number, 1);
        ledger.journal.as_mut().unwrap().break_for_test();
        assert!(matches!(ledger.refresh(1_002), Err(Refused::Journal(_))));
        assert_eq!(ledger.head().number, 1);
        drop(ledger);
        assert_eq!(
            Ledger::open(31_337, Some(&path), 9_999)
                .unwrap()
                .head()
                .number,
            1
        );
    }
}
