//! What the tests of certificates share: a question to a guest, recordings, and certificates read by other code.

#![allow(clippy::unwrap_used)] // a test says what it expects by failing

use dstack_simulator::{Guest, KeyProvider, Surface, Traits, World, WorldSpec};
use serde_json::Value;
use std::{io::Write as _, sync::Arc};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use x509_parser::{
    certificate::X509Certificate, der_parser::der::parse_der_octetstring, prelude::FromDer as _,
};

/// A guest of a world with this key provider.
pub fn guest(key_provider: KeyProvider) -> Guest {
    let spec = WorldSpec {
        key_provider,
        ..WorldSpec::new([7; 32])
    };
    boot(spec)
}

/// A guest of this world.
pub fn boot(spec: WorldSpec) -> Guest {
    let world = World::build(spec).unwrap();
    Guest::boot(Arc::new(world), &[8; 32], Traits::default())
}

/// Status and body of an answer to JSON, or to a GET if there is none.
pub async fn ask(guest: &Guest, surface: Surface, path: &str, body: Option<&str>) -> (u16, String) {
    let head = match body {
        Some(body) => format!(
            "POST {path} HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
            body.len()
        ),
        None => format!("GET {path} HTTP/1.1\r\n"),
    };
    let request = format!(
        "{head}Host: x\r\nConnection: close\r\n\r\n{}",
        body.unwrap_or_default()
    );
    let (mut client, server) = tokio::io::duplex(1024 * 1024);
    let conversation = async {
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let ((), answer) = tokio::join!(guest.converse(server, surface), conversation);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// The JSON of a successful answer.
pub async fn json(guest: &Guest, surface: Surface, path: &str, body: &str) -> Value {
    let (status, answer) = ask(guest, surface, path, Some(body)).await;
    assert_eq!(status, 200, "{path} {body}: {answer}");
    serde_json::from_str(&answer).unwrap()
}

/// The text of a refusal.
pub async fn error(guest: &Guest, surface: Surface, path: &str, body: &str) -> String {
    let (status, answer) = ask(guest, surface, path, Some(body)).await;
    assert_eq!(status, 400, "{path} {body}: {answer}");
    let answer: Value = serde_json::from_str(&answer).unwrap();
    answer["error"].as_str().unwrap().to_owned()
}

/// A recording, or nothing (which is said on stderr, and is an error in CI).
pub fn recording(test: &str, file: &str) -> Option<Value> {
    let dir = std::env::var("SYNOD_VECTORS").unwrap_or_else(|_| "../../shared/vectors".to_owned());
    let Ok(text) = std::fs::read_to_string(format!("{dir}/dstack/{file}")) else {
        assert!(
            std::env::var("SYNOD_CI").is_err(),
            "SYNOD_CI is set and there is no dstack/{file} in {dir}"
        );
        writeln!(std::io::stderr(), "SKIPPED {test}: vectors not found").ok();
        return None;
    };
    Some(serde_json::from_str(&text).unwrap())
}

/// The certificates of an answer as DER, the leaf first.
pub fn chain(answer: &Value) -> Vec<Vec<u8>> {
    let pems = answer["certificate_chain"].as_array().unwrap();
    pems.iter().map(|pem| der(pem.as_str().unwrap())).collect()
}

/// The bytes in a PEM text.
pub fn der(pem: &str) -> Vec<u8> {
    assert!(!pem.contains('\r') && pem.ends_with("-----\n"), "{pem}");
    pem_rfc7468::decode_vec(pem.as_bytes()).unwrap().1
}

/// A certificate, nothing after it.
pub fn parse(der: &[u8]) -> X509Certificate<'_> {
    let (rest, certificate) = X509Certificate::from_der(der).unwrap();
    assert!(rest.is_empty());
    certificate
}

/// The content of dstack's extension 1.3.6.1.4.1.62397.1.`n`, without its OCTET STRING.
pub fn dstack_extension(certificate: &X509Certificate<'_>, n: u32) -> Option<Vec<u8>> {
    let oid = format!("1.3.6.1.4.1.62397.1.{n}");
    let extension = certificate
        .extensions()
        .iter()
        .find(|extension| extension.oid.to_id_string() == oid)?;
    let (rest, octets) = parse_der_octetstring(extension.value).unwrap();
    assert!(rest.is_empty());
    Some(octets.as_slice().unwrap().to_vec())
}
