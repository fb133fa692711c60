//! What the programs here share: the paths that all SDKs ask for, and what the simulator said that its keys end at.

use anyhow::Context;
use std::env;
use synod_agent::keychain::KmsRoot;

/// Paths whose Ethereum addresses are compared.
pub const ETHEREUM_PATHS: [&str; 3] = ["wallet/ethereum", "", "node/1"];
/// The purpose that every key is asked for with.
pub const PURPOSE: &str = "sdks";

/// What the simulator printed when it started.
pub struct World {
    /// The app.
    pub app_id: [u8; 20],
    /// Where chains of signatures have to end.
    pub kms_root: KmsRoot,
}

impl World {
    /// From `SYNOD_APP_ID` and `SYNOD_KMS_ROOT`.
    pub fn from_env() -> anyhow::Result<Self> {
        Ok(Self {
            app_id: bytes("SYNOD_APP_ID")?,
            kms_root: KmsRoot::Public(bytes("SYNOD_KMS_ROOT")?),
        })
    }
}

fn bytes<const N: usize>(name: &str) -> anyhow::Result<[u8; N]> {
    let text = env::var(name).with_context(|| format!("expected {N} bytes of hex in {name}"))?;
    let mut bytes = [0; N];
    hex::decode_to_slice(&text, &mut bytes)
        .with_context(|| format!("expected {N} bytes of hex in {name}, found {text:?}"))?;
    Ok(bytes)
}
