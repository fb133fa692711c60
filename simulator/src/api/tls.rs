//! `GetTlsKey`: a random key and a certificate of the app's CA over it, with the quote inside if that is asked for.
//!
//! Rule: extensions, their order and the default validity are those of an agent of version 0.5.11, which does not
//! compare the ends of the validity either; the attestation in a certificate commits to its public key.

use super::{
    attestation,
    messages::{GetTlsKeyArgs, GetTlsKeyResponse},
};
use crate::{
    instance::Instance,
    pki::{self, CertKey, der},
    spec::KeyProvider,
};
use k256::elliptic_curve::zeroize::Zeroizing;
use p256::{
    ecdsa::SigningKey,
    pkcs8::{EncodePrivateKey as _, LineEnding},
};
use rand_core::{OsRng, RngCore as _};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType};
use sha2::{Digest as _, Sha512};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const KEY_USAGE: [u64; 4] = [2, 5, 29, 15];
const EXTENDED_KEY_USAGE: [u64; 4] = [2, 5, 29, 37];
/// App id; only in what a KMS signed.
const APP_ID: [u64; 9] = [1, 3, 6, 1, 4, 1, 62_397, 1, 3];
/// What the certificate may be used for.
const USAGE: [u64; 9] = [1, 3, 6, 1, 4, 1, 62_397, 1, 4];
/// A versioned attestation.
const ATTESTATION: [u64; 9] = [1, 3, 6, 1, 4, 1, 62_397, 1, 8];
/// What the event log says about the app.
const APP_INFO: [u64; 9] = [1, 3, 6, 1, 4, 1, 62_397, 1, 9];

const DEFAULT_VALIDITY: Duration = Duration::from_secs(3650 * 24 * 60 * 60);
/// 9999-12-31T23:59:59Z: X.509 has no later time.
const TIME_MAX: u64 = 253_402_300_799;
/// What an agent says before whatever a certificate failed on.
const REFUSED: &str =
    "Failed to sign the CSR: Failed to sign certificate: Failed to sign certificate";

/// Answers `GetTlsKey`.
pub fn tls_key(
    instance: &Instance,
    arguments: &GetTlsKeyArgs,
) -> Result<GetTlsKeyResponse, String> {
    certified(instance, &random_key(), arguments)
}

/// What `Info` shows as `app_cert`: leaf and CAs in one text. It proves nothing, nobody holds its key.
pub fn demo_certificate(instance: &Instance) -> Result<String, String> {
    let wanted = GetTlsKeyArgs {
        subject: "demo-cert".to_owned(),
        usage_ra_tls: true,
        usage_client_auth: true,
        ..GetTlsKeyArgs::default()
    };
    tls_key(instance, &wanted).map(|answer| answer.certificate_chain.join("\n"))
}

/// A key with the certificate that is wanted for it.
pub(super) fn certified(
    instance: &Instance,
    key: &SigningKey,
    wanted: &GetTlsKeyArgs,
) -> Result<GetTlsKeyResponse, String> {
    let public = CertKey::new(key.clone());
    let issue = |named: Option<[u8; 20]>| {
        let params = leaf(instance, key, wanted, named)?;
        let chain = instance.app_ca().issue(&params, &public);
        chain.map_err(|error| format!("{REFUSED}: {error}"))
    };
    let is_kms = instance.world.key_provider() == KeyProvider::Kms;
    let mut certificate_chain = issue(is_kms.then(|| instance.world.app_id()))?;
    if is_kms && certificate_chain.len() == 2 {
        // no root stands behind this CA, so no KMS does, even if the event log names one: it was given, as the official
        // simulator's is, and that one names no app
        certificate_chain = issue(None)?;
    }
    let pem = key
        .to_pkcs8_pem(LineEnding::LF)
        .map_err(|error| format!("Failed to encode the key: {error}"))?;
    Ok(GetTlsKeyResponse {
        certificate_chain,
        key: (*pem).clone(),
    })
}

fn leaf(
    instance: &Instance,
    key: &SigningKey,
    wanted: &GetTlsKeyArgs,
    named: Option<[u8; 20]>,
) -> Result<CertificateParams, String> {
    let mut params = CertificateParams::new(wanted.alt_names.clone())
        .map_err(|error| format!("{REFUSED}: {error}"))?;
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, &wanted.subject);
    if let Some(seconds) = wanted.not_before {
        params.not_before = time("not_before", seconds)?.into();
    } // otherwise rcgen's default, 1975, as in the real agent
    params.not_after = match wanted.not_after {
        Some(seconds) => time("not_after", seconds)?.into(),
        None => (SystemTime::now() + DEFAULT_VALIDITY).into(),
    };
    let mut extensions = usages(wanted);
    if let Some(app_id) = named {
        extensions.push(octets(&APP_ID, &app_id));
    }
    if wanted.with_app_info {
        extensions.push(octets(&APP_INFO, &attestation::app_info(instance)));
    }
    extensions.push(octets(&USAGE, b"app:custom"));
    if wanted.usage_ra_tls {
        let attestation = attestation::stripped(instance, &report_data(key));
        extensions.push(octets(&ATTESTATION, &attestation));
    }
    params.custom_extensions = extensions;
    Ok(params)
}

/// Key usage and, if any is asked for, extended key usage. By hand, because the library of that agent writes the key
/// usage with a byte too many, which strict readers may refuse, and today's does not.
fn usages(wanted: &GetTlsKeyArgs) -> Vec<CustomExtension> {
    const DIGITAL_SIGNATURE: [u8; 5] = [0x03, 0x03, 0x07, 0x80, 0x00];
    const SERVER_AUTH: [u8; 10] = [0x06, 8, 0x2B, 6, 1, 5, 5, 7, 3, 1];
    const CLIENT_AUTH: [u8; 10] = [0x06, 8, 0x2B, 6, 1, 5, 5, 7, 3, 2];
    let mut key_usage = CustomExtension::from_oid_content(&KEY_USAGE, DIGITAL_SIGNATURE.to_vec());
    key_usage.set_criticality(true);
    let purposes: Vec<u8> = [
        (wanted.usage_server_auth, SERVER_AUTH),
        (wanted.usage_client_auth, CLIENT_AUTH),
    ]
    .into_iter()
    .filter_map(|(asked, purpose)| asked.then_some(purpose))
    .flatten()
    .collect();
    let mut extensions = vec![key_usage];
    if !purposes.is_empty() {
        let purposes = der(0x30, &purposes);
        extensions.push(CustomExtension::from_oid_content(
            &EXTENDED_KEY_USAGE,
            purposes,
        ));
    }
    extensions
}

/// What binds a quote to the key of a certificate.
fn report_data(key: &SigningKey) -> [u8; 64] {
    Sha512::new()
        .chain_update(b"ratls-cert:")
        .chain_update(pki::spki(key))
        .finalize()
        .into()
}

/// All of dstack's extensions are DER OCTET STRINGs.
fn octets(oid: &[u64], bytes: &[u8]) -> CustomExtension {
    CustomExtension::from_oid_content(oid, der(0x04, bytes))
}

fn time(name: &str, seconds: u64) -> Result<SystemTime, String> {
    if seconds > TIME_MAX {
        return Err(format!(
            "{REFUSED}: {name} must be at most {TIME_MAX} (the end of the year 9999), found {seconds}"
        ));
    }
    Ok(UNIX_EPOCH + Duration::from_secs(seconds))
}

fn random_key() -> SigningKey {
    let mut secret = Zeroizing::new([0; 32]);
    loop {
        OsRng.fill_bytes(&mut *secret);
        if let Ok(key) = SigningKey::from_slice(&*secret) {
            return key; // the first one, but for 1 of 2^32
        }
    }
}
