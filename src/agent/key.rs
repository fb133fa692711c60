//! A derived key and what can be seen of it. The secret has no `Debug` and is wiped when dropped.

use k256::ecdsa::SigningKey;
use zeroize::{ZeroizeOnDrop, Zeroizing};

/// 32 bytes that are a valid secp256k1 scalar.
#[derive(Clone, ZeroizeOnDrop)]
pub struct SecretKey(Zeroizing<[u8; 32]>);

impl SecretKey {
    /// `None` if the bytes are zero or not below the group order.
    pub fn new(bytes: Zeroizing<[u8; 32]>) -> Option<Self> {
        SigningKey::from_slice(&*bytes).ok().map(|_| Self(bytes))
    }

    /// The secret bytes, for whoever signs. Do not copy, print or store them.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// The same secret as a signing key.
    pub fn signing_key(&self) -> SigningKey {
        SigningKey::from_slice(&*self.0).expect("only valid scalars become a SecretKey")
    }
}

/// A key from `GetKey`.
pub struct DerivedKey {
    /// The secret.
    pub secret: SecretKey,
    /// As the agent gave it: app root over key and purpose, KMS root over the app root key (empty without a KMS).
    pub signature_chain: Vec<Vec<u8>>,
}

impl DerivedKey {
    /// SEC1 compressed public key.
    pub fn public_compressed(&self) -> [u8; 33] {
        let mut public = [0; 33];
        public.copy_from_slice(
            self.secret
                .signing_key()
                .verifying_key()
                .to_encoded_point(true)
                .as_bytes(),
        );
        public
    }

    /// x ‖ y of the public key.
    pub fn public_uncompressed(&self) -> [u8; 64] {
        crate::keychain::uncompressed(self.secret.signing_key().verifying_key())
    }

    /// Ethereum address.
    pub fn address(&self) -> [u8; 20] {
        crate::keychain::address(self.secret.signing_key().verifying_key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt;

    /// Does not compile if the type has the trait: then two answers to `which` fit.
    macro_rules! lacks {
        ($type:ty: $($trait:path),+) => {$(
            const _: fn() = || {
                trait Which<Answer> {
                    fn which() {}
                }
                impl<T: ?Sized> Which<()> for T {}
                struct Has;
                impl<T: ?Sized + $trait> Which<Has> for T {}
                <$type as Which<_>>::which();
            };
        )+};
    }

    lacks!(SecretKey: fmt::Debug, fmt::Display, fmt::LowerHex, serde::Serialize, Copy, AsRef<[u8]>);
    lacks!(DerivedKey: fmt::Debug, fmt::Display, fmt::LowerHex, serde::Serialize, Copy, Clone);
    lacks!(crate::transport::Answer: fmt::Debug, fmt::Display, serde::Serialize, Copy, Clone);

    const fn wiped<T: ZeroizeOnDrop>() {}
    const _: () = wiped::<SecretKey>();
    const _: () = wiped::<crate::transport::Body>();

    #[test]
    fn only_scalars_of_the_group_are_keys() {
        let order = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";
        let scalar = |text: &str| {
            let mut bytes = Zeroizing::new([0; 32]);
            hex::decode_to_slice(text, &mut *bytes).unwrap();
            SecretKey::new(bytes)
        };
        assert!(scalar(&"00".repeat(32)).is_none());
        assert!(scalar(order).is_none());
        assert!(scalar(&"ff".repeat(32)).is_none());
        assert!(scalar(&order.replace("4141", "4140")).is_some());
        assert!(scalar(&format!("{:064x}", 1)).is_some());
    }
}
