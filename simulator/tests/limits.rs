//! The limits of a socket: how many connections it serves, and for how long a silent one.

#![allow(clippy::unwrap_used)] // a test says what it expects by failing

use dstack_simulator::{InstanceConfig, Running, World, WorldSpec, serve};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

/// What the simulator promises.
const CONNECTIONS_MAX: usize = 32;
const IDLE: Duration = Duration::from_secs(15);
/// Long after everything that is waited for here.
const DEADLINE: Duration = Duration::from_secs(60);

async fn start() -> (Running, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let world = Arc::new(World::build(WorldSpec::new([7; 32])).unwrap());
    let config = InstanceConfig::new(dir.path().join("a.sock"), [1; 32]);
    (serve(world, vec![config]).await.unwrap(), dir)
}

async fn connect(running: &Running) -> UnixStream {
    let socket = running.sockets().next().unwrap();
    UnixStream::connect(socket).await.unwrap()
}

async fn ask(stream: &mut UnixStream) {
    let request = b"GET /Version HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(request).await.unwrap();
}

/// Bytes of an answer; 0 is the end.
async fn answer(stream: &mut UnixStream) -> usize {
    let mut bytes = [0; 4096];
    timeout(DEADLINE, stream.read(&mut bytes))
        .await
        .expect("an answer or an end in time")
        .unwrap()
}

#[tokio::test]
async fn one_connection_too_many_waits_until_another_ends() {
    let (running, _dir) = start().await;
    let mut served = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut stream = connect(&running).await;
        ask(&mut stream).await;
        assert!(answer(&mut stream).await > 0);
        served.push(stream);
    }
    let mut waiting = connect(&running).await;
    ask(&mut waiting).await;
    let early = timeout(Duration::from_millis(300), waiting.readable()).await;
    assert!(
        early.is_err(),
        "the socket serves {CONNECTIONS_MAX} at a time"
    );
    served.pop();
    assert!(answer(&mut waiting).await > 0);
}

#[tokio::test]
async fn a_silent_connection_ends_whether_it_has_asked_before_or_not() {
    let (running, _dir) = start().await;
    let begun = Instant::now();
    let mut mute = connect(&running).await;
    let mut asked = connect(&running).await;
    ask(&mut asked).await;
    assert!(answer(&mut asked).await > 0);
    for silent in [&mut asked, &mut mute] {
        assert_eq!(answer(silent).await, 0);
        assert!(begun.elapsed() >= IDLE, "{:?}", begun.elapsed());
    }
}
