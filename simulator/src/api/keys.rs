//! `GetKey`, `Sign` and `Verify`.
//!
//! Rule: the path alone decides the key, one key serves all algorithms, and every signature is reproducible (RFC 6979,
//! RFC 8032), so equal questions have equal answers.

use super::messages::{
    GetKeyArgs, GetKeyResponse, SignRequest, SignResponse, VerifyRequest, VerifyResponse,
};
use crate::{instance::Instance, keys};
use ed25519_dalek as ed25519;
use k256::ecdsa::{
    self, Signature,
    signature::{
        Signer as _, Verifier as _,
        hazmat::{PrehashSigner as _, PrehashVerifier as _},
    },
};

/// The key that `Sign` uses.
const SIGNING_PATH: &str = "vms";
const SIGNING_PURPOSE: &str = "signing";

/// Derives a key and vouches for it.
pub fn get_key(instance: &Instance, args: &GetKeyArgs) -> Result<GetKeyResponse, String> {
    let secret = instance.key(&args.path);
    let public = match args.algorithm.as_str() {
        "" | "secp256k1" | "k256" => keys::compressed(&secp256k1(&secret)?).to_vec(),
        "ed25519" => ed25519::SigningKey::from_bytes(&secret)
            .verifying_key()
            .to_bytes()
            .to_vec(),
        _ => return Err(unsupported()),
    };
    Ok(GetKeyResponse {
        key: secret.to_vec(),
        signature_chain: instance.signature_chain(&args.purpose, &public).into(),
    })
}

/// Signs with the app's signing key.
pub fn sign(instance: &Instance, args: &SignRequest) -> Result<SignResponse, String> {
    let secret = instance.key(SIGNING_PATH);
    let (signature, public_key) = match args.algorithm.as_str() {
        "secp256k1" | "k256" => {
            let key = secp256k1(&secret)?;
            let signature: Signature = key.sign(&args.data);
            (signature.to_vec(), keys::compressed(&key).to_vec())
        }
        "secp256k1_prehashed" => {
            if args.data.len() != 32 {
                return Err(format!(
                    "Pre-hashed signing requires a 32-byte digest, but received {} bytes",
                    args.data.len()
                ));
            }
            let key = secp256k1(&secret)?;
            let signature: Signature = key
                .sign_prehash(&args.data)
                .map_err(|error| error.to_string())?;
            (signature.to_vec(), keys::compressed(&key).to_vec())
        }
        "ed25519" => {
            let key = ed25519::SigningKey::from_bytes(&secret);
            (
                key.sign(&args.data).to_vec(),
                key.verifying_key().to_bytes().to_vec(),
            )
        }
        _ => return Err(unsupported()),
    };
    let [derived, app] = instance.signature_chain(SIGNING_PURPOSE, &public_key);
    Ok(SignResponse {
        signature_chain: vec![signature.clone(), derived, app],
        signature,
        public_key,
    })
}

/// Says whether a signature is good; what is no signature or no key at all is an error.
pub fn verify(args: &VerifyRequest) -> Result<VerifyResponse, String> {
    let valid = match args.algorithm.as_str() {
        "secp256k1" | "k256" => {
            let (key, signature) = secp256k1_pair(args)?;
            key.verify(&args.data, &signature).is_ok()
        }
        "secp256k1_prehashed" => {
            let (key, signature) = secp256k1_pair(args)?;
            key.verify_prehash(&args.data, &signature).is_ok()
        }
        "ed25519" => {
            let public: &[u8; 32] = args.public_key[..]
                .try_into()
                .map_err(|_| "invalid public key")?;
            let key =
                ed25519::VerifyingKey::from_bytes(public).map_err(|error| error.to_string())?;
            let signature = ed25519::Signature::from_slice(&args.signature)
                .map_err(|error| error.to_string())?;
            key.verify(&args.data, &signature).is_ok()
        }
        _ => return Err(unsupported()),
    };
    Ok(VerifyResponse { valid })
}

fn secp256k1(secret: &[u8; 32]) -> Result<ecdsa::SigningKey, String> {
    ecdsa::SigningKey::from_slice(secret).map_err(|_| "Failed to parse k256 key".into())
}

fn secp256k1_pair(args: &VerifyRequest) -> Result<(ecdsa::VerifyingKey, Signature), String> {
    let key = ecdsa::VerifyingKey::from_sec1_bytes(&args.public_key)
        .map_err(|error| error.to_string())?;
    let signature = Signature::from_slice(&args.signature).map_err(|error| error.to_string())?;
    Ok((key, signature))
}

fn unsupported() -> String {
    "Unsupported algorithm".into()
}
