//! Every judgement by a row, conservation, and amounts at the end of the range.
#![allow(clippy::unwrap_used)] // tests: a panic is the report

use proptest::prelude::*;
use synod_ledger::{Accounts, Decision, Judgement, Session, Settlement, WrongTrade};
use synod_wire::trade::{Answer, Reply, Side, Signature, TradeRefusal};
use synod_wire::{ClusterId, Hash, Incarnation, Offer, SessionKey, Token, TradeId, Wh};

const NOW: u64 = 1_000;

fn cluster() -> ClusterId {
    ClusterId(Hash([5; 32]))
}

fn key(token: u64, incarnation: u64) -> SessionKey {
    let mut secret = [1; 32];
    secret[0] = u8::try_from(token).unwrap();
    secret[1] = u8::try_from(incarnation).unwrap();
    SessionKey::from_bytes(&secret).unwrap()
}

fn session(token: u64, incarnation: u64) -> (Token, Session) {
    let session = Session {
        incarnation: Incarnation(incarnation),
        key: key(token, incarnation).public(),
    };
    (Token(token), session)
}

/// 1, 2 and 3, in their second incarnation; 4 has left.
fn accounts(credit: u64) -> Accounts {
    let mut accounts = Accounts::default();
    accounts.genesis(cluster(), Wh(credit));
    assert!(accounts.members((1..=4).map(|t| session(t, 1))));
    assert!(accounts.members((1..=3).map(|t| session(t, 2))));
    accounts
}

fn offer(side: Side, with: u64, amount: u64) -> Offer {
    Offer {
        id: TradeId {
            proposer: Token(1),
            incarnation: Incarnation(2),
            sequence: 1,
        },
        side,
        with: Token(with),
        amount: Wh(amount),
        expires_ms: NOW,
    }
}

fn signed(offer: Offer, reply: Option<Reply>) -> Settlement {
    let mine = key(1, offer.id.incarnation.0);
    let incarnation = Incarnation(2);
    let theirs = key(u8::try_from(offer.with.0).unwrap().into(), 2);
    Settlement {
        offered: offer.sign(cluster(), &mine),
        answer: reply.map(|r| Answer::sign(cluster(), &theirs, &offer, incarnation, r)),
        offer,
    }
}

fn sale(amount: u64) -> Settlement {
    signed(offer(Side::Sell, 2, amount), Some(Reply::Accepted))
}

fn answered_by(token: u64, incarnation: u64) -> Settlement {
    let mut s = sale(10);
    let key = key(token, incarnation);
    let incarnation = Incarnation(incarnation);
    s.answer = Some(Answer::sign(
        cluster(),
        &key,
        &s.offer,
        incarnation,
        Reply::Accepted,
    ));
    s
}

fn of_incarnation(incarnation: u64) -> Settlement {
    let mut offer = offer(Side::Sell, 2, 10);
    offer.id.incarnation = Incarnation(incarnation);
    signed(offer, Some(Reply::Accepted))
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of rows")]
fn every_settlement_is_judged_by_its_row() {
    let decided = Judgement::Decided;
    let wrong = Judgement::Wrong;
    let short = Reply::Refused(TradeRefusal::InsufficientCredits);
    let unsigned = |mut s: Settlement| {
        s.offered = Signature([9; 64]);
        s
    };
    let altered = |mut s: Settlement| {
        s.offer.amount = Wh(11);
        s
    };
    let reply_altered = |mut s: Settlement| {
        s.answer.as_mut().unwrap().reply = Reply::Accepted;
        s
    };
    let to = |with, reply| signed(offer(Side::Sell, with, 10), reply);
    let yes = Some(Reply::Accepted);
    let rows: Vec<(&str, u64, Settlement, Judgement)> = vec![
        ("a sale", NOW, sale(10), decided(Decision::Settled)),
        (
            "all that there is",
            NOW,
            sale(100),
            decided(Decision::Settled),
        ),
        (
            "one too much",
            NOW,
            sale(101),
            decided(Decision::Refused(TradeRefusal::InsufficientCredits)),
        ),
        (
            "a purchase",
            NOW,
            signed(offer(Side::Buy, 2, 10), yes),
            decided(Decision::Settled),
        ),
        (
            "refused",
            NOW,
            signed(offer(Side::Buy, 2, 10), Some(short)),
            decided(Decision::Refused(TradeRefusal::InsufficientCredits)),
        ),
        ("too late", NOW + 1, sale(10), decided(Decision::Expired)),
        (
            "refused too late",
            NOW + 1,
            signed(offer(Side::Buy, 2, 10), Some(short)),
            decided(Decision::Expired),
        ),
        (
            "nobody answered",
            NOW + 1,
            to(2, None),
            decided(Decision::Expired),
        ),
        (
            "nobody answered yet",
            NOW,
            to(2, None),
            wrong(WrongTrade::Unanswered),
        ),
        (
            "the other side left",
            NOW + 1,
            to(4, None),
            decided(Decision::Expired),
        ),
        (
            "the other side left, not expired",
            NOW,
            to(4, None),
            wrong(WrongTrade::Party),
        ),
        (
            "the other side left and answers",
            NOW,
            to(4, yes),
            wrong(WrongTrade::Party),
        ),
        (
            "never a member",
            NOW + 1,
            to(9, None),
            wrong(WrongTrade::Party),
        ),
        ("with oneself", NOW, to(1, yes), wrong(WrongTrade::Offer)),
        ("of nothing", NOW, sale(0), wrong(WrongTrade::Offer)),
        ("an ended proposer", NOW, of_incarnation(1), Judgement::Void),
        (
            "an ended proposer, expired",
            NOW + 1,
            of_incarnation(1),
            Judgement::Void,
        ),
        (
            "a coming proposer",
            NOW,
            of_incarnation(3),
            wrong(WrongTrade::Party),
        ),
        ("an ended answer", NOW, answered_by(2, 1), Judgement::Void),
        (
            "a coming answer",
            NOW,
            answered_by(2, 3),
            wrong(WrongTrade::Party),
        ),
        (
            "another's answer",
            NOW,
            answered_by(3, 2),
            wrong(WrongTrade::AnswerSignature),
        ),
        (
            "not the proposer",
            NOW,
            unsigned(sale(10)),
            wrong(WrongTrade::OfferSignature),
        ),
        (
            "another amount",
            NOW,
            altered(sale(10)),
            wrong(WrongTrade::OfferSignature),
        ),
        (
            "another reply",
            NOW,
            reply_altered(signed(offer(Side::Buy, 2, 10), Some(short))),
            wrong(WrongTrade::AnswerSignature),
        ),
    ];
    for (name, time, settlement, expected) in rows {
        let mut accounts = accounts(100);
        assert_eq!(
            accounts.judge(time, &settlement),
            expected,
            "{name}: judged"
        );
        let before = accounts.clone();
        assert_eq!(
            accounts.settle(7, time, &settlement),
            expected,
            "{name}: applied"
        );
        let decided = matches!(expected, Judgement::Decided(_));
        assert_eq!(
            accounts.trades().len(),
            usize::from(decided),
            "{name}: recorded"
        );
        assert_eq!(
            accounts == before,
            !decided,
            "{name}: only a decision changes anything"
        );
        let moved = expected == Judgement::Decided(Decision::Settled);
        let same = accounts.balances().eq(before.balances());
        assert_eq!(same, !moved, "{name}: only a settled trade moves credits");
        // the second entry of one id is a no-op, whatever it says
        let once = accounts.clone();
        if decided {
            assert_eq!(accounts.settle(8, 0, &sale(1)), expected, "{name}: again");
            assert_eq!(accounts, once, "{name}: again");
        }
    }
}

#[test]
fn before_genesis_nothing_is_decided() {
    let mut accounts = Accounts::default();
    let judged = accounts.settle(1, NOW, &sale(10));
    assert_eq!(judged, Judgement::Wrong(WrongTrade::Party));
}

#[test]
fn a_payee_whose_balance_would_not_fit_gets_nothing() {
    // the whole supply is what one member has: nothing can overflow, because the sum fits
    let mut accounts = Accounts::default();
    accounts.genesis(cluster(), Wh(u64::MAX / 2));
    assert!(accounts.members((1..=2).map(|t| session(t, 2))));
    assert_eq!(
        accounts.settle(1, NOW, &sale(u64::MAX / 2)),
        Judgement::Decided(Decision::Settled)
    );
    assert_eq!(accounts.balance(Token(2)), Some(Wh(u64::MAX - 1)));
    assert_eq!(accounts.balance(Token(1)), Some(Wh(0)));
    // a third member's credit would not fit any more: it is told, and gets none
    assert!(!accounts.members((1..=3).map(|t| session(t, 2))));
    assert_eq!(accounts.balance(Token(3)), None);
    assert_eq!(accounts.issued(), Wh(u64::MAX - 1));
}

#[test]
fn credits_belong_to_the_token_whatever_its_incarnation() {
    let mut accounts = accounts(100);
    assert_eq!(
        accounts.settle(1, NOW, &sale(30)),
        Judgement::Decided(Decision::Settled)
    );
    assert!(accounts.members((1..=4).map(|t| session(t, 3))));
    let balances: Vec<u64> = accounts.balances().map(|(_, wh)| wh.0).collect();
    assert_eq!(balances, [70, 130, 100, 100]);
    assert_eq!(accounts.issued(), Wh(400));
}

#[test]
fn the_first_closing_stands() {
    let mut accounts = accounts(100);
    accounts.close(Token(1), Incarnation(2), 5);
    accounts.close(Token(1), Incarnation(2), 9);
    assert_eq!(accounts.closed(Token(1), Incarnation(2)), Some(5));
    assert_eq!(accounts.closed(Token(1), Incarnation(1)), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Accounts asserts the sum after every entry; here against our own bookkeeping.
    #[test]
    fn random_trades_keep_the_sum(trades in prop::collection::vec((1u64..=3, 1u64..=3, 0u64..200, any::<bool>(), any::<bool>()), 1..12)) {
        let mut accounts = accounts(100);
        let mut own = [100u64; 3];
        for (place, (from, to, amount, buy, late)) in trades.into_iter().enumerate() {
            let offer = Offer {
                id: TradeId { proposer: Token(from), incarnation: Incarnation(2), sequence: place as u64 + 1 },
                side: if buy { Side::Buy } else { Side::Sell },
                with: Token(to),
                amount: Wh(amount),
                expires_ms: NOW,
            };
            let settlement = Settlement {
                offered: offer.sign(cluster(), &key(from, 2)),
                answer: Some(Answer::sign(cluster(), &key(to, 2), &offer, Incarnation(2), Reply::Accepted)),
                offer,
            };
            accounts.settle(place as u64, NOW + u64::from(late), &settlement);
            let (payer, payee) = if buy { (to, from) } else { (from, to) };
            let (payer, payee) = (payer as usize - 1, payee as usize - 1);
            if from != to && amount > 0 && !late && own[payer] >= amount {
                own[payer] -= amount;
                own[payee] += amount;
            }
            let balances: Vec<u64> = accounts.balances().map(|(_, wh)| wh.0).collect();
            prop_assert_eq!(&balances[..3], &own[..]);
            prop_assert_eq!(balances.iter().sum::<u64>(), 400);
        }
    }
}
