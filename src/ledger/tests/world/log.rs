//! The log: entries of whoever is in office, applied by every node at its own pace. Log time never decreases.

use std::collections::BTreeMap;
use synod_ledger::{Accounts, Session, Settlement};
use synod_wire::{Incarnation, Token};

#[derive(Clone)]
pub enum Entry {
    /// Somebody came into office; nothing else.
    Term,
    Members(BTreeMap<Token, Session>),
    Settle(Settlement),
    Close(Token, Incarnation, u64),
}

#[derive(Default)]
pub struct Log {
    pub entries: Vec<(u64, Entry)>,
}

impl Log {
    pub fn write(&mut self, wall_ms: u64, entry: Entry) {
        let last = self.entries.last().map_or(0, |(time, _)| *time);
        self.entries.push((last.max(wall_ms), entry));
    }

    pub fn time(&self, applied: usize) -> u64 {
        applied
            .checked_sub(1)
            .map_or(0, |last| self.entries[last].0)
    }

    /// Applies the entry at this place.
    pub fn apply(&self, place: usize, accounts: &mut Accounts) {
        let (time, entry) = &self.entries[place];
        match entry {
            Entry::Term => {}
            Entry::Members(sessions) => {
                assert!(accounts.members(sessions.iter().map(|(t, s)| (*t, *s))));
            }
            Entry::Settle(settlement) => {
                let judged = accounts.settle(place as u64 + 1, *time, settlement);
                let wrong = matches!(judged, synod_ledger::Judgement::Wrong(_));
                assert!(!wrong, "an honest leader wrote {settlement:?}: {judged:?}");
            }
            Entry::Close(token, incarnation, last) => accounts.close(*token, *incarnation, *last),
        }
    }
}
