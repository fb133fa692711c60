//! What members say in frames, and its canonical bytes. The names are the prototype's where it had
//! one; BALLOT_REQUEST, BALLOT and BALLOT_REFUSED are ours. Trades come with their own issue: their kind
//! numbers are kept free and refused until then.

use crate::ballot::{Anchor, Ballot};
use crate::bytes::{BadBytes, Reader, Writer};
use crate::ids::{LogPosition, Term, Token};

/// Members that a JOIN_RESPONSE names at the most: a frame stays under 1,200 bytes.
pub const MEMBERS_MAX: usize = 64;

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
}

impl Kind {
    /// Every kind, ascending.
    pub const ALL: [Self; 10] = [
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
        }
    }

    /// Canonical bytes of the content.
    pub fn encode(&self) -> Vec<u8> {
        let w = Writer::new();
        match self {
            Self::Heartbeat(h) => position(
                w.u8(h.role as u8).u8(h.muted.into()).u64(h.term.0),
                h.position,
            )
            .u64(h.committed)
            .text(&h.http),
            Self::Join(j) => w.fixed(&j.nonce).text(&j.http),
            Self::JoinResponse(j) => {
                let known = &j.members[..j.members.len().min(MEMBERS_MAX)];
                let w = position(w.fixed(&j.nonce).u64(j.term.0), j.position).u8(known.len() as u8);
                known.iter().fold(w, |w, token| w.u64(token.0))
            }
            Self::Leave => w,
            Self::Election { term, position: at } | Self::Ok { term, position: at } => {
                position(w.u64(term.0), *at)
            }
            Self::Coordinator { term, block } => w.u64(term.0).u64(*block),
            Self::BallotRequest {
                ballot: b,
                position: at,
                cold_start,
            } => position(ballot(w, b), *at).u8((*cold_start).into()),
            Self::Ballot {
                ballot: b,
                signature,
                muted,
            } => ballot(w, b).fixed(signature).u8((*muted).into()),
            Self::BallotRefused {
                term,
                reason,
                position: at,
            } => position(w.u64(term.0).u8(*reason as u8), *at),
        }
        .done()
    }

    /// The reverse of [`Self::encode`]; every byte must have its meaning.
    pub fn decode(kind: Kind, bytes: &[u8]) -> Result<Self, BadBytes> {
        let mut r = Reader::new(bytes);
        let message = read(kind, &mut r)?;
        r.end()?;
        Ok(message)
    }
}

fn read(kind: Kind, r: &mut Reader<'_>) -> Result<Message, BadBytes> {
    Ok(match kind {
        Kind::Heartbeat => Message::Heartbeat(Heartbeat {
            role: read_role(r)?,
            muted: r.flag("muted")?,
            term: Term(r.u64("term")?),
            position: read_position(r)?,
            committed: r.u64("committed")?,
            http: r.text("http")?,
        }),
        Kind::Join => Message::Join(Join {
            nonce: r.fixed("nonce")?,
            http: r.text("http")?,
        }),
        Kind::JoinResponse => Message::JoinResponse(JoinResponse {
            nonce: r.fixed("nonce")?,
            term: Term(r.u64("term")?),
            position: read_position(r)?,
            members: read_members(r)?,
        }),
        Kind::Leave => Message::Leave,
        Kind::Election => Message::Election {
            term: Term(r.u64("term")?),
            position: read_position(r)?,
        },
        Kind::Ok => Message::Ok {
            term: Term(r.u64("term")?),
            position: read_position(r)?,
        },
        Kind::Coordinator => Message::Coordinator {
            term: Term(r.u64("term")?),
            block: r.u64("block")?,
        },
        Kind::BallotRequest => Message::BallotRequest {
            ballot: read_ballot(r)?,
            position: read_position(r)?,
            cold_start: r.flag("cold start")?,
        },
        Kind::Ballot => Message::Ballot {
            ballot: read_ballot(r)?,
            signature: r.fixed("signature")?,
            muted: r.flag("muted")?,
        },
        Kind::BallotRefused => Message::BallotRefused {
            term: Term(r.u64("term")?),
            reason: read_refusal(r)?,
            position: read_position(r)?,
        },
    })
}

fn position(w: Writer, at: LogPosition) -> Writer {
    w.u64(at.raft_term).u64(at.index)
}

fn read_position(r: &mut Reader<'_>) -> Result<LogPosition, BadBytes> {
    Ok(LogPosition {
        raft_term: r.u64("raft term")?,
        index: r.u64("index")?,
    })
}

fn ballot(w: Writer, b: &Ballot) -> Writer {
    w.u64(b.term.0)
        .u64(b.candidate.0)
        .u64(b.anchor.index)
        .fixed(&b.anchor.root.0)
        .u64(b.deadline)
}

fn read_ballot(r: &mut Reader<'_>) -> Result<Ballot, BadBytes> {
    Ok(Ballot {
        term: Term(r.u64("term")?),
        candidate: Token(r.u64("candidate")?),
        anchor: Anchor {
            index: r.u64("anchor index")?,
            root: r.hash("anchor root")?,
        },
        deadline: r.u64("deadline")?,
    })
}

fn read_role(r: &mut Reader<'_>) -> Result<Role, BadBytes> {
    match r.u8("role")? {
        0 => Ok(Role::Follower),
        1 => Ok(Role::Candidate),
        2 => Ok(Role::Leader),
        found => Err(BadBytes::Value {
            field: "role",
            found: found.into(),
        }),
    }
}

fn read_refusal(r: &mut Reader<'_>) -> Result<BallotRefusal, BadBytes> {
    const ALL: [BallotRefusal; 6] = [
        BallotRefusal::LeaderLives,
        BallotRefusal::Muted,
        BallotRefusal::Behind,
        BallotRefusal::Term,
        BallotRefusal::Deadline,
        BallotRefusal::NotACandidate,
    ];
    let found = r.u8("reason")?;
    ALL.into_iter()
        .find(|reason| *reason as u8 == found)
        .ok_or(BadBytes::Value {
            field: "reason",
            found: found.into(),
        })
}

fn read_members(r: &mut Reader<'_>) -> Result<Vec<Token>, BadBytes> {
    let count = usize::from(r.u8("members")?);
    if count > MEMBERS_MAX {
        return Err(BadBytes::Value {
            field: "members",
            found: count as u64,
        });
    }
    (0..count).map(|_| r.u64("member").map(Token)).collect()
}
