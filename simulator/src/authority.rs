//! The certificate authority behind `GetTlsKey`: under a KMS its root CA and an app CA, without one a CA of the
//! instance's own.
//!
//! Rule: names, extensions and derivations are those of dstack, but for the organisation, which says SIMULATED; the
//! same secrets give the same certificates, byte for byte. A CA that is given is taken as it is, once its key fits.

use crate::{
    keys,
    pki::{CertKey, der},
    spec::AppCa,
};
use p256::{ecdsa::SigningKey, pkcs8::DecodePrivateKey as _};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CustomExtension, DistinguishedName, DnType,
    IsCa, Issuer, KeyUsagePurpose, PublicKeyData,
};

/// Organisation of the CAs that are made here.
const ORGANISATION: &str = "Dstack (SIMULATED)";
/// dstack's extension with the app id.
const APP_ID: [u64; 9] = [1, 3, 6, 1, 4, 1, 62_397, 1, 3];
/// dstack's extension that says what a certificate may be used for.
const USAGE: [u64; 9] = [1, 3, 6, 1, 4, 1, 62_397, 1, 4];
/// Most certificates in a chain that is given.
const GIVEN_MAX: usize = 4;
/// Longest PEM text that is read.
const PEM_MAX: usize = 64 * 1024;
/// What every DER SubjectPublicKeyInfo of a P-256 key begins with; 65 bytes of the point follow.
const SPKI_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01, 0x06, 0x08, 0x2A,
    0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const SPKI_LEN: usize = SPKI_HEAD.len() + 65;

/// Why there is no certificate authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The given key is none.
    #[error(
        "expected the app CA's P-256 key as PEM of PKCS#8 (BEGIN PRIVATE KEY), found something else: {0}"
    )]
    Key(String),
    /// The given certificates are none.
    #[error("expected 1 to {GIVEN_MAX} P-256 certificates as PEM, the app CA's first, found: {0}")]
    Certificate(String),
    /// Key and certificate do not belong together.
    #[error(
        "expected the app CA's key to be that of its first certificate, found another public key there; give the pair \
        that belongs together"
    )]
    Pair,
    /// A certificate could not be written.
    #[error("the simulator's own CA certificates could not be made: {0}")]
    Make(#[from] rcgen::Error),
}

/// Signs the TLS certificates of an app.
pub(crate) struct Authority {
    issuer: Issuer<'static, CertKey>,
    chain: Vec<String>,
    root_public: Vec<u8>,
}

impl Authority {
    /// What a KMS sets up for an app: its root CA, and an app CA whose key follows from the root's and the app id.
    pub fn of_kms(seed: &[u8; 32], app_id: &[u8; 20]) -> Result<Self, AuthorityError> {
        let root_key = keys::p256_from_seed(seed, "kms-ca");
        let app_key = keys::derive(&root_key.to_bytes(), &[app_id, b"app-ca"]);
        let app_key = SigningKey::from_slice(&app_key)
            .map_err(|_| AuthorityError::Key("no scalar of the curve".to_owned()))?; // 1 of 2^32
        let root_key = CertKey::new(root_key);
        let root_public = root_key.subject_public_key_info();
        let root = ca("Dstack KMS CA", 1);
        let root_certificate = root.self_signed(&root_key)?;
        let root = Issuer::new(root, root_key);

        let app_key = CertKey::new(app_key);
        let mut app = ca("Dstack App CA", 0);
        app.custom_extensions = vec![octets(&APP_ID, app_id), octets(&USAGE, b"app:ca")];
        let certificate = app.signed_by(&app_key, &root)?;
        Ok(Self {
            issuer: Issuer::new(app, app_key),
            chain: vec![pem(&certificate), pem(&root_certificate)],
            root_public,
        })
    }

    /// What a guest without a KMS makes for itself. The real one also has a quote in its certificate.
    pub fn of_instance(seed: &[u8; 32]) -> Result<Self, AuthorityError> {
        let key = CertKey::new(keys::p256_from_seed(seed, "app-ca"));
        let params = ca("App Root Cert", 1);
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            root_public: key.subject_public_key_info(),
            chain: vec![pem(&certificate)],
            issuer: Issuer::new(params, key),
        })
    }

    /// A CA that was made elsewhere.
    pub fn given(given: &AppCa) -> Result<Self, AuthorityError> {
        let key = SigningKey::from_pkcs8_pem(given.key.trim())
            .map_err(|error| AuthorityError::Key(error.to_string()))?;
        let key = CertKey::new(key);
        let chain = split(&given.certificates)?;
        let publics = chain
            .iter()
            .map(|pem| public_key(pem))
            .collect::<Result<Vec<_>, _>>()?;
        let (Some(signer), Some(first), Some(last)) =
            (chain.first(), publics.first(), publics.last())
        else {
            return Err(AuthorityError::Certificate("none".to_owned()));
        };
        if *first != key.subject_public_key_info() {
            return Err(AuthorityError::Pair);
        }
        Ok(Self {
            issuer: Issuer::from_ca_cert_pem(signer, key)
                .map_err(|error| AuthorityError::Certificate(error.to_string()))?,
            root_public: last.clone(),
            chain,
        })
    }

    /// A certificate over a public key, and everything up to the root: PEM each, the leaf first.
    pub fn issue(
        &self,
        leaf: &CertificateParams,
        public: &impl PublicKeyData,
    ) -> Result<Vec<String>, rcgen::Error> {
        let certificate = leaf.signed_by(public, &self.issuer)?;
        Ok(std::iter::once(pem(&certificate))
            .chain(self.chain.iter().cloned())
            .collect())
    }

    /// DER SubjectPublicKeyInfo of the last certificate of the chain.
    pub fn root_public(&self) -> &[u8] {
        &self.root_public
    }
}

fn ca(common_name: &str, level: u8) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, ORGANISATION);
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    // fixed dates: the chain must not depend on the day on which a test runs
    params.not_before = rcgen::date_time_ymd(1975, 1, 1);
    params.not_after = rcgen::date_time_ymd(2049, 1, 1);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(level));
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
    ];
    params
}

/// An extension whose value is a DER OCTET STRING, as all of dstack's are.
fn octets(oid: &[u64], bytes: &[u8]) -> CustomExtension {
    CustomExtension::from_oid_content(oid, der(0x04, bytes))
}

fn pem(certificate: &Certificate) -> String {
    certificate.pem().replace("\r\n", "\n")
}

/// The certificates in a PEM text, each a text of its own.
fn split(text: &str) -> Result<Vec<String>, AuthorityError> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    if text.len() > PEM_MAX {
        let found = format!("{} bytes, at most {PEM_MAX} are read", text.len());
        return Err(AuthorityError::Certificate(found));
    }
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once(BEGIN) {
        let Some((body, next)) = after.split_once(END) else {
            return Err(AuthorityError::Certificate(format!(
                "a {BEGIN} without its end"
            )));
        };
        found.push(format!("{BEGIN}\n{}\n{END}\n", body.trim()));
        rest = next;
    }
    match found.len() {
        1..=GIVEN_MAX => Ok(found),
        count => Err(AuthorityError::Certificate(format!("{count} certificates"))),
    }
}

/// The one P-256 public key that a certificate holds.
fn public_key(pem: &str) -> Result<Vec<u8>, AuthorityError> {
    let (_, der) = pem_rfc7468::decode_vec(pem.as_bytes())
        .map_err(|error| AuthorityError::Certificate(error.to_string()))?;
    let mut keys = der
        .windows(SPKI_LEN)
        .filter(|window| window.starts_with(&SPKI_HEAD));
    match (keys.next(), keys.next()) {
        (Some(key), None) => Ok(key.to_vec()),
        _ => Err(AuthorityError::Certificate(
            "a certificate that does not hold exactly one P-256 public key".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k256::elliptic_curve::zeroize::Zeroizing;
    use p256::pkcs8::EncodePrivateKey as _;

    fn names(chain: &[String]) -> Vec<String> {
        let text = |der: &[u8]| String::from_utf8_lossy(der).into_owned();
        chain
            .iter()
            .map(|pem| text(&pem_rfc7468::decode_vec(pem.as_bytes()).unwrap().1))
            .collect()
    }

    fn leaf(authority: &Authority) -> Vec<String> {
        let key = CertKey::new(keys::p256_from_seed(&[9; 32], "leaf"));
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        authority.issue(&params, &key).unwrap()
    }

    #[test]
    fn a_kms_gives_three_certificates_that_follow_from_seed_and_app_id() {
        let chain = leaf(&Authority::of_kms(&[1; 32], &[2; 20]).unwrap());
        assert_eq!(chain.len(), 3);
        let texts = names(&chain);
        assert!(texts[0].contains("Dstack App CA"), "the leaf's issuer");
        assert!(texts[1].contains("Dstack App CA") && texts[1].contains("Dstack KMS CA"));
        assert!(texts[1].contains("app:ca") && texts[1].contains("SIMULATED"));
        let again = leaf(&Authority::of_kms(&[1; 32], &[2; 20]).unwrap());
        assert_eq!(chain, again);
        let other = leaf(&Authority::of_kms(&[1; 32], &[3; 20]).unwrap());
        assert_eq!(chain[2], other[2], "one KMS, one root");
        assert_ne!(chain[1], other[1]);
    }

    #[test]
    fn a_given_pair_signs_and_a_pair_that_does_not_fit_is_refused() {
        let own = Authority::of_kms(&[1; 32], &[2; 20]).unwrap();
        let key = own
            .issuer
            .key()
            .key
            .to_pkcs8_pem(Default::default())
            .unwrap();
        let given = AppCa {
            certificates: own.chain.concat(),
            key: Zeroizing::new(key.to_string()),
        };
        let given_authority = Authority::given(&given).unwrap();
        assert_eq!(leaf(&given_authority), leaf(&own));
        assert_eq!(given_authority.root_public(), own.root_public());

        let swapped = AppCa {
            certificates: own.chain.iter().rev().cloned().collect(),
            ..given.clone()
        };
        assert!(matches!(
            Authority::given(&swapped),
            Err(AuthorityError::Pair)
        ));
        for certificates in ["", "-----BEGIN CERTIFICATE-----", "nothing"] {
            let none = AppCa {
                certificates: certificates.to_owned(),
                ..given.clone()
            };
            assert!(matches!(
                Authority::given(&none),
                Err(AuthorityError::Certificate(_))
            ));
        }
        let no_key = AppCa {
            key: Zeroizing::new("no key".to_owned()),
            ..given
        };
        assert!(matches!(
            Authority::given(&no_key),
            Err(AuthorityError::Key(_))
        ));
    }
}
