//! `synod up`: simulator and development chain in this process, each node a child process of the same
//! binary that gets paths, URLs, addresses and ports, and nothing else. No process holds two nodes' keys: the
//! simulator derives them, the nodes ask for them over their sockets.

mod agents;
mod children;
mod doorway;
mod world;

pub(crate) use crate::prompt::say;

use crate::prompt::{self, Ended, Seat};
use anyhow::Context;
use children::{Children, Held, Life};
use clap::{Arg, ArgAction, ArgMatches, Command};
use doorway::Doorway;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use synod_wire::Wh;
use tokio::sync::{Mutex, Notify};
use world::World;

/// Nodes that one laptop carries; also the number of development accounts that own tokens.
const NODES_MAX: u64 = 9;
/// From the first child to the first leader.
const LEADER_WITHIN: Duration = Duration::from_secs(60);
/// Option of `up` and of its nodes; `DS_INITIAL_CREDITS` says the same.
const CREDITS: &str = "initial-credits";
const LOOK_EVERY: Duration = Duration::from_millis(100);

pub(crate) fn arguments(command: Command) -> Command {
    let arg = |name: &'static str, default: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("VALUE")
            .default_value(default)
            .help(help)
    };
    command
        .arg(crate::world::other_chain())
        .arg(arg("nodes", "3", "How many nodes, 1 to 9"))
        .arg(
            Arg::new("data-dir")
                .long("data-dir")
                .value_name("DIR")
                .help("Keep chain and logs here; default: a fresh temporary directory"),
        )
        .arg(
            Arg::new("dstack-socket")
                .long("dstack-socket")
                .value_name("PATH")
                .value_parser(clap::value_parser!(PathBuf))
                .help("One guest agent for all nodes, such as dstack's official simulator, instead of our own: UNATTESTED"),
        )
        .arg(arg("rpc-port", "8545", "Port of the development chain"))
        .arg(arg(
            "base-http-port",
            "8081",
            "API port of node 1; the others follow",
        ))
        .arg(arg(
            "udp-port-base",
            "6000",
            "Frames and links of node N use base + N",
        ))
        .arg(arg(
            "multicast-port",
            "5007",
            "Port of the multicast group 224.1.1.1",
        ))
        .arg(arg("profile", "lan", "Timing: lan or seed"))
        .arg(arg("log-level", "info", "Filter of the nodes' log files"))
        .arg(Arg::new(CREDITS).long(CREDITS).value_name("VALUE").help(
            "Credits of each node, agreed on at the cluster's birth [env DS_INITIAL_CREDITS]",
        ))
        .arg(
            Arg::new("no-prompt")
                .long("no-prompt")
                .action(ArgAction::SetTrue)
                .help("Read no commands; without it they come from a terminal or a pipe"),
        )
}

/// What was asked for.
pub(crate) struct Plan {
    pub nodes: u64,
    pub rpc_port: u16,
    pub other_chain: Option<u16>,
    pub http_base: u16,
    pub udp_base: u16,
    pub multicast_port: u16,
    pub profile: String,
    pub log_level: String,
    /// A guest agent that runs already; none = our own, one for each node.
    pub dstack_socket: Option<PathBuf>,
    /// Credits of each node; none = the nodes' default.
    pub initial_credit: Option<Wh>,
    /// Read commands when the cluster is ready.
    pub prompt: bool,
}

impl Plan {
    fn from(args: &ArgMatches, env: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        let mut faults = Vec::new();
        let mut port = |name: &str| {
            let text = args.get_one::<String>(name).map_or("", String::as_str);
            let port = text.parse::<u16>().ok().filter(|port| *port > 0);
            if port.is_none() {
                faults.push(format!(
                    "--{name}: expected a port from 1 to 65535, found {text:?}"
                ));
            }
            port.unwrap_or(1)
        };
        let (rpc_port, http_base) = (port("rpc-port"), port("base-http-port"));
        let (udp_base, multicast_port) = (port("udp-port-base"), port("multicast-port"));
        let text = |name: &str| args.get_one::<String>(name).cloned().unwrap_or_default();
        let nodes = text("nodes")
            .parse::<u64>()
            .ok()
            .filter(|n| (1..=NODES_MAX).contains(n));
        if nodes.is_none() {
            faults.push(format!(
                "--nodes: expected 1 to {NODES_MAX}, found {:?}",
                text("nodes")
            ));
        }
        if !["lan", "seed"].contains(&text("profile").as_str()) {
            faults.push(format!(
                "--profile: expected lan or seed, found {:?}",
                text("profile")
            ));
        }
        let last = nodes.unwrap_or(1);
        for (name, base) in [("base-http-port", http_base), ("udp-port-base", udp_base)] {
            if u64::from(base) + last > 65_535 {
                faults.push(format!("--{name} {base}: leaves no room for {last} ports"));
            }
        }
        let http = u64::from(http_base)..u64::from(http_base) + last;
        let udp = u64::from(udp_base) + 1..u64::from(udp_base) + 1 + last;
        let rpc = u64::from(rpc_port);
        if http.contains(&rpc) || udp.contains(&rpc) || http.start < udp.end && udp.start < http.end
        {
            faults.push(format!(
                "ports overlap: APIs {}-{}, frames and links {}-{}, chain {rpc}; move one with --base-http-port, \
                 --udp-port-base or --rpc-port",
                http.start,
                http.end - 1,
                udp.start,
                udp.end - 1
            ));
        }
        let initial_credit = initial_credit(args, env).unwrap_or_else(|fault| {
            faults.push(fault);
            None
        });
        anyhow::ensure!(faults.is_empty(), "{}", faults.join("\n       "));
        let (profile, log_level) = (text("profile"), text("log-level"));
        Ok(Self {
            nodes: last,
            rpc_port,
            other_chain: args.get_one("dev-chain").copied(),
            http_base,
            udp_base,
            multicast_port,
            profile,
            log_level,
            dstack_socket: args.get_one("dstack-socket").cloned(),
            initial_credit,
            prompt: !args.get_flag("no-prompt"),
        })
    }

    pub(crate) fn http_port(&self, node: u64) -> u16 {
        u16::try_from(u64::from(self.http_base) + node - 1).unwrap_or(u16::MAX)
    }

    pub(crate) fn udp_port(&self, node: u64) -> u16 {
        u16::try_from(u64::from(self.udp_base) + node).unwrap_or(u16::MAX)
    }
}

/// The nodes' environment is empty, so what it says about credits is handed on by a word of their command lines.
fn initial_credit(
    args: &ArgMatches,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<Wh>, String> {
    let variable = "DS_INITIAL_CREDITS";
    let (origin, text) = match args.get_one::<String>(CREDITS) {
        Some(text) => (format!("--{CREDITS}"), text.clone()),
        None => (variable.to_owned(), env(variable).unwrap_or_default()),
    };
    if text.is_empty() {
        return Ok(None);
    }
    let credit = text.parse::<Wh>();
    credit
        .map(Some)
        .map_err(|why| format!("{origin}: {why}; correct the value, or leave it out"))
}

pub(crate) fn run(args: &ArgMatches) -> anyhow::Result<()> {
    let plan = Plan::from(args, &crate::variable)?;
    let kept = args.get_one::<String>("data-dir").map(PathBuf::from);
    let temporary = if kept.is_none() {
        Some(tempfile::Builder::new().prefix("synod-").tempdir()?)
    } else {
        None
    };
    let dir = kept
        .or_else(|| temporary.as_ref().map(|dir| dir.path().to_owned()))
        .context("no data directory")?;
    std::fs::create_dir_all(&dir).with_context(|| format!("data directory {}", dir.display()))?;
    std::fs::set_permissions(&dir, Permissions::from_mode(0o700))?;
    // the children are told to die with the thread that made them: this one, which lives as long as the process
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(2)
        .build()?;
    let ended = runtime.block_on(up(&plan, &dir));
    runtime.shutdown_timeout(Duration::from_millis(500));
    if ended.is_err()
        && let Some(temporary) = temporary
        && children::home(&dir, 1).exists()
    {
        // the message names log files in it
        say(&format!("kept        {}", temporary.keep().display()));
    }
    ended
}

async fn up(plan: &Plan, dir: &Path) -> anyhow::Result<()> {
    let mut stop = crate::world::stop_asked()?;
    let started = Instant::now();
    ports_free(plan)?;
    let world = World::start(plan, dir).await?;
    let rpc = format!("http://127.0.0.1:{}", plan.rpc_port);
    say(&crate::world::chain_shown(&rpc, plan.other_chain));
    say(&format!("contract    {}", world.contract));
    say(&world.agents.shown());
    say(&format!("data        {}", dir.display()));
    let children = Mutex::new(Children::start(plan, dir, &world)?);
    let ready = Notify::new();
    // none of these is a task of its own: children that the prompt starts must be made by this thread, see `run`
    let ended = tokio::select! {
        ended = attend(plan, &world, &children, started, &ready) => ended,
        () = converse(plan, dir, &children, &ready) => Ok(()),
        _ = stop.recv() => Ok(()),
    };
    say("stopping");
    children.into_inner().stop().await;
    world.stop().await;
    ended
}

/// The prompt, from the first leader on; done when somebody leaves. Without anybody who types there is none, and the
/// cluster goes on until a signal.
async fn converse(plan: &Plan, dir: &Path, children: &Mutex<Children>, ready: &Notify) {
    ready.notified().await;
    if plan.prompt {
        let seat = |node| Seat {
            node,
            socket: children::home(dir, node).join("control.sock"),
        };
        let seats = (1..=plan.nodes).map(seat).collect();
        match prompt::run(seats, Some(Held(children))).await {
            Ended::Leave => return,
            Ended::NobodyTypes => {}
        }
    }
    std::future::pending().await
}

/// Adopt whoever waits for it, then tell what happens, for ever.
async fn attend(
    plan: &Plan,
    world: &World,
    children: &Mutex<Children>,
    started: Instant,
    ready: &Notify,
) -> anyhow::Result<()> {
    let doorway = Doorway::new()?;
    let mut said = String::new();
    let mut led = false;
    let mut registered = 0;
    loop {
        let mut up = 0;
        let mut line = String::new();
        for node in 1..=plan.nodes {
            match children.lock().await.look(node)? {
                Life::Runs => {}
                Life::Down => continue,
                Life::Died(how) => {
                    anyhow::ensure!(led, "node {node} ended before there was a leader: {how}");
                    say(&format!("node {node}     ended: {how}"));
                    continue;
                }
            }
            let Some(status) = doorway.status(plan.http_port(node)).await else {
                continue;
            };
            if status.phase == "waiting_for_adoption" {
                world.adopt(node, &status).await?;
            }
            up += u64::from(["serving", "joining"].contains(&status.phase.as_str()));
            if status.is_leader {
                line = format!(
                    "term {}: node {node} leads, counter {}",
                    status.term, status.counter_value
                );
            }
        }
        if !led && up > registered {
            registered = up;
            say(&format!(
                "nodes       {registered} of {} registered",
                plan.nodes
            ));
        }
        if !line.is_empty() && !led {
            led = true;
            for node in 1..=plan.nodes {
                say(&format!(
                    "node {node}      http://127.0.0.1:{}",
                    plan.http_port(node)
                ));
            }
            say(&format!(
                "ready       after {:.1} s; stop with Ctrl-C",
                started.elapsed().as_secs_f64()
            ));
            ready.notify_one();
        }
        anyhow::ensure!(
            led || started.elapsed() < LEADER_WITHIN,
            "no leader after {LEADER_WITHIN:?}; see the nodes' logs in the data directory"
        );
        if line.is_empty() && led {
            "no leader".clone_into(&mut line);
        }
        if !line.is_empty() && line != said {
            say(&line);
            said = line;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Every port that will be needed, before anything starts: all faults at once.
fn ports_free(plan: &Plan) -> anyhow::Result<()> {
    let mut taken = Vec::new();
    let mut try_port = |option: &str, port: u16| {
        let tcp = std::net::TcpListener::bind(("127.0.0.1", port)).map(drop);
        let udp = std::net::UdpSocket::bind(("127.0.0.1", port)).map(drop);
        if let Err(why) = tcp.and(udp) {
            taken.push(format!(
                "port {port}: {why}; stop the process that holds it, or move it with --{option}"
            ));
        }
    };
    try_port("rpc-port", plan.rpc_port);
    for node in 1..=plan.nodes {
        try_port("base-http-port", plan.http_port(node));
        try_port("udp-port-base", plan.udp_port(node));
    }
    anyhow::ensure!(taken.is_empty(), "{}", taken.join("\n       "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(words: &[&str], credits: Option<&str>) -> Result<Plan, String> {
        let args = arguments(Command::new("up"))
            .try_get_matches_from(["up"].iter().chain(words))
            .map_err(|why| why.to_string())?;
        let env = |name: &str| {
            let credits = credits.filter(|_| name == "DS_INITIAL_CREDITS");
            credits.map(str::to_owned)
        };
        Plan::from(&args, &env).map_err(|why| format!("{why:#}"))
    }

    #[test]
    fn credits_of_the_environment_reach_the_plan_and_the_command_line_wins() {
        let credit = |words: &[&str], env| plan(words, env).expect("complete").initial_credit;
        assert_eq!(credit(&[], None), None);
        assert_eq!(credit(&[], Some("")), None);
        assert_eq!(credit(&[], Some("50")), Some(Wh(50_000)));
        assert_eq!(
            credit(&["--initial-credits", "2.5"], Some("50")),
            Some(Wh(2_500))
        );
    }

    #[test]
    fn malformed_credits_are_refused_with_the_other_faults_before_anything_starts() {
        let text = plan(&["--nodes", "10"], Some("lots"))
            .map(drop)
            .expect_err("two faults");
        for part in ["--nodes", "DS_INITIAL_CREDITS", "lots"] {
            assert!(text.contains(part), "{part} is missing in: {text}");
        }
    }
}
