//! Nodes whose guest agent fails now and then, changes its mind, or is shared: a node that can be served is served, and
//! none runs unnoticed on evidence that proves nothing.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // tests are the outside world

#[path = "agents/liar.rs"]
#[allow(dead_code)] // the command's tests use the rest
mod liar;
#[path = "agents/official.rs"]
#[allow(dead_code)]
mod official;
mod support;

use anyhow::{Context, Result, ensure};
use liar::{Answer, Call, Liar};
use std::time::Duration;
use support::{World, eventually};

const SOON: Duration = Duration::from_secs(30);

/// Node 1 of this world asks the liar from now on.
fn between(
    world: &mut World,
    twist: impl Fn(Call<'_>) -> Option<Answer> + Send + Sync + 'static,
) -> Liar {
    let lie = world.dir.path().join("liar.sock");
    let liar = Liar::between(&world.dir.path().join("1.sock"), lie.clone(), twist);
    let args = &mut world.nodes[0].args;
    let at = args
        .iter()
        .position(|arg| arg == "--dstack-socket")
        .unwrap();
    args[at + 1] = lie.display().to_string();
    liar
}

/// What a driver's failure looks like.
fn failed(truth: Answer) -> Option<Answer> {
    Some(Answer {
        status: "400 Bad Request",
        body: r#"{"error":"Failed to get quote: QuoteFailure"}"#.to_owned(),
        ..truth
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_fails_now_and_then_is_asked_again_until_the_node_serves() -> Result<()> {
    let mut world = World::new(1).await?;
    let _liar = between(&mut world, |call| match (call.method, call.n) {
        ("Info" | "GetQuote", 1) => failed(call.truth),
        // a call and its one repetition: nobody answers
        ("GetQuote", 2 | 3) => None,
        // the quote for the registration
        ("GetQuote", 5) => failed(call.truth),
        _ => Some(call.truth),
    });
    world.start(1)?;
    world.adopt(1).await?;
    ensure!(world.leader(SOON).await? == 1);
    let log = std::fs::read_to_string(&world.node(1).log)?;
    ensure!(log.contains("QuoteFailure"), "nothing was tried: {log}");
    let status = world.status(1).await?;
    let shown = status["attestation"].as_str().context("a verdict")?;
    ensure!(shown.starts_with("SIMULATED"), "{shown}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_shows_the_fixture_only_when_it_counts_registers_nobody() -> Result<()> {
    let test = "an_agent_that_shows_the_fixture_only_when_it_counts";
    let Some(recorded) = official::recorded(test, "dstack/v0.5.11/get_quote.json") else {
        return Ok(());
    };
    let quote = official::first_body(&recorded);
    let mut world = World::new(1).await?;
    let _liar = between(&mut world, move |call| match (call.method, call.n) {
        ("GetQuote", 2..) => official::answer(&quote, call.truth),
        _ => Some(call.truth),
    });
    world.start(1)?;
    world.adopt(1).await?;
    let status = eventually(SOON, "the node ends", async || {
        world.ended(1)?.context("it still runs")
    })
    .await?;
    let log = std::fs::read_to_string(&world.node(1).log)?;
    ensure!(
        status.code() == Some(1)
            && log.contains("dstack simulator fixture")
            && log.contains("--insecure-unattested-peers"),
        "{status} {log}"
    );
    let view = world.chain.view().await?;
    ensure!(view.members.is_empty(), "it registered: {:?}", view.members);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_a_name_is_another_instance_and_says_unattested() -> Result<()> {
    let mut world = World::new(1).await?;
    let plain = {
        world.start(1)?;
        let status = eventually(SOON, "an instance", async || {
            let status = world.status(1).await?;
            ensure!(status["phase"] == "waiting_for_adoption", "{status}");
            Ok(status)
        })
        .await?;
        world.kill(1)?;
        status
    };
    world.nodes[0]
        .args
        .extend(["--node-name".to_owned(), "node2".to_owned()]);
    world.start(1)?;
    world.adopt(1).await?;
    ensure!(world.leader(SOON).await? == 1);
    let named = world.status(1).await?;
    ensure!(
        named["instance_id"] != plain["instance_id"]
            && named["wallet_address"] != plain["wallet_address"],
        "{plain} {named}"
    );
    let shown = named["attestation"].as_str().context("a verdict")?;
    ensure!(shown.starts_with("UNATTESTED"), "{shown}");
    Ok(())
}
