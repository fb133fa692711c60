//! The loop: everything that happens to a registered node comes in here, goes through the pure machine of
//! `cluster`, and leaves as effects that are performed in one place. The driver decides nothing.

use crate::book::Book;
use crate::boot::{Identity, Membership};
use crate::clock::{Clock, wall_seconds};
use crate::config::Config;
use crate::errands::{Errands, Report};
use crate::facts::{Board, PeerFact, Phase};
use crate::links::LinkPeer;
use crate::metrics::Metrics;
use crate::udp::{Datagram, Udp};
use crate::watcher::Sight;
use std::net::SocketAddr;
use std::sync::Arc;
use synod_cluster::{Cluster, Effect, EngineFacts, Event, Health, Mute, Notice};
use synod_counter::{Engine, Gate, Role as EngineRole};
use synod_wire::seal::{Opener, Refused, Sealer, Windows};
use synod_wire::{ChainView, Message, Token};
use tokio::sync::{Notify, mpsc, watch};

/// How often the facts for people are renewed.
const PUBLISH_EVERY_MS: u64 = 50;

/// A frame that does not verify may make us read the chain this often, and no oftener.
const STRANGER_LOOK_MS: u64 = 300;

/// Why the loop ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Asked to stop.
    Stopped,
    /// Another boot of this token has registered, or the token's rights ended.
    Fenced(String),
}

/// Everything the loop holds.
pub struct Driver {
    pub(crate) config: Arc<Config>,
    pub(crate) identity: Arc<Identity>,
    pub(crate) membership: Membership,
    pub(crate) board: Arc<Board>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Clock,
    pub(crate) book: Arc<Book>,
    pub(crate) engine: Engine,
    pub(crate) gate: Arc<Gate>,
    pub(crate) udp: Arc<Udp>,
    pub(crate) cluster: Cluster,
    pub(crate) sealer: Sealer,
    pub(crate) opener: Opener,
    pub(crate) windows: Windows,
    pub(crate) errands: Errands,
    pub(crate) look: Arc<Notify>,
    pub(crate) view: ChainView,
    pub(crate) published_at: u64,
    pub(crate) stranger_look_at: u64,
}

/// Where events come from.
pub struct Sources {
    /// Frames over UDP.
    pub datagrams: mpsc::Receiver<Datagram>,
    /// Frames over links.
    pub frames: mpsc::Receiver<(LinkPeer, Vec<u8>)>,
    /// The contract.
    pub sights: mpsc::Receiver<Sight>,
    /// Ends of errands.
    pub reports: mpsc::Receiver<Report>,
    /// True = stop.
    pub stop: watch::Receiver<bool>,
}

impl Driver {
    /// Until told to stop, or fenced.
    pub async fn run(mut self, mut from: Sources) -> Ended {
        let first = self.membership.view.clone();
        let mut ended = self.see(first);
        while ended.is_none() {
            let deadline = self.clock.at(self.cluster.deadline());
            tokio::select! {
                () = tokio::time::sleep_until(deadline) => {}
                Some(datagram) = from.datagrams.recv() => self.hear(&datagram.bytes, Some(datagram.from)),
                Some((_, frame)) = from.frames.recv() => self.hear(&frame, None),
                Some(sight) = from.sights.recv() => ended = self.sight(sight),
                Some(report) = from.reports.recv() => self.report(report),
                changed = from.stop.changed() => {
                    if changed.is_err() || *from.stop.borrow() {
                        ended = Some(Ended::Stopped);
                    }
                }
            }
            self.tick();
            self.perform().await;
            self.publish();
        }
        self.leave().await;
        ended.unwrap_or(Ended::Stopped)
    }

    fn tick(&mut self) {
        let now = self.clock.now_ms();
        if now >= self.cluster.deadline() {
            let facts = self.engine_facts();
            self.cluster.handle(now, Event::Tick(facts));
        }
        self.stand();
    }

    fn engine_facts(&self) -> EngineFacts {
        let view = self.engine.view();
        let lease = view
            .quorum_ack_age_ms
            .is_some_and(|age| age < self.config.timing.fail_ms);
        let log_term = self
            .engine
            .with_state(|state| state.term.as_ref().map(|t| (t.term, t.leader)));
        EngineFacts {
            position: view.position,
            committed: view.committed,
            applied: view.applied,
            born: view.born,
            leading: view.role == EngineRole::Leader && lease,
            append_age_ms: view.append_age_ms,
            log_term,
        }
    }

    /// A datagram or a frame over a link: the same checks for both.
    fn hear(&mut self, bytes: &[u8], from: Option<SocketAddr>) {
        match self
            .opener
            .open(bytes, self.book.as_ref(), &mut self.windows)
        {
            Ok(frame) => {
                self.metrics.frame_received(frame.value().kind());
                if let Some(address) = from {
                    self.book.learn(frame.from(), address);
                }
                let now = self.clock.now_ms();
                self.cluster.handle(now, Event::Frame(frame));
            }
            Err(Refused::NotForMe { token, .. }) if token == self.config.token => {} // our own multicast
            Err(why) => {
                self.metrics.frame_refused(why.label());
                // a stranger's datagram costs us a look now and then
                let now = self.clock.now_ms();
                let due = now >= self.stranger_look_at;
                let newer = matches!(&why, Refused::OtherIncarnation { expected, found, .. } if found > expected);
                if due && (newer || matches!(why, Refused::UnknownSender { .. })) {
                    self.stranger_look_at = now + STRANGER_LOOK_MS;
                    self.look.notify_one();
                }
                tracing::debug!("{why}");
            }
        }
    }

    fn sight(&mut self, sight: Sight) -> Option<Ended> {
        match sight {
            Sight::View(view) => self.see(*view),
            Sight::Trouble(why) => {
                tracing::warn!(
                    "the chain cannot be read: {why}; the leader goes on, nobody can be elected"
                );
                let now = self.clock.now_ms();
                self.cluster.handle(now, Event::ChainSilent);
                self.board.update(|facts| facts.chain_trouble = Some(why));
                None
            }
        }
    }

    /// The contract was read.
    fn see(&mut self, view: ChainView) -> Option<Ended> {
        self.board.update(|facts| facts.chain_trouble = None);
        // an endpoint that goes back shows yesterday's sessions
        if view.block.number < self.view.block.number {
            return None;
        }
        if let Some(reason) = self.fenced(&view) {
            return Some(Ended::Fenced(reason));
        }
        for m in &view.members {
            let before = self.view.member(m.token).map(|old| old.incarnation);
            if before.is_some_and(|old| old < m.incarnation) && m.token != self.config.token {
                self.engine.readmit(m.token);
            }
        }
        self.book.follow(&view);
        let roster = view.roster_hash();
        self.gate.update(|standing| {
            // `Gate::update` keeps the newest of them
            if standing.confirmed_rosters.back() != Some(&roster) {
                standing.confirmed_rosters.push_back(roster);
            }
        });
        self.view = view.clone();
        let now = self.clock.now_ms();
        self.cluster.handle(now, Event::Chain(view));
        self.stand();
        None
    }

    fn fenced(&self, view: &ChainView) -> Option<String> {
        let (token, ours) = (self.config.token, self.membership.incarnation);
        match view.member(token) {
            None => Some(format!(
                "token {token} is no longer active on the contract (sold, deactivated or expired)"
            )),
            Some(m) if m.incarnation > ours => {
                let newer = m.incarnation;
                Some(format!(
                    "incarnation {newer} of token {token} has registered; this one is {ours}: only one may run"
                ))
            }
            Some(_) => None,
        }
    }

    /// What the gate before the engine goes by, and what our own engine names as its office.
    fn stand(&mut self) {
        let cluster = &self.cluster;
        self.gate.update(|standing| {
            standing.term = cluster.highest_term();
            standing.leader = cluster.leader();
            standing.block = self.view.block.number;
            standing.incarnations = self
                .view
                .members
                .iter()
                .filter(|m| m.active)
                .map(|m| (m.token, m.incarnation))
                .collect();
            standing.mute = match cluster.mute() {
                Mute::Unmuted => synod_counter::Mute::Unmuted,
                Mute::Muted { .. } => synod_counter::Mute::Muted,
                Mute::ColdStart { .. } => synod_counter::Mute::ColdStart,
            };
            standing.promise = cluster.promise().map(|p| synod_counter::Promise {
                term: p.term,
                until_ms: p.until_ms,
            });
        });
        let may_vote = self.cluster.mute().may_vote();
        self.engine.claim(
            self.cluster
                .won()
                .filter(|_| may_vote)
                .map(|term| (term, self.view.block.number)),
        );
    }

    fn report(&mut self, report: Report) {
        match report {
            Report::Elected { term, mined } => {
                self.look.notify_one();
                let now = self.clock.now_ms();
                self.cluster.handle(now, Event::Elected { term, mined });
            }
            Report::Done => {}
        }
    }

    async fn perform(&mut self) {
        while let Some(effect) = self.cluster.poll() {
            match effect {
                Effect::Send { to, message } => self.send(to, &message).await,
                Effect::Elect(certificate) => self.errands.elect(certificate),
                Effect::Birth(members) => self.errands.birth(members),
                Effect::Seek => self.errands.seek(),
                Effect::StartTerm { term, voted_muted } => {
                    let seated = self
                        .view
                        .members
                        .iter()
                        .filter(|m| m.active && m.seated)
                        .map(|m| m.token)
                        .collect();
                    self.errands
                        .start_term(&self.view, term, voted_muted, seated);
                }
                Effect::LookAtChain => self.look.notify_one(),
                Effect::Notice(notice) => self.say(&notice),
            }
        }
        if self.cluster.in_office() {
            self.errands.adopt_roster(&self.view);
        }
        if let Some(log_id) = self.engine.with_state(|state| state.log_id) {
            self.book.set_log_id(log_id);
        }
    }

    async fn send(&mut self, to: Option<Token>, message: &Message) {
        let frame = self.sealer.seal(&self.identity.session, to, message);
        self.metrics.frame_sent(message.kind());
        match to {
            None => self.udp.send_all(&frame).await,
            Some(token) => match self.book.udp(token) {
                Some(address) => self.udp.send_to(address, &frame).await,
                None => tracing::debug!("no address of node {token} yet"),
            },
        }
    }

    /// The prototype's lines, above the prompt when there is one.
    fn say(&self, notice: &Notice) {
        let me = self.config.token;
        let leader = self.cluster.leader();
        match notice {
            Notice::Suspected(token) => {
                tracing::warn!("Node {me}: Node {token} SUSPECTED (missed heartbeat timeout)")
            }
            Notice::Failed(token) => {
                tracing::warn!("Node {me}: Node {token} FAILED (sustained heartbeat absence)")
            }
            Notice::Alive(token) => tracing::info!("Node {me}: Node {token} ALIVE"),
            Notice::Left(token) => tracing::info!("Node {me}: Node {token} LEFT"),
            Notice::LeaderGone(term) => match leader {
                Some(_) => {
                    tracing::warn!("Node {me}: LEADER FAILED - triggering election for term {term}")
                }
                None => tracing::info!(
                    "Node {me}: the office is vacant - triggering election for term {term}"
                ),
            },
            Notice::Candidate(term) => {
                tracing::info!(
                    "Node {me}: No higher-priority nodes, declaring self as candidate for term {term}"
                );
            }
            Notice::Leading(term) => tracing::info!("Node {me}: COORDINATOR for term {term}"),
            Notice::Unmuted(term) => tracing::info!(
                "Node {me}: caught up with term {term}: votes, signs and answers again"
            ),
            Notice::ColdStart(term) => {
                tracing::warn!(
                    "Node {me}: no unmuted majority is left: voting by disk for term {term} (cold start)"
                );
            }
            Notice::NoLog(term) => tracing::error!(
                "Node {me}: elected for term {term} after a restart with an empty disk: the log is lost or was never \
                 born; restart a node that still holds it"
            ),
        }
    }

    fn publish(&mut self) {
        let now = self.clock.now_ms();
        if now < self.published_at + PUBLISH_EVERY_MS {
            return;
        }
        self.published_at = now;
        let muted = !self.cluster.mute().may_speak();
        let (phase, summary) = self.sentence(muted);
        self.board.enter(phase, summary);
        let leader = self.cluster.leader();
        let heard = if self.cluster.in_office() {
            Some(wall_seconds())
        } else {
            self.cluster
                .peers()
                .find(|(token, _, age, _)| Some(*token) == leader && *age != u64::MAX)
                .map(|(_, _, age, _)| wall_seconds() - age as f64 / 1_000.0)
        };
        let peers = self
            .cluster
            .peers()
            .map(|(token, health, age, beat)| {
                let age_ms = (age != u64::MAX).then_some(age);
                (
                    token,
                    PeerFact {
                        health,
                        age_ms,
                        beat: beat.cloned(),
                    },
                )
            })
            .collect();
        self.board.update(|facts| {
            facts.incarnation = self.membership.incarnation;
            facts.view = Some(self.view.clone());
            facts.leader = leader;
            facts.in_office = self.cluster.in_office();
            facts.muted = muted;
            facts.peers = peers;
            facts.leader_heard_at = heard.or(facts.leader_heard_at);
        });
    }

    fn sentence(&self, muted: bool) -> (Phase, String) {
        let term = self.cluster.highest_term();
        if self
            .view
            .member(self.config.token)
            .is_some_and(|m| !m.seated)
        {
            let text = "registered after the log was born, so not seated: joining a running cluster comes with the \
                        Trade spine issue; until then this node only takes part in the next cluster";
            return (Phase::Joining, text.to_owned());
        }
        let alive = 1 + self
            .cluster
            .peers()
            .filter(|(_, health, _, _)| *health != Health::Failed)
            .count() as u64;
        let quorum = self.view.quorum();
        if alive < quorum && self.view.elected_block != 0 {
            let seated = self.view.seated_count;
            let text = format!(
                "hears {alive} of {seated} members, itself included; {quorum} are needed to write or to elect: restart the others"
            );
            return (
                if muted {
                    Phase::Joining
                } else {
                    Phase::Serving
                },
                text,
            );
        }
        if muted {
            let text = "restarted and muted: takes the leader's appends, does not vote, sign or answer reads yet";
            return (Phase::Joining, text.to_owned());
        }
        let text = match self.cluster.leader() {
            _ if self.cluster.in_office() => format!("leads term {term}"),
            Some(leader) if leader == self.config.token => {
                format!("elected for term {term}, taking the office")
            }
            Some(leader) if self.cluster.leader_gone() => {
                format!("node {leader}, leader of term {term}, is gone: electing")
            }
            Some(leader) => format!("follows node {leader}, leader of term {term}"),
            None if self.view.elected_block == 0 && self.view.seated_count < self.view.founders => {
                format!(
                    "waits for {} founding members, {} are registered",
                    self.view.founders, self.view.seated_count
                )
            }
            None => format!("the office is vacant since term {term}: electing"),
        };
        (Phase::Serving, text)
    }

    async fn leave(&mut self) {
        for _ in 0..self.config.timing.join_copies.min(3) {
            self.send(None, &Message::Leave).await;
        }
        self.engine.claim(None);
        self.engine.close().await;
    }
}
