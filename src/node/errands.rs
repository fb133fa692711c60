//! Effects that take time: transactions, votes, log entries. Each kind runs at most once at a time, so a
//! machine that asks every 20 ms asks for nothing twice; each ends by itself.

use crate::config::Config;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use synod_chain::{Chain, Wallet};
use synod_counter::{Body, Engine, MemberKey};
use synod_wire::{Certificate, ChainView, Incarnation, Term, Token};
use tokio::sync::mpsc;

/// How an errand ended, for the driver.
pub enum Report {
    /// The `elect` transaction.
    Elected {
        /// Its term.
        term: Term,
        /// In a block, not reverted.
        mined: bool,
    },
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
    electing: Arc<AtomicBool>,
    birthing: Arc<AtomicBool>,
    seeking: Arc<AtomicBool>,
    starting: Arc<AtomicBool>,
    adopting: Arc<AtomicBool>,
}

/// One log entry may take this long; then the machine asks again.
const PROPOSE_DEADLINE: Duration = Duration::from_secs(2);

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
        Self {
            config,
            incarnation,
            chain,
            wallet,
            engine,
            reports,
            electing: flag(),
            birthing: flag(),
            seeking: flag(),
            starting: flag(),
            adopting: flag(),
        }
    }

    /// Send the certificate; reports whether it was mined.
    pub fn elect(&self, certificate: Certificate) {
        let (chain, wallet) = (self.chain.clone(), Arc::clone(&self.wallet));
        let term = certificate.ballot.term;
        self.run(&self.electing, async move {
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
            Report::Elected { term, mined }
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
    pub fn start_term(
        &self,
        view: &ChainView,
        term: Term,
        voted_muted: Vec<Token>,
        seated: Vec<Token>,
    ) {
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
