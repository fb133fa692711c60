//! Several hosts on one machine: network namespaces, 10.77.0.1 … n on one bridge, or one host with nothing but `lo`.
//! ```text
//!   host 1: eth0 10.77.0.1      host 2: eth0 10.77.0.2          faults of one host: bpf filters at the ingress of its eth0
//!            │                           │                     partition: the same at both directions of its port p<i>
//!           p1 ───────── br0 ────────── p2
//! ```
//! Each namespace is held by a process of ours (an anchor, named by its pid), nothing is mounted or named, so the
//! machine itself is not changed, and all of it vanishes when the anchors' input closes, even if this test is killed.
//! What runs inside when a `Lan` is dropped is killed. Needs ip, tc, unshare, nsenter and root or user namespaces.

use super::skipped;
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// The bridge has as many ports as anybody needs.
const HOSTS_MAX: u8 = 50;
const HTTP_MAX: Duration = Duration::from_secs(10);
const ONE_SHOT_MAX_S: &str = "30";
const EVICTION_ROUNDS_MAX: u32 = 200;

// Classic bpf as tc takes it, relative to the IP header (a host's own looped-back multicast has no Ethernet header).
// 4294967295 = this filter has no opinion, 2 = drop.
const DROP_ALL: &str = "1,6 0 0 2";
const DROP_UDP: &str = "4,48 0 0 4293918729,21 0 1 17,6 0 0 2,6 0 0 4294967295";
const DROP_MULTICAST: &str =
    "5,32 0 0 4293918736,84 0 0 4026531840,21 0 1 3758096384,6 0 0 2,6 0 0 4294967295";

/// Hosts that end with this value.
pub struct Lan {
    /// How to enter; the first holds the bridge, then come the hosts.
    anchors: Vec<Anchor>,
    device: &'static str,
    /// (host, preference) of every filter that is in place.
    faults: Mutex<BTreeSet<(u8, Fault)>>,
}

/// What can be wrong at a host's door; the number is the filter's preference.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Udp = 10,
    Multicast = 11,
    Loss = 12,
    Partition = 13,
}

struct Anchor {
    child: Child,
    /// Open as long as the namespace is wanted.
    input: Option<ChildStdin>,
    /// Program and arguments that precede a command.
    enter: Vec<String>,
    /// Inode of the namespace.
    space: u64,
}

impl Lan {
    /// `hosts` hosts on one bridge. None: this machine cannot, and it was said.
    pub fn new(hosts: u8) -> Result<Option<Self>> {
        ensure!(
            (1..=HOSTS_MAX).contains(&hosts),
            "expected 1 to {HOSTS_MAX} hosts, found {hosts}"
        );
        let Some(mut lan) = Self::base("eth0")? else {
            return Ok(None);
        };
        lan.bridge(&[
            "link",
            "add",
            "br0",
            "type",
            "bridge",
            "mcast_snooping",
            "0",
        ])?;
        lan.bridge(&["link", "set", "br0", "up"])?;
        for host in 1..=hosts {
            lan.plug(host)?;
        }
        Ok(Some(lan))
    }

    /// One host, number 1, with `lo` only: for everything that is on 127.0.0.1. Faults happen on `lo`.
    pub fn alone() -> Result<Option<Self>> {
        let Some(mut lan) = Self::base("lo")? else {
            return Ok(None);
        };
        let anchor = lan.anchors[0].another()?;
        lan.anchors.push(anchor);
        lan.open_door(1)?;
        lan.run(1, &["ip", "route", "add", "224.0.0.0/4", "dev", "lo"])?;
        Ok(Some(lan))
    }

    /// Host `host`'s address.
    pub fn address(&self, host: u8) -> String {
        if self.device == "lo" {
            return "127.0.0.1".to_owned();
        }
        format!("10.77.0.{host}")
    }

    /// The words that, put before a command line, run it in the host's namespace; they execute it, so the process
    /// that is started *is* the program.
    pub fn wrapper(&self, host: u8) -> &[String] {
        assert!(
            host >= 1 && usize::from(host) < self.anchors.len(),
            "no host {host}"
        );
        &self.anchors[usize::from(host)].enter
    }

    /// A command in the host's namespace.
    pub fn command(&self, host: u8, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let enter = self.wrapper(host);
        let mut command = Command::new(&enter[0]);
        command.args(&enter[1..]).arg(program);
        command
    }

    /// Run something short to its end; returns what it wrote. Another exit code than 0 is an error.
    pub fn run(&self, host: u8, words: &[&str]) -> Result<String> {
        let mut command = self.command(host, "timeout");
        output(command.arg(ONE_SHOT_MAX_S).args(words), words)
    }

    /// Drop every IPv4 UDP datagram that arrives at the host, its own multicast too; TCP passes.
    pub fn drop_udp(&self, host: u8) -> Result<()> {
        self.put(host, Fault::Udp, DROP_UDP)
    }

    pub fn allow_udp(&self, host: u8) -> Result<()> {
        self.take(host, Fault::Udp)
    }

    /// Drop everything to 224.0.0.0/4 that arrives at the host; unicast passes.
    pub fn drop_multicast(&self, host: u8) -> Result<()> {
        self.put(host, Fault::Multicast, DROP_MULTICAST)
    }

    pub fn allow_multicast(&self, host: u8) -> Result<()> {
        self.take(host, Fault::Multicast)
    }

    /// Lose this share of the UDP datagrams that arrive at the host, at random (the kernel's, not seeded); 0 ends it.
    pub fn lose(&self, host: u8, percent: u8) -> Result<()> {
        self.take(host, Fault::Loss)?;
        match percent {
            0 => Ok(()),
            1..=99 => {
                let threshold = (u64::from(percent) << 32) / 100;
                // UDP? no: no opinion; the kernel's random word >= threshold: no opinion; else drop
                let code = format!(
                    "6,48 0 0 4293918729,21 0 3 17,32 0 0 4294963256,53 1 0 {threshold},6 0 0 2,6 0 0 4294967295"
                );
                self.put(host, Fault::Loss, &code)
            }
            _ => bail!("expected 0 to 99 percent, found {percent}; drop_udp loses all"),
        }
    }

    /// Nothing passes between the host and the others, and nobody is told; what the host says to itself passes.
    pub fn partition(&self, host: u8) -> Result<()> {
        self.put(host, Fault::Partition, DROP_ALL)
    }

    pub fn heal(&self, host: u8) -> Result<()> {
        self.take(host, Fault::Partition)
    }

    /// Ask a server on the host's 127.0.0.1, which nobody outside can reach: bash's `/dev/tcp` (bash and coreutils are
    /// essential packages of Debian; curl is not). HTTP/1.0, so that the answer ends with the connection. An empty
    /// or other than JSON body is `Value::String`.
    pub async fn http(
        &self,
        host: u8,
        port: u16,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Value)> {
        let asked = format!("{method} http://127.0.0.1:{port}{path} on host {host}");
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut request = format!("{method} {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n");
        if !body.is_empty() {
            write!(
                request,
                "Content-Type: application/json\r\nContent-Length: {}\r\n",
                body.len()
            )?;
        }
        request.push_str("\r\n");
        request.push_str(&body);
        let mut bash = self.command(host, "bash");
        bash.args(["-c", "exec 3<>/dev/tcp/127.0.0.1/$0 && cat >&3 && cat <&3"])
            .arg(port.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut bash = tokio::process::Command::from(bash)
            .kill_on_drop(true)
            .spawn()?;
        let mut input = bash.stdin.take().context("stdin is piped")?;
        let talk = async {
            // it may have failed to connect and ended; its own words follow
            let _ = input.write_all(request.as_bytes()).await;
            drop(input);
            bash.wait_with_output().await
        };
        let answer = tokio::time::timeout(HTTP_MAX, talk)
            .await
            .with_context(|| format!("{asked}: no answer within {HTTP_MAX:?}"))??;
        ensure!(
            answer.status.success(),
            "{asked}: {}",
            String::from_utf8_lossy(&answer.stderr)
        );
        parse(&answer.stdout).with_context(|| asked)
    }

    /// The namespace of the bridge, in which everything that is needed was tried.
    fn base(device: &'static str) -> Result<Option<Self>> {
        match Anchor::first().and_then(|anchor| {
            let lan = Self {
                anchors: vec![anchor],
                device,
                faults: Mutex::default(),
            };
            lan.probe().map(|()| lan)
        }) {
            Ok(lan) => Ok(Some(lan)),
            Err(missing) => {
                skipped("network namespaces", &format!("{missing:#}"));
                Ok(None)
            }
        }
    }

    fn probe(&self) -> Result<()> {
        for tool in ["bash", "timeout"] {
            find(tool)?;
        }
        let bridge = ["link", "add", "try0", "type", "bridge"];
        self.bridge(&bridge)?;
        self.bridge(&["link", "del", "try0"])?;
        let pair = [
            "link", "add", "try0", "type", "veth", "peer", "name", "try1",
        ];
        self.bridge(&pair)?;
        self.tc(0, &["qdisc", "add", "dev", "try0", "clsact"])?;
        self.filter(0, "try0", "ingress", Fault::Udp, "ip", DROP_UDP)?;
        self.bridge(&["link", "del", "try0"])
    }

    /// A new host with a cable to the bridge.
    fn plug(&mut self, host: u8) -> Result<()> {
        let anchor = self.anchors[0].another()?;
        let (port, pid) = (format!("p{host}"), anchor.child.id().to_string());
        self.anchors.push(anchor);
        self.bridge(&[
            "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &pid,
        ])?;
        self.bridge(&["link", "set", &port, "master", "br0", "up"])?;
        self.tc(0, &["qdisc", "add", "dev", &port, "clsact"])?;
        let address = format!("{}/24", self.address(host));
        self.run(host, &["ip", "link", "set", "eth0", "up"])?;
        self.run(host, &["ip", "address", "add", &address, "dev", "eth0"])?;
        // without it a program that names no interface cannot join a group
        self.run(host, &["ip", "route", "add", "224.0.0.0/4", "dev", "eth0"])?;
        self.open_door(host)
    }

    fn open_door(&self, host: u8) -> Result<()> {
        self.run(host, &["ip", "link", "set", "lo", "up"])?;
        self.tc(host, &["qdisc", "add", "dev", self.device, "clsact"])
    }

    fn put(&self, host: u8, fault: Fault, code: &str) -> Result<()> {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        if faults.contains(&(host, fault)) {
            return Ok(());
        }
        for (space, device, direction) in self.places(host, fault)? {
            let protocol = if fault == Fault::Partition {
                "all"
            } else {
                "ip"
            };
            self.filter(space, &device, direction, fault, protocol, code)?;
        }
        faults.insert((host, fault));
        Ok(())
    }

    fn take(&self, host: u8, fault: Fault) -> Result<()> {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        if !faults.contains(&(host, fault)) {
            return Ok(());
        }
        for (space, device, direction) in self.places(host, fault)? {
            let preference = (fault as u8).to_string();
            self.tc(
                space,
                &[
                    "filter",
                    "del",
                    "dev",
                    &device,
                    direction,
                    "prio",
                    &preference,
                ],
            )?;
        }
        faults.remove(&(host, fault));
        Ok(())
    }

    fn places(&self, host: u8, fault: Fault) -> Result<Vec<(u8, String, &'static str)>> {
        if fault != Fault::Partition {
            return Ok(vec![(host, self.device.to_owned(), "ingress")]);
        }
        ensure!(
            self.device != "lo",
            "one host alone has nobody to be parted from"
        );
        let port = format!("p{host}");
        Ok(vec![(0, port.clone(), "ingress"), (0, port, "egress")])
    }

    fn filter(
        &self,
        space: u8,
        device: &str,
        direction: &str,
        fault: Fault,
        protocol: &str,
        code: &str,
    ) -> Result<()> {
        let preference = (fault as u8).to_string();
        self.tc(
            space,
            &[
                "filter",
                "add",
                "dev",
                device,
                direction,
                "prio",
                &preference,
                "protocol",
                protocol,
                "bpf",
                "da",
                "bytecode",
                code,
            ],
        )
    }

    fn bridge(&self, words: &[&str]) -> Result<()> {
        self.anchors[0].tool("ip", words)
    }

    /// In the namespace of the bridge (0) or of a host.
    fn tc(&self, space: u8, words: &[&str]) -> Result<()> {
        self.anchors[usize::from(space)].tool("tc", words)
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        // First those who live here, then the anchors: as long as these hold the namespaces, nobody else's can have
        // the same inodes, so only processes of this test are found.
        for _ in 0..EVICTION_ROUNDS_MAX {
            if self.evict() == 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        for anchor in &mut self.anchors {
            anchor.input = None;
            // best effort: without its input it ends anyway
            let _ = anchor.child.kill();
            let _ = anchor.child.wait();
        }
    }
}

impl Lan {
    /// Kill every process in these namespaces but the anchors; how many there were.
    fn evict(&self) -> usize {
        let here = |pid: Pid| {
            let space = std::fs::metadata(format!("/proc/{}/ns/net", pid.as_raw_nonzero()));
            space.is_ok_and(|space| self.anchors.iter().any(|a| a.space == space.ino()))
        };
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        processes
            .filter_map(|process| Pid::from_raw(process.file_name().to_str()?.parse().ok()?))
            .filter(|pid| {
                self.anchors
                    .iter()
                    .all(|a| Pid::from_child(&a.child) != *pid)
            })
            .filter_map(|pid| {
                // held before it is looked at, so that the number cannot become another's in between
                let held = pidfd_open(pid, PidfdFlags::empty()).ok()?;
                here(pid).then_some(held)
            })
            .filter(|held| pidfd_send_signal(held, Signal::KILL).is_ok())
            .count()
    }
}

impl Anchor {
    /// A namespace of its own: as root, or as root of a user namespace.
    fn first() -> Result<Self> {
        let (unshare, nsenter) = (find("unshare")?, find("nsenter")?);
        for tool in ["ip", "tc"] {
            find(tool)?;
        }
        let (root, as_user) = (vec!["-n"], vec!["-r", "-n"]);
        match Self::hold(vec![unshare.clone()], &root, |pid| {
            vec![nsenter.clone(), "-t".into(), pid, "-n".into()]
        }) {
            Ok(anchor) => Ok(anchor),
            Err(as_root) => Self::hold(vec![unshare], &as_user, |pid| {
                let words = ["-U", "--preserve-credentials", "-n"].map(str::to_owned);
                [vec![nsenter, "-t".into(), pid], words.to_vec()].concat()
            })
            .with_context(|| format!("neither root ({as_root:#}) nor user namespaces")),
        }
    }

    /// One more beside this one, under the same user.
    fn another(&self) -> Result<Self> {
        let start = [self.enter.clone(), vec![find("unshare")?]].concat();
        let mut enter = self.enter.clone();
        Self::hold(start, &["-n"], move |pid| {
            enter[2] = pid;
            enter
        })
    }

    fn hold(
        start: Vec<String>,
        options: &[&str],
        enter: impl FnOnce(String) -> Vec<String>,
    ) -> Result<Self> {
        let mut child = Command::new(&start[0])
            .args(&start[1..])
            .args(options)
            .args(["sh", "-c", "echo holds; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {start:?}"))?;
        let input = child.stdin.take();
        let mut said = String::new();
        BufReader::new(child.stdout.take().context("stdout is piped")?).read_line(&mut said)?;
        if said != "holds\n" {
            let ended = child.wait_with_output()?;
            bail!(
                "unshare {options:?}: {}",
                String::from_utf8_lossy(&ended.stderr).trim()
            );
        }
        let pid = child.id().to_string();
        let space = std::fs::metadata(format!("/proc/{pid}/ns/net"))?.ino();
        Ok(Self {
            enter: enter(pid),
            child,
            input,
            space,
        })
    }

    fn tool(&self, name: &str, words: &[&str]) -> Result<()> {
        let mut command = Command::new(&self.enter[0]);
        command.args(&self.enter[1..]).arg(find(name)?).args(words);
        output(&mut command, words)
            .map(drop)
            .context(name.to_owned())
    }
}

fn output(command: &mut Command, words: &[&str]) -> Result<String> {
    let Output {
        status,
        stdout,
        stderr,
    } = command.stdin(Stdio::null()).output()?;
    let (out, err) = (
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr),
    );
    ensure!(
        status.success(),
        "{}: {status}: {out}{err}",
        words.join(" ")
    );
    Ok(out.into_owned())
}

/// Where a tool is; a user's PATH may lack the folders of administrators.
fn find(tool: &str) -> Result<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from));
    for folder in folders {
        let file = folder.join(tool);
        if file.is_file() && file.is_absolute() {
            return Ok(file.display().to_string());
        }
    }
    bail!("{tool} is not installed (packages iproute2, util-linux, coreutils, bash)")
}

/// Status code and body of a whole HTTP/1 answer.
fn parse(answer: &[u8]) -> Result<(u16, Value)> {
    let end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .with_context(|| format!("no HTTP answer: {:?}", String::from_utf8_lossy(answer)))?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let chunked = "\ntransfer-encoding:";
    ensure!(
        !head.to_lowercase().contains(chunked),
        "expected a plain body, found {head}"
    );
    let code = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .with_context(|| format!("no status code: {head}"))?;
    let body = &answer[end + 4..];
    let value = serde_json::from_slice(body)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(body).into_owned()));
    Ok((code, value))
}
