//! Three members of one cluster, one message of every kind, and how a proptest makes any message.

use proptest::prelude::*;
use std::collections::BTreeMap;
use synod_wire::message::{BallotRefusal, Heartbeat, Join, JoinResponse, MEMBERS_MAX, Role};
use synod_wire::seal::{Opener, Refused, Sealer, Sessions, Windows};
use synod_wire::{
    Address, Anchor, Authentic, Ballot, ClusterId, Hash, Incarnation, LogPosition, Message,
    SessionKey, SessionPublic, Term, Token,
};

pub const ALICE: Token = Token(1);
pub const BOB: Token = Token(2);

pub fn key(token: Token) -> SessionKey {
    SessionKey::from_bytes(&[u8::try_from(token.0).unwrap(); 32]).unwrap()
}

pub fn cluster() -> ClusterId {
    ClusterId::of(31_337, Address([0x5f; 20]))
}

/// Registered sessions: token to incarnation and key.
pub struct Roster(pub BTreeMap<Token, (Incarnation, SessionPublic)>);

impl Sessions for Roster {
    fn session(&self, token: Token) -> Option<(Incarnation, SessionPublic)> {
        self.0.get(&token).copied()
    }
}

/// Tokens 1 to 3, all in incarnation 1.
pub fn roster() -> Roster {
    let member = |n| (Token(n), (Incarnation(1), key(Token(n)).public()));
    Roster((1..=3).map(member).collect())
}

/// Alice speaks, Bob listens.
pub struct Pair {
    pub sealer: Sealer,
    pub opener: Opener,
    pub roster: Roster,
    pub windows: Windows,
}

impl Pair {
    pub fn new() -> Self {
        Self {
            sealer: Sealer::new(cluster(), ALICE, Incarnation(1)),
            opener: Opener {
                cluster: cluster(),
                me: BOB,
            },
            roster: roster(),
            windows: Windows::default(),
        }
    }

    pub fn say(&mut self, message: &Message) -> Vec<u8> {
        self.sealer.seal(&key(ALICE), None, message)
    }

    pub fn open(&mut self, frame: &[u8]) -> Result<Authentic<Message>, Refused> {
        self.opener.open(frame, &self.roster, &mut self.windows)
    }

    /// `ok`, or the refusal's label.
    pub fn verdict(&mut self, frame: &[u8]) -> &'static str {
        match self.open(frame) {
            Ok(_) => "ok",
            Err(why) => why.label(),
        }
    }
}

pub fn ballot() -> Ballot {
    Ballot {
        term: Term(7),
        candidate: ALICE,
        anchor: Anchor {
            index: 9,
            root: Hash([0xaa; 32]),
        },
        deadline: 1_700_000_015,
    }
}

pub fn position() -> LogPosition {
    LogPosition {
        raft_term: 3,
        index: 44,
    }
}

/// One of every kind, in the order of their numbers.
pub fn one_of_each() -> Vec<Message> {
    vec![
        Message::Heartbeat(Heartbeat {
            role: Role::Leader,
            muted: false,
            term: Term(6),
            position: position(),
            committed: 43,
            http: "127.0.0.1:8081".to_owned(),
        }),
        Message::Join(Join {
            nonce: [7; 16],
            http: "127.0.0.1:8082".to_owned(),
        }),
        Message::JoinResponse(JoinResponse {
            nonce: [7; 16],
            term: Term(6),
            position: position(),
            members: vec![Token(1), Token(2), Token(3)],
        }),
        Message::Leave,
        Message::Election {
            term: Term(7),
            position: position(),
        },
        Message::Ok {
            term: Term(7),
            position: position(),
        },
        Message::Coordinator {
            term: Term(7),
            block: 12,
        },
        Message::BallotRequest {
            ballot: ballot(),
            position: position(),
            cold_start: true,
        },
        Message::Ballot {
            ballot: ballot(),
            signature: [0xcc; 64],
            muted: false,
        },
        Message::BallotRefused {
            term: Term(7),
            reason: BallotRefusal::Behind,
            position: position(),
        },
    ]
}

prop_compose! {
    fn positions()(raft_term: u64, index: u64) -> LogPosition {
        LogPosition { raft_term, index }
    }
}

prop_compose! {
    fn ballots()(term: u64, candidate: u64, index: u64, root: [u8; 32], deadline: u64) -> Ballot {
        let anchor = Anchor { index, root: Hash(root) };
        Ballot { term: Term(term), candidate: Token(candidate), anchor, deadline }
    }
}

prop_compose! {
    fn heartbeats()(
        role in prop_oneof![Just(Role::Follower), Just(Role::Candidate), Just(Role::Leader)],
        muted: bool, term: u64, position in positions(), committed: u64, http in "[a-z0-9.:é]{0,120}",
    ) -> Message {
        Message::Heartbeat(Heartbeat { role, muted, term: Term(term), position, committed, http })
    }
}

prop_compose! {
    fn join_responses()(
        nonce: [u8; 16], term: u64, position in positions(),
        members in prop::collection::vec(any::<u64>().prop_map(Token), 0..=MEMBERS_MAX),
    ) -> Message {
        Message::JoinResponse(JoinResponse { nonce, term: Term(term), position, members })
    }
}

fn refusals() -> impl Strategy<Value = BallotRefusal> {
    prop_oneof![
        Just(BallotRefusal::LeaderLives),
        Just(BallotRefusal::Muted),
        Just(BallotRefusal::Behind),
        Just(BallotRefusal::Term),
        Just(BallotRefusal::Deadline),
        Just(BallotRefusal::NotACandidate),
    ]
}

/// Any message that can be said.
pub fn messages() -> impl Strategy<Value = Message> {
    prop_oneof![
        heartbeats(),
        join_responses(),
        (any::<[u8; 16]>(), ".{0,60}")
            .prop_map(|(nonce, http)| Message::Join(Join { nonce, http })),
        Just(Message::Leave),
        (any::<u64>(), positions()).prop_map(|(term, position)| Message::Election {
            term: Term(term),
            position
        }),
        (any::<u64>(), positions()).prop_map(|(term, position)| Message::Ok {
            term: Term(term),
            position
        }),
        (any::<u64>(), any::<u64>()).prop_map(|(term, block)| {
            Message::Coordinator {
                term: Term(term),
                block,
            }
        }),
        (ballots(), positions(), any::<bool>()).prop_map(|(ballot, position, cold_start)| {
            Message::BallotRequest {
                ballot,
                position,
                cold_start,
            }
        }),
        (ballots(), any::<[u8; 32]>(), any::<bool>()).prop_map(|(ballot, half, muted)| {
            let mut signature = [9; 64];
            signature[..32].copy_from_slice(&half);
            Message::Ballot {
                ballot,
                signature,
                muted,
            }
        }),
        (any::<u64>(), refusals(), positions()).prop_map(|(term, reason, position)| {
            Message::BallotRefused {
                term: Term(term),
                reason,
                position,
            }
        }),
    ]
}
