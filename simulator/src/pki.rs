//! The simulator's own attestation PKI: root → PCK CA → PCK leaf, all P-256, all from the seed.
//!
//! Rule: the same seed gives the same bytes, and no name in it could be taken for Intel's. It makes what travels
//! inside a quote; TCB info, QE identity and CRLs belong to the Attestation issue.

use crate::keys;
use p256::ecdsa::{Signature, SigningKey, signature::Signer};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyUsagePurpose,
    PublicKeyData, SerialNumber, SignatureAlgorithm,
};

const ORGANISATION: &str = "dstack-simulator NOT INTEL";
const SGX_EXTENSION: [u64; 7] = [1, 2, 840, 113_741, 1, 13, 1];
/// "\xFFSIM\0\x01": cannot be the family of a real processor.
const FMSPC: [u8; 6] = [0xFF, b'S', b'I', b'M', 0, 1];

/// Keys and certificate chain that sign quotes.
pub struct Pki {
    /// The PCK leaf's key: signs QE reports.
    pub pck: SigningKey,
    /// The quoting enclave's key: signs quotes.
    pub attestation: SigningKey,
    /// PEM, leaf ‖ PCK CA ‖ root.
    pub chain_pem: String,
    /// The anchor a verifier must be given on purpose.
    pub root_der: Vec<u8>,
}

impl Pki {
    /// Builds everything from the seed.
    pub fn new(seed: &[u8; 32]) -> Result<Self, rcgen::Error> {
        let pck = keys::p256_from_seed(seed, "pck");
        let root_key = CertKey::new(keys::p256_from_seed(seed, "root-ca"));
        let ca_key = CertKey::new(keys::p256_from_seed(seed, "pck-ca"));

        let root = params(
            "Simulator Root CA",
            1,
            IsCa::Ca(BasicConstraints::Constrained(1)),
        );
        let root_cert = root.self_signed(&root_key)?;
        let root = Issuer::new(root, root_key);

        let ca = params(
            "Simulator PCK Platform CA",
            2,
            IsCa::Ca(BasicConstraints::Constrained(0)),
        );
        let ca_cert = ca.signed_by(&ca_key, &root)?;
        let ca = Issuer::new(ca, ca_key);

        let mut leaf = params("Simulator PCK Certificate", 3, IsCa::ExplicitNoCa);
        leaf.custom_extensions = vec![sgx_extension(seed)];
        let leaf_cert = leaf.signed_by(&CertKey::new(pck.clone()), &ca)?;

        Ok(Self {
            pck,
            attestation: keys::p256_from_seed(seed, "attestation"),
            chain_pem: [leaf_cert.pem(), ca_cert.pem(), root_cert.pem()]
                .map(|pem| pem.replace("\r\n", "\n"))
                .concat(),
            root_der: root_cert.der().to_vec(),
        })
    }
}

/// DER SubjectPublicKeyInfo of a P-256 key.
pub fn spki(key: &SigningKey) -> Vec<u8> {
    CertKey::new(key.clone()).subject_public_key_info()
}

fn params(common_name: &str, serial: u64, is_ca: IsCa) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params
        .distinguished_name
        .push(DnType::OrganizationName, ORGANISATION);
    params.serial_number = Some(SerialNumber::from(serial));
    // fixed dates: the chain must not depend on the day on which a test runs
    params.not_before = rcgen::date_time_ymd(2024, 1, 1);
    params.not_after = rcgen::date_time_ymd(2049, 1, 1);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = match is_ca {
        IsCa::Ca(_) => vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign],
        IsCa::NoCa | IsCa::ExplicitNoCa => vec![KeyUsagePurpose::DigitalSignature],
    };
    params.is_ca = is_ca;
    params
}

/// A P-256 key in the shape that rcgen asks for; RFC 6979, so certificates repeat byte for byte.
pub(crate) struct CertKey {
    pub(crate) key: SigningKey,
    point: Vec<u8>,
}

impl CertKey {
    pub(crate) fn new(key: SigningKey) -> Self {
        let point = key.verifying_key().to_sec1_point(false).as_bytes().to_vec();
        Self { key, point }
    }
}

impl PublicKeyData for CertKey {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for CertKey {
    fn sign(&self, msg: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature: Signature = self.key.sign(msg);
        Ok(signature.to_der().as_bytes().to_vec())
    }
}

/// What a PCK certificate says about its platform (Intel's OID 1.2.840.113741.1.13.1, simulated values).
fn sgx_extension(seed: &[u8; 32]) -> CustomExtension {
    const CPU_SVN: [u8; 16] = [5, 5, 2, 2, 3, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0];
    const PCE_SVN: u8 = 11;
    let identity = keys::from_seed(seed, "ppid", 0);
    let (ppid, platform_instance) = identity.split_at(16);
    let mut tcb: Vec<Vec<u8>> = (1u8..)
        .zip(CPU_SVN)
        .map(|(n, svn)| entry(&[2, n], &der(0x02, &[svn])))
        .collect();
    tcb.push(entry(&[2, 17], &der(0x02, &[PCE_SVN])));
    tcb.push(entry(&[2, 18], &der(0x04, &CPU_SVN)));
    let configuration: Vec<u8> = (1..=3)
        .flat_map(|n| entry(&[7, n], &der(0x01, &[0])))
        .collect();
    let all = [
        entry(&[1], &der(0x04, ppid)),
        entry(&[2], &der(0x30, &tcb.concat())),
        entry(&[3], &der(0x04, &[0, 0])),
        entry(&[4], &der(0x04, &FMSPC)),
        entry(&[5], &der(0x0A, &[1])),
        entry(&[6], &der(0x04, platform_instance)),
        entry(&[7], &der(0x30, &configuration)),
    ];
    CustomExtension::from_oid_content(&SGX_EXTENSION, der(0x30, &all.concat()))
}

/// SEQUENCE { OID 1.2.840.113741.1.13.1.`suffix`, value }
fn entry(suffix: &[u8], value: &[u8]) -> Vec<u8> {
    const PREFIX: [u8; 9] = [0x2A, 0x86, 0x48, 0x86, 0xF8, 0x4D, 0x01, 0x0D, 0x01];
    let oid = der(0x06, &[&PREFIX[..], suffix].concat());
    der(0x30, &[oid, value.to_vec()].concat())
}

/// One DER value; lengths up to 65535, which is far more than certificates of this simulator have.
pub(crate) fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("this crate writes less than 64 KiB");
    let [high, low] = length.to_be_bytes();
    let head = match (high, low) {
        (0, 0..=127) => vec![tag, low],
        (0, _) => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    [head, content.to_vec()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_chain_and_another_seed_another_root() {
        let (a, b) = (Pki::new(&[1; 32]).unwrap(), Pki::new(&[1; 32]).unwrap());
        assert_eq!(a.chain_pem, b.chain_pem);
        assert_ne!(a.root_der, Pki::new(&[2; 32]).unwrap().root_der);
        assert_eq!(a.chain_pem.matches("BEGIN CERTIFICATE").count(), 3);
    }

    #[test]
    fn every_certificate_says_that_it_is_not_intel() {
        let pki = Pki::new(&[1; 32]).unwrap();
        assert!(
            pki.root_der
                .windows(ORGANISATION.len())
                .any(|w| w == ORGANISATION.as_bytes())
        );
        assert!(!String::from_utf8_lossy(&pki.root_der).contains("Intel"));
    }
}
