//! The six methods of the legacy socket `tappd.sock`.
//!
//! Rule: texts and shapes are those of an agent of version 0.5.11, with its slip: whatever prefix was hashed, the
//! answer names the default one.

use super::{
    Answer, Arguments,
    messages::{
        DeriveK256KeyResponse, DeriveKeyArgs, GetKeyArgs, GetTlsKeyArgs, GetTlsKeyResponse,
        RawQuoteArgs, TdxQuoteArgs, TdxQuoteResponse,
    },
    tls,
};
use crate::{instance::Instance, keys as derivation, quote};
use k256::elliptic_curve::zeroize::Zeroizing;
use p256::ecdsa::SigningKey;
use rand_core::{OsRng, RngCore as _};
use sha2::{Sha256, Sha384, Sha512};
use sha3::{Keccak256, Keccak384, Keccak512, Sha3_256, Sha3_384, Sha3_512};

const DEFAULT_HASH: &str = "sha512";
const DEFAULT_PREFIX: &str = "app-data";
/// The report data is what was sent.
const RAW: &str = "raw";

/// Answers one call on `tappd.sock`. What takes a quote on a real machine waits for its turn.
pub async fn call(instance: &Instance, method: &str, arguments: Arguments<'_>) -> Answer {
    match method {
        "DeriveKey" => arguments.encode(&derive_key(instance, &arguments.read()?).await?),
        "DeriveK256Key" => arguments.encode(&derive_k256_key(instance, &arguments.read()?)?),
        "TdxQuote" => arguments.encode(&tdx_quote(instance, &arguments.read()?).await?),
        "RawQuote" => arguments.encode(&raw_quote(instance, arguments.read()?).await?),
        "Info" => arguments.encode(&super::info::info(instance).await?),
        "Version" => arguments.encode(&super::info::version()),
        _ => Err(format!("Service not found: {method}")),
    }
}

/// A P-256 key that follows from the path (its scalar is what `GetKey` answers), or a random one.
async fn derive_key(
    instance: &Instance,
    args: &DeriveKeyArgs,
) -> Result<GetTlsKeyResponse, String> {
    let secret = if args.random_seed {
        let mut seed = Zeroizing::new([0; 32]);
        OsRng.fill_bytes(&mut *seed);
        Zeroizing::new(derivation::derive(&*seed, &[args.path.as_bytes()]))
    } else {
        instance.key(&args.path)
    };
    let key = SigningKey::from_slice(&*secret)
        .map_err(|error| format!("Failed to derive key: {error}"))?; // 1 of 2^32
    let wanted = GetTlsKeyArgs {
        subject: args.subject.clone(),
        alt_names: args.alt_names.clone(),
        usage_ra_tls: args.usage_ra_tls,
        usage_server_auth: args.usage_server_auth,
        usage_client_auth: args.usage_client_auth,
        ..GetTlsKeyArgs::default()
    };
    instance.turn().await?;
    tls::certified(instance, &key, &wanted)
}

fn derive_k256_key(
    instance: &Instance,
    args: &GetKeyArgs,
) -> Result<DeriveK256KeyResponse, String> {
    let answer = super::keys::get_key(instance, args)?;
    Ok(DeriveK256KeyResponse {
        k256_key: answer.key,
        k256_signature_chain: answer.signature_chain,
    })
}

async fn raw_quote(instance: &Instance, args: RawQuoteArgs) -> Result<TdxQuoteResponse, String> {
    let raw = TdxQuoteArgs {
        report_data: args.report_data,
        hash_algorithm: RAW.to_owned(),
        prefix: String::new(),
    };
    tdx_quote(instance, &raw).await
}

async fn tdx_quote(instance: &Instance, args: &TdxQuoteArgs) -> Result<TdxQuoteResponse, String> {
    let hash = or_default(&args.hash_algorithm, DEFAULT_HASH);
    let prefix = or_default(&args.prefix, DEFAULT_PREFIX);
    let report_data = report_data(hash, prefix, &args.report_data)?;
    instance.turn().await?;
    Ok(TdxQuoteResponse {
        quote: quote::quote(&instance.world.pki, &instance.measured, &report_data),
        event_log: super::quotes::event_log(instance)?,
        hash_algorithm: hash.to_owned(),
        prefix: match hash {
            RAW => String::new(),
            _ => DEFAULT_PREFIX.to_owned(),
        },
    })
}

fn or_default<'a>(text: &'a str, default: &'a str) -> &'a str {
    if text.is_empty() { default } else { text }
}

/// H(prefix ‖ ":" ‖ data), the digest at the left and zeros after it; `raw`: the data, which has to be 64 bytes.
fn report_data(hash: &str, prefix: &str, data: &[u8]) -> Result<[u8; 64], String> {
    let parts = [prefix.as_bytes(), b":", data];
    let digest = match hash {
        RAW => return data.try_into().map_err(|_| "invalid content length".into()),
        "sha256" => digest::<Sha256>(parts),
        "sha384" => digest::<Sha384>(parts),
        "sha512" => digest::<Sha512>(parts),
        "sha3-256" => newer_digest::<Sha3_256>(parts),
        "sha3-384" => newer_digest::<Sha3_384>(parts),
        "sha3-512" => newer_digest::<Sha3_512>(parts),
        "keccak256" => newer_digest::<Keccak256>(parts),
        "keccak384" => newer_digest::<Keccak384>(parts),
        "keccak512" => newer_digest::<Keccak512>(parts),
        _ => return Err("invalid hash algorithm".into()),
    };
    let mut padded = [0; 64];
    padded
        .iter_mut()
        .zip(digest)
        .for_each(|(to, from)| *to = from);
    Ok(padded)
}

fn digest<D: sha2::Digest>(parts: [&[u8]; 3]) -> Vec<u8> {
    let hash = parts
        .iter()
        .fold(D::new(), |hash, part| hash.chain_update(part));
    hash.finalize().to_vec()
}

/// The same for the crate sha3, whose `Digest` is that of a later version.
fn newer_digest<D: sha3::Digest>(parts: [&[u8]; 3]) -> Vec<u8> {
    let hash = parts
        .iter()
        .fold(D::new(), |hash, part| hash.chain_update(part));
    hash.finalize().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_data_are_prefix_colon_data_hashed_and_filled_up_with_zeros() {
        let padded = report_data("sha256", "p", b"x").unwrap();
        let (hash, rest) = padded.split_at(32);
        assert_eq!(hash, &<Sha256 as sha2::Digest>::digest(b"p:x")[..]);
        assert_eq!(rest, [0; 32]);
        let full = report_data("sha512", "p", b"x").unwrap();
        assert_eq!(full[..], <Sha512 as sha2::Digest>::digest(b"p:x")[..]);
    }

    #[test]
    fn raw_takes_64_bytes_and_nothing_else() {
        assert_eq!(report_data(RAW, "p", &[7; 64]), Ok([7; 64]));
        for length in [0, 1, 63, 65, 128] {
            assert_eq!(
                report_data(RAW, "", &vec![7; length]),
                Err("invalid content length".to_owned()),
                "{length}"
            );
        }
        for name in ["md5", "SHA256", "raw ", "sha3-224"] {
            assert_eq!(
                report_data(name, "", &[7; 64]),
                Err("invalid hash algorithm".to_owned()),
                "{name}"
            );
        }
    }
}
