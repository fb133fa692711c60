//! `synod node N`: one node in this process, until a signal or a word at its prompt. `--join` starts it as a child
//! instead (`join`).

use clap::{Arg, ArgAction, ArgMatches, Command};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;
use synod_node::disk::CONTROL;
use synod_node::{Config, SOURCES, Said};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// After the second signal, or this long after the first, the process ends whatever is still running.
const STOP_WITHIN: Duration = Duration::from_secs(3);

pub(crate) fn command() -> Command {
    let command = Command::new("node")
        .about("One node: register, elect, replicate, serve")
        .arg(
            Arg::new("print-config")
                .long("print-config")
                .action(ArgAction::SetTrue)
                .help("Show each value and where it comes from, then stop"),
        )
        .arg(
            Arg::new("supervised-by")
                .long("supervised-by")
                .value_name("PID")
                .hide(true),
        )
        .arg(
            Arg::new("debug")
                .long("debug")
                .action(ArgAction::SetTrue)
                .conflicts_with("quiet")
                .help("As --log-level debug"),
        )
        .arg(
            Arg::new("quiet")
                .long("quiet")
                .action(ArgAction::SetTrue)
                .help("Errors only on the terminal; everything in node.log in the data directory"),
        )
        .arg(
            Arg::new("join")
                .long("join")
                .value_name("HOST:PORT")
                .conflicts_with_all(["print-config", "supervised-by"])
                .help("Join the class whose chain `synod devnet` keeps there; finds chain, contract and guest agent itself"),
        )
        .arg(
            Arg::new("class")
                .long("class")
                .value_name("WORDS")
                .requires("join")
                .help("Class code that `synod devnet` printed, five words"),
        );
    SOURCES
        .iter()
        .fold(command, |command, (name, variable, default)| {
            let origin = match default {
                Some("") | None => format!("[env {variable}]"),
                Some(default) => format!("[env {variable}, default {default}]"),
            };
            let arg = Arg::new(*name)
                .value_name("VALUE")
                .help(format!("{} {origin}", help(name)));
            command.arg(match *name {
                "token" => arg.index(1).value_name("N"),
                "insecure-unattested-peers" => {
                    let flag = arg.long(*name).num_args(0..=1);
                    flag.require_equals(true).default_missing_value("true")
                }
                _ => arg.long(*name),
            })
        })
}

fn help(name: &str) -> &'static str {
    match name {
        "token" => "Token id of the NFT that this node runs under",
        "rpc" => "JSON-RPC endpoint of the chain, http://",
        "contract" => "Address of the membership contract",
        "chain-id" => "Chain id, compared with what the endpoint says",
        "data-dir" => "Directory for log and salt; one node, one directory",
        "dstack-socket" => {
            "Socket of the guest agent; empty = DSTACK_SIMULATOR_ENDPOINT, then the standard paths"
        }
        "node-name" => "Tells nodes apart that share one guest agent (development chains only)",
        "insecure-unattested-peers" => {
            "Run on dstack's official simulator, whose evidence proves nothing (development chains only)"
        }
        "agent-wait" => "Seconds that the guest agent may take to appear",
        "host" => "Address on which other members reach this node (link and frames)",
        "http-host" => "Loopback address of the API",
        "http-names" => "Further names that Host may carry, by commas",
        "http-port" => "Port of the API; empty = 8080 + N",
        "link-port" => "TCP port of the link; empty = the UDP port's number",
        "udp-port" => "Port of unicast frames; empty = base + N",
        "udp-port-base" => "Base of unicast ports",
        "multicast-group" => "Multicast group of discovery and heartbeats",
        "multicast-port" => "Its port",
        "interface" => "Address of the interface that carries the group",
        "peers" => "Where members are that multicast does not reach: 1:IP[:PORT],2:IP",
        "nodes" => "Token ids that should be members; missing ones are named at the start",
        "profile" => "Timing profile: lan (sub-second) or seed (the prototype's)",
        "heartbeat-interval" => "Seconds between heartbeats",
        "heartbeat-timeout" => "Seconds of silence until SUSPECTED; FAILED at twice that",
        "election-timeout" => "Seconds to wait for OK; COORDINATOR after twice that",
        "multicast-retries" => "Copies of JOIN and COORDINATOR",
        "message-retry-count" => "Copies of an undecided offer before the pause between them grows",
        "message-retry-delay" => "Seconds between copies of an undecided offer",
        "gossip-interval" => "Of the prototype; accepted without effect: the log replicates",
        "initial-credits" => {
            "Credits of each new member, agreed on at the cluster's birth; another value than the cluster's is refused"
        }
        "log-level" => "Filter of the log: error, warn, info, debug, trace",
        _ => "",
    }
}

pub(crate) fn run(args: &ArgMatches) -> anyhow::Result<()> {
    if args.contains_id("join") {
        #[cfg(feature = "demo")]
        return crate::join::run(args);
        #[cfg(not(feature = "demo"))]
        anyhow::bail!("--join: {}", crate::NO_DEMO);
    }
    let supervisor = args.get_one::<String>("supervised-by");
    let supervised = supervisor.is_some();
    if let Some(pid) = supervisor {
        die_with(pid)?;
    }
    let said = SOURCES
        .iter()
        .filter_map(|(name, _, _)| Some((*name, args.get_one::<String>(name)?.clone())));
    let said = Said(said.collect());
    if args.get_flag("print-config") {
        return print(&said);
    }
    let config = Config::resolve(&said, &crate::variable)?;
    let level = if args.get_flag("debug") {
        "debug"
    } else {
        &config.log_level
    };
    // somebody who types should not have the log between his words
    let prompt = cfg!(feature = "demo") && !supervised && std::io::stdin().is_terminal();
    let quiet = args.get_flag("quiet") || prompt && !args.get_flag("debug");
    log(level, quiet.then_some(&config.data_dir))?;
    let (token, socket) = (config.token.0, config.data_dir.join(CONTROL));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(2)
        .build()?;
    let ended = runtime.block_on(async {
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(signals(stop));
        if !supervised {
            tokio::spawn(typed(token, socket));
        }
        synod_node::run(config, stopped).await
    });
    runtime.shutdown_timeout(Duration::from_millis(500));
    Ok(ended?)
}

/// The prompt beside the node: whoever leaves it asks the node to leave, by its control socket.
#[cfg(feature = "demo")]
async fn typed(node: u64, socket: PathBuf) {
    // a node that nobody types at goes on; one that was left ends by itself
    let _ = crate::prompt::at_terminal(node, socket).await;
}

/// The measured image has no prompt.
#[cfg(not(feature = "demo"))]
async fn typed(_: u64, _: PathBuf) {}

/// To stderr; with a directory everything goes to `node.log` in it, and only errors to stderr.
fn log(level: &str, quiet: Option<&PathBuf>) -> anyhow::Result<()> {
    // the engine talks to its own authors below "error"
    let filter = |level: &str| EnvFilter::try_new(format!("openraft=error,{level}"));
    let console = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    let Some(dir) = quiet else {
        tracing_subscriber::registry()
            .with(console.with_filter(filter(level)?))
            .init();
        return Ok(());
    };
    std::fs::create_dir_all(dir)?;
    let path = dir.join("node.log");
    let file = File::options().create(true).append(true).open(&path);
    let file = file.map_err(|why| anyhow::anyhow!("--quiet: {}: {why}", path.display()))?;
    let kept = tracing_subscriber::fmt::layer()
        .with_writer(Mutex::new(file))
        .with_ansi(false)
        .with_target(false);
    tracing_subscriber::registry()
        .with(console.with_filter(filter("error")?))
        .with(kept.with_filter(filter("debug")?))
        .init();
    Ok(())
}

async fn signals(stop: watch::Sender<bool>) {
    let (Ok(mut int), Ok(mut term)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        tracing::error!(
            "signals cannot be handled on this system; only kill -9 will stop this node"
        );
        return;
    };
    let mut next = async || tokio::select! { _ = int.recv() => {}, _ = term.recv() => {} };
    next().await;
    tracing::info!("stopping");
    stop.send_replace(true);
    tokio::select! { () = next() => {}, () = tokio::time::sleep(STOP_WITHIN) => {} }
    tracing::warn!("still not stopped: ending the process");
    std::process::exit(crate::EXIT_REFUSED.into());
}

/// A child of `synod up` does not outlive it, not even after kill -9.
fn die_with(pid: &str) -> anyhow::Result<()> {
    let parent = pid.parse().ok().and_then(Pid::from_raw);
    set_parent_process_death_signal(Some(Signal::TERM))?;
    // it may have died between the fork and the line above
    anyhow::ensure!(
        parent.is_some() && getppid() == parent,
        "the supervisor {pid} is gone"
    );
    Ok(())
}

/// What is known, also when something is missing or wrong; the faults come after it.
fn print(said: &Said) -> anyhow::Result<()> {
    let (origins, faults) = Config::explain(said, &crate::variable);
    let mut out = std::io::stdout().lock();
    for (name, value, origin) in &origins {
        writeln!(out, "{name:<27} {value:<46} {origin}")?;
    }
    if faults.0.is_empty() {
        return Ok(());
    }
    Err(faults.into())
}
