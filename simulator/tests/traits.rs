//! The habits of real agents, each seen over a real socket by a raw client, and the worlds without a KMS.
//!
//! Times have a lower bound only, or a deadline that is far from what is measured.

#![allow(clippy::unwrap_used)] // a test says what it expects by failing

use dstack_simulator::{
    AppKeys, EventLog, InstanceConfig, KeyProvider, MrConfigId, Running, Traits, World, WorldSpec,
    serve,
};
use k256::ecdsa::{RecoveryId, Signature, SigningKey, VerifyingKey};
use serde_json::Value;
use sha2::{Digest as _, Sha256, Sha384};
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

const SEED: [u8; 32] = [7; 32];
const QUOTE: &str = "/GetQuote";
const DEADLINE: Duration = Duration::from_secs(20);

/// Two guests of one world, or the same guests once more.
struct Guests {
    world: Arc<World>,
    running: Running,
    _dir: tempfile::TempDir,
}

impl Guests {
    async fn start(spec: WorldSpec, traits: Traits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let world = Arc::new(World::build(spec).unwrap());
        let config = |n: u8| InstanceConfig {
            traits: traits.clone(),
            tappd: Some(dir.path().join(format!("{n}.tappd.sock"))),
            ..InstanceConfig::new(dir.path().join(format!("{n}.sock")), [n; 32])
        };
        let running = serve(world.clone(), vec![config(1), config(2)])
            .await
            .unwrap();
        Self {
            world,
            running,
            _dir: dir,
        }
    }

    async fn with(traits: Traits) -> Self {
        Self::start(WorldSpec::new(SEED), traits).await
    }

    fn socket(&self, n: usize) -> &Path {
        self.running.served().nth(n).unwrap().socket
    }

    fn tappd(&self, n: usize) -> &Path {
        self.running.served().nth(n).unwrap().tappd.unwrap()
    }

    async fn json(&self, n: usize, path: &str) -> Value {
        let (status, body) = get(self.socket(n), path).await.expect("an answer");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }
}

/// Status and body, or nothing if the connection was closed without a word.
async fn get(socket: &Path, path: &str) -> Option<(u16, String)> {
    let exchange = async {
        let mut stream = UnixStream::connect(socket).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await; // a closed connection may be a reset one
        String::from_utf8(answer).unwrap()
    };
    let answer = tokio::time::timeout(DEADLINE, exchange)
        .await
        .expect("an answer or an end in time");
    if answer.is_empty() {
        return None;
    }
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole head");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Some((status, body.to_owned()))
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn inner(value: &Value) -> Value {
    serde_json::from_str(value.as_str().unwrap()).unwrap()
}

#[tokio::test]
async fn quotes_are_slow_and_one_after_the_other_whatever_asks_for_them() {
    let quote_time = Duration::from_millis(200);
    let guests = Guests::with(Traits {
        quote_time,
        ..Traits::default()
    })
    .await;
    let start = Instant::now();
    let (a, b) = tokio::join!(get(guests.socket(0), QUOTE), get(guests.socket(0), QUOTE));
    assert_eq!((a.unwrap().0, b.unwrap().0), (200, 200));
    assert!(start.elapsed() >= 2 * quote_time, "{:?}", start.elapsed());

    for path in ["/GetQuote", "/Attest", "/Info", "/GetTlsKey", "/v0/Info"] {
        let start = Instant::now();
        assert_eq!(get(guests.socket(0), path).await.unwrap().0, 200, "{path}");
        assert!(start.elapsed() >= quote_time, "{path}");
    }
    let raw = format!("/prpc/Tappd.RawQuote?report_data={}", "00".repeat(64));
    for path in [
        "/prpc/Tappd.TdxQuote",
        &raw,
        "/prpc/Info",
        "/prpc/Tappd.DeriveKey",
    ] {
        let start = Instant::now();
        assert_eq!(get(guests.tappd(0), path).await.unwrap().0, 200, "{path}");
        assert!(start.elapsed() >= quote_time, "{path}");
    }
}

#[tokio::test]
async fn whoever_needs_no_quote_does_not_wait_for_one() {
    let guests = Guests::with(Traits {
        quote_time: 10 * DEADLINE,
        ..Traits::default()
    })
    .await;
    let mut waiting = UnixStream::connect(guests.socket(0)).await.unwrap();
    let request = b"GET /GetQuote HTTP/1.1\r\nHost: x\r\n\r\n";
    waiting.write_all(request).await.unwrap();
    for path in ["/GetKey", "/Version", "/Sign?algorithm=k256&data=00"] {
        // `get` has a deadline that is far before the end of the quote
        assert_eq!(get(guests.socket(0), path).await.unwrap().0, 200, "{path}");
    }
    assert_eq!(get(guests.tappd(0), "/prpc/Version").await.unwrap().0, 200);
    let mut nothing = [0];
    assert!(
        waiting.try_read(&mut nothing).is_err(),
        "no quote was taken yet"
    );
}

#[tokio::test]
async fn exactly_every_third_quote_fails_with_a_word_of_the_driver() {
    let guests = Guests::with(Traits {
        quote_fails_every: 3,
        ..Traits::default()
    })
    .await;
    let mut failed = Vec::new();
    for call in 1..=9 {
        assert_eq!(get(guests.socket(0), "/GetKey").await.unwrap().0, 200);
        let path = [QUOTE, "/Info", "/Attest", "/GetTlsKey"][call % 4];
        let (status, body) = get(guests.socket(0), path).await.unwrap();
        if status != 200 {
            assert_eq!(status, 400);
            assert!(body.contains("Failed to get quote: QuoteFailure"), "{body}");
            failed.push(call);
        }
    }
    assert_eq!(failed, [3, 6, 9]);
    let other = get(guests.socket(1), QUOTE).await.unwrap();
    assert_eq!(other.0, 200, "each guest counts for itself");
}

#[tokio::test]
async fn exactly_every_second_request_of_a_guest_ends_in_a_closed_connection() {
    let guests = Guests::with(Traits {
        drop_every: 2,
        ..Traits::default()
    })
    .await;
    for _ in 0..3 {
        assert_eq!(get(guests.socket(0), "/GetKey").await.unwrap().0, 200);
        assert_eq!(get(guests.tappd(0), "/prpc/Version").await, None);
        assert_eq!(get(guests.tappd(0), "/prpc/Version").await.unwrap().0, 200);
        assert_eq!(get(guests.socket(0), "/Version").await, None);
    }
    let all = Guests::with(Traits {
        drop_every: 1,
        ..Traits::default()
    })
    .await;
    assert_eq!(get(all.socket(0), "/Version").await, None);
}

#[tokio::test]
async fn a_kept_connection_is_answered_until_the_request_that_is_dropped() {
    let guests = Guests::with(Traits {
        drop_every: 3,
        ..Traits::default()
    })
    .await;
    let mut stream = UnixStream::connect(guests.socket(0)).await.unwrap();
    let request = b"GET /Version HTTP/1.1\r\nHost: x\r\n\r\n";
    for call in 1..=3 {
        stream.write_all(request).await.unwrap();
        let mut answer = [0; 4096];
        let read = tokio::time::timeout(DEADLINE, stream.read(&mut answer)).await;
        let answered = read.expect("an answer or an end").unwrap_or(0) > 0;
        assert_eq!(answered, call < 3, "request {call}");
    }
}

#[tokio::test]
async fn event_logs_come_stripped_unless_the_full_ones_are_asked_for() {
    for (event_log, is_full) in [(EventLog::Stripped, false), (EventLog::Full, true)] {
        let guests = Guests::with(Traits {
            event_log,
            ..Traits::default()
        })
        .await;
        let answer = guests.json(0, QUOTE).await;
        let quote = bytes(&answer["quote"]);
        let log = inner(&answer["event_log"]);
        for event in log.as_array().unwrap() {
            let is_runtime = event["imr"] == 3;
            assert_eq!(event["digest"] == "", is_runtime && !is_full, "{event}");
            if !is_runtime {
                assert_eq!(event["event_payload"] == "", !is_full, "{event}");
            } else if is_full {
                assert_eq!(bytes(&event["digest"]), digest(event));
            }
        }
        assert_eq!(replay(&log, 3), quote[520..568]);
    }
    assert_eq!(Traits::default().event_log, EventLog::Stripped);
}

/// Digest of a runtime event from its name and payload.
fn digest(event: &Value) -> Vec<u8> {
    let name = event["event"].as_str().unwrap().as_bytes();
    let payload = bytes(&event["event_payload"]);
    Sha384::digest([&[1, 0, 0, 8, b':'], name, b":", &payload].concat()).to_vec()
}

/// A register from a log, as a verifier must: digests of register 3 are never believed.
fn replay(log: &Value, imr: u8) -> Vec<u8> {
    let events = log.as_array().unwrap().iter();
    events
        .filter(|event| event["imr"] == imr)
        .fold(vec![0; 48], |register, event| {
            let digest = match imr {
                3 => digest(event),
                _ => bytes(&event["digest"]),
            };
            Sha384::digest([register, digest].concat()).to_vec()
        })
}

fn keccak(parts: &[&[u8]]) -> [u8; 32] {
    use sha3::Digest;
    sha3::Keccak256::digest(parts.concat()).into()
}

fn recover(digest: &[u8], link: &[u8]) -> VerifyingKey {
    let signature = Signature::from_slice(&link[..64]).unwrap();
    let recovery = RecoveryId::from_byte(link[64]).unwrap();
    VerifyingKey::recover_from_prehash(digest, &signature, recovery).unwrap()
}

const ALL: [KeyProvider; 4] = [
    KeyProvider::Kms,
    KeyProvider::Local,
    KeyProvider::Tpm,
    KeyProvider::None,
];

#[tokio::test]
async fn every_world_tells_one_story() {
    for key_provider in ALL {
        for mr_config_id in [MrConfigId::V1, MrConfigId::V2] {
            let guests = Guests::start(
                WorldSpec {
                    key_provider,
                    mr_config_id,
                    os_image_hash: Some([9; 32]),
                    app_id: Some([5; 20]),
                    ..WorldSpec::new(SEED)
                },
                Traits::default(),
            )
            .await;
            one_story(&guests, key_provider, mr_config_id).await;
        }
    }
}

async fn one_story(guests: &Guests, provider: KeyProvider, version: MrConfigId) {
    let info = guests.json(0, "/Info").await;
    let tcb = inner(&info["tcb_info"]);
    let quote = bytes(&guests.json(0, QUOTE).await["quote"]);
    let log = &tcb["event_log"];
    for imr in 0..4u8 {
        let at = 376 + 48 * usize::from(imr);
        assert_eq!(replay(log, imr), quote[at..at + 48], "RTMR{imr}");
    }
    let payload = |name: &str| {
        let events = log.as_array().unwrap();
        let event = events.iter().find(|event| event["event"] == name);
        event.map(|event| bytes(&event["event_payload"]))
    };
    let compose = tcb["app_compose"].as_str().unwrap();
    assert!(compose.contains(&format!(r#""key_provider":"{provider}""#)));
    let compose_hash = Sha256::digest(compose).to_vec();
    assert_eq!(bytes(&info["compose_hash"]), compose_hash);
    assert_eq!(payload("compose-hash").unwrap(), compose_hash);
    assert_eq!(payload("app-id").unwrap(), [5; 20]);
    assert_eq!(bytes(&info["app_id"]), [5; 20]);
    assert_eq!(payload("instance-id").unwrap(), bytes(&info["instance_id"]));

    let is_kms = provider == KeyProvider::Kms;
    assert_eq!(payload("os-image-hash"), is_kms.then(|| vec![9; 32]));
    assert_eq!(bytes(&info["os_image_hash"]), [9; 32]);
    let vm_config = inner(&info["vm_config"]);
    assert_eq!(vm_config["os_image_hash"], info["os_image_hash"]);

    let named = info["key_provider_info"].as_str().unwrap();
    assert_eq!(payload("key-provider").unwrap(), named.as_bytes());
    let named: Value = serde_json::from_str(named).unwrap();
    let (name, kind) = match provider {
        KeyProvider::Kms => ("kms", 2),
        KeyProvider::Local => ("local-sgx", 1),
        KeyProvider::Tpm => ("tpm", 3),
        KeyProvider::None => ("none", 0),
    };
    assert_eq!(named["name"], name);
    let bound = match version {
        MrConfigId::V1 => [&[1], &compose_hash[..]].concat(),
        MrConfigId::V2 => {
            let id = bytes(&named["id"]);
            let hash = keccak(&[&compose_hash, &[5; 20], &[kind], &id]);
            [&[2], &hash[..]].concat()
        }
    };
    assert_eq!(quote[232..280], [&bound[..], &[0; 15]].concat());

    let key = guests.json(0, "/GetKey?path=p&purpose=q").await;
    let public = SigningKey::from_slice(&bytes(&key["key"])).unwrap();
    let public = hex::encode(public.verifying_key().to_encoded_point(true));
    let link0 = bytes(&key["signature_chain"][0]);
    let app_root = recover(&keccak(&[b"q:", public.as_bytes()]), &link0).to_encoded_point(true);
    let link1 = bytes(&key["signature_chain"][1]);
    if is_kms {
        let digest = keccak(&[b"dstack-kms-issued:", &[5; 20], app_root.as_bytes()]);
        let kms_root = recover(&digest, &link1).to_encoded_point(true);
        assert_eq!(kms_root.as_bytes(), guests.world.kms_root_public());
    } else {
        assert!(link1.is_empty(), "{provider}");
    }
}

#[tokio::test]
async fn only_with_a_kms_do_instances_share_keys_and_only_without_any_provider_are_they_lost() {
    for key_provider in ALL {
        let spec = WorldSpec {
            key_provider,
            ..WorldSpec::new(SEED)
        };
        let first = Guests::start(spec.clone(), Traits::default()).await;
        let again = Guests::start(spec, Traits::default()).await;
        let key = async |guests: &Guests, n| guests.json(n, "/GetKey").await["key"].clone();
        let id = async |guests: &Guests| guests.json(0, "/Info").await["instance_id"].clone();

        assert_eq!(key(&first, 0).await, key(&first, 0).await);
        let shared = key(&first, 0).await == key(&first, 1).await;
        assert_eq!(shared, key_provider == KeyProvider::Kms, "{key_provider}");
        let kept = key(&first, 0).await == key(&again, 0).await;
        assert_eq!(kept, key_provider != KeyProvider::None, "{key_provider}");
        let same = id(&first).await == id(&again).await;
        assert_eq!(same, key_provider != KeyProvider::None, "{key_provider}");
        let told = first.running.served().next().unwrap().instance_id.unwrap();
        assert_eq!(bytes(&id(&first).await), told);
    }
}

#[tokio::test]
async fn given_app_keys_answer_the_same_in_every_world() {
    let spec = |seed| WorldSpec {
        app_keys: Some(AppKeys {
            root: [3; 32].into(),
            link: Vec::new(),
        }),
        key_provider: KeyProvider::Local,
        ..WorldSpec::new([seed; 32])
    };
    let (a, b) = (
        Guests::start(spec(1), Traits::default()).await,
        Guests::start(spec(2), Traits::default()).await,
    );
    let path = "/GetKey?path=p&purpose=q";
    assert_eq!(a.json(0, path).await, b.json(1, path).await);
}
