//! `synod agent info|key|quote|test` as a process: against a simulator, and against liars that stand between the
//! command and that simulator. Lines and exit codes are compared as they are; private keys are looked for in all output.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // tests are the outside world

#[path = "agents/liar.rs"]
mod liar;
#[path = "agents/official.rs"]
mod official;
#[path = "agent_command/recorded.rs"]
mod recorded;

use dstack_simulator::{
    DEVELOPMENT_COMPOSE, InstanceConfig, KeyProvider, Running, World, WorldSpec, serve,
};
use liar::{Answer, Call, Liar};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use synod_agent::Agent;
use tokio::process::Command;

const SYNOD: &str = env!("CARGO_BIN_EXE_synod");
const FOUR: [&str; 4] = [
    "Connected to simulator",
    "Key derivation successful",
    "Quote generation successful",
    "Service is reachable",
];

struct Simulated {
    world: Arc<World>,
    socket: PathBuf,
    _running: Running,
    dir: tempfile::TempDir,
}

async fn simulated(change: impl FnOnce(&mut WorldSpec)) -> Simulated {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("a.sock");
    let mut spec = WorldSpec::new([5; 32]);
    change(&mut spec);
    let world = Arc::new(World::build(spec).unwrap());
    let config = InstanceConfig::new(socket.clone(), [6; 32]);
    let running = serve(world.clone(), vec![config]).await.unwrap();
    Simulated {
        world,
        socket,
        _running: running,
        dir,
    }
}

impl Simulated {
    /// A server between the command and this simulator.
    fn liar(&self, twist: impl Fn(Call<'_>) -> Option<Answer> + Send + Sync + 'static) -> Liar {
        Liar::between(&self.socket, self.dir.path().join("liar.sock"), twist)
    }

    async fn secret(&self, path: &str) -> String {
        let agent = Agent::wait(&self.socket, Duration::from_secs(5), |_| ());
        let key = agent.await.unwrap().key(path, "").await.unwrap();
        hex(key.secret.expose())
    }
}

/// How a command ended.
struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ended {
    /// The lines that are not indented.
    fn steps(&self) -> Vec<&str> {
        let lines = self.stdout.lines();
        lines.filter(|line| !line.starts_with(' ')).collect()
    }

    fn all(&self) -> String {
        format!("exit {}\n{}{}", self.code, self.stdout, self.stderr)
    }

    fn succeeded(self) -> Self {
        assert_eq!(self.code, 0, "{}", self.all());
        self
    }

    fn says(&self, parts: &[&str]) {
        for part in parts {
            assert!(
                self.all().contains(part),
                "{part:?} is missing in {}",
                self.all()
            );
        }
    }

    /// The value behind a name at the beginning of a line.
    fn value(&self, name: &str) -> String {
        let named = |line: &&str| line.starts_with(&format!("{name} "));
        let lines = || self.stdout.lines().chain(self.stderr.lines());
        let line = lines().find(named);
        let line = line.unwrap_or_else(|| panic!("no {name:?} in {}", self.all()));
        line[name.len()..].trim().to_owned()
    }
}

async fn synod(env: &[(&str, &str)], args: &[&str]) -> Ended {
    let run = Command::new(SYNOD)
        .arg("agent")
        .args(args)
        .env_clear()
        .envs(env.iter().copied())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(60), run);
    let output = output.await.expect("the command ends").unwrap();
    Ended {
        code: output.status.code().expect("ended by itself"),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

async fn ask(socket: &Path, args: &[&str]) -> Ended {
    let socket = socket.to_str().unwrap();
    synod(&[], &[args, &["--dstack-socket", socket]].concat()).await
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn absent(secret: &str, ended: &Ended) {
    let all = ended.all().to_lowercase();
    assert!(!all.contains(secret), "a private key in {}", ended.all());
}

#[tokio::test]
async fn four_lines_each_with_what_was_compared() {
    let s = simulated(|_| ()).await;
    let ended = ask(&s.socket, &["test"]).await.succeeded();
    assert_eq!(ended.steps(), FOUR);
    assert_eq!(ended.stderr, "");
    ended.says(&[
        "  server header: dstack Simulator (its own word)\n",
        "  version: 0.5.11 (rev ",
        "/1\", twice: the same key, address 0x",
        "/2\": another key, address 0x",
        "  chains: two links of 65 bytes each, all of one app root key\n",
        "  report data: 64 random bytes, the same in the answer and in the quote of ",
        "recomputed, replay to RTMR3 of the quote\n",
        "  signatures: NOT judged, so this proves nothing about hardware\n",
        "  second connection: the same version and server header\n",
        &format!("Info and event log agree: app 0x{}", hex(&s.world.app_id())),
        &format!("key chains end at 0x{}: ", hex(&s.world.kms_root_address())),
        "  7 calls in ",
    ]);
    // its keys are of paths that it made up, and says; no secret of them is in its output
    let paths: Vec<_> = ended
        .stdout
        .split('"')
        .filter(|text| text.starts_with("synod/agent-test/"))
        .collect();
    assert_eq!(paths.len(), 2);
    for path in paths {
        absent(&s.secret(path).await, &ended);
    }
    let second = ask(&s.socket, &["test"]).await.succeeded();
    assert_ne!(ended.stdout, second.stdout, "paths are fresh each time");
}

#[tokio::test]
async fn an_agent_in_a_guest_and_one_without_a_name_are_no_simulators() {
    let s = simulated(|_| ()).await;
    for (server, words) in [
        ("dstack guest agent", "server header: dstack guest agent ("),
        ("", "server header: none\n"),
    ] {
        let honest = s.liar(move |call| {
            Some(Answer {
                server,
                ..call.truth
            })
        });
        let ended = ask(&honest.socket, &["test"]).await.succeeded();
        assert_eq!(ended.steps()[0], "Connected to agent");
        assert_eq!(ended.steps()[1..], FOUR[1..]);
        ended.says(&[words]);
    }
}

#[tokio::test]
async fn an_app_without_a_kms_passes_and_is_told_what_that_means() {
    let s = simulated(|spec| spec.key_provider = KeyProvider::Local).await;
    let ended = ask(&s.socket, &["test"]).await.succeeded();
    assert_eq!(ended.steps(), FOUR);
    ended.says(&["no KMS vouches for this app, its keys belong to one machine"]);
    assert!(!ended.stdout.contains("key chains end"), "{}", ended.stdout);
    let root = hex(&s.world.kms_root_address());
    let ended = ask(&s.socket, &["key", "a", "--kms-root", &root]).await;
    assert_eq!(ended.code, 1);
    ended.says(&[
        "link 1",
        "empty: no KMS",
        "does NOT hold",
        "key_provider kms",
    ]);
}

/// The test ends with 1 after so many steps, and these words are on stderr.
async fn caught(
    s: &Simulated,
    steps: usize,
    words: &[&str],
    twist: impl Fn(Call<'_>) -> Option<Answer> + Send + Sync + 'static,
) {
    let liar = s.liar(twist);
    let ended = ask(&liar.socket, &["test", "--agent-wait", "0.2"]).await;
    assert_eq!(ended.code, 1, "{}", ended.all());
    assert_eq!(ended.steps(), FOUR[..steps], "{}", ended.all());
    let step = [
        "connection failed",
        "key derivation failed",
        "quote generation failed",
        "service is not reachable",
    ];
    for part in words.iter().chain([&step[steps]]) {
        assert!(
            ended.stderr.contains(part),
            "{part:?} is missing in {}",
            ended.all()
        );
    }
}

#[tokio::test]
async fn nobody_no_socket_and_no_agent_end_at_the_first_step() {
    let s = simulated(|_| ()).await;
    let nowhere = s.dir.path().join("nowhere.sock");
    let folder = s.dir.path().to_owned();
    for (path, words) in [(&nowhere, "in vain"), (&folder, "a directory")] {
        let ended = ask(path, &["test", "--agent-wait", "0.2"]).await;
        assert_eq!(
            (ended.code, ended.stdout.as_str()),
            (1, ""),
            "{}",
            ended.all()
        );
        ended.says(&[
            "agent test: connection failed: ",
            words,
            path.to_str().unwrap(),
        ]);
    }
    caught(&s, 0, &["in vain", "Version"], |_| None).await;
    let another = ["404 Not Found", "is this tappd.sock"];
    caught(&s, 0, &another, |_| Answer::html()).await;
}

#[tokio::test]
async fn a_key_that_changes_or_stays_or_has_no_chain_ends_at_the_second_step() {
    let s = simulated(|_| ()).await;
    caught(&s, 1, &["GetKey", "404"], |call| match call.method {
        "GetKey" => Answer::html(),
        _ => Some(call.truth),
    })
    .await;
    caught(
        &s,
        1,
        &["expected one key for path", "would be lost"],
        |call| match (call.method, call.n) {
            ("GetKey", 2) => call.truth.with(|json| json["key"] = "11".repeat(32).into()),
            _ => Some(call.truth),
        },
    )
    .await;
    caught(
        &s,
        1,
        &["expected another key for path"],
        |call| match call.method {
            "GetKey" => call.truth.with(|json| json["key"] = "11".repeat(32).into()),
            _ => Some(call.truth),
        },
    )
    .await;
    caught(
        &s,
        1,
        &["a signature chain of 2 links, found 1"],
        |call| match call.method {
            "GetKey" => call.truth.with(|json| {
                json["signature_chain"].as_array_mut().unwrap().pop();
            }),
            _ => Some(call.truth),
        },
    )
    .await;
    // the third key with the chain of the first
    let first = Mutex::new(Value::Null);
    caught(&s, 1, &["chains of different ones"], move |call| {
        match (call.method, call.n) {
            ("GetKey", 1) => call
                .truth
                .with(|json| *first.lock().unwrap() = json["signature_chain"].clone()),
            ("GetKey", 3) => call
                .truth
                .with(|json| json["signature_chain"] = first.lock().unwrap().clone()),
            _ => Some(call.truth),
        }
    })
    .await;
}

#[tokio::test]
async fn a_quote_over_other_bytes_or_beside_its_log_ends_at_the_third_step() {
    let s = simulated(|_| ()).await;
    caught(&s, 2, &["GetQuote", "closed"], |call| match call.method {
        "GetQuote" => None,
        _ => Some(call.truth),
    })
    .await;
    caught(
        &s,
        2,
        &["in its echo", "do not use this agent"],
        |call| match call.method {
            "GetQuote" => call
                .truth
                .with(|json| json["report_data"] = "00".repeat(64).into()),
            _ => Some(call.truth),
        },
    )
    .await;
    caught(
        &s,
        2,
        &["in its quote", "do not use this agent"],
        |call| match call.method {
            "GetQuote" => call.truth.with(|json| {
                let quote = json["quote"].as_str().unwrap();
                let other = [&quote[..2 * 568], &"00".repeat(64), &quote[2 * 632..]].concat();
                json["quote"] = other.into();
            }),
            _ => Some(call.truth),
        },
    )
    .await;
    caught(
        &s,
        2,
        &["to replay to RTMR3 of the quote"],
        |call| match call.method {
            "GetQuote" => call.truth.with(|json| {
                let log = json["event_log"].as_str().unwrap();
                let mut log: Vec<Value> = serde_json::from_str(log).unwrap();
                let at = log
                    .iter()
                    .position(|event| event["event"] == "app-id")
                    .unwrap();
                log[at]["event_payload"] = "22".repeat(20).into();
                log[at]["digest"] = "".into();
                json["event_log"] = Value::from(log).to_string().into();
            }),
            _ => Some(call.truth),
        },
    )
    .await;
}

#[tokio::test]
async fn an_info_beside_the_log_and_a_second_agent_end_at_the_fourth_step() {
    let s = simulated(|_| ()).await;
    for field in ["app_id", "instance_id"] {
        caught(
            &s,
            3,
            &[
                "expected Info to name what the event log names",
                &"22".repeat(20),
            ],
            move |call| match call.method {
                "Info" => call.truth.with(|json| json[field] = "22".repeat(20).into()),
                _ => Some(call.truth),
            },
        )
        .await;
    }
    // the first is the probe, the second the connection of the test
    caught(
        &s,
        3,
        &["the same agent on a second connection", "9.9.9"],
        |call| match (call.method, call.n) {
            ("Version", 3) => call.truth.with(|json| json["version"] = "9.9.9".into()),
            _ => Some(call.truth),
        },
    )
    .await;
}

#[tokio::test]
async fn a_key_shows_what_is_public_and_the_rest_only_by_name() {
    let s = simulated(|_| ()).await;
    let agent = Agent::wait(&s.socket, Duration::from_secs(5), |_| ());
    let key = agent.await.unwrap().key("a/b", "testing").await.unwrap();
    let secret = hex(key.secret.expose());
    let asked = ["key", "a/b", "--purpose", "testing"];
    let plain = ask(&s.socket, &asked).await.succeeded();
    assert_eq!(plain.value("path"), "\"a/b\"");
    assert_eq!(plain.value("purpose"), "\"testing\"");
    assert_eq!(
        plain.value("public key"),
        format!("0x{}", hex(&key.public_compressed()))
    );
    assert_eq!(plain.value("address"), format!("0x{}", hex(&key.address())));
    for (number, link) in key.signature_chain.iter().enumerate() {
        assert!(
            plain
                .value(&format!("link {number}"))
                .starts_with(&hex(link))
        );
    }
    assert!(plain.value("chain").starts_with("not verified"));
    absent(&secret, &plain);

    let shown = ask(&s.socket, &[&asked[..], &["--show-private-key"]].concat())
        .await
        .succeeded();
    assert_eq!(shown.value("private key"), format!("0x{secret}"));
    assert_eq!(shown.all().matches(&secret).count(), 1);
}

#[tokio::test]
async fn a_chain_is_verified_against_the_anchor_that_is_given() {
    let s = simulated(|_| ()).await;
    let secret = s.secret("a/b").await;
    let (address, public) = (
        hex(&s.world.kms_root_address()),
        hex(&s.world.kms_root_public()),
    );
    let (app, other) = (hex(&s.world.app_id()), "11".repeat(20));
    let key = ["key", "a/b", "--purpose", "testing"];
    let with = async |more: &[&str]| ask(&s.socket, &[&key[..], more].concat()).await;

    let by_word = with(&["--kms-root", &address]).await.succeeded();
    assert!(
        by_word
            .value("app id")
            .ends_with("(the agent's word; --app-id brings yours)")
    );
    assert_eq!(
        by_word.value("chain"),
        format!("verified: it ends at KMS root 0x{address}")
    );
    let given = with(&["--kms-root", &public, "--app-id", &format!("0x{app}")])
        .await
        .succeeded();
    assert_eq!(given.value("app id"), format!("0x{app} (as given)"));
    assert_eq!(
        given.value("chain"),
        format!("verified: it ends at KMS root 0x{public}")
    );
    absent(&secret, &by_word);
    absent(&secret, &given);

    for anchor in [
        &["--kms-root", &other][..],
        &["--kms-root", &address, "--app-id", &other],
    ] {
        let refused = with(anchor).await;
        assert_eq!(refused.code, 1, "{}", refused.all());
        assert_eq!(refused.value("chain"), "does NOT hold");
        refused.says(&[
            "synod: signature chain: ",
            "expected the chain to end at KMS root",
        ]);
        absent(&secret, &refused);
    }
    for misspelt in [
        &["--kms-root", "0x12"][..],
        &["--kms-root", &address, "--app-id", "xyz"],
        &["--app-id", &app],
    ] {
        let refused = with(misspelt).await;
        assert_eq!(
            (refused.code, refused.stdout.as_str()),
            (2, ""),
            "{}",
            refused.all()
        );
    }
}

#[tokio::test]
async fn a_liar_gets_no_private_key_printed_either() {
    let s = simulated(|_| ()).await;
    let secret = s.secret("a").await;
    let root = hex(&s.world.kms_root_address());
    // a key that is no text, and one of another length
    for (lie, words) in [
        ("fields", "missing or wrong fields"),
        ("length", "64 lower-case hex digits"),
    ] {
        let truth = secret.clone();
        let liar = s.liar(move |call| match (call.method, lie) {
            ("GetKey", "fields") => call.truth.with(|json| *json = json!({"key": [truth]})),
            ("GetKey", _) => call
                .truth
                .with(|json| json["key"] = format!("{truth}00").into()),
            _ => Some(call.truth),
        });
        let ended = ask(&liar.socket, &["key", "a", "--kms-root", &root]).await;
        assert_eq!(ended.code, 1, "{}", ended.all());
        ended.says(&[words]);
        absent(&secret, &ended);
    }
}

#[tokio::test]
async fn a_quote_goes_to_stdout_as_hex_or_to_a_file_and_says_what_is_in_it() {
    let s = simulated(|_| ()).await;
    let file = s.dir.path().join("quote.bin");
    let piped = ask(&s.socket, &["quote", "--report-data", "0xABcd"])
        .await
        .succeeded();
    let kept = ask(
        &s.socket,
        &[
            "quote",
            "--report-data",
            "abcd",
            "--out",
            file.to_str().unwrap(),
        ],
    )
    .await
    .succeeded();
    assert_eq!(kept.stderr, "");
    let bytes = std::fs::read(&file).unwrap();
    assert_eq!(
        piped.stdout.lines().count(),
        1,
        "only the quote, for a pipe"
    );
    assert_eq!(piped.stdout.trim().len(), 2 * bytes.len());
    let asked = format!("abcd{}", "00".repeat(62));
    assert_eq!(hex(&bytes[568..632]), asked);
    for ended in [&piped, &kept] {
        assert!(
            ended
                .value("quote")
                .starts_with(&format!("{} bytes", bytes.len()))
        );
        assert_eq!(ended.value("report data"), format!("{asked} (as given)"));
        assert_eq!(ended.value("rtmr3"), hex(&bytes[520..568]));
        assert_eq!(ended.value("mrtd"), hex(&bytes[184..232]));
        assert_eq!(
            ended.value("app id"),
            format!("0x{}", hex(&s.world.app_id()))
        );
        assert_eq!(ended.value("compose hash"), hex(&s.world.compose_hash()));
        assert!(ended.value("signatures").starts_with("NOT judged"));
    }
    let random = ask(&s.socket, &["quote"]).await.succeeded();
    assert!(
        random
            .value("report data")
            .ends_with("(random, since none was given)")
    );
    assert!(!random.value("report data").starts_with(&"00".repeat(8)));

    let long = ask(&s.socket, &["quote", "--report-data", &"00".repeat(65)]).await;
    assert_eq!(long.code, 2);
    long.says(&["at most 64 bytes, found 65"]);
    let liar = s.liar(|call| match call.method {
        "GetQuote" => call
            .truth
            .with(|json| json["report_data"] = "00".repeat(64).into()),
        _ => Some(call.truth),
    });
    let ended = ask(&liar.socket, &["quote"]).await;
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (1, ""),
        "{}",
        ended.all()
    );
    ended.says(&["in its echo"]);
}

#[tokio::test]
async fn info_is_the_agents_word_for_people_and_as_json() {
    let s = simulated(|_| ()).await;
    let people = ask(&s.socket, &["info"]).await.succeeded();
    assert_eq!(
        people.stdout.lines().next(),
        Some("The agent's own word: nothing signs it, so it is no evidence.")
    );
    assert_eq!(people.value("server"), "dstack Simulator");
    assert_eq!(
        people.value("app id"),
        format!("0x{}", hex(&s.world.app_id()))
    );
    assert_eq!(people.value("compose hash"), hex(&s.world.compose_hash()));
    assert_eq!(
        people.value("compose text"),
        format!("{} bytes (--json shows them)", DEVELOPMENT_COMPOSE.len())
    );
    let instance = hex(&s.world.instance_id(&[6; 32]).unwrap());
    assert_eq!(people.value("instance id"), format!("0x{instance}"));

    let ended = ask(&s.socket, &["info", "--json"]).await.succeeded();
    let json: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert!(json["note"].as_str().unwrap().contains("no evidence"));
    assert_eq!(json["app_id"], hex(&s.world.app_id()));
    assert_eq!(json["instance_id"], instance);
    assert_eq!(json["server"], "dstack Simulator");
    assert_eq!(json["tcb_info"]["app_compose"], DEVELOPMENT_COMPOSE);
    assert_eq!(json["key_provider_info"]["name"], "kms");

    // what steers a terminal comes out as text, in both forms
    let liar = s.liar(|call| match call.method {
        "Info" => call.truth.with(|json| {
            json["app_name"] = "a\u{1b}[2J\u{9b}b".into();
            json["key_provider_info"] = "\u{1b}]0;owned\u{7}\u{9b}".into();
            json["tcb_info"] = "no JSON \u{9b}".into();
        }),
        _ => Some(call.truth),
    });
    for args in [&["info"][..], &["info", "--json"]] {
        let ended = ask(&liar.socket, args).await.succeeded();
        assert!(
            !ended.stdout.chars().any(|c| c.is_control() && c != '\n'),
            "{:?}",
            ended.stdout
        );
    }
}

#[tokio::test]
async fn the_socket_is_found_as_a_node_finds_it() {
    let s = simulated(|_| ()).await;
    let socket = s.socket.to_str().unwrap();
    for variable in ["DSTACK_SOCKET", "DSTACK_SIMULATOR_ENDPOINT"] {
        let ended = synod(&[(variable, socket)], &["info"]).await.succeeded();
        assert_eq!(ended.value("socket"), socket);
    }
    let named = synod(
        &[("DSTACK_SOCKET", "/nowhere")],
        &["info", "--dstack-socket", socket],
    )
    .await;
    assert_eq!(named.succeeded().value("socket"), socket);
    let http = synod(
        &[("DSTACK_SIMULATOR_ENDPOINT", "http://127.0.0.1:8090")],
        &["info"],
    )
    .await;
    assert_eq!(http.code, 1);
    http.says(&["DSTACK_SIMULATOR_ENDPOINT", "Unix socket"]);
    let unix = format!("unix:{socket}");
    let named = synod(&[], &["info", "--dstack-socket", &unix]).await;
    assert_eq!(named.succeeded().value("socket"), socket);
    let http = "http://127.0.0.1:8090";
    let http = synod(&[], &["info", "--dstack-socket", http]).await;
    assert_eq!(http.code, 1);
    http.says(&["Unix socket in --dstack-socket", "over http"]);
}
