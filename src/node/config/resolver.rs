//! From words to values: each of `SOURCES` is read once, checked, and noted with its origin; a fault never stops
//! the reading of the others.

use super::{Config, Fault, Origin, SOURCES, Said};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use synod_cluster::Settings as Timing;
use synod_ledger::Settings as TradeSettings;
use synod_wire::{Address, Token, Wh};

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

pub(super) fn shown(rpc: &str) -> String {
    reqwest::Url::parse(rpc)
        .map_or_else(|_| "?".to_owned(), |url| url.origin().ascii_serialization())
}

pub(super) struct Resolver<'a> {
    args: &'a Said,
    env: &'a dyn Fn(&str) -> Option<String>,
    pub faults: Vec<Fault>,
    pub origins: Vec<Origin>,
}

pub(super) struct Value {
    pub text: String,
    origin: String,
}

impl<'a> Resolver<'a> {
    pub(super) fn new(args: &'a Said, env: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self {
            args,
            env,
            faults: Vec::new(),
            origins: Vec::new(),
        }
    }

    pub(super) fn config(&mut self) -> Option<Config> {
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
        let node_name = self.node_name(chain_id);
        let insecure_unattested_peers = self.insecure(chain_id);
        let names = self.optional("http-names").map_or(Vec::new(), |v| {
            v.text.split(',').map(|n| n.trim().to_owned()).collect()
        });
        let log_level = self.log_level();
        let trades = self.trades();
        let initial_credit = self.initial_credit();
        let peers = self.peers(base);
        let expected = self.expected();
        let mut notices = self.replaced();
        if insecure_unattested_peers {
            notices.push(
                "insecure-unattested-peers: this cluster is UNATTESTED; evidence that proves nothing is let through"
                    .to_owned(),
            );
        }
        let host = host?;
        Some(Config {
            token: Token(token?),
            chain_id: chain_id?,
            rpc: rpc?,
            contract: contract?,
            data_dir: data_dir?,
            dstack_socket: socket,
            node_name,
            insecure_unattested_peers,
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
        })
    }

    /// The value and where it came from; a missing one without default is a fault.
    pub(super) fn value(&mut self, name: &'static str) -> Option<Value> {
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
                let remedy = format!("give {option} or set {variable}");
                let missing = format!("missing: {remedy}");
                self.origins.push((name.to_owned(), String::new(), missing));
                self.faults.push(Fault {
                    origin: option,
                    expected: "a value".to_owned(),
                    found: String::new(),
                    remedy,
                });
                None
            }
        }
    }

    pub(super) fn optional(&mut self, name: &'static str) -> Option<Value> {
        self.value(name).filter(|value| !value.text.is_empty())
    }

    pub(super) fn fault(&mut self, value: &Value, expected: &str, remedy: &str) {
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
        // a faulty base is a fault of its own
        let base = base.unwrap_or_default();
        let peer = |text: &str| {
            let (id, rest) = text.split_once(':')?;
            let id: u64 = id.parse().ok().filter(|id| *id > 0)?;
            let address = match rest.split_once(':') {
                Some(_) => rest.parse().ok()?,
                None => {
                    let port = u16::try_from(base.checked_add(id)?).ok()?;
                    SocketAddrV4::new(rest.parse().ok()?, port)
                }
            };
            Some((Token(id), address))
        };
        let remedy = "for example --peers 1:192.168.1.10,3:192.168.1.12:6003";
        self.list("peers", "ID:IP[:PORT], each ID once", remedy, peer)
    }

    fn expected(&mut self) -> BTreeSet<Token> {
        let id = |text: &str| {
            let id = text.parse().ok().filter(|id| *id > 0)?;
            Some((Token(id), ()))
        };
        let remedy = "for example --nodes 1,2,3";
        let ids = self.list("nodes", "a token id, each once", remedy, id);
        ids.into_keys().collect()
    }

    /// Entries by commas, at most [`PEERS_MAX`]; each wrong one is a fault that quotes it and says where it stands.
    fn list<T>(
        &mut self,
        name: &'static str,
        expected: &str,
        remedy: &str,
        parse: impl Fn(&str) -> Option<(Token, T)>,
    ) -> BTreeMap<Token, T> {
        let mut found = BTreeMap::new();
        let Some(Value { text, origin }) = self.optional(name) else {
            return found;
        };
        let count = text.split(',').count();
        if count > PEERS_MAX {
            let text = format!("{count} entries");
            let value = Value { text, origin };
            self.fault(&value, &format!("at most {PEERS_MAX} entries"), remedy);
            return found;
        }
        for (position, entry) in (1..).zip(text.split(',').map(str::trim)) {
            let fresh = parse(entry).filter(|(token, _)| !found.contains_key(token));
            if let Some((token, value)) = fresh {
                found.insert(token, value);
                continue;
            }
            let value = Value {
                text: entry.to_owned(),
                origin: format!("{origin}, entry {position} of {count}"),
            };
            self.fault(&value, expected, remedy);
        }
        found
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
