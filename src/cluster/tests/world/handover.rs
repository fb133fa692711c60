//! A hand-over in small steps, at one machine: what a member believes, of whom, and for how long.

use crate::said::said;
use std::sync::Arc;
use synod_cluster::{CallRefusal, Cluster, Effect, EngineFacts, Event, Identity, Notice, Settings};
use synod_wire::ballot::{Ballot, Domain};
use synod_wire::message::{Heartbeat, Role};
use synod_wire::seal::{Opener, Sealer, Sessions, Windows};
use synod_wire::{
    Address, Anchor, Authentic, BlockRef, ChainView, ClusterId, Hash, Incarnation, LogPosition,
    Member, Message, SessionKey, SessionPublic, Term, Token,
};

const ME: Token = Token(2);
const LEADER: Token = Token(3);
const TERM: Term = Term(4);
const NEXT: Term = Term(5);
const TIME: u64 = 1_000;
const DOMAIN: Domain = Domain {
    chain_id: 31_337,
    contract: Address::ZERO,
};

fn key(token: Token) -> Arc<SessionKey> {
    let mut secret = [1; 32];
    secret[24..].copy_from_slice(&token.0.to_be_bytes());
    Arc::new(SessionKey::from_bytes(&secret).unwrap())
}

struct Registered(Token);

impl Sessions for Registered {
    fn session(&self, token: Token) -> Option<(Incarnation, SessionPublic)> {
        (token == self.0).then(|| (Incarnation(1), key(token).public()))
    }
}

/// What `wire` makes of a frame that this token signed.
fn from(token: Token, message: &Message) -> Authentic<Message> {
    let cluster = ClusterId::of(DOMAIN.chain_id, DOMAIN.contract);
    let bytes = Sealer::new(cluster, token, Incarnation(1)).seal(&key(token), None, message);
    let opener = Opener {
        cluster,
        me: Token(u64::MAX),
    };
    let opened = opener.open(&bytes, &Registered(token), &mut Windows::default());
    opened.unwrap()
}

fn member(token: u64) -> Member {
    Member {
        token: Token(token),
        incarnation: Incarnation(1),
        active: true,
        seated: token != 6,
        owner: Address::ZERO,
        wallet: Address::ZERO,
        instance_id: Address::ZERO,
        session: key(Token(token)).public(),
        expires_at: u64::MAX,
        registered_block: 1,
        evidence_hash: Hash::ZERO,
        name: String::new(),
        endpoint: String::new(),
    }
}

/// Members 1 to 5 are seated, 6 is not.
fn view() -> ChainView {
    ChainView {
        block: BlockRef {
            number: 10,
            hash: Hash::ZERO,
            time: TIME,
        },
        term: TERM,
        leader: Some(LEADER),
        leader_incarnation: Incarnation(1),
        elected_block: 9,
        seated_count: 5,
        founders: 5,
        anchor: Anchor::default(),
        members: (1..=6).map(member).collect(),
    }
}

fn position(index: u64) -> LogPosition {
    LogPosition {
        raft_term: 7,
        index,
    }
}

/// One machine, its engine and its clock; the others are told.
struct Bench {
    cluster: Cluster,
    now: u64,
    facts: EngineFacts,
    dead: Option<Token>,
    said: Vec<String>,
    sent: Vec<(Option<Token>, Message)>,
}

impl Bench {
    fn new(me: Token) -> Self {
        let identity = Identity {
            token: me,
            incarnation: Incarnation(1),
            registered_term: Term(0),
            restarted: false,
            session: key(me),
            domain: DOMAIN,
            nonce: [0; 16],
            http: String::new(),
        };
        let facts = EngineFacts {
            position: position(50),
            committed: 50,
            applied: 50,
            born: true,
            leading: me == LEADER,
            append_age_ms: Some(0),
            log_term: Some((TERM, LEADER)),
        };
        let mut bench = Self {
            cluster: Cluster::new(Settings::lan(), identity, 0),
            now: 0,
            facts,
            dead: None,
            said: Vec::new(),
            sent: Vec::new(),
        };
        bench.cluster.handle(0, Event::Chain(view()));
        bench.run(500, |_| position(50));
        bench.said.clear();
        bench.sent.clear();
        bench
    }

    /// Time passes; everybody beats at the position that is given, 4 as a muted node.
    fn run(&mut self, ms: u64, at: impl Fn(Token) -> LogPosition) {
        for _ in 0..ms / 10 {
            self.now += 10;
            if self.now.is_multiple_of(100) {
                let dead = self.dead;
                for token in (1..=6).map(Token).filter(|t| Some(*t) != dead) {
                    let beat = Heartbeat {
                        role: if token == LEADER {
                            Role::Leader
                        } else {
                            Role::Follower
                        },
                        muted: token == Token(4),
                        term: TERM,
                        position: at(token),
                        committed: 50,
                        http: String::new(),
                        unheard: Vec::new(),
                    };
                    self.hear(token, &Message::Heartbeat(beat));
                }
            }
            self.tick();
        }
    }

    fn tick(&mut self) {
        let facts = self.facts.clone();
        self.cluster.handle(self.now, Event::Tick(facts));
        self.collect();
    }

    fn hear(&mut self, token: Token, message: &Message) {
        // the detector knows nobody by its own token
        let frame = from(token, message);
        self.cluster.handle(self.now, Event::Frame(frame));
        self.collect();
    }

    fn call(&mut self) {
        self.cluster.handle(self.now, Event::CallElection);
        self.collect();
    }

    fn collect(&mut self) {
        while let Some(effect) = self.cluster.poll() {
            match effect {
                Effect::Notice(notice) => self.said.push(said(&notice)),
                Effect::Send { to, message } => self.sent.push((to, message)),
                _ => {}
            }
        }
    }

    /// Does this machine sign for that candidate?
    fn signs_for(&mut self, candidate: Token, at: LogPosition) -> bool {
        self.sent.clear();
        let ballot = Ballot {
            term: NEXT,
            candidate,
            anchor: Anchor::default(),
            deadline: TIME + 10,
        };
        self.hear(
            candidate,
            &Message::BallotRequest {
                ballot,
                position: at,
                cold_start: false,
            },
        );
        let signed = |m: &Message| matches!(m, Message::Ballot { .. });
        self.sent
            .iter()
            .any(|(to, m)| *to == Some(candidate) && signed(m))
    }

    fn handed(&self) -> Vec<Token> {
        let named = |(_, m): &(Option<Token>, Message)| match m {
            Message::HandOver { to, .. } => Some(*to),
            _ => None,
        };
        self.sent.iter().filter_map(named).collect()
    }
}

fn hand_over(term: Term, to: Token) -> Message {
    Message::HandOver { term, to }
}

#[test]
fn upon_hand_over_the_named_one_and_nobody_else_gets_a_ballot_and_only_for_a_while() {
    let mut bench = Bench::new(ME);
    assert!(!bench.signs_for(Token(5), position(50)), "the leader lives");
    bench.hear(LEADER, &hand_over(NEXT, Token(5)));
    assert!(
        !bench.signs_for(Token(1), position(50)),
        "another candidate"
    );
    assert!(!bench.signs_for(Token(5), position(49)), "a shorter log");
    assert!(bench.signs_for(Token(5), position(50)));
    assert!(bench.cluster.promise().is_some(), "and our ballot binds us");
    let window = Settings::lan().gather_ms + Settings::lan().ok_wait_ms;
    bench.run(window - 10, |_| position(50));
    assert!(bench.signs_for(Token(5), position(50)), "the last moment");
    bench.run(10, |_| position(50));
    assert!(
        !bench.signs_for(Token(5), position(50)),
        "the window is over"
    );
}

#[test]
fn a_hand_over_of_anybody_else_or_to_anybody_unfit_changes_nothing() {
    let cases = [
        (Token(1), NEXT, Token(1), "not the leader"),
        (LEADER, TERM, Token(5), "an old term"),
        (LEADER, Term(6), Token(5), "a term too far"),
        (LEADER, NEXT, Token(4), "a muted member"),
        (LEADER, NEXT, Token(6), "a member without a seat"),
        (LEADER, NEXT, Token(9), "nobody"),
    ];
    for (who, term, to, why) in cases {
        let mut bench = Bench::new(ME);
        bench.hear(who, &hand_over(term, to));
        let candidate = if to == Token(9) { Token(5) } else { to };
        assert!(!bench.signs_for(candidate, position(50)), "{why}");
        assert_eq!(bench.said, Vec::<String>::new(), "{why}");
    }
}

#[test]
fn a_ballot_that_confirms_the_leader_leaves_its_appends_alone() {
    let mut bench = Bench::new(ME);
    bench.hear(LEADER, &hand_over(NEXT, LEADER));
    assert!(bench.signs_for(LEADER, position(50)));
    assert_eq!(bench.cluster.promise(), None);
}

#[test]
fn a_leader_that_names_one_after_another_is_believed_once() {
    let mut bench = Bench::new(ME);
    bench.hear(LEADER, &hand_over(NEXT, Token(1)));
    bench.hear(LEADER, &hand_over(NEXT, Token(5)));
    assert!(!bench.signs_for(Token(5), position(50)), "the first counts");
    bench.run(2_490, |_| position(50));
    bench.hear(LEADER, &hand_over(NEXT, Token(5)));
    assert!(
        !bench.signs_for(Token(5), position(50)),
        "half an interval is not over"
    );
    bench.run(10, |_| position(50));
    bench.hear(LEADER, &hand_over(NEXT, Token(5)));
    assert!(bench.signs_for(Token(5), position(50)));
}

#[test]
fn the_highest_id_that_keeps_up_is_named() {
    // 6 has no seat, 4 is muted
    let mut bench = Bench::new(LEADER);
    bench.call();
    assert_eq!(bench.handed(), vec![Token(5); 3]);
    assert!(
        bench.cluster.pen_down(),
        "the log takes nothing while another shall lead"
    );

    let mut bench = Bench::new(LEADER);
    bench.run(300, |token| {
        position(if token == Token(5) { 49 } else { 50 })
    });
    bench.sent.clear();
    bench.call();
    assert_eq!(
        bench.handed(),
        vec![LEADER; 3],
        "5 does not hold what was committed"
    );
    assert!(
        !bench.cluster.pen_down(),
        "it is to be confirmed: nothing waits"
    );
    assert!(
        bench.said.iter().any(|s| s == "candidate for term 5") || {
            bench.run(20, |_| position(50));
            bench.said.iter().any(|s| s == "candidate for term 5")
        }
    );
}

#[test]
fn a_leader_signs_for_its_successor_only_when_it_has_looked_at_its_own_log() {
    let mut bench = Bench::new(LEADER);
    bench.call();
    assert!(
        !bench.signs_for(Token(5), position(50)),
        "it may have written since"
    );
    bench.facts.position = position(51);
    bench.run(20, |_| position(50));
    assert!(!bench.signs_for(Token(5), position(50)), "it has");
    assert!(bench.signs_for(Token(5), position(51)));
    bench.run(1_500, |_| position(51));
    assert!(bench.cluster.pen_down(), "its ballot outlives the window");
}

#[test]
fn whoever_calls_for_ever_is_heard_once_a_minute_and_the_others_in_between() {
    let mut bench = Bench::new(LEADER);
    let call = Message::CallElection { term: NEXT };
    let turn = |bench: &mut Bench, from: u64, times: u32| {
        for _ in 0..times {
            bench.hear(Token(from), &call);
            bench.run(10, |_| position(50));
        }
    };
    turn(&mut bench, 1, 501);
    assert_eq!(bench.handed().len(), 3, "one hand-over, in three copies");
    turn(&mut bench, 2, 1);
    assert_eq!(
        bench.handed().len(),
        6,
        "another member, five seconds later"
    );
    turn(&mut bench, 1, 5_480);
    assert_eq!(
        bench.handed().len(),
        6,
        "the first one's minute is not over"
    );
    turn(&mut bench, 1, 20);
    assert_eq!(bench.handed().len(), 9);
}

#[test]
fn calls_of_the_muted_of_the_unseated_and_for_other_terms_are_not_heard() {
    let cases = [
        (Token(4), NEXT, "muted"),
        (Token(6), NEXT, "without a seat"),
        (Token(1), TERM, "an old term"),
        (Token(1), Term(6), "a term too far"),
    ];
    for (who, term, why) in cases {
        let mut bench = Bench::new(LEADER);
        bench.hear(who, &Message::CallElection { term });
        assert_eq!(bench.handed(), vec![], "{why}");
    }
    let mut bench = Bench::new(LEADER);
    bench.cluster.handle(bench.now, Event::ChainSilent);
    bench.hear(Token(1), &Message::CallElection { term: NEXT });
    assert_eq!(bench.handed(), vec![], "no election could end");
}

#[test]
fn whoever_speaks_without_a_seat_takes_no_part_until_the_contract_seats_it() {
    let mut bench = Bench::new(Token(6));
    let part = |(_, m): &(Option<Token>, Message)| {
        !matches!(
            m,
            Message::Heartbeat(_) | Message::Join(_) | Message::BallotRefused { .. }
        )
    };
    bench.dead = Some(LEADER);
    bench.facts.append_age_ms = Some(60_000);
    bench.run(3_000, |_| position(50));
    assert!(bench.cluster.leader_gone() && bench.cluster.mute().may_speak());
    let election = Message::Election {
        term: NEXT,
        position: position(50),
    };
    bench.hear(Token(1), &election);
    assert!(!bench.sent.iter().any(part), "{:?}", bench.sent);
    assert!(!bench.signs_for(Token(5), position(50)));

    let mut seated = view();
    seated.block.number += 1;
    seated.seated_count += 1;
    seated.members.iter_mut().for_each(|m| m.seated = true);
    bench.cluster.handle(bench.now, Event::Chain(seated));
    bench.run(500, |_| position(50));
    let stands = |(_, m): &(Option<Token>, Message)| matches!(m, Message::BallotRequest { .. });
    assert!(bench.sent.iter().any(stands), "now its id ranks");
    assert!(bench.signs_for(Token(5), position(50)));
}

#[test]
fn a_person_learns_why_not() {
    let refused = |bench: &mut Bench| {
        bench.said.clear();
        bench.call();
        bench.said.clone()
    };
    let why = |reason| vec![said(&Notice::CallRefused(reason))];

    let mut bench = Bench::new(ME);
    bench.call();
    assert_eq!(bench.said, ["an election is called, term 5"]);
    assert_eq!(
        refused(&mut bench),
        why(CallRefusal::TooSoon),
        "it is on its way"
    );
    bench.said.clear();
    bench.run(1_300, |_| position(50));
    assert_eq!(bench.said, why(CallRefusal::NoAnswer));
    let calls = |(to, m): &&(Option<Token>, Message)| {
        *to == Some(LEADER) && matches!(m, Message::CallElection { term: NEXT })
    };
    let count = bench.sent.iter().filter(calls).count();
    assert!(
        (10..=13).contains(&count),
        "once per heartbeat, not {count}"
    );

    bench.cluster.handle(bench.now, Event::ChainSilent);
    assert_eq!(refused(&mut bench), why(CallRefusal::ChainSilent));
    let mut unseated = Bench::new(Token(6));
    assert_eq!(refused(&mut unseated), why(CallRefusal::NotAVoter));
}
