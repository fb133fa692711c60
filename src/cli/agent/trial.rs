//! `synod agent test`: four steps, a line for each that succeeds, and below it what was compared. The first that fails
//! ends the command with the reason. Asks for keys of paths that nobody else uses; needs no anchor, so it proves that
//! the agent works and is consistent with itself, not whose agent it is.

use super::quote::{Reading, random};
use anyhow::{Context, ensure};
use clap::Command;
use std::io::{self, Write};
use std::time::{Duration, Instant};
use synod_agent::keychain::{self, ChainRefused};
use synod_agent::{Agent, AgentError, DerivedKey, Version};
use synod_attest::event_log::Identity;

/// What failed, before the reason.
pub(super) const CONNECTION: &str = "agent test: connection failed";
const KEYS: &str = "agent test: key derivation failed";
const QUOTES: &str = "agent test: quote generation failed";
const SERVICE: &str = "agent test: service is not reachable as it should be";

const PURPOSE: &str = "synod-agent-test";
/// `r ‖ s ‖ v`.
const LINK_LEN: usize = 65;
/// How a simulator calls itself in the `server` header, in lower case; an agent in a guest says `dstack guest agent`.
const SIMULATOR: &str = "simulator";

pub(super) fn command() -> Command {
    Command::new("test")
        .about("Try connection, keys, quotes and service in four steps; exits with 1 at the first that fails")
}

pub(super) async fn run(agent: &Agent, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut trial = Trial {
        agent,
        out,
        calls: Vec::new(),
    };
    let version = trial.connection().await.context(CONNECTION)?;
    let key = trial.keys().await.context(KEYS)?;
    let identity = trial.quotes().await.context(QUOTES)?;
    trial
        .service(&version, &key, &identity)
        .await
        .context(SERVICE)
}

struct Trial<'a> {
    agent: &'a Agent,
    out: &'a mut dyn Write,
    calls: Vec<(&'static str, Duration)>,
}

impl Trial<'_> {
    async fn connection(&mut self) -> anyhow::Result<Version> {
        let version = self.timed("Version", self.agent.version()).await?;
        let who = if version.server.to_lowercase().contains(SIMULATOR) {
            "simulator"
        } else {
            "agent"
        };
        writeln!(self.out, "Connected to {who}")?;
        match version.server.as_str() {
            "" => self.detail("server header: none")?,
            server => self.detail(&format!("server header: {server} (its own word)"))?,
        }
        self.detail(&format!(
            "version: {} (rev {}); it knows the method Version, so it is 0.5.6 or later",
            version.version, version.rev
        ))?;
        Ok(version)
    }

    async fn keys(&mut self) -> anyhow::Result<DerivedKey> {
        let [a, b, c, d, e, f, ..] = random()?;
        let fresh = hex::encode([a, b, c, d, e, f]);
        let [one, two] = [1, 2].map(|number| format!("synod/agent-test/{fresh}/{number}"));
        let first = self.key(&one).await?;
        let again = self.key(&one).await?;
        let other = self.key(&two).await?;
        let seen = |key: &DerivedKey| format!("0x{}", hex::encode(key.public_compressed()));
        ensure!(
            first.public_compressed() == again.public_compressed(),
            "expected one key for path {one:?}, found public keys {} and {}; whatever it holds would be lost",
            seen(&first),
            seen(&again)
        );
        ensure!(
            first.public_compressed() != other.public_compressed(),
            "expected another key for path {two:?} than for {one:?}, found public key {} for both",
            seen(&first)
        );
        let (ends, others) = (chain_end(&first, &[0; 20])?, chain_end(&other, &[0; 20])?);
        // over any app id, two chains end at one address only if both name the same app root key
        ensure!(
            ends == others && chain_end(&again, &[0; 20])? == ends,
            "expected chains that name one app root key, found chains of different ones"
        );
        writeln!(self.out, "Key derivation successful")?;
        self.detail(&format!(
            "path {one:?}, twice: the same key, address 0x{}",
            hex::encode(first.address())
        ))?;
        self.detail(&format!(
            "path {two:?}: another key, address 0x{}",
            hex::encode(other.address())
        ))?;
        self.detail(match ends {
            Some(_) => "chains: two links of 65 bytes each, all of one app root key",
            None => {
                "chains: one link of 65 bytes, the other empty: no KMS vouches for this app, its keys belong to one \
                 machine"
            }
        })?;
        Ok(first)
    }

    async fn quotes(&mut self) -> anyhow::Result<Identity> {
        let asked = random()?;
        let quote = self.timed("GetQuote", self.agent.quote(&asked)).await?;
        let read = Reading::of(&quote)?;
        writeln!(self.out, "Quote generation successful")?;
        self.detail(&format!(
            "report data: 64 random bytes, the same in the answer and in the quote of {} bytes",
            quote.bytes.len()
        ))?;
        self.detail(&format!(
            "event log: {} runtime events, recomputed, replay to RTMR3 of the quote",
            read.events
        ))?;
        self.detail("signatures: NOT judged, so this proves nothing about hardware")?;
        Ok(read.identity)
    }

    async fn service(
        &mut self,
        version: &Version,
        key: &DerivedKey,
        identity: &Identity,
    ) -> anyhow::Result<()> {
        let agent = Agent::new(self.agent.socket())?;
        let again = self.timed("Version", agent.version()).await?;
        ensure!(
            again == *version,
            "expected the same agent on a second connection, found version {} (server {}), before {} (server {})",
            again.version,
            again.server,
            version.version,
            version.server
        );
        let info = self.timed("Info", agent.info()).await?;
        let found = (info.app_id, info.instance_id, info.compose_hash);
        let measured = (identity.app_id, identity.instance_id, identity.compose_hash);
        ensure!(
            found == measured,
            "expected Info to name what the event log names, {}, found {}",
            names(&measured),
            names(&found)
        );
        writeln!(self.out, "Service is reachable")?;
        self.detail("second connection: the same version and server header")?;
        self.detail(&format!("Info and event log agree: {}", names(&found)))?;
        if let Some(root) = chain_end(key, &info.app_id)? {
            self.detail(&format!(
                "key chains end at 0x{}: compare it with the contract's KMS root",
                hex::encode(root)
            ))?;
        }
        self.times()
    }

    fn times(&mut self) -> anyhow::Result<()> {
        let (together, slowest) = (
            self.calls.iter().map(|(_, took)| *took).sum::<Duration>(),
            self.calls.iter().max_by_key(|(_, took)| *took),
        );
        let (method, most) = slowest.context("at least one call was made")?;
        let text = format!(
            "{} calls in {:.1} ms, the slowest {method} with {:.1} ms",
            self.calls.len(),
            together.as_secs_f64() * 1e3,
            most.as_secs_f64() * 1e3
        );
        Ok(self.detail(&text)?)
    }

    async fn key(&mut self, path: &str) -> anyhow::Result<DerivedKey> {
        let key = self.timed("GetKey", self.agent.key(path, PURPOSE)).await?;
        Ok(key)
    }

    async fn timed<T>(
        &mut self,
        method: &'static str,
        call: impl Future<Output = Result<T, AgentError>>,
    ) -> Result<T, AgentError> {
        let started = Instant::now();
        let answer = call.await;
        self.calls.push((method, started.elapsed()));
        answer
    }

    fn detail(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "  {text}")
    }
}

/// The address at which a chain ends for this app, `None` without a KMS; any other fault of its form is an error.
fn chain_end(key: &DerivedKey, app_id: &[u8; 20]) -> anyhow::Result<Option<[u8; 20]>> {
    let public = key.public_compressed();
    match keychain::signer(&public, PURPOSE, app_id, &key.signature_chain) {
        Ok((signer, _)) => Ok(Some(keychain::address(&signer))),
        Err(ChainRefused::NoKmsLink) => {
            let length = key.signature_chain.first().map_or(0, Vec::len);
            ensure!(
                length == LINK_LEN,
                "expected {LINK_LEN} bytes in the first link of the signature chain, found {length}"
            );
            Ok(None)
        }
        Err(why) => Err(why).context("signature chain"),
    }
}

fn names((app, instance, compose): &([u8; 20], Option<[u8; 20]>, [u8; 32])) -> String {
    let instance =
        instance.map_or_else(|| "none".to_owned(), |id| format!("0x{}", hex::encode(id)));
    format!(
        "app 0x{}, instance {instance}, compose {}",
        hex::encode(app),
        hex::encode(compose)
    )
}
