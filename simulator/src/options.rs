//! The command line.
//!
//! Rule: every option has a default or a place in the file of `--config`, and an option that is given wins over the
//! file. Keys are given in the file only: everybody on a machine can read its command lines.

use clap::{
    Parser,
    builder::{PossibleValuesParser, RangedU64ValueParser, TypedValueParser},
};
use dstack_simulator::{EventLog, KeyProvider, MrConfigId};
use std::{net::SocketAddr, path::PathBuf};

/// Most instances one process serves.
pub const INSTANCES_MAX: u32 = 64;
/// Longest time that a quote may take: 10 minutes.
pub const QUOTE_MS_MAX: u64 = 600_000;

/// A dstack guest agent for machines without TDX. Keys and quotes are simulated: never use them for anything real.
///
/// Without --dir and --socket it serves ./dstack.sock and ./tappd.sock.
#[derive(Default, Parser)]
#[command(version)]
pub struct Options {
    /// TOML file with the same settings and with keys; see the README
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory for the sockets node1.sock, node2.sock, ...; it is made if it does not exist
    #[arg(long, conflicts_with = "socket")]
    pub dir: Option<PathBuf>,
    /// One instance on exactly this socket
    #[arg(long, conflicts_with = "instances")]
    pub socket: Option<PathBuf>,
    /// How many instances in the directory [default: 1, or as many as there are instance seeds]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(INSTANCES_MAX)))]
    pub instances: Option<u32>,
    /// Serve old clients too: node1.tappd.sock beside node1.sock, or tappd.sock beside --socket
    #[arg(long)]
    pub tappd: bool,
    /// Serve the first instance over TCP too; port 0 takes a free one
    #[arg(long, value_name = "IP:PORT", value_parser = ip_port)]
    pub http: Option<SocketAddr>,
    /// Let --http be an address that other machines reach, who then get every key
    #[arg(long)]
    pub insecure_public_http: bool,

    /// 32 bytes in hex: the same seed gives the same world [default: random]
    #[arg(long, value_name = "HEX", value_parser = hex_bytes::<32>)]
    pub seed: Option<[u8; 32]>,
    /// 32 bytes in hex, once for each instance: what its disk keeps [default: from the seed]
    #[arg(long = "instance-seed", value_name = "HEX", value_parser = hex_bytes::<32>)]
    pub instance_seeds: Vec<[u8; 32]>,
    /// The app-compose.json of the app [default: a development text]
    #[arg(long, value_name = "FILE")]
    pub compose: Option<PathBuf>,
    /// 20 bytes in hex [default: the first 20 bytes of the compose hash]
    #[arg(long, value_name = "HEX", value_parser = hex_bytes::<20>)]
    pub app_id: Option<[u8; 20]>,
    /// Who keeps the app's keys [default: as the compose text says]
    #[arg(long, value_parser = key_provider())]
    pub key_provider: Option<KeyProvider>,
    /// 32 bytes in hex [default: a hash that names no image]
    #[arg(long, value_name = "HEX", value_parser = hex_bytes::<32>)]
    pub os_image_hash: Option<[u8; 32]>,
    /// Version of mr_config_id in quotes: 1 binds the compose hash, 2 app and key provider too [default: 1]
    #[arg(long, value_name = "1|2", value_parser = mr_config_id())]
    pub mr_config_id: Option<MrConfigId>,

    /// Event log of GetQuote: stripped as real agents give it, or full as the official simulator does [default: stripped]
    #[arg(long, value_parser = event_log())]
    pub event_log: Option<EventLog>,
    /// How long each quote takes, one after the other [default: 0]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(..=QUOTE_MS_MAX))]
    pub quote_time_ms: Option<u64>,
    /// Every N-th quote fails; 0 = none [default: 0]
    #[arg(long, value_name = "N")]
    pub quote_fails_every: Option<u32>,
    /// Every N-th request is answered by a closed connection; 0 = none [default: 0]
    #[arg(long, value_name = "N")]
    pub drop_every: Option<u32>,
}

/// `N` bytes in hex, `0x` allowed. The error does not repeat the text, which may be a key.
pub fn hex_bytes<const N: usize>(text: &str) -> Result<[u8; N], String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let mut bytes = [0; N];
    hex::decode_to_slice(digits, &mut bytes).map_err(|_| {
        let found = match digits.chars().count() {
            count if count == 2 * N => "something else among them".to_owned(),
            count => format!("{count} characters"),
        };
        format!("expected {N} bytes as {} hex digits, found {found}", 2 * N)
    })?;
    Ok(bytes)
}

/// An address to listen on. Names are not looked up: a name can lead anywhere.
pub fn ip_port(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("expected IP:PORT, such as 127.0.0.1:8090, found {text:?}"))
}

fn key_provider() -> impl TypedValueParser<Value = KeyProvider> {
    PossibleValuesParser::new(["kms", "local", "tpm", "none"]).map(|name| match name.as_str() {
        "kms" => KeyProvider::Kms,
        "local" => KeyProvider::Local,
        "tpm" => KeyProvider::Tpm,
        _ => KeyProvider::None, // clap lets nothing else through
    })
}

fn event_log() -> impl TypedValueParser<Value = EventLog> {
    PossibleValuesParser::new(["stripped", "full"]).map(|name| match name.as_str() {
        "full" => EventLog::Full,
        _ => EventLog::Stripped, // clap lets nothing else through
    })
}

fn mr_config_id() -> impl TypedValueParser<Value = MrConfigId> {
    RangedU64ValueParser::<u8>::new()
        .range(1..=2)
        .map(|version| match version {
            2 => MrConfigId::V2,
            _ => MrConfigId::V1, // clap lets nothing else through
        })
}
