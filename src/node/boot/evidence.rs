//! Quotes of this boot: over everything that must belong together, and what we make of them ourselves.

use super::{BootError, Identity};
use crate::config::Config;
use rand_core::{OsRng, RngCore};
use serde::Serialize;
use sha2::{Digest, Sha256};
use synod_agent::Quote;
use synod_attest::Verdict;
use synod_attest::report_data::{self, Binding, Nonce};
use synod_wire::{BlockRef, Hash};

/// What a quote of this agent is worth, before the owner and the chain are troubled with it.
pub(super) async fn fitness(config: &Config, identity: &Identity) -> Result<Verdict, BootError> {
    let mut challenge = [0; 32];
    OsRng
        .try_fill_bytes(&mut challenge)
        .map_err(|why| BootError::Keys(why.to_string()))?;
    Ok(taken(config, identity, &Nonce::Challenge(challenge))
        .await?
        .1)
}

/// Everything that a quote of this boot has to belong to.
fn binding(config: &Config, identity: &Identity) -> Binding {
    Binding {
        chain_id: config.chain_id,
        contract: config.contract.0,
        token: config.token.0,
        instance_id: identity.instance_id.0,
        wallet: identity.wallet.address().0,
        session_public: identity.session.public().0,
        tls_spki: identity.tls.spki_hash().0,
    }
}

/// A quote over this boot and this nonce, judged.
async fn taken(
    config: &Config,
    identity: &Identity,
    nonce: &Nonce,
) -> Result<(Quote, Verdict), BootError> {
    let expected = report_data::bind(&binding(config, identity), nonce);
    let quote = identity.agent.quote(&expected).await?;
    let (bytes, log, compose) = (&quote.bytes, &quote.event_log, &identity.compose);
    let verdict = synod_attest::own_verdict(bytes, log, compose, &expected);
    Ok((quote, verdict))
}

/// What the chain keeps the hash of; the document itself travels with the Attestation issue.
#[derive(Serialize)]
struct Evidence<'a> {
    version: u32,
    quote: String,
    event_log: &'a str,
    app_compose: &'a str,
    block_number: u64,
    block_hash: String,
}

/// A quote for a registration: the hash of its document, and what we say about it ourselves.
pub(super) async fn of_block(
    config: &Config,
    identity: &Identity,
    block: BlockRef,
) -> Result<(Hash, String), BootError> {
    let nonce = Nonce::Block {
        number: block.number,
        hash: block.hash.0,
    };
    let (quote, verdict) = taken(config, identity, &nonce).await?;
    let document = Evidence {
        version: 1,
        quote: hex::encode(&quote.bytes),
        event_log: &quote.event_log,
        app_compose: &identity.compose,
        block_number: block.number,
        block_hash: block.hash.to_string(),
    };
    let json = serde_json::to_vec(&document).map_err(|why| BootError::Keys(why.to_string()))?;
    Ok((Hash(Sha256::digest(&json).into()), verdict.to_string()))
}
