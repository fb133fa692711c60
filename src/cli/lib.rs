//! The command line. `synod node` is all that the measured image needs; `synod up`, `synod devnet`, `--join` and
//! their simulated world exist only with the feature `demo`, and a build without it says so instead of pretending.

mod agent;
#[cfg(feature = "demo")]
mod class;
#[cfg(feature = "demo")]
mod devnet;
#[cfg(feature = "demo")]
mod join;
mod node;
#[cfg(feature = "demo")]
mod prompt;
#[cfg(feature = "demo")]
mod up;
#[cfg(feature = "demo")]
mod world;

use clap::{ArgMatches, Command};
use std::io::Write;
use std::process::ExitCode;

/// Exit code of a refused configuration or start; see [`EXIT_CODES`].
pub(crate) const EXIT_REFUSED: u8 = 1;

/// What each exit code means; shown by `synod --help`.
const EXIT_CODES: &str = "Exit codes: 0 stopped as asked; 1 refused to start or stopped by itself, the reason is on \
                          stderr; 2 the command line is wrong.";

/// Why a command of the simulated world is refused.
#[cfg(not(feature = "demo"))]
pub(crate) const NO_DEMO: &str = "this build has no simulator and no development chain; build it with the feature `demo` (the default)";

/// Parse, run, and say how it ended.
pub fn main() -> ExitCode {
    let matches = command().get_matches();
    match run(&matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            // nothing more can be done when stderr is gone too
            let _ = writeln!(std::io::stderr(), "synod: {why:#}");
            ExitCode::from(EXIT_REFUSED)
        }
    }
}

/// A variable of the environment, as it is asked for by name.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

fn command() -> Command {
    let up = Command::new("up").about(
        "Simulator, development chain, contract and three nodes: the whole world on this machine",
    );
    #[cfg(feature = "demo")]
    let up = up::arguments(up);
    let devnet = Command::new("devnet").about(
        "Development chain and contract of a class, for nodes on this and other machines (node N --join)",
    );
    #[cfg(feature = "demo")]
    let devnet = devnet::arguments(devnet);
    Command::new("synod")
        .about(
            "A confidential cluster node: elected by contract, replicated by log, attested by TDX",
        )
        .version(env!("CARGO_PKG_VERSION"))
        .after_help(EXIT_CODES)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(up)
        .subcommand(devnet)
        .subcommand(node::command())
        .subcommand(agent::command())
}

fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    match matches.subcommand() {
        Some(("node", args)) => node::run(args),
        Some(("agent", args)) => agent::run(args),
        #[cfg(feature = "demo")]
        Some(("up", args)) => up::run(args),
        #[cfg(feature = "demo")]
        Some(("devnet", args)) => devnet::run(args),
        #[cfg(not(feature = "demo"))]
        Some(("up" | "devnet", _)) => anyhow::bail!("{NO_DEMO}"),
        _ => anyhow::bail!("no such command; see synod --help"),
    }
}
