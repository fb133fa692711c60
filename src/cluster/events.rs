//! The words of the machine: what it is told, what it answers, what people see.

use std::sync::Arc;
use synod_wire::ballot::Domain;
use synod_wire::{
    Authentic, Certificate, ChainView, Clock, Incarnation, LogPosition, Message, SessionKey, Term,
    Token,
};

/// Who we are and what we sign with.
pub struct Identity {
    /// Our token.
    pub token: Token,
    /// Our registration.
    pub incarnation: Incarnation,
    /// The contract's term when we registered: only a leader of this term or a later one may unmute us.
    pub registered_term: Term,
    /// There had been an election before we registered: we are muted.
    pub restarted: bool,
    /// Signs ballots.
    pub session: Arc<SessionKey>,
    /// What ballots are bound to.
    pub domain: Domain,
    /// Random, made at this boot: JOIN_RESPONSE must repeat it.
    pub nonce: [u8; 16],
    /// Where our API listens.
    pub http: String,
}

/// What the engine of the log says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineFacts {
    /// Last durable log id.
    pub position: LogPosition,
    /// Committed index.
    pub committed: u64,
    /// Applied index.
    pub applied: u64,
    /// The log has been initialised here.
    pub born: bool,
    /// The engine made us its leader, and a quorum has acknowledged us within the fail time.
    pub leading: bool,
    /// Milliseconds since the gate admitted an append; none = never.
    pub append_age_ms: Option<u64>,
    /// The last TermStart that was applied: term and its leader.
    pub log_term: Option<(Term, Token)>,
}

/// What happened.
pub enum Event {
    /// Time passed. At least once per heartbeat interval.
    Tick(EngineFacts),
    /// Somebody said something.
    Frame(Authentic<Message>),
    /// The contract was read.
    Chain(ChainView),
    /// The contract cannot be read now. Until the next [`Event::Chain`] we neither stand nor sign: no election could
    /// end, and every ballot's promise would keep a living leader's appends out.
    ChainSilent,
    /// A person at this node wants an election.
    CallElection,
    /// Our `elect` transaction is mined, or failed.
    Elected {
        /// The term it was for.
        term: Term,
        /// Mined without a revert.
        mined: bool,
    },
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Say this to one member, or to all.
    Send {
        /// None = all.
        to: Option<Token>,
        /// What to say.
        message: Message,
    },
    /// Send this certificate to the contract.
    Elect(Certificate),
    /// We won the first election: initialise the log with these members.
    Birth(Vec<Token>),
    /// Make the engine elect us (repeated until it has).
    Seek,
    /// The engine follows us: write TermStart.
    StartTerm {
        /// Our term.
        term: Term,
        /// Who signed while muted.
        voted_muted: Vec<Token>,
    },
    /// The leader in office answered our JOIN: what it has delivered of everybody is where the ledger starts. Once per
    /// answer until we have caught up.
    Baseline {
        /// Who answered.
        leader: Token,
        /// Its clock.
        clock: Clock,
    },
    /// Somebody knows more of the contract than we: read it now.
    LookAtChain,
    /// For people.
    Notice(Notice),
}

/// Lines that people watch for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// No heartbeat for the suspicion time.
    Suspected(Token),
    /// No heartbeat for the fail time.
    Failed(Token),
    /// Heard again.
    Alive(Token),
    /// Said LEAVE.
    Left(Token),
    /// The leader is gone; an election for this term begins.
    LeaderGone(Term),
    /// Nobody ranks higher: asking for ballots. Once per term, and again when a voter came or went.
    Candidate(Term),
    /// The contract and the log name us.
    Leading(Term),
    /// Caught up with the leader in office: we vote, sign and answer again.
    Unmuted(Term),
    /// We hold what the leader in office held when it answered our JOIN; said once per boot.
    Synchronized {
        /// Who answered.
        leader: Token,
        /// The voters it named, and we; ascending.
        members: Vec<Token>,
    },
    /// A person's wish for an election is on its way.
    ElectionCalled(Term),
    /// It is not, or it led nowhere.
    CallRefused(CallRefusal),
    /// The leader in office hands over; the same node: it wants to be confirmed.
    HandsOver {
        /// The term that would begin.
        term: Term,
        /// Who shall stand.
        to: Token,
    },
    /// No unmuted majority: voting by our disks.
    ColdStart(Term),
    /// Elected after a restart with an empty disk: the log is lost, or was never born. Only a deliberate
    /// recovery may begin another one.
    NoLog(Term),
}

/// Why an election that a person called is not held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallRefusal {
    /// We restarted and have not caught up yet.
    Muted,
    /// We are not seated, or our registration has expired: only the electorate calls.
    NotAVoter,
    /// An election was forced, or won, a moment ago; or this call is on its way already.
    TooSoon,
    /// The contract cannot be read, so no election could end.
    ChainSilent,
    /// The leader did not hand over within the time: it lost the call, or has its reasons to refuse.
    NoAnswer,
}

/// A ballot's promise: no append of a leader of an earlier term passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// The term that was signed for.
    pub term: Term,
    /// Our monotonic clock, milliseconds.
    pub until_ms: u64,
}
