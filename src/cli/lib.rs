//! The command line. `synod node` is all that the measured image needs; `synod up` and its simulated
//! world exist only with the feature `demo`, and a build without it says so instead of pretending.

mod node;
#[cfg(feature = "demo")]
mod up;

use clap::{ArgMatches, Command};
use std::io::Write;
use std::process::ExitCode;

/// Exit code of a refused configuration or start; see [`EXIT_CODES`].
pub(crate) const EXIT_REFUSED: u8 = 1;

/// What each exit code means; shown by `synod --help`.
const EXIT_CODES: &str = "Exit codes: 0 stopped as asked; 1 refused to start or stopped by itself, the reason is on \
                          stderr; 2 the command line is wrong.";

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

fn command() -> Command {
    let up = Command::new("up").about(
        "Simulator, development chain, contract and three nodes: the whole world on this machine",
    );
    #[cfg(feature = "demo")]
    let up = up::arguments(up);
    Command::new("synod")
        .about(
            "A confidential cluster node: elected by contract, replicated by log, attested by TDX",
        )
        .version(env!("CARGO_PKG_VERSION"))
        .after_help(EXIT_CODES)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(up)
        .subcommand(node::command())
}

fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    match matches.subcommand() {
        Some(("node", args)) => node::run(args),
        #[cfg(feature = "demo")]
        Some(("up", args)) => up::run(args),
        #[cfg(not(feature = "demo"))]
        Some(("up", _)) => anyhow::bail!(
            "this build has no simulator and no development chain; build it with the feature `demo` (the default)"
        ),
        _ => anyhow::bail!("no such command; see synod --help"),
    }
}
