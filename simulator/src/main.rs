//! `dstack-simulator`: serves guest agents on Unix sockets until it gets a signal.
//!
//! It prints what a contract must be configured with (KMS root, app id) and where each instance listens.

use anyhow::{Context, bail};
use clap::Parser;
use dstack_simulator::{DEVELOPMENT_COMPOSE, InstanceConfig, World, serve};
use rand_core::RngCore;
use std::{path::PathBuf, sync::Arc};
use tokio::signal::unix::{SignalKind, signal};

/// Most instances one process serves.
const INSTANCES_MAX: u32 = 64;
const COMPOSE_BYTES_MAX: u64 = 1024 * 1024;

/// A dstack guest agent for machines without TDX. Keys and quotes are simulated: never use them for anything real.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Directory for the sockets node1.sock, node2.sock, ...
    #[arg(long, conflicts_with = "socket", required_unless_present = "socket")]
    dir: Option<PathBuf>,
    /// One instance on exactly this socket
    #[arg(long, conflicts_with = "instances")]
    socket: Option<PathBuf>,
    /// How many instances in the directory
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(INSTANCES_MAX)))]
    instances: u32,
    /// 32 bytes in hex: the same seed gives the same world [default: random]
    #[arg(long)]
    seed: Option<String>,
    /// The app-compose.json of the app [default: a development text]
    #[arg(long)]
    compose: Option<PathBuf>,
    /// 20 bytes in hex [default: the first 20 bytes of the compose hash]
    #[arg(long)]
    app_id: Option<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let seed = seed(options.seed.as_deref())?;
    let compose = compose(options.compose.as_ref())?;
    let app_id = options
        .app_id
        .as_deref()
        .map(|text| bytes("--app-id", text))
        .transpose()?;
    let world = Arc::new(World::new(&seed, compose, app_id)?);

    let sockets: Vec<PathBuf> = match (&options.socket, &options.dir) {
        (Some(socket), _) => vec![socket.clone()],
        (None, Some(dir)) => (1..=options.instances)
            .map(|n| dir.join(format!("node{n}.sock")))
            .collect(),
        (None, None) => bail!("expected --dir or --socket, found neither"),
    };
    let configs: Vec<InstanceConfig> = (1u32..)
        .zip(sockets)
        .map(|(n, socket)| InstanceConfig::new(socket, dstack_simulator::instance_seed(&seed, n)))
        .collect();

    // before the sockets exist, so that a signal can no longer leave them behind
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    println!(
        "SIMULATED guest agent: own root, not Intel's; no collateral yet, so quotes cannot be fully verified"
    );
    println!(
        "kms root address  0x{}",
        hex::encode(world.kms_root_address())
    );
    println!("kms root public   {}", hex::encode(world.kms_root_public()));
    println!("app id            0x{}", hex::encode(world.app_id()));
    let lines: Vec<String> = configs
        .iter()
        .map(|config| {
            let id = world
                .instance_id(&config.seed)
                .map_or_else(|| "none (no_instance_id)".to_owned(), hex::encode);
            format!("instance          {id}  {}", config.socket.display())
        })
        .collect();
    let running = serve(world, configs).await?;
    println!("{}\nready", lines.join("\n"));

    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    running.stop().await;
    Ok(())
}

fn seed(text: Option<&str>) -> anyhow::Result<[u8; 32]> {
    if let Some(text) = text {
        return bytes("--seed", text);
    }
    let mut seed = [0; 32];
    rand_core::OsRng.fill_bytes(&mut seed);
    Ok(seed)
}

fn compose(path: Option<&PathBuf>) -> anyhow::Result<String> {
    let Some(path) = path else {
        return Ok(DEVELOPMENT_COMPOSE.to_owned());
    };
    let context = || {
        format!(
            "cannot read the compose text that --compose names, {}",
            path.display()
        )
    };
    let length = std::fs::metadata(path).with_context(context)?.len();
    if length > COMPOSE_BYTES_MAX {
        bail!(
            "expected at most {COMPOSE_BYTES_MAX} bytes in --compose {}, found {length}",
            path.display()
        );
    }
    std::fs::read_to_string(path).with_context(context)
}

fn bytes<const N: usize>(option: &str, text: &str) -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text.trim_start_matches("0x"), &mut bytes).with_context(|| {
        format!(
            "expected {N} bytes as {} hex digits in {option}, found {:?}",
            2 * N,
            text
        )
    })?;
    Ok(bytes)
}
