//! The engine's requests on their way out. They name the office that the node claims; without a claim none leaves.
//! Counts votes that nobody asked for: the contract decides who is elected, so there must be none.

use crate::gate::{Gate, lock};
use crate::machine::NoSnapshot;
use crate::raft::{Types, Vote};
use crate::request::{Answer, Ask, Request, decode, encode};
use crate::state::State;
use crate::store::Store;
use futures_util::future::BoxFuture;
use openraft::alias::SnapshotOf;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, OptionalSend};
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use synod_wire::{Term, Token};

/// A peer that refused or did not answer is asked again after this.
const BACKOFF: Duration = Duration::from_millis(50);

/// Carries bytes to a member over its link.
pub trait Courier: Send + Sync + 'static {
    /// One request, one answer, or an error at the deadline.
    fn call(
        &self,
        to: Token,
        request: Vec<u8>,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Vec<u8>, CourierError>>;
}

/// A request did not get its answer.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct CourierError(String);

impl CourierError {
    /// In words.
    pub fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

/// What all outgoing links of one engine share.
pub struct Outbound {
    pub courier: Arc<dyn Courier>,
    pub gate: Arc<Gate>,
    pub store: Store,
    pub state: Arc<Mutex<State>>,
    /// Term and block that our requests name.
    pub office: Mutex<Option<(Term, u64)>>,
    /// Why we stopped taking part.
    pub fault: Mutex<Option<String>>,
    /// Votes sent before this instant were asked for.
    pub asked_until: Mutex<Option<Instant>>,
    pub unasked: AtomicU64,
}

impl Outbound {
    /// Is the engine's election one that birth or seek asked for?
    fn asked(&self) -> bool {
        let asked = lock(&self.asked_until).is_some_and(|until| Instant::now() < until);
        if !asked {
            self.unasked.fetch_add(1, Ordering::Relaxed);
            tracing::error!(
                "the engine campaigns although nobody asked for it: its vote is held back, report this"
            );
        }
        asked
    }

    async fn send(&self, to: Token, ask: Ask, ttl: Duration) -> Result<Answer, String> {
        if let Some(why) = lock(&self.fault).clone() {
            return Err(why);
        }
        let Some((term, block)) = *lock(&self.office) else {
            return Err("this node claims no office, so it asks for nothing".to_owned());
        };
        let prev_hash = match &ask {
            Ask::Append(AppendEntriesRequest {
                prev_log_id: Some(prev),
                ..
            }) => {
                let at = self.store.at(prev.index).map_err(|e| e.to_string())?;
                at.filter(|(id, _)| id == prev).map(|(_, hash)| hash)
            }
            _ => None,
        };
        let request = Request {
            term,
            block,
            log_id: lock(&self.state).log_id,
            prev_hash,
            ask,
        };
        let bytes = self
            .courier
            .call(to, encode(&request), ttl)
            .await
            .map_err(|e| e.to_string())?;
        let answer =
            decode::<Answer>(&bytes).map_err(|e| format!("token {to} answered nonsense: {e}"))?;
        if let Answer::Refused {
            reason,
            why,
            deposed,
        } = &answer
        {
            if let Some((term, _)) = deposed {
                self.gate.heard(*term);
            }
            return Err(format!("token {to} refused ({reason}): {why}"));
        }
        Ok(answer)
    }
}

/// Makes links for the engine.
pub struct Wires(pub Arc<Outbound>);

impl RaftNetworkFactory<Types> for Wires {
    type Network = Wire;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> Wire {
        Wire {
            out: Arc::clone(&self.0),
            to: Token(target),
        }
    }
}

/// To one peer.
pub struct Wire {
    out: Arc<Outbound>,
    to: Token,
}

fn unreachable(why: String) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::from_string(why))
}

impl Wire {
    async fn ask_vote(
        &self,
        ask: Ask,
        option: &RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        if !self.out.asked() {
            return Err(unreachable("nobody asked for this election".to_owned()));
        }
        match self.out.send(self.to, ask, option.soft_ttl()).await {
            Ok(Answer::Vote(answer)) => Ok(answer),
            Ok(_) => Err(unreachable(format!(
                "token {} answered something else than a vote",
                self.to
            ))),
            Err(why) => Err(unreachable(why)),
        }
    }
}

impl RaftNetworkV2<Types> for Wire {
    type SnapshotData = NoSnapshot;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        match self
            .out
            .send(self.to, Ask::Append(rpc), option.soft_ttl())
            .await
        {
            Ok(Answer::Append(answer)) => Ok(answer),
            Ok(_) => Err(unreachable(format!(
                "token {} answered something else than an append",
                self.to
            ))),
            Err(why) => Err(unreachable(why)),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_vote(Ask::Vote(rpc), &option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_vote(Ask::PreVote(rpc), &option).await
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote,
        _snapshot: SnapshotOf<Types, NoSnapshot>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let why = "snapshots arrive with the Log issue";
        Err(StreamingError::Unreachable(Unreachable::from_string(why)))
    }

    async fn transfer_leader(
        &mut self,
        _req: TransferLeaderRequest<Types>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        Err(unreachable(
            "the engine's hand-over arrives with a later issue".to_owned(),
        ))
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(BACKOFF)))
    }
}
