//! The binary, with another seed, where no recording can be reached.

use crate::{
    DIFFERENT, FILES, OUTSIDE,
    cases::{self, Attested, Case, Reply, text},
    shape,
};
use k256::ecdsa::{RecoveryId, Signature, VerifyingKey};
use p256::pkcs8::{DecodePrivateKey as _, EncodePublicKey as _};
use serde_json::Value;
use sha2::{Digest as _, Sha384};
use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc::channel,
    time::{Duration, Instant},
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

/// How long a start may take on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A process in an empty directory, with an empty environment and its default sockets.
struct Process {
    child: Child,
    lines: Vec<String>,
    dir: tempfile::TempDir,
}

impl Process {
    fn start(seed: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        assert!(
            !dir.path().join("../shared").exists(),
            "no recording in reach"
        );
        let mut child = Command::new(env!("CARGO_BIN_EXE_dstack-simulator"))
            .args(["--seed", seed])
            .env_clear()
            .current_dir(dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let (to, told) = channel();
        // ends with the process, which ends with this value
        std::thread::spawn(move || {
            stdout
                .map_while(Result::ok)
                .try_for_each(|line| to.send(line))
        });
        let mut process = Self {
            child,
            lines: Vec::new(),
            dir,
        };
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match told.recv_timeout(left) {
                Ok(line) if line == "ready" => return process,
                Ok(line) => process.lines.push(line),
                Err(why) => panic!("{why} instead of getting ready: {:?}", process.lines),
            }
        }
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.sock"))
    }

    /// The bytes that it printed after this name.
    fn printed(&self, name: &str) -> Vec<u8> {
        let line = self
            .lines
            .iter()
            .find(|line| line.starts_with(name))
            .unwrap();
        hex::decode(line[name.len()..].trim().trim_start_matches("0x")).unwrap()
    }

    async fn ask(&self, case: &Case) -> Reply {
        cases::ask(&self.socket(&case.socket), &case.request)
            .await
            .unwrap()
    }

    async fn json(&self, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            body.len()
        );
        let reply = cases::ask(&self.socket("dstack"), request.as_bytes())
            .await
            .unwrap();
        assert_eq!(reply.status_line, "HTTP/1.1 200 OK", "{path} {body}");
        serde_json::from_slice(&reply.body).unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Debug, Default, PartialEq)]
struct Counts {
    refusals: usize,
    keys: usize,
    equal: usize,
    quotes: usize,
    attestations: usize,
    infos: usize,
    certificates: usize,
    different: usize,
}

#[tokio::test]
async fn with_another_seed_and_no_recording_in_reach_keys_change_refusals_stay_and_all_verifies() {
    let Some(vectors) = cases::vectors("with_another_seed_and_no_recording_in_reach") else {
        return;
    };
    let (process, other) = (
        Process::start(&"09".repeat(32)),
        Process::start(&"0a".repeat(32)),
    );
    let mut counts = Counts::default();
    for file in FILES.into_iter().filter(|file| *file != OUTSIDE) {
        for case in cases::cases(vectors.join("v0.5.11").join(file)) {
            let at = format!("{file} {}", case.name);
            let reply = process.ask(&case).await;
            if DIFFERENT
                .iter()
                .any(|(of, name, _)| (*of, *name) == (file, case.name.as_str()))
            {
                assert_ne!(reply.status_line, case.status_line, "{at}");
                counts.different += 1;
                continue;
            }
            judge(&case, &at, &reply, &process, &other, &mut counts).await;
        }
    }
    let expected = Counts {
        refusals: 82,
        keys: 49,
        equal: 18,
        quotes: 26,
        attestations: 4,
        infos: 5,
        certificates: 13,
        different: DIFFERENT.len(),
    };
    assert_eq!(counts, expected);
    signatures_verify(&process).await;
}

/// Compares what does not depend on the seed, and checks that the rest fits together.
async fn judge(
    case: &Case,
    at: &str,
    reply: &Reply,
    process: &Process,
    other: &Process,
    counts: &mut Counts,
) {
    assert_eq!(reply.status_line, case.status_line, "{at}");
    match (case.is_success(), case.method.as_str()) {
        (false, _) => {
            assert_eq!(reply.body, case.bytes(), "{at}");
            counts.refusals += 1;
        }
        (true, "Verify" | "Version") => {
            assert_eq!(reply.body, case.bytes(), "{at}");
            counts.equal += 1;
        }
        (true, "GetKey" | "%47etKey" | "Sign" | "DeriveK256Key") => {
            assert_eq!(reply.body.len(), case.bytes().len(), "{at}");
            assert_ne!(reply.body, case.bytes(), "{at}");
            assert_ne!(reply.body, other.ask(case).await.body, "{at}");
            if at.starts_with("get_key.json") {
                chain_ends_at_the_printed_root(process, case, reply);
            }
            counts.keys += 1;
        }
        (true, "GetQuote" | "TdxQuote" | "RawQuote") => {
            quote_replays(case, &json(reply));
            counts.quotes += 1;
        }
        (true, "Attest") => {
            let attested = Attested::of(&json(reply)).unwrap();
            attested.carries(&case.report_data()).expect(at);
            counts.attestations += 1;
        }
        (true, "Info") => {
            let info = json(reply);
            for (field, printed) in [("app_id", "app id"), ("compose_hash", "compose hash")] {
                assert_eq!(bytes(&info[field]), process.printed(printed), "{at}");
            }
            counts.infos += 1;
        }
        (true, "GetTlsKey" | "DeriveKey") => {
            leaf_leads_to_its_root(case, &json(reply));
            counts.certificates += 1;
        }
        (true, method) => panic!("{at}: nobody said how {method} is compared"),
    }
}

fn json(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.body).unwrap()
}

/// derived key ← app root key ← the KMS root that the process printed
fn chain_ends_at_the_printed_root(process: &Process, case: &Case, reply: &Reply) {
    let answer: Value = serde_json::from_slice(&reply.body).unwrap();
    let secret: [u8; 32] = bytes(&answer["key"]).try_into().unwrap();
    let public = if String::from_utf8_lossy(&case.request).contains("ed25519") {
        ed25519_dalek::SigningKey::from_bytes(&secret)
            .verifying_key()
            .to_bytes()
            .to_vec()
    } else {
        let key = k256::ecdsa::SigningKey::from_slice(&secret).unwrap();
        key.verifying_key()
            .to_encoded_point(true)
            .as_bytes()
            .to_vec()
    };
    links_lead_to_the_printed_root(
        process,
        &case.asked("purpose").unwrap_or_else(|| second(case)),
        &public,
        &answer["signature_chain"],
    );
}

fn links_lead_to_the_printed_root(process: &Process, purpose: &str, public: &[u8], links: &Value) {
    let app = recover(
        format!("{purpose}:{}", hex::encode(public)).as_bytes(),
        &links[0],
    );
    let claim = [b"dstack-kms-issued:", &process.printed("app id")[..], &app].concat();
    assert_eq!(
        recover(&claim, &links[1]),
        process.printed("kms root public"),
        "{purpose}"
    );
}

/// The purpose, if the question is a JSON array.
fn second(case: &Case) -> String {
    serde_json::from_str::<Value>(&case.body)
        .ok()
        .and_then(|list| list.get(1).map(text))
        .unwrap_or_default()
}

async fn signatures_verify(process: &Process) {
    for algorithm in ["secp256k1", "k256", "secp256k1_prehashed", "ed25519"] {
        // as long as a digest
        let mut question = serde_json::json!({"algorithm": algorithm, "data": "11".repeat(32)});
        let signed = process.json("/Sign", &question).await;
        question["signature"] = signed["signature"].clone();
        question["public_key"] = signed["public_key"].clone();
        assert_eq!(
            process.json("/Verify", &question).await["valid"],
            true,
            "{algorithm}"
        );
        question["data"] = "12".repeat(32).into();
        assert_eq!(
            process.json("/Verify", &question).await["valid"],
            false,
            "{algorithm}"
        );

        let chain = signed["signature_chain"].as_array().unwrap();
        assert_eq!((chain.len(), &chain[0]), (3, &signed["signature"]));
        let links = Value::Array(chain[1..].to_vec());
        links_lead_to_the_printed_root(process, "signing", &bytes(&signed["public_key"]), &links);
    }
}

/// Report data as recorded, and a log that replays to all registers when digests of register 3 are worked out anew.
fn quote_replays(case: &Case, answer: &Value) {
    let at = &case.name;
    let quote = bytes(&answer["quote"]);
    assert_eq!(hex::encode(&quote[568..632]), case.report_data(), "{at}");
    let log: Vec<Value> = serde_json::from_str(&text(&answer["event_log"])).unwrap();
    let mut registers = [[0; 48]; 4];
    for event in &log {
        let register = usize::try_from(event["imr"].as_u64().unwrap()).unwrap();
        let digest = match register {
            3 => {
                let (name, payload) = (text(&event["event"]), bytes(&event["event_payload"]));
                let digest = Sha384::digest(
                    [b"\x01\x00\x00\x08:", name.as_bytes(), b":", &payload].concat(),
                );
                assert_eq!(event["digest"], "", "{at}: stripped, as on hardware");
                digest.to_vec()
            }
            _ => bytes(&event["digest"]),
        };
        registers[register] = Sha384::digest([&registers[register][..], &digest].concat()).into();
    }
    assert_eq!(registers.concat(), quote[376..568], "{at}");
}

/// key → leaf ← … ← a root that signed itself
fn leaf_leads_to_its_root(case: &Case, answer: &Value) {
    let at = &case.name;
    let ders = shape::chain(answer).unwrap();
    let chain: Vec<X509Certificate<'_>> = ders
        .iter()
        .map(|der| X509Certificate::from_der(der).unwrap().1)
        .collect();
    let (leaf, root) = (chain.first().unwrap(), chain.last().unwrap());
    assert!(chain.len() >= 2 && !leaf.is_ca() && root.is_ca(), "{at}");
    let signers = chain.iter().skip(1).chain([root]);
    for (certificate, signer) in chain.iter().zip(signers) {
        assert_eq!(certificate.issuer(), signer.subject(), "{at}");
        let verified = certificate.verify_signature(Some(signer.public_key()));
        verified.unwrap_or_else(|error| panic!("{at}: {error}"));
    }
    let key = p256::SecretKey::from_pkcs8_pem(&text(&answer["key"])).unwrap();
    let public = key.public_key().to_public_key_der().unwrap();
    assert_eq!(public.as_bytes(), leaf.public_key().raw, "{at}");
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(text(value)).unwrap()
}

/// The compressed public key of whoever signed a claim.
fn recover(claim: &[u8], link: &Value) -> Vec<u8> {
    use sha3::Digest as _;
    let link = bytes(link);
    let signature = Signature::from_slice(&link[..64]).unwrap();
    assert!(signature.normalize_s().is_none() && link[64] < 2 && link.len() == 65);
    let digest = sha3::Keccak256::digest(claim);
    let recovery = RecoveryId::from_byte(link[64]).unwrap();
    let key = VerifyingKey::recover_from_prehash(&digest, &signature, recovery).unwrap();
    key.to_encoded_point(true).as_bytes().to_vec()
}
