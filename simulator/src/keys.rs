//! Key derivation and the signature chain of the guest agent: KMS root → app root key → derived key.
//!
//! Rule: byte for byte what the real agent makes (HKDF-SHA256 with salt `RATLS`, recoverable low-s signatures over
//! Keccak-256, RFC 6979 nonces); the recorded pairs of a real agent are the test.

use hkdf::Hkdf;
use k256::ecdsa::{RecoveryId, Signature, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};
use sha3::Keccak256;

const SALT: &[u8] = b"RATLS";
/// What a KMS root puts before an app id and an app root key when it vouches for them.
const LINK_APP: &[u8] = b"dstack-kms-issued:";

/// 32 bytes that depend on the seed and on what they are for, and on nothing else.
pub fn from_seed(seed: &[u8; 32], label: &str, counter: u32) -> [u8; 32] {
    Sha256::new()
        .chain_update(b"dstack-simulator/v1\0")
        .chain_update(seed)
        .chain_update([0])
        .chain_update(label.as_bytes())
        .chain_update([0])
        .chain_update(counter.to_be_bytes())
        .finalize()
        .into()
}

/// The first valid secp256k1 key of this seed and label.
pub fn secp256k1_from_seed(seed: &[u8; 32], label: &str) -> SigningKey {
    (0..)
        .find_map(|counter| SigningKey::from_slice(&from_seed(seed, label, counter)).ok())
        .expect("one of two hash values is a valid scalar, with 1 - 2^-128 already the first")
}

/// The first valid P-256 key of this seed and label.
pub fn p256_from_seed(seed: &[u8; 32], label: &str) -> p256::ecdsa::SigningKey {
    (0..)
        .find_map(|counter| {
            p256::ecdsa::SigningKey::from_slice(&from_seed(seed, label, counter)).ok()
        })
        .expect("one of two hash values is a valid scalar, with 1 - 2^-32 already the first")
}

/// `HKDF-SHA256(salt "RATLS", ikm, info)`, 32 bytes: every derivation of dstack.
pub fn derive(ikm: &[u8], info: &[&[u8]]) -> [u8; 32] {
    let mut okm = [0; 32];
    Hkdf::<Sha256>::new(Some(SALT), ikm)
        .expand_multi_info(info, &mut okm)
        .expect("32 bytes are far below the limit of 255 hashes");
    okm
}

/// The app root key: what the KMS hands to an allowed app.
pub fn app_root(kms_root: &SigningKey, app_id: &[u8; 20]) -> Option<SigningKey> {
    SigningKey::from_slice(&derive(&kms_root.to_bytes(), &[app_id, b"app-key"])).ok()
}

/// First link: the app root key vouches for a derived public key and a purpose.
pub fn link_derived(app_root: &SigningKey, purpose: &str, public: &[u8]) -> [u8; 65] {
    sign(
        app_root,
        &[purpose.as_bytes(), b":", hex::encode(public).as_bytes()],
    )
}

/// Second link: the KMS root vouches for the app root key of an app id.
pub fn link_app(kms_root: &SigningKey, app_id: &[u8; 20], app_root: &SigningKey) -> [u8; 65] {
    sign(kms_root, &[LINK_APP, app_id, &compressed(app_root)])
}

/// A second link that was made elsewhere.
pub struct Link<'a>(pub &'a [u8]);

impl Link<'_> {
    /// Who vouches with it for the app root key of an app id; the error says what was found instead of a link.
    pub fn signer(&self, app_id: &[u8; 20], app_root: &SigningKey) -> Result<VerifyingKey, String> {
        let (rs, v) = match self.0.split_at_checked(64) {
            Some((rs, [v @ (0 | 1)])) => (rs, *v),
            Some((_, [v])) => return Err(format!("v = {v}")),
            Some(_) | None => return Err(format!("{} bytes", self.0.len())),
        };
        let signature = Signature::from_slice(rs).map_err(|_| "no signature".to_owned())?;
        if signature.normalize_s().is_some() {
            return Err("a high s".to_owned());
        }
        let digest = keccak(&[LINK_APP, app_id, &compressed(app_root)]);
        let recovery = RecoveryId::new(v == 1, false);
        VerifyingKey::recover_from_prehash(&digest, &signature, recovery)
            .map_err(|_| "a signature that leads to no key".to_owned())
    }
}

/// SEC1 compressed public key.
pub fn compressed(key: &SigningKey) -> [u8; 33] {
    point(key.verifying_key())
}

/// SEC1 compressed form of a public key.
pub fn point(key: &VerifyingKey) -> [u8; 33] {
    let mut public = [0; 33];
    public.copy_from_slice(key.to_encoded_point(true).as_bytes());
    public
}

/// Ethereum address of a public key.
pub fn address_of(key: &VerifyingKey) -> [u8; 20] {
    let point = key.to_encoded_point(false);
    let hash = keccak(&[point.as_bytes().split_at(1).1]);
    let mut address = [0; 20];
    address.copy_from_slice(hash.split_at(12).1);
    address
}

/// r ‖ s ‖ v over the Keccak-256 of the parts, v 0 or 1.
fn sign(key: &SigningKey, parts: &[&[u8]]) -> [u8; 65] {
    let digest = keccak(parts);
    let (signature, recovery) = key
        .sign_prehash_recoverable(&digest)
        .expect("a 32-byte digest can be signed by every key");
    let mut out = [0; 65];
    let (rs, v) = out.split_at_mut(64);
    rs.copy_from_slice(&signature.to_bytes());
    v.copy_from_slice(&[recovery.to_byte()]);
    out
}

pub(crate) fn keccak(parts: &[&[u8]]) -> [u8; 32] {
    use sha3::Digest; // another version of the trait than that of sha2
    parts
        .iter()
        .fold(Keccak256::default(), |hash, part| hash.chain_update(part))
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    // a public fixture of the official simulator, recorded (specification, "key derivation")
    const APP_ROOT: &str = "d6e88992cdeeee35fe70b5db61ab66cdb191fb9b6ec9313757ef162dd7214d5d";

    #[test]
    fn a_derived_key_and_its_first_link_are_byte_equal_to_a_recorded_agent() {
        let root = SigningKey::from_slice(&hex::decode(APP_ROOT).unwrap()).unwrap();
        let key = derive(&root.to_bytes(), &[b"wallet/ethereum"]);
        assert_eq!(
            hex::encode(key),
            "abc24a0a6485cfceb30932bcfc9c3b918eab2216d8619c423a0d1017390938ef"
        );
        let key = SigningKey::from_slice(&key).unwrap();
        assert_eq!(
            hex::encode(address_of(key.verifying_key())),
            "28815c306c03f3ec521572de8e46e18a27c7545f"
        );
        assert_eq!(
            hex::encode(link_derived(&root, "mainnet", &compressed(&key))),
            "ff57816e9cdd93c170db1e976c787533046392e90f7b3834f15f03f771e364941220f49f266a2bd293a289871a56f4dd81b1dec22d23d9d177862f5c398a317201"
        );
    }

    #[test]
    fn the_app_root_key_and_its_link_follow_the_formulas_of_the_kms() {
        // worked out from the formulas with other code and a made-up root; not recorded
        let root = SigningKey::from_slice(&[0x11; 32]).unwrap();
        let app = app_root(&root, &[0x22; 20]).unwrap();
        assert_eq!(
            hex::encode(compressed(&app)),
            "028bc4c15736b15843298c901dcdcea95be0d47e3adb0c9e36c3c4543d8e46f6a3"
        );
        assert_eq!(
            hex::encode(link_app(&root, &[0x22; 20], &app)),
            "c503d703f5fa1802eb2dcee55ba0dc7fe9bb18c8fc3aff41076d674ee3b47f4600335b7d1bdb987ab27be8167267203a55c8de8910635db3f4d3f491698cd01e00"
        );
    }

    #[test]
    fn labels_keep_keys_apart() {
        assert_ne!(from_seed(&[7; 32], "a", 0), from_seed(&[7; 32], "b", 0));
        assert_ne!(from_seed(&[7; 32], "a", 0), from_seed(&[8; 32], "a", 0));
        assert_ne!(from_seed(&[7; 32], "a", 0), from_seed(&[7; 32], "a", 1));
    }

    #[test]
    fn every_recorded_secp256k1_key_of_a_real_agent_is_reproduced() {
        use std::io::Write as _;
        let dir =
            std::env::var("SYNOD_VECTORS").unwrap_or_else(|_| "../../shared/vectors".to_owned());
        let Ok(text) = std::fs::read_to_string(format!("{dir}/dstack/key_derivation.json")) else {
            assert!(
                std::env::var("SYNOD_CI").is_err(),
                "SYNOD_CI is set and there are no vectors in {dir}"
            );
            writeln!(
                std::io::stderr(),
                "SKIPPED every_recorded_secp256k1_key_of_a_real_agent_is_reproduced: vectors not found"
            )
            .ok();
            return;
        };
        let vectors: serde_json::Value = serde_json::from_str(&text).unwrap();
        let root = SigningKey::from_slice(&hex::decode(APP_ROOT).unwrap()).unwrap();
        let mut compared = 0;
        for row in vectors["observed_and_recomputed"].as_array().unwrap() {
            if row["algorithm"] != "secp256k1" {
                continue;
            }
            let text = |name: &str| row[name].as_str().unwrap().to_owned();
            let path = match text("path").as_str() {
                "a repeated 4096 times" => "a".repeat(4096), // the recording abbreviates it
                path => path.to_owned(),
            };
            let key = derive(&root.to_bytes(), &[path.as_bytes()]);
            assert_eq!(hex::encode(key), text("key"), "{row}");
            let public = compressed(&SigningKey::from_slice(&key).unwrap());
            assert_eq!(hex::encode(public), text("public_key"), "{row}");
            assert_eq!(
                hex::encode(link_derived(&root, &text("purpose"), &public)),
                text("link0"),
                "{row}"
            );
            compared += 1;
        }
        assert!(compared >= 10, "only {compared} rows were compared");
    }
}
