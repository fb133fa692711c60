//! The machine: one entrance, one exit.

use crate::{Accounts, CausalStats, Effect, Event, Identity, OpenTrade, Settings};
use std::collections::VecDeque;
use synod_wire::{Clock, Wh};

/// See the head of `lib.rs`.
pub struct Ledger {
    clock: Clock,
    stats: CausalStats,
    effects: VecDeque<Effect>,
}

impl Ledger {
    /// `now`: monotonic milliseconds.
    pub fn new(_settings: Settings, _me: Identity, _now: u64) -> Self {
        Self {
            clock: Clock::default(),
            stats: CausalStats::default(),
            effects: VecDeque::new(),
        }
    }

    /// Something happened.
    pub fn handle(&mut self, _now: u64, _accounts: &Accounts, _event: Event) {}

    /// What to do next.
    pub fn poll(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When the next tick is wanted; far away when idle.
    pub fn deadline(&self) -> u64 {
        u64::MAX
    }

    /// What has been delivered so far, own messages included.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Messages that wait for others.
    pub fn buffered(&self) -> usize {
        0
    }

    /// What has been done so far.
    pub fn stats(&self) -> CausalStats {
        self.stats.clone()
    }

    /// Every undecided trade that was delivered here.
    pub fn open(&self) -> impl Iterator<Item = OpenTrade> {
        std::iter::empty()
    }

    /// What our own undecided payments keep back.
    pub fn reserved(&self, _accounts: &Accounts) -> Wh {
        Wh(0)
    }
}
