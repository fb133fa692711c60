//! TLS of a link: mutual, version 1.3 only, one self-signed P-256 certificate per boot that is never stored.
//!
//! A certificate says nothing about who its owner is; names and chains are not looked at. What TLS proves is
//! that the other side *holds* the key it shows (rustls checks the handshake signature, never we) and, once
//! a verified hello has named a member's key, that it is still the same key. Who it is, says the hello
//! (`links`). No resumption and no early data: each session is a full handshake with a fresh exporter.

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    PeerIncompatible, ServerConfig, SignatureScheme,
};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use synod_wire::Hash;

/// Both sides must speak this, so that a link never talks to some other TLS service.
pub const ALPN: &[u8] = b"synod/1";

/// This boot's certificate and key. No `Debug`: it holds the key.
#[derive(Clone)]
pub struct TlsIdentity {
    key: Arc<CertifiedKey>,
    spki: Hash,
    provider: Arc<CryptoProvider>,
}

/// The certificate could not be made; a fault of this machine (no random numbers), not of a peer.
#[derive(Debug, thiserror::Error)]
#[error("cannot make this boot's TLS certificate: {0}")]
pub struct TlsFault(String);

/// Another key than the one that this member's verified hello named.
#[derive(Debug, thiserror::Error)]
#[error(
    "certificate key differs from the one of this member's verified hello: expected {expected}, found {found}"
)]
pub struct PinDiffers {
    /// SHA-256 of the SubjectPublicKeyInfo seen before, in the same incarnation.
    pub expected: Hash,
    /// The one shown now.
    pub found: Hash,
}

impl TlsIdentity {
    /// A fresh key, a fresh certificate.
    pub fn generate() -> Result<Self, TlsFault> {
        let fault = |why: &dyn std::fmt::Display| TlsFault(why.to_string());
        let pair =
            rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|e| fault(&e))?;
        let certificate = rcgen::CertificateParams::new(Vec::new())
            .and_then(|params| params.self_signed(&pair))
            .map_err(|e| fault(&e))?;
        Self::from_parts(certificate.der().clone(), pair.serialized_der()).map_err(|e| fault(&e))
    }

    /// A certificate with any key, fitting or not.
    fn from_parts(certificate: CertificateDer<'static>, pkcs8: &[u8]) -> Result<Self, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8));
        let signer = rustls::crypto::ring::sign::any_ecdsa_type(&secret)?;
        let spki = spki_hash(&certificate)?;
        let key = Arc::new(CertifiedKey::new(vec![certificate], signer));
        Ok(Self {
            key,
            spki,
            provider,
        })
    }

    /// SHA-256 of our SubjectPublicKeyInfo (DER); goes into every hello.
    pub fn spki_hash(&self) -> Hash {
        self.spki
    }

    /// The listening side: a certificate is required, whose it is comes with the hello.
    pub fn accepting(&self) -> Result<Arc<ServerConfig>, TlsFault> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| TlsFault(e.to_string()))?
            .with_client_cert_verifier(Arc::new(self.holder(None)))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&self.key))));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// The dialling side; with a pin, another key is refused inside the handshake.
    pub fn dialling(&self, pin: Option<Hash>) -> Result<Arc<ClientConfig>, TlsFault> {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| TlsFault(e.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(self.holder(pin)))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&self.key))));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        Ok(Arc::new(config))
    }

    fn holder(&self, pin: Option<Hash>) -> Holder {
        Holder {
            algorithms: self.provider.signature_verification_algorithms,
            pin,
        }
    }
}

/// SHA-256 of the SubjectPublicKeyInfo of a certificate that parses.
pub fn spki_hash(certificate: &CertificateDer<'_>) -> Result<Hash, Error> {
    let spki = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
    Ok(Hash(Sha256::digest(spki.as_ref()).into()))
}

/// Who shows a certificate must hold its key, and be the pinned one if there is a pin.
#[derive(Debug)]
struct Holder {
    algorithms: WebPkiSupportedAlgorithms,
    pin: Option<Hash>,
}

impl Holder {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let found = spki_hash(certificate)?;
        match self.pin {
            Some(expected) if expected != found => {
                let why = OtherError(Arc::new(PinDiffers { expected, found }));
                Err(Error::InvalidCertificate(CertificateError::Other(why)))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }
}

/// TLS 1.2 is not configured; should it ever get here, it is refused.
fn refuse_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
}

impl ServerCertVerifier for Holder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Holder {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
impl TlsIdentity {
    /// Shows `other`'s certificate but holds its own key: what a thief of a certificate can do.
    pub(crate) fn impostor_of(other: &Self) -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
        Self::from_parts(other.key.cert[0].clone(), pair.serialized_der()).expect("parts")
    }
}
