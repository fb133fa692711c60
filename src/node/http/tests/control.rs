//! The control socket, as a prompt and as somebody else meets it.

use super::*;
use crate::control::{self, ControlError};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::PathBuf;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

/// A directory of its own for each test, gone at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("synod-ctl-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("control.sock")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Control {
    scratch: Scratch,
    memory: Arc<Memory>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

async fn control(name: &str) -> Control {
    let (scratch, memory) = (Scratch::new(name), Memory::new());
    let (stop, serving) = served(&scratch, &memory).await.unwrap();
    Control {
        scratch,
        memory,
        stop,
        serving,
    }
}

async fn served(
    scratch: &Scratch,
    memory: &Arc<Memory>,
) -> Result<(oneshot::Sender<()>, JoinHandle<()>), ControlError> {
    let (stop, stopped) = oneshot::channel::<()>();
    let until = async move { drop(stopped.await) };
    let serving = control::serve(&scratch.socket(), memory.clone(), until).await?;
    Ok((stop, serving))
}

impl Control {
    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.scratch.socket()).await.unwrap()
    }

    /// Without any `Host`: nobody is asked for a name here.
    async fn ask(&self, line: &str) -> Answer {
        let request = format!("{line} HTTP/1.1\r\nConnection: close\r\n\r\n");
        speak(self.connect().await, request.as_bytes()).await
    }

    /// A reader whose request has been answered: it hears every line from here on.
    async fn reader(&self) -> Reader {
        self.reader_of("/control/lines").await
    }

    async fn reader_of(&self, path: &str) -> Reader {
        let mut reader = Reader(BufReader::new(self.connect().await));
        let request = format!("GET {path} HTTP/1.1\r\n\r\n");
        reader.0.write_all(request.as_bytes()).await.unwrap();
        let head = reader.until("\r\n\r\n").await.to_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert!(head.contains("transfer-encoding: chunked"), "{head}");
        assert!(head.contains("content-type: text/plain"), "{head}");
        reader
    }

    fn say(&self, line: &str) {
        self.memory.said.send(line.to_owned()).unwrap();
    }

    async fn end(self) -> Scratch {
        self.stop.send(()).unwrap();
        within(self.serving).await.unwrap();
        self.scratch
    }
}

struct Reader(BufReader<UnixStream>);

impl Reader {
    /// Everything up to and with `end`.
    async fn until(&mut self, end: &str) -> String {
        let mut text = String::new();
        while !text.ends_with(end) {
            text.push(char::from(within(self.0.read_u8()).await.unwrap()));
        }
        text
    }

    /// One chunk without its frame; empty at the end of the body.
    async fn chunk(&mut self) -> String {
        let mut len = String::new();
        within(self.0.read_line(&mut len)).await.unwrap();
        let len = usize::from_str_radix(len.trim(), 16).unwrap();
        let mut bytes = vec![0; len + 2];
        within(self.0.read_exact(&mut bytes)).await.unwrap();
        bytes.truncate(len);
        String::from_utf8(bytes).unwrap()
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future)
        .await
        .expect("an end in time")
}

#[tokio::test]
async fn the_control_socket_is_private_and_has_the_api_without_a_name() {
    let control = control("api").await;
    let found = std::fs::symlink_metadata(control.scratch.socket()).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o7777, 0o600);
    let left: Vec<_> = std::fs::read_dir(&control.scratch.0).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");

    for path in [
        "/status",
        "/balances",
        "/trades",
        "/clock",
        "/members",
        "/log",
    ] {
        let answer = control.ask(&format!("GET {path}")).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        assert!(answer.head.contains("cache-control: no-store"));
    }
    let body = r#"{"type":"sell","with":2,"amount":"30","wait":false}"#;
    let answer = speak(control.connect().await, &posting("/trades", body)).await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    assert_eq!(control.memory.wishes().len(), 1);

    *control.memory.muted.lock().unwrap() = true;
    control.ask("GET /balances").await.problem(503);
    let unknown = control.ask("GET /nothing").await.problem(404);
    assert!(
        unknown["detail"]
            .as_str()
            .unwrap()
            .contains("/control/lines")
    );
    control.ask("GET /control/quit").await.problem(405);
    let large = posting("/increment", &"x".repeat(BODY_LEN_MAX + 1));
    speak(control.connect().await, &large).await.problem(413);
    control.end().await;
}

#[tokio::test]
async fn an_election_and_the_end_are_asked_for_here() {
    let control = control("act").await;
    let called = control.ask("POST /control/election").await;
    assert_eq!(called.status, 200);
    assert_eq!(
        called.json(),
        json!({ "success": true, "message": "node 3 leads term 4" })
    );
    *control.memory.election.lock().unwrap() = Err("this node is muted".into());
    let refused = control.ask("POST /control/election").await.problem(409);
    assert_eq!(refused["error"], "this node is muted");

    assert!(!*control.memory.quit.lock().unwrap());
    assert_eq!(control.ask("POST /control/quit").await.status, 200);
    assert!(*control.memory.quit.lock().unwrap());
    control.end().await;
}

#[tokio::test]
async fn lines_arrive_as_they_are_said_each_ended_once_and_without_control_characters() {
    let control = control("lines").await;
    let mut reader = control.reader().await;
    control.say("Node 1: Node 2 SUSPECTED (missed heartbeat timeout)");
    assert_eq!(
        reader.chunk().await,
        "Node 1: Node 2 SUSPECTED (missed heartbeat timeout)\n"
    );
    control.say("Node 1: two\nlines \u{1b}[2J");
    assert_eq!(
        reader.chunk().await,
        "Node 1: two\u{fffd}lines \u{fffd}[2J\n"
    );
    control.say(&"x".repeat(5_000));
    assert_eq!(reader.chunk().await.len(), 1_001);
    control.say("the last one");
    let scratch = control.end().await;
    assert_eq!(reader.chunk().await, "the last one\n");
    assert_eq!(reader.chunk().await, "");
    assert!(!scratch.socket().exists());
}

#[tokio::test]
async fn who_comes_late_hears_the_last_lines_too() {
    let control = control("late").await;
    let mut late = control.reader_of("/control/lines/all").await;
    assert_eq!(late.chunk().await, "earlier\n");
    control.say("now");
    assert_eq!(late.chunk().await, "now\n");
    let mut from_now = control.reader().await;
    control.say("then");
    assert_eq!(from_now.chunk().await, "then\n");
    control.end().await;
}

#[tokio::test]
async fn a_slow_reader_loses_lines_and_is_told_how_many() {
    let control = control("slow").await;
    let mut reader = control.reader().await;
    // one task: nothing is delivered while these are said
    for n in 0..SAID_MAX + 7 {
        control.say(&format!("line {n}"));
    }
    let told = reader.chunk().await;
    assert!(told.starts_with("(7 event lines are lost"), "{told}");
    for n in 7..SAID_MAX + 7 {
        assert_eq!(reader.chunk().await, format!("line {n}\n"));
    }
    control.end().await;
}

#[tokio::test]
async fn readers_are_bounded_and_leave_room_for_commands() {
    let control = control("many").await;
    let mut readers = Vec::new();
    for _ in 0..8 {
        readers.push(control.reader().await);
    }
    let ninth = control.ask("GET /control/lines").await;
    assert!(ninth.head.contains("retry-after: 1"));
    assert_eq!(ninth.problem(503)["error"], "Too many readers");
    assert_eq!(control.ask("GET /status").await.status, 200);

    // a reader that leaves makes room, though nothing is said
    drop(readers.pop());
    within(async {
        while control.ask("HEAD /control/lines").await.status != 200 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    control.end().await;
}

#[tokio::test]
async fn sixteen_connections_are_served_and_the_next_one_waits_for_a_place() {
    let control = control("places").await;
    let mut talking = Vec::new();
    for _ in 0..16 {
        let mut stream = control.connect().await;
        let request = b"GET /health HTTP/1.1\r\n\r\n";
        stream.write_all(request).await.unwrap();
        within(stream.read_u8()).await.unwrap();
        talking.push(stream);
    }
    let mut waiting = Box::pin(control.ask("GET /health"));
    let early = tokio::time::timeout(Duration::from_millis(200), waiting.as_mut()).await;
    assert!(early.is_err(), "the seventeenth was served");
    drop(talking.pop());
    assert_eq!(within(waiting).await.status, 200);
    control.end().await;
}

#[tokio::test]
async fn a_socket_of_a_dead_process_is_replaced_and_a_live_one_refuses() {
    let control = control("stale").await;
    let again = served(&control.scratch, &Memory::new()).await;
    assert!(matches!(again, Err(ControlError::Live { .. })), "{again:?}");
    assert_eq!(control.ask("GET /status").await.status, 200);
    let scratch = control.end().await;
    assert!(!scratch.socket().exists());

    // as a killed process leaves it: a name that nobody listens at, and a nursery
    drop(UnixListener::bind(scratch.socket()).unwrap());
    std::fs::create_dir(scratch.0.join(".control")).unwrap();
    std::fs::write(scratch.0.join(".control/s"), "").unwrap();
    assert!(scratch.socket().exists());
    let memory = Memory::new();
    let (stop, serving) = served(&scratch, &memory).await.unwrap();
    let found = std::fs::symlink_metadata(scratch.socket()).unwrap();
    assert_eq!(found.permissions().mode() & 0o7777, 0o600);
    let control = Control {
        scratch,
        memory,
        stop,
        serving,
    };
    assert_eq!(control.ask("GET /status").await.status, 200);
    control.end().await;
}

#[tokio::test]
async fn a_file_of_somebody_else_stays_and_a_path_too_long_is_named() {
    let scratch = Scratch::new("file");
    std::fs::write(scratch.socket(), "mine").unwrap();
    let refused = served(&scratch, &Memory::new()).await;
    assert!(matches!(refused, Err(ControlError::Foreign { .. })));
    assert_eq!(std::fs::read_to_string(scratch.socket()).unwrap(), "mine");

    let long = scratch.0.join("x".repeat(120));
    let refused = control::serve(&long, Memory::new(), std::future::pending()).await;
    assert!(matches!(refused, Err(ControlError::TooLong { .. })));
    let nowhere = scratch.0.join("none/control.sock");
    let refused = control::serve(&nowhere, Memory::new(), std::future::pending()).await;
    assert!(matches!(refused, Err(ControlError::Io { .. })));
}

#[tokio::test]
async fn an_aborted_server_takes_its_socket_with_it_but_not_a_successors() {
    let control = control("abort").await;
    control.serving.abort();
    assert!(within(control.serving).await.unwrap_err().is_cancelled());
    assert!(!control.scratch.socket().exists());

    let (stop, serving) = served(&control.scratch, &control.memory).await.unwrap();
    std::fs::remove_file(control.scratch.socket()).unwrap();
    let successor = UnixListener::bind(control.scratch.socket()).unwrap();
    stop.send(()).unwrap();
    within(serving).await.unwrap();
    assert!(control.scratch.socket().exists());
    drop(successor);
}
