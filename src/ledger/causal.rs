//! Causal order: who had heard what when he spoke.

use std::collections::BTreeMap;
use synod_wire::{Tick, Token};

/// Why a member's frame is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    /// Its clock names what nobody has shown us to exist, or lies further ahead than anything that may wait here.
    #[error("its clock names {found:?} of token {about}; we are at {known:?}")]
    Implausible {
        /// Whose entry.
        about: Token,
        /// What we have delivered.
        known: Tick,
        /// What it says.
        found: Tick,
    },
    /// A second, different frame under one number.
    #[error("two different messages {0}")]
    Equivocation(u64),
    /// The offer's id does not name the message that brings it, or the answer is not the asked side's.
    #[error("it speaks in the name of token {0}")]
    NotItsOwn(Token),
    /// With oneself, of nothing, or beyond every expiry that is made here.
    #[error("an offer that nobody may make")]
    Offer,
    /// A side of the trade is not a member.
    #[error("token {0} is not a member")]
    Unknown(Token),
    /// Not the proposer's signature over the offer.
    #[error("the offer is not signed by its proposer")]
    OfferSignature,
    /// Not the asked side's signature over the answer.
    #[error("the answer is not signed by the asked side")]
    AnswerSignature,
    /// Another answer to the same offer by the same incarnation.
    #[error("two different answers to one offer")]
    SecondAnswer,
    /// More undecided trades of one author than are kept.
    #[error("too many undecided trades")]
    TooMany,
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
            Self::NotItsOwn(_) => "not its own",
            Self::Offer => "offer",
            Self::Unknown(_) => "unknown party",
            Self::OfferSignature => "offer signature",
            Self::AnswerSignature => "answer signature",
            Self::SecondAnswer => "second answer",
            Self::TooMany => "too many open trades",
            Self::Range { .. } => "nonsense question",
        }
    }
}

/// What has been done so far in this boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CausalStats {
    /// Messages of others that were delivered, in causal order.
    pub delivered: u64,
    /// Frames that were already delivered or held.
    pub duplicates: u64,
    /// Messages that had to wait.
    pub held: u64,
    /// Messages that gave up their place to nearer ones.
    pub dropped: u64,
    /// Questions asked.
    pub asked: u64,
    /// Frames handed on.
    pub relayed: u64,
    /// Messages of an incarnation that has ended, or beyond its closing.
    pub void: u64,
    /// By [`Refusal::label`].
    pub refused: BTreeMap<&'static str, u64>,
}
