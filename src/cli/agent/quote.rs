//! `synod agent quote`: takes a quote and says what stands in it. Without `--out` the quote goes to stdout as hex and
//! the facts to stderr, so that the one can be piped; with `--out` the file gets its bytes and stdout the facts.
//!
//! Report data is compared, RTMR3 recomputed from the event log; no signature is judged.

use super::{line, typed_hex};
use anyhow::{Context, ensure};
use clap::{Arg, ArgMatches, Command};
use rand_core::{OsRng, RngCore};
use std::io::{self, Write};
use synod_agent::{Agent, Quote, printable};
use synod_attest::event_log::{self, Identity};
use synod_attest::quote::{self, QuoteV4};

pub(super) fn command() -> Command {
    Command::new("quote")
        .about(
            "Take a quote: its bytes, its measurements, and whether it is over what was asked for",
        )
        .arg(
            Arg::new("report-data")
                .long("report-data")
                .value_name("HEX")
                .value_parser(report_data)
                .help("At most 64 bytes, filled with zeros at the end; without it 64 random bytes"),
        )
        .arg(
            Arg::new("out")
                .long("out")
                .value_name("FILE")
                .help("Write the quote's bytes there instead of hex to stdout"),
        )
}

pub(super) async fn run(
    agent: &Agent,
    args: &ArgMatches,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let (asked, origin) = match args.get_one::<[u8; 64]>("report-data") {
        Some(given) => (*given, "as given"),
        None => (random()?, "random, since none was given"),
    };
    let quote = agent.quote(&asked).await?;
    let mut stderr = io::stderr();
    let facts: &mut dyn Write = match args.get_one::<String>("out") {
        Some(path) => {
            std::fs::write(path, &quote.bytes).with_context(|| format!("--out {path}"))?;
            line(
                out,
                "quote",
                format!("{} bytes in {path}", quote.bytes.len()),
            )?;
            out
        }
        None => {
            writeln!(out, "{}", hex::encode(&quote.bytes))?;
            line(&mut stderr, "quote", format!("{} bytes", quote.bytes.len()))?;
            &mut stderr
        }
    };
    line(
        facts,
        "report data",
        format!("{} ({origin})", hex::encode(asked)),
    )?;
    line(facts, "echo", "equal in the answer")?;
    let read = Reading::of(&quote)?;
    describe(&read, facts)
}

/// A quote that could be read, and the log that replays to its register 3.
pub(super) struct Reading {
    pub quote: QuoteV4,
    pub identity: Identity,
    pub events: usize,
}

impl Reading {
    /// Compares the replayed register; the report data inside were compared when the quote was taken.
    pub fn of(taken: &Quote) -> anyhow::Result<Self> {
        let quote = quote::parse(&taken.bytes).context("the quote cannot be read")?;
        let replayed = event_log::replay_rtmr3(&taken.event_log)
            .context("the event log cannot be replayed")?;
        let [_, _, _, register] = quote.rtmr;
        ensure!(
            replayed.digest == register,
            "expected the event log to replay to RTMR3 of the quote, {}, found {}; log and quote are not of one boot",
            hex::encode(register),
            hex::encode(replayed.digest)
        );
        let identity = replayed.identity().context("the event log names nobody")?;
        Ok(Self {
            quote,
            identity,
            events: replayed.events.len(),
        })
    }
}

fn describe(read: &Reading, out: &mut dyn Write) -> anyhow::Result<()> {
    let Reading {
        quote,
        identity,
        events,
    } = read;
    line(out, "in the quote", "the same report data")?;
    line(out, "mrtd", hex::encode(quote.mr_td))?;
    for (number, register) in quote.rtmr.iter().enumerate() {
        line(out, &format!("rtmr{number}"), hex::encode(register))?;
    }
    line(
        out,
        "event log",
        format!("{events} runtime events, recomputed; they replay to rtmr3"),
    )?;
    line(out, "app id", format!("0x{}", hex::encode(identity.app_id)))?;
    let instance = identity.instance_id.map(hex::encode);
    line(
        out,
        "instance id",
        instance.map_or_else(|| "none".to_owned(), |id| format!("0x{id}")),
    )?;
    line(out, "compose hash", hex::encode(identity.compose_hash))?;
    line(out, "key provider", printable(&identity.key_provider))?;
    line(out, "mr_config_id", hex::encode(quote.mr_config_id))?;
    line(
        out,
        "debug",
        if quote.is_debug() {
            "ON: the host can look into this guest"
        } else {
            "off"
        },
    )?;
    line(
        out,
        "root",
        format!(
            "{} (SHA-256 of its certificate)",
            hex::encode(quote.root_hash())
        ),
    )?;
    line(
        out,
        "signatures",
        "NOT judged: this proves nothing about hardware",
    )?;
    Ok(())
}

/// 64 bytes that no quote was taken over before.
pub(super) fn random() -> anyhow::Result<[u8; 64]> {
    let mut bytes = [0; 64];
    OsRng.try_fill_bytes(&mut bytes)?;
    Ok(bytes)
}

/// As the agent fills it up: zeros at the end.
fn report_data(text: &str) -> Result<[u8; 64], String> {
    let given = typed_hex(text)?;
    let mut padded = [0; 64];
    match padded.get_mut(..given.len()) {
        Some(start) => start.copy_from_slice(&given),
        None => return Err(format!("expected at most 64 bytes, found {}", given.len())),
    }
    Ok(padded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_data_is_filled_at_the_end_and_never_cut() {
        assert_eq!(report_data(""), Ok([0; 64]));
        assert!(report_data("0x01ff").is_ok_and(|data| data.starts_with(&[1, 255, 0])));
        assert_eq!(report_data(&"ab".repeat(64)), Ok([0xab; 64]));
        assert!(report_data(&"ab".repeat(65)).is_err_and(|why| why.contains("found 65")));
        assert!(report_data("abc").is_err());
    }
}
