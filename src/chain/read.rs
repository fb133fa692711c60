//! Reading: one endpoint, one contract. A view is pinned to a block hash, so its parts fit together
//! even when the chain moves or turns while they are read.

use crate::abi;
use crate::convert;
use crate::error::ChainError;
use crate::rpc::Rpc;
use alloy::primitives::{B256, Bytes, U64, U256};
use alloy::sol_types::SolCall;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use synod_wire::ballot::Domain;
use synod_wire::{Address, Anchor, Ballot, BlockRef, ChainView, Hash, Term, Token};

/// Members per page; the contract's own limit.
const PAGE_LEN: u64 = 100;
/// Most tokens that a view is made of.
pub const TOKENS_MAX: u64 = 2_000;

/// Where the contract is.
#[derive(Clone)]
pub struct ChainSettings {
    /// Address of the endpoint, `http://host:port`.
    pub rpc: String,
    /// The membership contract.
    pub contract: Address,
    /// The chain it is on.
    pub chain_id: u64,
    /// For one call, from connecting to the last byte.
    pub timeout: Duration,
}

/// The contract, reached through one endpoint. Clones share connections.
#[derive(Clone)]
pub struct Chain {
    inner: Arc<Inner>,
}

struct Inner {
    rpc: Rpc,
    contract: Address,
    chain_id: u64,
}

/// The fields of a block that matter here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    number: U64,
    hash: B256,
    timestamp: U64,
    /// None before London.
    pub base_fee_per_gas: Option<U256>,
}

/// At which block a function is called.
#[derive(Clone, Copy)]
pub enum At {
    /// Whatever the endpoint has.
    Newest,
    /// Exactly this block.
    Block(Hash),
}

impl Chain {
    /// Connect, and make sure that it is the right chain and the right contract.
    pub async fn connect(settings: &ChainSettings) -> Result<Self, ChainError> {
        let rpc = Rpc::new(&settings.rpc, settings.timeout)?;
        let (expected, contract) = (settings.chain_id, settings.contract);
        let found = chain_id(&rpc).await?;
        if found != expected {
            return Err(ChainError::WrongChain {
                expected,
                found,
                rpc: rpc.shown(),
            });
        }
        let code: Bytes = rpc
            .ask("eth_getCode", json!([contract.to_string(), "latest"]))
            .await?;
        if code.is_empty() {
            return Err(ChainError::NoCode {
                contract,
                chain_id: found,
                rpc: rpc.shown(),
            });
        }
        let chain = Self {
            inner: Arc::new(Inner {
                rpc,
                contract,
                chain_id: found,
            }),
        };
        chain.recognise().await.map_err(|error| match error {
            ChainError::Reverted { .. } | ChainError::BadAnswer { .. } => {
                chain.not_ours(&error.to_string())
            }
            other => other,
        })?;
        Ok(chain)
    }

    // It answers `office` and hashes a ballot as we do: else no signature of ours would ever count.
    async fn recognise(&self) -> Result<(), ChainError> {
        self.call("office", &abi::officeCall {}, At::Newest).await?;
        let ballot = Ballot {
            term: Term(3),
            candidate: Token(2),
            anchor: Anchor {
                index: 5,
                root: Hash([7; 32]),
            },
            deadline: 11,
        };
        let found = self.ballot_digest(&ballot).await?;
        let expected = self.domain().ballot_digest(&ballot);
        if found.0 == expected {
            return Ok(());
        }
        Err(self.not_ours(&format!(
            "expected ballot digest {}, found {found}",
            Hash(expected)
        )))
    }

    fn not_ours(&self, why: &str) -> ChainError {
        ChainError::NotOurContract {
            contract: self.inner.contract,
            rpc: self.inner.rpc.shown(),
            why: why.to_owned(),
        }
    }

    /// What ballots and adoptions are signed for.
    pub fn domain(&self) -> Domain {
        Domain {
            chain_id: self.inner.chain_id,
            contract: self.inner.contract,
        }
    }

    /// The newest block.
    pub async fn head(&self) -> Result<BlockRef, ChainError> {
        head(&self.inner.rpc).await.map(|head| head.block())
    }

    /// Office and all members at one block, the newest.
    pub async fn view(&self) -> Result<ChainView, ChainError> {
        let block = self.head().await?;
        let at = At::Block(block.hash);
        let (office, mut members) = tokio::try_join!(
            self.call("office", &abi::officeCall {}, at),
            self.page(1, at)
        )?;
        while !members.is_empty() && (members.len() as u64).is_multiple_of(PAGE_LEN) {
            let from = members.len() as u64 + 1;
            if from > TOKENS_MAX {
                return Err(self.nonsense(
                    "members",
                    format!("more than {TOKENS_MAX} tokens, which is the limit"),
                ));
            }
            let page = self.page(from, at).await?;
            if page.is_empty() {
                break;
            }
            members.extend(page);
        }
        convert::view(block, &office, members).map_err(|why| self.nonsense("members", why))
    }

    async fn page(&self, from: u64, at: At) -> Result<Vec<abi::Member>, ChainError> {
        let call = abi::membersCall {
            from: U256::from(from),
            limit: U256::from(PAGE_LEN),
        };
        let page = self.call("members", &call, at).await?;
        if page.len() as u64 > PAGE_LEN {
            return Err(self.nonsense(
                "members",
                format!("asked for {PAGE_LEN} members, found {}", page.len()),
            ));
        }
        Ok(page)
    }

    /// Call a view.
    pub(crate) async fn call<C: SolCall>(
        &self,
        function: &'static str,
        call: &C,
        at: At,
    ) -> Result<C::Return, ChainError> {
        let block = match at {
            At::Newest => json!("latest"),
            At::Block(hash) => json!({ "blockHash": hash.to_string() }),
        };
        let request = json!({ "to": self.inner.contract.to_string(), "data": Bytes::from(call.abi_encode()) });
        let returned: Bytes = match self
            .inner
            .rpc
            .try_ask("eth_call", json!([request, block]))
            .await?
        {
            Ok(returned) => returned,
            Err(fault) if fault.is_revert() => {
                let reason = convert::reason(&fault.returned().unwrap_or_default());
                return Err(ChainError::Reverted { function, reason });
            }
            Err(fault) => return Err(self.inner.rpc.refused("eth_call", &fault)),
        };
        C::abi_decode_returns_validate(&returned)
            .map_err(|error| self.nonsense(function, error.to_string()))
    }

    pub(crate) fn nonsense(&self, function: &'static str, why: String) -> ChainError {
        self.inner.rpc.nonsense(function, why)
    }

    pub(crate) fn rpc(&self) -> &Rpc {
        &self.inner.rpc
    }

    pub(crate) fn contract(&self) -> Address {
        self.inner.contract
    }

    pub(crate) fn chain_id(&self) -> u64 {
        self.inner.chain_id
    }
}

impl Head {
    fn block(&self) -> BlockRef {
        BlockRef {
            number: self.number.to(),
            hash: convert::hash(self.hash),
            time: self.timestamp.to(),
        }
    }
}

/// The newest block.
pub async fn head(rpc: &Rpc) -> Result<Head, ChainError> {
    rpc.ask("eth_getBlockByNumber", json!(["latest", false]))
        .await
}

/// Which chain the endpoint is on.
pub async fn chain_id(rpc: &Rpc) -> Result<u64, ChainError> {
    let id: U64 = rpc.ask("eth_chainId", Value::Array(Vec::new())).await?;
    Ok(id.to())
}
