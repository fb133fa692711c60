//! The simulator as a client sees it: raw HTTP over real Unix sockets, every claim checked with other code.

#![allow(clippy::unwrap_used)] // a test says what it expects by failing

use dstack_simulator::{
    DEVELOPMENT_COMPOSE, InstanceConfig, Running, ServeError, World, instance_seed, serve,
};
use k256::ecdsa::{RecoveryId, Signature, SigningKey, VerifyingKey};
use serde_json::Value;
use sha2::{Digest as _, Sha256, Sha384};
use std::{os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

const SEED: [u8; 32] = [7; 32];

struct Guests {
    world: Arc<World>,
    running: Running,
    dir: tempfile::TempDir,
}

impl Guests {
    async fn start(instances: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let world = Arc::new(World::new(&SEED, DEVELOPMENT_COMPOSE.to_owned(), None).unwrap());
        let configs = (1..=instances).map(|n| config(dir.path(), n)).collect();
        let running = serve(world.clone(), configs).await.unwrap();
        Self {
            world,
            running,
            dir,
        }
    }

    fn socket(&self, n: usize) -> &Path {
        self.running.sockets().nth(n).unwrap()
    }

    async fn post(&self, n: usize, path: &str, body: &str) -> Reply {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        raw(self.socket(n), head.as_bytes()).await
    }

    async fn get(&self, n: usize, path: &str) -> Reply {
        raw(
            self.socket(n),
            format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes(),
        )
        .await
    }
}

fn config(dir: &Path, n: u32) -> InstanceConfig {
    InstanceConfig::new(dir.join(format!("{n}.sock")), instance_seed(&SEED, n))
}

struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        serde_json::from_str(&self.body).unwrap()
    }

    fn error(&self) -> String {
        assert_eq!(self.status, 400, "{}", self.body);
        let json: Value = serde_json::from_str(&self.body).unwrap();
        assert!(
            self.body.starts_with("{\n  \"error\": \"") && self.body.ends_with("\n}"),
            "{}",
            self.body
        );
        json["error"].as_str().unwrap().to_owned()
    }
}

async fn raw(socket: &Path, request: &[u8]) -> Reply {
    let exchange = async {
        let mut stream = UnixStream::connect(socket).await.unwrap();
        // a server that refuses early may close before it has read everything
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    };
    let answer = tokio::time::timeout(Duration::from_secs(20), exchange)
        .await
        .expect("an answer within 20 s");
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no HTTP answer: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply {
        status,
        head: head.to_lowercase(),
        body: body.to_owned(),
    }
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn keccak(parts: &[&[u8]]) -> Vec<u8> {
    use sha3::Digest;
    sha3::Keccak256::digest(parts.concat()).to_vec()
}

fn recover(digest: &[u8], link: &[u8]) -> VerifyingKey {
    assert_eq!(link.len(), 65);
    assert!(link[64] <= 1);
    let signature = Signature::from_slice(&link[..64]).unwrap();
    assert!(signature.normalize_s().is_none(), "s is low");
    VerifyingKey::recover_from_prehash(digest, &signature, RecoveryId::from_byte(link[64]).unwrap())
        .unwrap()
}

#[tokio::test]
async fn the_key_chain_verifies_link_by_link_up_to_the_printed_root() {
    let guests = Guests::start(1).await;
    let answer = guests
        .post(0, "/GetKey", r#"{"path":"synod/wallet","purpose":"p"}"#)
        .await
        .json();
    let key = SigningKey::from_slice(&bytes(&answer["key"])).unwrap();
    let public = key.verifying_key().to_encoded_point(true);
    let claim = format!("p:{}", hex::encode(public));
    let app = recover(
        &keccak(&[claim.as_bytes()]),
        &bytes(&answer["signature_chain"][0]),
    )
    .to_encoded_point(true);
    let digest = keccak(&[
        b"dstack-kms-issued:",
        &guests.world.app_id(),
        app.as_bytes(),
    ]);
    let root = recover(&digest, &bytes(&answer["signature_chain"][1]));
    assert_eq!(
        root.to_encoded_point(true).as_bytes(),
        guests.world.kms_root_public()
    );
    let address = &keccak(&[&root.to_encoded_point(false).as_bytes()[1..]])[12..];
    assert_eq!(address, guests.world.kms_root_address());
}

#[tokio::test]
async fn two_instances_differ_in_their_id_and_share_every_key() {
    let guests = Guests::start(2).await;
    let (a, b) = (
        guests.get(0, "/Info").await.json(),
        guests.get(1, "/Info").await.json(),
    );
    assert_ne!(a["instance_id"], b["instance_id"]);
    assert_eq!(
        bytes(&a["instance_id"]),
        guests.world.instance_id(&instance_seed(&SEED, 1)).unwrap()
    );
    assert_eq!(
        (&a["app_id"], &a["compose_hash"]),
        (&b["app_id"], &b["compose_hash"])
    );
    let key = r#"{"path":"same"}"#;
    assert_eq!(
        guests.post(0, "/GetKey", key).await.body,
        guests.post(1, "/GetKey", key).await.body
    );
    let other = guests
        .post(1, "/GetKey", r#"{"path":"other"}"#)
        .await
        .json();
    assert_ne!(
        guests.post(0, "/GetKey", key).await.json()["key"],
        other["key"]
    );
}

#[tokio::test]
async fn the_same_seed_gives_the_same_answers() {
    let (a, b) = (Guests::start(1).await, Guests::start(1).await);
    for (path, body) in [
        ("/GetKey", r#"{"path":"x"}"#),
        ("/GetQuote", r#"{"report_data":"01"}"#),
    ] {
        assert_eq!(
            a.post(0, path, body).await.body,
            b.post(0, path, body).await.body,
            "{path}"
        );
    }
    let (mut a, mut b) = (
        a.get(0, "/Info").await.json(),
        b.get(0, "/Info").await.json(),
    );
    // its key is random, as on hardware, and nobody holds it
    assert_ne!(a["app_cert"].take(), b["app_cert"].take());
    assert_eq!(a, b);
}

#[tokio::test]
async fn purpose_and_alias_do_not_change_a_key_and_get_equals_post() {
    let guests = Guests::start(1).await;
    let key = guests
        .post(0, "/GetKey", r#"{"path":"a b","purpose":"x"}"#)
        .await;
    assert_eq!(
        guests.get(0, "/GetKey?path=a+b&purpose=x&zzz=1").await.body,
        key.body
    );
    assert_eq!(
        guests
            .get(0, "/v0/GetKey?path=a%20b&purpose=x&algorithm=k256")
            .await
            .body,
        key.body
    );
    let other = guests
        .post(
            0,
            "/GetKey",
            r#"{"path":"a b","purpose":"y","algorithm":"secp256k1"}"#,
        )
        .await
        .json();
    assert_eq!(other["key"], key.json()["key"]);
    assert_eq!(
        other["signature_chain"][1],
        key.json()["signature_chain"][1]
    );
    assert_ne!(
        other["signature_chain"][0],
        key.json()["signature_chain"][0]
    );
}

/// Replays register 3 as a verifier must: from names and payloads, never from given digests.
fn rtmr3(log: &[Value]) -> Vec<u8> {
    let mut register = vec![0; 48];
    for event in log.iter().filter(|event| event["imr"] == 3) {
        assert_eq!(event["event_type"], 134_217_729);
        let name = event["event"].as_str().unwrap();
        let text = [
            &[1, 0, 0, 8, b':'],
            name.as_bytes(),
            b":",
            &bytes(&event["event_payload"]),
        ]
        .concat();
        register = Sha384::digest([register, Sha384::digest(text).to_vec()].concat()).to_vec();
    }
    register
}

#[tokio::test]
async fn the_event_log_replays_to_the_registers_of_the_quote() {
    let guests = Guests::start(1).await;
    let answer = guests
        .post(0, "/GetQuote", r#"{"report_data":"0x48656C6c6f"}"#)
        .await
        .json();
    let quote = bytes(&answer["quote"]);
    let log: Vec<Value> = serde_json::from_str(answer["event_log"].as_str().unwrap()).unwrap();
    assert_eq!(rtmr3(&log), quote[520..568]);
    for imr in 0..3u8 {
        let event = log.iter().find(|event| event["imr"] == imr).unwrap();
        let register = Sha384::digest([vec![0; 48], bytes(&event["digest"])].concat());
        let at = 376 + 48 * usize::from(imr);
        assert_eq!(register[..], quote[at..at + 48], "RTMR{imr}");
    }
    assert!(
        log.iter()
            .all(|event| event["imr"] != 3 || event["digest"] == ""),
        "stripped as on hardware"
    );
    assert_eq!(quote[568..573], *b"Hello");
    assert_eq!(quote[573..632], [0; 59]);
    assert_eq!(answer["report_data"], hex::encode(&quote[568..632]));
}

#[tokio::test]
async fn info_quote_and_log_tell_one_story() {
    let guests = Guests::start(1).await;
    let info = guests
        .post(0, "/Info", "not json, and ignored")
        .await
        .json();
    let tcb: Value = serde_json::from_str(info["tcb_info"].as_str().unwrap()).unwrap();
    let quote = bytes(&guests.get(0, "/GetQuote").await.json()["quote"]);

    let compose_hash = Sha256::digest(tcb["app_compose"].as_str().unwrap()).to_vec();
    assert_eq!(bytes(&info["compose_hash"]), compose_hash);
    assert_eq!(bytes(&info["app_id"]), compose_hash[..20]);
    assert_eq!(
        quote[232..280],
        [&[1][..], &compose_hash, &[0; 15]].concat()
    );
    assert_eq!(bytes(&tcb["rtmr3"]), quote[520..568]);
    assert_eq!(bytes(&tcb["mrtd"]), quote[184..232]);
    let aggregated =
        Sha256::digest([&quote[184..232], &quote[376..568], &quote[232..376]].concat());
    assert_eq!(bytes(&info["mr_aggregated"]), aggregated[..]);

    let log = tcb["event_log"].as_array().unwrap();
    let payload = |name: &str| {
        bytes(&log.iter().find(|event| event["event"] == name).unwrap()["event_payload"])
    };
    let names: Vec<&str> = log
        .iter()
        .filter(|e| e["imr"] == 3)
        .map(|e| e["event"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "system-preparing",
            "app-id",
            "compose-hash",
            "instance-id",
            "boot-mr-done",
            "os-image-hash",
            "key-provider",
            "storage-fs",
            "system-ready"
        ]
    );
    assert_eq!(payload("app-id"), bytes(&info["app_id"]));
    assert_eq!(payload("compose-hash"), compose_hash);
    assert_eq!(payload("instance-id"), bytes(&info["instance_id"]));
    assert_eq!(
        payload("key-provider"),
        info["key_provider_info"].as_str().unwrap().as_bytes()
    );
    assert_eq!(payload("os-image-hash"), bytes(&info["os_image_hash"]));
    assert!(info["app_name"].as_str().unwrap().contains("SIMULATED"));
    assert_eq!(
        guests.get(0, "/Version").await.body,
        r#"{"version":"0.5.11","rev":"unknown"}"#
    );
}

#[tokio::test]
async fn the_appraisal_finds_live_evidence_simulated_and_its_committed_testdata_unchanged() {
    use synod_attest::{Evidence, Expected, Policy, Simulator, Verdict, appraise};
    let guests = Guests::start(1).await;
    let body = format!(r#"{{"report_data":"{}"}}"#, "42".repeat(64));
    let quote = guests.post(0, "/GetQuote", &body).await.json();
    let expected = Expected {
        report_data: [0x42; 64],
        compose_hashes: vec![guests.world.compose_hash()],
        app_id: Some(guests.world.app_id()),
        instance_id: guests.world.instance_id(&instance_seed(&SEED, 1)),
        key_provider: None,
    };
    let bytes = bytes(&quote["quote"]);
    let log = quote["event_log"].as_str().unwrap();
    let evidence = Evidence {
        quote: &bytes,
        event_log: log,
        compose: DEVELOPMENT_COMPOSE,
    };
    let root = Sha256::digest(guests.world.quote_root()).into();
    let verdict = appraise(
        &evidence,
        &expected,
        &Policy {
            simulator: Simulator::Root(root),
        },
    );
    assert!(
        matches!(verdict, Verdict::Simulated { root: found, .. } if found == root),
        "{verdict}"
    );
    let verdict = appraise(
        &evidence,
        &expected,
        &Policy {
            simulator: Simulator::Refused,
        },
    );
    assert!(matches!(verdict, Verdict::Refused { .. }), "{verdict}");

    let committed: Value =
        serde_json::from_str(include_str!("../../src/attest/testdata/simulated.json")).unwrap();
    assert_eq!(committed["quote"], quote["quote"]);
    assert_eq!(committed["event_log"], quote["event_log"]);
    assert_eq!(committed["app_compose"], DEVELOPMENT_COMPOSE);
}

#[tokio::test]
async fn a_compose_text_without_instance_id_gives_an_empty_one() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(
        &SEED,
        r#"{"name":"n","no_instance_id":true}"#.to_owned(),
        None,
    )
    .unwrap();
    let running = serve(Arc::new(world), vec![config(dir.path(), 1)])
        .await
        .unwrap();
    let guests = Guests {
        world: Arc::new(World::new(&SEED, "{}".to_owned(), None).unwrap()),
        running,
        dir,
    };
    assert_eq!(guests.get(0, "/Info").await.json()["instance_id"], "");
}

#[tokio::test]
async fn bad_calls_get_the_texts_of_a_real_agent() {
    let guests = Guests::start(1).await;
    let long = format!(r#"{{"report_data":"{}"}}"#, "00".repeat(65));
    for (path, body, error) in [
        ("/GetQuote", long.as_str(), "Report data is too long"),
        (
            "/GetQuote",
            r#"{"report_data":"abc"}"#,
            "Odd number of digits at line 1 column 21",
        ),
        (
            "/GetQuote",
            r#"{"report_data":"0X48"}"#,
            "Invalid character 'X' at position 1 at line 1 column 22",
        ),
        (
            "/GetKey",
            r#"{"path":"node","algorithm":"rsa"}"#,
            "Unsupported algorithm",
        ),
        (
            "/GetKey",
            "{",
            "EOF while parsing an object at line 1 column 1",
        ),
        (
            "/GetKey",
            "null",
            "invalid type: null, expected struct GetKeyArgs at line 1 column 4",
        ),
        (
            "/GetKey",
            r#"{"path":"a","path":"b"}"#,
            "duplicate field `path` at line 1 column 18",
        ),
        ("/Foo", "{}", "Service not found: Foo"),
        ("/getkey", "{}", "Service not found: getkey"),
        (
            "/EmitEvent",
            r#"{"event":"e"}"#,
            "runtime event emission is unavailable in simulator mode: e",
        ),
    ] {
        assert_eq!(
            guests.post(0, path, body).await.error(),
            error,
            "{path} {body}"
        );
    }
    let double = guests.get(0, "/GetKey?path=node&path=other").await.error();
    assert_eq!(double, "Multiple values for one key: \"path\"");
}

#[tokio::test]
async fn framework_pages_and_headers_are_those_of_the_agent() {
    let guests = Guests::start(1).await;
    let page = guests.get(0, "/prpc/GetKey").await;
    assert_eq!(page.status, 404);
    assert!(page.head.contains("text/html") && page.body.contains("404 Not Found"));
    assert_eq!(guests.get(0, "/").await.status, 422);
    let good = guests.get(0, "/Version").await;
    for header in [
        "content-type: application/json",
        "server: dstack simulator",
        "x-content-type-options: nosniff",
    ] {
        assert!(good.head.contains(header), "{header} in {}", good.head);
    }
    assert!(good.head.contains("content-length: 36") && !good.head.contains("chunked"));
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_and_the_agent_lives_on() {
    let guests = Guests::start(1).await;
    let body = "x".repeat(10 * 1024 * 1024 + 1);
    // before it has the body, the agent does not look at the content type
    let refused = guests.post(0, "/GetKey", &body).await;
    assert_eq!(refused.status, 400);
    assert_eq!(refused.body, "\n&failed to read data: payload too large");
    assert_eq!(
        guests.post(0, "/GetKey?json", &body).await.error(),
        "failed to read data: payload too large"
    );
    assert_eq!(guests.get(0, "/Version").await.status, 200);
}

#[tokio::test]
async fn a_live_socket_is_refused_a_stale_one_replaced_and_ours_vanish() {
    let guests = Guests::start(1).await;
    let socket = guests.socket(0).to_owned();
    assert_eq!(
        std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let second = serve(guests.world.clone(), vec![config(guests.dir.path(), 1)]).await;
    assert!(matches!(second, Err(ServeError::Live(path)) if path == socket));
    assert_eq!(guests.get(0, "/Version").await.status, 200);

    let Guests {
        world,
        running,
        dir,
    } = guests;
    running.stop().await;
    assert!(!socket.exists());

    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(
        socket.exists(),
        "a stale socket file remains when its owner dies"
    );
    let running = serve(world.clone(), vec![config(dir.path(), 1)])
        .await
        .unwrap();
    assert!(UnixStream::connect(&socket).await.is_ok());
    drop(running);
    assert!(!socket.exists());

    std::fs::write(&socket, "a file").unwrap();
    let third = serve(world, vec![config(dir.path(), 1)]).await;
    assert!(matches!(third, Err(ServeError::NotASocket(_))));
    assert!(socket.exists());
}
