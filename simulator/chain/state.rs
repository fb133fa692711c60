//! Accounts, slots and code, with an undo list that makes recent blocks readable.
//!
//! Rule: a read at block N sees exactly what block N left, or it is refused; what is older than the
//! undo list reaches is never guessed. There is no trie: state roots are not computed.

use crate::block::Block;
use alloy::primitives::{Address, B256, KECCAK256_EMPTY, U256};
use revm::DatabaseRef;
use revm::state::{AccountInfo, Bytecode, EvmState};
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;

/// How many blocks with a transaction can be looked behind.
pub const UNDO_LEN_MAX: usize = 256;

/// What one block found before it changed it.
struct Undo {
    block: u64,
    accounts: HashMap<Address, Option<AccountInfo>>,
    slots: HashMap<(Address, U256), U256>,
}

/// The newest state and the way back.
pub struct State {
    accounts: HashMap<Address, AccountInfo>,
    slots: HashMap<(Address, U256), U256>,
    codes: HashMap<B256, Bytecode>,
    undo: VecDeque<Undo>,
    oldest: u64,
}

impl State {
    /// Accounts that hold `balance` at birth and nothing else.
    pub fn with_balances(addresses: impl Iterator<Item = Address>, balance: U256) -> Self {
        let born = |address| {
            (
                address,
                AccountInfo {
                    balance,
                    code: None,
                    ..AccountInfo::default()
                },
            )
        };
        Self {
            accounts: addresses.map(born).collect(),
            slots: HashMap::new(),
            codes: HashMap::new(),
            undo: VecDeque::new(),
            oldest: 0,
        }
    }

    /// The oldest block whose state can still be read.
    pub fn oldest(&self) -> u64 {
        self.oldest
    }

    /// The account as block `at` left it.
    pub fn account(&self, address: Address, at: u64) -> Option<AccountInfo> {
        let undone = self.after(at).find_map(|undo| undo.accounts.get(&address));
        undone
            .cloned()
            .unwrap_or_else(|| self.accounts.get(&address).cloned())
    }

    /// The slot as block `at` left it.
    pub fn slot(&self, address: Address, key: U256, at: u64) -> U256 {
        let undone = self
            .after(at)
            .find_map(|undo| undo.slots.get(&(address, key)));
        undone
            .or_else(|| self.slots.get(&(address, key)))
            .copied()
            .unwrap_or_default()
    }

    /// Code by its hash; code is never forgotten, so this needs no block.
    pub fn code(&self, hash: B256) -> Bytecode {
        self.codes.get(&hash).cloned().unwrap_or_default()
    }

    // Oldest first: the first block after `at` that touched a value knows what it was at `at`.
    fn after(&self, at: u64) -> impl Iterator<Item = &Undo> {
        let first = self.undo.partition_point(|undo| undo.block <= at);
        self.undo.range(first..)
    }

    /// Upon a mined transaction: take over what it changed and remember what was there.
    pub fn commit(&mut self, block: u64, changes: EvmState) {
        let mut undo = Undo {
            block,
            accounts: HashMap::new(),
            slots: HashMap::new(),
        };
        for (address, account) in changes {
            if !account.is_touched() {
                continue;
            }
            undo.accounts
                .insert(address, self.accounts.get(&address).cloned());
            // Since Cancun only an account made in the same transaction is destroyed: it left no slots.
            if account.is_selfdestructed() || account.info.is_empty() {
                self.accounts.remove(&address);
                continue;
            }
            for (key, slot) in account.storage.iter().filter(|(_, slot)| slot.is_changed()) {
                let before = self
                    .slots
                    .insert((address, *key), slot.present_value)
                    .unwrap_or_default();
                undo.slots.insert((address, *key), before);
            }
            let mut info = account.info;
            if let Some(code) = info.code.take()
                && info.code_hash != KECCAK256_EMPTY
            {
                self.codes.insert(info.code_hash, code);
            }
            info.account_id = None;
            self.accounts.insert(address, info);
        }
        self.undo.push_back(undo);
        if self.undo.len() > UNDO_LEN_MAX
            && let Some(forgotten) = self.undo.pop_front()
        {
            self.oldest = forgotten.block;
        }
    }
}

/// The state at one block, as the EVM reads it.
pub struct View<'a> {
    /// Where it is kept.
    pub state: &'a State,
    /// For BLOCKHASH.
    pub blocks: &'a [Block],
    /// The block; the caller has checked that it is readable.
    pub at: u64,
}

impl DatabaseRef for View<'_> {
    type Error = Infallible;

    fn basic_ref(&self, address: Address) -> Result<Option<AccountInfo>, Infallible> {
        Ok(self.state.account(address, self.at))
    }

    fn code_by_hash_ref(&self, hash: B256) -> Result<Bytecode, Infallible> {
        Ok(self.state.code(hash))
    }

    fn storage_ref(&self, address: Address, key: U256) -> Result<U256, Infallible> {
        Ok(self.state.slot(address, key, self.at))
    }

    fn block_hash_ref(&self, number: u64) -> Result<B256, Infallible> {
        let block = usize::try_from(number)
            .ok()
            .and_then(|index| self.blocks.get(index));
        Ok(block
            .filter(|_| number <= self.at)
            .map(|block| block.hash)
            .unwrap_or_default())
    }
}
