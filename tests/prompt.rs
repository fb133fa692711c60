//! People at a terminal: `synod up` on a pseudo terminal, in a network of its own so that datagrams can be lost on
//! purpose. All nine words of the prototype, its seven event lines in order, a leader's death and a late joiner.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // tests are the outside world

mod support;

use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::time::Duration;
use support::anvil::Anvil;
use support::lan::Lan;
use support::pty::Pty;
use support::{SYNOD, turn};

const START: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(20);

/// `up` at a terminal, and the chain behind it when it is not its own.
fn up(lan: &Lan, dir: &Path) -> Result<(Pty, Option<Anvil>)> {
    let (other, chain) = Anvil::instead(|program| lan.command(1, program), &dir.join("chain.out"))?;
    let mut command = lan.command(1, SYNOD);
    command.arg("up").args(other);
    let mut pty = Pty::spawn(command)?;
    pty.expect("ready", START)?;
    pty.expect("ENERGY TRADING NODE 1", START)?;
    pty.expect("Node 1> ", SOON)?;
    Ok((pty, chain))
}

/// Types a line; the next words that are expected come from the program.
fn ask(pty: &mut Pty, line: &str, answers: &[&str]) -> Result<()> {
    pty.type_line(line)?;
    for words in answers {
        pty.expect(words, SOON)
            .with_context(|| format!("after {line:?}"))?;
    }
    Ok(())
}

/// Types a line again until the answer shows these words.
fn until(pty: &mut Pty, line: &str, words: &str) -> Result<()> {
    for _ in 0..20 {
        pty.type_line(line)?;
        if pty.expect(words, Duration::from_millis(500)).is_ok() {
            return Ok(());
        }
    }
    pty.type_line(line)?;
    pty.expect(words, SOON).map(drop)
}

#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::too_many_lines,
    reason = "one session at a terminal, read from top to bottom"
)]
async fn the_nine_words_and_the_seven_lines() -> Result<()> {
    let _turn = turn().await;
    let Some(lan) = Lan::alone()? else {
        return Ok(());
    };
    let dir = tempfile::tempdir()?;
    let (mut pty, _chain) = up(&lan, dir.path())?;
    ask(
        &mut pty,
        "help",
        &[
            "Available Commands:",
            "status",
            "balance",
            "sell",
            "buy",
            "nodes",
            "history",
            "election",
            "quit",
        ],
    )?;
    ask(
        &mut pty,
        "status",
        &[
            "NODE STATUS - Node 1",
            "Role: FOLLOWER",
            "Coordinator: Node 3",
            "Balance: 100 credits",
            "Active Nodes: [1, 2, 3]",
            "Vector Clock: []",
            "Buffered Messages: 0",
        ],
    )?;
    ask(&mut pty, "balance", &["Balance: 100 credits"])?;
    // the coordinator is known by its own heartbeat, which may be on its way
    until(&mut pty, "nodes", "Node 3 (coordinator")?;
    ask(&mut pty, "sell 1 5", &["Cannot trade with yourself"])?;
    ask(
        &mut pty,
        "sell 9 5",
        &["Node 9 is not available in the system. Active nodes: [1, 2, 3]"],
    )?;
    ask(
        &mut pty,
        "sell 2 101",
        &["Cannot sell 101 energy credits - insufficient balance"],
    )?;
    ask(&mut pty, "sell 2 0", &["expected more than 0 credits"])?;
    ask(&mut pty, "sell 2 -5", &["Error:"])?;
    ask(&mut pty, "sell two 5", &["Error:"])?;
    ask(&mut pty, "sell 2", &["Usage: sell <node_id> <amount>"])?;
    ask(
        &mut pty,
        "dance",
        &["Unknown command: dance. Type 'help' for commands."],
    )?;

    // 1: a trade, told to both sides
    pty.type_line("sell 2 30")?;
    let told = pty.expect("Node 1: SELL 30 credits to Node 2 [100 -> 70]", SOON)?;
    if !told.contains("Node 2: BUY 30 credits from Node 1 [100 -> 130]") {
        pty.expect("Node 2: BUY 30 credits from Node 1 [100 -> 130]", SOON)?;
    }
    ask(
        &mut pty,
        "buy 3 10",
        &["Node 1: BUY 10 credits from Node 3 [70 -> 80]"],
    )?;
    ask(
        &mut pty,
        "history",
        &[
            "ENERGY LEDGER - Node 1",
            "Energy Balance: 80 credits",
            "Completed Trades: 2",
            "Pending Trades: 0",
            "SELL 30 credits to Node 2",
            "BUY 10 credits from Node 3",
        ],
    )?;
    ask(&mut pty, "use 2", &["Node 2> "])?;
    ask(&mut pty, "balance", &["Balance: 130 credits"])?;
    ask(&mut pty, "use 1", &["Node 1> "])?;

    // an election by a person's wish: the highest id leads again, in a later term
    ask(&mut pty, "election", &["COORDINATOR for term 2"])?;

    // 2 to 5: the leader dies
    ask(
        &mut pty,
        "kill 3",
        &[
            "Node 3 SUSPECTED (missed heartbeat timeout)",
            "Node 3 FAILED (sustained heartbeat absence)",
            "LEADER FAILED - triggering election",
            "No higher-priority nodes, declaring self as coordinator",
        ],
    )?;
    pty.expect("Node 2: COORDINATOR for term", SOON)?;
    // 6: it comes back, late
    ask(
        &mut pty,
        "start 3",
        &["Node 3: State synchronized - coordinator=2, known_nodes=[1, 2, 3]"],
    )?;
    // the leader again; a kill of the node that the prompt talks to is survived as well
    ask(
        &mut pty,
        "kill 2",
        &[
            "LEADER FAILED - triggering election",
            "COORDINATOR for term",
        ],
    )?;
    ask(
        &mut pty,
        "start 2",
        &[
            "Node 2: State synchronized - coordinator=",
            "known_nodes=[1, 2, 3]",
        ],
    )?;
    ask(&mut pty, "balance", &["Balance: 80 credits"])?;
    ask(
        &mut pty,
        "kill 1",
        &["FAILED (sustained heartbeat absence)"],
    )?;
    ask(&mut pty, "balance", &["start 1"])?;
    ask(&mut pty, "use 2", &["Node 2> "])?;
    ask(&mut pty, "balance", &["Balance: 130 credits"])?;
    ask(&mut pty, "start 1", &["Node 1: State synchronized"])?;

    // 7: datagrams get lost, so some come before those that they depend on
    lan.lose(1, 50)?;
    let mut buffered = false;
    for round in 0..60 {
        pty.type_line(if round % 2 == 0 {
            "sell 3 0.1"
        } else {
            "buy 3 0.1"
        })?;
        if pty
            .expect(
                "Buffering message for causal delivery",
                Duration::from_millis(500),
            )
            .is_ok()
        {
            buffered = true;
            break;
        }
    }
    ensure!(
        buffered,
        "nothing was held back at half loss:\n{}",
        pty.transcript()
    );
    lan.lose(1, 0)?;

    ask(&mut pty, "quit", &["Shutting down..."])?;
    let ended = pty.wait(SOON)?;
    ensure!(ended.success(), "{ended}\n{}", pty.transcript());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_to_a_failed_node_says_that_it_waits_and_settles_when_the_node_is_back()
-> Result<()> {
    let _turn = turn().await;
    let Some(lan) = Lan::alone()? else {
        return Ok(());
    };
    let dir = tempfile::tempdir()?;
    let (mut pty, _chain) = up(&lan, dir.path())?;
    ask(
        &mut pty,
        "kill 2",
        &["Node 1: Node 2 FAILED (sustained heartbeat absence)"],
    )?;
    ask(
        &mut pty,
        "sell 2 30",
        &[
            "(sell 30 to Node 2) waits: Node 2 does not answer; the offer lives until",
            "UTC (",
        ],
    )?;
    ask(
        &mut pty,
        "start 2",
        &["Node 1: SELL 30 credits to Node 2 [100 -> 70]"],
    )?;
    // whoever is heard gets no such word: the next line about this trade is its end
    pty.type_line("sell 3 5")?;
    let told = pty.expect("Node 1: SELL 5 credits to Node 3 [70 -> 65]", SOON)?;
    ensure!(!told.contains("waits"), "{told}");
    ask(&mut pty, "quit", &["Shutting down..."])?;
    let ended = pty.wait(SOON)?;
    ensure!(ended.success(), "{ended}\n{}", pty.transcript());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_and_end_of_input_leave_with_leave() -> Result<()> {
    let _turn = turn().await;
    for leave in [Pty::send_ctrl_c, Pty::send_eof] {
        let Some(lan) = Lan::alone()? else {
            return Ok(());
        };
        let dir = tempfile::tempdir()?;
        let (mut pty, chain) = up(&lan, dir.path())?;
        leave(&mut pty)?;
        let ended = pty.wait(SOON)?;
        ensure!(ended.success(), "{ended}\n{}", pty.transcript());
        drop(chain);
        let left = lan.run(1, &["ss", "-Htuln"])?;
        ensure!(left.trim().is_empty(), "something still listens: {left}");
    }
    Ok(())
}

/// One terminal per node, as in the prototype: `devnet` in one, `node 1` in another.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_its_own_has_the_same_prompt() -> Result<()> {
    let _turn = turn().await;
    let Some(lan) = Lan::alone()? else {
        return Ok(());
    };
    let dir = tempfile::tempdir()?;
    let chain_log = dir.path().join("chain.out");
    let (other, _chain) = Anvil::instead(|program| lan.command(1, program), &chain_log)?;
    let mut command = lan.command(1, SYNOD);
    command
        .args(["devnet", "--data-dir"])
        .arg(dir.path().join("devnet"))
        .args(other);
    let mut devnet = Pty::spawn(command)?;
    devnet.expect("--class ", START)?;
    let words = devnet.expect("\n", SOON)?.trim().to_owned();

    let mut command = lan.command(1, SYNOD);
    command.args(["node", "1", "--join", "127.0.0.1:8545", "--class", &words]);
    command.arg("--data-dir").arg(dir.path().join("node1"));
    let mut node = Pty::spawn(command)?;
    node.expect("ENERGY TRADING NODE 1", START)?;
    until(&mut node, "status", "Role: COORDINATOR")?;
    ask(&mut node, "balance", &["Balance: 100 credits"])?;
    ask(
        &mut node,
        "sell 2 5",
        &["Node 2 is not available in the system. Active nodes: [1]"],
    )?;
    ask(&mut node, "election", &["COORDINATOR for term 2"])?;
    ask(&mut node, "kill 1", &["Unknown command: kill"])?;
    ask(&mut node, "exit", &["Shutting down..."])?;
    let ended = node.wait(SOON)?;
    ensure!(ended.success(), "{ended}\n{}", node.transcript());
    devnet.send_ctrl_c()?;
    ensure!(devnet.wait(SOON)?.success(), "{}", devnet.transcript());
    Ok(())
}
