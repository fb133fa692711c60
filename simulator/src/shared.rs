//! A secret that several machines share, and what follows from it: one value per label, by HKDF-SHA256 (RFC 5869).
//!
//! Rule: the secret itself is only ever put in; what comes out is derived, and neither has a `Debug`. Both are
//! wiped when they are dropped.

use hkdf::Hkdf;
use k256::elliptic_curve::zeroize::Zeroizing;
use sha2::Sha256;

/// Keeps these values apart from every other use of the same bytes.
const SALT: &[u8] = b"synod-shared-secret/v1";

/// `N` secret bytes that machines agree on beforehand.
pub struct SharedSecret<const N: usize>(Zeroizing<[u8; N]>);

impl<const N: usize> SharedSecret<N> {
    /// Takes the bytes over.
    pub fn new(bytes: [u8; N]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, for whoever writes them down for people. Do not copy or send them.
    pub fn expose(&self) -> &[u8; N] {
        &self.0
    }

    /// 32 bytes that depend on the secret and the label: who has one of them knows neither the secret nor another.
    pub fn derive(&self, label: &str) -> Zeroizing<[u8; 32]> {
        let mut derived = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(Some(SALT), &*self.0)
            .expand(label.as_bytes(), &mut *derived)
            .expect("32 bytes are far below the limit of 255 hashes");
        derived
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_secrets_are_kept_apart_and_the_bytes_are_those_of_rfc_5869() {
        let secret = SharedSecret::new([7; 10]);
        let seed = secret.derive("seed");
        assert_ne!(*seed, *secret.derive("door"));
        assert_ne!(*seed, *SharedSecret::new([8; 10]).derive("seed"));
        // python3: hmac(hmac(SALT, ikm), b"seed" + b"\1")
        assert_eq!(hex::encode(*seed), GOLDEN);
    }

    const GOLDEN: &str = "1097a7ca4169ee92488f1180776e95ddc617f3b1154c89234e4f3baab7bdb8b5";
}
