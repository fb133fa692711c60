//! Client of the dstack guest agent: keys, quotes and facts about this instance, over its Unix socket.
//!
//! Rule: whatever the agent answers is bounded, checked and turned into types here, once; a caller never sees hex.
//! It needs nothing beyond `GetKey`, `GetQuote`, `Info` and `Version` of agent 0.5.6 and later. It does not judge:
//! a quote is appraised in `synod-attest`, and what the key chain proves is computed in [`keychain`], without I/O.

mod answer;
mod error;
mod find;
#[doc(hidden)]
pub mod fuzz;
mod key;
pub mod keychain;
mod known;
mod refusal;
mod transport;
mod wait;

pub use answer::{Info, Quote, Version};
pub use error::{AgentError, Family, printable};
pub use find::socket_path;
pub use key::{DerivedKey, SecretKey};

use known::Known;
use std::{path::Path, time::Duration};
use transport::Transport;

/// A connection to one guest agent. Clones share their connections and what is known about the instance.
#[derive(Clone)]
pub struct Agent {
    transport: Transport,
    known: Known,
}

impl Agent {
    /// Time limit of one call. On hardware the agent takes quotes one after the other, `Info` included.
    pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);

    /// A client for this socket; nothing is opened yet. Most callers want [`Agent::wait`].
    pub fn new(socket: &Path) -> Result<Self, AgentError> {
        Self::with_timeout(socket, Self::CALL_TIMEOUT)
    }

    /// As [`Agent::new`], with another time limit per call.
    pub fn with_timeout(socket: &Path, call_timeout: Duration) -> Result<Self, AgentError> {
        Ok(Self {
            transport: Transport::new(socket, call_timeout)?,
            known: Known::default(),
        })
    }

    /// The socket this agent is asked on.
    pub fn socket(&self) -> &Path {
        self.transport.socket()
    }

    /// Which agent this is.
    pub async fn version(&self) -> Result<Version, AgentError> {
        let answer = self
            .transport
            .call("Version", &serde_json::json!({}))
            .await?;
        answer::version(&answer.body, &answer.server)
    }

    /// What the agent says about this instance. Nothing signs it: it is no evidence. Asked once, since the agent takes
    /// a quote for each answer, and the answer is kept; [`Agent::info_afresh`] asks again.
    pub async fn info(&self) -> Result<Info, AgentError> {
        if let Some(info) = self.known.info() {
            return Ok(info);
        }
        // who comes meanwhile waits for the same answer, but not for the failures of many before him
        let turn = tokio::time::timeout(self.transport.call_timeout(), self.known.turn()).await;
        let _turn = turn.map_err(|_| self.transport.timed_out("Info"))?;
        match self.known.info() {
            Some(info) => Ok(info),
            None => self.info_afresh().await,
        }
    }

    /// As [`Agent::info`], asked now; the answer is kept from now on.
    pub async fn info_afresh(&self) -> Result<Info, AgentError> {
        let answer = self.transport.call("Info", &serde_json::json!({})).await?;
        let info = answer::info(&answer.body)?;
        self.known.keep(info.clone());
        Ok(info)
    }

    /// The secp256k1 key of a path, with the chain that vouches for it and for `purpose`. The chain is not verified
    /// here: see [`keychain::verify`]. Every instance of the app can derive the key of every path it can guess.
    pub async fn key(&self, path: &str, purpose: &str) -> Result<DerivedKey, AgentError> {
        let arguments =
            serde_json::json!({"path": path, "purpose": purpose, "algorithm": "secp256k1"});
        let answer = self.transport.call("GetKey", &arguments).await?;
        answer::key(&answer.body)
    }

    /// A quote over exactly these 64 bytes. A quote over other bytes is an error, not an answer.
    pub async fn quote(&self, report_data: &[u8; 64]) -> Result<Quote, AgentError> {
        let arguments = serde_json::json!({"report_data": hex::encode(report_data)});
        let answer = self.transport.call("GetQuote", &arguments).await?;
        answer::quote(&answer.body, report_data)
    }
}
