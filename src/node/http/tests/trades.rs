//! Trades, balances and the clock: shapes, every end of a trade, and every body that is none.

use super::*;
use crate::http::trades::WISH_LEN_MAX;
use synod_wire::Wh;
use synod_wire::trade::Side;

async fn trade(api: &Api, body: &str) -> Answer {
    raw(api.address, &posting("/trades", body)).await
}

const SELL: &str = r#"{"type":"sell","with":2,"amount":2.5}"#;

#[tokio::test]
async fn balances_and_clock_are_shown_with_whole_watt_hours_and_tokens_as_keys() {
    let api = api().await;
    assert_eq!(
        ask(&api, "GET /balances", &[]).await.json(),
        json!({
            "balances": [
                { "token_id": 1, "name": "node1", "balance": 97.5, "balance_wh": 97_500 },
                { "token_id": 2, "name": "node2", "balance": 102.5, "balance_wh": 102_500 },
            ],
            "total": 200.0, "total_wh": 200_000, "issued_wh": 200_000, "reserved": 0.001, "reserved_wh": 1,
            "instance_id": "ab", "token_id": 1, "balance": 97.5, "balance_wh": 97_500, "applied_index": 9
        })
    );
    assert_eq!(
        ask(&api, "GET /clock", &[]).await.json(),
        json!({
            "clock": { "2": 5, "10": 13 },
            "entries": [
                { "token_id": 2, "incarnation": 2, "sequence": 5 },
                { "token_id": 10, "incarnation": 2, "sequence": 13 },
            ],
            "buffered": 1, "instance_id": "ab"
        })
    );
}

#[tokio::test]
async fn trades_come_in_pages_and_what_is_open_in_each() {
    let api = api().await;
    let page = ask(&api, "GET /trades", &[]).await.json();
    assert_eq!(
        page["open"],
        json!([{
            "id": "1-1-3", "type": "SELL", "proposer": 1, "with": 2, "payer": 1, "payee": 2, "amount": 2.5,
            "amount_wh": 2_500, "status": "open", "reason": null, "index": null, "timestamp": null,
            "payer_balance_wh": null, "payee_balance_wh": null
        }])
    );
    assert_eq!(
        (&page["total_trades"], &page["next"]),
        (&json!(5_000), &json!(1_000))
    );
    let page = ask(&api, "GET /trades?from=7&limit=10", &[]).await.json();
    assert_eq!(
        (&page["trades"][0]["index"], &page["next"]),
        (&json!(7), &json!(17))
    );
    assert_eq!(page["trades"][0]["status"], "settled");
    for bad in ["limit=0", "limit=1001", "from=-1", "limit=x", "open=1"] {
        ask(&api, &format!("GET /trades?{bad}"), &[])
            .await
            .problem(400);
    }
}

#[tokio::test]
async fn every_end_of_a_trade_has_its_status() {
    let api = api().await;
    for (status, name, code) in [
        (TradeStatus::Settled, "settled", 200),
        (TradeStatus::Open, "open", 202),
        (TradeStatus::Confirmed, "confirmed", 202),
    ] {
        api.memory.trade_is(status, None);
        let answer = trade(&api, SELL).await;
        assert_eq!(answer.status, code, "{}", answer.body);
        assert_eq!(keys(&answer.json()), ["success", "trade"]);
        assert_eq!(answer.json()["success"], json!(code == 200));
        assert_eq!(answer.json()["trade"]["status"], name);
        assert_eq!(answer.json()["trade"]["id"], "1-1-3");
    }
    for (status, name, reason, error) in [
        (
            TradeStatus::Refused,
            "refused",
            Some("Insufficient credits"),
            "Insufficient credits",
        ),
        (TradeStatus::Refused, "refused", None, "refused"),
        (
            TradeStatus::Expired,
            "expired",
            Some("nobody confirmed it in time"),
            "nobody confirmed it in time",
        ),
        (TradeStatus::Expired, "expired", None, "expired"),
    ] {
        api.memory.trade_is(status, reason);
        let body = trade(&api, SELL).await.problem(409);
        assert_eq!(
            (&body["error"], &body["success"]),
            (&json!(error), &json!(false))
        );
        assert_eq!(body["trade"]["status"], name);
        assert!(
            body["detail"]
                .as_str()
                .unwrap()
                .contains("no credits moved")
        );
    }
}

#[tokio::test]
async fn a_wish_that_cannot_be_a_trade_is_refused_in_the_prototypes_words() {
    let api = api().await;
    let refused = [
        (TradeRefused::SelfTrade, 409, "Cannot trade with yourself"),
        (
            TradeRefused::UnknownNode {
                with: 9,
                active: vec![1, 2, 3],
            },
            409,
            "Node 9 is not available in the system. Active nodes: [1, 2, 3]",
        ),
        (
            TradeRefused::Insufficient {
                amount: Wh(100_500),
                available: Wh(99_999),
            },
            409,
            "Cannot sell 100.5 energy credits - insufficient balance",
        ),
        (
            TradeRefused::NotPositive,
            400,
            "the amount must be positive",
        ),
        (
            TradeRefused::Unavailable {
                why: "muted".into(),
                retry_after_s: 4,
            },
            503,
            "Not now",
        ),
        (
            TradeRefused::OutcomeUnknown {
                why: "stopping".into(),
            },
            504,
            "Outcome unknown",
        ),
    ];
    for (refusal, status, error) in refused {
        api.memory.trade_is_refused(refusal);
        assert_eq!(trade(&api, SELL).await.problem(status)["error"], error);
    }
    api.memory.trade_is_refused(TradeRefused::Unavailable {
        why: "muted".into(),
        retry_after_s: 4,
    });
    let busy = trade(&api, SELL).await;
    assert!(busy.head.contains("retry-after: 4") && busy.problem(503)["detail"] == "muted");
    let lacking = TradeRefused::Insufficient {
        amount: Wh(100_500),
        available: Wh(99_999),
    };
    api.memory.trade_is_refused(lacking);
    let told = trade(&api, SELL).await.problem(409);
    assert!(
        told["detail"]
            .as_str()
            .unwrap()
            .contains("at most 99.999 credits")
    );
}

#[tokio::test]
async fn an_amount_is_read_digit_by_digit_from_a_number_or_a_string() {
    let api = api().await;
    for (amount, wh) in [
        (r#""amount":30"#, 30_000),
        (r#""amount":30.0"#, 30_000),
        (r#""amount":2.5"#, 2_500),
        (r#""amount":"2.5""#, 2_500),
        (r#""amount":"\u0032.5""#, 2_500),
        (r#""amount":0.001"#, 1),
        (r#""amount_wh":2500"#, 2_500),
        // a double holds neither of these
        (r#""amount":18446744073709551.615"#, u64::MAX),
        (r#""amount":"9007199254740.993""#, 9_007_199_254_740_993),
        (r#""amount_wh":18446744073709551615"#, u64::MAX),
    ] {
        let body = format!(r#"{{"type":"buy","with":7,{amount}}}"#);
        assert_eq!(trade(&api, &body).await.status, 202, "{body}");
        let wish = TradeWish {
            side: Side::Buy,
            with: 7,
            amount: Wh(wh),
            wait: true,
        };
        assert_eq!(api.memory.wishes().last(), Some(&wish), "{body}");
    }
    let hasty = r#"{"wait":false,"amount":1,"with":2,"type":"sell"}"#;
    trade(&api, hasty).await;
    let wish = api.memory.wishes().pop().unwrap();
    assert!(wish.side == Side::Sell && !wish.wait);
}

#[tokio::test]
async fn what_is_no_amount_is_refused_and_says_what_was_expected() {
    let api = api().await;
    for (amount, words) in [
        (r#""amount":0"#, "positive"),
        (r#""amount":"0.000""#, "positive"),
        (r#""amount_wh":0"#, "positive"),
        (r#""amount":-5"#, "three decimals"),
        (r#""amount":-0"#, "three decimals"),
        (r#""amount":"+5""#, "three decimals"),
        (r#""amount":1.2345"#, "three decimals"),
        (r#""amount":2.5000000000000000000001"#, "three decimals"),
        (r#""amount":1e3"#, "three decimals"),
        (r#""amount":"1e3""#, "three decimals"),
        (r#""amount":"ten""#, "three decimals"),
        (r#""amount":"""#, "three decimals"),
        (r#""amount":" 5""#, "three decimals"),
        (r#""amount":"٣""#, "three decimals"),
        (r#""amount":true"#, "three decimals"),
        (r#""amount":[5]"#, "three decimals"),
        (r#""amount":{"wh":5}"#, "three decimals"),
        (r#""amount":18446744073709551.616"#, "three decimals"),
        (r#""amount_wh":2.5"#, "whole watt-hours"),
        (r#""amount_wh":"2500""#, "whole watt-hours"),
        (r#""amount_wh":-1"#, "whole watt-hours"),
        (r#""amount_wh":18446744073709551616"#, "whole watt-hours"),
    ] {
        let body = format!(r#"{{"type":"sell","with":2,{amount}}}"#);
        let problem = trade(&api, &body).await.problem(400);
        assert!(
            problem["error"].as_str().unwrap().contains(words),
            "{body}: {problem}"
        );
    }
    assert_eq!(api.memory.wishes(), []);
}

#[tokio::test]
async fn a_body_that_is_no_wish_is_refused() {
    let api = api().await;
    for body in [
        "",
        "sell 2 30",
        "[]",
        "null",
        r#"{"type":"sell","with":2}"#,
        r#"{"type":"sell","with":2,"amount":null}"#,
        r#"{"type":"sell","with":2,"amount":1,"amount_wh":1000}"#,
        r#"{"type":"sell","with":2,"amount":1,"amount":2}"#,
        r#"{"type":"sell","with":2,"amount":1,"memo":"x"}"#,
        r#"{"type":"lend","with":2,"amount":1}"#,
        r#"{"type":"SELL","with":2,"amount":1}"#,
        r#"{"with":2,"amount":1}"#,
        r#"{"type":"sell","amount":1}"#,
        r#"{"type":"sell","with":"two","amount":1}"#,
        r#"{"type":"sell","with":-2,"amount":1}"#,
        r#"{"type":"sell","with":2.0,"amount":1}"#,
        r#"{"type":"sell","with":2,"amount":1,"wait":"no"}"#,
        r#"{"type":"sell","with":2,"amount":1} {}"#,
        r#"{"type":"sell","with":2,"amount":"#,
    ] {
        let problem = trade(&api, body).await.problem(400);
        assert_eq!(problem["error"], "Bad trade", "{body}");
        assert!(problem["detail"].as_str().unwrap().contains("amount_wh"));
    }
    let query = raw(api.address, &posting("/trades?wait=false", SELL)).await;
    query.problem(400);
    ask(&api, "POST /trades", &["Idempotency-Key: 1"])
        .await
        .problem(501);
    assert_eq!(api.memory.wishes(), []);
}

#[tokio::test]
async fn a_wish_at_the_limit_is_read_and_one_beyond_it_is_not() {
    let api = api().await;
    let padded = |len: usize| format!("{SELL}{}", " ".repeat(len - SELL.len()));
    assert_eq!(trade(&api, &padded(WISH_LEN_MAX)).await.status, 202);
    trade(&api, &padded(WISH_LEN_MAX + 1)).await.problem(413);
    let deep = format!(r#"{{"type":"sell","with":2,"amount":{}"#, "[".repeat(900));
    trade(&api, &deep).await.problem(400);
    assert_eq!(api.memory.wishes().len(), 1);
}

#[test]
fn a_trade_that_nobody_decides_is_answered_before_the_guard_gives_up() {
    assert!(TRADE_WAIT_MAX < guard::ANSWER_MAX);
}
