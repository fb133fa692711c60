//! The harness itself: hosts that can be cut off, a terminal, a chain that mines by the clock. What these tools claim
//! to lose, part or type is shown here, so that other tests may believe them.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // tests are the outside world

mod support;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::anvil::{Anvil, TestChain};
use support::lan::Lan;
use support::pty::Pty;
use support::{World, eventually, skipped};

const SOON: Duration = Duration::from_secs(5);
const DATAGRAMS: u32 = 400;

/// Perl, because perl-base is an essential package of Debian and bash cannot bind. Echoes datagrams, unicast or to the
/// group, from port 9000, and serves TCP there; after "end" it says how many datagrams beginning with "n" it heard.
const SERVER: &str = r#"
use Socket; use IO::Select; $| = 1; my $ip = $ARGV[0];
my ($u, $t); socket($u, PF_INET, SOCK_DGRAM, 0) and bind($u, sockaddr_in(9000, INADDR_ANY)) or die $!;
setsockopt($u, 0, 35, inet_aton("224.1.1.1") . inet_aton($ip)) or die "join: $!";
setsockopt($u, SOL_SOCKET, SO_RCVBUF, 1 << 20);
socket($t, PF_INET, SOCK_STREAM, 0) and setsockopt($t, SOL_SOCKET, SO_REUSEADDR, 1)
  and bind($t, sockaddr_in(9000, INADDR_ANY)) and listen($t, 9) or die $!;
print "ready\n"; my $n = 0; my $s = IO::Select->new($u, $t);
while (1) { for my $r ($s->can_read) {
  if ($r == $t) { accept(my $c, $t); sysread $c, my $q, 4096;
    syswrite $c, "HTTP/1.0 418 Tea\r\nContent-Length: 15\r\n\r\n{\"from\":\"$ip\"}\n"; close $c; next }
  my $from = recv $u, my $d, 2048, 0;
  if ($d =~ /^n/) { $n++ } elsif ($d eq "end") { print "$n\n" if $n; $n = 0 } else { send $u, $d, 0, $from }
} }"#;
/// udp|tcp ADDRESS: "heard" as soon as the echo comes, "silent" when five questions had none.
const ASK: &str = r#"
use Socket; use IO::Select; my ($how, $to) = @ARGV; my $a = sockaddr_in(9000, inet_aton($to));
socket(my $s, PF_INET, $how eq "udp" ? SOCK_DGRAM : SOCK_STREAM, 0) or die $!;
if ($how eq "tcp") { $s->blocking(0); connect $s, $a; IO::Select->new($s)->can_write(1);
  print syswrite($s, "hi\n") ? "heard" : "silent"; exit }
for (1 .. 5) { send $s, "hello", 0, $a; if (IO::Select->new($s)->can_read(0.1)) { print "heard"; exit } }
print "silent""#;
/// ADDRESS NUMBER: so many datagrams, then "end" often enough that one of them arrives.
const POUR: &str = r#"
use Socket; my ($to, $many) = @ARGV; my $a = sockaddr_in(9000, inet_aton($to));
socket(my $s, PF_INET, SOCK_DGRAM, 0) or die $!;
for (1 .. $many) { send $s, "n$_", 0, $a; select undef, undef, undef, 0.0005 }
for (1 .. 40) { send $s, "end", 0, $a }"#;

/// A host that answers, ended with this value.
struct Server {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
}

impl Server {
    fn start(lan: &Lan, host: u8) -> Result<Self> {
        let mut child = lan
            .command(host, "perl")
            .args(["-e", SERVER, &lan.address(host)])
            .stdout(Stdio::piped())
            .spawn()?;
        let out = BufReader::new(child.stdout.take().context("piped")?);
        let mut server = Self { child, out };
        ensure!(server.line()? == "ready\n", "the server did not start");
        Ok(server)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.out.read_line(&mut line)?;
        Ok(line)
    }

    /// How many of the datagrams arrive.
    fn count(&mut self, lan: &Lan, from: u8, to: &str) -> Result<u32> {
        lan.run(from, &["perl", "-e", POUR, to, &DATAGRAMS.to_string()])?;
        Ok(self.line()?.trim().parse()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // best effort: it may have ended
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn hears(lan: &Lan, from: u8, how: &str, to: &str) -> Result<bool> {
    Ok(lan.run(from, &["perl", "-e", ASK, how, to])? == "heard")
}

fn perl() -> bool {
    let there = Command::new("perl").args(["-MSocket", "-e", "1"]).status();
    let there = there.is_ok_and(|status| status.success());
    if !there {
        skipped("harness", "perl with Socket (perl-base) is not installed");
    }
    there
}

/// Two hosts; the second answers.
fn two_hosts() -> Result<Option<(Lan, Server)>> {
    if !perl() {
        return Ok(None);
    }
    let Some(lan) = Lan::new(2)? else {
        return Ok(None);
    };
    let server = Server::start(&lan, 2)?;
    Ok(Some((lan, server)))
}

#[test]
fn two_hosts_hear_each_other_by_unicast_multicast_and_tcp_and_each_fault_stops_its_own()
-> Result<()> {
    let Some((lan, _server)) = two_hosts()? else {
        return Ok(());
    };
    let heard = || -> Result<[bool; 3]> {
        Ok([
            hears(&lan, 1, "udp", "10.77.0.2")?,
            hears(&lan, 1, "udp", "224.1.1.1")?,
            hears(&lan, 1, "tcp", "10.77.0.2")?,
        ])
    };
    assert_eq!(heard()?, [true, true, true]);
    lan.drop_multicast(2)?;
    assert_eq!(heard()?, [true, false, true]);
    lan.allow_multicast(2)?;
    lan.drop_udp(2)?;
    lan.drop_udp(2)?; // twice is once
    assert_eq!(heard()?, [false, false, true]);
    lan.allow_udp(2)?;
    assert_eq!(heard()?, [true, true, true]);
    Ok(())
}

#[test]
fn a_parted_host_is_alone_until_it_is_healed() -> Result<()> {
    let Some((lan, _server)) = two_hosts()? else {
        return Ok(());
    };
    lan.partition(2)?;
    assert!(!hears(&lan, 1, "udp", "10.77.0.2")?);
    assert!(!hears(&lan, 1, "tcp", "10.77.0.2")?);
    assert!(hears(&lan, 2, "udp", "10.77.0.2")?, "it still hears itself");
    let link = lan.run(2, &["ip", "link", "show", "eth0"])?;
    assert!(link.contains("LOWER_UP"), "and is told of nothing: {link}");
    lan.heal(2)?;
    assert!(hears(&lan, 1, "udp", "10.77.0.2")?);
    assert!(hears(&lan, 1, "udp", "224.1.1.1")?);
    assert!(hears(&lan, 1, "tcp", "10.77.0.2")?);
    Ok(())
}

#[test]
fn thirty_percent_loss_loses_about_thirty_percent_and_no_tcp() -> Result<()> {
    let Some((lan, mut server)) = two_hosts()? else {
        return Ok(());
    };
    assert_eq!(
        server.count(&lan, 1, "10.77.0.2")?,
        DATAGRAMS,
        "no loss yet"
    );
    lan.lose(2, 30)?;
    let lost = DATAGRAMS - server.count(&lan, 1, "10.77.0.2")?;
    println!("lost {lost} of {DATAGRAMS}");
    assert!(
        (DATAGRAMS * 15 / 100..=DATAGRAMS * 45 / 100).contains(&lost),
        "{lost}"
    );
    for _ in 0..20 {
        assert!(hears(&lan, 1, "tcp", "10.77.0.2")?);
    }
    lan.lose(2, 0)?;
    assert_eq!(
        server.count(&lan, 1, "224.1.1.1")?,
        DATAGRAMS,
        "no loss any more"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_host_alone_has_a_lossy_loopback_and_answers_over_http() -> Result<()> {
    if !perl() {
        return Ok(());
    }
    let Some(lan) = Lan::alone()? else {
        return Ok(());
    };
    let mut server = Server::start(&lan, 1)?;
    let (code, body) = lan
        .http(1, 9000, "POST", "/x", Some(&json!({"a": 1})))
        .await?;
    assert_eq!((code, &body), (418, &json!({"from": "127.0.0.1"})));
    let why = lan.http(1, 9001, "GET", "/", None).await.unwrap_err();
    assert!(format!("{why:#}").contains("refused"), "{why:#}");
    ensure!(
        TcpStream::connect("127.0.0.1:9000").is_err(),
        "the server is on the machine's own loopback"
    );
    assert!(hears(&lan, 1, "udp", "224.1.1.1")?);
    lan.drop_udp(1)?;
    assert!(!hears(&lan, 1, "udp", "127.0.0.1")?);
    assert!(!hears(&lan, 1, "udp", "224.1.1.1")?);
    lan.allow_udp(1)?;
    assert_eq!(
        server.count(&lan, 1, "127.0.0.1")?,
        DATAGRAMS,
        "no loss yet"
    );
    lan.lose(1, 30)?;
    let lost = DATAGRAMS - server.count(&lan, 1, "127.0.0.1")?;
    assert!(
        (DATAGRAMS * 15 / 100..=DATAGRAMS * 45 / 100).contains(&lost),
        "{lost}"
    );
    assert!(lan.partition(1).is_err());
    Ok(())
}

#[test]
fn whoever_lives_on_a_dropped_lan_dies_with_it() -> Result<()> {
    let Some(lan) = Lan::new(1)? else {
        return Ok(());
    };
    // a grandchild, as a node under a killed supervisor
    let mut shell = lan
        .command(1, "sh")
        .args(["-c", "sleep 300 & echo $!; wait"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = String::new();
    BufReader::new(shell.stdout.take().context("piped")?).read_line(&mut said)?;
    let grandchild = format!("/proc/{}/ns/net", said.trim());
    assert!(std::fs::metadata(&grandchild).is_ok());
    drop(lan);
    let started = Instant::now();
    while shell.try_wait()?.is_none() {
        ensure!(started.elapsed() < SOON, "the shell lives on");
        std::thread::sleep(Duration::from_millis(10));
    }
    while std::fs::metadata(&grandchild).is_ok() {
        ensure!(started.elapsed() < SOON, "{grandchild} lives on");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

#[test]
fn a_terminal_echoes_waits_in_order_and_ctrl_c_reaches_the_program() -> Result<()> {
    let mut command = Command::new("bash");
    command
        .args(["--norc", "--noprofile", "-i"])
        .env("PS1", "ready> ");
    let mut pty = Pty::spawn(command)?;
    pty.expect("ready> ", SOON)?;
    pty.type_line("stty size; tty -s && echo on a term''inal")?;
    pty.expect("\n40 160\n", SOON)?;
    pty.expect("on a terminal", SOON)?;
    pty.type_line(r#"printf '\033[1;31mre\033[0md\033]0;title\007\nagain\ranew\nnext\n'"#)?;
    pty.expect("\nred\nagain\nanew\nnext\n", SOON)?;
    // a match is used up
    let why = pty.expect("red", Duration::from_millis(50)).unwrap_err();
    let why = why.to_string();
    assert!(why.contains("40 160") && why.contains("ready> "), "{why}");
    // Ctrl-C ends what is in the foreground, not the shell
    pty.type_line("sh -c 'echo st\"\"arts; exec sleep 300'; echo ends $?")?;
    pty.expect("starts", SOON)?;
    pty.send_ctrl_c()?;
    pty.expect("ready> ", SOON)?;
    pty.type_line("echo st''ill $((6 * 7))")?;
    let before = pty.expect("still 42", SOON)?;
    assert!(!before.contains("ends 0"), "{before}");
    pty.expect("ready> ", SOON)?;
    pty.send_eof()?;
    assert!(pty.wait(SOON)?.success());
    assert!(pty.transcript().contains("starts"));
    let why = pty.expect("more", SOON).unwrap_err().to_string();
    assert!(why.contains("has ended"), "{why}");
    Ok(())
}

#[test]
fn a_dropped_terminal_takes_the_shells_jobs_with_it() -> Result<()> {
    let mut command = Command::new("bash");
    command.args(["--norc", "--noprofile", "-i"]);
    let mut pty = Pty::spawn(command)?;
    pty.type_line("nohup sleep 300 & echo job=$!.")?;
    pty.expect("\njob=", SOON)?;
    let job = pty.expect(".", SOON)?;
    let job = format!("/proc/{job}/exe");
    assert!(std::fs::metadata(&job).is_ok());
    drop(pty);
    let started = Instant::now();
    while std::fs::metadata(&job).is_ok() {
        ensure!(started.elapsed() < SOON, "{job} lives on");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

#[test]
fn a_program_in_a_namespace_has_a_terminal_and_dies_of_ctrl_c() -> Result<()> {
    let Some(lan) = Lan::new(1)? else {
        return Ok(());
    };
    let mut command = lan.command(1, "sh");
    command.args(["-c", "ip -br address show eth0; exec sleep 300"]);
    let mut pty = Pty::spawn(command)?;
    pty.expect("10.77.0.1/24", SOON)?;
    // until the shell has become the program
    let comm = format!("/proc/{}/comm", pty.pid());
    let started = Instant::now();
    while std::fs::read_to_string(&comm)? != "sleep\n" {
        ensure!(started.elapsed() < SOON, "the child is not the program");
        std::thread::sleep(Duration::from_millis(10));
    }
    pty.send_ctrl_c()?;
    let status = pty.wait(SOON)?;
    assert_eq!(status.signal(), Some(2), "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anvil_has_our_chain_id_and_accounts_mines_a_block_a_second_and_dies_with_the_world()
-> Result<()> {
    if let Err(missing) = Anvil::find() {
        skipped("anvil", &missing);
        return Ok(());
    }
    let _turn = support::turn().await;
    let world = World::on(TestChain::Anvil, 1).await?;
    assert_eq!(world.block_time(), Duration::from_secs(1));
    let rpc = world.rpc.url().replace("http://", "");
    assert_eq!(call(&rpc, "eth_chainId")?, "0x7a69");
    let height = || -> Result<u64> {
        let text = call(&rpc, "eth_blockNumber")?;
        let text = text.as_str().context("a number")?;
        Ok(u64::from_str_radix(text.trim_start_matches("0x"), 16)?)
    };
    // nobody sends anything, and it mines: three blocks are two to four seconds from the edge of one
    let first = height()?;
    let start = eventually(SOON, "a block", async || {
        ensure!(height()? > first);
        Ok(Instant::now())
    })
    .await?;
    eventually(SOON, "three more", async || {
        ensure!(height()? >= first + 4);
        Ok(())
    })
    .await?;
    let took = start.elapsed();
    assert!(
        (2..=4).contains(&took.as_secs()),
        "three blocks took {took:?}"
    );
    drop(world);
    assert!(call(&rpc, "eth_chainId").is_err(), "it outlived its world");
    Ok(())
}

/// One JSON-RPC call, HTTP/1.0 by hand.
fn call(address: &str, method: &str) -> Result<Value> {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": []}).to_string();
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SOON))?;
    write!(
        stream,
        "POST / HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (_, answer) = text.split_once("\r\n\r\n").context("no HTTP answer")?;
    Ok(serde_json::from_str::<Value>(answer)?["result"].clone())
}
