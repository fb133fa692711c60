//! The binary, with another seed, where no recording can be reached.

use crate::cases::{self, Case, Reply, text};
use k256::ecdsa::{RecoveryId, Signature, VerifyingKey};
use serde_json::Value;
use sha2::{Digest as _, Sha384};
use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

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
        let lines: Vec<String> = stdout
            .map(Result::unwrap)
            .take_while(|line| line != "ready")
            .collect();
        assert!(
            child.try_wait().unwrap().is_none(),
            "it ended instead of getting ready: {lines:?}"
        );
        Self { child, lines, dir }
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

const COMPARED: [&str; 7] = [
    "get_key.json",
    "sign.json",
    "tappd.json",
    "transport.json",
    "protobuf.json",
    "verify.json",
    "emit_event.json",
];

#[tokio::test]
async fn with_another_seed_and_no_recording_in_reach_keys_change_refusals_stay_and_all_verifies() {
    let Some(vectors) = cases::vectors("with_another_seed_and_no_recording_in_reach") else {
        return;
    };
    let (process, other) = (
        Process::start(&"09".repeat(32)),
        Process::start(&"0a".repeat(32)),
    );
    let (mut keys, mut refusals) = (0, 0);
    for file in COMPARED {
        for case in cases::cases(vectors.join("v0.5.11").join(file)) {
            if (file, case.name.as_str()) == ("transport.json", "v0_prefix") {
                continue; // differs on purpose; the other test says why
            }
            let reply = process.ask(&case).await;
            if !case.is_success() {
                let (expected, found) = (
                    (&case.status_line, case.bytes()),
                    (&reply.status_line, &reply.body[..]),
                );
                assert_eq!(expected, found, "{file} {}", case.name);
                refusals += 1;
            } else if matches!(case.method.as_str(), "GetKey" | "Sign" | "DeriveK256Key") {
                assert_eq!(reply.body.len(), case.bytes().len(), "{file} {}", case.name);
                assert_ne!(reply.body, case.bytes(), "{file} {}", case.name);
                assert_ne!(
                    reply.body,
                    other.ask(&case).await.body,
                    "{file} {}",
                    case.name
                );
                if file == "get_key.json" {
                    chain_ends_at_the_printed_root(&process, &case, &reply);
                }
                keys += 1;
            }
        }
    }
    assert!(
        keys > 40 && refusals > 50,
        "{keys} keys and {refusals} refusals were compared"
    );
    signatures_verify(&process).await;
    quotes_replay(&process).await;
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
    links_lead_to_the_printed_root(process, &purpose(case), &public, &answer["signature_chain"]);
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

/// The purpose in a question: JSON object or array, or a query.
fn purpose(case: &Case) -> String {
    match serde_json::from_str::<Value>(&case.body) {
        Ok(Value::Array(list)) => list.get(1).map_or(String::new(), text),
        Ok(object) => object["purpose"].as_str().unwrap_or_default().to_owned(),
        Err(_) => {
            let request = String::from_utf8_lossy(&case.request);
            let path = request.split(' ').nth(1).unwrap();
            let query = path.split_once('?').map_or("", |(_, query)| query);
            let pair = query
                .split('&')
                .find_map(|pair| pair.strip_prefix("purpose="));
            pair.unwrap_or_default().to_owned()
        }
    }
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

/// The stripped log of `GetQuote` replays to register 3 when digests are worked out anew; the others keep theirs.
async fn quotes_replay(process: &Process) {
    let answer = process
        .json("/GetQuote", &serde_json::json!({"report_data": "0a0b"}))
        .await;
    let quote = bytes(&answer["quote"]);
    assert_eq!(quote[568..571], [10, 11, 0]);
    let log: Vec<Value> = serde_json::from_str(&text(&answer["event_log"])).unwrap();
    let mut registers = [[0; 48]; 4];
    for event in &log {
        let register = usize::try_from(event["imr"].as_u64().unwrap()).unwrap();
        let digest = match register {
            3 => {
                assert_eq!(event["digest"], "", "stripped, as on hardware");
                let (name, payload) = (text(&event["event"]), bytes(&event["event_payload"]));
                Sha384::digest([b"\x01\x00\x00\x08:", name.as_bytes(), b":", &payload].concat())
                    .to_vec()
            }
            _ => bytes(&event["digest"]),
        };
        registers[register] = Sha384::digest([&registers[register][..], &digest].concat()).into();
    }
    assert_eq!(registers.concat(), quote[376..568]);
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
