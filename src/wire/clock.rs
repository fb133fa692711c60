//! The vector clock that causal messages carry: how many messages of each member the sender had delivered.
//! An entry is (incarnation, sequence): a restart begins a new count, so no state needs to survive it. Entries are
//! never removed, and only trades add to them (design section 10).

use crate::bytes::{BadBytes, Reader, Writer};
use crate::ids::{Incarnation, Token};
use std::collections::BTreeMap;
use std::fmt;

/// Members that a clock names at the most: a frame stays under 1,200 bytes.
pub const CLOCK_LEN_MAX: usize = 32;
/// A sequence beyond this is implausible: no session lives that long. Leaves room to add one.
pub const SEQUENCE_MAX: u64 = 1 << 53;

/// How far one member had got: `sequence` messages in this incarnation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick {
    /// Of which registration. A later one counts as later, whatever the sequences.
    pub incarnation: Incarnation,
    /// Messages so far; the first one is 1.
    pub sequence: u64,
}

/// See the head of this file. Tokens ascend in its bytes; a member without an entry has sent nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clock(BTreeMap<Token, Tick>);

impl Clock {
    /// How far this member had got; (0, 0) = nothing.
    pub fn tick(&self, token: Token) -> Tick {
        self.0.get(&token).copied().unwrap_or_default()
    }

    /// Sets an entry. False: there is no room for another member, or no reader takes this sequence (1 to
    /// [`SEQUENCE_MAX`]); nothing was changed.
    pub fn set(&mut self, token: Token, tick: Tick) -> bool {
        let full = self.0.len() >= CLOCK_LEN_MAX && !self.0.contains_key(&token);
        if full || !is_sayable(tick.sequence) {
            return false;
        }
        self.0.insert(token, tick);
        true
    }

    /// Ascending by token.
    pub fn iter(&self) -> impl Iterator<Item = (Token, Tick)> {
        self.0.iter().map(|(token, tick)| (*token, *tick))
    }

    /// Members that have an entry.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Nobody has sent anything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn write(&self, w: Writer) -> Writer {
        // `set` and `read` keep it at 32 entries
        let w = w.u8(u8::try_from(self.0.len()).unwrap_or(u8::MAX));
        self.0.iter().fold(w, |w, (token, tick)| {
            w.u64(token.0).u64(tick.incarnation.0).u64(tick.sequence)
        })
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, BadBytes> {
        let count = r.u8("clock")?;
        let bad = |field, found| Err(BadBytes::Value { field, found });
        if usize::from(count) > CLOCK_LEN_MAX {
            return bad("clock", count.into());
        }
        let mut clock = BTreeMap::new();
        for _ in 0..count {
            let token = Token(r.u64("clock token")?);
            let incarnation = Incarnation(r.u64("clock incarnation")?);
            let sequence = r.u64("clock sequence")?;
            if clock
                .last_key_value()
                .is_some_and(|(last, _)| *last >= token)
            {
                return bad("clock token", token.0);
            }
            if !is_sayable(sequence) {
                return bad("clock sequence", sequence);
            }
            let tick = Tick {
                incarnation,
                sequence,
            };
            clock.insert(token, tick);
        }
        Ok(Self(clock))
    }
}

/// What has sent nothing has no entry, so one text has one encoding.
fn is_sayable(sequence: u64) -> bool {
    (1..=SEQUENCE_MAX).contains(&sequence)
}

/// As at the prototype's prompt: `[1:4, 2:7]`.
impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (place, (token, tick)) in self.iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            write!(f, "{comma}{token}:{}", tick.sequence)?;
        }
        f.write_str("]")
    }
}
