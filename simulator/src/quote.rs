//! TDX quotes, version 4, of a simulated guest.
//!
//! Rule: the layout of hardware to the byte, signed under the simulator's own PKI; only REPORTDATA differs between
//! two quotes of one instance. Two values say at once that no hardware is behind it: the family in the PCK
//! certificate and the user data of the header.

use crate::{keys, pki::Pki, spec::KeyProvider};
use p256::ecdsa::{Signature, SigningKey, signature::Signer};
use sha2::{Digest, Sha256, Sha384};

const HEADER_LEN: usize = 48;
const SIGNED_LEN: usize = 632;
const QE_VENDOR: [u8; 16] = [
    0x93, 0x9A, 0x72, 0x33, 0xF7, 0x9C, 0x4C, 0xA9, 0x94, 0x0A, 0x0D, 0xB3, 0x95, 0x7F, 0x06, 0x07,
];
const USER_DATA: &[u8; 20] = b"SIMULATED, NOT INTEL";
const CPU_SVN: [u8; 16] = [5, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// SEPT_VE_DISABLE and nothing else: no debug, no migration.
const TD_ATTRIBUTES: [u8; 8] = [0, 0, 0, 0x10, 0, 0, 0, 0];
const XFAM: [u8; 8] = [0xE7, 0x02, 0x06, 0, 0, 0, 0, 0];

/// What is measured about one instance.
pub struct Measurements {
    /// Simulated firmware.
    pub mr_td: [u8; 48],
    /// What the guest was launched with, see [`mr_config_id`].
    pub mr_config_id: [u8; 48],
    /// RTMR0 to RTMR3.
    pub rtmr: [[u8; 48]; 4],
}

/// The simulated firmware's measurement: a hash of a sentence.
pub fn mr_td() -> [u8; 48] {
    Sha384::digest(b"dstack-simulator: no firmware was measured").into()
}

/// `mr_config_id` version 1: binds the compose text to the launch of the guest.
pub fn mr_config_id(compose_hash: &[u8; 32]) -> [u8; 48] {
    versioned(1, compose_hash)
}

/// `mr_config_id` version 2: binds app and key provider besides.
pub fn mr_config_id_v2(
    compose_hash: &[u8; 32],
    app_id: &[u8; 20],
    provider: KeyProvider,
    provider_id: &[u8],
) -> [u8; 48] {
    let kind = match provider {
        KeyProvider::None => 0,
        KeyProvider::Local => 1,
        KeyProvider::Kms => 2,
        KeyProvider::Tpm => 3,
    };
    versioned(
        2,
        &keys::keccak(&[compose_hash, app_id, &[kind], provider_id]),
    )
}

/// version ‖ hash ‖ zeros
fn versioned(version: u8, hash: &[u8; 32]) -> [u8; 48] {
    let mut id = [0; 48];
    let (first, rest) = id.split_at_mut(1);
    first.copy_from_slice(&[version]);
    rest.split_at_mut(32).0.copy_from_slice(hash);
    id
}

/// A whole quote over this report data.
pub fn quote(pki: &Pki, measured: &Measurements, report_data: &[u8; 64]) -> Vec<u8> {
    let mut quote = header();
    quote.extend(body(measured, report_data));
    assert_eq!(
        quote.len(),
        SIGNED_LEN,
        "header and body of a version 4 quote are 632 bytes"
    );
    let signature = sign(&pki.attestation, &quote);

    let attestation_key = raw_public(&pki.attestation);
    let auth_data: Vec<u8> = (0..32).collect();
    let qe_report = qe_report(&attestation_key, &auth_data);
    let chain = pki.chain_pem.as_bytes();

    let certification = [
        &qe_report[..],
        &sign(&pki.pck, &qe_report),
        &[32, 0],
        &auth_data,
        &typed(5, chain.len()),
        chain,
    ]
    .concat();
    let signed = [
        &signature[..],
        &attestation_key,
        &typed(6, certification.len()),
        &certification,
    ]
    .concat();
    quote.extend(length(signed.len()));
    quote.extend(signed);
    quote
}

fn header() -> Vec<u8> {
    let fixed = [4u8, 0, 2, 0, 0x81, 0, 0, 0, 0, 0, 0, 0]; // version 4, ECDSA P-256, TDX, SVNs zero
    let header = [&fixed[..], &QE_VENDOR, USER_DATA].concat();
    assert_eq!(header.len(), HEADER_LEN, "a quote header is 48 bytes");
    header
}

fn body(measured: &Measurements, report_data: &[u8; 64]) -> Vec<u8> {
    let mr_seam: [u8; 48] = Sha384::digest(b"dstack-simulator: no TDX module").into();
    let zero = [0u8; 48];
    let mut body = [
        &CPU_SVN[..],
        &mr_seam,
        &zero, // MRSIGNERSEAM
        &[0; 8],
        &TD_ATTRIBUTES,
        &XFAM,
        &measured.mr_td,
        &measured.mr_config_id,
        &zero, // MROWNER
        &zero, // MROWNERCONFIG
    ]
    .concat();
    body.extend(measured.rtmr.iter().flatten());
    body.extend(report_data);
    body
}

/// The quoting enclave's report: vouches for the attestation key by its hash.
fn qe_report(attestation_key: &[u8; 64], auth_data: &[u8]) -> Vec<u8> {
    let mut report = vec![0u8; 384];
    let mut put = |at: usize, bytes: &[u8]| {
        report
            .iter_mut()
            .skip(at)
            .zip(bytes)
            .for_each(|(to, from)| *to = *from)
    };
    put(0, &CPU_SVN);
    put(48, &[0x15, 0, 0, 0, 0, 0, 0, 0, 0xE7]);
    put(64, &Sha256::digest(b"dstack-simulator: no quoting enclave"));
    put(
        128,
        &Sha256::digest(b"dstack-simulator: signer of no enclave"),
    );
    put(256, &[2, 0, 6, 0]);
    put(
        320,
        &Sha256::new()
            .chain_update(attestation_key)
            .chain_update(auth_data)
            .finalize(),
    );
    report
}

fn raw_public(key: &SigningKey) -> [u8; 64] {
    let mut raw = [0; 64];
    raw.copy_from_slice(
        key.verifying_key()
            .to_sec1_point(false)
            .as_bytes()
            .split_at(1)
            .1,
    );
    raw
}

fn sign(key: &SigningKey, message: &[u8]) -> [u8; 64] {
    let signature: Signature = key.sign(message);
    signature.to_bytes().into()
}

fn typed(kind: u16, len: usize) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &length(len)].concat()
}

fn length(len: usize) -> [u8; 4] {
    u32::try_from(len)
        .expect("a simulated quote has a few kilobytes")
        .to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use p256::ecdsa::{VerifyingKey, signature::Verifier};

    fn check(key: &VerifyingKey, message: &[u8], signature: &[u8]) -> bool {
        key.verify(message, &Signature::from_slice(signature).unwrap())
            .is_ok()
    }

    #[test]
    fn each_part_of_the_second_mr_config_id_enters_it() {
        let id = mr_config_id_v2(&[1; 32], &[2; 20], KeyProvider::Kms, b"id");
        let text = [&[1; 32][..], &[2; 20], &[2], b"id"].concat();
        assert_eq!(id[0], 2);
        assert_eq!(id[1..33], keys::keccak(&[&text]));
        assert_eq!(id[33..], [0; 15]);
        for other in [
            mr_config_id_v2(&[9; 32], &[2; 20], KeyProvider::Kms, b"id"),
            mr_config_id_v2(&[1; 32], &[9; 20], KeyProvider::Kms, b"id"),
            mr_config_id_v2(&[1; 32], &[2; 20], KeyProvider::Tpm, b"id"),
            mr_config_id_v2(&[1; 32], &[2; 20], KeyProvider::Kms, b""),
        ] {
            assert_ne!(id, other);
        }
    }

    #[test]
    fn each_signature_of_a_quote_verifies_and_a_flipped_bit_breaks_the_first() {
        let pki = Pki::new(&[1; 32]).unwrap();
        let measured = Measurements {
            mr_td: mr_td(),
            mr_config_id: mr_config_id(&[9; 32]),
            rtmr: [[7; 48]; 4],
        };
        let mut q = quote(&pki, &measured, &[0x42; 64]);
        assert_eq!(q[568..632], [0x42; 64]);
        assert_eq!(q[232..266], [&[1][..], &[9; 32], &[0]].concat());

        let attestation = VerifyingKey::from_sec1_bytes(&[&[4], &q[700..764]].concat()).unwrap();
        assert!(check(&attestation, &q[..632], &q[636..700]));
        assert!(check(
            pki.pck.verifying_key(),
            &q[770..1154],
            &q[1154..1218]
        ));
        let expected = Sha256::new()
            .chain_update(&q[700..764])
            .chain_update(&q[1220..1252])
            .finalize();
        assert_eq!(q[770 + 320..770 + 352], expected[..]);

        let end = 636 + u32::from_le_bytes(q[632..636].try_into().unwrap()) as usize;
        assert_eq!(end, q.len());
        assert_eq!(q[1252..1254], [5, 0]);
        assert_eq!(&q[1258..], pki.chain_pem.as_bytes());

        q[600] ^= 1;
        assert!(!check(&attestation, &q[..632], &q[636..700]));
    }
}
