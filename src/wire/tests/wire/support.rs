//! Three members of one cluster, one message of every kind, and how a proptest makes any message.

use proptest::prelude::*;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use synod_wire::clock::{CLOCK_LEN_MAX, SEQUENCE_MAX};
use synod_wire::message::{
    BallotRefusal, CausalRange, Heartbeat, Join, JoinResponse, MEMBERS_MAX, Role, TradeConfirm,
    TradeRequest,
};
use synod_wire::seal::{Opener, Refused, Sealer, Sessions, Windows};
use synod_wire::trade::{Answer, Reply, Side, Signature, TradeRefusal};
use synod_wire::{
    Address, Anchor, Authentic, Ballot, Clock, ClusterId, Hash, Incarnation, LogPosition, Message,
    Offer, SessionKey, SessionPublic, Term, Tick, Token, TradeId, Wh,
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

/// Alice's own signature under a frame that she changed: what a broken member may send.
pub fn signed_anew(mut frame: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    frame.truncate(frame.len() - 64);
    change(&mut frame);
    let digest = Sha256::new()
        .chain_update(b"synod/frame/v1\0")
        .chain_update(&frame)
        .finalize();
    let signature = key(ALICE).sign(&digest.into());
    frame.extend(signature);
    frame
}

/// A clock of these (token, incarnation, sequence).
pub fn clock(entries: &[(u64, u64, u64)]) -> Clock {
    let mut clock = Clock::default();
    for (token, incarnation, sequence) in entries.iter().copied() {
        let incarnation = Incarnation(incarnation);
        let tick = Tick {
            incarnation,
            sequence,
        };
        assert!(clock.set(Token(token), tick));
    }
    clock
}

/// The most members that fit, Alice in incarnation 1 at `sequence` among them.
pub fn largest_clock(sequence: u64) -> Clock {
    let others = (2..=CLOCK_LEN_MAX as u64).map(|token| (token, u64::MAX, SEQUENCE_MAX));
    let entries: Vec<_> = std::iter::once((ALICE.0, 1, sequence))
        .chain(others)
        .collect();
    clock(&entries)
}

/// 30 credits from the proposer to the other.
pub fn offer(proposer: Token, sequence: u64, with: Token) -> Offer {
    let incarnation = Incarnation(1);
    Offer {
        id: TradeId {
            proposer,
            incarnation,
            sequence,
        },
        side: Side::Sell,
        with,
        amount: Wh(30_000),
        expires_ms: 1_700_000_030_000,
    }
}

/// Alice offers something to Bob under this clock.
pub fn trade_request(clock: Clock) -> Message {
    let offer = offer(ALICE, clock.tick(ALICE).sequence, BOB);
    let signature = offer.sign(cluster(), &key(ALICE));
    Message::TradeRequest(TradeRequest {
        clock,
        offer,
        signature,
    })
}

/// Alice agrees to what Bob offered in his fourth message.
pub fn trade_confirm(clock: Clock) -> Message {
    let offer = offer(BOB, 4, ALICE);
    let answer = Answer::sign(
        cluster(),
        &key(ALICE),
        &offer,
        Incarnation(1),
        Reply::Accepted,
    );
    Message::TradeConfirm(TradeConfirm {
        clock,
        offer,
        offered: offer.sign(cluster(), &key(BOB)),
        answer,
    })
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
            unheard: vec![Token(3)],
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
            clock: clock(&[(1, 1, 4), (2, 5, 7)]),
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
        trade_request(clock(&[(1, 1, 5), (2, 1, 3)])),
        trade_confirm(clock(&[(1, 1, 6), (2, 1, 4)])),
        Message::CausalAsk(CausalRange {
            author: Token(3),
            incarnation: Incarnation(2),
            first: 8,
            last: 11,
        }),
        Message::CallElection { term: Term(7) },
        Message::HandOver {
            term: Term(7),
            to: Token(3),
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
        unheard in tokens(),
    ) -> Message {
        Message::Heartbeat(Heartbeat { role, muted, term: Term(term), position, committed, http, unheard })
    }
}

prop_compose! {
    fn join_responses()(
        nonce: [u8; 16], term: u64, position in positions(),
        members in tokens(), clock in clocks(),
    ) -> Message {
        Message::JoinResponse(JoinResponse { nonce, term: Term(term), position, members, clock })
    }
}

fn tokens() -> impl Strategy<Value = Vec<Token>> {
    prop::collection::vec(any::<u64>().prop_map(Token), 0..=MEMBERS_MAX)
}

/// Any clock that can be said.
pub fn clocks() -> impl Strategy<Value = Clock> {
    let entry = (any::<u64>(), any::<u64>(), 1..=SEQUENCE_MAX);
    prop::collection::vec(entry, 0..=CLOCK_LEN_MAX).prop_map(|entries| clock(&entries))
}

prop_compose! {
    fn offers()(
        proposer: u64, incarnation: u64, sequence: u64,
        side in prop_oneof![Just(Side::Sell), Just(Side::Buy)], with: u64, amount: u64, expires_ms: u64,
    ) -> Offer {
        let id = TradeId { proposer: Token(proposer), incarnation: Incarnation(incarnation), sequence };
        Offer { id, side, with: Token(with), amount: Wh(amount), expires_ms }
    }
}

/// Sixty-four bytes: nobody has to have signed what is only encoded.
fn signatures() -> impl Strategy<Value = Signature> {
    any::<[[u8; 32]; 2]>().prop_map(|halves| Signature(halves.concat().try_into().unwrap()))
}

/// Every answer there is.
pub const REPLIES: [Reply; 4] = [
    Reply::Accepted,
    Reply::Refused(TradeRefusal::InsufficientCredits),
    Reply::Refused(TradeRefusal::TooMuch),
    Reply::Refused(TradeRefusal::Busy),
];

prop_compose! {
    fn answers()(incarnation: u64, reply in prop::sample::select(&REPLIES[..]), signature in signatures()) -> Answer {
        Answer { incarnation: Incarnation(incarnation), reply, signature }
    }
}

/// The kinds from 11 on.
fn trades_and_wishes() -> impl Strategy<Value = Message> {
    prop_oneof![
        (clocks(), offers(), signatures()).prop_map(|(clock, offer, signature)| {
            Message::TradeRequest(TradeRequest {
                clock,
                offer,
                signature,
            })
        }),
        (clocks(), offers(), signatures(), answers()).prop_map(
            |(clock, offer, offered, answer)| {
                Message::TradeConfirm(TradeConfirm {
                    clock,
                    offer,
                    offered,
                    answer,
                })
            }
        ),
        any::<[u64; 4]>().prop_map(|[author, incarnation, first, last]| {
            Message::CausalAsk(CausalRange {
                author: Token(author),
                incarnation: Incarnation(incarnation),
                first,
                last,
            })
        }),
        any::<u64>().prop_map(|term| Message::CallElection { term: Term(term) }),
        any::<[u64; 2]>().prop_map(|[term, to]| Message::HandOver {
            term: Term(term),
            to: Token(to),
        }),
    ]
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
        5 => trades_and_wishes(),
        1 => heartbeats(),
        1 => join_responses(),
        1 => (any::<[u8; 16]>(), ".{0,60}")
            .prop_map(|(nonce, http)| Message::Join(Join { nonce, http })),
        1 => Just(Message::Leave),
        1 => (any::<u64>(), positions()).prop_map(|(term, position)| Message::Election {
            term: Term(term),
            position
        }),
        1 => (any::<u64>(), positions()).prop_map(|(term, position)| Message::Ok {
            term: Term(term),
            position
        }),
        1 => (any::<u64>(), any::<u64>()).prop_map(|(term, block)| {
            Message::Coordinator {
                term: Term(term),
                block,
            }
        }),
        1 => (ballots(), positions(), any::<bool>()).prop_map(|(ballot, position, cold_start)| {
            Message::BallotRequest {
                ballot,
                position,
                cold_start,
            }
        }),
        1 => (ballots(), any::<[u8; 32]>(), any::<bool>()).prop_map(|(ballot, half, muted)| {
            let mut signature = [9; 64];
            signature[..32].copy_from_slice(&half);
            Message::Ballot {
                ballot,
                signature,
                muted,
            }
        }),
        1 => (any::<u64>(), refusals(), positions()).prop_map(|(term, reason, position)| {
            Message::BallotRefused {
                term: Term(term),
                reason,
                position,
            }
        }),
    ]
}
