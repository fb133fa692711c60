//! Newtypes for every number and name that members exchange; one word, one meaning
//! (ARCHITECTURE, glossary).

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// ERC-721 token id: the node's id and its Bully priority (higher wins). Never 0.
    Token
);
number!(
    /// The contract's election counter, the fencing token. Not the engine's Raft term.
    Term
);
number!(
    /// Counts the registrations of a token on chain; a newer boot fences the older one. 0 = never registered.
    Incarnation
);

macro_rules! octets {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; $len]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "0x{}", hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = BadHex;

            /// With or without `0x`, any case; exactly the right length.
            fn from_str(text: &str) -> Result<Self, BadHex> {
                let bad = || BadHex { expected_bytes: $len, found: text.chars().take(80).collect() };
                let digits = text.strip_prefix("0x").unwrap_or(text);
                let bytes = hex::decode(digits).map_err(|_| bad())?;
                bytes.try_into().map(Self).map_err(|_| bad())
            }
        }
    };
}

octets!(
    /// An Ethereum address, a dstack app id or a dstack instance id: 20 bytes.
    Address, 20
);
octets!(
    /// SHA-256 or Keccak-256, as the field says.
    Hash, 32
);

impl Address {
    /// The address that nobody has.
    pub const ZERO: Self = Self([0; 20]);
}

impl Hash {
    /// "None yet".
    pub const ZERO: Self = Self([0; 32]);
}

/// Not the hexadecimal text that was expected.
#[derive(Debug, thiserror::Error)]
#[error("expected {expected_bytes} bytes of hex, found {found:?}")]
pub struct BadHex {
    /// How many bytes the value has.
    pub expected_bytes: usize,
    /// What stood there (cut after 80 characters).
    pub found: String,
}

/// Which cluster: SHA-256("synod/cluster/v1" ‖ 0 ‖ chain id (u64 big-endian) ‖ contract address).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub Hash);

impl ClusterId {
    /// One contract on one chain is one cluster.
    pub fn of(chain_id: u64, contract: Address) -> Self {
        let digest = Sha256::new()
            .chain_update(b"synod/cluster/v1\0")
            .chain_update(chain_id.to_be_bytes())
            .chain_update(contract.0)
            .finalize();
        Self(Hash(digest.into()))
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The engine's last *durable* log id, compared as (Raft term, index): design section 8, attack F9.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct LogPosition {
    /// The engine's own term, private to the log.
    pub raft_term: u64,
    /// Index in the engine's log; 0 with `raft_term` 0 = empty.
    pub index: u64,
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.raft_term, self.index)
    }
}
