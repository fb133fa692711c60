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
use synod_wire::{Address, Anchor, Ballot, BlockRef, ChainView, Hash, Incarnation, Term, Token};

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

/// What must be there before a token can be registered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenState {
    /// Who holds it; none = not minted.
    pub owner: Option<Address>,
    /// Wallet and instance that the owner adopted by transaction.
    pub adoption: Option<(Address, Address)>,
    /// The number that an adoption signature must carry.
    pub adoption_number: u64,
    /// Registrations so far; 0 = never, or not minted.
    pub incarnation: Incarnation,
    /// What the wallet holds.
    pub balance_wei: u128,
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
        while members.len() as u64 % PAGE_LEN == 0 && !members.is_empty() {
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

    /// What is there, and what is missing, for `token` to be registered by `wallet`.
    pub async fn token(&self, token: Token, wallet: Address) -> Result<TokenState, ChainError> {
        let balance = self.balance_wei(wallet).await?;
        let absent = TokenState {
            owner: None,
            adoption: None,
            adoption_number: 0,
            incarnation: Incarnation(0),
            balance_wei: balance,
        };
        let at = At::Block(self.head().await?.hash);
        let id = convert::to_id(token);
        let member = match self
            .call("memberOf", &abi::memberOfCall { tokenId: id }, at)
            .await
        {
            Ok(member) => member,
            Err(ChainError::Reverted { reason, .. })
                if reason.starts_with("ERC721NonexistentToken") =>
            {
                return Ok(absent);
            }
            Err(error) => return Err(error),
        };
        let adopted = self
            .call("adoptionOf", &abi::adoptionOfCall { tokenId: id }, at)
            .await?;
        Ok(TokenState {
            owner: Some(convert::address(member.owner)),
            adoption: (!adopted.wallet.is_zero()).then(|| {
                (
                    convert::address(adopted.wallet),
                    convert::address(adopted.instanceId),
                )
            }),
            adoption_number: adopted.adoptionNumber,
            incarnation: Incarnation(member.incarnation),
            balance_wei: balance,
        })
    }

    /// What an account holds.
    pub async fn balance_wei(&self, account: Address) -> Result<u128, ChainError> {
        let balance: U256 = self
            .inner
            .rpc
            .ask("eth_getBalance", json!([account.to_string(), "latest"]))
            .await?;
        Ok(convert::wei(balance))
    }

    /// May code of this app register?
    pub async fn allowed(&self, app: Address) -> Result<bool, ChainError> {
        self.call(
            "appAllowed",
            &abi::appAllowedCall {
                appId: convert::to_address(app),
            },
            At::Newest,
        )
        .await
    }

    /// Whose signature the app key must carry.
    pub async fn kms_root(&self) -> Result<Address, ChainError> {
        self.call("kmsRoot", &abi::kmsRootCall {}, At::Newest)
            .await
            .map(convert::address)
    }

    /// Longest registration, seconds.
    pub async fn max_lifetime_s(&self) -> Result<u64, ChainError> {
        self.call("maxLifetime", &abi::maxLifetimeCall {}, At::Newest)
            .await
    }

    /// What the contract recovers a ballot's signer from.
    pub async fn ballot_digest(&self, ballot: &Ballot) -> Result<Hash, ChainError> {
        let anchor = abi::Anchor {
            index: ballot.anchor.index,
            root: ballot.anchor.root.0.into(),
        };
        let (term, candidate, deadline) = (
            ballot.term.0,
            convert::to_id(ballot.candidate),
            ballot.deadline,
        );
        let call = abi::ballotDigestCall {
            term,
            candidate,
            anchor,
            deadline,
        };
        self.call("ballotDigest", &call, At::Newest)
            .await
            .map(convert::hash)
    }

    /// What the contract checks an owner's signature against.
    pub async fn adoption_digest(
        &self,
        token: Token,
        wallet: Address,
        instance_id: Address,
        number: u64,
    ) -> Result<Hash, ChainError> {
        let (wallet, instance) = (
            convert::to_address(wallet),
            convert::to_address(instance_id),
        );
        let call = abi::adoptionDigestCall {
            tokenId: convert::to_id(token),
            wallet,
            instanceId: instance,
            adoptionNumber: number,
        };
        self.call("adoptionDigest", &call, At::Newest)
            .await
            .map(convert::hash)
    }

    /// The purpose that this instance must ask its wallet key with.
    pub async fn purpose(&self, instance_id: Address) -> Result<String, ChainError> {
        self.call(
            "purposeOf",
            &abi::purposeOfCall {
                instanceId: convert::to_address(instance_id),
            },
            At::Newest,
        )
        .await
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
