//! Effects that take time: transactions, votes, log entries. Each kind runs at most once at a time, so a
//! machine that asks every 20 ms asks for nothing twice; each ends by itself.

use crate::config::Config;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use synod_chain::{Chain, Wallet};
use synod_counter::{Body, Engine, MemberKey, MembersStep};
use synod_ledger::Settlement;
use synod_wire::{Certificate, ChainView, Incarnation, Term, Token, Wh};
use tokio::sync::mpsc;

/// What each member is credited once, unless the birth's winner was told otherwise: 100 credits, as in the prototype.
pub const INITIAL_CREDIT: Wh = Wh(100_000);

/// How an errand ended, for the driver.
pub enum Report {
    /// The `elect` transaction.
    Elected {
        /// Its term.
        term: Term,
        /// In a block, not reverted.
        mined: bool,
    },
    /// The contract has new seats: look.
    Seated,
    /// Something else; the facts show what.
    Done,
}

/// Runs errands.
pub struct Errands {
    config: Arc<Config>,
    incarnation: Incarnation,
    chain: Chain,
    wallet: Arc<Wallet>,
    engine: Engine,
    reports: mpsc::Sender<Report>,
    /// Terms whose certificates are on their way: the next one does not wait for the word that the last is mined.
    electing: Arc<Mutex<BTreeSet<Term>>>,
    birthing: Arc<AtomicBool>,
    seeking: Arc<AtomicBool>,
    starting: Arc<AtomicBool>,
    adopting: Arc<AtomicBool>,
    following: Arc<AtomicBool>,
    seating: Arc<AtomicBool>,
    entries: mpsc::Sender<Body>,
}

/// One log entry may take this long; then the machine asks again.
const PROPOSE_DEADLINE: Duration = Duration::from_secs(2);
/// Settlements that wait for the log. The ledger asks again for what is dropped.
const ENTRIES_MAX: usize = 1_024;
/// So many of them go to the engine at once.
const BATCH_MAX: usize = 128;
/// After a seat that the contract refused.
const SEAT_AGAIN: Duration = Duration::from_secs(1);
/// Between two looks at the engine's members.
const FOLLOW_EVERY: Duration = Duration::from_millis(50);

impl Errands {
    /// Nothing is running.
    pub fn new(
        config: Arc<Config>,
        incarnation: Incarnation,
        chain: Chain,
        wallet: Arc<Wallet>,
        engine: Engine,
        reports: mpsc::Sender<Report>,
    ) -> Self {
        let flag = || Arc::new(AtomicBool::new(false));
        let (entries, queue) = mpsc::channel(ENTRIES_MAX);
        tokio::spawn(write_in_order(engine.clone(), queue));
        Self {
            config,
            incarnation,
            chain,
            wallet,
            engine,
            reports,
            electing: Arc::default(),
            birthing: flag(),
            seeking: flag(),
            starting: flag(),
            adopting: flag(),
            following: flag(),
            seating: flag(),
            entries,
        }
    }

    /// Send the certificate; reports whether it was mined.
    pub fn elect(&self, certificate: Certificate) {
        let (chain, wallet) = (self.chain.clone(), Arc::clone(&self.wallet));
        let term = certificate.ballot.term;
        let electing = Arc::clone(&self.electing);
        if !lock(&electing).insert(term) {
            return;
        }
        let reports = self.reports.clone();
        tokio::spawn(async move {
            let mined = match chain.elect(&wallet, &certificate).await {
                Ok(sent) => {
                    tracing::info!(tx = %sent.tx, block = sent.block, "elect({term}) is mined");
                    true
                }
                Err(why) => {
                    tracing::warn!("elect({term}): {why}");
                    false
                }
            };
            lock(&electing).remove(&term);
            // a driver that has stopped needs no report
            let _ = reports.send(Report::Elected { term, mined }).await;
        });
    }

    /// Initialise the log.
    pub fn birth(&self, members: Vec<Token>) {
        let engine = self.engine.clone();
        self.run(&self.birthing, async move {
            if let Err(why) = engine.birth(&members).await {
                tracing::warn!("the log's birth: {why}");
            }
            Report::Done
        });
    }

    /// Ask the engine's voters.
    pub fn seek(&self) {
        let engine = self.engine.clone();
        self.run(&self.seeking, async move {
            if let Err(why) = engine.seek().await {
                tracing::debug!("seeking the engine's vote: {why}");
            }
            Report::Done
        });
    }

    /// Write Genesis if there is none, then TermStart with the transaction that elected us.
    pub fn start_term(&self, view: &ChainView, term: Term, voted_muted: Vec<Token>) {
        let seated = view.members.iter().filter(|m| m.active && m.seated);
        let seated = seated.map(|m| m.token).collect();
        let initial_credit = self.config.initial_credit.unwrap_or(INITIAL_CREDIT);
        let (chain, engine) = (self.chain.clone(), self.engine.clone());
        let (cluster, token, incarnation) =
            (self.config.cluster(), self.config.token, self.incarnation);
        let (block, elected_block) = (view.block, view.elected_block);
        self.run(&self.starting, async move {
            let started = async {
                let record = chain
                    .election(term, elected_block)
                    .await
                    .map_err(|why| why.to_string())?;
                let record = record
                    .ok_or_else(|| format!("no LeaderElected({term}) in block {elected_block}"))?;
                if engine.with_state(|state| state.log_id.is_none()) {
                    let genesis = Body::Genesis {
                        cluster,
                        block,
                        members: seated,
                        initial_credit,
                    };
                    engine
                        .propose(genesis, PROPOSE_DEADLINE)
                        .await
                        .map_err(|why| why.to_string())?;
                }
                let (tx, block) = (record.tx, record.block);
                let start = Body::TermStart {
                    term,
                    leader: token,
                    incarnation,
                    tx,
                    block,
                    voted_muted,
                };
                engine
                    .propose(start, PROPOSE_DEADLINE)
                    .await
                    .map_err(|why| why.to_string())
            };
            match started.await {
                Ok(committed) => {
                    tracing::info!(index = committed.index, "TermStart({term}) is committed")
                }
                Err(why) => tracing::warn!("TermStart({term}): {why}"),
            }
            Report::Done
        });
    }

    /// The log's list of sessions follows the contract's.
    pub fn adopt_roster(&self, view: &ChainView) {
        let roster_hash = view.roster_hash();
        if self
            .engine
            .with_state(|state| state.members.as_ref().map(|m| m.roster_hash))
            == Some(roster_hash)
        {
            return;
        }
        let newer = |state: &synod_counter::State| {
            state
                .members
                .as_ref()
                .is_some_and(|m| m.block.number > view.block.number)
        };
        if self.engine.with_state(newer) {
            return;
        }
        let members = view
            .members
            .iter()
            .filter(|m| m.active)
            .map(|m| MemberKey {
                token: m.token,
                incarnation: m.incarnation,
                seated: m.seated,
                session: m.session,
            })
            .collect();
        let entry = Body::Members {
            block: view.block,
            roster_hash,
            members,
        };
        let engine = self.engine.clone();
        self.run(&self.adopting, async move {
            match engine.propose(entry, PROPOSE_DEADLINE).await {
                Ok(committed) => tracing::info!(
                    index = committed.index,
                    "the log adopted roster {roster_hash}"
                ),
                Err(why) => tracing::debug!("Members: {why}"),
            }
            Report::Done
        });
    }

    /// The engine's voters follow the log's roster, a step at a time.
    pub fn follow_members(&self) {
        let engine = self.engine.clone();
        self.run(&self.following, async move {
            match engine.follow_members(PROPOSE_DEADLINE).await {
                Ok(MembersStep::Steady) => {}
                Ok(step) => tracing::debug!("the log's voters: {step:?}"),
                Err(why) => tracing::debug!("the log's voters: {why}"),
            }
            tokio::time::sleep(FOLLOW_EVERY).await;
            Report::Done
        });
    }

    /// Whoever votes in the log gets its seat in the contract: it counts in quorums from there on.
    pub fn seat(&self, view: &ChainView) {
        let voters = self.engine.view().voters;
        let standing = view.members.iter().filter(|m| m.active && !m.seated);
        let due: Vec<Token> = standing
            .map(|m| m.token)
            .filter(|token| voters.contains(token))
            .collect();
        if due.is_empty() {
            return;
        }
        let (chain, wallet) = (self.chain.clone(), Arc::clone(&self.wallet));
        self.run(&self.seating, async move {
            match chain.seat(&wallet, &due).await {
                Ok(sent) => {
                    tracing::info!(tx = %sent.tx, block = sent.block, "seated {due:?}");
                    Report::Seated
                }
                Err(why) => {
                    tracing::warn!("seat({due:?}): {why}");
                    tokio::time::sleep(SEAT_AGAIN).await;
                    Report::Done
                }
            }
        });
    }

    /// Settlements enter the log in the order in which they come here.
    pub fn settle(&self, settlement: Settlement) {
        self.write(Body::Settle(settlement));
    }

    /// An incarnation's messages beyond `last` are void.
    pub fn close_gap(&self, token: Token, incarnation: Incarnation, last: u64) {
        self.write(Body::Close {
            token,
            incarnation,
            last,
        });
    }

    fn write(&self, entry: Body) {
        if self.entries.try_send(entry).is_err() {
            tracing::debug!("the log is behind: an entry waits for its next turn");
        }
    }

    fn run(&self, busy: &Arc<AtomicBool>, errand: impl Future<Output = Report> + Send + 'static) {
        if busy.swap(true, Ordering::AcqRel) {
            return;
        }
        let (busy, reports) = (Arc::clone(busy), self.reports.clone());
        tokio::spawn(async move {
            let report = errand.await;
            busy.store(false, Ordering::Release);
            // a driver that has stopped needs no report
            let _ = reports.send(report).await;
        });
    }
}

/// A set of terms is whole whoever panicked.
fn lock(terms: &Mutex<BTreeSet<Term>>) -> MutexGuard<'_, BTreeSet<Term>> {
    terms.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One writer: what was confirmed first stands first. Several share a sync.
async fn write_in_order(engine: Engine, mut queue: mpsc::Receiver<Body>) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let bodies = std::mem::take(&mut batch);
        let names: Vec<String> = bodies.iter().map(name).collect();
        let written = engine.propose_in_order(bodies, PROPOSE_DEADLINE).await;
        for (name, outcome) in names.iter().zip(written) {
            match outcome {
                Ok(at) => tracing::debug!("entry {name} at {}: {:?}", at.index, at.outcome),
                Err(why) => tracing::debug!("entry {name}: {why}"),
            }
        }
    }
}

fn name(body: &Body) -> String {
    match body {
        Body::Settle(settlement) => format!("Settle {}", settlement.offer.id),
        other => other.name().to_owned(),
    }
}
