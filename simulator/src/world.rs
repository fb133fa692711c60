//! The simulated cloud around the guests: one KMS, one app, one attestation PKI, and the instances of the app.
//!
//! Rule: everything follows from the specification, and everything it says of itself fits together: app keys and the
//! printed KMS root, the provider's id and the root of the TLS certificates, the compose text and its hash. The
//! secrets in here are worth nothing outside a test; they have no `Debug` all the same.

use crate::{
    authority::{Authority, AuthorityError},
    compose::{self, Compose, DEVELOPMENT_COMPOSE},
    keys::{self, Link},
    pki::{self, Pki},
    quote,
    spec::{AppKeys, KeyProvider, MrConfigId, WorldSpec},
};
use k256::ecdsa::{SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};

/// Why a world cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// The compose text is no JSON object.
    #[error(
        "the compose text must be a JSON object (app-compose.json), found: {0}; give the file that is deployed"
    )]
    Compose(String),
    /// Compose text and world name different key providers.
    #[error(
        "expected one key provider, found {compose} in the compose text and {world} in the world; change one of them"
    )]
    KeyProvider {
        /// What the compose text names.
        compose: KeyProvider,
        /// What the world has.
        world: KeyProvider,
    },
    /// No valid app root key (for derived ones about 1 of 2^128).
    #[error(
        "expected an app root key that is a scalar of secp256k1, found none; take another seed or key"
    )]
    AppRoot,
    /// The KMS link cannot be one.
    #[error(
        "expected the KMS link of the app keys, 65 bytes r, s, v with a low s and v 0 or 1, found {0}"
    )]
    Link(String),
    /// Only a KMS signs links.
    #[error(
        "expected no KMS link of the app keys, because the key provider is {0}, found one; leave it out"
    )]
    LinkWithoutKms(KeyProvider),
    /// There is no CA for the TLS certificates.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A certificate could not be written.
    #[error("the simulator's own certificates could not be made: {0}")]
    Pki(#[from] rcgen::Error),
}

/// App root key and KMS link that all instances share.
struct Shared {
    root: SigningKey,
    link: Vec<u8>,
}

/// One KMS and one app; instances are made from it.
pub struct World {
    kms_root: VerifyingKey,
    /// `None` if each instance has its own.
    app_keys: Option<Shared>,
    /// `None` if each instance has its own.
    app_ca: Option<Authority>,
    key_provider: KeyProvider,
    key_provider_info: String,
    mr_config_id: [u8; 48],
    pub(crate) pki: Pki,
    app_id: [u8; 20],
    os_image_hash: [u8; 32],
    compose: String,
    compose_hash: [u8; 32],
    settings: Compose,
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
        let provider = spec.key_provider;
        let (compose, settings) = read_compose(spec.compose, provider)?;
        let compose_hash: [u8; 32] = Sha256::digest(compose.as_bytes()).into();
        let app_id = spec.app_id.unwrap_or_else(|| first_20(&compose_hash));
        let (kms_root, app_keys) = app_keys(&spec.seed, provider, &app_id, spec.app_keys)?;
        let app_ca = match (&spec.app_ca, provider) {
            (Some(given), _) => Some(Authority::given(given)?),
            (None, KeyProvider::Kms) => Some(Authority::of_kms(&spec.seed, &app_id)?),
            (None, KeyProvider::Local | KeyProvider::Tpm | KeyProvider::None) => None,
        };
        let provider_id = provider_id(&spec.seed, provider, app_ca.as_ref());
        Ok(Self {
            key_provider: provider,
            key_provider_info: format!(
                r#"{{"name":"{}","id":"{}"}}"#,
                match provider {
                    KeyProvider::Local => "local-sgx",
                    KeyProvider::Kms => "kms",
                    KeyProvider::Tpm => "tpm",
                    KeyProvider::None => "none",
                },
                hex::encode(&provider_id)
            ),
            mr_config_id: match spec.mr_config_id {
                MrConfigId::V1 => quote::mr_config_id(&compose_hash),
                MrConfigId::V2 => {
                    quote::mr_config_id_v2(&compose_hash, &app_id, provider, &provider_id)
                }
            },
            pki: Pki::new(&spec.seed)?,
            os_image_hash: spec.os_image_hash.unwrap_or_else(no_image),
            kms_root,
            app_keys,
            app_ca,
            app_id,
            compose,
            compose_hash,
            settings,
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

    /// Who keeps the app's keys.
    pub fn key_provider(&self) -> KeyProvider {
        self.key_provider
    }

    /// Ethereum address of the KMS root key: the anchor that the contract is configured with. Without a KMS, that of
    /// one which vouches for nobody here.
    pub fn kms_root_address(&self) -> [u8; 20] {
        keys::address_of(&self.kms_root)
    }

    /// SEC1 compressed public key of the KMS root.
    pub fn kms_root_public(&self) -> [u8; 33] {
        keys::point(&self.kms_root)
    }

    /// DER certificate that anchors the quotes. Not Intel's.
    pub fn quote_root(&self) -> &[u8] {
        &self.pki.root_der
    }

    /// The instance id that an instance with this seed has; `None` if the compose text asks for none. Without a key
    /// provider an instance takes a fresh seed at each boot instead.
    pub fn instance_id(&self, instance_seed: &[u8; 32]) -> Option<[u8; 20]> {
        (!self.settings.no_instance_id).then(|| {
            let hash: [u8; 32] = Sha256::new()
                .chain_update(instance_seed)
                .chain_update(self.app_id)
                .finalize()
                .into();
            first_20(&hash)
        })
    }

    pub(crate) fn app_name(&self) -> String {
        format!("{} (SIMULATED)", self.settings.name)
    }

    pub(crate) fn compose(&self) -> &str {
        &self.compose
    }

    pub(crate) fn storage_fs(&self) -> &'static str {
        self.settings.storage_fs.unwrap_or_default().name()
    }

    pub(crate) fn key_provider_info(&self) -> &str {
        &self.key_provider_info
    }

    pub(crate) fn mr_config_id(&self) -> [u8; 48] {
        self.mr_config_id
    }

    pub(crate) fn os_image_hash(&self) -> [u8; 32] {
        self.os_image_hash
    }

    pub(crate) fn app_keys(&self) -> Option<(&SigningKey, &[u8])> {
        self.app_keys
            .as_ref()
            .map(|shared| (&shared.root, &shared.link[..]))
    }

    /// The CA that all instances share; `None` if each has its own.
    pub(crate) fn app_ca(&self) -> Option<&Authority> {
        self.app_ca.as_ref()
    }
}

/// The text as it is deployed, and what it says.
fn read_compose(text: String, provider: KeyProvider) -> Result<(String, Compose), WorldError> {
    let text = if text == DEVELOPMENT_COMPOSE {
        compose::development(provider)
    } else {
        text
    };
    let settings = Compose::parse(&text)?;
    match settings.key_provider() {
        Some(named) if named != provider => Err(WorldError::KeyProvider {
            compose: named,
            world: provider,
        }),
        Some(_) | None => Ok((text, settings)),
    }
}

/// The KMS root, and the app keys that all instances share if they do.
fn app_keys(
    seed: &[u8; 32],
    provider: KeyProvider,
    app_id: &[u8; 20],
    given: Option<AppKeys>,
) -> Result<(VerifyingKey, Option<Shared>), WorldError> {
    let kms_root = keys::secp256k1_from_seed(seed, "kms-root");
    let kms_public = *kms_root.verifying_key();
    let is_kms = provider == KeyProvider::Kms;
    let root = match &given {
        Some(given) => given.signing_key().ok_or(WorldError::AppRoot)?,
        None if is_kms => keys::app_root(&kms_root, app_id).ok_or(WorldError::AppRoot)?,
        None => return Ok((kms_public, None)),
    };
    let given_link = given.map(|given| given.link).unwrap_or_default();
    match (is_kms, given_link.is_empty()) {
        (true, true) => {
            let link = keys::link_app(&kms_root, app_id, &root).to_vec();
            Ok((kms_public, Some(Shared { root, link })))
        }
        (true, false) => {
            let signer = Link(&given_link)
                .signer(app_id, &root)
                .map_err(WorldError::Link)?;
            let link = given_link;
            Ok((signer, Some(Shared { root, link })))
        }
        (false, true) => Ok((kms_public, Some(Shared { root, link: vec![] }))),
        (false, false) => Err(WorldError::LinkWithoutKms(provider)),
    }
}

/// How the guest names its key provider; with a KMS that is the public key of the root of its certificates.
fn provider_id(seed: &[u8; 32], provider: KeyProvider, app_ca: Option<&Authority>) -> Vec<u8> {
    match provider {
        KeyProvider::Kms => {
            app_ca.map_or_else(Vec::new, |authority| authority.root_public().to_vec())
        }
        KeyProvider::Local => keys::from_seed(seed, "local-provider", 0).to_vec(),
        KeyProvider::Tpm => pki::spki(&keys::p256_from_seed(seed, "tpm-provider")),
        KeyProvider::None => Vec::new(),
    }
}

/// The hash of no image.
fn no_image() -> [u8; 32] {
    Sha256::digest(b"dstack-simulator: no image\n").into()
}

fn first_20(hash: &[u8; 32]) -> [u8; 20] {
    let mut id = [0; 20];
    id.copy_from_slice(hash.split_at(20).0);
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use k256::elliptic_curve::zeroize::Zeroizing;

    #[test]
    fn the_app_id_follows_the_compose_text_unless_it_is_given() {
        let world = World::new(&[1; 32], DEVELOPMENT_COMPOSE.to_owned(), None).unwrap();
        assert_eq!(world.app_id(), world.compose_hash()[..20]);
        let given = World::new(&[1; 32], DEVELOPMENT_COMPOSE.to_owned(), Some([5; 20])).unwrap();
        assert_eq!(given.app_id(), [5; 20]);
        assert_eq!(given.kms_root_address(), world.kms_root_address());
    }

    #[test]
    fn compose_text_and_world_name_one_key_provider() {
        let spec = |text: &str, key_provider| WorldSpec {
            compose: text.to_owned(),
            key_provider,
            ..WorldSpec::new([1; 32])
        };
        let local = r#"{"key_provider":"local"}"#;
        assert!(matches!(
            World::build(spec(local, KeyProvider::Kms)),
            Err(WorldError::KeyProvider {
                compose: KeyProvider::Local,
                world: KeyProvider::Kms
            })
        ));
        assert!(World::build(spec(local, KeyProvider::Local)).is_ok());
        let development = World::build(spec(DEVELOPMENT_COMPOSE, KeyProvider::Tpm)).unwrap();
        assert!(development.compose().contains(r#""key_provider":"tpm""#));
    }

    fn given(
        root: [u8; 32],
        link: Vec<u8>,
        key_provider: KeyProvider,
    ) -> Result<World, WorldError> {
        let root = Zeroizing::new(root);
        World::build(WorldSpec {
            key_provider,
            app_keys: Some(AppKeys { root, link }),
            ..WorldSpec::new([1; 32])
        })
    }

    #[test]
    fn whoever_signed_the_given_link_is_the_kms_root() {
        let derived = World::new(&[2; 32], DEVELOPMENT_COMPOSE.to_owned(), None).unwrap();
        let (root, link) = derived.app_keys().unwrap();
        let taken = given(root.to_bytes().into(), link.to_vec(), KeyProvider::Kms).unwrap();
        assert_eq!(taken.kms_root_public(), derived.kms_root_public());
        assert_eq!(taken.kms_root_address(), derived.kms_root_address());

        let signed_here = given(root.to_bytes().into(), vec![], KeyProvider::Kms).unwrap();
        let own = World::new(&[1; 32], DEVELOPMENT_COMPOSE.to_owned(), None).unwrap();
        assert_eq!(signed_here.kms_root_public(), own.kms_root_public());
        assert_eq!(signed_here.app_keys().unwrap().1.len(), 65);
    }

    #[test]
    fn app_keys_that_cannot_be_are_refused() {
        let derived = World::new(&[2; 32], DEVELOPMENT_COMPOSE.to_owned(), None).unwrap();
        let (root, link) = derived.app_keys().unwrap();
        let root: [u8; 32] = root.to_bytes().into();
        for break_it in [
            |link: &mut Vec<u8>| link.truncate(64),
            |link: &mut Vec<u8>| link[64] += 27,
            |link: &mut Vec<u8>| link[32..64].fill(0xFE), // a high s
            |link: &mut Vec<u8>| link[..32].fill(0),
        ] {
            let mut link = link.to_vec();
            break_it(&mut link);
            let refused = given(root, link, KeyProvider::Kms);
            assert!(matches!(refused, Err(WorldError::Link(_))));
        }
        assert!(matches!(
            given(root, link.to_vec(), KeyProvider::Local),
            Err(WorldError::LinkWithoutKms(KeyProvider::Local))
        ));
        assert!(matches!(
            given([0xFF; 32], vec![], KeyProvider::Kms),
            Err(WorldError::AppRoot)
        ));
    }

    #[test]
    fn the_provider_of_a_kms_is_named_by_the_root_of_its_certificates() {
        let world = World::new(&[1; 32], DEVELOPMENT_COMPOSE.to_owned(), None).unwrap();
        let root = hex::encode(world.app_ca().unwrap().root_public());
        assert_eq!(
            world.key_provider_info(),
            format!(r#"{{"name":"kms","id":"{root}"}}"#)
        );
    }
}
