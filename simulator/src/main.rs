//! `dstack-simulator`: serves guest agents on Unix sockets until it gets a signal.
//!
//! Once everything listens it prints what a contract must be configured with (KMS root, app id), what a verifier must
//! be told (compose hash, root of the quotes) and where each instance listens. Rule: nobody has to read that; a closed
//! output ends nothing, a signal ends everything and removes the sockets.

mod options;
mod settings;

use anyhow::Context as _;
use clap::Parser;
use dstack_simulator::{EventLog, KeyProvider, Running, Served, Traits, World, serve};
use options::Options;
use settings::Plan;
use sha2::{Digest, Sha256};
use std::{fs, io::Write as _, os::unix::fs::DirBuilderExt as _, path::Path, sync::Arc};
use tokio::signal::unix::{Signal, SignalKind, signal};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let plan = Plan::new(Options::parse())?;
    let world = Arc::new(World::build(plan.spec)?);
    let habits = plan.instances.first().map(|first| first.traits.clone());

    let mut end = End::listen()?; // before the sockets exist, so that a signal can no longer leave them behind
    if let Some(dir) = &plan.dir {
        make(dir)?;
    }
    let running = serve(world.clone(), plan.instances).await?;
    if let Some(warning) = plan.warning {
        let _ = writeln!(std::io::stderr(), "{warning}");
    }
    let told = told(&world, &habits.unwrap_or_default(), &running);
    let mut stdout = std::io::stdout();
    let _ = stdout // whoever does not read it can still use the sockets
        .write_all(told.as_bytes())
        .and_then(|()| stdout.flush());

    end.signalled().await;
    running.stop().await;
    Ok(())
}

/// The signals that end it.
struct End {
    interrupt: Signal,
    terminate: Signal,
    /// `None` if whoever started it ignores hangups, as `nohup` does.
    hangup: Option<Signal>,
}

impl End {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: match ignores_hangup() {
                true => None,
                false => Some(signal(SignalKind::hangup())?),
            },
        })
    }

    async fn signalled(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = hangup => {}
        }
    }
}

/// The lowest bit of the signals that were inherited as ignored.
fn ignores_hangup() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 == 1)
}

/// The directory of the sockets, for this user only; one that exists stays as it is.
fn make(dir: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| {
            format!(
                "cannot make the directory {} that --dir (dir in the file) names",
                dir.display()
            )
        })
}

/// Everything that is printed.
fn told(world: &World, habits: &Traits, running: &Running) -> String {
    let mut lines = vec![
        "SIMULATED guest agent: own root, not Intel's; no collateral yet, so quotes cannot be fully verified"
            .to_owned(),
    ];
    lines.extend(of_world(world));
    lines.extend(of_habits(habits));
    lines.extend(running.served().flat_map(|served| of_instance(&served)));
    lines.push("ready\n".to_owned());
    lines.join("\n")
}

fn of_world(world: &World) -> Vec<String> {
    let provider = world.key_provider();
    let (address, public) = match provider {
        KeyProvider::Kms => (
            format!("0x{}", hex::encode(world.kms_root_address())),
            hex::encode(world.kms_root_public()),
        ),
        KeyProvider::Local | KeyProvider::Tpm | KeyProvider::None => (
            format!("none (key provider {provider}: the second link of every chain is empty)"),
            "none".to_owned(),
        ),
    };
    let quote_root = Sha256::digest(world.quote_root());
    vec![
        format!("kms root address  {address}"),
        format!("kms root public   {public}"),
        format!("app id            0x{}", hex::encode(world.app_id())),
        format!("compose hash      {}", hex::encode(world.compose_hash())),
        format!("quote root hash   {}", hex::encode(quote_root)),
    ]
}

/// Only those that are not the default.
fn of_habits(traits: &Traits) -> Option<String> {
    let mut habits = Vec::new();
    if traits.event_log == EventLog::Full {
        habits.push("full event logs (a real agent strips them)".to_owned());
    }
    if !traits.quote_time.is_zero() {
        habits.push(format!(
            "a quote takes {} ms",
            traits.quote_time.as_millis()
        ));
    }
    if traits.quote_fails_every != 0 {
        habits.push(format!("1 of {} quotes fails", traits.quote_fails_every));
    }
    if traits.drop_every != 0 {
        habits.push(format!("1 of {} requests is dropped", traits.drop_every));
    }
    (!habits.is_empty()).then(|| format!("habits            {}", habits.join(", ")))
}

fn of_instance(served: &Served<'_>) -> Vec<String> {
    let id = served
        .instance_id
        .map_or_else(|| "none (no_instance_id)".to_owned(), hex::encode);
    let mut lines = vec![format!(
        "instance          {id}  {}",
        served.socket.display()
    )];
    if let Some(tappd) = served.tappd {
        lines.push(format!("tappd             {}", tappd.display()));
    }
    if let Some(http) = served.http {
        lines.push(format!("http              http://{http}"));
    }
    lines
}
