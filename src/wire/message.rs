//! What members say in frames. The names are the prototype's where it had one; BALLOT_REQUEST, BALLOT,
//! BALLOT_REFUSED, CAUSAL_ASK, CALL_ELECTION and HAND_OVER are ours. Their bytes: `codec.rs`.

use crate::ballot::Ballot;
use crate::clock::Clock;
use crate::ids::{Incarnation, LogPosition, Term, Token};
use crate::trade::{Answer, Offer, Signature};

/// Members that a JOIN_RESPONSE names at the most: a frame stays under 1,200 bytes.
pub const MEMBERS_MAX: usize = 24;

/// One frame's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// I live; this is how far I am.
    Heartbeat(Heartbeat),
    /// I am here with a new session: who leads, and where do I have to get to?
    Join(Join),
    /// The leader's answer.
    JoinResponse(JoinResponse),
    /// I go, on purpose.
    Leave,
    /// To those that rank higher: do you live? (Bully)
    Election {
        /// The term that would begin.
        term: Term,
        /// The sender's rank is (position, id).
        position: LogPosition,
    },
    /// I live and rank higher: wait for me.
    Ok {
        /// The term that would begin.
        term: Term,
        /// The sender's rank is (position, id).
        position: LogPosition,
    },
    /// I lead; the contract and the log say so.
    Coordinator {
        /// Since this term.
        term: Term,
        /// The election's block.
        block: u64,
    },
    /// Will you sign this ballot for me?
    BallotRequest {
        /// What to sign; the candidate is the sender.
        ballot: Ballot,
        /// The candidate's position.
        position: LogPosition,
        /// The sender believes that the cluster starts cold: muted voters may sign.
        cold_start: bool,
    },
    /// Signed.
    Ballot {
        /// What was signed.
        ballot: Ballot,
        /// EIP-2098 compact.
        signature: [u8; 64],
        /// The signer was muted (cold start).
        muted: bool,
    },
    /// Not signed.
    BallotRefused {
        /// The term asked for.
        term: Term,
        /// Why.
        reason: BallotRefusal,
        /// The refuser's position.
        position: LogPosition,
    },
    /// Causal: an offer, to all; whom it names answers.
    TradeRequest(TradeRequest),
    /// Causal: the answer to an offer, to all; the leader settles it.
    TradeConfirm(TradeConfirm),
    /// Causal messages that I miss; answered with the frames themselves, over the link.
    CausalAsk(CausalRange),
    /// To the leader in office, by a person's wish: hold an election.
    CallElection {
        /// The term that would begin.
        term: Term,
    },
    /// From the leader in office to all: I give the office up to this member; sign for it although I live.
    HandOver {
        /// The term that would begin.
        term: Term,
        /// Who shall stand; the sender itself, to be confirmed.
        to: Token,
    },
}

/// See [`Message::TradeRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TradeRequest {
    /// What the sender had delivered, this message included.
    pub clock: Clock,
    /// What it offers; its id names this very message.
    pub offer: Offer,
    /// Over the offer.
    pub signature: Signature,
}

/// See [`Message::TradeConfirm`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TradeConfirm {
    /// What the sender had delivered, this message included.
    pub clock: Clock,
    /// The offer it answers.
    pub offer: Offer,
    /// The proposer's signature over it.
    pub offered: Signature,
    /// The answer.
    pub answer: Answer,
}

/// A run of one author's causal messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CausalRange {
    /// Whose.
    pub author: Token,
    /// Of which incarnation.
    pub incarnation: Incarnation,
    /// The first that is wanted.
    pub first: u64,
    /// The last that is wanted.
    pub last: u64,
}

/// See [`Message::Heartbeat`]. Carries no vector clock: heartbeats take no part in causal order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// What the sender is; leader only while its quorum lease holds.
    pub role: Role,
    /// Restarted and not yet allowed to vote.
    pub muted: bool,
    /// Newest term the sender knows (contract or log).
    pub term: Term,
    /// Last durable log id.
    pub position: LogPosition,
    /// Committed index.
    pub committed: u64,
    /// Where its API listens, `host:port`.
    pub http: String,
    /// Members whose datagrams do not reach the sender: they reach it over the link. At most [`MEMBERS_MAX`].
    pub unheard: Vec<Token>,
}

/// What a node is at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Follows, or waits.
    Follower = 0,
    /// Gathers ballots or makes the engine elect it.
    Candidate,
    /// Leads, with its TermStart committed and its lease alive.
    Leader,
}

/// See [`Message::Join`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// Random; the answer repeats it, so an old recording is no answer.
    pub nonce: [u8; 16],
    /// Where the sender's API listens.
    pub http: String,
}

/// See [`Message::JoinResponse`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinResponse {
    /// The JOIN's.
    pub nonce: [u8; 16],
    /// The leader's term, whose TermStart is committed.
    pub term: Term,
    /// What the leader held when it saw the new incarnation: whoever has applied this may speak again.
    pub position: LogPosition,
    /// The log's voters.
    pub members: Vec<Token>,
    /// What the leader has delivered of everybody.
    pub clock: Clock,
}

/// Why a ballot was not signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BallotRefusal {
    /// The leader lives, as far as I see.
    LeaderLives,
    /// Restarted, and this is no cold start.
    Muted,
    /// My log is ahead of the candidate's.
    Behind,
    /// The term is not the one that follows.
    Term,
    /// The deadline is too far from the newest block I know, or past.
    Deadline,
    /// Not a seated, unexpired member, or the office's facts differ from mine.
    NotACandidate,
}

/// Kinds of frames, as they are counted and shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// HEARTBEAT
    Heartbeat = 1,
    /// JOIN
    Join = 2,
    /// JOIN_RESPONSE
    JoinResponse = 3,
    /// LEAVE
    Leave = 4,
    /// ELECTION
    Election = 5,
    /// OK
    Ok = 6,
    /// COORDINATOR
    Coordinator = 7,
    /// BALLOT_REQUEST
    BallotRequest = 8,
    /// BALLOT
    Ballot = 9,
    /// BALLOT_REFUSED
    BallotRefused = 10,
    /// TRADE_REQUEST
    TradeRequest = 11,
    /// TRADE_CONFIRM
    TradeConfirm = 12,
    /// CAUSAL_ASK
    CausalAsk = 13,
    /// CALL_ELECTION
    CallElection = 14,
    /// HAND_OVER
    HandOver = 15,
}

impl Kind {
    /// Every kind, ascending.
    pub const ALL: [Self; 15] = [
        Self::Heartbeat,
        Self::Join,
        Self::JoinResponse,
        Self::Leave,
        Self::Election,
        Self::Ok,
        Self::Coordinator,
        Self::BallotRequest,
        Self::Ballot,
        Self::BallotRefused,
        Self::TradeRequest,
        Self::TradeConfirm,
        Self::CausalAsk,
        Self::CallElection,
        Self::HandOver,
    ];

    /// From its number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    /// The prototype's spelling.
    pub fn name(self) -> &'static str {
        match self {
            Self::Heartbeat => "HEARTBEAT",
            Self::Join => "JOIN",
            Self::JoinResponse => "JOIN_RESPONSE",
            Self::Leave => "LEAVE",
            Self::Election => "ELECTION",
            Self::Ok => "OK",
            Self::Coordinator => "COORDINATOR",
            Self::BallotRequest => "BALLOT_REQUEST",
            Self::Ballot => "BALLOT",
            Self::BallotRefused => "BALLOT_REFUSED",
            Self::TradeRequest => "TRADE_REQUEST",
            Self::TradeConfirm => "TRADE_CONFIRM",
            Self::CausalAsk => "CAUSAL_ASK",
            Self::CallElection => "CALL_ELECTION",
            Self::HandOver => "HAND_OVER",
        }
    }
}

impl Message {
    /// Which kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Heartbeat(_) => Kind::Heartbeat,
            Self::Join(_) => Kind::Join,
            Self::JoinResponse(_) => Kind::JoinResponse,
            Self::Leave => Kind::Leave,
            Self::Election { .. } => Kind::Election,
            Self::Ok { .. } => Kind::Ok,
            Self::Coordinator { .. } => Kind::Coordinator,
            Self::BallotRequest { .. } => Kind::BallotRequest,
            Self::Ballot { .. } => Kind::Ballot,
            Self::BallotRefused { .. } => Kind::BallotRefused,
            Self::TradeRequest(_) => Kind::TradeRequest,
            Self::TradeConfirm(_) => Kind::TradeConfirm,
            Self::CausalAsk(_) => Kind::CausalAsk,
            Self::CallElection { .. } => Kind::CallElection,
            Self::HandOver { .. } => Kind::HandOver,
        }
    }
}

impl Message {
    /// The clock of a causal message.
    pub fn clock(&self) -> Option<&Clock> {
        match self {
            Self::TradeRequest(t) => Some(&t.clock),
            Self::TradeConfirm(t) => Some(&t.clock),
            Self::Heartbeat(_)
            | Self::Join(_)
            | Self::JoinResponse(_)
            | Self::Leave
            | Self::Election { .. }
            | Self::Ok { .. }
            | Self::Coordinator { .. }
            | Self::BallotRequest { .. }
            | Self::Ballot { .. }
            | Self::BallotRefused { .. }
            | Self::CausalAsk(_)
            | Self::CallElection { .. }
            | Self::HandOver { .. } => None,
        }
    }
}
