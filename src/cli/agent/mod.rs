//! `synod agent info|key|quote|test`: for whoever debugs the socket of a guest agent. It is found as the node finds it.
//!
//! Rules: what the agent says about itself is called its word, never evidence; a private key is printed only where
//! somebody asked for it by name; text from the agent reaches the terminal without control characters. No signature
//! of a quote is judged here, since `synod-attest` does not judge any yet.

mod info;
mod key;
mod quote;
mod trial;

use anyhow::Context;
use clap::{Arg, ArgMatches, Command};
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;
use synod_agent::Agent;

/// Whoever debugs looks at the terminal, so he hears soon that nobody answers; a node waits longer.
const AGENT_WAIT_S: &str = "3";

pub(crate) fn command() -> Command {
    Command::new("agent")
        .about("Ask the guest agent on its socket: what it says, its keys, its quotes; test it")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .arg(
            Arg::new("dstack-socket")
                .long("dstack-socket")
                .value_name("PATH")
                .global(true)
                .help("Socket of the guest agent [env DSTACK_SOCKET, DSTACK_SIMULATOR_ENDPOINT; then the standard paths]"),
        )
        .arg(
            Arg::new("agent-wait")
                .long("agent-wait")
                .value_name("SECONDS")
                .global(true)
                .default_value(AGENT_WAIT_S)
                .value_parser(seconds)
                .help("Seconds that the guest agent may take to appear"),
        )
        .subcommand(info::command())
        .subcommand(key::command())
        .subcommand(quote::command())
        .subcommand(trial::command())
}

pub(crate) fn run(args: &ArgMatches) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let Some((name, args)) = args.subcommand() else {
            anyhow::bail!("no such command; see synod agent --help");
        };
        let mut out = io::stdout();
        match name {
            "info" => info::run(&connect(args).await?, args, &mut out).await,
            "key" => key::run(&connect(args).await?, args, &mut out).await,
            "quote" => quote::run(&connect(args).await?, args, &mut out).await,
            "test" => {
                let agent = connect(args).await.context(trial::CONNECTION)?;
                trial::run(&agent, &mut out).await
            }
            _ => anyhow::bail!("no such command; see synod agent --help"),
        }
    })
}

/// Finds the socket and waits for an answer; says on stderr what it waits for.
async fn connect(args: &ArgMatches) -> anyhow::Result<Agent> {
    let named = args.get_one::<String>("dstack-socket");
    let named = named.filter(|path| !path.is_empty()).map(PathBuf::from);
    let wait = args.get_one::<Duration>("agent-wait").copied();
    let socket = Agent::find(named, &crate::variable)?;
    let said = |text: &str| {
        // nothing more can be done when stderr is gone too
        let _ = writeln!(io::stderr(), "synod: {text}");
    };
    Ok(Agent::wait(&socket, wait.unwrap_or_default(), said).await?)
}

/// One fact on one line.
fn line(out: &mut dyn Write, name: &str, value: impl std::fmt::Display) -> io::Result<()> {
    writeln!(out, "{name:<14} {value}")
}

/// A seconds option.
fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || format!("expected seconds from 0 to 3600, found {text:?}");
    let seconds: f64 = text.parse().map_err(|_| wrong())?;
    if (0.0..=3600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(wrong())
    }
}

/// Hex that somebody typed: either case, with or without `0x`.
fn typed_hex(text: &str) -> Result<Vec<u8>, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    hex::decode(digits).map_err(|why| format!("expected hex, found {text:?}: {why}"))
}

/// The same, of one length.
fn fixed<const N: usize>(text: &str) -> Result<[u8; N], String> {
    let bytes = typed_hex(text)?;
    let found = bytes.len();
    <[u8; N]>::try_from(bytes)
        .map_err(|_| format!("expected {N} bytes as {} hex digits, found {found}", 2 * N))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_have_a_range_and_hex_a_length() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["-1", "3601", "NaN", "inf", "soon", ""] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
        assert_eq!(fixed::<2>("0xAb01"), Ok([0xab, 1]));
        for wrong in ["0xab", "abcdef", "0Xab01", "xyz1", "abc"] {
            assert!(fixed::<2>(wrong).is_err(), "{wrong}");
        }
    }
}
