//! The binary: what it prints, that it serves what it prints, and that it leaves nothing behind.

#![allow(clippy::unwrap_used)] // a test says what it expects by failing

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

const SEED: &str = "0x0707070707070707070707070707070707070707070707070707070707070707";

struct Process {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Process {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_dstack-simulator"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    /// Everything up to the line `ready`; a process that ends instead shows its errors.
    fn until_ready(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if self.stdout.read_line(&mut line).unwrap() == 0 {
                let mut errors = String::new();
                self.child
                    .stderr
                    .take()
                    .unwrap()
                    .read_to_string(&mut errors)
                    .unwrap();
                panic!("ended before it was ready: {errors}");
            }
            match line.trim_end() {
                "ready" => return lines,
                line => lines.push(line.to_owned()),
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

fn info(socket: &Path) -> serde_json::Value {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream
        .write_all(b"GET /Info HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[test]
fn it_serves_the_instances_it_prints_and_removes_its_sockets_upon_a_signal() {
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
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
fn faults_of_the_command_line_are_named_and_end_with_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().to_str().unwrap();
    let missing = dir.path().join("missing.json");
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
        (vec![], vec!["--dir"]),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_dstack-simulator"))
            .args(&arguments)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{arguments:?}");
        assert!(
            words.iter().all(|word| text.contains(word)),
            "{arguments:?}: {text}"
        );
    }
}
