//! What reads the agent's answers, over bytes, for whoever feeds it hostile ones. Not an interface.

use crate::{AgentError, DerivedKey, Info, Quote, Version, answer};

/// Answer to `Version` with a `server` header.
pub fn version(body: &[u8], server: &str) -> Result<Version, AgentError> {
    answer::version(body, server)
}

/// Answer to `Info`.
pub fn info(body: &[u8]) -> Result<Info, AgentError> {
    answer::info(body)
}

/// Answer to `GetKey`.
pub fn key(body: &[u8]) -> Result<DerivedKey, AgentError> {
    answer::key(body)
}

/// Answer to `GetQuote` for these report data.
pub fn quote(body: &[u8], asked: &[u8; 64]) -> Result<Quote, AgentError> {
    answer::quote(body, asked)
}

/// Any answer whose status is not 200.
pub fn refusal(status: u16, body: &[u8]) -> AgentError {
    crate::refusal::refusal("GetKey", status, body)
}
