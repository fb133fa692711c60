//! Finding the transaction behind a term: every `TermStart` in the log names one that must be on the chain.

use crate::abi;
use crate::convert;
use crate::error::ChainError;
use crate::read::Chain;
use alloy::primitives::{U64, U256};
use alloy::rpc::types::Log;
use alloy::sol_types::SolEvent as _;
use serde_json::json;
use synod_wire::{Hash, Incarnation, Term, Token};

/// One election as the contract recorded it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElectionRecord {
    /// The transaction.
    pub tx: Hash,
    /// Its block.
    pub block: u64,
    /// Hash of that block.
    pub block_hash: Hash,
    /// The term that began.
    pub term: Term,
    /// Who was elected.
    pub leader: Token,
    /// The incarnation that was elected.
    pub leader_incarnation: Incarnation,
    /// Whose ballots were counted, ascending.
    pub voters: Vec<Token>,
}

impl Chain {
    /// The election of `term`, which must be in block `elected_block`; none = it is not there.
    pub async fn election(
        &self,
        term: Term,
        elected_block: u64,
    ) -> Result<Option<ElectionRecord>, ChainError> {
        let block = U64::from(elected_block);
        let topics = json!([
            abi::LeaderElected::SIGNATURE_HASH,
            format!("{:#066x}", U256::from(term.0))
        ]);
        let filter = json!({ "address": self.contract().to_string(), "fromBlock": block, "toBlock": block, "topics": topics });
        let logs: Vec<Log> = self.rpc().ask("eth_getLogs", json!([filter])).await?;
        let contract = convert::to_address(self.contract());
        let asked = |log: &&Log| {
            log.address() == contract && log.block_number == Some(elected_block) && !log.removed
        };
        let mut found = logs
            .iter()
            .filter(asked)
            .filter_map(|log| record(log).transpose());
        match (found.next(), found.next()) {
            (None, _) => Ok(None),
            (Some(Ok(record)), None) if record.term == term => Ok(Some(record)),
            (Some(Err(why)), _) => Err(self.nonsense("eth_getLogs", why)),
            (Some(Ok(_)), _) => Err(self.nonsense(
                "eth_getLogs",
                format!("expected one election of term {term}, found others"),
            )),
        }
    }
}

// None: a log that is no election.
fn record(log: &Log) -> Result<Option<ElectionRecord>, String> {
    let Ok(event) = abi::LeaderElected::decode_log_validate(&log.inner) else {
        return Ok(None);
    };
    let (Some(tx), Some(block), Some(block_hash)) =
        (log.transaction_hash, log.block_number, log.block_hash)
    else {
        return Err("an election without a place in the chain".to_owned());
    };
    Ok(Some(ElectionRecord {
        tx: convert::hash(tx),
        block,
        block_hash: convert::hash(block_hash),
        term: Term(event.term),
        leader: convert::token(event.leader)?,
        leader_incarnation: Incarnation(event.incarnation),
        voters: event
            .voters
            .iter()
            .copied()
            .map(convert::token)
            .collect::<Result<_, _>>()?,
    }))
}
