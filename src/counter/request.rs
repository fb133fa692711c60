//! The engine's requests and answers as bytes: a version byte, then postcard. What arrives was written by somebody
//! else: it is decoded within bounds and then checked for everything that no honest engine would send, because
//! the engine itself only asserts it.

use crate::entry::Body;
use crate::gate::{Head, Kind, Refusal};
use crate::raft::{LogId, RaftEntry, Types, Vote};
use openraft::EntryPayload;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use serde::{Deserialize, Serialize};
use synod_wire::{ClusterId, Hash, Term, Token};

/// No request or answer is longer.
pub const REQUEST_LEN_MAX: usize = 4 * 1024 * 1024;

const VERSION: u8 = 1;
/// Indexes and engine terms beyond this are refused, so that adding one never overflows.
const NUMBER_MAX: u64 = 1 << 60;
const VOTERS_MAX: usize = 64;
const WHY_LEN_MAX: usize = 300;

/// One request.
#[derive(Serialize, Deserialize)]
pub struct Request {
    /// The contract's term in which the sender acts.
    pub term: Term,
    /// Newest block it had seen.
    pub block: u64,
    /// Which log, once known.
    pub log_id: Option<Hash>,
    /// Append: chain hash of the entry before.
    pub prev_hash: Option<Hash>,
    /// For the engine.
    pub ask: Ask,
}

/// What the engine asks. Snapshot and transfer have names, so that they are refused by name.
#[derive(Serialize, Deserialize)]
pub enum Ask {
    PreVote(VoteRequest<Types>),
    Vote(VoteRequest<Types>),
    Append(AppendEntriesRequest<Types>),
    Snapshot,
    Transfer,
}

/// One answer.
#[derive(Serialize, Deserialize)]
pub enum Answer {
    Vote(VoteResponse<Types>),
    Append(AppendEntriesResponse<Types>),
    /// The gate's word.
    Refused {
        /// `Refusal::reason`.
        reason: String,
        /// In words, cut.
        why: String,
        /// A later term and the newest block its teller saw.
        deposed: Option<(Term, u64)>,
    },
}

impl Answer {
    /// What the other side is told.
    pub fn refused(refusal: &Refusal) -> Self {
        let deposed = match refusal {
            Refusal::Deposed { term, block, .. } => Some((*term, *block)),
            _ => None,
        };
        let why = refusal.to_string().chars().take(WHY_LEN_MAX).collect();
        Self::Refused {
            reason: refusal.reason().to_owned(),
            why,
            deposed,
        }
    }
}

/// Bytes of a request or an answer.
pub fn encode(value: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(value, vec![VERSION]).expect("writing to memory does not fail")
}

/// From bytes of anybody.
pub fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, Refusal> {
    let bad = |why: String| Refusal::Malformed(why);
    if bytes.len() > REQUEST_LEN_MAX {
        return Err(bad(format!(
            "at most {REQUEST_LEN_MAX} bytes, found {}",
            bytes.len()
        )));
    }
    let Some((&VERSION, rest)) = bytes.split_first() else {
        return Err(bad(format!(
            "version {VERSION} expected, found {:?}",
            bytes.first()
        )));
    };
    match postcard::take_from_bytes(rest) {
        Ok((value, [])) => Ok(value),
        Ok((_, more)) => Err(bad(format!("{} bytes behind the end", more.len()))),
        Err(why) => Err(bad(why.to_string())),
    }
}

impl Request {
    /// What the gate judges. A roster in an entry that we `held` before was confirmed when it was new: after a cold
    /// start a leader sends again what all have, and nobody can confirm a roster of yesterday.
    pub fn head(&self, held: impl Fn(&RaftEntry) -> bool) -> Head {
        let (kind, entries, committed) = match &self.ask {
            Ask::PreVote(_) => (Kind::PreVote, &[][..], None),
            Ask::Vote(_) => (Kind::Vote, &[][..], None),
            Ask::Append(a) => (Kind::Append, &a.entries[..], a.leader_commit),
            Ask::Snapshot => (Kind::Snapshot, &[][..], None),
            Ask::Transfer => (Kind::Transfer, &[][..], None),
        };
        Head {
            kind,
            term: self.term,
            block: self.block,
            log_id: self.log_id,
            newest_time_ms: entries
                .iter()
                .filter_map(normal)
                .map(|entry| entry.time_ms)
                .max(),
            rosters: entries
                .iter()
                .filter(|entry| committed.is_none_or(|c| entry.log_id.index > c.index))
                .filter_map(|entry| match &normal(entry)?.body {
                    Body::Members { roster_hash, .. } if !held(entry) => Some(*roster_hash),
                    _ => None,
                })
                .collect(),
        }
    }

    /// Everything that no honest engine of `from` would send.
    pub fn check(&self, from: Token, cluster: ClusterId) -> Result<(), Refusal> {
        let done = match &self.ask {
            Ask::PreVote(v) | Ask::Vote(v) => check_vote(from, v),
            Ask::Append(a) => check_append(from, a, cluster),
            Ask::Snapshot | Ask::Transfer => Ok(()),
        };
        done.map_err(|why| Refusal::Malformed(why.to_owned()))
    }
}

fn normal(entry: &RaftEntry) -> Option<&crate::entry::Entry> {
    match &entry.payload {
        EntryPayload::Normal(entry) => Some(entry),
        EntryPayload::Blank | EntryPayload::Membership(_) => None,
    }
}

type Checked = Result<(), &'static str>;

fn ensure(holds: bool, why: &'static str) -> Checked {
    if holds { Ok(()) } else { Err(why) }
}

fn check_vote(from: Token, request: &VoteRequest<Types>) -> Checked {
    check_author(from, &request.vote)?;
    ensure(
        !request.vote.committed,
        "a vote request carries a vote that is already won",
    )?;
    ensure(
        !request.leadership_transfer,
        "the engine's hand-over arrives with a later issue",
    )?;
    ensure(
        request
            .last_log_id
            .is_none_or(|id| in_range(id) && id.leader_id.term < request.vote.leader_id.term),
        "last log id out of range",
    )
}

fn check_author(from: Token, vote: &Vote) -> Checked {
    ensure(
        vote.leader_id.voted_for == from.0,
        "the vote is not the sender's own",
    )?;
    ensure(
        (1..NUMBER_MAX).contains(&vote.leader_id.term),
        "engine term out of range",
    )
}

fn in_range(id: LogId) -> bool {
    id.index < NUMBER_MAX && id.leader_id.term < NUMBER_MAX
}

fn check_append(from: Token, request: &AppendEntriesRequest<Types>, cluster: ClusterId) -> Checked {
    check_author(from, &request.vote)?;
    ensure(request.vote.committed, "an append needs a vote that is won")?;
    ensure(
        request.leader_commit.is_none_or(in_range),
        "commit index out of range",
    )?;
    ensure(
        request.prev_log_id.is_none_or(in_range),
        "previous log id out of range",
    )?;
    let mut prev = request.prev_log_id;
    for entry in &request.entries {
        let id = entry.log_id;
        ensure(in_range(id), "log id out of range")?;
        ensure(
            id.index == prev.map_or(0, |p| p.index + 1),
            "entries are not consecutive",
        )?;
        ensure(
            prev.is_none_or(|p| p.leader_id <= id.leader_id),
            "engine terms go back",
        )?;
        check_payload(entry, cluster)?;
        prev = Some(id);
    }
    ensure(
        prev.is_none_or(|p| p.leader_id.term <= request.vote.leader_id.term),
        "entries of a later engine term than the sender's",
    )
}

fn check_payload(entry: &RaftEntry, cluster: ClusterId) -> Checked {
    match &entry.payload {
        EntryPayload::Blank => Ok(()),
        EntryPayload::Normal(entry) => match &entry.body {
            Body::Genesis { cluster: found, .. } => {
                ensure(*found == cluster, "Genesis of another cluster")
            }
            Body::TermStart { .. } | Body::Members { .. } | Body::Increment { .. } => Ok(()),
        },
        EntryPayload::Membership(members) => {
            ensure(
                entry.log_id.index == 0,
                "changes of the engine's voter set arrive with a later issue",
            )?;
            let [voters] = &members.get_joint_config()[..] else {
                return Err("the first voter set is a single one");
            };
            ensure((1..=VOTERS_MAX).contains(&voters.len()), "1 to 64 voters")?;
            ensure(
                members.nodes().map(|(id, _)| id).eq(voters.iter()),
                "the first voter set has no learners",
            )
        }
    }
}
