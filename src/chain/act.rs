//! What a node tells the contract: register, elect, seat, deactivate. Each returns when it is in a block.

use crate::abi;
use crate::convert;
use crate::error::ChainError;
use crate::read::Chain;
use crate::wallet::{Order, Receipt, Wallet, fees};
use alloy::primitives::{B256, Bytes};
use alloy::sol_types::{SolCall, SolEvent};
use synod_wire::{Address, Certificate, Hash, Incarnation, Token};

/// Gas of the dearest registration (a first one, with the longest endpoint), rounded up.
const REGISTER_GAS_MAX: u128 = 900_000;

/// Everything that `register` binds together; section 6 of the design names each check.
#[derive(Clone)]
pub struct Registration {
    /// Which token.
    pub token: Token,
    /// dstack instance id.
    pub instance_id: Address,
    /// dstack app id.
    pub app_id: Address,
    /// Wallet key from the guest agent, x ‖ y.
    pub derived_public: [u8; 64],
    /// App root key, x ‖ y.
    pub app_public: [u8; 64],
    /// By the app key, over purpose and wallet key.
    pub app_signature: [u8; 65],
    /// By the KMS root, over app id and app key.
    pub kms_signature: [u8; 65],
    /// Session key of this boot, x ‖ y.
    pub session_public: [u8; 64],
    /// Where the link listens, `host:port`.
    pub endpoint: String,
    /// SHA-256 of the evidence document.
    pub evidence_hash: Hash,
    /// Unix seconds.
    pub expires_at: u64,
    /// EIP-712 adoption by the token's owner; empty when he adopted by transaction.
    pub owner_signature: Vec<u8>,
}

/// A registration that is in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The transaction.
    pub tx: Hash,
    /// Its block.
    pub block: u64,
    /// What this boot is called from now on.
    pub incarnation: Incarnation,
}

/// A transaction that is in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The transaction.
    pub tx: Hash,
    /// Its block.
    pub block: u64,
    /// What it took.
    pub gas_used: u64,
}

impl Chain {
    /// Register this boot.
    pub async fn register(
        &self,
        wallet: &Wallet,
        registration: &Registration,
    ) -> Result<Registered, ChainError> {
        let call = abi::registerCall {
            registration: encode(registration),
            ownerSignature: registration.owner_signature.clone().into(),
        };
        let receipt = self.act(wallet, "register", &call, 0).await?;
        let event = self.event::<abi::Registered>("register", &receipt)?;
        if event.tokenId != convert::to_id(registration.token) {
            return Err(self.nonsense(
                "register",
                format!(
                    "expected token {}, found {}",
                    registration.token, event.tokenId
                ),
            ));
        }
        let Sent { tx, block, .. } = sent(&receipt);
        Ok(Registered {
            tx,
            block,
            incarnation: Incarnation(event.incarnation),
        })
    }

    /// What a registration costs at most at today's price.
    pub async fn registration_cost_wei(&self) -> Result<u128, ChainError> {
        let (fee, _) = fees(self.rpc(), "register").await?;
        Ok(fee.saturating_mul(REGISTER_GAS_MAX))
    }

    /// Hand in a finished election.
    pub async fn elect(
        &self,
        wallet: &Wallet,
        certificate: &Certificate,
    ) -> Result<Sent, ChainError> {
        let ballot = &certificate.ballot;
        let signatures = certificate.signatures.iter().map(|signed| {
            let (r, vs) = signed.signature.split_at(32);
            abi::BallotSignature {
                tokenId: convert::to_id(signed.token),
                r: B256::from_slice(r),
                vs: B256::from_slice(vs),
            }
        });
        let call = abi::electCall {
            term: ballot.term.0,
            candidate: convert::to_id(ballot.candidate),
            anchor: abi::Anchor {
                index: ballot.anchor.index,
                root: ballot.anchor.root.0.into(),
            },
            deadline: ballot.deadline,
            ballots: signatures.collect(),
        };
        let receipt = self.act(wallet, "elect", &call, 0).await?;
        let event = self.event::<abi::LeaderElected>("elect", &receipt)?;
        if event.term != ballot.term.0 || event.leader != convert::to_id(ballot.candidate) {
            return Err(self.nonsense(
                "elect",
                format!(
                    "expected {} for term {}, found {} for {}",
                    ballot.candidate, ballot.term, event.leader, event.term
                ),
            ));
        }
        Ok(sent(&receipt))
    }

    /// The leader seats members that the log has made voters.
    pub async fn seat(&self, wallet: &Wallet, tokens: &[Token]) -> Result<Sent, ChainError> {
        let call = abi::seatCall {
            tokenIds: tokens.iter().copied().map(convert::to_id).collect(),
        };
        self.act(wallet, "seat", &call, 0)
            .await
            .map(|receipt| sent(&receipt))
    }

    /// End a token's registration: by the node itself, the token's owner or the contract's.
    pub async fn deactivate(&self, wallet: &Wallet, token: Token) -> Result<Sent, ChainError> {
        let call = abi::deactivateCall {
            tokenId: convert::to_id(token),
        };
        self.act(wallet, "deactivate", &call, 0)
            .await
            .map(|receipt| sent(&receipt))
    }

    pub(crate) async fn act(
        &self,
        wallet: &Wallet,
        function: &'static str,
        call: &impl SolCall,
        value_wei: u128,
    ) -> Result<Receipt, ChainError> {
        let to = convert::to_address(self.contract()).into();
        let order = Order {
            function,
            to,
            value_wei,
            input: Bytes::from(call.abi_encode()),
        };
        wallet.send(self.rpc(), self.chain_id(), &order).await
    }

    /// The first event of this kind that *our* contract emitted in the transaction.
    pub(crate) fn event<E: SolEvent>(
        &self,
        function: &'static str,
        receipt: &Receipt,
    ) -> Result<E, ChainError> {
        let contract = convert::to_address(self.contract());
        let ours = receipt.logs.iter().filter(|log| log.address() == contract);
        let found = ours
            .filter_map(|log| E::decode_log_validate(&log.inner).ok())
            .next();
        found.map(|log| log.data).ok_or_else(|| {
            self.nonsense(
                function,
                format!("the receipt lacks the event {}", E::SIGNATURE),
            )
        })
    }
}

pub(crate) fn sent(receipt: &Receipt) -> Sent {
    Sent {
        tx: convert::hash(receipt.transaction_hash),
        block: receipt.block_number.to(),
        gas_used: receipt.gas_used.to(),
    }
}

fn encode(registration: &Registration) -> abi::Registration {
    abi::Registration {
        tokenId: convert::to_id(registration.token),
        instanceId: convert::to_address(registration.instance_id),
        appId: convert::to_address(registration.app_id),
        derivedKey: registration.derived_public.into(),
        appKey: registration.app_public.into(),
        appSignature: registration.app_signature.into(),
        kmsSignature: registration.kms_signature.into(),
        sessionKey: registration.session_public.into(),
        endpoint: registration.endpoint.clone(),
        evidenceHash: registration.evidence_hash.0.into(),
        expiresAt: registration.expires_at,
    }
}
