//! The membership contract as a node sees it: read at one block, told with the node's own wallet.
//!
//! Rules: the endpoint is not believed where it can be checked (chain id, code, digests, hashes, addresses
//! of logs); every call has a time limit and every answer a length limit; a view is read at one block hash.
//! What it does not do: compare endpoints with each other, wait for depth, decide whether to spend.
//! Nobody outside sees alloy's types.

mod abi;
mod act;
mod convert;
mod elections;
mod error;
mod facts;
#[cfg(feature = "operator")]
pub mod operator;
mod read;
mod rpc;
mod wallet;

pub use act::{Registered, Registration, Sent};
pub use elections::ElectionRecord;
pub use error::ChainError;
pub use facts::TokenState;
pub use read::{Chain, ChainSettings};
pub use wallet::Wallet;
