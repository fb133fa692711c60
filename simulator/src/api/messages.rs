//! Arguments and answers of all methods, as both encodings carry them.
//!
//! Rule: names and order of fields are the JSON of a real agent of version 0.5.11, tags are its protobuf numbers;
//! bytes are lower-case hex in JSON. A type name is part of the wire too: the agent's JSON errors print it.
//!
//! What holds a key does not print itself.

use prost::Message;
use serde::{Deserialize, Serialize};

/// Arguments of `GetKey` and of tappd's `DeriveK256Key`.
#[derive(Clone, PartialEq, Serialize, Deserialize, Message)]
#[serde(default)]
pub struct GetKeyArgs {
    /// What the key is derived from.
    #[prost(string, tag = "1")]
    pub path: String,
    /// What the first link of the chain vouches for.
    #[prost(string, tag = "2")]
    pub purpose: String,
    /// `secp256k1` (or `k256`, or nothing), `ed25519`.
    #[prost(string, tag = "3")]
    pub algorithm: String,
}

/// Answer of `GetKey`.
#[derive(Clone, PartialEq, Serialize, Deserialize, Message)]
#[prost(skip_debug)]
pub struct GetKeyResponse {
    /// 32 bytes.
    #[prost(bytes = "vec", tag = "1")]
    #[serde(with = "hex_bytes")]
    pub key: Vec<u8>,
    /// App root over derived key, KMS root over app root (empty without a KMS).
    #[prost(bytes = "vec", repeated, tag = "2")]
    #[serde(with = "hex_list")]
    pub signature_chain: Vec<Vec<u8>>,
}

/// Answer of tappd's `DeriveK256Key`.
#[derive(Clone, PartialEq, Serialize, Deserialize, Message)]
#[prost(skip_debug)]
pub struct DeriveK256KeyResponse {
    /// As `key` of `GetKey`.
    #[prost(bytes = "vec", tag = "1")]
    #[serde(with = "hex_bytes")]
    pub k256_key: Vec<u8>,
    /// As `signature_chain` of `GetKey`.
    #[prost(bytes = "vec", repeated, tag = "2")]
    #[serde(with = "hex_list")]
    pub k256_signature_chain: Vec<Vec<u8>>,
}

/// Arguments of `GetQuote`, `Attest` and of tappd's `RawQuote`.
#[derive(Clone, PartialEq, Serialize, Deserialize, Message)]
#[serde(default)]
pub struct RawQuoteArgs {
    /// Up to 64 bytes; exactly 64 for tappd.
    #[prost(bytes = "vec", tag = "1")]
    #[serde(with = "hex_bytes")]
    pub report_data: Vec<u8>,
}

/// Answer of `GetQuote`.
#[derive(Clone, PartialEq, Serialize, Deserialize, Message)]
pub struct GetQuoteResponse {
    /// A TDX quote, version 4.
    #[prost(bytes = "vec", tag = "1")]
    #[serde(with = "hex_bytes")]
    pub quote: Vec<u8>,
    /// JSON: an array of events.
    #[prost(string, tag = "2")]
    pub event_log: String,
    /// The 64 bytes in the quote.
    #[prost(bytes = "vec", tag = "3")]
    #[serde(with = "hex_bytes")]
    pub report_data: Vec<u8>,
    /// JSON: what the host says about the machine.
    #[prost(string, tag = "4")]
    pub vm_config: String,
}

/// Answer of `Attest`.
#[derive(Clone, PartialEq, Serialize, Deserialize, Message)]
pub struct AttestResponse {
    /// A versioned attestation.
    #[prost(bytes = "vec", tag = "1")]
    #[serde(with = "hex_bytes")]
    pub attestation: Vec<u8>,
}

/// Arguments of `GetTlsKey`.
#[derive(Clone, PartialEq, Serialize, Deserialize, Message)]
#[serde(default)]
pub struct GetTlsKeyArgs {
    /// Common name.
    #[prost(string, tag = "1")]
    pub subject: String,
    /// DNS names or IP addresses.
    #[prost(string, repeated, tag = "2")]
    pub alt_names: Vec<String>,
    /// Whether the certificate holds an attestation.
    #[prost(bool, tag = "3")]
    pub usage_ra_tls: bool,
    /// Extended key usage.
    #[prost(bool, tag = "4")]
    pub usage_server_auth: bool,
    /// Extended key usage.
    #[prost(bool, tag = "5")]
    pub usage_client_auth: bool,
    /// Seconds since 1970.
    #[prost(uint64, optional, tag = "6")]
    pub not_before: Option<u64>,
    /// Seconds since 1970.
    #[prost(uint64, optional, tag = "7")]
    pub not_after: Option<u64>,
    /// Whether the certificate tells about the app.
    #[prost(bool, tag = "8")]
    pub with_app_info: bool,
}

/// Answer of `GetTlsKey` and of tappd's `DeriveKey`.
#[derive(Clone, PartialEq, Serialize, Deserialize, Message)]
#[prost(skip_debug)]
pub struct GetTlsKeyResponse {
    /// PEM, PKCS#8.
    #[prost(string, tag = "1")]
    pub key: String,
    /// PEM each, leaf first.
    #[prost(string, repeated, tag = "2")]
    pub certificate_chain: Vec<String>,
}

/// Arguments of tappd's `DeriveKey`.
#[derive(Clone, PartialEq, Serialize, Deserialize, Message)]
#[serde(default)]
pub struct DeriveKeyArgs {
    /// What the key is derived from.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Common name.
    #[prost(string, tag = "2")]
    pub subject: String,
    /// DNS names or IP addresses.
    #[prost(string, repeated, tag = "3")]
    pub alt_names: Vec<String>,
    /// Whether the certificate holds an attestation.
    #[prost(bool, tag = "4")]
    pub usage_ra_tls: bool,
    /// Extended key usage.
    #[prost(bool, tag = "5")]
    pub usage_server_auth: bool,
    /// Extended key usage.
    #[prost(bool, tag = "6")]
    pub usage_client_auth: bool,
    /// A random key instead of the one of the path.
    #[prost(bool, tag = "7")]
    pub random_seed: bool,
}

/// Arguments of tappd's `TdxQuote`.
#[derive(Clone, PartialEq, Serialize, Deserialize, Message)]
#[serde(default)]
pub struct TdxQuoteArgs {
    /// What is hashed, or the 64 bytes themselves for `raw`.
    #[prost(bytes = "vec", tag = "1")]
    #[serde(with = "hex_bytes")]
    pub report_data: Vec<u8>,
    /// Default `sha512`.
    #[prost(string, tag = "2")]
    pub hash_algorithm: String,
    /// Default `app-data`.
    #[prost(string, tag = "3")]
    pub prefix: String,
}

/// Answer of tappd's `TdxQuote` and `RawQuote`.
#[derive(Clone, PartialEq, Serialize, Deserialize, Message)]
pub struct TdxQuoteResponse {
    /// A TDX quote, version 4.
    #[prost(bytes = "vec", tag = "1")]
    #[serde(with = "hex_bytes")]
    pub quote: Vec<u8>,
    /// JSON: an array of events.
    #[prost(string, tag = "2")]
    pub event_log: String,
    /// What was used.
    #[prost(string, tag = "3")]
    pub hash_algorithm: String,
    /// What was used, or what this version says was.
    #[prost(string, tag = "4")]
    pub prefix: String,
}

/// Arguments of `EmitEvent`.
#[derive(Clone, PartialEq, Serialize, Deserialize, Message)]
#[serde(default)]
pub struct EmitEventArgs {
    /// Name.
    #[prost(string, tag = "1")]
    pub event: String,
    /// Bytes.
    #[prost(bytes = "vec", tag = "2")]
    #[serde(with = "hex_bytes")]
    pub payload: Vec<u8>,
}

/// Answer of `Info`, on both sockets.
#[derive(Clone, PartialEq, Serialize, Deserialize, Message)]
pub struct AppInfo {
    /// 20 bytes.
    #[prost(bytes = "vec", tag = "1")]
    #[serde(with = "hex_bytes")]
    pub app_id: Vec<u8>,
    /// 20 bytes, or none.
    #[prost(bytes = "vec", tag = "2")]
    #[serde(with = "hex_bytes")]
    pub instance_id: Vec<u8>,
    /// PEM chain.
    #[prost(string, tag = "3")]
    pub app_cert: String,
    /// JSON, pretty-printed.
    #[prost(string, tag = "4")]
    pub tcb_info: String,
    /// From the compose text.
    #[prost(string, tag = "5")]
    pub app_name: String,
    /// SHA-256 of nothing.
    #[prost(bytes = "vec", tag = "8")]
    #[serde(with = "hex_bytes")]
    pub device_id: Vec<u8>,
    /// SHA-256 over the measurements.
    #[prost(bytes = "vec", tag = "9")]
    #[serde(with = "hex_bytes")]
    pub mr_aggregated: Vec<u8>,
    /// SHA-256, or nothing.
    #[prost(bytes = "vec", tag = "10")]
    #[serde(with = "hex_bytes")]
    pub os_image_hash: Vec<u8>,
    /// JSON.
    #[prost(string, tag = "12")]
    pub key_provider_info: String,
    /// SHA-256 of the compose text.
    #[prost(bytes = "vec", tag = "13")]
    #[serde(with = "hex_bytes")]
    pub compose_hash: Vec<u8>,
    /// JSON.
    #[prost(string, tag = "14")]
    pub vm_config: String,
    /// Of the host.
    #[prost(string, tag = "15")]
    pub cloud_vendor: String,
    /// Of the host.
    #[prost(string, tag = "16")]
    pub cloud_product: String,
}

/// Arguments of `Sign`.
#[derive(Clone, PartialEq, Serialize, Deserialize, Message)]
#[serde(default)]
pub struct SignRequest {
    /// `secp256k1` (or `k256`), `secp256k1_prehashed`, `ed25519`.
    #[prost(string, tag = "1")]
    pub algorithm: String,
    /// What is signed.
    #[prost(bytes = "vec", tag = "2")]
    #[serde(with = "hex_bytes")]
    pub data: Vec<u8>,
}

/// Answer of `Sign`.
#[derive(Clone, PartialEq, Serialize, Deserialize, Message)]
pub struct SignResponse {
    /// 64 bytes.
    #[prost(bytes = "vec", tag = "1")]
    #[serde(with = "hex_bytes")]
    pub signature: Vec<u8>,
    /// The signature, and the two links of the signing key.
    #[prost(bytes = "vec", repeated, tag = "2")]
    #[serde(with = "hex_list")]
    pub signature_chain: Vec<Vec<u8>>,
    /// Of the signing key.
    #[prost(bytes = "vec", tag = "3")]
    #[serde(with = "hex_bytes")]
    pub public_key: Vec<u8>,
}

/// Arguments of `Verify`.
#[derive(Clone, PartialEq, Serialize, Deserialize, Message)]
#[serde(default)]
pub struct VerifyRequest {
    /// As for `Sign`.
    #[prost(string, tag = "1")]
    pub algorithm: String,
    /// What was signed.
    #[prost(bytes = "vec", tag = "2")]
    #[serde(with = "hex_bytes")]
    pub data: Vec<u8>,
    /// 64 bytes.
    #[prost(bytes = "vec", tag = "3")]
    #[serde(with = "hex_bytes")]
    pub signature: Vec<u8>,
    /// 33 (SEC1) or 32 bytes.
    #[prost(bytes = "vec", tag = "4")]
    #[serde(with = "hex_bytes")]
    pub public_key: Vec<u8>,
}

/// Answer of `Verify`.
#[derive(Clone, PartialEq, Serialize, Deserialize, Message)]
pub struct VerifyResponse {
    /// Whether the signature is good.
    #[prost(bool, tag = "1")]
    pub valid: bool,
}

/// Answer of `Version`.
#[derive(Clone, PartialEq, Serialize, Deserialize, Message)]
pub struct WorkerVersion {
    /// Without a `v`.
    #[prost(string, tag = "1")]
    pub version: String,
    /// `git:…` or `unknown`.
    #[prost(string, tag = "2")]
    pub rev: String,
}

/// A failure as protobuf carries it.
#[derive(Clone, PartialEq, Message)]
pub struct Failure {
    /// What a JSON answer has under `error`.
    #[prost(string, tag = "1")]
    pub message: String,
}

/// `bytes` in JSON: any number of leading `0x` and digits of both cases are read, lower case is written.
mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex::encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        hex::decode(text.trim_start_matches("0x")).map_err(D::Error::custom)
    }
}

/// `repeated bytes` in JSON.
mod hex_list {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    pub fn serialize<S: Serializer>(list: &[Vec<u8>], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(list.iter().map(hex::encode))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Vec<u8>>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        let decoded: Result<_, _> = texts
            .iter()
            .map(|text| hex::decode(text.trim_start_matches("0x")))
            .collect();
        decoded.map_err(D::Error::custom)
    }
}
