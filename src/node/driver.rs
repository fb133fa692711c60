//! The loop: everything that happens to a registered node comes in here, goes through the pure machines of
//! `cluster` and `ledger`, and leaves as effects that are performed in one place. The driver decides nothing.
//! Its other halves: `speak` (what leaves), `trading` (the ledger's part), `shown` (what people see).

use crate::book::Book;
use crate::boot::{Identity, Membership};
use crate::clock::Clock;
use crate::config::Config;
use crate::desk::{Ask, Desk};
use crate::disk::Disk;
use crate::errands::{Errands, Report};
use crate::facts::Board;
use crate::lines;
use crate::links::LinkPeer;
use crate::metrics::Metrics;
use crate::post::Post;
use crate::udp::{Datagram, Udp, Via};
use crate::watcher::Sight;
use crate::ways::{Way, Ways};
use std::net::SocketAddr;
use std::sync::Arc;
use synod_cluster::{Cluster, Effect, EngineFacts, Event, Mute, Notice};
use synod_counter::{Engine, Gate, Role as EngineRole};
use synod_ledger::Ledger;
use synod_wire::seal::{Opener, Refused, Sealer, Sessions, Windows};
use synod_wire::{ChainView, Incarnation, Message, SessionPublic, Token};
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// A frame that does not verify may make us read the chain this often, and no oftener.
const STRANGER_LOOK_MS: u64 = 300;

/// The log moves without telling the driver: it looks at least so often.
const LONGEST_SLEEP_MS: u64 = 20;

/// The session that we replaced, if it still speaks.
struct Former(Token, (Incarnation, SessionPublic));

impl Sessions for Former {
    fn session(&self, token: Token) -> Option<(Incarnation, SessionPublic)> {
        (token == self.0).then_some(self.1)
    }
}

/// Why the loop ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Asked to stop.
    Stopped,
    /// Another boot of this token has registered, or the token's rights ended.
    Fenced(String),
    /// A setting contradicts what the cluster has agreed on.
    Contradicted(String),
    /// The disk does not keep what must be kept.
    Broken(String),
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
    pub(crate) post: Post,
    pub(crate) ways: Ways,
    pub(crate) disk: Disk,
    pub(crate) desk: Arc<Desk>,
    pub(crate) cluster: Cluster,
    pub(crate) ledger: Ledger,
    /// What the ledger was told last: applied index; leader, in office, may speak.
    pub(crate) ledger_seen: (u64, (Option<Token>, bool, bool)),
    pub(crate) sealer: Sealer,
    pub(crate) opener: Opener,
    pub(crate) windows: Windows,
    pub(crate) errands: Errands,
    pub(crate) look: Arc<Notify>,
    pub(crate) view: ChainView,
    pub(crate) published_at: u64,
    pub(crate) stranger_look_at: u64,
    /// Another process runs under our token: said once.
    pub(crate) double_said: bool,
    /// Who waits for word about the election that he called.
    pub(crate) caller: Option<oneshot::Sender<Result<String, String>>>,
    pub(crate) ended: Option<Ended>,
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
    /// What people want.
    pub asks: mpsc::Receiver<Ask>,
    /// True = stop.
    pub stop: watch::Receiver<bool>,
}

impl Driver {
    /// Until told to stop, or fenced.
    pub async fn run(mut self, mut from: Sources) -> Ended {
        let first = self.membership.view.clone();
        self.see(first);
        self.restore_outbox();
        while self.ended.is_none() {
            let wake = self.cluster.deadline().min(self.ledger.deadline());
            let deadline = self
                .clock
                .at(wake.min(self.clock.now_ms() + LONGEST_SLEEP_MS));
            tokio::select! {
                () = tokio::time::sleep_until(deadline) => {}
                Some(datagram) = from.datagrams.recv() => self.hear_datagram(&datagram),
                Some((_, frame)) = from.frames.recv() => self.hear(&frame, Way::Link, None),
                Some(sight) = from.sights.recv() => self.sight(sight),
                Some(report) = from.reports.recv() => self.report(report),
                Some(ask) = from.asks.recv() => self.ask(ask),
                changed = from.stop.changed() => {
                    if changed.is_err() || *from.stop.borrow() {
                        self.ended = Some(Ended::Stopped);
                    }
                }
            }
            self.tick();
            self.perform().await;
            self.publish();
        }
        self.leave().await;
        self.ended.unwrap_or(Ended::Stopped)
    }

    fn tick(&mut self) {
        let now = self.clock.now_ms();
        if now >= self.cluster.deadline() {
            let facts = self.engine_facts();
            self.cluster.handle(now, Event::Tick(facts));
        }
        self.stand();
        self.tick_ledger(now);
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

    fn hear_datagram(&mut self, datagram: &Datagram) {
        let way = match datagram.via {
            Via::Multicast => Way::Multicast,
            Via::Unicast => Way::Unicast,
        };
        self.hear(&datagram.bytes, way, Some(datagram.from));
    }

    /// A datagram or a frame over a link: the same checks for both.
    fn hear(&mut self, bytes: &[u8], way: Way, from: Option<SocketAddr>) {
        let opened = self
            .opener
            .open(bytes, self.book.as_ref(), &mut self.windows);
        match opened {
            Ok(frame) => {
                self.metrics.frame_received(frame.value().kind(), way);
                // A causal frame may be said again by anybody, at any time and from anywhere: it proves neither that its
                // author lives nor where.
                if frame.value().clock().is_some() {
                    return self.hear_trade(frame, bytes);
                }
                let (now, author) = (self.clock.now_ms(), frame.from());
                self.ways.heard(now, author, way);
                if let Some(address) = from {
                    self.book.learn(author, address);
                }
                match frame.value() {
                    Message::Heartbeat(beat) => {
                        let misses_us = beat.unheard.contains(&self.config.token);
                        self.ways.told(author, misses_us);
                    }
                    Message::CausalAsk(_) => return self.hear_trade(frame, bytes),
                    _ => {}
                }
                self.cluster.handle(now, Event::Frame(frame));
            }
            Err(Refused::NotForMe { token, .. }) if token == self.config.token => {} // our own multicast
            Err(why) => self.refuse(&why, bytes, from),
        }
    }

    fn refuse(&mut self, why: &Refused, bytes: &[u8], from: Option<SocketAddr>) {
        self.metrics.frame_refused(why.label());
        if let Refused::OtherIncarnation { token, found, .. } = why
            && *token == self.config.token
        {
            self.hear_double(bytes, *found, from);
        }
        // a stranger's datagram costs us a look now and then
        let now = self.clock.now_ms();
        let due = now >= self.stranger_look_at;
        let newer =
            matches!(why, Refused::OtherIncarnation { expected, found, .. } if found > expected);
        if due && (newer || matches!(why, Refused::UnknownSender { .. })) {
            self.stranger_look_at = now + STRANGER_LOOK_MS;
            self.look.notify_one();
        }
        tracing::debug!("{why}");
    }

    /// A frame in our own name, of an earlier incarnation: is it really the process that we replaced?
    fn hear_double(&mut self, bytes: &[u8], found: Incarnation, from: Option<SocketAddr>) {
        let Some(former) = self.membership.former.filter(|(i, _)| *i == found) else {
            return;
        };
        let nobody = Opener {
            cluster: self.opener.cluster,
            me: Token(0),
        };
        let verified = nobody.open(
            bytes,
            &Former(self.config.token, former),
            &mut Windows::default(),
        );
        if self.double_said || verified.is_err() {
            return;
        }
        self.double_said = true;
        let (ours, place) = (
            self.membership.incarnation,
            from.map_or("a link".to_owned(), |a| a.to_string()),
        );
        let text = format!(
            "frames of another process as node {} (incarnation {found}) arrive from {place}: this one is incarnation \
             {ours}, the newer wins; if that one still runs it stops by itself, if not somebody plays a recording",
            self.config.token
        );
        self.say(lines::Loudness::Warn, &text);
    }

    fn sight(&mut self, sight: Sight) {
        match sight {
            Sight::View(view) => self.see(*view),
            Sight::Trouble(why) => {
                tracing::warn!(
                    "the chain cannot be read: {why}; the leader goes on, nobody can be elected"
                );
                let now = self.clock.now_ms();
                self.cluster.handle(now, Event::ChainSilent);
                self.board.update(|facts| facts.chain_trouble = Some(why));
            }
        }
    }

    /// The contract was read.
    fn see(&mut self, view: ChainView) {
        self.board.update(|facts| facts.chain_trouble = None);
        // an endpoint that goes back shows yesterday's sessions
        if view.block.number < self.view.block.number {
            return;
        }
        if let Some(reason) = self.fenced(&view) {
            self.ended = Some(Ended::Fenced(reason));
            return;
        }
        for m in &view.members {
            let before = self.view.member(m.token).map(|old| old.incarnation);
            if before.is_some_and(|old| old < m.incarnation) && m.token != self.config.token {
                self.engine.readmit(m.token);
            }
        }
        self.book.follow(&view);
        let same = |token: Token| {
            let incarnation = |view: &ChainView| view.member(token).map(|m| m.incarnation);
            incarnation(&view).is_some() && incarnation(&view) == incarnation(&self.view)
        };
        self.ways.keep(same);
        self.post.keep(same);
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
    }

    fn fenced(&self, view: &ChainView) -> Option<String> {
        let (token, ours) = (self.config.token, self.membership.incarnation);
        match view.member(token) {
            None => Some(format!(
                "token {token} is no longer active on the contract (sold, deactivated or expired)"
            )),
            Some(m) if m.incarnation > ours => {
                let (newer, place) = (m.incarnation, &m.endpoint);
                Some(format!(
                    "incarnation {newer} of token {token} has registered from {place}; this one is {ours}: only one may \
                     run, the newer wins"
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
            standing.seated = self
                .view
                .members
                .iter()
                .filter(|m| m.active && m.seated)
                .map(|m| m.token)
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
            Report::Seated => self.look.notify_one(),
            Report::Done => {}
        }
    }

    async fn perform(&mut self) {
        while let Some(effect) = self.cluster.poll() {
            match effect {
                Effect::Send { to, message } => self.send(to, message).await,
                Effect::Elect(certificate) => self.errands.elect(certificate),
                Effect::Birth(members) => self.errands.birth(members),
                Effect::Seek => self.errands.seek(),
                Effect::StartTerm { term, voted_muted } => {
                    self.errands.start_term(&self.view, term, voted_muted);
                }
                Effect::LookAtChain => self.look.notify_one(),
                Effect::Baseline { clock, .. } => self.baseline(clock),
                Effect::Notice(notice) => self.notice(&notice),
            }
        }
        self.perform_trades().await;
        if self.cluster.in_office() && !self.cluster.pen_down() {
            self.errands.adopt_roster(&self.view);
            self.errands.follow_members();
            self.errands.seat(&self.view);
        }
        if let Some(log_id) = self.engine.with_state(|state| state.log_id) {
            self.book.set_log_id(log_id);
        }
    }

    fn notice(&mut self, notice: &Notice) {
        // whoever reads that we answer again may ask in the same breath
        if matches!(notice, Notice::Unmuted(_)) {
            self.publish_now();
        }
        let (loudness, text) = lines::of_cluster(self.cluster.leader(), notice);
        let word = match notice {
            Notice::ElectionCalled(_) => Some(Ok(text.clone())),
            Notice::CallRefused(_) => Some(Err(text.clone())),
            _ => None,
        };
        if let Some(word) = word
            && let Some(caller) = self.caller.take()
        {
            // he may have gone
            let _ = caller.send(word);
        }
        self.say(loudness, &text);
    }

    /// A line for people: in the log, and above every prompt.
    pub(crate) fn say(&self, loudness: lines::Loudness, text: &str) {
        let line = format!("Node {}: {text}", self.config.token);
        match loudness {
            lines::Loudness::Warn => tracing::warn!("{line}"),
            lines::Loudness::Info => tracing::info!("{line}"),
            lines::Loudness::Debug => return tracing::debug!("{line}"),
        }
        self.desk.say(line);
    }

    async fn leave(&mut self) {
        for _ in 0..self.config.timing.join_copies.min(3) {
            self.send(None, Message::Leave).await;
        }
        self.engine.claim(None);
        self.engine.close().await;
    }
}
