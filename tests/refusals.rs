//! Bad input gets a message that names the value, where it came from and the remedy, and a non-zero exit.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // tests are the outside world

mod support;

use anyhow::{Result, ensure};
use std::process::Output;
use std::time::Duration;
use support::{SYNOD, World, eventually};
use synod_chain::{Wallet, operator};
use synod_devchain::DEV_KEYS;
use synod_wire::{Address, Token};
use tokio::process::Command;

/// The node's arguments with some replaced, run to its end.
async fn refused(
    world: &World,
    id: u64,
    changes: &[(&str, &str)],
    env: &[(&str, &str)],
) -> Result<String> {
    let mut args = world.node(id).args.clone();
    for (option, value) in changes {
        match args.iter().position(|arg| arg == option) {
            Some(at) => args[at + 1] = (*value).to_owned(),
            None => args.extend([(*option).to_owned(), (*value).to_owned()]),
        }
    }
    let env: Vec<(String, String)> = env
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    let run = Command::new(SYNOD)
        .args(args)
        .env_clear()
        .envs(env)
        .kill_on_drop(true)
        .output();
    let output: Output = tokio::time::timeout(Duration::from_secs(30), run).await??;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.code() == Some(1),
        "expected exit 1, found {:?}: {text}",
        output.status
    );
    Ok(text)
}

fn names(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_bad_start_names_the_value_and_the_remedy() -> Result<()> {
    let mut world = World::new(1).await?;

    let text = refused(
        &world,
        1,
        &[
            ("--dstack-socket", "/nowhere/dstack.sock"),
            ("--agent-wait", "0.5"),
        ],
        &[],
    )
    .await?;
    names(&text, &["/nowhere/dstack.sock", "guest agent"]);

    let nobody = "0x00000000000000000000000000000000000000aa";
    let text = refused(
        &world,
        1,
        &[("--contract", nobody), ("--data-dir", &fresh(&world, "a"))],
        &[],
    )
    .await?;
    names(&text, &[nobody, "code"]);

    let text = refused(
        &world,
        1,
        &[("--chain-id", "8453"), ("--data-dir", &fresh(&world, "b"))],
        &[],
    )
    .await?;
    names(&text, &["8453", "31337"]);

    // its own data directory, since a directory belongs to one token
    let mut args = world.node(1).args.clone();
    args[1] = "9".to_owned();
    world.nodes[0].args.clone_from(&args);
    let text = refused(&world, 1, &[("--data-dir", &fresh(&world, "c"))], &[]).await?;
    names(&text, &["token 9", &world.contract.to_string(), "mint"]);
    world.nodes[0].args[1] = "1".to_owned();

    let text = refused(
        &world,
        1,
        &[("--http-host", "0.0.0.0")],
        &[
            ("DS_HEARTBEAT_INTERVAL", "fast"),
            ("DS_ELECTION_TIMEOUT", "-1"),
        ],
    )
    .await?;
    names(
        &text,
        &[
            "3 fault(s)",
            "DS_HEARTBEAT_INTERVAL",
            "fast",
            "DS_ELECTION_TIMEOUT",
            "-1",
            "0.0.0.0",
            "loopback",
        ],
    );

    let text = refused(
        &world,
        1,
        &[("--heartbeat-interval", "2"), ("--heartbeat-timeout", "3")],
        &[],
    )
    .await?;
    names(&text, &["3000 ms", "2000 ms", "DS_HEARTBEAT_TIMEOUT"]);
    Ok(())
}

fn fresh(world: &World, name: &str) -> String {
    world.dir.path().join(name).display().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_and_a_foreign_data_directory_are_named() -> Result<()> {
    let mut world = World::led(1).await?;
    let (http, link) = (
        world.node(1).http.to_string(),
        world.node(1).link.to_string(),
    );
    let text = refused(&world, 1, &[("--data-dir", &fresh(&world, "other"))], &[]).await?;
    names(
        &text,
        &["--http-port", &http, "--link-port", &link, "fault(s)"],
    );

    let text = refused(&world, 1, &[], &[]).await?;
    names(&text, &["in use by another process"]);

    world.kill(1)?;
    let other = "0x00000000000000000000000000000000000000aa";
    let text = refused(&world, 1, &[("--contract", other)], &[]).await?;
    names(&text, &["belongs to", "this node is", "--data-dir"]);
    let home = world.dir.path().join("node1").display().to_string();
    world.nodes[0].args[1] = "2".to_owned();
    let text = refused(&world, 1, &[("--data-dir", &home)], &[]).await?;
    names(&text, &["token 1", "token 2"]);
    Ok(())
}

#[tokio::test]
async fn print_config_shows_what_is_known_and_names_what_is_missing() -> Result<()> {
    let run = |args: &'static [&str]| {
        let mut command = Command::new(SYNOD);
        command.args(["node", "--print-config"]).args(args);
        command.env_clear().env("DS_HEARTBEAT_INTERVAL", "0.05");
        command.output()
    };
    let output = run(&["2", "--peers", "1:10.9.8.7,3:nowhere"]).await?;
    ensure!(output.status.code() == Some(1), "{:?}", output.status);
    let (known, faults) = (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    );
    names(
        &known,
        &[
            "heartbeat-interval",
            "DS_HEARTBEAT_INTERVAL",
            "missing: give --contract or set SYNOD_CONTRACT",
            "missing: give --data-dir or set SYNOD_DATA_DIR",
        ],
    );
    names(
        &faults,
        &[
            "3 fault(s)",
            "SYNOD_CONTRACT",
            "SYNOD_DATA_DIR",
            "--peers, entry 2 of 2",
            "\"3:nowhere\"",
        ],
    );
    ensure!(!faults.contains("10.9.8.7"), "{faults}");

    let output = run(&[
        "2",
        "--data-dir",
        "d",
        "--contract",
        "0x5fbdb2315678afecb367f032d93f642f64180aa3",
    ])
    .await?;
    ensure!(output.status.success(), "{:?}", output.status);
    ensure!(!String::from_utf8_lossy(&output.stdout).contains("missing"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_adoption_or_gas_waits_says_so_and_goes_on_by_itself() -> Result<()> {
    let mut world = World::new(1).await?;
    world.start(1)?;
    let status = eventually(Duration::from_secs(15), "waits for adoption", async || {
        let status = world.status(1).await?;
        ensure!(status["phase"] == "waiting_for_adoption");
        Ok(status)
    })
    .await?;
    let wallet = status["wallet_address"].as_str().unwrap();
    names(&status["missing"][0].to_string(), &[wallet, "adopt("]);

    // adopted without a wei
    let owner = Wallet::from_secret(&DEV_KEYS[0])?;
    let (wallet, instance): (Address, Address) = (
        wallet.parse()?,
        status["instance_id"].as_str().unwrap().parse()?,
    );
    operator::adopt(&world.chain, &owner, Token(1), wallet, instance, 0).await?;
    let status = eventually(Duration::from_secs(15), "waits for gas", async || {
        let status = world.status(1).await?;
        ensure!(status["phase"] == "waiting_for_gas", "{}", status["phase"]);
        Ok(status)
    })
    .await?;
    names(
        &status["missing"][0].to_string(),
        &[&wallet.to_string(), "wei", "send ether"],
    );

    operator::adopt(
        &world.chain,
        &owner,
        Token(1),
        wallet,
        instance,
        1_000_000_000_000_000_000,
    )
    .await?;
    world.leader(Duration::from_secs(15)).await?;
    Ok(())
}
