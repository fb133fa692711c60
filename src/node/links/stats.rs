//! What the links count, and the one table of reasons for which a link is refused or ended by us.

use super::handshake::Refusal;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use synod_wire::hello::HelloRefused;

/// Every reason, with its number on the wire (the second byte of a refusal).
pub(super) const REASONS: [&str; 19] = [
    "tls",
    "slow",
    "gone",
    "busy",
    "not_a_hello",
    "signature",
    "unknown_sender",
    "cluster",
    "log_id",
    "token",
    "incarnation",
    "certificate_key",
    "peer",
    "tls_session",
    "pin",
    "too_long",
    "wrong_kind",
    "ended_incarnation",
    "other",
];

/// Counts since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Open now, both directions.
    pub open: u64,
    /// Handshakes with both hellos verified, as acceptor.
    pub accepted: u64,
    /// The same, as dialler.
    pub dialled: u64,
    /// Handshakes and messages refused, by reason; only reasons that have occurred.
    pub refused: BTreeMap<&'static str, u64>,
    /// Bytes of messages read.
    pub bytes_in: u64,
    /// Bytes of messages written.
    pub bytes_out: u64,
}

#[derive(Default)]
pub(super) struct Counts {
    pub accepted: AtomicU64,
    pub dialled: AtomicU64,
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
    refused: [AtomicU64; REASONS.len()],
}

impl Counts {
    pub(super) fn refuse(&self, reason: &'static str) {
        if let Some(n) = self.refused.get(usize::from(number(reason))) {
            n.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn read(&self, open: usize) -> LinkStats {
        let of = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let refused = REASONS
            .iter()
            .zip(&self.refused)
            .map(|(reason, n)| (*reason, of(n)));
        LinkStats {
            open: open as u64,
            accepted: of(&self.accepted),
            dialled: of(&self.dialled),
            refused: refused.filter(|(_, n)| *n > 0).collect(),
            bytes_in: of(&self.bytes_in),
            bytes_out: of(&self.bytes_out),
        }
    }
}

/// Its number on the wire.
pub(super) fn number(reason: &str) -> u8 {
    let last = REASONS.len() - 1;
    let at = REASONS.iter().position(|r| *r == reason).unwrap_or(last);
    u8::try_from(at).expect("the table has fewer than 256 reasons")
}

/// From its number; what a newer peer may say is "other".
pub(super) fn reason(number: u8) -> &'static str {
    REASONS.get(usize::from(number)).copied().unwrap_or("other")
}

impl Refusal {
    /// Short name, for metrics and for the other side.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Tls(_) => "tls",
            Self::Pin(_) => "pin",
            Self::Slow => "slow",
            Self::Gone(_) => "gone",
            Self::There(_) => "other",
            Self::Hello(why) => hello_label(why),
        }
    }
}

fn hello_label(why: &HelloRefused) -> &'static str {
    match why {
        HelloRefused::NotAHello => "not_a_hello",
        HelloRefused::Signature { .. } => "signature",
        HelloRefused::UnknownSender { .. } => "unknown_sender",
        HelloRefused::Differs { field, .. } => match *field {
            "cluster" => "cluster",
            "log id" => "log_id",
            "token" => "token",
            "incarnation" => "incarnation",
            "certificate key" => "certificate_key",
            "peer" => "peer",
            "TLS session" => "tls_session",
            _ => "other",
        },
    }
}
