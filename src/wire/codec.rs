//! The canonical bytes of every message: what `message.rs` names, written and read field by field.

use crate::ballot::{Anchor, Ballot};
use crate::bytes::{BadBytes, Reader, Writer};
use crate::clock::Clock;
use crate::ids::{Incarnation, LogPosition, Term, Token};
use crate::message::{
    BallotRefusal, CausalRange, Heartbeat, Join, JoinResponse, Kind, MEMBERS_MAX, Message, Role,
    TradeConfirm, TradeRequest,
};
use crate::trade::{Answer, Offer, Signature};

impl Message {
    /// Canonical bytes of the content.
    pub fn encode(&self) -> Vec<u8> {
        let w = Writer::new();
        match self {
            Self::Heartbeat(h) => {
                let w = w.u8(h.role as u8).u8(h.muted.into()).u64(h.term.0);
                let w = position(w, h.position).u64(h.committed).text(&h.http);
                members(w, &h.unheard)
            }
            Self::Join(j) => w.fixed(&j.nonce).text(&j.http),
            Self::JoinResponse(j) => {
                let w = position(w.fixed(&j.nonce).u64(j.term.0), j.position);
                j.clock.write(members(w, &j.members))
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
            Self::TradeRequest(t) => {
                let w = t.offer.write(t.clock.write(w));
                w.fixed(&t.signature.0)
            }
            Self::TradeConfirm(t) => {
                let w = t.offer.write(t.clock.write(w)).fixed(&t.offered.0);
                t.answer.write(w)
            }
            Self::CausalAsk(range) => w
                .u64(range.author.0)
                .u64(range.incarnation.0)
                .u64(range.first)
                .u64(range.last),
            Self::CallElection { term } => w.u64(term.0),
            Self::HandOver { term, to } => w.u64(term.0).u64(to.0),
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

#[allow(clippy::too_many_lines)] // a table of kinds is a table
fn read(kind: Kind, r: &mut Reader<'_>) -> Result<Message, BadBytes> {
    Ok(match kind {
        Kind::Heartbeat => Message::Heartbeat(Heartbeat {
            role: read_role(r)?,
            muted: r.flag("muted")?,
            term: Term(r.u64("term")?),
            position: read_position(r)?,
            committed: r.u64("committed")?,
            http: r.text("http")?,
            unheard: read_members(r)?,
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
            clock: Clock::read(r)?,
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
        Kind::TradeRequest => Message::TradeRequest(TradeRequest {
            clock: Clock::read(r)?,
            offer: Offer::read(r)?,
            signature: Signature(r.fixed("offer signature")?),
        }),
        Kind::TradeConfirm => Message::TradeConfirm(TradeConfirm {
            clock: Clock::read(r)?,
            offer: Offer::read(r)?,
            offered: Signature(r.fixed("offer signature")?),
            answer: Answer::read(r)?,
        }),
        Kind::CausalAsk => Message::CausalAsk(CausalRange {
            author: Token(r.u64("author")?),
            incarnation: Incarnation(r.u64("author's incarnation")?),
            first: r.u64("first sequence")?,
            last: r.u64("last sequence")?,
        }),
        Kind::CallElection => Message::CallElection {
            term: Term(r.u64("term")?),
        },
        Kind::HandOver => Message::HandOver {
            term: Term(r.u64("term")?),
            to: Token(r.u64("to")?),
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

/// As many as may be named; the rest is left out.
fn members(w: Writer, tokens: &[Token]) -> Writer {
    let named = &tokens[..tokens.len().min(MEMBERS_MAX)];
    let w = w.u8(u8::try_from(named.len()).unwrap_or(u8::MAX));
    named.iter().fold(w, |w, token| w.u64(token.0))
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
