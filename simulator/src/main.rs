//! `dstack-simulator`: serves guest agents on Unix sockets until it gets a signal.
//!
//! It prints what a contract must be configured with (KMS root, app id), what a verifier must be told (compose hash,
//! root of the quotes) and where each instance listens.

mod options;
mod settings;

use clap::Parser;
use dstack_simulator::{EventLog, KeyProvider, Served, Traits, World, serve};
use options::Options;
use settings::Plan;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let plan = Plan::new(Options::parse())?;
    let world = Arc::new(World::build(plan.spec)?);
    let habits = plan.instances.first().map(|first| first.traits.clone());

    // before the sockets exist, so that a signal can no longer leave them behind
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    if let Some(warning) = plan.warning {
        eprintln!("{warning}");
    }
    println!(
        "SIMULATED guest agent: own root, not Intel's; no collateral yet, so quotes cannot be fully verified"
    );
    print_world(&world);
    print_habits(&habits.unwrap_or_default());
    let running = serve(world, plan.instances).await?;
    running.served().for_each(|served| print_instance(&served));
    println!("ready");

    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    running.stop().await;
    Ok(())
}

fn print_world(world: &World) {
    let provider = world.key_provider();
    if provider == KeyProvider::Kms {
        let address = hex::encode(world.kms_root_address());
        println!("kms root address  0x{address}");
        println!("kms root public   {}", hex::encode(world.kms_root_public()));
    } else {
        println!(
            "kms root address  none (key provider {provider}: the second link of every chain is empty)"
        );
        println!("kms root public   none");
    }
    println!("app id            0x{}", hex::encode(world.app_id()));
    println!("compose hash      {}", hex::encode(world.compose_hash()));
    let quote_root = Sha256::digest(world.quote_root());
    println!("quote root hash   {}", hex::encode(quote_root));
}

/// Only those that are not the default.
fn print_habits(traits: &Traits) {
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
    if !habits.is_empty() {
        println!("habits            {}", habits.join(", "));
    }
}

fn print_instance(served: &Served<'_>) {
    let id = served
        .instance_id
        .map_or_else(|| "none (no_instance_id)".to_owned(), hex::encode);
    println!("instance          {id}  {}", served.socket.display());
    if let Some(tappd) = served.tappd {
        println!("tappd             {}", tappd.display());
    }
    if let Some(http) = served.http {
        println!("http              http://{http}");
    }
}
