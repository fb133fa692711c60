//! The class door as another machine and as a stranger see it: 127.0.0.2 plays the network.

#![allow(clippy::unwrap_used)] // a test that cannot go on should stop where it stands

use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use synod_devchain::{DEV_CHAIN_ID, Door, Running, ServeError, Settings, door_path, serve};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const KEY: [u8; 32] = [0x5a; 32];
const WORLD: &str = r#"{"chain_id":31337}"#;
const PLAY_LAN: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

async fn start() -> Running {
    let settings = Settings {
        bind: ([127, 0, 0, 1], 0).into(),
        journal: None,
        chain_id: DEV_CHAIN_ID,
    };
    serve(settings).await.unwrap()
}

fn door() -> Door {
    Door::new(KEY, WORLD.to_owned())
}

fn lan(chain: &Running) -> SocketAddr {
    SocketAddr::new(PLAY_LAN, chain.address().port())
}

async fn opened() -> Running {
    let mut chain = start().await;
    let lan = lan(&chain);
    chain.open(door(), Some(lan)).await.unwrap();
    chain
}

/// Status, whether the connection is announced to end, and the body if it is JSON.
async fn exchange(to: SocketAddr, head: &str, body: &str) -> (u16, bool, Value) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let length = body.len();
    let request = format!("{head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let closes = head.to_lowercase().contains("connection: close");
    (
        status.unwrap_or(0),
        closes,
        serde_json::from_str(body).unwrap_or_default(),
    )
}

async fn post(to: SocketAddr, path: &str) -> (u16, Value) {
    let call = json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_chainId" }).to_string();
    let head = format!("POST {path} HTTP/1.1\r\nHost: {to}");
    let (status, _, answer) = exchange(to, &head, &call).await;
    (status, answer)
}

async fn get(to: SocketAddr, path: &str) -> (u16, Value) {
    let (status, _, answer) = exchange(to, &format!("GET {path} HTTP/1.1\r\nHost: {to}"), "").await;
    (status, answer)
}

#[tokio::test]
async fn on_the_network_only_the_key_opens_and_everybody_else_reads_why() {
    let chain = opened().await;
    let lan = lan(&chain);
    let right = door_path(&KEY);
    let mut other = KEY;
    other[31] ^= 1;
    assert_eq!(post(lan, &right).await.1["result"], "0x7a69");
    assert_eq!(post(lan, &format!("{right}/")).await.1["result"], "0x7a69");
    let world = get(lan, &format!("{right}/world")).await;
    assert_eq!((world.0, world.1["chain_id"].as_u64()), (200, Some(31_337)));
    for (path, found) in [
        ("/".to_owned(), "found none"),
        ("/world".to_owned(), "found none"),
        (door_path(&other), "another class"),
        (format!("{}/world", door_path(&other)), "another class"),
        (right[..right.len() - 1].to_owned(), "another class"),
        (format!("/{right}"), "found none"),
    ] {
        for (status, answer) in [post(lan, &path).await, get(lan, &path).await] {
            assert_eq!(status, 401, "{path}");
            let reason = answer["error"]["message"].as_str().unwrap_or_default();
            for part in ["class code", "--class <words>", found] {
                assert!(
                    reason.contains(part),
                    "{path}: {part} is missing in {answer}"
                );
            }
            assert!(!answer.to_string().contains("5a5a"), "no key in {answer}");
        }
    }
    // by any name of the machine, but from no web page
    let named = |extra: &str| format!("POST {right} HTTP/1.1\r\nHost: teacher.local{extra}");
    let call = json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_chainId" }).to_string();
    assert_eq!(exchange(lan, &named(""), &call).await.0, 200);
    let page = named("\r\nOrigin: http://evil.example");
    assert_eq!(exchange(lan, &page, &call).await.0, 403);
}

#[tokio::test]
async fn a_stranger_is_turned_away_before_the_body_and_a_classmate_has_the_usual_limits() {
    let chain = opened().await;
    let lan = lan(&chain);
    let endless = |path: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: {lan}\r\nContent-Length: 1000000000000\r\n\r\n")
    };
    let mut stranger = TcpStream::connect(lan).await.unwrap();
    stranger.write_all(endless("/").as_bytes()).await.unwrap();
    let mut answer = String::new();
    // ends although the body never comes
    let _ = stranger.read_to_string(&mut answer).await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    let right = door_path(&KEY);
    let head = format!("POST {right} HTTP/1.1\r\nHost: {lan}");
    let long = " ".repeat((1 << 20) + 1);
    assert_eq!(exchange(lan, &head, &long).await.0, 413);
}

#[tokio::test]
async fn on_loopback_no_key_is_needed_but_a_wrong_one_is_refused() {
    let chain = opened().await;
    let here = chain.address();
    assert_eq!(post(here, "/").await.1["result"], "0x7a69");
    assert_eq!(post(here, &door_path(&KEY)).await.1["result"], "0x7a69");
    assert_eq!(get(here, "/world").await.0, 200);
    assert_eq!(
        get(here, &format!("{}/world", door_path(&KEY))).await.0,
        200
    );
    assert_eq!(post(here, &door_path(&[1; 32])).await.0, 401);
    assert_eq!(get(here, "/").await.0, 405);
    let foreign = "POST / HTTP/1.1\r\nHost: evil.example";
    assert_eq!(exchange(here, foreign, "{}").await.0, 403);
}

#[tokio::test]
async fn without_a_door_nothing_has_changed() {
    let chain = start().await;
    assert_eq!(get(chain.address(), "/world").await.0, 405);
    assert_eq!(post(chain.address(), "/").await.0, 200);
    assert!(TcpStream::connect(lan(&chain)).await.is_err());
}

#[tokio::test]
async fn the_door_is_on_one_named_address_opens_once_and_closes_with_the_chain() {
    let mut chain = start().await;
    for found in [
        "0.0.0.0:0",
        "[::]:0",
        "224.1.1.1:0",
        "127.0.0.1:0",
        "[::1]:0",
    ] {
        let asked = Some(found.parse().unwrap());
        let refused = chain.open(door(), asked).await;
        assert!(
            matches!(refused, Err(ServeError::NotNamed { .. })),
            "{found}"
        );
    }
    let lan = lan(&chain);
    chain.open(door(), Some(lan)).await.unwrap();
    assert!(matches!(
        chain.open(door(), None).await,
        Err(ServeError::OpenAlready)
    ));
    chain.stop().await;
    assert!(
        TcpStream::connect(lan).await.is_err(),
        "closed with the chain"
    );
}
