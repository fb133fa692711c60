//! Configuration: command line over environment over default, every value with its origin, and *all*
//! faults at once, because an operator at night should not have to start five times.

mod development;
mod resolver;

use crate::fixture::NodeName;
use resolver::{Resolver, shown};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;
use synod_cluster::Settings as Timing;
use synod_ledger::Settings as TradeSettings;
use synod_wire::{Address, ClusterId, Token, Wh};

/// What was said, by option name (`token`, `rpc`, …); nothing is believed yet.
#[derive(Clone, Debug, Default)]
pub struct Said(pub BTreeMap<&'static str, String>);

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which NFT this node runs under.
    pub token: Token,
    /// The contract's chain, asked at `rpc` and compared.
    pub chain_id: u64,
    /// JSON-RPC endpoint.
    pub rpc: String,
    /// The membership contract.
    pub contract: Address,
    /// Everything that must survive a restart; one node, one directory.
    pub data_dir: PathBuf,
    /// The guest agent, when it is not at a standard path.
    pub dstack_socket: Option<PathBuf>,
    /// Tells nodes apart that share one guest agent; development only.
    pub node_name: Option<NodeName>,
    /// Run although the own evidence, and that of others, proves nothing; development only.
    pub insecure_unattested_peers: bool,
    /// How long the guest agent may take to appear.
    pub agent_wait: Duration,
    /// Where the API listens: loopback only until a token for writers exists (Operator issue).
    pub http: SocketAddr,
    /// Names besides `localhost` and literal addresses that `Host` may carry.
    pub http_names: Vec<String>,
    /// Where the TLS link listens, and what the contract publishes.
    pub link: SocketAddrV4,
    /// Where unicast frames arrive.
    pub udp: SocketAddrV4,
    /// Multicast group.
    pub group: SocketAddrV4,
    /// Interface of the group.
    pub interface: Ipv4Addr,
    /// Detector and elections.
    pub timing: Timing,
    /// Re-sending and expiry of trades.
    pub trades: TradeSettings,
    /// What each member is credited once; none = the default at a birth, whatever the log says afterwards.
    pub initial_credit: Option<Wh>,
    /// Where frames to these members go until a frame of theirs has verified.
    pub peers: BTreeMap<Token, SocketAddrV4>,
    /// Members that are expected (`--nodes` of the prototype); the contract decides who is one.
    pub expected: BTreeSet<Token>,
    /// What an operator should read once, at the start.
    pub notices: Vec<String>,
    /// The log's filter.
    pub log_level: String,
}

/// One thing that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: expected {expected}, found {found:?}; {remedy}")]
pub struct Fault {
    /// Option or variable.
    pub origin: String,
    /// What it should be.
    pub expected: String,
    /// What it is.
    pub found: String,
    /// What to do.
    pub remedy: String,
}

/// Every fault of a configuration.
#[derive(Debug, thiserror::Error)]
#[error("{} fault(s) in the configuration:\n{}", .0.len(), .0.iter().map(|f| format!("  - {f}")).collect::<Vec<_>>().join("\n"))]
pub struct Faults(pub Vec<Fault>);

impl Config {
    /// Which cluster this configuration belongs to.
    pub fn cluster(&self) -> ClusterId {
        ClusterId::of(self.chain_id, self.contract)
    }

    /// Scheme, host and port of the endpoint: its path may hold a key.
    pub fn rpc_shown(&self) -> String {
        shown(&self.rpc)
    }

    /// `args` win over `env`; `env` is asked for the names of [`SOURCES`] only.
    pub fn resolve(args: &Said, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, Faults> {
        let mut r = Resolver::new(args, env);
        let config = r.config();
        match config {
            Some(config) if r.faults.is_empty() => Ok(config),
            _ => Err(Faults(r.faults)),
        }
    }

    /// For `--print-config`: each value with its origin, also when some are missing or wrong; the second says which.
    pub fn explain(args: &Said, env: &dyn Fn(&str) -> Option<String>) -> (Vec<Origin>, Faults) {
        let mut r = Resolver::new(args, env);
        // only what was read on the way is wanted
        let _ = r.config();
        (r.origins, Faults(r.faults))
    }
}

/// Name of an option, its value, where it comes from; a missing value is empty, and the origin says how to give it.
pub type Origin = (String, String, String);

/// Option, environment variable, default. Seconds in `DS_*` may have decimals, as in the prototype.
pub const SOURCES: &[(&str, &str, Option<&str>)] = &[
    ("token", "SYNOD_TOKEN", None),
    ("rpc", "SYNOD_RPC", Some("http://127.0.0.1:8545")),
    ("contract", "SYNOD_CONTRACT", None),
    ("chain-id", "SYNOD_CHAIN_ID", Some("31337")),
    ("data-dir", "SYNOD_DATA_DIR", None),
    ("dstack-socket", "DSTACK_SOCKET", Some("")),
    ("node-name", "SYNOD_NODE_NAME", Some("")),
    (
        "insecure-unattested-peers",
        "SYNOD_INSECURE_UNATTESTED_PEERS",
        Some("false"),
    ),
    ("agent-wait", "SYNOD_AGENT_WAIT", Some("60")),
    ("host", "DS_HOST", Some("127.0.0.1")),
    ("http-host", "SYNOD_HTTP_HOST", Some("127.0.0.1")),
    ("http-names", "SYNOD_HTTP_NAMES", Some("")),
    ("http-port", "SYNOD_HTTP_PORT", Some("")),
    ("link-port", "SYNOD_LINK_PORT", Some("")),
    ("udp-port", "SYNOD_UDP_PORT", Some("")),
    ("udp-port-base", "DS_UNICAST_PORT_BASE", Some("6000")),
    ("multicast-group", "DS_MULTICAST_GROUP", Some("224.1.1.1")),
    ("multicast-port", "DS_MULTICAST_PORT", Some("5007")),
    ("interface", "SYNOD_INTERFACE", Some("127.0.0.1")),
    ("peers", "SYNOD_PEERS", Some("")),
    ("nodes", "SYNOD_NODES", Some("")),
    ("profile", "SYNOD_PROFILE", Some("lan")),
    ("heartbeat-interval", "DS_HEARTBEAT_INTERVAL", Some("")),
    ("heartbeat-timeout", "DS_HEARTBEAT_TIMEOUT", Some("")),
    ("election-timeout", "DS_ELECTION_TIMEOUT", Some("")),
    ("multicast-retries", "DS_MULTICAST_RETRIES", Some("")),
    ("message-retry-count", "DS_MESSAGE_RETRY_COUNT", Some("")),
    ("message-retry-delay", "DS_MESSAGE_RETRY_DELAY", Some("")),
    ("gossip-interval", "DS_GOSSIP_INTERVAL", Some("")),
    ("initial-credits", "DS_INITIAL_CREDITS", Some("")),
    ("log-level", "DS_LOG_LEVEL", Some("info")),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn said(pairs: &[(&'static str, &str)]) -> Said {
        let least = [
            ("token", "2"),
            ("contract", "0x5fbdb2315678afecb367f032d93f642f64180aa3"),
            ("data-dir", "d"),
        ];
        Said(
            least
                .iter()
                .chain(pairs)
                .map(|(name, text)| (*name, (*text).to_owned()))
                .collect(),
        )
    }

    fn none(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn ports_follow_the_token_as_in_the_prototype() {
        let config = Config::resolve(&said(&[]), &none).expect("complete");
        assert_eq!(config.http.to_string(), "127.0.0.1:8082");
        assert_eq!(config.udp.to_string(), "127.0.0.1:6002");
        assert_eq!(config.link.to_string(), "127.0.0.1:6002");
    }

    #[test]
    fn all_faults_are_named_at_once_with_value_and_origin() {
        let env = |name: &str| match name {
            "DS_HEARTBEAT_INTERVAL" => Some("2,5".to_owned()),
            "DS_MULTICAST_GROUP" => Some("10.0.0.1".to_owned()),
            "DS_INITIAL_CREDITS" => Some("1e3".to_owned()),
            _ => None,
        };
        let args = said(&[
            ("contract", "0x12"),
            ("rpc", "ftp://x"),
            ("http-port", "70000"),
            ("token", "zero"),
        ]);
        let text = Config::resolve(&args, &env)
            .expect_err("faulty")
            .to_string();
        for part in [
            "DS_HEARTBEAT_INTERVAL",
            "2,5",
            "DS_MULTICAST_GROUP",
            "DS_INITIAL_CREDITS",
            "1e3",
            "--contract",
            "0x12",
            "--rpc",
            "70000",
            "zero",
        ] {
            assert!(text.contains(part), "{part} is missing in: {text}");
        }
    }

    #[test]
    fn a_wrong_entry_of_a_list_is_quoted_with_its_position_and_nothing_else_is() {
        let list = "1:192.168.1.10,two:192.168.1.11,3:192.168.1.12:6003,1:192.168.1.13,4:nowhere";
        let args = said(&[("peers", list), ("nodes", "1, 2,x")]);
        let Faults(faults) = Config::resolve(&args, &none).expect_err("four wrong entries");
        let told: Vec<(&str, &str)> = faults
            .iter()
            .map(|fault| (fault.origin.as_str(), fault.found.as_str()))
            .collect();
        let expected = [
            ("--peers, entry 2 of 5", "two:192.168.1.11"),
            ("--peers, entry 4 of 5", "1:192.168.1.13"),
            ("--peers, entry 5 of 5", "4:nowhere"),
            ("--nodes, entry 3 of 3", "x"),
        ];
        assert_eq!(told, expected);
        let many: Vec<String> = (1..=65).map(|id| format!("{id}:10.0.0.1")).collect();
        let text = Config::resolve(&said(&[("peers", &many.join(","))]), &none)
            .expect_err("too many")
            .to_string();
        assert!(text.contains("at most 64") && text.contains("65"), "{text}");
    }

    #[test]
    fn what_is_known_is_explained_beside_what_is_missing() {
        let args = Said([("token", "2".to_owned())].into());
        let (origins, Faults(faults)) = Config::explain(&args, &none);
        let row = |name: &str| origins.iter().find(|(n, ..)| n == name).cloned();
        let (_, value, origin) = row("token").expect("known");
        assert_eq!(
            (value.as_str(), origin.starts_with("N ")),
            ("2", true),
            "{origin}"
        );
        for (name, variable) in [
            ("contract", "SYNOD_CONTRACT"),
            ("data-dir", "SYNOD_DATA_DIR"),
        ] {
            let (_, value, origin) = row(name).expect("named");
            assert!(value.is_empty() && origin.contains("missing"), "{origin}");
            assert!(origin.contains(variable), "{origin}");
        }
        assert_eq!((origins.len(), faults.len()), (SOURCES.len(), 2));
    }

    #[test]
    fn a_timeout_below_twice_the_interval_is_refused_with_both_values() {
        let args = said(&[("heartbeat-interval", "1"), ("heartbeat-timeout", "1.5")]);
        let text = Config::resolve(&args, &none)
            .expect_err("contradiction")
            .to_string();
        assert!(
            text.contains("1500 ms") && text.contains("1000 ms"),
            "{text}"
        );
    }

    #[test]
    fn what_proves_nothing_is_for_development_chains_only() {
        let both = [
            ("node-name", "node2"),
            ("insecure-unattested-peers", "true"),
        ];
        let config = Config::resolve(&said(&both), &none).expect("31337 is the default");
        assert!(config.insecure_unattested_peers && config.node_name.is_some());
        assert_eq!(config.notices.len(), 1, "{:?}", config.notices);

        let elsewhere = [&both[..], &[("chain-id", "1")]].concat();
        let Faults(faults) = Config::resolve(&said(&elsewhere), &none).expect_err("mainnet");
        let origins: Vec<&str> = faults.iter().map(|fault| fault.origin.as_str()).collect();
        assert_eq!(origins, ["--node-name", "--insecure-unattested-peers"]);

        let wrong = [
            ("node-name", "Node 2"),
            ("insecure-unattested-peers", "yes"),
        ];
        let Faults(faults) = Config::resolve(&said(&wrong), &none).expect_err("both malformed");
        assert_eq!(faults.len(), 2, "{faults:?}");
    }

    #[test]
    fn the_api_stays_on_loopback() {
        let text = Config::resolve(&said(&[("http-host", "0.0.0.0")]), &none)
            .expect_err("public")
            .to_string();
        assert!(
            text.contains("0.0.0.0") && text.contains("loopback"),
            "{text}"
        );
    }

    #[test]
    fn a_variable_of_the_prototype_keeps_its_unit_and_the_command_line_wins() {
        let env = |name: &str| (name == "DS_HEARTBEAT_TIMEOUT").then(|| "0.6".to_owned());
        let config = Config::resolve(&said(&[]), &env).expect("complete");
        assert_eq!(
            (config.timing.suspect_ms, config.timing.fail_ms),
            (600, 1_200)
        );
        let config =
            Config::resolve(&said(&[("heartbeat-timeout", "0.5")]), &env).expect("complete");
        assert_eq!(config.timing.suspect_ms, 500);
    }
}
