//! A derived key and what can be seen of it. The secret has no `Debug` and is wiped when dropped.

use k256::ecdsa::SigningKey;
use zeroize::Zeroizing;

/// 32 bytes that are a valid secp256k1 scalar.
#[derive(Clone)]
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
