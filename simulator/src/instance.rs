//! One booted guest: what its agent knows.

use crate::{
    authority::Authority,
    events::{self, Boot, Event},
    keys,
    quote::{self, Measurements},
    spec::{AppKeys, KeyProvider, Traits},
    world::World,
};
use k256::{ecdsa::SigningKey, elliptic_curve::zeroize::Zeroizing};
use rand_core::{OsRng, RngCore};
use sha2::{Digest, Sha256};
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};
use tokio::sync::Mutex;

/// One booted guest.
pub(crate) struct Instance {
    pub world: Arc<World>,
    pub traits: Traits,
    pub id: Option<[u8; 20]>,
    pub log: Vec<Event>,
    pub measured: Measurements,
    pub os_image_hash: [u8; 32],
    /// What `Info` shows; made when it is first asked for.
    pub app_cert: OnceLock<String>,
    app_root: SigningKey,
    app_link: Vec<u8>,
    /// `None` if the world has one for all.
    own_ca: Option<Authority>,
    /// How many quotes were begun. Whoever holds the lock has the driver for himself.
    quoting: Arc<Mutex<u64>>,
    requests: AtomicU64,
}

impl Instance {
    /// Boots an instance of the app. Without a key provider nothing of it outlives the boot, so its seed is fresh.
    pub fn boot(world: Arc<World>, disk_seed: &[u8; 32], traits: Traits) -> Self {
        let mut instance_seed = Zeroizing::new(*disk_seed);
        if world.key_provider() == KeyProvider::None {
            OsRng.fill_bytes(&mut *instance_seed);
        }
        let instance_seed = &*instance_seed;
        let id = world.instance_id(instance_seed);
        let os_image_hash = world.os_image_hash();
        let log = events::boot_log(&Boot {
            app_id: &world.app_id(),
            compose_hash: &world.compose_hash(),
            instance_id: id.as_ref().map_or(&[], |id| &id[..]),
            os_image_hash: (world.key_provider() == KeyProvider::Kms).then_some(&os_image_hash),
            key_provider: world.key_provider_info(),
            storage_fs: world.storage_fs(),
        });
        let measured = Measurements {
            mr_td: quote::mr_td(),
            mr_config_id: world.mr_config_id(),
            rtmr: [0, 1, 2, 3].map(|imr| events::replay(&log, imr)),
        };
        let (app_root, app_link) = app_keys(&world, instance_seed);
        let own_ca = world.app_ca().is_none().then(|| {
            Authority::of_instance(instance_seed)
                .expect("this CA differs from one instance to the next in its key alone, which any P-256 key may be")
        });
        Self {
            world,
            traits,
            id,
            log,
            measured,
            os_image_hash,
            app_cert: OnceLock::new(),
            app_root,
            app_link,
            own_ca,
            quoting: Arc::default(),
            requests: AtomicU64::new(0),
        }
    }

    /// Waits for the one driver, takes the time that a quote takes, and says whether there is one: the error is the
    /// text of the answer.
    pub async fn turn(&self) -> Result<(), String> {
        let mut begun = self.quoting.clone().lock_owned().await;
        *begun += 1;
        let fails = every(self.traits.quote_fails_every, *begun);
        let time = self.traits.quote_time;
        if !time.is_zero() {
            // in a task, because a client that goes away does not stop a driver
            let driver = tokio::spawn(async move {
                tokio::time::sleep(time).await;
                drop(begun);
            });
            let _ = driver.await; // it ends early only when the whole process does
        }
        match fails {
            true => Err("Failed to get quote: QuoteFailure".to_owned()),
            false => Ok(()),
        }
    }

    /// Whether this request is one of those that are answered by a closed connection.
    pub fn drops_request(&self) -> bool {
        every(
            self.traits.drop_every,
            self.requests.fetch_add(1, Ordering::Relaxed) + 1,
        )
    }

    /// Who signs the TLS certificates.
    pub fn app_ca(&self) -> &Authority {
        self.own_ca
            .as_ref()
            .or(self.world.app_ca())
            .expect("boot makes a CA if the world has none")
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

/// Whether the `count`-th is one of every n; 0 means none.
fn every(n: u32, count: u64) -> bool {
    n != 0 && count.is_multiple_of(u64::from(n))
}

/// The root key of the app as this instance got it, and the KMS link.
fn app_keys(world: &World, instance_seed: &[u8; 32]) -> (SigningKey, Vec<u8>) {
    if let Some((root, link)) = world.app_keys() {
        return (root.clone(), link.to_vec());
    }
    let label = match world.key_provider() {
        KeyProvider::None => "app-root",
        KeyProvider::Tpm => "app-root-tpm",
        KeyProvider::Kms | KeyProvider::Local => "app-root-local",
    };
    (keys::secp256k1_from_seed(instance_seed, label), Vec::new())
}

impl AppKeys {
    /// The root as a key; `None` if it is no scalar of the curve.
    pub(crate) fn signing_key(&self) -> Option<SigningKey> {
        SigningKey::from_slice(&*self.root).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::WorldSpec;
    use std::time::{Duration, Instant};

    const TIME: Duration = Duration::from_millis(50);

    fn boot(traits: Traits) -> Instance {
        let world = World::build(WorldSpec::new([1; 32])).unwrap();
        Instance::boot(Arc::new(world), &[2; 32], traits)
    }

    #[tokio::test]
    async fn a_quote_that_nobody_waits_for_any_more_keeps_its_turn() {
        let instance = boot(Traits {
            quote_time: TIME,
            ..Traits::default()
        });
        let start = Instant::now();
        tokio::select! {
            biased;
            _ = instance.turn() => panic!("a quote takes its time"),
            () = std::future::ready(()) => {} // the client is gone
        }
        instance.turn().await.unwrap();
        assert!(start.elapsed() >= 2 * TIME, "{:?}", start.elapsed());
    }

    #[test]
    fn every_counts_from_one_and_zero_is_never() {
        let hits = |n| (1..=6).filter(|count| every(n, *count)).collect::<Vec<_>>();
        assert!(hits(0).is_empty());
        assert_eq!(hits(1), [1, 2, 3, 4, 5, 6]);
        assert_eq!(hits(3), [3, 6]);
    }
}
