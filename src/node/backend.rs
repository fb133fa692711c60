//! What the API shows of this node: facts, log and counts, put together by hand. Shows, never decides: it starts
//! increments and passes wishes, calls for elections and farewells on; the log and the machines decide.

mod describe;
mod trades;

use crate::clock::wall_seconds;
use crate::config::Config;
use crate::desk::Desk;
use crate::facts::{Board, Facts};
use crate::http::{Backend, IncrementRefused, LeaderHint, TradeRefused, types};
use crate::links::Links;
use crate::metrics::Metrics;
use describe::{missing, operation, state};
use futures_util::future::{BoxFuture, FutureExt};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use synod_chain::Wallet;
use synod_counter::{Body, Engine, Gate, Outcome, ProposeError};
use synod_wire::Address;
use synod_wire::message::Role;
use tokio::sync::broadcast;

/// An increment that is not applied by then is answered with "unknown".
const INCREMENT_DEADLINE: Duration = Duration::from_secs(5);
const RETRY_AFTER_S: u64 = 1;

/// Parts that exist only after the registration.
struct Late {
    engine: Engine,
    gate: Arc<Gate>,
    wallet: Arc<Wallet>,
}

/// The API's view of one node.
pub struct NodeBackend {
    config: Arc<Config>,
    board: Arc<Board>,
    metrics: Arc<Metrics>,
    desk: Arc<Desk>,
    late: OnceLock<Late>,
}

impl NodeBackend {
    /// Before the registration: phase, wallet and what is missing can be shown already.
    pub fn new(
        config: Arc<Config>,
        board: Arc<Board>,
        metrics: Arc<Metrics>,
        desk: Arc<Desk>,
    ) -> Self {
        Self {
            config,
            board,
            metrics,
            desk,
            late: OnceLock::new(),
        }
    }

    /// Registered: the log can be shown and written.
    pub fn connect(&self, engine: Engine, links: Links, gate: Arc<Gate>, wallet: Arc<Wallet>) {
        self.metrics.follow_links(links);
        // once per boot; a second call would change nothing
        let _ = self.late.set(Late {
            engine,
            gate,
            wallet,
        });
    }

    fn instance(facts: &Facts) -> String {
        facts
            .instance_id
            .map(|id| hex::encode(id.0))
            .unwrap_or_default()
    }

    fn hint(&self, facts: &Facts) -> Option<LeaderHint> {
        let leader = facts.leader?;
        let member = facts.view.as_ref()?.member(leader)?;
        let url = facts
            .peers
            .get(&leader)
            .and_then(|peer| peer.beat.as_ref())
            .map(|beat| format!("http://{}", beat.http));
        Some(LeaderHint {
            token: leader.0,
            wallet: member.wallet.to_string(),
            url,
        })
    }

    fn chain(&self, facts: &Facts) -> types::Chain {
        types::Chain {
            chain_id: self.config.chain_id,
            contract: self.config.contract.to_string(),
            rpc: self.config.rpc_shown(),
            block: facts.view.as_ref().map(|view| view.block.number),
            reachable: facts.view.is_some() && facts.chain_trouble.is_none(),
            why: facts.chain_trouble.clone(),
        }
    }

    /// Metrics show what `/status` shows: told from the same facts at the same moment.
    fn show(&self, facts: &Facts) {
        let engine = self.late.get().map(|late| &late.engine);
        if let Some(late) = self.late.get() {
            self.metrics.show_gate(late.gate.refusals());
        }
        let value = engine.map_or(0, |engine| engine.with_state(|state| state.value));
        self.metrics.show(|shown| {
            shown.counter_value = value;
            shown.term = facts.view.as_ref().map_or(0, |view| view.term.0);
            shown.is_leader = facts.in_office;
            shown.muted = facts.muted;
            shown.members = facts.view.as_ref().map_or(0, |view| {
                view.members.iter().filter(|m| m.active).count() as u64
            });
            shown.unasked_elections = engine.map_or(0, Engine::unasked_elections);
            shown.chain_block = facts.view.as_ref().map_or(0, |view| view.block.number);
            shown.chain_reachable = facts.chain_trouble.is_none();
            shown.applied_index = engine.map_or(0, |engine| engine.view().applied);
        });
    }
}

fn text_keys(counts: BTreeMap<&'static str, u64>) -> BTreeMap<String, u64> {
    counts
        .into_iter()
        .map(|(reason, count)| (reason.to_owned(), count))
        .collect()
}

impl Backend for NodeBackend {
    fn status(&self) -> types::Status {
        let facts = self.board.read();
        self.show(&facts);
        let counted = self.metrics.counted();
        let mut status = types::Status {
            instance_id: Self::instance(&facts),
            token_id: self.config.token.0,
            wallet_address: facts
                .wallet
                .map(|wallet| wallet.to_string())
                .unwrap_or_default(),
            host_key_address: facts
                .wallet
                .map(|wallet| wallet.to_string())
                .unwrap_or_default(),
            is_leader: facts.in_office,
            current_leader: Address::ZERO.to_string(),
            leader_token: facts.leader.map(|token| token.0),
            last_leader_heartbeat: facts.leader_heard_at,
            incarnation: facts.incarnation.0,
            muted: facts.muted,
            phase: facts.phase.name().to_owned(),
            summary: facts.summary.clone(),
            missing: facts.missing.iter().map(missing).collect(),
            chain: self.chain(&facts),
            frames: types::Frames {
                sent: counted.sent,
                received: counted.received,
                by_way: counted.by_way,
                refused: counted.refused,
            },
            links: types::Links {
                open: counted.links.open,
                accepted: counted.links.accepted + counted.links.dialled,
                refused: text_keys(counted.links.refused),
            },
            ledger: trades::causal(&facts.ledger.stats),
            attestation: facts.attestation.clone(),
            ..types::Status::default()
        };
        if let Some(view) = &facts.view {
            let own = view.members.iter().find(|m| m.token == self.config.token);
            status.name = own.map(|m| m.name.clone()).unwrap_or_default();
            status.total_active_nodes = view.members.iter().filter(|m| m.active).count() as u64;
            status.required_votes = view.quorum();
            status.term = view.term.0;
            if let Some(leader) = facts.leader.and_then(|token| view.member(token)) {
                status.current_leader = leader.wallet.to_string();
            }
        }
        if let Some(late) = self.late.get() {
            late.describe(&mut status);
        }
        status
    }

    fn members(&self) -> types::Members {
        let facts = self.board.read();
        let Some(view) = &facts.view else {
            return types::Members::default();
        };
        let member = |m: &synod_wire::Member| {
            let peer = facts.peers.get(&m.token);
            let beat = peer.and_then(|peer| peer.beat.as_ref());
            let own = m.token == self.config.token;
            types::Member {
                token_id: m.token.0,
                name: m.name.clone(),
                instance_id: hex::encode(m.instance_id.0),
                wallet_address: m.wallet.to_string(),
                incarnation: m.incarnation.0,
                seated: m.seated,
                state: state(own, peer).to_owned(),
                muted: if own {
                    facts.muted
                } else {
                    beat.is_some_and(|beat| beat.muted)
                },
                http: if own {
                    Some(self.config.http.to_string())
                } else {
                    beat.map(|beat| beat.http.clone())
                },
                endpoint: m.endpoint.clone(),
                last_heard_ms: peer.and_then(|peer| peer.age_ms),
                is_leader: if own {
                    facts.in_office
                } else {
                    facts.leader == Some(m.token)
                        && beat.is_some_and(|beat| beat.role == Role::Leader)
                },
            }
        };
        let members: Vec<types::Member> = view
            .members
            .iter()
            .filter(|m| m.active)
            .map(member)
            .collect();
        types::Members {
            active_instances: members.iter().map(|m| m.instance_id.clone()).collect(),
            total_active: members.len() as u64,
            members,
        }
    }

    fn readable(&self) -> Result<(), String> {
        let facts = self.board.read();
        if facts.summary.is_empty() {
            Err("this node is starting".to_owned())
        } else if self.late.get().is_none() || facts.muted {
            Err(facts.summary)
        } else {
            Ok(())
        }
    }

    fn counter(&self) -> types::Counter {
        let facts = self.board.read();
        let (value, applied_index) = self.late.get().map_or((0, 0), |late| {
            late.engine
                .with_state(|state| (state.value, state.applied_index))
        });
        types::Counter {
            value,
            instance_id: Self::instance(&facts),
            is_leader: facts.in_office,
            applied_index,
        }
    }

    fn log(&self, from: u64, limit: u32) -> types::LogPage {
        let Some(late) = self.late.get() else {
            return types::LogPage::default();
        };
        late.engine.with_state(|state| {
            let total = state.operations.len();
            let start = usize::try_from(from).unwrap_or(usize::MAX).min(total);
            let end = start.saturating_add(limit as usize).min(total);
            let operations = state
                .operations
                .get(start..end)
                .unwrap_or_default()
                .iter()
                .map(operation)
                .collect();
            let next = (end < total).then_some(end as u64);
            types::LogPage {
                operations,
                total_operations: total as u64,
                next,
            }
        })
    }

    fn increment(&self) -> BoxFuture<'static, Result<types::Incremented, IncrementRefused>> {
        let facts = self.board.read();
        let unavailable = |why: &str| IncrementRefused::Unavailable {
            why: why.to_owned(),
            retry_after_s: RETRY_AFTER_S,
        };
        let Some(late) = self.late.get() else {
            return futures_util::future::ready(Err(unavailable(&facts.summary))).boxed();
        };
        let leads = facts.leader == Some(self.config.token);
        if !leads {
            let leader = self.hint(&facts);
            return futures_util::future::ready(Err(IncrementRefused::NotLeader { leader }))
                .boxed();
        }
        if facts.pen_down {
            return futures_util::future::ready(Err(unavailable(
                "this leader is handing its office over",
            )))
            .boxed();
        }
        if !facts.in_office {
            return futures_util::future::ready(Err(unavailable(
                "elected, but the log has not confirmed it yet",
            )))
            .boxed();
        }
        let (engine, leader) = (late.engine.clone(), late.wallet.address());
        async move {
            match engine
                .propose(Body::Increment { leader }, INCREMENT_DEADLINE)
                .await
            {
                Ok(committed) => incremented(&engine, committed.index, committed.outcome),
                Err(ProposeError::NotLeader { .. }) => {
                    Err(IncrementRefused::NotLeader { leader: None })
                }
                Err(ProposeError::Unavailable { why }) => Err(IncrementRefused::Unavailable {
                    why,
                    retry_after_s: RETRY_AFTER_S,
                }),
                Err(ProposeError::Unknown { why }) => Err(IncrementRefused::Unknown { why }),
            }
        }
        .boxed()
    }

    fn balances(&self) -> types::Balances {
        trades::balances(self, &self.board.read())
    }

    fn trades(&self, from: u64, limit: u32) -> types::TradesPage {
        let late = self.late.get();
        late.map_or_else(types::TradesPage::default, |late| {
            trades::page(late, &self.board.read(), from, limit)
        })
    }

    fn clock(&self) -> types::ClockView {
        trades::clock(&self.board.read())
    }

    fn trade(
        &self,
        wish: types::TradeWish,
    ) -> BoxFuture<'static, Result<types::TradeEnd, TradeRefused>> {
        let facts = self.board.read();
        if let Err(why) = self.readable() {
            let refused = TradeRefused::Unavailable {
                why,
                retry_after_s: RETRY_AFTER_S,
            };
            return futures_util::future::ready(Err(refused)).boxed();
        }
        let active = trades::active(self, &facts);
        trades::trade(Arc::clone(&self.desk), active, wish).boxed()
    }

    fn peers(&self) -> types::Peers {
        let facts = self.board.read();
        let beats = facts.peers.values().filter_map(|peer| peer.beat.as_ref());
        let peers: Vec<String> = beats.map(|beat| format!("http://{}", beat.http)).collect();
        types::Peers {
            count: peers.len() as u64,
            peers,
            timestamp: wall_seconds(),
            instance_id: Self::instance(&facts),
        }
    }

    fn info(&self) -> types::Info {
        let facts = self.board.read();
        types::Info {
            instance_id: Self::instance(&facts),
            connection_url: format!("http://{}", self.config.http),
            contract_address: self.config.contract.to_string(),
            rpc_url: self.config.rpc_shown(),
            registered: facts.incarnation.0 > 0,
            timestamp: wall_seconds(),
        }
    }

    fn wallet_info(&self) -> types::WalletInfo {
        let facts = self.board.read();
        let instance = Self::instance(&facts);
        let address = facts.wallet.map(|w| w.to_string()).unwrap_or_default();
        types::WalletInfo {
            kind: "dstack".to_owned(),
            address: address.clone(),
            key_path: format!("synod/wallet/{instance}/<salt>"),
            key_purpose: format!(
                "synod-v1:{}:{}:{instance}",
                self.config.chain_id, self.config.contract
            ),
            socket: facts.socket.clone(),
            host_key_address: address,
            instance_id: instance,
        }
    }

    fn metrics(&self) -> String {
        self.show(&self.board.read());
        self.metrics.render()
    }

    fn call_election(&self) -> BoxFuture<'static, Result<String, String>> {
        let desk = Arc::clone(&self.desk);
        async move { desk.call_election().await }.boxed()
    }

    fn lines(&self) -> (Vec<String>, broadcast::Receiver<String>) {
        self.desk.lines()
    }

    fn quit(&self) {
        self.desk.quit();
    }
}

fn incremented(
    engine: &Engine,
    index: u64,
    outcome: Outcome,
) -> Result<types::Incremented, IncrementRefused> {
    match outcome {
        Outcome::Incremented {
            new_value,
            operation_id,
        } => {
            let term = engine.with_state(|state| state.term.as_ref().map_or(0, |t| t.term.0));
            Ok(types::Incremented {
                success: true,
                new_value,
                operation_id,
                index,
                term,
            })
        }
        Outcome::Refused(alarm) => Err(IncrementRefused::Unavailable {
            why: alarm.to_string(),
            retry_after_s: RETRY_AFTER_S,
        }),
        _ => unreachable!("an increment is applied as an increment or refused"),
    }
}
