//! The supervisor's view of its node: `/status`, asked like anybody asks it.

use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(1);
const ANSWER_LEN_MAX: usize = 1 << 20;

/// One sentence; it changes when something has happened.
pub(crate) fn line(node: u64, status: &Value) -> String {
    let phase = status["phase"].as_str().unwrap_or("?").replace('_', " ");
    match status["leader_token"].as_u64() {
        Some(leader) => format!(
            "node {node}: {phase}, term {}: node {leader} leads",
            status["term"]
        ),
        None => format!("node {node}: {phase}"),
    }
}

/// `/status` of the child, asked like anybody asks it.
pub(crate) struct StatusPage {
    client: reqwest::Client,
    url: String,
}

impl StatusPage {
    pub(crate) fn new(http: SocketAddr) -> anyhow::Result<Self> {
        anyhow::ensure!(
            http.port() != 0,
            "--http-port: expected a port that this supervisor can ask, found 0"
        );
        Ok(Self {
            client: reqwest::Client::builder()
                .no_proxy()
                .timeout(TIMEOUT)
                .build()?,
            url: format!("http://{http}/status"),
        })
    }

    /// None while nobody answers.
    pub(crate) async fn read(&self) -> Option<Value> {
        let mut answer = self.client.get(&self.url).send().await.ok()?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.ok()? {
            if body.len() + chunk.len() > ANSWER_LEN_MAX {
                return None;
            }
            body.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&body).ok()
    }
}
