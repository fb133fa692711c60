//! What the node holds of the replicated log. The engine never campaigns on its own, never takes an office back
//! after a restart and writes only while the gate says that this node holds the office.

use crate::disk::OpenError;
use crate::gate::{Gate, Mute, Peer, lock};
use crate::machine::Machine;
use crate::network::{Courier, Outbound, Wires};
use crate::raft::{Raft, Types};
use crate::state::State;
use crate::store::Store;
use crate::view::{Sight, View};
use openraft::errors::{InitializeError, RaftError};
use openraft::{Config, EmptyNode, SnapshotPolicy, StepDownPolicy};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use synod_wire::{ClusterId, Term, Token};
use tokio::sync::watch;

/// How to open a log.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whose log.
    pub token: Token,
    /// Of which cluster.
    pub cluster: ClusterId,
    /// The directory; made when missing.
    pub dir: PathBuf,
    /// A leader's beat.
    pub heartbeat: Duration,
    /// Shortest election.
    pub election_min: Duration,
    /// Longest election, and the lease of a leader.
    pub election_max: Duration,
}

/// The engine cannot do that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// Only the node that the highest known term names may do this, after it claimed the office.
    #[error(
        "this node does not hold the office: only the elected leader gives birth to a log or asks for votes"
    )]
    NotInOffice,
    /// There is a log, or a vote.
    #[error("the log is born already: {0}")]
    AlreadyBorn(String),
    /// A voter set without us.
    #[error("the first voter set must contain this node")]
    NotAMember,
    /// It takes no part any more.
    #[error("the engine has stopped: {0}")]
    Stopped(String),
}

/// The replicated log. Clones are one engine.
#[derive(Clone)]
pub struct Engine(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub token: Token,
    pub cluster: ClusterId,
    pub raft: Raft,
    pub out: Arc<Outbound>,
    pub last_append: Mutex<Option<Instant>>,
    /// An election lasts at most this long.
    campaign: Duration,
    /// Who answered within this time is there.
    pub lease: Duration,
    /// Newest time given to an entry; held while an entry is handed over, so that log order is time order.
    pub stamp: tokio::sync::Mutex<u64>,
    applied: watch::Receiver<u64>,
    view: watch::Sender<View>,
    closed: watch::Sender<bool>,
}

impl Engine {
    /// Opens the log, replays it up to the saved commit index and waits for appends. Leads nobody.
    pub async fn open(
        settings: Settings,
        gate: Arc<Gate>,
        courier: Arc<dyn Courier>,
    ) -> Result<Self, OpenError> {
        let refused = |e: &dyn std::fmt::Display| OpenError::Engine(e.to_string());
        let config = Arc::new(config(&settings).validate().map_err(|e| refused(&e))?);
        let (dir, cluster, token) = (settings.dir.clone(), settings.cluster, settings.token);
        let store = tokio::task::spawn_blocking(move || Store::open(&dir, cluster, token))
            .await
            .map_err(|e| refused(&e))??;
        let state = Arc::new(Mutex::new(State::default()));
        let (applied_sender, applied) = watch::channel(0);
        let machine = Machine::new(Arc::clone(&state), applied_sender);
        let out = Arc::new(Outbound {
            courier,
            gate,
            store: store.clone(),
            state,
            office: Mutex::new(None),
            fault: Mutex::new(None),
            asked_until: Mutex::new(None),
            unasked: AtomicU64::new(0),
        });
        let raft = Raft::new(
            settings.token.0,
            config,
            Wires(Arc::clone(&out)),
            store,
            machine,
        )
        .await;
        let raft = raft.map_err(|e| refused(&e))?;
        let engine = Self(Arc::new(Inner {
            token: settings.token,
            cluster: settings.cluster,
            raft,
            out,
            last_append: Mutex::new(None),
            campaign: settings.election_max * 2,
            lease: settings.election_max,
            stamp: tokio::sync::Mutex::new(0),
            applied,
            view: watch::channel(View::default()).0,
            closed: watch::channel(false).0,
        }));
        engine.0.publish();
        tokio::spawn(follow(Arc::downgrade(&engine.0)));
        Ok(engine)
    }

    /// Told after each change that matters.
    pub fn watch(&self) -> watch::Receiver<View> {
        self.0.view.subscribe()
    }

    /// With ages as of now.
    pub fn view(&self) -> View {
        self.0.look()
    }

    /// Upon the first election, its winner – nobody else ever – makes the log. The engine campaigns at once.
    pub async fn birth(&self, members: &[Token]) -> Result<(), EngineError> {
        self.0.in_office()?;
        if !members.contains(&self.0.token) {
            return Err(EngineError::NotAMember);
        }
        let voters: BTreeMap<u64, EmptyNode> =
            members.iter().map(|t| (t.0, EmptyNode::new())).collect();
        self.0.ask();
        match self.0.raft.initialize(voters).await {
            Ok(()) => Ok(()),
            Err(RaftError::APIError(InitializeError::NotAllowed(why))) => {
                Err(EngineError::AlreadyBorn(why.to_string()))
            }
            Err(RaftError::APIError(InitializeError::NotInMembers(_))) => {
                Err(EngineError::NotAMember)
            }
            Err(RaftError::Fatal(why)) => Err(EngineError::Stopped(why.to_string())),
        }
    }

    /// Asks for votes once, pre-vote first; says nothing about the result. Repeat it until won or overtaken.
    pub async fn seek(&self) -> Result<(), EngineError> {
        self.0.in_office()?;
        self.0.ask();
        // never without pre-vote: a plain election of a stale node deposes a healthy leader
        self.0
            .raft
            .trigger()
            .elect(true)
            .await
            .map_err(|e| EngineError::Stopped(e.to_string()))
    }

    /// Term and newest block that our requests name from now on; `None` = we send none.
    pub fn claim(&self, office: Option<(Term, u64)>) {
        *lock(&self.0.out.office) = office;
    }

    /// Look at what the log says.
    pub fn with_state<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&lock(&self.0.out.state))
    }

    /// Upon a request that came over a link, the answer to send back; it may be a refusal.
    pub async fn answer(&self, from: Peer, request: &[u8]) -> Vec<u8> {
        crate::answer::answer(&self.0, from, request).await
    }

    /// A member came back with a new incarnation: its disk may be older than what it acknowledged. Only the leader's
    /// engine cares; the next conflict of this member is repaired instead of taken for a fault.
    pub fn readmit(&self, token: Token) {
        let raft = self.0.raft.clone();
        tokio::spawn(async move {
            // not the leader, or nobody that gets the log (voter or learner): there is nothing to allow
            if let Ok(Err(why)) = raft.trigger().allow_next_revert(&token.0, true).await {
                tracing::debug!(%token, %why, "no replication to allow a revert for");
            }
        });
    }

    /// Votes that the engine wanted to send without birth or seek; they were held back. Must stay 0.
    pub fn unasked_elections(&self) -> u64 {
        self.0.out.unasked.load(Ordering::Relaxed)
    }

    /// How often the log's file was flushed since it was opened: entries that come together share one.
    pub fn flushes(&self) -> u64 {
        self.0.out.store.flushes()
    }

    /// Stops the engine, flushes and lets go of the file.
    pub async fn close(&self) {
        self.claim(None);
        self.0.closed.send_replace(true);
        if let Err(why) = self.0.raft.shutdown().await {
            tracing::warn!(%why, "the engine did not stop in order");
        }
        self.0.out.store.close().await;
    }
}

fn config(settings: &Settings) -> Config {
    let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    Config {
        cluster_name: settings.cluster.to_string(),
        heartbeat_interval: ms(settings.heartbeat),
        election_timeout_min: ms(settings.election_min),
        election_timeout_max: ms(settings.election_max),
        snapshot_policy: SnapshotPolicy::Never,
        // the contract decides who campaigns
        enable_elect: false,
        // a restarted leader asks for votes like everybody else (attack F1)
        enable_leader_restore: Some(false),
        // it would hand over without the contract
        removed_leader_step_down: StepDownPolicy::Never,
        // one member at a time, see `Engine::readmit`
        allow_log_reversion: Some(false),
        max_payload_entries: 256,
        ..Config::default()
    }
}

impl Inner {
    pub fn in_office(&self) -> Result<(), EngineError> {
        let claimed = lock(&self.out.office).map(|(term, _)| term);
        // our own engine grants its own vote without asking the gate: a muted one must not even ask
        let may_vote = self.out.gate.read(|standing| standing.mute != Mute::Muted);
        if may_vote && claimed.is_some() && claimed == self.out.gate.office() {
            Ok(())
        } else {
            Err(EngineError::NotInOffice)
        }
    }

    fn ask(&self) {
        *lock(&self.out.asked_until) = Some(Instant::now() + self.campaign);
    }

    pub fn stop_taking_part(&self, why: String) {
        lock(&self.out.fault).get_or_insert(why);
        *lock(&self.out.office) = None;
        self.publish();
    }

    /// The engine's own view of itself.
    pub fn metrics(&self) -> openraft::RaftMetrics<Types> {
        openraft::async_runtime::watch::WatchReceiver::borrow_watched(&self.raft.metrics()).clone()
    }

    pub fn look(&self) -> View {
        let sight = Sight {
            durable: *self.out.store.durable().borrow(),
            applied: *self.applied.borrow(),
            last_append: *lock(&self.last_append),
            fault: lock(&self.out.fault).clone(),
        };
        View::of(
            &openraft::async_runtime::watch::WatchReceiver::borrow_watched(&self.raft.metrics()),
            sight,
        )
    }

    fn publish(&self) {
        let view = self.look();
        self.view.send_if_modified(|old| {
            let changed = view.is_news(old);
            *old = view;
            changed
        });
    }
}

/// Publishes a view after each change, until the engine is closed or dropped.
async fn follow(engine: Weak<Inner>) {
    let Some((mut metrics, mut durable, mut applied, mut closed)) = engine.upgrade().map(|e| {
        (
            e.raft.metrics(),
            e.out.store.durable(),
            e.applied.clone(),
            e.closed.subscribe(),
        )
    }) else {
        return;
    };
    loop {
        let more = tokio::select! {
            changed = openraft::async_runtime::watch::WatchReceiver::changed(&mut metrics) => changed.is_ok(),
            changed = durable.changed() => changed.is_ok(),
            changed = applied.changed() => changed.is_ok(),
            _ = closed.changed() => false,
        };
        let Some(engine) = engine.upgrade() else {
            return;
        };
        engine.publish();
        if !more {
            return;
        }
    }
}

/// Unix milliseconds: what entries are stamped with and what stamps are compared to.
pub(crate) fn wall_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What the engine's types are called inside, for the compiler's sake.
const _: fn() = || {
    fn send_sync<T: Send + Sync>() {}
    send_sync::<Engine>();
    send_sync::<openraft::RaftMetrics<Types>>();
};
