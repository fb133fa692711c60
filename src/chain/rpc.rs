//! JSON-RPC over HTTP with limits: one time limit for a whole call, one length limit for an answer.
//!
//! No proxy (its address would come from the environment, which our host writes) and no redirect.

use crate::error::ChainError;
use alloy::primitives::Bytes;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Url, redirect};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::time::Duration;

/// Longest answer: a page of 100 members takes about 0.2 MB.
pub const ANSWER_LEN_MAX: usize = 4 << 20;
/// A kept connection is given up before the other side (usually 30 s and more) gives it up.
const IDLE_MAX: Duration = Duration::from_secs(15);
/// Longest text of theirs that we repeat.
const WORDS_LEN_MAX: usize = 300;

/// One endpoint.
#[derive(Clone)]
pub struct Rpc {
    client: Client,
    url: Url,
    shown: String,
}

/// JSON-RPC's own error.
#[derive(Deserialize)]
pub struct Fault {
    /// 3 = reverted.
    #[serde(default)]
    pub code: i64,
    /// For people.
    #[serde(default)]
    pub message: String,
    /// What the contract returned, usually as hex text.
    #[serde(default)]
    data: Option<Value>,
}

impl Fault {
    /// The bytes that a reverted call returned, if the endpoint shows them.
    pub fn returned(&self) -> Option<Bytes> {
        let text = self.data.as_ref()?.as_str()?;
        text.get(text.find("0x")?..)?.parse().ok()
    }

    /// Did the code run and say no?
    pub fn is_revert(&self) -> bool {
        self.code == 3 || self.message.contains("revert")
    }
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<Fault>,
}

impl Rpc {
    /// Check the address; nothing is sent yet.
    pub fn new(address: &str, timeout: Duration) -> Result<Self, ChainError> {
        let refused = |found: String, why: String| ChainError::RpcAddress { found, why };
        let url = Url::parse(address).map_err(|error| refused(String::new(), error.to_string()))?;
        let shown = url.origin().ascii_serialization();
        if url.scheme() != "http" {
            return Err(refused(
                shown,
                "this version speaks http only (no TLS to the endpoint yet)".to_owned(),
            ));
        }
        let client = Client::builder()
            .timeout(timeout)
            .connect_timeout(timeout)
            .pool_idle_timeout(IDLE_MAX)
            .no_proxy()
            .redirect(redirect::Policy::none());
        let client = client
            .build()
            .map_err(|error| refused(shown.clone(), error.to_string()))?;
        Ok(Self { client, url, shown })
    }

    /// Scheme, host and port: what may be shown.
    pub fn shown(&self) -> String {
        self.shown.clone()
    }

    /// Ask; an error of the endpoint is an error.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<T, ChainError> {
        self.try_ask(method, params)
            .await?
            .map_err(|fault| self.refused(method, &fault))
    }

    /// Ask; an error of the endpoint is the inner result.
    pub async fn try_ask<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<Result<T, Fault>, ChainError> {
        let body = self.post(method, params).await?;
        let answer: Answer<'_> =
            serde_json::from_slice(&body).map_err(|error| self.nonsense(method, error))?;
        if let Some(fault) = answer.error {
            return Ok(Err(fault));
        }
        let result = answer.result.map_or("null", RawValue::get);
        serde_json::from_str(result)
            .map(Ok)
            .map_err(|error| self.nonsense(method, error))
    }

    async fn post(&self, method: &'static str, params: Value) -> Result<Vec<u8>, ChainError> {
        let call = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let request = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(call.to_string());
        let mut response = request
            .send()
            .await
            .map_err(|error| self.unavailable(method, &error))?;
        let status = response.status();
        if status.is_server_error() || status.as_u16() == 429 {
            let why = format!("HTTP status {status}");
            return Err(ChainError::Unavailable {
                rpc: self.shown(),
                method,
                why,
            });
        }
        // Other statuses may carry a JSON-RPC error: the body decides.
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.unavailable(method, &error))?
        {
            if body.len() + chunk.len() > ANSWER_LEN_MAX {
                return Err(self.nonsense(method, format!("more than {ANSWER_LEN_MAX} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        if !status.is_success() && serde_json::from_slice::<Answer<'_>>(&body).is_err() {
            return Err(self.nonsense(
                method,
                format!("HTTP status {status} without a JSON-RPC error"),
            ));
        }
        Ok(body)
    }

    fn unavailable(&self, method: &'static str, error: &reqwest::Error) -> ChainError {
        let why = if error.is_timeout() {
            "no answer in time".to_owned()
        } else if error.is_connect() {
            "nobody listens there".to_owned()
        } else {
            "the connection broke".to_owned()
        };
        ChainError::Unavailable {
            rpc: self.shown(),
            method,
            why,
        }
    }

    /// An answer that cannot be.
    pub fn nonsense(&self, method: &'static str, why: impl ToString) -> ChainError {
        ChainError::BadAnswer {
            rpc: self.shown(),
            method,
            why: words(&why.to_string()),
        }
    }

    /// The endpoint's error as ours.
    pub fn refused(&self, method: &'static str, fault: &Fault) -> ChainError {
        ChainError::Refused {
            rpc: self.shown(),
            method,
            code: fault.code,
            message: words(&fault.message),
        }
    }
}

/// Somebody else's text, fit for a log: short, on one line.
pub fn words(text: &str) -> String {
    text.chars()
        .take(WORDS_LEN_MAX)
        .map(|char| if char.is_control() { ' ' } else { char })
        .collect()
}
