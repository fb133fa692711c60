//! The ledger's part of the driver: wishes and frames in, frames, entries and news out.

use crate::clock::wall_seconds;
use crate::desk::Ask;
use crate::driver::{Driver, Ended};
use crate::lines;
use rand_core::{OsRng, RngCore};
use synod_cluster::{Event as ClusterEvent, Health};
use synod_ledger::{Effect, Event, Facts, News};
use synod_wire::{Authentic, Clock, Message, Offer};

impl Driver {
    /// Upon time, news in the log, or news of the office.
    pub(crate) fn tick_ledger(&mut self, now: u64) {
        let applied = self.engine.view().applied;
        let stands = (
            self.cluster.leader(),
            self.cluster.in_office() && !self.cluster.pen_down(),
            self.cluster.mute().may_speak(),
        );
        if now < self.ledger.deadline() && self.ledger_seen == (applied, stands) {
            return;
        }
        self.ledger_seen = (applied, stands);
        let (leader, in_office, may_speak) = stands;
        let facts = Facts {
            wall_ms: (wall_seconds() * 1_000.0) as u64,
            log_time_ms: self.engine.with_state(|state| state.log_time_ms),
            leader,
            in_office,
            may_speak,
            dice: OsRng.next_u64(),
        };
        self.tell_ledger(now, Event::Tick(facts));
        self.check_initial_credit();
    }

    /// A causal message, or a question about some.
    pub(crate) fn hear_trade(&mut self, message: Authentic<Message>, bytes: &[u8]) {
        let bytes = bytes.to_vec();
        self.tell_ledger(self.clock.now_ms(), Event::Frame { message, bytes });
    }

    /// The leader has said what it had delivered when we joined.
    pub(crate) fn baseline(&mut self, clock: Clock) {
        self.tell_ledger(self.clock.now_ms(), Event::Baseline(clock));
    }

    /// Wishes of an earlier boot.
    pub(crate) fn restore_outbox(&mut self) {
        match self.disk.outbox() {
            Ok(intents) if intents.is_empty() => {}
            Ok(intents) => self.tell_ledger(self.clock.now_ms(), Event::Restore(intents)),
            Err(why) => self.ended = Some(Ended::Broken(why.to_string())),
        }
    }

    /// What a person wants.
    pub(crate) fn ask(&mut self, ask: Ask) {
        let now = self.clock.now_ms();
        match ask {
            Ask::Trade { ticket, wish } => self.tell_ledger(now, Event::Wish { ticket, wish }),
            Ask::CallElection { reply } => {
                self.cluster.handle(now, ClusterEvent::CallElection);
                self.caller = Some(reply);
            }
        }
    }

    fn tell_ledger(&mut self, now: u64, event: Event) {
        let ledger = &mut self.ledger;
        self.engine
            .with_state(|state| ledger.handle(now, &state.accounts, event));
    }

    /// In the order in which the machine wants it: what must be on the disk is there before it is said.
    pub(crate) async fn perform_trades(&mut self) {
        while let Some(effect) = self.ledger.poll() {
            match effect {
                Effect::Keep(intents) => {
                    let kept = tokio::task::block_in_place(|| self.disk.keep_outbox(&intents));
                    if let Err(why) = kept {
                        self.ended =
                            Some(Ended::Broken(format!("the outbox cannot be kept: {why}")));
                        return;
                    }
                }
                Effect::Spread { kind, frame } => {
                    self.metrics.frame_sent(kind);
                    self.spread(&frame).await;
                }
                Effect::Relay { to, frames } => {
                    for frame in frames {
                        self.post.send(to, frame);
                    }
                }
                Effect::Ask { to, range } => self.send(Some(to), Message::CausalAsk(range)).await,
                Effect::Settle(settlement) => self.errands.settle(settlement),
                Effect::Close {
                    token,
                    incarnation,
                    last,
                } => self.errands.close_gap(token, incarnation, last),
                Effect::News(news) => {
                    // whoever is told may look in the same breath
                    if matches!(news, News::Offered { .. } | News::Decided { .. }) {
                        self.publish_now();
                    }
                    self.desk.tell(&news);
                    if let Some((loudness, text)) = lines::of_ledger(self.config.token, &news) {
                        self.say(loudness, &text);
                    }
                    if let News::Offered { offer, .. } | News::OfferedAnew { offer, .. } = &news {
                        self.say_if_it_waits(offer);
                    }
                }
            }
        }
    }

    /// Whoever offers to a member that is not heard would wait without a word for the expiry.
    fn say_if_it_waits(&self, offer: &Offer) {
        let mut peers = self.cluster.peers();
        let heard =
            peers.any(|(token, health, ..)| token == offer.with && health != Health::Failed);
        if !heard {
            let now_unix_ms = (wall_seconds() * 1_000.0) as u64;
            let (loudness, text) = lines::waits(self.config.token, offer, now_unix_ms);
            self.say(loudness, &text);
        }
    }

    /// The genesis credit is a rule of the cluster: whoever was told another one must not go on quietly.
    fn check_initial_credit(&mut self) {
        let Some(said) = self.config.initial_credit else {
            return;
        };
        let born = self.engine.with_state(|state| {
            let agreed = state.accounts.initial_credit();
            state.log_id.map(|_| agreed)
        });
        if let Some(agreed) = born.filter(|agreed| *agreed != said) {
            self.ended = Some(Ended::Contradicted(format!(
                "--initial-credits (DS_INITIAL_CREDITS): expected {agreed} as in the cluster's Genesis, found {said}; \
                 leave it out, or correct it"
            )));
        }
    }
}
