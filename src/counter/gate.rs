//! ONE gate before the engine for all its requests: vote, pre-vote, append, snapshot, transfer (attack F2).
//! `judge` is pure; `Gate` holds what the node knows and counts what it refused. It never lets through what the
//! engine alone would have obeyed: a vote of somebody whom no term names, an append of a deposed leader.

#[cfg(test)]
mod tests;
mod voters;

pub use voters::{Before, VOTER_SETS_MAX, VoterSets};

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use synod_wire::{Hash, Incarnation, Term, Token};
use tokio::sync::Notify;

/// Rosters that our own view of the chain confirmed: the newest are kept.
pub const CONFIRMED_ROSTERS_MAX: usize = 64;

/// A follower passes on nothing further ahead of its own clock.
pub const CLOCK_AHEAD_MAX_MS: u64 = 60_000;

/// Who is at the other end of the link, as the link verified it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its token.
    pub token: Token,
    /// The registration that its session key belongs to.
    pub incarnation: Incarnation,
}

/// May this node vote?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mute {
    /// Yes.
    Unmuted,
    /// No: it restarted and has not caught up (attack F6). It takes appends.
    #[default]
    Muted,
    /// Muted, but so are too many: it votes by its disk, and the TermStart will say so.
    ColdStart,
}

/// A ballot of ours is a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// The term that was signed for.
    pub term: Term,
    /// The node's monotonic clock (see [`Gate::since`]).
    pub until_ms: u64,
}

/// What this node knows of the office.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// Highest term known, from contract or log.
    pub term: Term,
    /// Whom it names.
    pub leader: Option<Token>,
    /// Newest block seen.
    pub block: u64,
    /// Current incarnations of the members.
    pub incarnations: BTreeMap<Token, Incarnation>,
    /// Members that our own view of the chain shows active and seated: no voter set may leave them out. Empty = nothing
    /// is demanded.
    pub seated: BTreeSet<Token>,
    /// May we vote?
    pub mute: Mute,
    /// Our newest ballot.
    pub promise: Option<Promise>,
    /// Roster hashes that our own view of the chain showed at the configured depth; the gate keeps the newest 64.
    pub confirmed_rosters: VecDeque<Hash>,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Would you vote for me?
    PreVote,
    /// Vote for me.
    Vote,
    /// Entries, or a heartbeat.
    Append,
    /// A whole state.
    Snapshot,
    /// Take the lead.
    Transfer,
}

/// What a request says about itself, and what its content means for the gate.
#[derive(Clone, Debug)]
pub struct Head {
    /// What is asked.
    pub kind: Kind,
    /// In whose term.
    pub term: Term,
    /// Newest block the sender had seen.
    pub block: u64,
    /// Which log, once known.
    pub log_id: Option<Hash>,
    /// Highest time of the entries in it.
    pub newest_time_ms: Option<u64>,
    /// Roster hashes of `Members` entries in it that are not committed yet.
    pub rosters: Vec<Hash>,
    /// The highest block that one of these names; 0 = none is in it.
    pub roster_block: u64,
    /// Changes of the engine's voter set in it that are neither committed nor held here.
    pub voter_sets: Vec<VoterSets>,
}

/// Both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The node's monotonic clock.
    pub mono_ms: u64,
    /// Unix milliseconds.
    pub wall_ms: u64,
}

/// Why a request does not reach the engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not the bytes of a request, or one that no honest engine sends.
    #[error("not a request of this version: {0}")]
    Malformed(String),
    /// The link belongs to an older (or unknown) registration.
    #[error("token {} speaks as incarnation {}, current is {known:?}: the older session ends", .peer.token, .peer.incarnation)]
    StaleIncarnation {
        /// Who.
        peer: Peer,
        /// What we know.
        known: Option<Incarnation>,
    },
    /// Another log.
    #[error("log {own} expected, token {from} has log {found}: another birth of the cluster")]
    ForeignLog {
        /// Ours.
        own: Hash,
        /// Theirs.
        found: Hash,
        /// Who.
        from: Token,
    },
    /// We know a later term.
    #[error(
        "deposed: term {term} began (seen up to block {block}), the request names term {found}; look at the chain"
    )]
    Deposed {
        /// The term we know.
        term: Term,
        /// The newest block we saw.
        block: u64,
        /// The term they named.
        found: Term,
    },
    /// They know a later term; we look at once.
    #[error(
        "term {known} is the highest known here, the request names {found}; looking at the chain now, ask again"
    )]
    Behind {
        /// The term we know.
        known: Term,
        /// The term they named.
        found: Term,
    },
    /// The term names somebody else, or nobody.
    #[error("term {term} names {leader:?} as leader, not token {from}")]
    NotElected {
        /// The term.
        term: Term,
        /// Whom it names.
        leader: Option<Token>,
        /// Who asked.
        from: Token,
    },
    /// Our ballot for a later term still binds us.
    #[error("we signed for term {promised}; until that is decided nothing of term {found} passes")]
    Resting {
        /// The term we signed for.
        promised: Term,
        /// The term they named.
        found: Term,
    },
    /// We restarted and may not vote yet.
    #[error("muted since our restart: we take appends, we do not vote")]
    Muted,
    /// A roster that our own view of the chain has not shown.
    #[error("roster {roster} is not confirmed by our own view of the chain")]
    Unconfirmed {
        /// Its hash.
        roster: Hash,
    },
    /// A voter set of the engine that our own view of the chain does not bear out.
    #[error("the voter set in entry {index} {} token {token}, {}; looking at the chain now, ask again",
        if *.named { "names" } else { "leaves out" },
        if *.named { "whom neither our own view of the chain nor the log lists" } else { "whom our own view of the chain shows seated" })]
    UnconfirmedVoters {
        /// Where it stands.
        index: u64,
        /// Whom it names or leaves out.
        token: Token,
        /// True: it names somebody unknown; false: it leaves out somebody who counts.
        named: bool,
    },
    /// Entries from the future.
    #[error(
        "an entry is {ahead_ms} ms ahead of our clock, at most {CLOCK_AHEAD_MAX_MS} pass; check both clocks"
    )]
    ClockAhead {
        /// How far.
        ahead_ms: u64,
    },
    /// Not in this version.
    #[error("{0:?}: snapshots and hand-over of the engine arrive with the Log issue")]
    Unsupported(Kind),
    /// Other content under an id that we hold: one of the two logs is not the log.
    #[error(
        "entry {index} from token {from} has another content than ours under the same id: one disk was rolled back or forged"
    )]
    Diverged {
        /// Where.
        index: u64,
        /// Who sent it.
        from: Token,
    },
    /// It would cut what is committed.
    #[error("token {from} asks to cut entry {index}, but {committed} is committed")]
    BelowCommit {
        /// Where.
        index: u64,
        /// What is committed.
        committed: u64,
        /// Who asked.
        from: Token,
    },
    /// We stopped.
    #[error("this node's engine has stopped: {0}")]
    Stopped(String),
}

impl Refusal {
    /// A short name, for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::StaleIncarnation { .. } => "stale_incarnation",
            Self::ForeignLog { .. } => "foreign_log",
            Self::Deposed { .. } => "deposed",
            Self::Behind { .. } => "behind",
            Self::NotElected { .. } => "not_elected",
            Self::Resting { .. } => "resting",
            Self::Muted => "muted",
            Self::Unconfirmed { .. } => "unconfirmed",
            Self::UnconfirmedVoters { .. } => "unconfirmed_voters",
            Self::ClockAhead { .. } => "clock_ahead",
            Self::Unsupported(_) => "unsupported",
            Self::Diverged { .. } => "diverged",
            Self::BelowCommit { .. } => "below_commit",
            Self::Stopped(_) => "stopped",
        }
    }
}

/// The rule (design section 8). The order matters: the first thing that is wrong is said.
pub fn judge(
    standing: &Standing,
    now: Now,
    from: Peer,
    head: &Head,
    own_log_id: Option<Hash>,
) -> Result<(), Refusal> {
    let known = standing.incarnations.get(&from.token).copied();
    if known != Some(from.incarnation) {
        return Err(Refusal::StaleIncarnation { peer: from, known });
    }
    if let (Some(own), Some(found)) = (own_log_id, head.log_id)
        && own != found
    {
        return Err(Refusal::ForeignLog {
            own,
            found,
            from: from.token,
        });
    }
    if head.term < standing.term {
        return Err(Refusal::Deposed {
            term: standing.term,
            block: standing.block,
            found: head.term,
        });
    }
    if head.term > standing.term {
        return Err(Refusal::Behind {
            known: standing.term,
            found: head.term,
        });
    }
    if standing.leader != Some(from.token) {
        return Err(Refusal::NotElected {
            term: standing.term,
            leader: standing.leader,
            from: from.token,
        });
    }
    if let Some(promise) = standing.promise
        && now.mono_ms < promise.until_ms
        && head.term < promise.term
    {
        return Err(Refusal::Resting {
            promised: promise.term,
            found: head.term,
        });
    }
    match head.kind {
        Kind::PreVote | Kind::Vote if standing.mute == Mute::Muted => Err(Refusal::Muted),
        Kind::PreVote | Kind::Vote => Ok(()),
        Kind::Append => judge_entries(standing, now, head),
        Kind::Snapshot | Kind::Transfer => Err(Refusal::Unsupported(head.kind)),
    }
}

fn judge_entries(standing: &Standing, now: Now, head: &Head) -> Result<(), Refusal> {
    if let Some(&roster) = head
        .rosters
        .iter()
        .find(|hash| !standing.confirmed_rosters.contains(hash))
    {
        return Err(Refusal::Unconfirmed { roster });
    }
    // one from a block that is still to come would keep every later roster out
    if head.roster_block > standing.block
        && let Some(&roster) = head.rosters.last()
    {
        return Err(Refusal::Unconfirmed { roster });
    }
    for change in &head.voter_sets {
        change.judge(standing)?;
    }
    let ahead_ms = head.newest_time_ms.unwrap_or(0).saturating_sub(now.wall_ms);
    if ahead_ms > CLOCK_AHEAD_MAX_MS {
        return Err(Refusal::ClockAhead { ahead_ms });
    }
    Ok(())
}

/// Holds the standing, counts refusals.
pub struct Gate {
    token: Token,
    epoch: Instant,
    standing: Mutex<Standing>,
    refusals: Mutex<BTreeMap<&'static str, u64>>,
    behind: Arc<Notify>,
}

impl Gate {
    /// For this token; the monotonic clock of promises starts now. Everything is refused until [`Gate::update`].
    pub fn new(token: Token) -> Self {
        Self::since(token, Instant::now())
    }

    /// As [`Gate::new`], with the node's own zero: a promise's `until_ms` counts from there.
    pub fn since(token: Token, epoch: Instant) -> Self {
        Self {
            token,
            epoch,
            standing: Mutex::new(Standing::default()),
            refusals: Mutex::new(BTreeMap::new()),
            behind: Arc::new(Notify::new()),
        }
    }

    /// Upon news from the chain, the log or the ballots, say so here.
    pub fn update(&self, change: impl FnOnce(&mut Standing)) {
        let mut standing = lock(&self.standing);
        change(&mut standing);
        while standing.confirmed_rosters.len() > CONFIRMED_ROSTERS_MAX {
            standing.confirmed_rosters.pop_front();
        }
    }

    /// Look at the standing.
    pub fn read<R>(&self, look: impl FnOnce(&Standing) -> R) -> R {
        look(&lock(&self.standing))
    }

    /// How often was what refused?
    pub fn refusals(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.refusals).clone()
    }

    /// Told when somebody named what our view of the chain does not show yet: look at the chain now.
    pub fn behind(&self) -> Arc<Notify> {
        Arc::clone(&self.behind)
    }

    /// Do we hold the office, and in which term?
    pub(crate) fn office(&self) -> Option<Term> {
        self.read(|s| (s.leader == Some(self.token)).then_some(s.term))
    }

    /// Somebody answered that a later term began.
    pub(crate) fn heard(&self, term: Term) {
        if self.read(|s| term > s.term) {
            self.behind.notify_one();
        }
    }

    pub(crate) fn check(
        &self,
        wall_ms: u64,
        from: Peer,
        head: &Head,
        own_log_id: Option<Hash>,
    ) -> Result<(), Refusal> {
        let mono_ms = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        let verdict = self.read(|s| judge(s, Now { mono_ms, wall_ms }, from, head, own_log_id));
        // all mean that the chain may show more than we have read
        if let Err(
            Refusal::Behind { .. }
            | Refusal::Unconfirmed { .. }
            | Refusal::UnconfirmedVoters { .. },
        ) = verdict
        {
            self.behind.notify_one();
        }
        verdict
    }

    pub(crate) fn count(&self, refusal: &Refusal) {
        *lock(&self.refusals).entry(refusal.reason()).or_default() += 1;
    }
}

/// A poisoned lock means that a reader panicked; the value itself is replaced whole, never half.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
