//! Every public call of the official Rust SDK, against the agent that `DSTACK_SIMULATOR_ENDPOINT` names.
//!
//! Each answer is judged, not only received: chains up to the KMS root, quotes against `Info`. Prints one JSON line with
//! the addresses that the SDK's helper computes. The SDK asks for secp256k1 keys only, so there are no others.

use anyhow::{Context, bail};
use dstack_sdk::{
    dstack_client::{DstackClient, TlsKeyConfig},
    ethereum::to_account,
    tappd_client::TappdClient,
};
use dstack_simulator_sdk_rust::{ETHEREUM_PATHS, PURPOSE, World};
use serde_json::{Map, Value, json};
use std::fmt::Debug;
use synod_agent::{DerivedKey, SecretKey, keychain};

/// Counts what was compared.
#[derive(Default)]
struct Judge(u32);

impl Judge {
    fn expect<T: PartialEq + Debug>(
        &mut self,
        what: &str,
        expected: T,
        found: T,
    ) -> anyhow::Result<()> {
        self.0 += 1;
        if expected != found {
            bail!("rust, {what}: expected {expected:?}, found {found:?}");
        }
        Ok(())
    }

    /// A call that has to fail with these words.
    fn refused<T, E: std::fmt::Display>(
        &mut self,
        what: &str,
        words: &str,
        answer: Result<T, E>,
    ) -> anyhow::Result<()> {
        let found = answer
            .err()
            .map_or_else(|| "an answer".to_owned(), |error| error.to_string());
        self.expect(
            what,
            (true, found.as_str()),
            (found.contains(words), found.as_str()),
        )
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (agent, world, mut judge) = (
        DstackClient::new(None),
        World::from_env()?,
        Judge::default(),
    );
    judge.expect("version", "0.5.11", &agent.version().await?.version)?;
    let ethereum = keys(&agent, &world, &mut judge).await?;
    quotes(&agent, &world, &mut judge).await?;
    certificates(&agent, &mut judge).await?;
    signatures(&agent, &mut judge).await?;
    let event = agent.emit_event("event".into(), b"x".to_vec()).await;
    judge.refused("emit_event", "400", event)?;
    tappd(&agent, &world, &mut judge).await?;
    println!(
        "{}",
        json!({"sdk": "rust", "judged": judge.0, "ethereum": ethereum})
    );
    Ok(())
}

async fn keys(
    agent: &DstackClient,
    world: &World,
    judge: &mut Judge,
) -> anyhow::Result<Map<String, Value>> {
    let mut addresses = Map::new();
    for path in ETHEREUM_PATHS {
        let answer = agent
            .get_key(Some(path.into()), Some(PURPOSE.into()))
            .await?;
        let bytes = answer
            .decode_key()?
            .try_into()
            .ok()
            .context("expected a key of 32 bytes")?;
        let key = DerivedKey {
            secret: SecretKey::new(<[u8; 32]>::into(bytes))
                .context("expected a key of secp256k1")?,
            signature_chain: answer.decode_signature_chain()?,
        };
        keychain::verify(
            &key.public_compressed(),
            PURPOSE,
            &world.app_id,
            &key.signature_chain,
            &world.kms_root,
        )?;
        let address = to_account(&answer)
            .map_err(|error| anyhow::anyhow!("to_account: {error}"))?
            .address();
        judge.expect(
            "address of the account",
            key.address(),
            address.into_array(),
        )?;
        addresses.insert(path.into(), address.to_string().into());
    }
    let default = to_account(&agent.get_key(None, None).await?)
        .map_err(|error| anyhow::anyhow!("to_account: {error}"))?;
    judge.expect(
        "a key without path",
        &addresses[""],
        &Value::from(default.address().to_string()),
    )?;
    Ok(addresses)
}

async fn quotes(agent: &DstackClient, world: &World, judge: &mut Judge) -> anyhow::Result<()> {
    let answer = agent.get_quote(b"hello".to_vec()).await?;
    let quote = answer.decode_quote()?;
    let part = |at: usize, length: usize| {
        quote
            .get(at..at + length)
            .map(hex::encode)
            .context("expected a whole quote")
    };
    judge.expect(
        "report data of the quote",
        format!("{:0<128}", hex::encode("hello")),
        part(568, 64)?,
    )?;
    judge.expect(
        "report data of the answer",
        part(568, 64)?,
        answer.report_data.clone(),
    )?;
    let info = agent.info().await?;
    let tcb = &info.tcb_info;
    let registers = [
        part(376, 48)?,
        part(424, 48)?,
        part(472, 48)?,
        part(520, 48)?,
    ];
    judge.expect(
        "info: registers",
        &registers,
        &[
            tcb.rtmr0.clone(),
            tcb.rtmr1.clone(),
            tcb.rtmr2.clone(),
            tcb.rtmr3.clone(),
        ],
    )?;
    let replayed = answer.replay_rtmrs()?;
    for (imr, register) in (0..3u8).zip(&registers) {
        judge.expect(
            "registers 0 to 2 by the SDK's replay",
            Some(register),
            replayed.get(&imr),
        )?;
    }
    judge.expect("info: app id", hex::encode(world.app_id), info.app_id)?;
    judge.expect("info: compose hash", &tcb.compose_hash, &info.compose_hash)?;
    judge.expect(
        "events",
        tcb.event_log.len(),
        answer.decode_event_log()?.len(),
    )?;
    judge.refused(
        "get_quote of nothing",
        "Invalid report data length",
        agent.get_quote(Vec::new()).await,
    )?;
    judge.refused(
        "get_quote of 65 bytes",
        "Invalid report data length",
        agent.get_quote(vec![0; 65]).await,
    )?;
    let attestation = agent
        .attest(b"hello".to_vec())
        .await?
        .decode_attestation()?;
    judge.expect("attest is MessagePack", Some(&0x83), attestation.first())
}

async fn certificates(agent: &DstackClient, judge: &mut Judge) -> anyhow::Result<()> {
    let config = TlsKeyConfig::builder()
        .subject("sdk.example")
        .alt_names(vec!["sdk.example".into()])
        .build();
    let answer = agent.get_tls_key(config).await?;
    judge.expect(
        "key in PEM",
        true,
        answer.key.starts_with("-----BEGIN PRIVATE KEY-----"),
    )?;
    judge.expect(
        "certificates under a KMS",
        3,
        answer.certificate_chain.len(),
    )
}

async fn signatures(agent: &DstackClient, judge: &mut Judge) -> anyhow::Result<()> {
    for algorithm in ["secp256k1", "ed25519"] {
        let signed = agent.sign(algorithm, b"hello".to_vec()).await?;
        let (signature, public) = (signed.decode_signature()?, signed.decode_public_key()?);
        judge.expect(
            "sign: lengths",
            (64, 3),
            (signature.len(), signed.decode_signature_chain()?.len()),
        )?;
        for (data, valid) in [(b"hello", true), (b"hellp", false)] {
            let answer = agent
                .verify(algorithm, data.to_vec(), signature.clone(), public.clone())
                .await?;
            judge.expect("verify", valid, answer.valid)?;
        }
    }
    judge.refused(
        "sign with rsa",
        "400",
        agent.sign("rsa", b"x".to_vec()).await,
    )
}

async fn tappd(agent: &DstackClient, world: &World, judge: &mut Judge) -> anyhow::Result<()> {
    let tappd = TappdClient::new(None);
    let key = agent
        .get_key(Some("node/1".into()), None)
        .await?
        .decode_key()?;
    judge.expect(
        "tappd: derive_key and get_key share bytes",
        key,
        tappd.derive_key("node/1").await?.decode_key()?,
    )?;
    let quote = tappd.get_quote(vec![7; 64]).await?.decode_quote()?;
    judge.expect(
        "tappd: report data",
        Some(&[7; 64][..]),
        quote.get(568..632),
    )?;
    judge.refused(
        "tappd: 5 bytes",
        "exactly 64 bytes",
        tappd.get_quote(b"hello".to_vec()).await,
    )?;
    judge.expect(
        "tappd: app id",
        hex::encode(world.app_id),
        tappd.info().await?.app_id,
    )
}
