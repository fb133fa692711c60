//! Quotes of this boot: over everything that must belong together, and what we make of them ourselves.

use super::{BootError, Identity, patience};
use crate::config::Config;
use crate::facts::Board;
use crate::fixture;
use rand_core::{OsRng, RngCore};
use serde::Serialize;
use sha2::{Digest, Sha256};
use synod_agent::Quote;
use synod_attest::report_data::{self, Binding, Nonce};
use synod_wire::{BlockRef, Hash};

/// What a quote of this agent is worth, before the owner and the chain are troubled with it.
pub(super) async fn fitness(
    config: &Config,
    identity: &Identity,
    board: &Board,
) -> Result<String, BootError> {
    let mut challenge = [0; 32];
    OsRng
        .try_fill_bytes(&mut challenge)
        .map_err(|why| BootError::Keys(why.to_string()))?;
    let nonce = Nonce::Challenge(challenge);
    Ok(taken(config, identity, &nonce, board).await?.1)
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

/// A quote over this boot and this nonce, and what is shown of our own judgement. Each quote is judged: an agent may
/// change its mind between two.
async fn taken(
    config: &Config,
    identity: &Identity,
    nonce: &Nonce,
    board: &Board,
) -> Result<(Quote, String), BootError> {
    let expected = report_data::bind(&binding(config, identity), nonce);
    let quote = patience::ask(config, board, async || {
        identity.agent.quote(&expected).await
    })
    .await?;
    let (bytes, log, compose) = (&quote.bytes, &quote.event_log, &identity.compose);
    let verdict = synod_attest::own_verdict(bytes, log, compose, &expected);
    if let Some((found, remedy)) = fixture::objection(&verdict, config) {
        return Err(BootError::Unfit {
            socket: identity.agent.socket().display().to_string(),
            expected: "evidence of this guest alone".to_owned(),
            found,
            remedy,
        });
    }
    Ok((quote, fixture::shown(&verdict, config)))
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
    board: &Board,
) -> Result<(Hash, String), BootError> {
    let nonce = Nonce::Block {
        number: block.number,
        hash: block.hash.0,
    };
    let (quote, shown) = taken(config, identity, &nonce, board).await?;
    let document = Evidence {
        version: 1,
        quote: hex::encode(&quote.bytes),
        event_log: &quote.event_log,
        app_compose: &identity.compose,
        block_number: block.number,
        block_hash: block.hash.to_string(),
    };
    let json = serde_json::to_vec(&document).map_err(|why| BootError::Keys(why.to_string()))?;
    Ok((Hash(Sha256::digest(&json).into()), shown))
}
