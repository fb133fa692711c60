//! The simulated cloud around the guests: one KMS root, one app, one attestation PKI, and the instances of the app.
//!
//! Rule: everything follows from the seed, the compose text and the app id, so two runs with the same three are the
//! same world. The secrets in here are worth nothing outside a test; they have no `Debug` all the same.

use crate::{
    keys,
    pki::{self, Pki},
    spec::{KeyProvider, WorldSpec},
};
use k256::ecdsa::SigningKey;
use sha2::{Digest, Sha256};

/// A compose text for those who bring none.
pub const DEVELOPMENT_COMPOSE: &str = concat!(
    r#"{"manifest_version":2,"name":"synod-development","runner":"docker-compose","#,
    r#""docker_compose_file":"services: {}\n","key_provider":"kms","kms_enabled":true,"#,
    r#""no_instance_id":false,"public_tcbinfo":true}"#
);

/// Longest compose text that is accepted; the real limit is of this order.
const COMPOSE_MAX: usize = 256 * 1024;

/// Why a world cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// The compose text is no JSON object.
    #[error(
        "the compose text must be a JSON object (app-compose.json), found: {0}; give the file that is deployed"
    )]
    Compose(String),
    /// The seed gives an app root key that is no secp256k1 scalar (about 1 of 2^128).
    #[error("this seed and app id give no valid app root key; take another seed")]
    AppRoot,
    /// A certificate could not be written.
    #[error("the simulator's own certificates could not be made: {0}")]
    Pki(#[from] rcgen::Error),
}

/// One KMS root and one app; instances are made from it.
pub struct World {
    kms_root: SigningKey,
    /// App root key and KMS link that all instances share; `None` if each has its own.
    app_keys: Option<(SigningKey, Vec<u8>)>,
    key_provider: KeyProvider,
    key_provider_info: String,
    pub(crate) pki: Pki,
    app_id: [u8; 20],
    os_image_hash: [u8; 32],
    compose: String,
    compose_hash: [u8; 32],
    name: String,
    has_instance_id: bool,
}

impl World {
    /// A world with a KMS; without an app id it is the first 20 bytes of the compose hash, as dstack does.
    pub fn new(
        seed: &[u8; 32],
        compose: String,
        app_id: Option<[u8; 20]>,
    ) -> Result<Self, WorldError> {
        Self::build(WorldSpec {
            compose,
            app_id,
            ..WorldSpec::new(*seed)
        })
    }

    /// Builds what is specified.
    pub fn build(spec: WorldSpec) -> Result<Self, WorldError> {
        let settings = parse_compose(&spec.compose)?;
        let compose_hash: [u8; 32] = Sha256::digest(spec.compose.as_bytes()).into();
        let app_id = spec.app_id.unwrap_or_else(|| first_20(&compose_hash));
        let kms_root = keys::secp256k1_from_seed(&spec.seed, "kms-root");
        let app_keys = match (&spec.app_keys, spec.key_provider) {
            (Some(given), _) => Some((
                given.signing_key().ok_or(WorldError::AppRoot)?,
                given.link.clone(),
            )),
            (None, KeyProvider::Kms) => {
                let app_root = keys::app_root(&kms_root, &app_id).ok_or(WorldError::AppRoot)?;
                let link = keys::link_app(&kms_root, &app_id, &app_root);
                Some((app_root, link.to_vec()))
            }
            (None, _) => None,
        };
        Ok(Self {
            key_provider: spec.key_provider,
            key_provider_info: key_provider_info(&spec),
            pki: Pki::new(&spec.seed)?,
            os_image_hash: spec.os_image_hash.unwrap_or_else(no_image),
            kms_root,
            app_keys,
            app_id,
            compose: spec.compose,
            compose_hash,
            name: settings.name,
            has_instance_id: !settings.no_instance_id,
        })
    }

    /// The app all instances belong to.
    pub fn app_id(&self) -> [u8; 20] {
        self.app_id
    }

    /// SHA-256 of the compose text.
    pub fn compose_hash(&self) -> [u8; 32] {
        self.compose_hash
    }

    /// Ethereum address of the KMS root key: the anchor that the contract is configured with.
    pub fn kms_root_address(&self) -> [u8; 20] {
        keys::address(&self.kms_root)
    }

    /// SEC1 compressed public key of the KMS root.
    pub fn kms_root_public(&self) -> [u8; 33] {
        keys::compressed(&self.kms_root)
    }

    /// DER certificate that anchors the quotes. Not Intel's.
    pub fn quote_root(&self) -> &[u8] {
        &self.pki.root_der
    }

    /// The instance id that an instance with this seed has; `None` if the compose text asks for none.
    pub fn instance_id(&self, instance_seed: &[u8; 32]) -> Option<[u8; 20]> {
        self.has_instance_id.then(|| {
            let hash: [u8; 32] = Sha256::new()
                .chain_update(instance_seed)
                .chain_update(self.app_id)
                .finalize()
                .into();
            first_20(&hash)
        })
    }

    pub(crate) fn app_name(&self) -> String {
        format!("{} (SIMULATED)", self.name)
    }

    pub(crate) fn compose(&self) -> &str {
        &self.compose
    }

    pub(crate) fn key_provider_info(&self) -> &str {
        &self.key_provider_info
    }

    pub(crate) fn key_provider(&self) -> KeyProvider {
        self.key_provider
    }

    pub(crate) fn os_image_hash(&self) -> [u8; 32] {
        self.os_image_hash
    }

    pub(crate) fn app_keys(&self) -> Option<(&SigningKey, &[u8])> {
        self.app_keys.as_ref().map(|(root, link)| (root, &link[..]))
    }
}

/// JSON `{"name","id"}`; with a KMS the id is the public key of its certificate authority.
fn key_provider_info(spec: &WorldSpec) -> String {
    let (name, id) = match spec.key_provider {
        KeyProvider::Kms => (
            "kms",
            pki::spki(&keys::p256_from_seed(&spec.seed, "kms-ca")),
        ),
        KeyProvider::Local => (
            "local-sgx",
            keys::from_seed(&spec.seed, "local-provider", 0).to_vec(),
        ),
        KeyProvider::Tpm => (
            "tpm",
            pki::spki(&keys::p256_from_seed(&spec.seed, "tpm-provider")),
        ),
        KeyProvider::None => ("none", Vec::new()),
    };
    format!(r#"{{"name":"{name}","id":"{}"}}"#, hex::encode(id))
}

/// The hash of no image.
fn no_image() -> [u8; 32] {
    Sha256::digest(b"dstack-simulator: no image\n").into()
}

#[derive(serde::Deserialize)]
struct Compose {
    #[serde(default)]
    name: String,
    #[serde(default)]
    no_instance_id: bool,
}

fn parse_compose(text: &str) -> Result<Compose, WorldError> {
    if text.len() > COMPOSE_MAX {
        return Err(WorldError::Compose(format!(
            "{} bytes, at most {COMPOSE_MAX} are allowed",
            text.len()
        )));
    }
    if !text.trim_start().starts_with('{') {
        return Err(WorldError::Compose(
            "a text that does not start with {".to_owned(),
        ));
    }
    serde_json::from_str(text).map_err(|error| WorldError::Compose(error.to_string()))
}

fn first_20(hash: &[u8; 32]) -> [u8; 20] {
    let mut id = [0; 20];
    id.copy_from_slice(hash.split_at(20).0);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_app_id_follows_the_compose_text_unless_it_is_given() {
        let world = World::new(&[1; 32], DEVELOPMENT_COMPOSE.to_owned(), None).unwrap();
        assert_eq!(world.app_id(), world.compose_hash()[..20]);
        let given = World::new(&[1; 32], DEVELOPMENT_COMPOSE.to_owned(), Some([5; 20])).unwrap();
        assert_eq!(given.app_id(), [5; 20]);
        assert_eq!(given.kms_root_address(), world.kms_root_address());
    }

    #[test]
    fn a_compose_text_that_is_not_an_object_is_refused() {
        for text in ["", "[]", "services: {}", "{", "{\"name\":1}"] {
            assert!(
                matches!(
                    World::new(&[1; 32], text.to_owned(), None),
                    Err(WorldError::Compose(_))
                ),
                "{text}"
            );
        }
    }
}
