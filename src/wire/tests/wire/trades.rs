//! Trades: amounts as people type them, and what two members sign.

use crate::support::{ALICE, BOB, REPLIES, clock, cluster, key, offer, trade_confirm};
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use synod_wire::message::TradeConfirm;
use synod_wire::trade::{Answer, BadAmount, BadOffer, Reply, Side, Signature, TradeRefusal};
use synod_wire::{Address, ClusterId, Incarnation, Message, Offer, Token, TradeId, Wh};

proptest! {
    #[test]
    fn an_amount_that_is_shown_can_be_typed(wh: u64) {
        prop_assert_eq!(Wh(wh).to_string().parse(), Ok(Wh(wh)));
    }

    #[test]
    fn small_amounts_too(wh in 0..10_000_u64) {
        prop_assert_eq!(Wh(wh).to_string().parse(), Ok(Wh(wh)));
    }

    #[test]
    fn any_text_is_an_amount_or_refused_and_shown_cut(text in "[0-9.+e-]{0,30}|.{0,60}") {
        match text.parse::<Wh>() {
            Ok(wh) => prop_assert_eq!(wh.to_string().parse(), Ok(wh)),
            Err(BadAmount { found }) => {
                let cut: String = text.chars().take(40).collect();
                prop_assert_eq!(found, cut);
            }
        }
    }

    #[test]
    fn up_to_ten_to_the_15_wh_the_json_number_reads_as_the_text(wh in 0..=1_000_000_000_000_000_u64) {
        prop_assert_eq!(Wh(wh).credits().to_string(), Wh(wh).to_string());
    }
}

#[test]
fn credits_have_at_most_three_decimals() {
    // text, watt-hours, how it is shown
    let table = [
        ("30", 30_000, "30"),
        ("2.5", 2_500, "2.5"),
        ("2.50", 2_500, "2.5"),
        ("0.001", 1, "0.001"),
        ("0.010", 10, "0.01"),
        ("1.05", 1_050, "1.05"),
        ("0", 0, "0"),
        ("0.000", 0, "0"),
        ("007", 7_000, "7"),
        ("18446744073709551.615", u64::MAX, "18446744073709551.615"),
    ];
    for (text, wh, shown) in table {
        assert_eq!(text.parse(), Ok(Wh(wh)), "{text}");
        assert_eq!(Wh(wh).to_string(), shown);
    }
}

#[test]
fn what_is_no_amount_is_refused_and_shown() {
    let table = [
        "",
        ".",
        ".5",
        "1.",
        "1.2345",
        "1.0000",
        "1.2.3",
        "1..2",
        "-1",
        "+1",
        "-0",
        "1.-1",
        "1.+1",
        "1e3",
        "1.5e1",
        "0x10",
        "1_000",
        "1,5",
        " 1",
        "1 ",
        "1. 5",
        "1.5\n",
        "1\0",
        "٣",
        "1.٣",
        "１",
        "½",
        "NaN",
        "inf",
        // one Wh too many, one credit too many, more than 64 bits
        "18446744073709551.616",
        "18446744073709552",
        "18446744073709551616",
        "100000000000000000000000000000000000000",
    ];
    for text in table {
        let found = text.to_owned();
        assert_eq!(text.parse::<Wh>(), Err(BadAmount { found }), "{text:?}");
    }
    let long = "9".repeat(1_000).parse::<Wh>().unwrap_err();
    assert_eq!(long.found, "9".repeat(40));
    assert_eq!(
        ".5".parse::<Wh>().unwrap_err().to_string(),
        "expected credits as a number with at most three decimals, found \".5\""
    );
}

#[test]
fn amounts_neither_wrap_nor_go_below_nothing() {
    let most = Wh(u64::MAX);
    assert_eq!(Wh(u64::MAX - 1).checked_add(Wh(1)), Some(most));
    assert_eq!(most.checked_add(Wh(1)), None);
    assert_eq!(Wh(3).checked_sub(Wh(3)), Some(Wh(0)));
    assert_eq!(Wh(3).checked_sub(Wh(4)), None);
}

#[test]
fn a_double_cannot_tell_all_amounts_apart_near_2_to_the_53() {
    let (one, other) = (Wh((1 << 53) - 1), Wh((1 << 53) - 2));
    assert!((one.credits() - other.credits()).abs() < f64::EPSILON);
    assert!((Wh(2_500).credits() - 2.5).abs() < f64::EPSILON);
}

/// The same offer with one field changed, each by its name.
fn changed(offer: Offer) -> Vec<(&'static str, Offer)> {
    let id = offer.id;
    let with_id = |id: TradeId| Offer { id, ..offer };
    vec![
        (
            "proposer",
            with_id(TradeId {
                proposer: Token(3),
                ..id
            }),
        ),
        (
            "incarnation",
            with_id(TradeId {
                incarnation: Incarnation(2),
                ..id
            }),
        ),
        (
            "sequence",
            with_id(TradeId {
                sequence: id.sequence + 1,
                ..id
            }),
        ),
        (
            "side",
            Offer {
                side: Side::Buy,
                ..offer
            },
        ),
        (
            "with",
            Offer {
                with: Token(3),
                ..offer
            },
        ),
        (
            "amount",
            Offer {
                amount: Wh(30_001),
                ..offer
            },
        ),
        (
            "expiry",
            Offer {
                expires_ms: offer.expires_ms + 1,
                ..offer
            },
        ),
    ]
}

/// Every other value of every byte would do as well; each byte with one bit flipped is enough.
fn forgeries(signature: Signature) -> impl Iterator<Item = Signature> {
    (0..64).map(move |at| {
        let mut bytes = signature.0;
        bytes[at] ^= 1 << (at % 8);
        Signature(bytes)
    })
}

#[test]
fn an_offer_is_signed_with_all_it_says_for_one_cluster_by_one_key() {
    let offer = offer(ALICE, 5, BOB);
    let alice = key(ALICE).public();
    let signature = offer.sign(cluster(), &key(ALICE));
    assert!(offer.verify(cluster(), &alice, &signature));
    assert!(!offer.verify(cluster(), &key(BOB).public(), &signature));
    let foreign = ClusterId::of(1, Address([0x5f; 20]));
    assert!(!offer.verify(foreign, &alice, &signature));
    for (field, other) in changed(offer) {
        assert!(!other.verify(cluster(), &alice, &signature), "{field}");
    }
    for forged in forgeries(signature) {
        assert!(!offer.verify(cluster(), &alice, &forged), "{forged:?}");
    }
}

#[test]
fn an_answer_is_signed_with_the_offer_incarnation_and_reply_for_one_cluster_by_one_key() {
    let offer = offer(ALICE, 5, BOB);
    let bob = key(BOB).public();
    let foreign = ClusterId::of(1, Address([0x5f; 20]));
    for reply in REPLIES {
        let answer = Answer::sign(cluster(), &key(BOB), &offer, Incarnation(4), reply);
        assert_eq!((answer.incarnation, answer.reply), (Incarnation(4), reply));
        assert!(answer.verify(cluster(), &bob, &offer));
        assert!(!answer.verify(cluster(), &key(ALICE).public(), &offer));
        assert!(!answer.verify(foreign, &bob, &offer));
        for (field, other) in changed(offer) {
            assert!(!answer.verify(cluster(), &bob, &other), "{field}");
        }
        let incarnation = Incarnation(5);
        let later = Answer {
            incarnation,
            ..answer
        };
        assert!(!later.verify(cluster(), &bob, &offer));
        for other in REPLIES.into_iter().filter(|other| *other != reply) {
            let turned = Answer {
                reply: other,
                ..answer
            };
            assert!(
                !turned.verify(cluster(), &bob, &offer),
                "{reply:?} as {other:?}"
            );
        }
        for signature in forgeries(answer.signature) {
            let forged = Answer {
                signature,
                ..answer
            };
            assert!(!forged.verify(cluster(), &bob, &offer), "{forged:?}");
        }
    }
}

#[test]
fn an_offer_is_no_answer_and_an_answer_is_no_offer() {
    let offer = offer(ALICE, 5, BOB);
    let answer = Answer::sign(
        cluster(),
        &key(BOB),
        &offer,
        Incarnation(1),
        Reply::Accepted,
    );
    let bob = key(BOB).public();
    assert!(!offer.verify(cluster(), &bob, &answer.signature));
    let signature = offer.sign(cluster(), &key(BOB));
    let posing = Answer {
        signature,
        ..answer
    };
    assert!(!posing.verify(cluster(), &bob, &offer));
}

/// The texts written out by hand: whoever changes one changes the format.
#[test]
fn what_is_signed_is_the_tag_the_cluster_and_every_field() {
    let mut offer = offer(ALICE, 5, BOB);
    offer.side = Side::Buy;
    let numbers =
        |numbers: &[u64]| -> Vec<u8> { numbers.iter().flat_map(|n| n.to_be_bytes()).collect() };
    let text = [
        cluster().0.0.to_vec(),
        numbers(&[1, 1, 5]),
        vec![1],
        numbers(&[2, 30_000, 1_700_000_030_000]),
    ]
    .concat();
    let digest = |tag: &[u8], more: &[u8]| -> [u8; 32] {
        Sha256::digest([tag, &text, more].concat()).into()
    };
    let offered = offer.sign(cluster(), &key(ALICE)).0;
    let expected = digest(b"synod/offer/v1\0", &[]);
    assert!(key(ALICE).public().verify(&expected, &offered));

    for (number, reply) in (0..).zip(REPLIES) {
        let answer = Answer::sign(cluster(), &key(BOB), &offer, Incarnation(9), reply);
        let more = [numbers(&[9]), vec![number]].concat();
        let expected = digest(b"synod/answer/v1\0", &more);
        assert!(key(BOB).public().verify(&expected, &answer.signature.0));
    }
}

#[test]
fn a_confirmation_that_arrived_proves_both_sides() {
    let said = trade_confirm(clock(&[(1, 1, 6), (2, 1, 4)]));
    let Ok(Message::TradeConfirm(TradeConfirm {
        offer,
        offered,
        answer,
        ..
    })) = Message::decode(said.kind(), &said.encode())
    else {
        panic!("expected a TRADE_CONFIRM");
    };
    assert!(offer.verify(cluster(), &key(BOB).public(), &offered));
    assert!(answer.verify(cluster(), &key(ALICE).public(), &offer));
}

#[test]
fn a_seller_pays_credits_and_a_buyer_gets_them() {
    let sell = offer(ALICE, 5, BOB);
    let buy = Offer {
        side: Side::Buy,
        ..sell
    };
    assert_eq!((sell.payer(), sell.payee()), (ALICE, BOB));
    assert_eq!((buy.payer(), buy.payee()), (BOB, ALICE));
    assert_eq!((Side::Sell.name(), Side::Buy.name()), ("SELL", "BUY"));
}

#[test]
fn nobody_trades_with_himself_or_trades_nothing() {
    let offer = offer(ALICE, 5, BOB);
    for side in [Side::Sell, Side::Buy] {
        let check = |with, wh| {
            Offer {
                side,
                with,
                amount: Wh(wh),
                ..offer
            }
            .check()
        };
        assert_eq!(check(BOB, 1), Ok(()));
        assert_eq!(check(BOB, u64::MAX), Ok(()));
        assert_eq!(check(ALICE, 1), Err(BadOffer::SelfTrade));
        assert_eq!(check(ALICE, 0), Err(BadOffer::SelfTrade));
        assert_eq!(check(BOB, 0), Err(BadOffer::Zero));
    }
    assert_eq!(
        BadOffer::SelfTrade.to_string(),
        "Cannot trade with yourself"
    );
}

#[test]
fn ids_and_reasons_are_shown_as_people_know_them() {
    assert_eq!(offer(ALICE, 5, BOB).id.to_string(), "1-1-5");
    let reason = TradeRefusal::InsufficientCredits.reason();
    assert_eq!(reason, "Insufficient credits");
    let reasons: std::collections::BTreeSet<_> = REPLIES
        .iter()
        .filter_map(|reply| match reply {
            Reply::Accepted => None,
            Reply::Refused(why) => Some(why.reason()),
        })
        .collect();
    assert_eq!(reasons.len(), 3, "each its own");
}

#[test]
fn a_signature_keeps_its_64_bytes_through_serde() {
    let signature = offer(ALICE, 5, BOB).sign(cluster(), &key(ALICE));
    let json = serde_json::to_string(&signature).unwrap();
    assert_eq!(serde_json::from_str::<Signature>(&json).unwrap(), signature);
    for len in [0, 63, 65] {
        let other = serde_json::to_string(&vec![1; len]).unwrap();
        assert!(serde_json::from_str::<Signature>(&other).is_err(), "{len}");
    }
    assert_eq!(format!("{signature:?}"), hex::encode(signature.0));
}
