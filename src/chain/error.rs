//! What can go wrong between a node and its contract; each says what was expected, what was found, from whom
//! and what to do. Addresses of endpoints are shown without path and credentials: those are often secret.

use synod_wire::{Address, Hash};

/// Families: misconfigured (`Rpc…`, `WrongChain`, `NoCode`, `NotOurContract`, `BadKey`), unavailable (`Unavailable`,
/// `Unmined`), refused (`Reverted`, `NoGas`, `TooExpensive`, `Refused`) and nonsense from the endpoint (`BadAnswer`).
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// Not an address of an endpoint.
    #[error("RPC address {found:?}: {why}; expected for example http://127.0.0.1:8545")]
    RpcAddress {
        /// What was configured, without path and credentials.
        found: String,
        /// What does not fit.
        why: String,
    },
    /// Nobody answers, or not in time. A transaction that was being sent may still be mined: look before sending again.
    #[error("RPC {rpc} is unavailable ({method}: {why}); start it or try again")]
    Unavailable {
        /// Which endpoint.
        rpc: String,
        /// What was asked.
        method: &'static str,
        /// What happened.
        why: String,
    },
    /// Another chain.
    #[error(
        "RPC {rpc}: expected chain id {expected}, found {found}; correct the chain id or the RPC address"
    )]
    WrongChain {
        /// Configured.
        expected: u64,
        /// What the endpoint says.
        found: u64,
        /// Which endpoint.
        rpc: String,
    },
    /// Nothing lives at the address.
    #[error(
        "no contract at {contract}: RPC {rpc} finds no code there (chain id {chain_id}); correct the address or deploy the contract"
    )]
    NoCode {
        /// Configured.
        contract: Address,
        /// Of the chain that was looked at.
        chain_id: u64,
        /// Which endpoint.
        rpc: String,
    },
    /// Something else lives at the address.
    #[error(
        "the contract at {contract} (RPC {rpc}) is not a Synod membership contract of this version: {why}; correct the address"
    )]
    NotOurContract {
        /// Configured.
        contract: Address,
        /// Which endpoint.
        rpc: String,
        /// What does not fit.
        why: String,
    },
    /// 32 bytes that are no secp256k1 key (zero, or not below the group's order).
    #[error("the wallet's secret is not a secp256k1 key; ask the guest agent for another one")]
    BadKey,
    /// The contract said no.
    #[error("the contract refused {function}: {reason}")]
    Reverted {
        /// Which function.
        function: &'static str,
        /// The contract's error with its facts.
        reason: String,
    },
    /// The wallet cannot pay.
    #[error("wallet {wallet} cannot pay for {function}: {why}; send it some ether")]
    NoGas {
        /// Whose purse.
        wallet: Address,
        /// For what.
        function: &'static str,
        /// The endpoint's words.
        why: String,
    },
    /// The endpoint wants us to sign away more than is sane.
    #[error(
        "{function}: expected {what} of at most {max}, found {found} from RPC {rpc}; nothing was signed"
    )]
    TooExpensive {
        /// For what.
        function: &'static str,
        /// Gas, or wei per gas.
        what: &'static str,
        /// Our limit.
        max: u128,
        /// Its demand.
        found: u128,
        /// Which endpoint.
        rpc: String,
    },
    /// Sent, but not in a block in time. It may still be mined: look before sending again.
    #[error(
        "{function}: transaction {tx} was sent but is in no block after {waited_s} s (RPC {rpc}); look at the chain before sending again"
    )]
    Unmined {
        /// For what.
        function: &'static str,
        /// Its hash.
        tx: Hash,
        /// How long we waited.
        waited_s: u64,
        /// Which endpoint.
        rpc: String,
    },
    /// The endpoint answered with an error of its own.
    #[error("RPC {rpc} refused {method}: {message} (code {code})")]
    Refused {
        /// Which endpoint.
        rpc: String,
        /// What was asked.
        method: &'static str,
        /// JSON-RPC code.
        code: i64,
        /// Its words, cut.
        message: String,
    },
    /// The endpoint answered nonsense.
    #[error("RPC {rpc} answered {method} with nonsense: {why}; use another endpoint")]
    BadAnswer {
        /// Which endpoint.
        rpc: String,
        /// What was asked.
        method: &'static str,
        /// What does not fit.
        why: String,
    },
}
