//! Single facts: the state of a token, what is allowed, what the contract hashes.

use crate::abi;
use crate::convert;
use crate::error::ChainError;
use crate::read::{At, Chain};
use alloy::primitives::U256;
use serde_json::json;
use synod_wire::{Address, Ballot, Hash, Incarnation, Token};

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

impl Chain {
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
            .rpc()
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
}
