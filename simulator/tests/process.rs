//! The binary: what it prints, that it serves what it prints, and that it leaves nothing behind.

#![allow(clippy::unwrap_used)] // a test says what it expects by failing

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

const BINARY: &str = env!("CARGO_BIN_EXE_dstack-simulator");
const SEED: &str = "0x0707070707070707070707070707070707070707070707070707070707070707";

/// How long a start may take on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(30);

struct Process {
    child: Child,
    lines: Receiver<String>,
}

impl Process {
    fn start(arguments: &[&str]) -> Self {
        Self::start_in(Path::new("."), arguments)
    }

    fn start_in(working: &Path, arguments: &[&str]) -> Self {
        // whoever runs the tests may have asked nohup to ignore hangups, and that would be inherited
        let mut command = Command::new("env");
        command.args(["--default-signal=HUP", BINARY]);
        command.args(arguments).current_dir(working);
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (to, lines) = channel();
        // ends with the process, which ends with this value
        std::thread::spawn(move || {
            stdout
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| to.send(line))
        });
        Self { child, lines }
    }

    /// Everything up to the line `ready`; a process that ends instead shows its errors.
    fn until_ready(&mut self) -> Vec<String> {
        let deadline = Instant::now() + START_TIMEOUT;
        let mut told = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line == "ready" => return told,
                Ok(line) => told.push(line),
                Err(RecvTimeoutError::Timeout) => {
                    panic!("not ready after {START_TIMEOUT:?}: {told:?}")
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let mut errors = String::new();
                    let mut stderr = self.child.stderr.take().unwrap();
                    stderr.read_to_string(&mut errors).unwrap();
                    panic!("ended before it was ready: {errors}");
                }
            }
        }
    }

    fn signal(&mut self, signal: rustix::process::Signal) -> std::process::ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("still running 10 s after {signal:?}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The value of a printed line.
fn value<'a>(lines: &'a [String], name: &str) -> &'a str {
    let line = lines.iter().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no line {name:?} in {lines:?}"))
        .trim()
}

fn ask(mut stream: impl Read + Write, request: &str) -> serde_json::Value {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 200 "), "{answer}");
    serde_json::from_str(body).unwrap()
}

fn get(socket: &Path, path: &str) -> serde_json::Value {
    let stream = UnixStream::connect(socket).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    ask(
        stream,
        &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
    )
}

fn info(socket: &Path) -> serde_json::Value {
    get(socket, "/Info")
}

#[test]
fn it_serves_the_instances_it_prints_and_removes_its_sockets_upon_a_signal() {
    use rustix::process::Signal;
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().to_str().unwrap();
        let mut process = Process::start(&["--dir", place, "--instances", "3", "--seed", SEED]);
        let lines = process.until_ready();
        assert!(lines[0].contains("SIMULATED") && lines[0].contains("not Intel"));
        assert!(
            lines
                .iter()
                .any(|l| l == "kms root address  0x8e064d0abafcddbbc898739e0ad02fbdcdf66522"),
            "{lines:?}"
        );
        let instances: Vec<(String, PathBuf)> = lines
            .iter()
            .filter_map(|line| line.strip_prefix("instance          ")?.split_once("  "))
            .map(|(id, socket)| (id.to_owned(), PathBuf::from(socket)))
            .collect();
        assert_eq!(instances.len(), 3);
        for (id, socket) in &instances {
            assert_eq!(info(socket)["instance_id"], *id);
        }
        assert!(process.signal(signal).success());
        assert!(
            std::fs::read_dir(dir.path()).unwrap().next().is_none(),
            "nothing is left behind"
        );
    }
}

#[test]
fn a_hangup_ends_it_unless_nohup_was_asked_to_keep_it() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("dstack.sock");
    let mut command = Command::new("nohup");
    command.arg(BINARY).current_dir(dir.path());
    command.stdin(Stdio::null());
    let mut process = Process::spawn(command);
    process.until_ready();
    let pid = rustix::process::Pid::from_child(&process.child);
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    info(&socket);
    assert!(process.child.try_wait().unwrap().is_none());
    assert!(process.signal(rustix::process::Signal::TERM).success());
    assert!(!socket.exists());
}

#[test]
fn an_output_that_nobody_reads_ends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("dstack.sock");
    let (reader, writer) = std::io::pipe().unwrap();
    let (errors, to_errors) = std::io::pipe().unwrap();
    drop((reader, errors)); // so every write fails, as after `dstack-simulator | head -1`
    let arguments = ["--http", "127.0.0.1:0"];
    let mut command = Command::new(BINARY);
    command.args(arguments).current_dir(dir.path());
    let child = command.stdout(writer).stderr(to_errors).spawn().unwrap();
    let (_, lines) = channel();
    let mut process = Process { child, lines };
    let deadline = Instant::now() + START_TIMEOUT;
    while !socket.exists() {
        assert!(Instant::now() < deadline, "no socket");
        assert!(process.child.try_wait().unwrap().is_none(), "it ended");
        std::thread::sleep(Duration::from_millis(10));
    }
    // told between the socket and the wait for a signal: it must survive that
    for _ in 0..3 {
        info(&socket);
    }
    let status = process.signal(rustix::process::Signal::TERM);
    assert!(status.success(), "{status}");
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none());
}

#[test]
fn upon_an_error_it_has_announced_nothing_and_left_no_socket() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = Command::new(BINARY)
        .args(["--http", &address])
        .current_dir(dir.path())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && errors.contains(&address),
        "{errors}"
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none());
}

#[test]
fn a_directory_that_does_not_exist_is_made_for_its_user_only() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("new/place");
    let mut process = Process::start(&["--dir", place.to_str().unwrap()]);
    process.until_ready();
    for made in [&place, &dir.path().join("new")] {
        let mode = std::fs::metadata(made).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{}", made.display());
    }
    info(&place.join("node1.sock"));
    assert!(process.signal(rustix::process::Signal::TERM).success());

    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let output = Command::new(BINARY)
        .arg("--dir")
        .arg(&file)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("--dir (dir in the file)"), "{errors}");
}

#[test]
fn without_options_it_serves_both_sockets_of_the_working_directory() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start_in(dir.path(), &[]);
    let lines = process.until_ready();
    assert_eq!(value(&lines, "tappd "), "./tappd.sock");
    let (id, socket) = value(&lines, "instance ").split_once("  ").unwrap();
    assert_eq!(socket, "./dstack.sock");
    let info = info(&dir.path().join("dstack.sock"));
    assert_eq!(info["instance_id"], id);
    assert_eq!(info["compose_hash"], value(&lines, "compose hash "));
    assert_eq!(value(&lines, "quote root hash ").len(), 64);
    assert_eq!(value(&lines, "kms root public ").len(), 66);
    let version = get(&dir.path().join("tappd.sock"), "/prpc/Tappd.Version");
    assert_eq!(version["version"], "0.5.11");
    assert!(process.signal(rustix::process::Signal::TERM).success());
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none());
}

#[test]
fn over_tcp_the_first_instance_says_the_same_and_understands_http_1_0() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().to_str().unwrap();
    let arguments = [
        "--dir",
        place,
        "--instances",
        "2",
        "--tappd",
        "--http",
        "127.0.0.1:0",
    ];
    let mut process = Process::start(&arguments);
    let lines = process.until_ready();
    let address = value(&lines, "http ").strip_prefix("http://").unwrap();
    let over_tcp = |request: &str| {
        let stream = TcpStream::connect(address).unwrap();
        let limit = Some(Duration::from_secs(10));
        stream.set_read_timeout(limit).unwrap();
        ask(stream, request)
    };
    let first = info(&dir.path().join("node1.sock"));
    let key = get(&dir.path().join("node1.sock"), "/GetKey?path=p");
    let modern = over_tcp("GET /Info HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_eq!(modern["instance_id"], first["instance_id"]);
    assert_eq!(over_tcp("GET /GetKey?path=p HTTP/1.0\r\n\r\n"), key);
    for n in 1..=2 {
        let old = get(
            &dir.path().join(format!("node{n}.tappd.sock")),
            "/prpc/Version",
        );
        assert_eq!(old["version"], "0.5.11");
    }
    assert!(process.signal(rustix::process::Signal::INT).success());
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none());
}

/// Public test keys of the official simulator, and the app that they belong to.
const FIXTURE: &str = r#"
seed = "0707070707070707070707070707070707070707070707070707070707070707"
app_id = "0x5bb4ff9a3837357f19dc176407a5709c62eb6c56"
dir = "."
[app_keys]
root = "d6e88992cdeeee35fe70b5db61ab66cdb191fb9b6ec9313757ef162dd7214d5d"
link = "9e618603e72d01fedb82deff6daf2d62a572becf0059eec3f89c1ab40e1f2e594d2a283f843f34e8f39e4cc49a612496ce67223a12ac923f8efe330346dfc6c500"
[traits]
drop_every = 1
"#;

#[test]
fn with_the_public_fixtures_app_keys_it_gives_the_recorded_key_and_chain() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("world.toml");
    std::fs::write(&file, FIXTURE).unwrap();
    let options = ["--config", file.to_str().unwrap(), "--drop-every", "0"];
    let mut process = Process::start(&options);
    let lines = process.until_ready();
    // whoever signed the link of the fixture: its key was never published
    let root = value(&lines, "kms root public ");
    assert!(
        root.starts_with("0321529e") && root.ends_with("85b6"),
        "{root}"
    );
    let path = "/GetKey?path=wallet/ethereum&purpose=mainnet";
    let key = get(&dir.path().join("node1.sock"), path);
    assert_eq!(
        key["key"],
        "abc24a0a6485cfceb30932bcfc9c3b918eab2216d8619c423a0d1017390938ef"
    );
    let chain = [
        "ff57816e9cdd93c170db1e976c787533046392e90f7b3834f15f03f771e364941220f49f266a2bd293a289871a56f4dd81b1dec22d23d9d177862f5c398a317201",
        "9e618603e72d01fedb82deff6daf2d62a572becf0059eec3f89c1ab40e1f2e594d2a283f843f34e8f39e4cc49a612496ce67223a12ac923f8efe330346dfc6c500",
    ];
    assert_eq!(key["signature_chain"], serde_json::json!(chain));
}

#[test]
fn a_world_without_a_kms_and_its_habits_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().to_str().unwrap();
    let arguments = [
        "--dir",
        place,
        "--key-provider",
        "local",
        "--event-log",
        "full",
        "--quote-time-ms",
        "20",
        "--quote-fails-every",
        "5",
    ];
    let mut process = Process::start(&arguments);
    let lines = process.until_ready();
    assert!(value(&lines, "kms root address ").starts_with("none (key provider local"));
    assert_eq!(
        value(&lines, "habits "),
        "full event logs (a real agent strips them), a quote takes 20 ms, 1 of 5 quotes fails"
    );
    let key = get(&dir.path().join("node1.sock"), "/GetKey");
    assert_eq!(key["signature_chain"][1], "");
}

#[test]
fn faults_of_the_command_line_are_named_and_end_with_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().to_str().unwrap();
    let missing = dir.path().join("missing.json");
    let contradicted = dir.path().join("tpm.json");
    std::fs::write(&contradicted, r#"{"key_provider":"tpm"}"#).unwrap();
    let contradicted = contradicted.to_str().unwrap();
    let nowhere = dir.path().join("no/such/dir/a.sock");
    for (arguments, words) in [
        (
            vec!["--dir", place, "--seed", "abc"],
            vec!["--seed", "64 hex digits", "abc"],
        ),
        (
            vec!["--dir", place, "--app-id", "00"],
            vec!["--app-id", "40 hex digits"],
        ),
        (
            vec!["--dir", place, "--compose", missing.to_str().unwrap()],
            vec!["--compose", "missing.json"],
        ),
        (vec!["--dir", place, "--instances", "65"], vec!["65"]),
        (
            vec!["--socket", nowhere.to_str().unwrap()],
            vec!["no/such/dir/a.sock", "directory must exist"],
        ),
        (vec!["--instances", "2"], vec!["--dir"]),
        (
            vec!["--key-provider", "sgx"],
            vec!["--key-provider", "local"],
        ),
        (
            vec!["--dir", place, "--http", "192.0.2.1:1"],
            vec!["loopback", "--insecure-public-http"],
        ),
        (
            vec!["--http", "localhost:8090"],
            vec!["--http", "IP:PORT, such as 127.0.0.1:8090"],
        ),
        (
            vec!["--http", "8090"],
            vec!["--http", "IP:PORT, such as 127.0.0.1:8090"],
        ),
        (
            vec!["--config", missing.to_str().unwrap()],
            vec!["--config", "missing.json"],
        ),
        (
            vec![
                "--dir",
                place,
                "--compose",
                contradicted,
                "--key-provider",
                "kms",
            ],
            vec!["tpm in the compose text", "kms in the world"],
        ),
    ] {
        let output = Command::new(BINARY).args(&arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{arguments:?}");
        assert!(
            words.iter().all(|word| text.contains(word)),
            "{arguments:?}: {text}"
        );
    }
}
