//! The session key: made in memory at each boot, bound by quote and registration, signs frames,
//! ballots and hellos. Never stored, never printed.

use crate::ids::Address;
use k256::ecdsa::signature::hazmat::{PrehashSigner, PrehashVerifier};
use k256::ecdsa::{RecoveryId, Signature, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize, de::Error as _};
use sha3::{Digest, Keccak256};
use std::fmt;

/// Public half, SEC1 compressed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionPublic(pub [u8; 33]);

/// Secret half. No `Debug`; k256 wipes it on drop.
pub struct SessionKey(SigningKey);

/// The bytes are no secp256k1 key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a secp256k1 key")]
pub struct NotAKey;

impl SessionKey {
    /// From 32 random bytes; refuses 0 and values at or above the group order.
    pub fn from_bytes(secret: &[u8; 32]) -> Result<Self, NotAKey> {
        SigningKey::from_slice(secret)
            .map(Self)
            .map_err(|_| NotAKey)
    }

    /// Public half.
    pub fn public(&self) -> SessionPublic {
        let point = self.0.verifying_key().to_encoded_point(true);
        let mut bytes = [0; 33];
        bytes.copy_from_slice(point.as_bytes());
        SessionPublic(bytes)
    }

    /// ECDSA over a 32-byte digest: r ‖ s with low s.
    pub fn sign(&self, digest: &[u8; 32]) -> [u8; 64] {
        let signature: Signature = self
            .0
            .sign_prehash(digest)
            .expect("a 32-byte prehash is always signed");
        signature
            .normalize_s()
            .unwrap_or(signature)
            .to_bytes()
            .into()
    }

    /// EIP-2098 compact: r ‖ (parity in the top bit, s). What the contract recovers.
    pub fn sign_compact(&self, digest: &[u8; 32]) -> [u8; 64] {
        let (signature, parity) = self
            .0
            .sign_prehash_recoverable(digest)
            .expect("a 32-byte prehash is always signed");
        let mut bytes: [u8; 64] = signature.to_bytes().into();
        if parity.is_y_odd() {
            bytes[32] |= 0x80;
        }
        bytes
    }
}

impl SessionPublic {
    /// From x and the parity of y, as the contract stores it.
    pub fn from_x(x: [u8; 32], y_odd: bool) -> Result<Self, NotAKey> {
        let mut bytes = [0; 33];
        bytes[0] = if y_odd { 3 } else { 2 };
        bytes[1..].copy_from_slice(&x);
        VerifyingKey::from_sec1_bytes(&bytes).map_err(|_| NotAKey)?;
        Ok(Self(bytes))
    }

    /// x ‖ y, 64 bytes.
    pub fn uncompressed(&self) -> Result<[u8; 64], NotAKey> {
        let key = VerifyingKey::from_sec1_bytes(&self.0).map_err(|_| NotAKey)?;
        let point = key.to_encoded_point(false);
        let mut bytes = [0; 64];
        bytes.copy_from_slice(&point.as_bytes()[1..]);
        Ok(bytes)
    }

    /// Last 20 bytes of Keccak-256(x ‖ y).
    pub fn address(&self) -> Result<Address, NotAKey> {
        let digest: [u8; 32] = Keccak256::digest(self.uncompressed()?).into();
        let mut bytes = [0; 20];
        bytes.copy_from_slice(&digest[12..]);
        Ok(Address(bytes))
    }

    /// Did this key sign the digest? High s is refused.
    pub fn verify(&self, digest: &[u8; 32], signature: &[u8; 64]) -> bool {
        let Ok(key) = VerifyingKey::from_sec1_bytes(&self.0) else {
            return false;
        };
        let Ok(signature) = Signature::from_slice(signature) else {
            return false;
        };
        signature.normalize_s().is_none() && key.verify_prehash(digest, &signature).is_ok()
    }

    /// As [`Self::verify`], for the EIP-2098 form.
    pub fn verify_compact(&self, digest: &[u8; 32], compact: &[u8; 64]) -> bool {
        let mut bytes = *compact;
        let parity = bytes[32] & 0x80 != 0;
        bytes[32] &= 0x7f;
        let Ok(signature) = Signature::from_slice(&bytes) else {
            return false;
        };
        let recovered =
            VerifyingKey::recover_from_prehash(digest, &signature, RecoveryId::new(parity, false));
        signature.normalize_s().is_none()
            && recovered.is_ok_and(|key| key.to_encoded_point(true).as_bytes() == self.0)
    }
}

impl fmt::Display for SessionPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for SessionPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for SessionPublic {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for SessionPublic {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = <Vec<u8>>::deserialize(deserializer)?;
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| D::Error::custom("a session key has 33 bytes"))
    }
}
