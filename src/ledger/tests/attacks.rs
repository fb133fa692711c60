//! What one broken member, whose frames all verify, once did to the others; each is a story that must not come true.
//! Token 3 is the broken one, and 1 and 2 are honest; the machines are told everything by hand.
#![allow(clippy::unwrap_used)] // tests: a panic is the report

use std::sync::Arc;
use synod_ledger::*;
use synod_wire::message::*;
use synod_wire::seal::{Opener, Sealer, Sessions, Windows};
use synod_wire::trade::Side;
use synod_wire::*;

const EPOCH_MS: u64 = 1_000_000;
const SOON: u64 = EPOCH_MS + 30_000;

fn cluster() -> ClusterId {
    ClusterId(Hash([7; 32]))
}

fn key(token: u64) -> Arc<SessionKey> {
    let mut secret = [1; 32];
    secret[0] = token as u8;
    Arc::new(SessionKey::from_bytes(&secret).unwrap())
}

struct All;

impl Sessions for All {
    fn session(&self, token: Token) -> Option<(Incarnation, SessionPublic)> {
        Some((Incarnation(1), key(token.0).public()))
    }
}

/// A machine, and what its log says.
struct Node {
    me: u64,
    ledger: Ledger,
    accounts: Accounts,
    leader: u64,
}

impl Node {
    fn new(me: u64, leader: u64) -> Self {
        let mut accounts = Accounts::default();
        accounts.genesis(cluster(), Wh(100_000));
        let listed = |token| {
            let (incarnation, key) = (Incarnation(1), key(token).public());
            (Token(token), Session { incarnation, key })
        };
        accounts.members((1..=3).map(listed));
        let identity = Identity {
            token: Token(me),
            incarnation: Incarnation(1),
            cluster: cluster(),
            session: key(me),
        };
        let ledger = Ledger::new(Settings::default(), identity);
        let mut node = Self {
            me,
            ledger,
            accounts,
            leader,
        };
        node.tick(0);
        node
    }

    fn tell(&mut self, now: u64, event: Event) -> Vec<Effect> {
        self.ledger.handle(now, &self.accounts, event);
        std::iter::from_fn(|| self.ledger.poll()).collect()
    }

    fn tick(&mut self, now: u64) -> Vec<Effect> {
        let facts = Facts {
            wall_ms: EPOCH_MS + now,
            log_time_ms: EPOCH_MS + now,
            leader: Some(Token(self.leader)),
            in_office: self.leader == self.me,
            may_speak: true,
            dice: now * 7 + 3,
        };
        self.tell(now, Event::Tick(facts))
    }

    fn hear(&mut self, now: u64, frame: &[u8]) -> Vec<Effect> {
        let (me, bytes) = (Token(self.me), frame.to_vec());
        let opener = Opener {
            cluster: cluster(),
            me,
        };
        let message = opener.open(frame, &All, &mut Windows::default()).unwrap();
        self.tell(now, Event::Frame { message, bytes })
    }

    fn sell(&mut self, now: u64, with: u64) -> Vec<Effect> {
        let wish = Wish {
            side: Side::Sell,
            with: Token(with),
            amount: Wh(1),
        };
        self.tell(now, Event::Wish { ticket: 1, wish })
    }

    fn at(&self, token: u64) -> u64 {
        self.ledger.clock().tick(Token(token)).sequence
    }

    fn refused(&self, label: &str) -> u64 {
        let stats = self.ledger.stats();
        stats.refused.get(label).copied().unwrap_or_default()
    }
}

fn clock(entries: &[(u64, u64, u64)]) -> Clock {
    let mut clock = Clock::default();
    for (token, incarnation, sequence) in entries {
        let (incarnation, sequence) = (Incarnation(*incarnation), *sequence);
        let tick = Tick {
            incarnation,
            sequence,
        };
        assert!(clock.set(Token(*token), tick));
    }
    clock
}

/// 3 wants to buy, and has heard what `after` says.
fn request(
    sequence: u64,
    with: u64,
    amount: u64,
    expires_ms: u64,
    after: &[(u64, u64, u64)],
) -> Vec<u8> {
    let offer = Offer {
        id: TradeId {
            proposer: Token(3),
            incarnation: Incarnation(1),
            sequence,
        },
        side: Side::Buy,
        with: Token(with),
        amount: Wh(amount),
        expires_ms,
    };
    let entries = [after, &[(3, 1, sequence)]].concat();
    let message = Message::TradeRequest(TradeRequest {
        clock: clock(&entries),
        signature: offer.sign(cluster(), &key(3)),
        offer,
    });
    Sealer::new(cluster(), Token(3), Incarnation(1)).seal(&key(3), None, &message)
}

fn said(effects: &[Effect]) -> Vec<Vec<u8>> {
    let frame = |effect: &Effect| match effect {
        Effect::Spread { frame, .. } => Some(frame.clone()),
        _ => None,
    };
    effects.iter().filter_map(frame).collect()
}

fn asks(effects: &[Effect]) -> usize {
    let ask = |effect: &&Effect| matches!(effect, Effect::Ask { .. });
    effects.iter().filter(ask).count()
}

/// What 1 in office asks of 2 is answered until something is closed. Answers whose incarnation the log closes first.
fn first_closed(lead: &mut Node, honest: &mut Node, until: u64) -> Option<Token> {
    for now in (160..until).step_by(20) {
        let mut effects = lead.tick(now);
        for frame in said(&honest.tick(now)) {
            effects.extend(lead.hear(now, &frame));
        }
        for effect in effects {
            match effect {
                Effect::Ask { to, range } if to == Token(2) => {
                    let question = Message::CausalAsk(range);
                    let mut sealer = Sealer::new(cluster(), Token(1), Incarnation(1));
                    let frame = sealer.seal(&key(1), Some(to), &question);
                    for effect in honest.hear(now, &frame) {
                        if let Effect::Relay { frames, .. } = effect {
                            frames.iter().for_each(|f| drop(lead.hear(now, f)));
                        }
                    }
                }
                Effect::Close {
                    token,
                    incarnation,
                    last,
                } => {
                    for node in [&mut *lead, honest] {
                        node.accounts.close(token, incarnation, last);
                    }
                    return Some(token);
                }
                _ => {}
            }
        }
    }
    None
}

/// 3 shows 2 one message and the leader another one under the same number, with this clock.
fn equivocated(after: &[(u64, u64, u64)]) {
    let (mut lead, mut honest) = (Node::new(1, 1), Node::new(2, 1));
    let answer = said(&honest.hear(10, &request(1, 2, 1_000, SOON, &[])));
    assert_eq!(answer.len(), 1, "2 answers");
    lead.hear(12, &answer[0]);
    lead.hear(150, &request(1, 2, 2_000, SOON, after));
    let closed = first_closed(&mut lead, &mut honest, 11_000);
    assert_eq!(closed, Some(Token(3)));
    lead.tick(11_000);
    for now in (11_000..60_000).step_by(100) {
        for frame in said(&honest.tick(now)) {
            lead.hear(now, &frame);
        }
        let closes = lead.tick(now);
        let closes = closes.iter().any(|e| matches!(e, Effect::Close { .. }));
        assert!(!closes, "nobody else is closed");
    }
    assert_eq!((lead.at(2), lead.ledger.buffered()), (1, 0));
    assert_eq!(said(&honest.sell(60_000, 1)).len(), 1, "2 may still trade");
}

#[test]
fn a_liar_that_equivocates_does_not_silence_whom_it_answered() {
    equivocated(&[(2, 1, 300)]);
}

#[test]
fn two_messages_that_wait_for_each_other_close_who_made_them_so() {
    equivocated(&[(2, 1, 1)]);
}

#[test]
fn tokens_that_never_were_are_not_worth_a_question() {
    let mut lead = Node::new(1, 1);
    for n in 0..100 {
        lead.hear(1, &request(1, 2, 1, SOON, &[(1_000_000 + n, 0, 1_000)]));
    }
    let asked: usize = (20..1_000)
        .step_by(20)
        .map(|now| asks(&lead.tick(now)))
        .sum();
    assert_eq!((asked, lead.refused("implausible clock")), (0, 100));
}

#[test]
fn one_member_has_one_rumour_at_a_time() {
    let mut lead = Node::new(1, 1);
    lead.accounts.members((1..=30).map(|token| {
        let (incarnation, key) = (Incarnation(1), key(token).public());
        (Token(token), Session { incarnation, key })
    }));
    for token in (2..=30).filter(|token| *token != 3) {
        lead.hear(1, &request(1, 2, 1, SOON, &[(token, 1, 1_000)]));
    }
    let asked: usize = (20..1_020)
        .step_by(20)
        .map(|now| asks(&lead.tick(now)))
        .sum();
    assert!((1..=6).contains(&asked), "{asked} questions in a second");
}

#[test]
fn a_skip_believes_no_number_that_only_another_member_claims() {
    let (mut follower, mut two) = (Node::new(1, 3), Node::new(2, 3));
    follower.hear(10, &request(1, 1, 1_000, SOON, &[(2, 1, 512)]));
    assert_eq!(follower.ledger.buffered(), 1);
    for now in (100..40_000).step_by(100) {
        follower.tick(now);
    }
    assert_eq!((follower.at(2), follower.ledger.buffered()), (0, 0));
    let offered = said(&follower.sell(40_000, 2));
    two.tick(40_000);
    assert_eq!(said(&two.hear(40_000, &offered[0])).len(), 1, "2 answers");
}

#[test]
fn an_offer_without_end_is_not_answered_and_reserves_nothing() {
    let mut two = Node::new(2, 1);
    let last = EPOCH_MS + OFFER_TTL_MAX_MS;
    for (sequence, expires_ms) in [(1, u64::MAX), (2, last + 11)] {
        let effects = two.hear(10, &request(sequence, 2, 99_000, expires_ms, &[]));
        assert_eq!(said(&effects).len(), 0);
    }
    assert_eq!(two.refused("offer"), 2);
    assert_eq!(two.ledger.reserved(&two.accounts), Wh(0));
    let effects = two.hear(10, &request(3, 2, 99_000, last + 10, &[]));
    assert_eq!(said(&effects).len(), 1, "the longest one is answered");
    assert_eq!(two.ledger.reserved(&two.accounts), Wh(99_000));
    // the log decides another offer of this number: ours is never decided
    two.tick(OFFER_TTL_MAX_MS + 20_000);
    assert_eq!(two.ledger.reserved(&two.accounts), Wh(99_000));
    two.tick(OFFER_TTL_MAX_MS + 31_000);
    assert_eq!(two.ledger.reserved(&two.accounts), Wh(0));
    assert_eq!(two.ledger.open().count(), 0);
}

#[test]
fn the_log_decides_no_offer_that_lives_too_long() {
    let accounts = Node::new(1, 1).accounts;
    let settlement = |expires_ms| {
        let offer = Offer {
            id: TradeId {
                proposer: Token(3),
                incarnation: Incarnation(1),
                sequence: 1,
            },
            side: Side::Buy,
            with: Token(2),
            amount: Wh(1),
            expires_ms,
        };
        let reply = trade::Reply::Accepted;
        let answer = trade::Answer::sign(cluster(), &key(2), &offer, Incarnation(1), reply);
        Settlement {
            offered: offer.sign(cluster(), &key(3)),
            answer: Some(answer),
            offer,
        }
    };
    let judge = |expires| accounts.judge(EPOCH_MS, &settlement(expires));
    let last = EPOCH_MS + OFFER_TTL_MAX_MS;
    assert_eq!(judge(last), Judgement::Decided(Decision::Settled));
    for expires in [last + 1, u64::MAX] {
        assert_eq!(judge(expires), Judgement::Wrong(WrongTrade::Offer));
    }
}

#[test]
fn a_baseline_is_believed_about_members_and_no_farther_than_the_log_goes() {
    let lies = [
        clock(&[(2, 999, 1)]),
        clock(&[(2, 1, 1 << 40)]),
        clock(&(100..132).map(|token| (token, 1, 1)).collect::<Vec<_>>()),
    ];
    for lie in lies {
        let (mut joiner, mut two) = (Node::new(1, 3), Node::new(2, 3));
        joiner.tell(1, Event::Baseline(lie));
        assert_eq!(joiner.ledger.clock(), &Clock::default());
        let offered = said(&joiner.sell(2, 2));
        assert_eq!(offered.len(), 1, "there is room in its clock");
        assert_eq!(said(&two.hear(3, &offered[0])).len(), 1, "2 answers");
    }
    let mut joiner = Node::new(1, 3);
    joiner.tell(1, Event::Baseline(clock(&[(2, 1, 1_500), (99, 1, 1)])));
    assert_eq!((joiner.at(2), joiner.at(99)), (1_500, 0));
}
