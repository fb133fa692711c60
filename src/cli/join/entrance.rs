//! Where a class's chain is, and what it says about itself. Its answer is not believed where it can be checked: the
//! chain id here and by the endpoint, the KMS root against the one that the class code gives, the contract by its
//! code.

use anyhow::{Context, bail, ensure};
use reqwest::{Client, StatusCode, redirect};
use serde_json::Value;
use std::net::{SocketAddr, SocketAddrV4, ToSocketAddrs};
use std::time::Duration;
use synod_devchain::{DEV_CHAIN_ID, door_path};
use synod_wire::Address;

const TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_LEN_MAX: usize = 64 * 1024;
/// Longest text of theirs that we repeat.
const WORDS_LEN_MAX: usize = 300;

/// `HOST:PORT` of `--join`.
pub(crate) struct Entrance {
    pub address: SocketAddrV4,
    /// As it was written.
    shown: String,
}

/// What a devnet says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClassWorld {
    pub contract: Address,
    pub kms_root: Address,
    pub founders: u64,
}

/// Nothing is asked without a class code: there is no simulator without it either.
pub(crate) fn no_class(target: &str) -> String {
    format!(
        "the chain at {target} asks for the class code: --class <words>, printed by synod devnet"
    )
}

impl Entrance {
    pub(crate) fn find(target: &str) -> anyhow::Result<Self> {
        let resolved = target.to_socket_addrs().with_context(|| {
            format!("--join: expected HOST:PORT, as in 192.168.1.10:8545, found {target:?}")
        })?;
        let first = resolved.into_iter().find_map(|address| match address {
            SocketAddr::V4(address) => Some(address),
            SocketAddr::V6(_) => None,
        });
        let address = first.with_context(|| {
            format!("--join {target}: expected a host with an IPv4 address, found none")
        })?;
        Ok(Self {
            address,
            shown: target.to_owned(),
        })
    }

    /// The chain's endpoint, behind the class door.
    pub(crate) fn rpc(&self, door_key: &[u8; 32]) -> String {
        format!("http://{}{}", self.address, door_path(door_key))
    }

    /// Ask for the world of the class.
    pub(crate) async fn world(&self, door_key: &[u8; 32]) -> anyhow::Result<ClassWorld> {
        let shown = &self.shown;
        let client = Client::builder()
            .timeout(TIMEOUT)
            .no_proxy()
            .redirect(redirect::Policy::none())
            .build()?;
        let url = format!("{}/world", self.rpc(door_key));
        // the error's own text would show the key in the URL
        let mut response = client.get(url).send().await.map_err(|why| {
            let found = if why.is_timeout() { "no answer in time" } else { "nobody listens there" };
            anyhow::anyhow!(
                "--join {shown}: expected a synod devnet, found {found}; start `synod devnet --lan` on that machine, \
                 or correct the address"
            )
        })?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(reqwest::Error::without_url)?
        {
            ensure!(
                body.len() + chunk.len() <= ANSWER_LEN_MAX,
                "--join {shown}: expected at most {ANSWER_LEN_MAX} bytes, found more; is that a synod devnet?"
            );
            body.extend_from_slice(&chunk);
        }
        judge(status, &body).with_context(|| format!("--join {shown}"))
    }
}

fn judge(status: StatusCode, body: &[u8]) -> anyhow::Result<ClassWorld> {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    if status == StatusCode::UNAUTHORIZED {
        bail!(
            "refused: {}",
            answer["error"]["message"]
                .as_str()
                .map_or_else(|| "it asks for another class code".to_owned(), words)
        );
    }
    ensure!(
        status == StatusCode::OK && answer.is_object(),
        "expected the world of a synod devnet, found HTTP status {status}; nodes join what `synod devnet` started, \
         not `synod up`"
    );
    let chain_id = answer["chain_id"].as_u64();
    ensure!(
        chain_id == Some(DEV_CHAIN_ID) && answer["simulated"] == true,
        "expected a simulated world on chain id {DEV_CHAIN_ID}, found chain id {}, simulated {}; --join is for \
         development chains only: start a node of a real chain without it",
        answer["chain_id"],
        answer["simulated"]
    );
    let address = |name: &str| -> anyhow::Result<Address> {
        let text = answer[name].as_str().unwrap_or_default();
        text.parse()
            .ok()
            .with_context(|| format!("expected an address as {name}, found {:?}", words(text)))
    };
    Ok(ClassWorld {
        contract: address("contract")?,
        kms_root: address("kms_root")?,
        founders: answer["founders"]
            .as_u64()
            .context("expected the number of founders, found none")?,
    })
}

/// Somebody else's text, fit for a terminal: short, on one line.
fn words(text: &str) -> String {
    text.chars()
        .take(WORDS_LEN_MAX)
        .map(|char| if char.is_control() { ' ' } else { char })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told() -> Value {
        let address = "0x5fbdb2315678afecb367f032d93f642f64180aa3";
        json!({ "chain_id": 31_337, "contract": address, "kms_root": address, "founders": 1, "simulated": true })
    }

    fn refused(status: u16, body: &Value) -> String {
        let status = StatusCode::from_u16(status).expect("a status");
        format!(
            "{:#}",
            judge(status, body.to_string().as_bytes()).expect_err("refused")
        )
    }

    #[test]
    fn only_a_simulated_world_on_the_development_chain_is_joined() {
        assert!(
            judge(StatusCode::OK, told().to_string().as_bytes()).is_ok_and(|w| w.founders == 1)
        );
        for (field, value, part) in [
            ("chain_id", json!(1), "31337"),
            ("chain_id", json!("31337"), "31337"),
            ("chain_id", Value::Null, "31337"),
            ("simulated", json!(false), "simulated"),
            ("simulated", Value::Null, "simulated"),
            ("contract", json!("0x12"), "contract"),
            ("kms_root", Value::Null, "kms_root"),
            ("founders", json!(-1), "founders"),
        ] {
            let mut world = told();
            world[field] = value;
            let text = refused(200, &world);
            assert!(text.contains(part), "{part} is missing in: {text}");
        }
    }

    #[test]
    fn a_refusal_gives_the_reason_on_one_line() {
        let text = refused(
            401,
            &json!({ "error": { "message": "class code:\n\u{1b}[2J another" } }),
        );
        assert!(
            text.contains("class code") && !text.contains(['\n', '\u{1b}']),
            "{text}"
        );
        assert!(refused(401, &Value::Null).contains("class code"));
        assert!(refused(405, &Value::Null).contains("405"));
        assert!(judge(StatusCode::OK, b"<html>").is_err());
    }

    #[test]
    fn a_target_is_a_host_and_a_port() {
        assert!(Entrance::find("127.0.0.1:8545").is_ok());
        for target in [
            "",
            "127.0.0.1",
            "127.0.0.1:",
            "127.0.0.1:70000",
            "[::1]:8545",
        ] {
            let text = Entrance::find(target)
                .map(drop)
                .expect_err(target)
                .to_string();
            assert!(text.contains("--join"), "{text}");
        }
    }
}
