//! The limits of a socket: who may open it, how many connections it serves, for how long a silent one, one that does
//! not read and one that does not finish, and how many large bodies.

#![allow(clippy::unwrap_used)] // a test says what it expects by failing

use dstack_simulator::{InstanceConfig, Running, World, WorldSpec, serve};
use std::{
    io,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
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
/// Large bodies at a time, in the whole process.
const LARGE_MAX: usize = 2;
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

#[tokio::test]
async fn clients_that_ask_and_never_read_do_not_hold_their_places() {
    let (running, _dir) = start().await;
    let begun = Instant::now();
    let mut deaf = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut stream = connect(&running).await;
        deaf.spawn(async move {
            let request = b"GET /Info HTTP/1.1\r\nHost: x\r\n\r\n";
            while stream.write_all(request).await.is_ok() {}
        });
    }
    let mut waiting = connect(&running).await;
    ask(&mut waiting).await;
    assert!(answer(&mut waiting).await > 0);
    assert!(
        begun.elapsed() >= IDLE,
        "all places were taken until the first deaf client was given up: {:?}",
        begun.elapsed()
    );
    let ends = async { while deaf.join_next().await.is_some() {} };
    timeout(DEADLINE, ends)
        .await
        .expect("every deaf client is given up");
}

#[tokio::test]
async fn a_body_without_end_where_nothing_is_served_is_not_waited_for() {
    const SOON: Duration = Duration::from_secs(15); // half of what a body has where something is served
    let (running, _dir) = start().await;
    for body in [
        "Content-Length: 9\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n",
    ] {
        let mut stream = connect(&running).await;
        let head = format!("POST /a/b HTTP/1.1\r\nHost: x\r\n{body}");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut start = [0; 13];
        let read = timeout(SOON, stream.read_exact(&mut start)).await;
        read.expect("a page soon").unwrap();
        assert_eq!(&start, b"HTTP/1.1 404 ");
    }
}

/// A request whose body is as long as its head says.
fn large(length: usize) -> String {
    let path = "a".repeat(length - r#"{"path":""}"#.len());
    format!(
        "POST /GetKey?json HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{{\"path\":\"{path}\"}}"
    )
}

#[tokio::test]
async fn a_large_body_too_many_waits_and_small_ones_do_not() {
    const LARGE: usize = 4 << 20;
    let (running, _dir) = start().await;
    let request = large(LARGE);
    // what the sockets and the server hold of a body that nobody has a place for is far less than its half
    let (half, rest) = request.as_bytes().split_at(LARGE / 2);
    let mut begun = Vec::new();
    for _ in 0..LARGE_MAX {
        let mut stream = connect(&running).await;
        let written = timeout(DEADLINE, stream.write_all(half)).await;
        written.expect("a place").unwrap();
        begun.push(stream);
    }
    let mut waiting = connect(&running).await;
    let early = timeout(Duration::from_millis(300), waiting.write_all(half)).await;
    assert!(early.is_err(), "{LARGE_MAX} large bodies at a time");
    drop(waiting);
    let mut small = connect(&running).await;
    small.write_all(large(256 << 10).as_bytes()).await.unwrap();
    assert!(answer(&mut small).await > 0);

    // one is answered, which frees its place for another
    let mut first = begun.remove(0);
    first.write_all(rest).await.unwrap();
    assert!(answer(&mut first).await > 0);
    let mut next = connect(&running).await;
    let written = timeout(DEADLINE, next.write_all(request.as_bytes())).await;
    written.expect("a place").unwrap();
    assert!(answer(&mut next).await > 0);
}

#[tokio::test]
async fn a_socket_is_nobody_elses_from_its_first_moment_on() {
    let world = Arc::new(World::build(WorldSpec::new([7; 32])).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("a.sock");
    let done = Arc::new(AtomicBool::new(false));
    let watcher = std::thread::spawn({
        let (socket, done) = (socket.clone(), done.clone());
        move || modes(&socket, &done)
    });
    for _ in 0..200 {
        let config = InstanceConfig::new(socket.clone(), [1; 32]);
        let running = serve(world.clone(), vec![config]).await.unwrap();
        let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let inside: Vec<_> = std::fs::read_dir(&dir).unwrap().collect();
        assert_eq!(inside.len(), 1, "nothing stays beside it: {inside:?}");
        UnixStream::connect(&socket).await.unwrap();
        running.stop().await;
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
    }
    done.store(true, Ordering::Relaxed);
    let seen = watcher.join().unwrap();
    assert!(seen.iter().all(|mode| *mode == 0o600), "{seen:?}");
}

/// Every mode that the path was ever seen with.
fn modes(socket: &Path, done: &AtomicBool) -> Vec<u32> {
    let mut seen = Vec::new();
    while !done.load(Ordering::Relaxed) {
        match std::fs::symlink_metadata(socket) {
            Ok(found) => seen.push(found.permissions().mode() & 0o777),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound),
        }
        seen.dedup();
    }
    seen
}
