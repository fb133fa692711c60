//! One booted guest: what its agent knows.

use crate::{
    events::{self, Boot, Event},
    keys,
    quote::{self, Measurements},
    spec::{AppKeys, KeyProvider, Traits},
    world::World,
};
use k256::{ecdsa::SigningKey, elliptic_curve::zeroize::Zeroizing};
use rand_core::{OsRng, RngCore};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// One booted guest.
pub(crate) struct Instance {
    pub world: Arc<World>,
    pub traits: Traits,
    pub id: Option<[u8; 20]>,
    pub log: Vec<Event>,
    pub measured: Measurements,
    pub os_image_hash: [u8; 32],
    app_root: SigningKey,
    app_link: Vec<u8>,
}

impl Instance {
    /// Boots an instance of the app.
    pub fn boot(world: Arc<World>, instance_seed: &[u8; 32], traits: Traits) -> Self {
        let id = world.instance_id(instance_seed);
        let os_image_hash = world.os_image_hash();
        let log = events::boot_log(&Boot {
            app_id: &world.app_id(),
            compose_hash: &world.compose_hash(),
            instance_id: id.as_ref().map_or(&[], |id| &id[..]),
            os_image_hash: &os_image_hash,
            key_provider: world.key_provider_info(),
        });
        let measured = Measurements {
            mr_td: quote::mr_td(),
            mr_config_id: quote::mr_config_id(&world.compose_hash()),
            rtmr: [0, 1, 2, 3].map(|imr| events::replay(&log, imr)),
        };
        let (app_root, app_link) = app_keys(&world, instance_seed);
        Self {
            world,
            traits,
            id,
            log,
            measured,
            os_image_hash,
            app_root,
            app_link,
        }
    }

    /// The 32 bytes of a path: secp256k1 scalar, ed25519 seed and P-256 scalar alike.
    pub fn key(&self, path: &str) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(keys::derive(&self.app_root.to_bytes(), &[path.as_bytes()]))
    }

    /// Both links of a derived public key (its raw bytes) under a purpose; the second is empty without a KMS.
    pub fn signature_chain(&self, purpose: &str, public: &[u8]) -> [Vec<u8>; 2] {
        [
            keys::link_derived(&self.app_root, purpose, public).to_vec(),
            self.app_link.clone(),
        ]
    }

    /// SHA-256(mrtd ‖ rtmr0..3 ‖ mr_config_id ‖ mr_owner ‖ mr_owner_config).
    pub fn mr_aggregated(&self) -> [u8; 32] {
        let mut hash = Sha256::new_with_prefix(self.measured.mr_td);
        self.measured
            .rtmr
            .iter()
            .for_each(|register| hash.update(register));
        hash.chain_update(self.measured.mr_config_id)
            .chain_update([0; 96])
            .finalize()
            .into()
    }

    /// JSON: what the host says about the virtual machine.
    pub fn vm_config(&self) -> String {
        format!(
            concat!(
                r#"{{"spec_version":1,"os_image_hash":"{}","cpu_count":2,"memory_size":2147483648,"#,
                r#""image":"dstack-simulator"}}"#
            ),
            hex::encode(self.os_image_hash)
        )
    }
}

/// The root key of the app as this instance got it, and the KMS link.
fn app_keys(world: &World, instance_seed: &[u8; 32]) -> (SigningKey, Vec<u8>) {
    if let Some((root, link)) = world.app_keys() {
        return (root.clone(), link.to_vec());
    }
    let own = match world.key_provider() {
        KeyProvider::None => {
            let mut seed = Zeroizing::new([0; 32]);
            OsRng.fill_bytes(&mut *seed);
            keys::secp256k1_from_seed(&seed, "app-root")
        }
        KeyProvider::Tpm => keys::secp256k1_from_seed(instance_seed, "app-root-tpm"),
        KeyProvider::Kms | KeyProvider::Local => {
            keys::secp256k1_from_seed(instance_seed, "app-root-local")
        }
    };
    (own, Vec::new())
}

impl AppKeys {
    /// The root as a key; `None` if it is no scalar of the curve.
    pub(crate) fn signing_key(&self) -> Option<SigningKey> {
        SigningKey::from_slice(&*self.root).ok()
    }
}
