//! The ballot: "for term T I support C, until D", EIP-712, signed by the session key and counted by
//! the contract. It is also a promise (design section 8): until D, or until the contract shows a later
//! term, its signer passes on no append of a leader of an earlier term.

use crate::ids::{Address, Hash, Term, Token};
use crate::key::{SessionKey, SessionPublic};
use serde::{Deserialize, Serialize};
use sha3::{Digest, Keccak256};

/// Newest checkpoint that a signer holds a certificate for; (0, zero) before there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Anchor {
    /// Applied index.
    pub index: u64,
    /// Merkle root at that index.
    pub root: Hash,
}

/// What is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ballot {
    /// The term to begin: the contract's term + 1.
    pub term: Term,
    /// Who shall lead.
    pub candidate: Token,
    /// Checkpoint that this election records.
    pub anchor: Anchor,
    /// Unix seconds of block time; at most 60 s after the newest block the signer knew.
    pub deadline: u64,
}

/// One signature under a ballot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedBallot {
    /// Whose ballot.
    pub token: Token,
    /// EIP-2098 compact signature.
    pub signature: [u8; 64],
}

/// A finished election: one ballot, signatures of a majority of the seated, ids ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// What they all signed.
    pub ballot: Ballot,
    /// Strictly ascending by token.
    pub signatures: Vec<SignedBallot>,
}

/// EIP-712 domain of the membership contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Chain id.
    pub chain_id: u64,
    /// Verifying contract.
    pub contract: Address,
}

const DOMAIN_TYPE: &[u8] =
    b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)";
const BALLOT_TYPE: &[u8] =
    b"Ballot(uint64 term,uint256 candidate,uint64 anchorIndex,bytes32 anchorRoot,uint64 deadline)";
const ADOPTION_TYPE: &[u8] =
    b"Adoption(uint256 tokenId,address wallet,address instanceId,uint64 adoptionNumber)";

impl Domain {
    /// EIP-712 section "Definition of domainSeparator"; name "Synod", version "1".
    fn separator(&self) -> [u8; 32] {
        keccak(&[
            &keccak(&[DOMAIN_TYPE]),
            &keccak(&[b"Synod"]),
            &keccak(&[b"1"]),
            &word(self.chain_id),
            &address_word(self.contract),
        ])
    }

    fn typed(&self, struct_hash: [u8; 32]) -> [u8; 32] {
        keccak(&[b"\x19\x01", &self.separator(), &struct_hash])
    }

    /// What a ballot's signer signs.
    pub fn ballot_digest(&self, ballot: &Ballot) -> [u8; 32] {
        self.typed(keccak(&[
            &keccak(&[BALLOT_TYPE]),
            &word(ballot.term.0),
            &word(ballot.candidate.0),
            &word(ballot.anchor.index),
            &ballot.anchor.root.0,
            &word(ballot.deadline),
        ]))
    }

    /// What a token's owner signs to adopt a wallet.
    pub fn adoption_digest(
        &self,
        token: Token,
        wallet: Address,
        instance_id: Address,
        number: u64,
    ) -> [u8; 32] {
        self.typed(keccak(&[
            &keccak(&[ADOPTION_TYPE]),
            &word(token.0),
            &address_word(wallet),
            &address_word(instance_id),
            &word(number),
        ]))
    }

    /// Sign a ballot for `token`.
    pub fn sign(&self, key: &SessionKey, token: Token, ballot: &Ballot) -> SignedBallot {
        SignedBallot {
            token,
            signature: key.sign_compact(&self.ballot_digest(ballot)),
        }
    }

    /// Is this `signed.token`'s signature, given its registered key?
    pub fn verify(&self, key: &SessionPublic, ballot: &Ballot, signed: &SignedBallot) -> bool {
        key.verify_compact(&self.ballot_digest(ballot), &signed.signature)
    }
}

fn keccak(parts: &[&[u8]]) -> [u8; 32] {
    let mut digest = Keccak256::new();
    for part in parts {
        digest.update(part);
    }
    digest.finalize().into()
}

fn word(number: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[24..].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn address_word(address: Address) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[12..].copy_from_slice(&address.0);
    bytes
}
