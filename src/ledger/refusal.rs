//! What is wrong with a member's message, and what has been counted.

use std::collections::BTreeMap;
use synod_wire::{Tick, Token};

/// Why a member's message, or what it says, is not taken.
///
/// The first three are refused before they are ordered. The others are faults of what a message says: it is
/// delivered, so that those behind it need not wait, and what it says is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    /// Its clock names what nobody has shown us to exist.
    #[error(
        "its clock names message {} of token {about} in incarnation {}; we are at message {} of incarnation {}",
        .found.sequence, .found.incarnation, .known.sequence, .known.incarnation
    )]
    Implausible {
        /// Whose entry.
        about: Token,
        /// What we have delivered.
        known: Tick,
        /// What it says.
        found: Tick,
    },
    /// A second, different frame or offer under one number.
    #[error("two different messages have the number {0}")]
    Equivocation(u64),
    /// The clock of this node is full.
    #[error("our clock has no room for another member")]
    NoRoom,
    /// An offer whose id is not the message that brings it, or an answer for another member.
    #[error("it speaks in the name of token {0}")]
    NotItsOwn(Token),
    /// With oneself, of nothing, or for longer than [`crate::OFFER_TTL_MAX_MS`].
    #[error("an offer that nobody may make: with oneself, of nothing, or expiring too late")]
    Offer,
    /// The other side never was a member.
    #[error("an offer to token {0}, which never was a member")]
    Unknown(Token),
    /// Not the proposer's signature over the offer.
    #[error("an offer that its proposer did not sign")]
    OfferSignature,
    /// Not the asked side's signature over the answer.
    #[error("an answer that the asked side did not sign")]
    AnswerSignature,
    /// The same incarnation gave another answer before.
    #[error("a second, different answer to one offer")]
    SecondAnswer,
    /// Its author has more undecided trades than are kept here.
    #[error("too many undecided trades of token {0}")]
    TooMany(Token),
    /// A question for nothing, for too much, or for messages that cannot exist.
    #[error("a question for messages {first} to {last} of token {author}")]
    Range {
        /// Whose messages.
        author: Token,
        /// From.
        first: u64,
        /// To.
        last: u64,
    },
}

impl Refusal {
    /// For counters.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Implausible { .. } => "implausible clock",
            Self::Equivocation(_) => "equivocation",
            Self::NoRoom => "clock full",
            Self::NotItsOwn(_) => "not its own",
            Self::Offer => "offer",
            Self::Unknown(_) => "unknown party",
            Self::OfferSignature => "offer signature",
            Self::AnswerSignature => "answer signature",
            Self::SecondAnswer => "second answer",
            Self::TooMany(_) => "too many open trades",
            Self::Range { .. } => "nonsense question",
        }
    }
}

/// What has been done so far in this boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CausalStats {
    /// Messages of others that were delivered, in causal order.
    pub delivered: u64,
    /// Frames that were delivered or held already.
    pub duplicates: u64,
    /// Messages that had to wait.
    pub held: u64,
    /// Messages for which there was no place to wait: those farthest ahead of what was delivered.
    pub dropped: u64,
    /// Questions asked.
    pub asked: u64,
    /// Frames handed on.
    pub relayed: u64,
    /// Messages of an incarnation that has ended, or beyond its closing.
    pub void: u64,
    /// Gaps that nobody could fill and that count as history here.
    pub skipped: u64,
    /// By [`Refusal::label`].
    pub refused: BTreeMap<&'static str, u64>,
}
