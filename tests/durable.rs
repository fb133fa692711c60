//! Durable means fsync: an increment is acknowledged only after a majority has synced it.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // tests are the outside world

mod support;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::process::Command;
use std::time::Duration;
use support::{World, eventually, skipped};

const INCREMENTS: u64 = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_single_increments_cost_a_hundred_syncs_on_a_majority() -> Result<()> {
    if Command::new("strace").arg("-V").output().is_err() {
        skipped("durable", "strace is not installed");
        return Ok(());
    }
    let mut world = World::led(3).await?;
    let leader = world.leader(Duration::from_secs(15)).await?;
    // With all three alive, any two may be the majority of an increment, and the third may sync several at once.
    // With one dead the other two must each have synced every increment before it was answered.
    let dead = (1..=3).find(|id| *id != leader).context("a follower")?;
    world.kill(dead)?;
    let alive: Vec<u64> = (1..=3).filter(|id| *id != dead).collect();
    let mut tracers = Vec::new();
    for id in alive {
        let pid = world.pid(id).context("running")?;
        let out = world.dir.path().join(format!("strace{id}"));
        let tracer = Command::new("strace")
            .args([
                "-f",
                "-c",
                "-e",
                "trace=fsync,fdatasync",
                "-p",
                &pid.to_string(),
                "-o",
            ])
            .arg(&out)
            .stderr(std::process::Stdio::piped())
            .spawn()?;
        eventually(
            Duration::from_secs(10),
            "strace is attached to every thread",
            async || {
                ensure!(traced(pid)?, "node {id} has an untraced thread");
                Ok(())
            },
        )
        .await?;
        tracers.push((id, tracer, out));
    }
    for _ in 0..INCREMENTS {
        let (code, body) = world.increment(leader).await?;
        ensure!(code == 200, "{code} {body}");
    }
    let mut durable = 0;
    for (id, mut tracer, out) in tracers {
        kill_process(Pid::from_child(&tracer), Signal::INT)?;
        tracer.wait()?;
        let table = std::fs::read_to_string(&out)?;
        let syncs = syncs(&table);
        println!("node {id}: {syncs} fsync/fdatasync for {INCREMENTS} increments");
        durable += u64::from(syncs >= INCREMENTS);
    }
    assert!(
        durable >= 2,
        "only {durable} of 3 nodes synced every increment"
    );
    Ok(())
}

fn traced(pid: u32) -> Result<bool> {
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = std::fs::read_to_string(task?.path().join("status")).unwrap_or_default();
        if status
            .lines()
            .any(|line| line.split_whitespace().collect::<Vec<_>>() == ["TracerPid:", "0"])
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The `calls` column of strace -c.
fn syncs(table: &str) -> u64 {
    table
        .lines()
        .filter(|line| line.ends_with("fsync") || line.ends_with("fdatasync"))
        .filter_map(|line| line.split_whitespace().nth(3)?.parse::<u64>().ok())
        .sum()
}
