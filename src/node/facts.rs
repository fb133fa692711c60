//! What this node knows about itself, for people: one place that the boot and the driver write and that
//! the API reads. Nothing decides by it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use synod_cluster::Health;
use synod_ledger::{CausalStats, OpenTrade};
use synod_wire::message::Heartbeat;
use synod_wire::{Address, ChainView, Clock, Incarnation, Token, Wh};

/// How far the life of this node has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// No answer from the guest agent's socket.
    #[default]
    WaitingForAgent,
    /// No answer from the RPC endpoint.
    WaitingForChain,
    /// The token's owner has not adopted this wallet and instance.
    WaitingForAdoption,
    /// The wallet cannot pay its registration.
    WaitingForGas,
    /// `register` is on its way.
    Registering,
    /// Registered, muted: catching up with the leader in office.
    Joining,
    /// Everything a member may do.
    Serving,
    /// A newer incarnation of this token runs, or its rights ended: this process stops.
    Fenced,
}

impl Phase {
    /// As shown in `/status`.
    pub fn name(self) -> &'static str {
        match self {
            Self::WaitingForAgent => "waiting_for_agent",
            Self::WaitingForChain => "waiting_for_chain",
            Self::WaitingForAdoption => "waiting_for_adoption",
            Self::WaitingForGas => "waiting_for_gas",
            Self::Registering => "registering",
            Self::Joining => "joining",
            Self::Serving => "serving",
            Self::Fenced => "fenced",
        }
    }
}

/// Something that must come from outside before the node can go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// What.
    pub what: &'static str,
    /// What it should be.
    pub expected: String,
    /// What it is.
    pub found: String,
    /// What to do.
    pub remedy: String,
}

/// What the detector says of one peer.
#[derive(Clone, Debug)]
pub struct PeerFact {
    /// ALIVE, SUSPECTED, FAILED.
    pub health: Health,
    /// Milliseconds since its last verified frame; none = never.
    pub age_ms: Option<u64>,
    /// Its last heartbeat.
    pub beat: Option<Heartbeat>,
}

/// What the ledger's machine has under way.
#[derive(Clone, Debug, Default)]
pub struct LedgerFact {
    /// Causal messages delivered here, our own included.
    pub clock: Clock,
    /// Causal messages that wait for others.
    pub buffered: u64,
    /// Undecided trades that were delivered here.
    pub open: Vec<OpenTrade>,
    /// What our own undecided payments keep back.
    pub reserved: Wh,
    /// Counts since the start.
    pub stats: CausalStats,
}

/// The facts.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// How far we are.
    pub phase: Phase,
    /// One sentence.
    pub summary: String,
    /// What we wait for.
    pub missing: Option<Missing>,
    /// dstack instance id.
    pub instance_id: Option<Address>,
    /// The wallet's address.
    pub wallet: Option<Address>,
    /// The guest agent's socket.
    pub socket: String,
    /// Our registration.
    pub incarnation: Incarnation,
    /// What the evidence of this node is worth, in words.
    pub attestation: String,
    /// The contract as last read.
    pub view: Option<ChainView>,
    /// Why the chain cannot be read now.
    pub chain_trouble: Option<String>,
    /// Whom the highest known term names.
    pub leader: Option<Token>,
    /// We are the leader in office.
    pub in_office: bool,
    /// We are handing the office over: nothing new is written.
    pub pen_down: bool,
    /// We may not vote, sign or answer reads.
    pub muted: bool,
    /// Peers by token.
    pub peers: BTreeMap<Token, PeerFact>,
    /// Unix time of the leader's last heartbeat (or of our own, when we lead).
    pub leader_heard_at: Option<f64>,
    /// Trades under way.
    pub ledger: LedgerFact,
}

/// Shared facts.
#[derive(Default)]
pub struct Board(Mutex<Facts>);

impl Board {
    /// Change them.
    pub fn update<R>(&self, change: impl FnOnce(&mut Facts) -> R) -> R {
        change(&mut self.lock())
    }

    /// A copy.
    pub fn read(&self) -> Facts {
        self.lock().clone()
    }

    /// Next phase, with its sentence.
    pub fn enter(&self, phase: Phase, summary: impl Into<String>) {
        let summary = summary.into();
        self.update(|facts| {
            if facts.phase != phase || facts.summary != summary {
                tracing::info!(phase = phase.name(), "{summary}");
            }
            facts.phase = phase;
            facts.summary = summary;
            facts.missing = None;
        });
    }

    /// Waiting for something from outside.
    pub fn wait(&self, phase: Phase, missing: Missing) {
        let summary = format!(
            "waiting: {}: expected {}, found {}; {}",
            missing.what, missing.expected, missing.found, missing.remedy
        );
        self.enter(phase, summary);
        self.update(|facts| facts.missing = Some(missing));
    }

    fn lock(&self) -> MutexGuard<'_, Facts> {
        // facts are for show: a panic elsewhere must not take the API with it
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
