//! Configuration: command line over environment over default, every value with its origin, and *all*
//! faults at once, because an operator at night should not have to start five times.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::str::FromStr;
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
    /// Each value with its origin, for `--print-config`.
    pub origins: Vec<(String, String, String)>,
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
        let mut r = Resolver {
            args,
            env,
            faults: Vec::new(),
            origins: Vec::new(),
        };
        let config = r.config();
        match config {
            Some(mut config) if r.faults.is_empty() => {
                config.origins = r.origins;
                Ok(config)
            }
            _ => Err(Faults(r.faults)),
        }
    }
}

/// Option, environment variable, default. Seconds in `DS_*` may have decimals, as in the prototype.
pub const SOURCES: &[(&str, &str, Option<&str>)] = &[
    ("token", "SYNOD_TOKEN", None),
    ("rpc", "SYNOD_RPC", Some("http://127.0.0.1:8545")),
    ("contract", "SYNOD_CONTRACT", None),
    ("chain-id", "SYNOD_CHAIN_ID", Some("31337")),
    ("data-dir", "SYNOD_DATA_DIR", None),
    ("dstack-socket", "DSTACK_SOCKET", Some("")),
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

/// Members that an operator may name by hand.
const PEERS_MAX: usize = 64;

/// How it is said on the command line.
fn option(name: &str) -> String {
    if name == "token" {
        "N (the token id behind `synod node`)".to_owned()
    } else {
        format!("--{name}")
    }
}

fn shown(rpc: &str) -> String {
    reqwest::Url::parse(rpc)
        .map_or_else(|_| "?".to_owned(), |url| url.origin().ascii_serialization())
}

struct Resolver<'a> {
    args: &'a Said,
    env: &'a dyn Fn(&str) -> Option<String>,
    faults: Vec<Fault>,
    origins: Vec<(String, String, String)>,
}

struct Value {
    text: String,
    origin: String,
}

impl Resolver<'_> {
    fn config(&mut self) -> Option<Config> {
        let token = self.number(
            "token",
            "a token id from 1 to 9007199254740991",
            1..=(1 << 53) - 1,
        );
        let chain_id = self.number("chain-id", "a chain id", 1..=u64::MAX);
        let contract =
            self.parse::<Address>("contract", "a contract address, 0x and 40 hex digits");
        let rpc = self.rpc();
        let data_dir = self.value("data-dir").map(|v| PathBuf::from(v.text));
        let host = self.parse::<Ipv4Addr>("host", "an IPv4 address of this machine");
        let http_host = self.http_host();
        let interface =
            self.parse::<Ipv4Addr>("interface", "the IPv4 address of a network interface");
        let group = self.group();
        let base = self.number("udp-port-base", "a port number", 1..=65_535);
        let by_id = |start: u64| Some(token?.saturating_add(start));
        let http_port = self.port("http-port", by_id(8_080));
        let udp_port = self.port("udp-port", base.and_then(by_id));
        let link_port = self.port("link-port", udp_port.map(u64::from));
        let timing = self.timing();
        let socket = self
            .optional("dstack-socket")
            .map(|v| PathBuf::from(v.text));
        let agent_wait = self.seconds("agent-wait");
        let names = self.optional("http-names").map_or(Vec::new(), |v| {
            v.text.split(',').map(|n| n.trim().to_owned()).collect()
        });
        let log_level = self.log_level();
        let trades = self.trades();
        let initial_credit = self.initial_credit();
        let peers = self.peers(base);
        let expected = self.expected();
        let notices = self.replaced();
        let host = host?;
        Some(Config {
            token: Token(token?),
            chain_id: chain_id?,
            rpc: rpc?,
            contract: contract?,
            data_dir: data_dir?,
            dstack_socket: socket,
            agent_wait: Duration::from_millis(agent_wait?),
            http: SocketAddr::new(http_host?, http_port?),
            http_names: names,
            link: SocketAddrV4::new(host, link_port?),
            udp: SocketAddrV4::new(host, udp_port?),
            group: group?,
            interface: interface?,
            timing: timing?,
            trades,
            initial_credit,
            peers,
            expected,
            notices,
            log_level: log_level?,
            origins: Vec::new(),
        })
    }

    /// The value and where it came from; a missing one without default is a fault.
    fn value(&mut self, name: &'static str) -> Option<Value> {
        let (_, variable, default) = *SOURCES.iter().find(|(n, _, _)| *n == name)?;
        let found = self
            .args
            .0
            .get(name)
            .map(|text| Value {
                text: text.clone(),
                origin: option(name),
            })
            .or_else(|| {
                (self.env)(variable).map(|text| Value {
                    text,
                    origin: variable.to_owned(),
                })
            })
            .or_else(|| {
                default.map(|text| Value {
                    text: text.to_owned(),
                    origin: "default".to_owned(),
                })
            });
        match found {
            Some(value) => {
                let text = if name == "rpc" {
                    shown(&value.text)
                } else {
                    value.text.clone()
                };
                self.origins
                    .push((name.to_owned(), text, value.origin.clone()));
                Some(value)
            }
            None => {
                let option = option(name);
                self.faults.push(Fault {
                    origin: option.clone(),
                    expected: "a value".to_owned(),
                    found: String::new(),
                    remedy: format!("give {option} or set {variable}"),
                });
                None
            }
        }
    }

    fn optional(&mut self, name: &'static str) -> Option<Value> {
        self.value(name).filter(|value| !value.text.is_empty())
    }

    fn fault(&mut self, value: &Value, expected: &str, remedy: &str) {
        let found = value.text.chars().take(120).collect();
        let (origin, expected, remedy) =
            (value.origin.clone(), expected.to_owned(), remedy.to_owned());
        self.faults.push(Fault {
            origin,
            expected,
            found,
            remedy,
        });
    }

    fn parse<T: FromStr>(&mut self, name: &'static str, expected: &str) -> Option<T> {
        let value = self.value(name)?;
        let parsed = value.text.parse().ok();
        if parsed.is_none() {
            self.fault(&value, expected, "correct the value");
        }
        parsed
    }

    fn number(
        &mut self,
        name: &'static str,
        expected: &str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Option<u64> {
        let value = self.value(name)?;
        let parsed = value
            .text
            .parse()
            .ok()
            .filter(|number| range.contains(number));
        if parsed.is_none() {
            self.fault(&value, expected, "correct the value");
        }
        parsed
    }

    fn port(&mut self, name: &'static str, default: Option<u64>) -> Option<u16> {
        let Some(value) = self.optional(name) else {
            let port = default.and_then(|port| u16::try_from(port).ok());
            if port.is_none() && default.is_some() {
                let value = Value {
                    text: default.unwrap_or(0).to_string(),
                    origin: format!("default of --{name}"),
                };
                self.fault(
                    &value,
                    "a port up to 65535",
                    &format!("give --{name}: the default is made of the token id"),
                );
            }
            return port;
        };
        let port = value.text.parse().ok();
        if port.is_none() {
            self.fault(
                &value,
                "a port number from 0 to 65535",
                "choose a free port",
            );
        }
        port
    }

    fn log_level(&mut self) -> Option<String> {
        let value = self.value("log-level")?;
        match value.text.to_lowercase().as_str() {
            "warning" => Some("warn".to_owned()),
            level @ ("error" | "warn" | "info" | "debug" | "trace") => Some(level.to_owned()),
            _ => {
                self.fault(
                    &value,
                    "error, warn, info, debug or trace",
                    "correct the value",
                );
                None
            }
        }
    }

    fn trades(&mut self) -> TradeSettings {
        let mut trades = TradeSettings::default();
        if let Some(delay) = self.seconds("message-retry-delay") {
            trades.resend_ms = delay;
        }
        if let Some(value) = self.optional("message-retry-count") {
            match value.text.parse().ok().filter(|n| (1..=1_000).contains(n)) {
                Some(count) => trades.resend_count = count,
                None => self.fault(&value, "a number from 1 to 1000", "correct the value"),
            }
        }
        trades
    }

    fn initial_credit(&mut self) -> Option<Wh> {
        let value = self.optional("initial-credits")?;
        let credit = value.text.parse().ok();
        if credit.is_none() {
            let expected = "credits with at most three decimals";
            self.fault(&value, expected, "correct the value");
        }
        credit
    }

    /// `1:IP[:PORT],2:IP`; without a port the prototype's base + id.
    fn peers(&mut self, base: Option<u64>) -> BTreeMap<Token, SocketAddrV4> {
        let Some(value) = self.optional("peers") else {
            return BTreeMap::new();
        };
        let peer = |text: &str| {
            let (id, rest) = text.trim().split_once(':')?;
            let id: u64 = id.parse().ok().filter(|id| *id > 0)?;
            let address = match rest.split_once(':') {
                Some(_) => rest.parse().ok()?,
                None => {
                    let port = u16::try_from(base?.checked_add(id)?).ok()?;
                    SocketAddrV4::new(rest.parse().ok()?, port)
                }
            };
            Some((Token(id), address))
        };
        let peers: Option<BTreeMap<_, _>> = value.text.split(',').map(peer).collect();
        let fits = peers.filter(|peers| peers.len() <= PEERS_MAX);
        if fits.is_none() {
            let expected = "at most 64 peers as ID:IP[:PORT], by commas";
            self.fault(
                &value,
                expected,
                "for example --peers 1:192.168.1.10,3:192.168.1.12:6003",
            );
        }
        fits.unwrap_or_default()
    }

    fn expected(&mut self) -> BTreeSet<Token> {
        let Some(value) = self.optional("nodes") else {
            return BTreeSet::new();
        };
        let id = |text: &str| text.trim().parse().ok().filter(|id| *id > 0).map(Token);
        let ids: Option<BTreeSet<Token>> = value.text.split(',').map(id).collect();
        let fits = ids.filter(|ids| ids.len() <= PEERS_MAX);
        if fits.is_none() {
            self.fault(
                &value,
                "at most 64 token ids, by commas",
                "for example --nodes 1,2,3",
            );
        }
        fits.unwrap_or_default()
    }

    /// Of the prototype, without a use here: said, not swallowed.
    fn replaced(&mut self) -> Vec<String> {
        let Some(value) = self.optional("gossip-interval") else {
            return Vec::new();
        };
        let origin = value.origin;
        self.seconds("gossip-interval");
        vec![format!(
            "{origin} is accepted and has no effect: there is no gossip, the log replicates"
        )]
    }

    fn rpc(&mut self) -> Option<String> {
        let value = self.value("rpc")?;
        let url = reqwest::Url::parse(&value.text).ok();
        if url.is_some_and(|url| url.scheme() == "http" && url.has_host()) {
            return Some(value.text);
        }
        self.fault(
            &value,
            "an http:// URL",
            "https comes with the Container issue; use an endpoint on a trusted path",
        );
        None
    }

    fn http_host(&mut self) -> Option<IpAddr> {
        let value = self.value("http-host")?;
        match value.text.parse::<IpAddr>() {
            Ok(address) if address.is_loopback() => Some(address),
            _ => {
                let remedy = "writes are not authorised yet, so the API stays on loopback; reach it by an ssh tunnel";
                self.fault(&value, "a loopback address", remedy);
                None
            }
        }
    }

    fn group(&mut self) -> Option<SocketAddrV4> {
        let group = self.value("multicast-group")?;
        let address = group
            .text
            .parse::<Ipv4Addr>()
            .ok()
            .filter(Ipv4Addr::is_multicast);
        if address.is_none() {
            self.fault(
                &group,
                "an IPv4 multicast address, 224.0.0.0 to 239.255.255.255",
                "correct the value",
            );
        }
        let port = self.number(
            "multicast-port",
            "a port number from 1 to 65535",
            1..=65_535,
        );
        Some(SocketAddrV4::new(address?, u16::try_from(port?).ok()?))
    }

    fn timing(&mut self) -> Option<Timing> {
        let profile = self.value("profile")?;
        let mut timing = match profile.text.as_str() {
            "lan" => Timing::lan(),
            "seed" => Timing::seed(),
            _ => {
                self.fault(
                    &profile,
                    "lan or seed",
                    "choose one of the two timing profiles",
                );
                Timing::lan()
            }
        };
        if let Some(interval) = self.seconds("heartbeat-interval") {
            timing.heartbeat_ms = interval;
        }
        if let Some(timeout) = self.seconds("heartbeat-timeout") {
            timing.suspect_ms = timeout;
            timing.fail_ms = timeout.saturating_mul(2);
        }
        if let Some(timeout) = self.seconds("election-timeout") {
            timing.ok_wait_ms = timeout;
        }
        if let Some(copies) = self.optional("multicast-retries") {
            match copies
                .text
                .parse::<u32>()
                .ok()
                .filter(|n| (1..=20).contains(n))
            {
                Some(copies) => timing.join_copies = copies,
                None => self.fault(
                    &copies,
                    "a number of copies from 1 to 20",
                    "correct the value",
                ),
            }
        }
        for fault in timing.faults() {
            let value = Value {
                text: fault.found,
                origin: "timing".to_owned(),
            };
            self.fault(
                &value,
                fault.rule,
                "change DS_HEARTBEAT_INTERVAL, DS_HEARTBEAT_TIMEOUT or DS_ELECTION_TIMEOUT",
            );
        }
        Some(timing)
    }

    /// Seconds with decimals, as milliseconds; at most one day.
    fn seconds(&mut self, name: &'static str) -> Option<u64> {
        let value = self.optional(name)?;
        let seconds = value
            .text
            .parse::<f64>()
            .ok()
            .filter(|s| (0.001..=86_400.0).contains(s));
        if seconds.is_none() {
            self.fault(
                &value,
                "seconds, decimals allowed, from 0.001 to 86400",
                "correct the value",
            );
        }
        seconds.map(|s| (s * 1_000.0) as u64)
    }
}

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
