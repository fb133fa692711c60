//! The engine's requests and answers as bytes: a version byte, then postcard. What arrives was written by somebody
//! else: it is decoded within bounds and then checked for everything that no honest engine would send, because
//! the engine itself only asserts it.

use crate::entry::{Body, Entry, MemberKey};
use crate::gate::{Before, Head, Kind, Refusal, VOTER_SETS_MAX, VoterSets};
use crate::raft::{LogId, RaftEntry, Types, Vote, Voters, outside};
use openraft::EntryPayload;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use synod_wire::{ClusterId, Hash, Term, Token};

/// No request or answer is longer.
pub const REQUEST_LEN_MAX: usize = 4 * 1024 * 1024;

const VERSION: u8 = 1;
/// Indexes and engine terms beyond this are refused, so that adding one never overflows.
const NUMBER_MAX: u64 = 1 << 60;
/// In a voter set, and in all of a change, learners included.
pub const VOTERS_MAX: usize = 64;
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
    /// Does it change the engine's voter set?
    pub fn changes_voters(&self) -> bool {
        let Ask::Append(append) = &self.ask else {
            return false;
        };
        let is_change = |entry: &RaftEntry| matches!(entry.payload, EntryPayload::Membership(_));
        append.entries.iter().any(is_change)
    }

    /// What the gate judges. What we `held` before was judged when it was new: after a cold start a leader sends again
    /// what all have, and nobody can confirm a roster of yesterday. `before` is what our log says so far.
    pub fn head(&self, held: impl Fn(&RaftEntry) -> bool, before: Before) -> Result<Head, Refusal> {
        let (kind, entries, committed) = match &self.ask {
            Ask::PreVote(_) => (Kind::PreVote, &[][..], None),
            Ask::Vote(_) => (Kind::Vote, &[][..], None),
            Ask::Append(a) => (Kind::Append, &a.entries[..], a.leader_commit),
            Ask::Snapshot => (Kind::Snapshot, &[][..], None),
            Ask::Transfer => (Kind::Transfer, &[][..], None),
        };
        let is_new = |entry: &RaftEntry| {
            committed.is_none_or(|c| entry.log_id.index > c.index) && !held(entry)
        };
        let mut head = Head {
            kind,
            term: self.term,
            block: self.block,
            log_id: self.log_id,
            newest_time_ms: entries
                .iter()
                .filter_map(normal)
                .map(|entry| entry.time_ms)
                .max(),
            rosters: Vec::new(),
            roster_block: 0,
            voter_sets: Vec::new(),
        };
        walk(&mut head, entries, is_new, before)?;
        Ok(head)
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

fn normal(entry: &RaftEntry) -> Option<&Entry> {
    match &entry.payload {
        EntryPayload::Normal(entry) => Some(entry),
        EntryPayload::Blank | EntryPayload::Membership(_) => None,
    }
}

/// Gathers from an append what the chain has to bear out, and what stood before it.
fn walk(
    head: &mut Head,
    entries: &[RaftEntry],
    is_new: impl Fn(&RaftEntry) -> bool,
    mut before: Before,
) -> Result<(), Refusal> {
    let me = before.known.clone();
    for entry in entries {
        match &entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Normal(Entry {
                body:
                    Body::Members {
                        block,
                        roster_hash,
                        members,
                    },
                ..
            }) => {
                if is_new(entry) {
                    head.rosters.push(*roster_hash);
                    head.roster_block = head.roster_block.max(block.number);
                }
                let newer = before
                    .listed
                    .as_ref()
                    .is_none_or(|(known, _)| block.number >= *known);
                // a list under a hash that is not its own proves nothing; nor does one from before the newest
                if newer && MemberKey::roster_hash(members) == *roster_hash {
                    let tokens = members.iter().map(|m| m.token).collect();
                    before.listed = Some((block.number, tokens));
                }
            }
            EntryPayload::Normal(_) => {}
            // one that breaks the bounds is no change: it is malformed
            EntryPayload::Membership(members) if check_voters(members).is_ok() => {
                let change = VoterSets {
                    index: outside(Some(entry.log_id)),
                    sets: voter_sets(members),
                    named: members.nodes().map(|(id, _)| Token(*id)).collect(),
                    before: before.clone(),
                };
                before.voted = Some(change.sets.iter().flatten().copied().collect());
                before.known = me.union(&change.named).copied().collect();
                if is_new(entry) {
                    head.voter_sets.push(change);
                }
                if head.voter_sets.len() > VOTER_SETS_MAX {
                    return Err(Refusal::Malformed(format!(
                        "an append has at most {VOTER_SETS_MAX} changes of the voter set that are not committed"
                    )));
                }
            }
            EntryPayload::Membership(_) => {}
        }
    }
    Ok(())
}

/// The engine's voters in our words.
pub fn voter_sets(members: &Voters) -> Vec<BTreeSet<Token>> {
    let set = |ids: &BTreeSet<u64>| ids.iter().map(|id| Token(*id)).collect();
    members.get_joint_config().iter().map(set).collect()
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
            // what these say is judged when they are applied, by the log alone
            Body::TermStart { .. }
            | Body::Members { .. }
            | Body::Increment { .. }
            | Body::Settle(_)
            | Body::Close { .. } => Ok(()),
        },
        EntryPayload::Membership(members) => {
            check_voters(members)?;
            ensure(
                entry.log_id.index != 0
                    || members.get_joint_config().len() == 1
                        && members.nodes().count() == members.voter_ids().count(),
                "the first voter set is a single one without learners",
            )
        }
    }
}

fn check_voters(members: &Voters) -> Checked {
    let sets = members.get_joint_config();
    ensure(
        (1..=2).contains(&sets.len()),
        "a voter set is a single one, or two of which one replaces the other",
    )?;
    ensure(
        sets.iter().all(|set| (1..=VOTERS_MAX).contains(&set.len())),
        "1 to 64 voters",
    )?;
    ensure(
        members.nodes().count() <= VOTERS_MAX,
        "at most 64 members take the log",
    )?;
    ensure(
        sets.iter()
            .flatten()
            .all(|id| members.get_node(id).is_some()),
        "a voter does not take the log",
    )
}
