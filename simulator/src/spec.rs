//! What a simulated world is made from, and which habits of a real agent it shows.
//!
//! Rule: what is not given follows from the seed; equal specifications are equal worlds, but for the keys of an app
//! without a key provider, which are fresh at each boot, as on hardware.

use crate::{
    compose::{Compose, DEVELOPMENT_COMPOSE},
    world::WorldError,
};
use k256::elliptic_curve::zeroize::Zeroizing;
use serde::Deserialize;
use std::{fmt, time::Duration};

/// Who keeps the keys of the app.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyProvider {
    /// A KMS: one app root key for all instances, vouched for by the KMS root.
    #[default]
    Kms,
    /// An enclave beside the guest: a root key per instance, no KMS link.
    Local,
    /// The machine's TPM: a root key per instance, no KMS link.
    Tpm,
    /// Nobody: a fresh root key at each boot, no KMS link.
    None,
}

impl fmt::Display for KeyProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kms => "kms",
            Self::Local => "local",
            Self::Tpm => "tpm",
            Self::None => "none",
        })
    }
}

/// App keys that were made elsewhere, instead of those that follow from the seed.
#[derive(Clone)]
pub struct AppKeys {
    /// The app root key (secp256k1 scalar).
    pub root: Zeroizing<[u8; 32]>,
    /// A KMS root's signature over it. Whoever signed it is then the KMS root of this world; if it is empty and the
    /// key provider is a KMS, the KMS root that follows from the seed signs. Must be empty without a KMS.
    pub link: Vec<u8>,
}

/// A certificate authority that was made elsewhere: it signs what `GetTlsKey` gives.
#[derive(Clone)]
pub struct AppCa {
    /// PEM; the CA's own certificate first, then whatever leads up to the root.
    pub certificates: String,
    /// Its P-256 key, PEM of PKCS#8.
    pub key: Zeroizing<String>,
}

/// What `mr_config_id` of the quotes binds the guest to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MrConfigId {
    /// The compose hash.
    #[default]
    V1,
    /// Compose hash, app id and key provider.
    V2,
}

/// A world, before it is built.
#[derive(Clone)]
pub struct WorldSpec {
    /// Everything that is not given follows from it.
    pub seed: [u8; 32],
    /// Bytes of `app-compose.json`. [`DEVELOPMENT_COMPOSE`] stands for the development text that names the key
    /// provider of this world; in any other text a key provider that is not this world's is refused.
    pub compose: String,
    /// Default: the first 20 bytes of the compose hash, as dstack does.
    pub app_id: Option<[u8; 20]>,
    /// Default: [`KeyProvider::Kms`].
    pub key_provider: KeyProvider,
    /// SHA-256 of the image's list of checksums. Default: a hash that names no image.
    pub os_image_hash: Option<[u8; 32]>,
    /// Default: derived.
    pub app_keys: Option<AppKeys>,
    /// Default: derived; under a KMS from its root CA and the app id, otherwise one for each instance.
    pub app_ca: Option<AppCa>,
    /// Default: [`MrConfigId::V1`].
    pub mr_config_id: MrConfigId,
}

impl WorldSpec {
    /// All defaults.
    pub fn new(seed: [u8; 32]) -> Self {
        Self {
            seed,
            compose: DEVELOPMENT_COMPOSE.to_owned(),
            app_id: None,
            key_provider: KeyProvider::Kms,
            os_image_hash: None,
            app_keys: None,
            app_ca: None,
            mr_config_id: MrConfigId::V1,
        }
    }

    /// The world of a compose text: its key provider is the one that the text names, and if it names none, then
    /// nobody keeps keys, as in a guest.
    pub fn of_compose(seed: [u8; 32], compose: String) -> Result<Self, WorldError> {
        let key_provider = Compose::parse(&compose)?
            .key_provider()
            .unwrap_or(KeyProvider::None);
        Ok(Self {
            compose,
            key_provider,
            ..Self::new(seed)
        })
    }
}

/// How `GetQuote` gives the event log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventLog {
    /// As real agents do: no payloads for registers 0 to 2, no digests for register 3.
    #[default]
    Stripped,
    /// Everything filled, as the official simulator does.
    Full,
}

/// Habits of real agents that a client has to live with. The default is an agent in good health.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traits {
    /// Form of the event log.
    pub event_log: EventLog,
    /// How long each quote takes. Quotes are taken one after the other in any case, as the TDX driver does; `Info`,
    /// `Attest` and `GetTlsKey` take one too.
    pub quote_time: Duration,
    /// Every n-th quote fails with an error of the driver; 0 = none, 1 = all.
    pub quote_fails_every: u32,
    /// Every n-th request is answered by a closed connection; 0 = none, 1 = all.
    pub drop_every: u32,
}
