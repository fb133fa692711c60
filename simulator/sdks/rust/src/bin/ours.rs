//! The addresses as Synod's own client reads them from the socket `SYNOD_SOCKET`: what the SDKs' are compared with.

use anyhow::Context;
use dstack_simulator_sdk_rust::{ETHEREUM_PATHS, PURPOSE, World};
use serde_json::{Map, json};
use std::{env, path::PathBuf};
use synod_agent::{Agent, keychain};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let world = World::from_env()?;
    let socket =
        env::var_os("SYNOD_SOCKET").context("expected a socket in SYNOD_SOCKET, found none")?;
    let agent = Agent::new(&PathBuf::from(socket))?;
    let mut ethereum = Map::new();
    for path in ETHEREUM_PATHS {
        let key = agent.key(path, PURPOSE).await?;
        keychain::verify(
            &key.public_compressed(),
            PURPOSE,
            &world.app_id,
            &key.signature_chain,
            &world.kms_root,
        )?;
        ethereum.insert(
            path.into(),
            format!("0x{}", hex::encode(key.address())).into(),
        );
    }
    println!(
        "{}",
        json!({"sdk": "ours", "judged": ETHEREUM_PATHS.len(), "ethereum": ethereum})
    );
    Ok(())
}
