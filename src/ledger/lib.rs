//! Energy credits between members: accounts (what the log says), causal order (who had heard what), trades (how
//! two members agree). Design section 10.
//!
//! Pure: told what happened and what time it is, answers what to do. Datagrams may be lost, doubled and turned
//! around; the log decides each trade once, and nothing here moves a credit.

pub mod accounts;
mod causal;
mod gaps;
mod machine;
mod outbox;
mod plausible;
mod refusal;
mod speak;
mod trades;

pub use accounts::{Accounts, Decision, Judgement, Session, Settlement, TradeRecord, WrongTrade};
pub use machine::Ledger;
pub use outbox::{Intent, Wish};
pub use refusal::{CausalStats, Refusal};

use std::sync::Arc;
use synod_wire::clock::CLOCK_LEN_MAX;
use synod_wire::message::CausalRange;
use synod_wire::trade::Reply;
use synod_wire::{
    Authentic, Clock, ClusterId, Incarnation, Message, Offer, SessionKey, Token, TradeId, Wh,
};

/// No offer expires later than this after the time at which it is heard or judged, log time: what a broken member
/// offers is not reserved for ever.
pub const OFFER_TTL_MAX_MS: u64 = 10 * 60_000;

/// Who we are and what we sign with.
pub struct Identity {
    /// Our token.
    pub token: Token,
    /// Our registration.
    pub incarnation: Incarnation,
    /// What trades are bound to.
    pub cluster: ClusterId,
    /// Signs frames and trades.
    pub session: Arc<SessionKey>,
}

/// Limits and times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// From an offer to its expiry, log time.
    pub offer_ttl_ms: u64,
    /// Between two copies of an undecided offer or answer (`DS_MESSAGE_RETRY_DELAY`).
    pub resend_ms: u64,
    /// So many copies in that rhythm (`DS_MESSAGE_RETRY_COUNT`); then five times slower.
    pub resend_count: u32,
    /// A gap is asked for after a random part of this.
    pub ask_delay_ms: u64,
    /// One question per author is open for so long; then the next one is asked.
    pub ask_again_ms: u64,
    /// A gap that nobody fills for so long is closed by the leader.
    pub gap_ttl_ms: u64,
    /// Messages of one author that wait for their predecessors.
    pub held_per_author_max: usize,
    /// Undecided trades of one author, ours included.
    pub open_per_author_max: usize,
    /// Delivered frames of one author that are kept for those who missed them.
    pub kept_per_author_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            offer_ttl_ms: 30_000,
            resend_ms: 300,
            resend_count: 5,
            ask_delay_ms: 40,
            ask_again_ms: 200,
            gap_ttl_ms: 10_000,
            held_per_author_max: 512,
            open_per_author_max: 512,
            kept_per_author_max: 1_024,
        }
    }
}

/// What this node is at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Unix milliseconds of this machine.
    pub wall_ms: u64,
    /// Log time as applied here.
    pub log_time_ms: u64,
    /// Whom the highest term known names.
    pub leader: Option<Token>,
    /// That is us, and in office.
    pub in_office: bool,
    /// Not muted: may trade.
    pub may_speak: bool,
    /// Random, for spreading questions.
    pub dice: u64,
}

/// What happened.
#[expect(clippy::large_enum_variant, reason = "handed over once, never stored")]
pub enum Event {
    /// Time passed, or the log moved on.
    Tick(Facts),
    /// A causal message or a question about some; `bytes` is the frame as it came.
    Frame {
        /// Verified.
        message: Authentic<Message>,
        /// The same, to be handed on.
        bytes: Vec<u8>,
    },
    /// A person wants to trade. `ticket` comes back in [`News`].
    Wish {
        /// Chosen by the shell, unique in this boot.
        ticket: u64,
        /// What is wanted.
        wish: Wish,
    },
    /// What the durable outbox held at this boot.
    Restore(Vec<Intent>),
    /// The leader in office answered our JOIN: what it had delivered is history for us.
    Baseline(Clock),
}

/// What to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Make the outbox say exactly this, durably, before anything behind it is done.
    Keep(Vec<Intent>),
    /// A causal frame of ours, new or again: to all.
    Spread {
        /// What it is, for the counters.
        kind: synod_wire::message::Kind,
        /// The sealed frame.
        frame: Vec<u8>,
    },
    /// To one member, over the link only: frames that it asked for.
    Relay {
        /// Who asked.
        to: Token,
        /// The frames as their authors sealed them.
        frames: Vec<Vec<u8>>,
    },
    /// To one member: which messages we miss.
    Ask {
        /// Whom.
        to: Token,
        /// What.
        range: CausalRange,
    },
    /// We lead: write this entry; entries in this order.
    Settle(Settlement),
    /// We lead: close this incarnation's gap.
    Close {
        /// Whose.
        token: Token,
        /// Which.
        incarnation: Incarnation,
        /// Its last message that stands.
        last: u64,
    },
    /// For people.
    News(News),
}

/// What people are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A wish became an offer and is on its way.
    Offered {
        /// Whose wish; none after a restart.
        ticket: Option<u64>,
        /// Its id.
        offer: Offer,
    },
    /// A wish was refused before it left.
    Declined {
        /// Whose wish.
        ticket: u64,
        /// Why.
        why: Declined,
    },
    /// A trade request was delivered here, in its causal order.
    Heard(Offer),
    /// An answer was delivered here, in its causal order.
    Answered(Offer, Reply),
    /// The log decided a trade of ours.
    Decided {
        /// Whose wish, when it was one of this boot.
        ticket: Option<u64>,
        /// How.
        record: TradeRecord,
    },
    /// The log decided an earlier id, or its incarnation ended: the wish is offered under a new id.
    OfferedAnew {
        /// The id that is void.
        void: TradeId,
        /// The new one.
        offer: Offer,
    },
    /// A message waits for those before it.
    HeldBack {
        /// Its author.
        from: Token,
        /// Its number.
        sequence: u64,
    },
    /// A member's frame was refused by the rules of causal order.
    Refused {
        /// Its author.
        from: Token,
        /// Why.
        why: Refusal,
    },
}

/// Why a wish does not become an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Declined {
    /// With oneself.
    #[error("Cannot trade with yourself")]
    SelfTrade,
    /// Of nothing.
    #[error("the amount must be positive")]
    Zero,
    /// No member of the roster in force.
    #[error("Node {0} is not available in the system")]
    Unknown(Token),
    /// Our balance, less what we have reserved, does not cover it.
    #[error("Cannot sell {amount} energy credits - insufficient balance ({available} available)")]
    Insufficient {
        /// Wanted.
        amount: Wh,
        /// What is left.
        available: Wh,
    },
    /// We restarted and have not caught up.
    #[error("this node is muted after its restart; try again when it serves")]
    Muted,
    /// The log does not list this session yet.
    #[error("the log does not list this node's session yet; try again in a moment")]
    NotListed,
    /// The log has closed our messages: a gap in them could not be filled.
    #[error(
        "the log has closed this node's messages, one of which nobody received; restart this node"
    )]
    Closed,
    /// A clock names 32 members, and as many have traded before us.
    #[error("{CLOCK_LEN_MAX} other members have traded, and a clock has no room for another one")]
    NoRoom,
    /// Too many undecided trades.
    #[error("{0} trades of this node are undecided; wait for some of them")]
    Busy(usize),
}

/// A trade that is under way, as seen here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenTrade {
    /// The offer.
    pub offer: Offer,
    /// The other side's reply, when it has been delivered here.
    pub reply: Option<Reply>,
}
