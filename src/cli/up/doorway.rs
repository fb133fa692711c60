//! The supervisor's view of a node: its API, like anybody's.

use serde_json::Value;
use std::time::Duration;

/// What the supervisor reads of `/status`.
pub(crate) struct Status {
    pub phase: String,
    pub is_leader: bool,
    pub term: u64,
    pub counter_value: u64,
    pub wallet_address: String,
    pub instance_id: String,
}

/// Asks nodes on this machine.
pub(crate) struct Doorway(reqwest::Client);

impl Doorway {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self(
            reqwest::Client::builder()
                .no_proxy()
                .timeout(Duration::from_secs(1))
                .build()?,
        ))
    }

    /// None while nobody answers.
    pub(crate) async fn status(&self, port: u16) -> Option<Status> {
        let answer = self
            .0
            .get(format!("http://127.0.0.1:{port}/status"))
            .send()
            .await
            .ok()?;
        let json: Value = answer.json().await.ok()?;
        let text = |name: &str| {
            json.get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let number = |name: &str| json.get(name).and_then(Value::as_u64).unwrap_or_default();
        Some(Status {
            phase: text("phase"),
            is_leader: json
                .get("is_leader")
                .and_then(Value::as_bool)
                .unwrap_or_default(),
            term: number("term"),
            counter_value: number("counter_value"),
            wallet_address: text("wallet_address"),
            instance_id: text("instance_id"),
        })
    }
}
