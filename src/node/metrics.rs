//! What this node has counted: one set of numbers behind both `/metrics` (Prometheus text) and `/status`.
//! Counters are cheap to raise from anywhere; gauges are shown as last told. Nothing decides by them.

use crate::links::{LinkStats, Links};
use crate::udp::{Udp, UdpStats};
use crate::ways::Way;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use synod_wire::message::Kind;

/// Values that are shown as last told, not counted here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// The counter, as applied here.
    pub counter_value: u64,
    /// The contract's election term.
    pub term: u64,
    /// We are the leader in office.
    pub is_leader: bool,
    /// We may not vote, sign or answer reads.
    pub muted: bool,
    /// Active members in the contract.
    pub members: u64,
    /// Elections that the engine began without being asked; more than 0 is a bug.
    pub unasked_elections: u64,
    /// The chain's newest block as read here.
    pub chain_block: u64,
    /// The last read of the chain succeeded.
    pub chain_reachable: bool,
    /// Last index applied.
    pub applied_index: u64,
}

/// A copy for `/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Frames sent, by kind; kinds that occurred.
    pub sent: BTreeMap<String, u64>,
    /// Frames received, by kind.
    pub received: BTreeMap<String, u64>,
    /// The same by way, then kind.
    pub by_way: BTreeMap<String, BTreeMap<String, u64>>,
    /// Datagrams refused, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Ballots and proposals that our own gates refused, by reason.
    pub gate_refusals: BTreeMap<String, u64>,
    /// The links.
    pub links: LinkStats,
    /// The datagram sockets.
    pub udp: UdpStats,
    /// Gauges.
    pub shown: Shown,
}

/// The numbers of one node.
pub struct Metrics {
    numbers: Arc<Numbers>,
    registry: Registry,
}

#[derive(Default)]
struct Numbers {
    sent: PerKind,
    received: PerKind,
    by_way: [PerKind; Way::ALL.len()],
    refused: Mutex<BTreeMap<&'static str, u64>>,
    gate_refusals: Mutex<BTreeMap<&'static str, u64>>,
    shown: Mutex<Shown>,
    links: OnceLock<Links>,
    udp: OnceLock<Arc<Udp>>,
}

/// One atomic per kind of frame, in the order of [`Kind::ALL`].
#[derive(Default)]
struct PerKind([AtomicU64; Kind::ALL.len()]);

impl Default for Metrics {
    fn default() -> Self {
        let numbers = Arc::new(Numbers::default());
        let mut registry = Registry::with_prefix("synod");
        registry.register_collector(Box::new(Arc::clone(&numbers)));
        Self { numbers, registry }
    }
}

impl Metrics {
    /// A frame went out.
    pub fn frame_sent(&self, kind: Kind) {
        self.numbers.sent.raise(kind);
    }

    /// A frame verified, and came this way.
    pub fn frame_received(&self, kind: Kind, way: Way) {
        self.numbers.received.raise(kind);
        let at = Way::ALL.iter().position(|w| *w == way);
        if let Some(kinds) = at.and_then(|at| self.numbers.by_way.get(at)) {
            kinds.raise(kind);
        }
    }

    /// A datagram was not read, see [`synod_wire::seal::Refused::label`].
    pub fn frame_refused(&self, reason: &'static str) {
        raise(&self.numbers.refused, reason);
    }

    /// What the gate before the engine has refused so far, by reason.
    pub fn show_gate(&self, refusals: BTreeMap<&'static str, u64>) {
        *lock(&self.numbers.gate_refusals) = refusals;
    }

    /// Tell a gauge.
    pub fn show(&self, change: impl FnOnce(&mut Shown)) {
        change(&mut lock(&self.numbers.shown));
    }

    /// Count these links too; the first call counts.
    pub fn follow_links(&self, links: Links) {
        self.numbers.links.set(links).ok();
    }

    /// Count these sockets too; the first call counts.
    pub fn follow_udp(&self, udp: Arc<Udp>) {
        self.numbers.udp.set(udp).ok();
    }

    /// A copy of everything.
    pub fn counted(&self) -> Counted {
        self.numbers.counted()
    }

    /// Prometheus text (OpenMetrics 1.0).
    pub fn render(&self) -> String {
        let mut text = String::new();
        // writing into a String has no way to fail
        prometheus_client::encoding::text::encode(&mut text, &self.registry).ok();
        text
    }
}

impl Numbers {
    fn counted(&self) -> Counted {
        let named = |map: &Mutex<BTreeMap<&'static str, u64>>| {
            lock(map)
                .iter()
                .map(|(reason, n)| ((*reason).to_owned(), *n))
                .collect()
        };
        Counted {
            sent: self.sent.read(),
            received: self.received.read(),
            by_way: Way::ALL
                .iter()
                .zip(&self.by_way)
                .map(|(way, kinds)| (way.name().to_owned(), kinds.read()))
                .collect(),
            refused: named(&self.refused),
            gate_refusals: named(&self.gate_refusals),
            links: self.links.get().map(Links::stats).unwrap_or_default(),
            udp: self.udp.get().map(|udp| udp.stats()).unwrap_or_default(),
            shown: *lock(&self.shown),
        }
    }
}

impl PerKind {
    fn raise(&self, kind: Kind) {
        let at = Kind::ALL.iter().position(|k| *k == kind);
        if let Some(n) = at.and_then(|at| self.0.get(at)) {
            n.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn read(&self) -> BTreeMap<String, u64> {
        let all = Kind::ALL
            .iter()
            .zip(&self.0)
            .map(|(k, n)| (k.name().to_owned(), n.load(Ordering::Relaxed)));
        all.filter(|(_, n)| *n > 0).collect()
    }
}

fn raise(map: &Mutex<BTreeMap<&'static str, u64>>, reason: &'static str) {
    let mut map = lock(map);
    let n = map.entry(reason).or_default();
    *n = n.saturating_add(1);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Numbers")
    }
}

impl Collector for Numbers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let now = self.counted();
        for (name, help, label, values) in now.families() {
            by(&mut encoder, name, help, label, &values)?;
        }
        by_way(&mut encoder, &now.by_way)?;
        for (name, help, value) in now.counters() {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(metric)?;
        }
        for (name, help, value) in now.gauges() {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(metric)?;
        }
        Ok(())
    }
}

type Named = (&'static str, &'static str, u64);
type Family = (
    &'static str,
    &'static str,
    &'static str,
    BTreeMap<String, u64>,
);

impl Counted {
    fn families(&self) -> [Family; 5] {
        let links = self.links.refused.iter();
        let links = links
            .map(|(reason, n)| ((*reason).to_owned(), *n))
            .collect();
        [
            ("frames_sent", "Frames sent", "kind", self.sent.clone()),
            (
                "frames_received",
                "Frames that verified",
                "kind",
                self.received.clone(),
            ),
            (
                "frames_refused",
                "Datagrams that were not read",
                "reason",
                self.refused.clone(),
            ),
            (
                "gate_refusals",
                "Refusals by this node's own gates",
                "reason",
                self.gate_refusals.clone(),
            ),
            (
                "links_refused",
                "Handshakes and link messages refused",
                "reason",
                links,
            ),
        ]
    }

    fn counters(&self) -> [Named; 10] {
        let (links, udp) = (&self.links, &self.udp);
        let unasked = self.shown.unasked_elections;
        [
            (
                "links_accepted",
                "Links accepted, both hellos verified",
                links.accepted,
            ),
            (
                "links_dialled",
                "Links dialled, both hellos verified",
                links.dialled,
            ),
            (
                "link_bytes_in",
                "Bytes of link messages read",
                links.bytes_in,
            ),
            (
                "link_bytes_out",
                "Bytes of link messages written",
                links.bytes_out,
            ),
            (
                "datagrams_received",
                "Datagrams handed to the driver",
                udp.received,
            ),
            (
                "datagrams_dropped",
                "Datagrams dropped, queue full",
                udp.dropped,
            ),
            ("datagrams_sent", "Datagrams sent", udp.sent),
            (
                "datagram_receive_errors",
                "Errors of receiving",
                udp.receive_errors,
            ),
            ("datagram_send_errors", "Errors of sending", udp.send_errors),
            (
                "engine_timer_elections",
                "Elections the engine began unasked",
                unasked,
            ),
        ]
    }

    fn gauges(&self) -> [Named; 9] {
        let (links, shown) = (&self.links, &self.shown);
        let reachable = shown.chain_reachable.into();
        [
            ("links_open", "Links open now", links.open),
            (
                "counter_value",
                "The counter as applied here",
                shown.counter_value,
            ),
            ("term", "Election term of the contract", shown.term),
            (
                "is_leader",
                "1 while this node is the leader in office",
                shown.is_leader.into(),
            ),
            (
                "muted",
                "1 while this node may not vote, sign or answer reads",
                shown.muted.into(),
            ),
            ("members", "Active members in the contract", shown.members),
            (
                "chain_block",
                "Newest block of the chain as read here",
                shown.chain_block,
            ),
            ("chain_reachable", "1 while the chain answers", reachable),
            (
                "applied_index",
                "Last log index applied",
                shown.applied_index,
            ),
        ]
    }
}

/// One family of counters with one label.
fn by(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &str,
    values: &BTreeMap<String, u64>,
) -> Result<(), fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (value, n) in values {
        let labels = [(label, value.as_str())];
        ConstCounter::new(*n).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// Frames by kind and way: datagrams to the group, to one address, or the link.
fn by_way(
    encoder: &mut DescriptorEncoder<'_>,
    ways: &BTreeMap<String, BTreeMap<String, u64>>,
) -> Result<(), fmt::Error> {
    let help = "Frames that verified, by the way they came";
    let mut family =
        encoder.encode_descriptor("frames_arrived", help, None, MetricType::Counter)?;
    for (way, kinds) in ways {
        for (kind, n) in kinds {
            let labels = [("kind", kind.as_str()), ("way", way.as_str())];
            ConstCounter::new(*n).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_prometheus_show_the_same_numbers() {
        let metrics = Metrics::default();
        metrics.frame_sent(Kind::Heartbeat);
        metrics.frame_sent(Kind::Heartbeat);
        metrics.frame_received(Kind::BallotRefused, Way::Link);
        metrics.frame_refused("not a frame");
        metrics.show_gate(BTreeMap::from([("muted", 1)]));
        metrics.show(|shown| {
            shown.term = 7;
            shown.muted = true;
        });
        let counted = metrics.counted();
        assert_eq!(counted.sent, BTreeMap::from([("HEARTBEAT".to_owned(), 2)]));
        let text = metrics.render();
        for line in [
            "synod_frames_sent_total{kind=\"HEARTBEAT\"} 2",
            "synod_frames_received_total{kind=\"BALLOT_REFUSED\"} 1",
            "synod_frames_arrived_total{kind=\"BALLOT_REFUSED\",way=\"link\"} 1",
            "synod_frames_refused_total{reason=\"not a frame\"} 1",
            "synod_gate_refusals_total{reason=\"muted\"} 1",
            "synod_engine_timer_elections_total 0",
            "synod_term 7",
            "synod_muted 1",
            "synod_is_leader 0",
            "# EOF",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is not in\n{text}"
            );
        }
    }
}
