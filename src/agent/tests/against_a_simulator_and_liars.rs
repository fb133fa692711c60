//! The client against the simulator over a real socket, and against servers that close, lie, flood and fall silent.

#![allow(clippy::unwrap_used)] // a test says what it expects by failing

use dstack_simulator::{DEVELOPMENT_COMPOSE, InstanceConfig, Running, World, serve};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use synod_agent::{
    Agent, AgentError, Family,
    keychain::{self, ChainRefused, KmsRoot},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

const PURPOSE: &str = "synod-v1:31337:aa:bb";

struct Simulated {
    world: Arc<World>,
    agent: Agent,
    _running: Running,
    _dir: tempfile::TempDir,
}

async fn simulated() -> Simulated {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("a.sock");
    let world = Arc::new(World::new(&[3; 32], DEVELOPMENT_COMPOSE.to_owned(), None).unwrap());
    let config = InstanceConfig::new(socket.clone(), [4; 32]);
    let running = serve(world.clone(), vec![config]).await.unwrap();
    let agent = Agent::wait(&socket, Duration::from_secs(5), |_| ())
        .await
        .unwrap();
    Simulated {
        world,
        agent,
        _running: running,
        _dir: dir,
    }
}

#[tokio::test]
async fn info_gives_the_ids_of_the_simulated_instance() {
    let s = simulated().await;
    let info = s.agent.info().await.unwrap();
    assert_eq!(info.app_id, s.world.app_id());
    assert_eq!(info.instance_id, s.world.instance_id(&[4; 32]));
    assert_eq!(info.compose_hash, s.world.compose_hash());
    assert!(info.app_name.contains("SIMULATED"));
    let version = s.agent.version().await.unwrap();
    assert_eq!(version.version, dstack_simulator::AGENT_VERSION);
    assert_eq!(version.server, "dstack Simulator");
}

#[tokio::test]
async fn a_key_comes_with_a_chain_that_holds_for_its_purpose_and_app_only() {
    let s = simulated().await;
    let key = s.agent.key("synod/wallet/x", PURPOSE).await.unwrap();
    let verify = |purpose: &str, app_id: [u8; 20], root: KmsRoot| {
        keychain::verify(
            &key.public_compressed(),
            purpose,
            &app_id,
            &key.signature_chain,
            &root,
        )
    };
    let address = KmsRoot::Address(s.world.kms_root_address());
    let public = KmsRoot::Public(s.world.kms_root_public());
    assert!(verify(PURPOSE, s.world.app_id(), address).is_ok());
    assert_eq!(
        verify(PURPOSE, s.world.app_id(), public),
        verify(PURPOSE, s.world.app_id(), address)
    );
    for refused in [
        verify("synod-v1:1:aa:bb", s.world.app_id(), address),
        verify(PURPOSE, [0; 20], address),
        verify(PURPOSE, s.world.app_id(), KmsRoot::Address([0; 20])),
    ] {
        assert!(matches!(
            refused,
            Err(ChainRefused::OtherRoot { .. } | ChainRefused::Unrecoverable { .. })
        ));
    }
}

#[tokio::test]
async fn a_quote_carries_the_report_data_that_was_asked_for() {
    let s = simulated().await;
    let asked: [u8; 64] = std::array::from_fn(|i| i as u8);
    let quote = s.agent.quote(&asked).await.unwrap();
    assert_eq!(quote.bytes[568..632], asked);
    assert!(quote.event_log.starts_with('[') && quote.vm_config.starts_with('{'));
}

/// A server that answers connection n, request m with `script(n, m)`; `None` closes the connection instead, an empty
/// answer is silence, and after `connection: close`, in whatever header, it closes.
struct Liar {
    agent: Agent,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    _dir: tempfile::TempDir,
}

fn liar(script: impl Fn(usize, usize) -> Option<Vec<u8>> + Send + Sync + 'static) -> Liar {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("liar.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let requests = Arc::new(AtomicUsize::new(0));
    let asked = requests.clone();
    let script = move |n, m| {
        asked.fetch_add(1, Ordering::SeqCst);
        script(n, m)
    };
    let (count, script) = (connections.clone(), Arc::new(script));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let n = count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(lie(stream, n, script.clone()));
        }
    });
    let agent = Agent::with_timeout(&socket, Duration::from_secs(2)).unwrap();
    Liar {
        agent,
        connections,
        requests,
        _dir: dir,
    }
}

async fn lie(
    mut stream: UnixStream,
    n: usize,
    script: Arc<impl Fn(usize, usize) -> Option<Vec<u8>>>,
) {
    for m in 0.. {
        let mut request = Vec::new();
        loop {
            let mut piece = [0; 4096];
            let Ok(length @ 1..) = stream.read(&mut piece).await else {
                return;
            };
            request.extend_from_slice(&piece[..length]);
            let text = String::from_utf8_lossy(&request).to_lowercase();
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                continue;
            };
            let expected = head
                .split("content-length: ")
                .nth(1)
                .unwrap()
                .lines()
                .next()
                .unwrap();
            if body.len() >= expected.parse().unwrap() {
                break;
            }
        }
        let Some(answer) = script(n, m) else { return };
        if answer.is_empty() {
            std::future::pending::<()>().await;
        }
        let last = String::from_utf8_lossy(&answer).contains("connection: close");
        if stream.write_all(&answer).await.is_err() || last {
            return;
        }
    }
}

fn http(status: &str, kind: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn ok(body: &str) -> Vec<u8> {
    http("200 OK", "application/json", body)
}

const VERSION: &str = r#"{"version":"0.5.11","rev":"x"}"#;

#[tokio::test]
async fn a_pooled_connection_that_the_server_has_closed_costs_one_retry_and_no_error() {
    // the first connection answers once and then closes upon the second request, after having read it
    let liar = liar(|n, m| {
        if n == 0 && m == 1 {
            None
        } else {
            Some(ok(VERSION))
        }
    });
    liar.agent.version().await.unwrap();
    liar.agent.version().await.unwrap();
    assert_eq!(liar.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_server_that_always_closes_is_asked_twice_and_is_then_unavailable() {
    let liar = liar(|_, _| None);
    let error = liar.agent.version().await.unwrap_err();
    assert!(matches!(error, AgentError::Unreachable { .. }), "{error}");
    assert_eq!(error.family(), Family::Unavailable);
    assert_eq!(liar.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn after_a_good_answer_a_server_that_drops_everything_gets_two_attempts_and_no_more() {
    let liar = liar(|n, m| (n == 0 && m == 0).then(|| ok(VERSION)));
    liar.agent.version().await.unwrap();
    let error = liar.agent.version().await.unwrap_err();
    assert!(matches!(error, AgentError::Unreachable { .. }), "{error}");
    // the pooled connection, and one of its own
    assert_eq!(liar.requests.load(Ordering::SeqCst), 1 + 2);
    assert_eq!(liar.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_server_that_closes_each_idle_connection_unannounced_is_never_noticed() {
    let closing = format!(
        "HTTP/1.1 200 OK\r\nx-then: connection: close\r\ncontent-length: {}\r\n\r\n{VERSION}",
        VERSION.len()
    );
    let liar = liar(move |_, _| Some(closing.clone().into_bytes()));
    for _ in 0..20 {
        liar.agent.version().await.unwrap();
    }
    assert_eq!(liar.connections.load(Ordering::SeqCst), 20);
    assert_eq!(liar.requests.load(Ordering::SeqCst), 20);
}

#[tokio::test]
async fn many_calls_at_once_survive_that_every_connection_is_good_for_one_answer() {
    let liar = liar(|_, m| (m == 0).then(|| ok(VERSION)));
    for _ in 0..4 {
        let calls = (0..8).map(|_| {
            let agent = liar.agent.clone();
            tokio::spawn(async move { agent.version().await })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap().unwrap();
        }
    }
}

fn info_json(name: &str) -> String {
    let (app, hash) = ("22".repeat(20), "11".repeat(32));
    format!(
        r#"{{"app_id":"{app}","instance_id":"","compose_hash":"{hash}","app_name":"{name}","tcb_info":"","key_provider_info":""}}"#
    )
}

#[tokio::test]
async fn info_is_asked_once_by_all_clones_at_once_and_again_only_when_asked_afresh() {
    let answers = Arc::new(AtomicUsize::new(0));
    let liar = liar(move |_, _| {
        let name = format!("answer {}", answers.fetch_add(1, Ordering::SeqCst));
        Some(ok(&info_json(&name)))
    });
    let calls = (0..20).map(|_| {
        let agent = liar.agent.clone();
        tokio::spawn(async move { agent.info().await })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap().unwrap().app_name, "answer 0");
    }
    assert_eq!(liar.requests.load(Ordering::SeqCst), 1);
    let afresh = liar.agent.info_afresh().await.unwrap();
    assert_eq!(afresh.app_name, "answer 1");
    assert_eq!(liar.agent.clone().info().await.unwrap(), afresh);
    assert_eq!(liar.requests.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_failed_info_is_not_kept_and_nobody_waits_for_the_failures_of_all_before_him() {
    let busy = liar(|_, m| {
        Some(if m == 0 {
            http("400 Bad Request", "application/json", r#"{"error":"busy"}"#)
        } else {
            ok(&info_json("late"))
        })
    });
    busy.agent.info().await.unwrap_err();
    assert_eq!(busy.agent.info().await.unwrap().app_name, "late");

    let silent = liar(|_, _| Some(Vec::new()));
    let calls = (0..20).map(|_| {
        let agent = silent.agent.clone();
        tokio::spawn(async move { agent.info().await })
    });
    let all = async {
        for call in calls.collect::<Vec<_>>() {
            let error = call.await.unwrap().unwrap_err();
            assert!(matches!(error, AgentError::TimedOut { .. }), "{error}");
        }
    };
    // each within twice the limit of 2 s, not the last after 40 s
    tokio::time::timeout(Duration::from_secs(20), all)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_connection_that_breaks_inside_an_answer_is_retried_too() {
    let liar = liar(|n, m| match (n, m) {
        (0, 0) => Some(ok(VERSION)),
        (0, _) => Some(
            b"HTTP/1.1 200 OK\r\ncontent-length: 30\r\nconnection: close\r\n\r\n{\"version\""
                .to_vec(),
        ),
        _ => Some(ok(VERSION)),
    });
    liar.agent.version().await.unwrap();
    liar.agent.version().await.unwrap();
    assert_eq!(liar.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn silence_ends_at_the_time_limit() {
    let liar = liar(|_, _| Some(Vec::new()));
    let error = liar.agent.info().await.unwrap_err();
    assert!(
        matches!(error, AgentError::TimedOut { method: "Info", .. }),
        "{error}"
    );
    assert_eq!(error.family(), Family::Unavailable);
}

#[tokio::test]
async fn error_answers_keep_the_words_of_the_agent_whatever_their_shape() {
    for (status, kind, body, words) in [
        (
            "400 Bad Request",
            "application/json",
            "{\n  \"error\": \"Unsupported algorithm\"\n}",
            "Unsupported algorithm",
        ),
        (
            "404 Not Found",
            "application/json",
            r#"{"error":{"code":404,"reason":"Not Found"}}"#,
            "Not Found",
        ),
        (
            "404 Not Found",
            "text/html",
            "<!DOCTYPE html><title>404 Not Found</title>",
            "a web page, \"404 Not Found\"",
        ),
        (
            "400 Bad Request",
            "application/octet-stream",
            "\n\u{3}abc\u{1b}[31m",
            "abc",
        ),
    ] {
        let liar = liar(move |_, _| Some(http(status, kind, body)));
        let error = liar.agent.key("p", "q").await.err().unwrap();
        let AgentError::Answered {
            text,
            method: "GetKey",
            ..
        } = &error
        else {
            panic!("{error}")
        };
        assert!(text.contains(words), "{text}");
        assert!(
            !text.contains('\u{1b}'),
            "no control characters reach the terminal: {text:?}"
        );
        assert_eq!(error.family(), Family::Refused);
    }
}

#[tokio::test]
async fn an_agent_that_does_not_know_a_method_is_too_old_with_400_and_with_404() {
    for status in ["400 Bad Request", "404 Not Found"] {
        let liar = liar(move |_, _| {
            Some(http(
                status,
                "application/json",
                r#"{"error":"Service not found: Version"}"#,
            ))
        });
        let error = liar.agent.version().await.unwrap_err();
        assert!(
            matches!(error, AgentError::TooOld { method: "Version" }),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_quote_over_other_bytes_is_refused_in_the_echo_and_in_the_quote() {
    let asked = [7; 64];
    let answer = |echo: u8, quoted: u8| {
        let mut quote = vec![0; 700];
        quote[0] = 4;
        quote[568..632].fill(quoted);
        let (quote, echo) = (hex::encode(quote), hex::encode([echo; 64]));
        ok(&format!(
            r#"{{"quote":"{quote}","event_log":"[]","report_data":"{echo}","vm_config":"{{}}"}}"#
        ))
    };
    let good = liar(move |_, _| Some(answer(7, 7)));
    good.agent.quote(&asked).await.unwrap();
    for (echo, quoted, expected) in [(8, 7, "echo"), (7, 8, "quote")] {
        let liar = liar(move |_, _| Some(answer(echo, quoted)));
        let error = liar.agent.quote(&asked).await.unwrap_err();
        assert!(
            matches!(error, AgentError::OtherReportData { place, .. } if place == expected),
            "{error}"
        );
    }
}

#[tokio::test]
async fn answers_that_are_not_the_protocol_are_refused() {
    let long = format!(r#"{{"version":"{}"}}"#, "x".repeat(10));
    for body in [
        "",
        "{",
        "[]",
        "null",
        "{}",
        r#"{"version":1,"rev":""}"#,
        "<html>",
        long.as_str(),
    ] {
        let body = body.to_owned();
        let liar = liar(move |_, _| Some(ok(&body)));
        let error = liar.agent.version().await.unwrap_err();
        assert!(matches!(error, AgentError::Malformed { .. }), "{error}");
    }
    // the body decides; who mislabels a good one is understood
    let mislabelled = liar(|_, _| Some(http("200 OK", "text/html", VERSION)));
    mislabelled.agent.version().await.unwrap();
    for app_id in [
        "",
        "00",
        "0x00112233445566778899aabbccddeeff00112233",
        "00112233445566778899AABBCCDDEEFF00112233",
    ] {
        let hash = "11".repeat(32);
        let liar = liar(move |_, _| {
            Some(ok(&format!(
                r#"{{"app_id":"{app_id}","instance_id":"","compose_hash":"{hash}","app_name":"","tcb_info":"","key_provider_info":""}}"#
            )))
        });
        let text = liar.agent.info().await.unwrap_err().to_string();
        assert!(text.contains("app_id"), "{text}");
    }
}

#[tokio::test]
async fn a_malformed_key_is_refused_without_quoting_it() {
    for key in ["zz", "00", "ABCD", &"0".repeat(64), &"f".repeat(64)] {
        let body = format!(r#"{{"key":"{key}","signature_chain":[]}}"#);
        let liar = liar(move |_, _| Some(ok(&body)));
        let text = liar.agent.key("p", "q").await.err().unwrap().to_string();
        assert!(
            text.contains("secp256k1 key") && !text.contains(&format!("\"{key}\"")),
            "{text}"
        );
    }
    let wrong_type = liar(|_, _| Some(ok(r#"{"key":["secret"],"signature_chain":"secret"}"#)));
    assert!(
        !wrong_type
            .agent
            .key("p", "q")
            .await
            .err()
            .unwrap()
            .to_string()
            .contains("secret")
    );
}

#[tokio::test]
async fn an_endless_answer_is_cut_at_the_limit() {
    let liar = liar(|_, _| {
        let mut answer = b"HTTP/1.1 200 OK\r\ncontent-length: 20000000\r\n\r\n".to_vec();
        answer.resize(20_000_000, b' ');
        Some(answer)
    });
    let error = liar.agent.info().await.unwrap_err();
    assert!(
        matches!(error, AgentError::TooLarge { method: "Info", .. }),
        "{error}"
    );
}

#[tokio::test]
async fn an_info_may_have_2_mib_and_not_a_byte_more() {
    for (length, fits) in [(2 << 20, true), ((2 << 20) + 1, false)] {
        let liar = liar(move |_, _| {
            let info = info_json("a");
            Some(ok(&format!("{info}{}", " ".repeat(length - info.len()))))
        });
        let result = liar.agent.info().await;
        let too_large = matches!(
            result,
            Err(AgentError::TooLarge {
                limit: 2_097_152,
                ..
            })
        );
        assert_eq!((result.is_ok(), too_large), (fits, !fits));
    }
}

#[tokio::test]
async fn a_small_answer_and_a_refusal_may_have_64_kib_and_not_a_byte_more() {
    for (length, fits) in [(65_536, true), (65_537, false)] {
        let liar = liar(move |_, _| {
            Some(ok(&format!(
                "{VERSION}{}",
                " ".repeat(length - VERSION.len())
            )))
        });
        let result = liar.agent.version().await;
        let too_large = matches!(result, Err(AgentError::TooLarge { limit: 65_536, .. }));
        assert_eq!((result.is_ok(), too_large), (fits, !fits));
    }
    for (length, fits) in [(65_536, true), (65_537, false)] {
        let refusal = move || http("400 Bad Request", "text/plain", &"x".repeat(length));
        let error = liar(move |_, _| Some(refusal())).agent.info().await;
        match error.unwrap_err() {
            AgentError::Answered { .. } => assert!(fits),
            AgentError::TooLarge { limit: 65_536, .. } => assert!(!fits),
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn who_does_not_speak_http_is_no_agent() {
    let liar = liar(|_, _| Some(b"SSH-2.0-OpenSSH_9.6\r\n".to_vec()));
    let error = liar.agent.version().await.unwrap_err();
    assert!(matches!(error, AgentError::Malformed { .. }), "{error}");
    assert_eq!(liar.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn waiting_ends_when_the_agent_comes_and_says_why_it_waited() {
    let dir = tempfile::tempdir().unwrap();
    let socket: PathBuf = dir.path().join("late.sock");
    let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let waiting = {
        let socket = socket.clone();
        tokio::spawn(async move {
            Agent::wait(&socket, Duration::from_secs(20), move |text| {
                said.send(text.to_owned()).unwrap()
            })
            .await
        })
    };
    let text = heard.recv().await.unwrap(); // it has looked and found nothing
    assert!(
        text.contains("late.sock") && text.contains("waiting"),
        "{text}"
    );
    let world = Arc::new(World::new(&[3; 32], DEVELOPMENT_COMPOSE.to_owned(), None).unwrap());
    let _running = serve(world, vec![InstanceConfig::new(socket, [4; 32])])
        .await
        .unwrap();
    waiting.await.unwrap().unwrap().info().await.unwrap();
}

#[tokio::test]
async fn waiting_in_vain_ends_at_the_deadline_and_hopeless_waits_end_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let error = Agent::wait(
        &dir.path().join("no.sock"),
        Duration::from_millis(150),
        |_| (),
    )
    .await
    .err()
    .unwrap();
    assert!(
        matches!(&error, AgentError::GaveUp { waited, .. } if *waited >= Duration::from_millis(150)),
        "{error}"
    );

    let hour = Duration::from_secs(3600);
    let at_once = |path: PathBuf| async move {
        let wait = Agent::wait(&path, hour, |_| ());
        tokio::time::timeout(Duration::from_secs(10), wait)
            .await
            .expect("no waiting")
            .err()
            .unwrap()
    };
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    for path in [
        dir.path().to_owned(),
        file,
        Path::new(&"x".repeat(200)).to_owned(),
        PathBuf::new(),
    ] {
        let error = at_once(path).await;
        assert!(matches!(error, AgentError::BadSocket { .. }), "{error}");
        assert_eq!(error.family(), Family::Misconfigured);
    }
    let stranger = liar(|_, _| Some(http("404 Not Found", "text/plain", "page not found")));
    let error = at_once(stranger.agent.socket().to_owned()).await;
    assert_eq!(error.family(), Family::Refused, "{error}");
}
