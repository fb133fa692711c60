//! What each route says, and in whose words it refuses.

use super::*;

#[tokio::test]
async fn the_prototypes_shapes_are_kept_and_fields_are_added() {
    let api = api().await;
    let get = async |path: &str| {
        let answer = ask(&api, &format!("GET {path}"), &[]).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        assert!(
            answer.head.contains("content-type: application/json")
                && answer.head.contains("cache-control: no-store")
        );
        answer.json()
    };
    assert_eq!(
        get("/counter").await,
        json!({ "value": 0, "instance_id": "ab", "is_leader": true, "applied_index": 9 })
    );
    let added = ask(&api, "POST /increment", &[]).await;
    assert_eq!(added.status, 200);
    assert_eq!(
        added.json(),
        json!({ "success": true, "new_value": 1, "operation_id": 1, "index": 12, "term": 3 })
    );
    let status = get("/status").await;
    for field in [
        "instance_id",
        "name",
        "token_id",
        "wallet_address",
        "host_key_address",
        "is_leader",
        "counter_value",
        "total_active_nodes",
        "required_votes",
        "current_leader",
        "leader_token",
        "last_leader_heartbeat",
        "term",
        "incarnation",
        "muted",
        "phase",
        "summary",
        "missing",
        "chain",
        "log",
        "log_term",
        "cold_starts",
        "frames",
        "links",
        "gate_refusals",
        "unasked_elections",
        "attestation",
        "alarms",
    ] {
        assert!(keys(&status).contains(&field), "{field}");
    }
    assert_eq!(status["last_leader_heartbeat"], Value::Null);
    assert_eq!(status["log_term"]["voted_muted"], json!([2]));
    let members = get("/members").await;
    assert_eq!(
        (&members["active_instances"], &members["total_active"]),
        (&json!(["ab"]), &json!(1))
    );
    assert_eq!(members["members"][0]["state"], "SELF");
    let health = get("/health").await;
    assert_eq!(keys(&health), ["instance_id", "status", "timestamp"]);
    assert!(health["status"] == "healthy" && health["timestamp"].as_f64().unwrap() > 1.7e9);
    let metrics = ask(&api, "GET /metrics", &[]).await;
    assert!(
        metrics.head.contains("application/openmetrics-text")
            && metrics.body.contains("synod_term 3")
    );
}

#[tokio::test]
async fn the_log_comes_in_pages_of_at_most_a_thousand() {
    let api = api().await;
    let page = ask(&api, "GET /log", &[]).await.json();
    assert_eq!(
        keys(&page["operations"][0]),
        ["index", "leader", "new_value", "operation", "timestamp"]
    );
    assert_eq!(
        (&page["total_operations"], &page["next"]),
        (&json!(5_000), &json!(1_000))
    );
    let page = ask(&api, "GET /log?from=7&limit=10", &[]).await.json();
    assert_eq!(
        (
            &page["operations"][0]["new_value"],
            &page["operations"][0]["index"]
        ),
        (&json!(7), &json!(10))
    );
    for bad in [
        "limit=0",
        "limit=1001",
        "from=-1",
        "from=x",
        "limit=99999999999",
        "form=1",
    ] {
        ask(&api, &format!("GET /log?{bad}"), &[])
            .await
            .problem(400);
    }
}

#[tokio::test]
async fn a_follower_refuses_in_the_prototypes_words_and_names_the_leader() {
    let api = api().await;
    let refuse = |refused| *api.memory.refuses.lock().unwrap() = Some(refused);
    let leader = LeaderHint {
        token: 3,
        wallet: "0x03".into(),
        url: Some("http://127.0.0.1:8083".into()),
    };
    refuse(IncrementRefused::NotLeader {
        leader: Some(leader),
    });
    let body = ask(&api, "POST /increment", &[]).await.problem(403);
    assert_eq!(body["error"], "Only leader can increment counter");
    assert_eq!(
        body["leader"],
        json!({ "token_id": 3, "wallet_address": "0x03", "url": "http://127.0.0.1:8083" })
    );
    refuse(IncrementRefused::NotLeader { leader: None });
    assert_eq!(
        ask(&api, "POST /increment", &[]).await.problem(403)["leader"],
        Value::Null
    );
    refuse(IncrementRefused::Unavailable {
        why: "no quorum".into(),
        retry_after_s: 4,
    });
    let busy = ask(&api, "POST /increment", &[]).await;
    assert!(busy.head.contains("retry-after: 4") && busy.problem(503)["detail"] == "no quorum");
    refuse(IncrementRefused::Unknown {
        why: "proposed".into(),
    });
    assert!(
        ask(&api, "POST /increment", &[]).await.problem(504)["detail"]
            .as_str()
            .unwrap()
            .contains("may still be added")
    );
    ask(&api, "POST /increment?forward=true", &[])
        .await
        .problem(501);
    ask(&api, "POST /increment?by=5", &[]).await.problem(400);
    assert_eq!(*api.memory.added.lock().unwrap(), 0);
}

#[tokio::test]
async fn no_parameter_is_silently_ignored() {
    let api = api().await;
    for route in [
        "GET /counter",
        "GET /log",
        "GET /balances",
        "GET /trades",
        "GET /clock",
        "GET /status",
        "GET /members",
        "GET /peers",
        "GET /info",
        "GET /wallet-info",
        "GET /health",
        "GET /metrics",
        "POST /increment",
        "POST /trades",
    ] {
        ask(&api, &format!("{route}?forward=true"), &[])
            .await
            .problem(501);
        ask(&api, &format!("{route}?forward=maybe"), &[])
            .await
            .problem(400);
        let unknown = ask(&api, &format!("{route}?form=7"), &[])
            .await
            .problem(400);
        let detail = unknown["detail"].as_str().unwrap();
        assert!(detail.contains("form=7"), "{route}: {detail}");
    }
    for good in [
        "GET /counter?forward=false",
        "GET /log?forward=false&limit=1",
        "GET /trades?",
    ] {
        assert_eq!(ask(&api, good, &[]).await.status, 200, "{good}");
    }
    // whoever asks for a route that is gone hears that first
    ask(&api, "POST /register?wallet=0x1", &[])
        .await
        .problem(410);
    ask(&api, "GET /nothing?forward=true", &[])
        .await
        .problem(404);
    assert_eq!(*api.memory.added.lock().unwrap(), 0);
}

#[tokio::test]
async fn a_muted_node_shows_its_status_but_answers_no_reads() {
    let api = api().await;
    *api.memory.muted.lock().unwrap() = true;
    for path in ["/counter", "/log", "/balances", "/trades", "/clock"] {
        let problem = ask(&api, &format!("GET {path}"), &[]).await.problem(503);
        assert_eq!(problem["detail"], "muted");
    }
    for path in ["/status", "/members", "/peers", "/info", "/wallet-info"] {
        assert_eq!(ask(&api, &format!("GET {path}"), &[]).await.status, 200);
    }
}

#[tokio::test]
async fn unknown_routes_and_methods_are_problems_that_list_the_routes() {
    let api = api().await;
    let unknown = ask(&api, "GET /nothing", &[]).await.problem(404);
    let wrong = ask(&api, "GET /increment", &[]).await.problem(405);
    for body in [&unknown, &wrong] {
        let told = body["detail"].as_str().unwrap();
        for route in [
            "GET /status",
            " /counter",
            " /members",
            " /log",
            " /balances",
            " /trades",
            " /clock",
            " /peers",
            " /info",
            " /wallet-info",
            " /health",
            " /metrics",
            "POST /increment /trades",
        ] {
            assert!(told.contains(route), "{route}: {told}");
        }
        assert!(!told.contains("/control"), "{told}");
    }
    for line in [
        "DELETE /counter",
        "PUT /trades",
        "POST /balances",
        "POST /clock",
        "POST /info",
    ] {
        ask(&api, line, &[]).await.problem(405);
    }
}

#[tokio::test]
async fn what_only_the_control_socket_has_is_unknown_over_tcp() {
    let api = api().await;
    for line in [
        "POST /control/quit",
        "POST /control/election",
        "GET /control/lines",
        "GET /control",
    ] {
        ask(&api, line, &[]).await.problem(404);
    }
    assert!(!*api.memory.quit.lock().unwrap());
}

#[tokio::test]
async fn dropped_routes_are_gone_by_every_method_and_name_the_contracts_functions() {
    let api = api().await;
    for (path, instead) in [
        ("/mint-nft", "mintNodeAccess(to, name)"),
        ("/register", "adopt(tokenId, wallet, instanceId)"),
        ("/register-instance", "adopt(tokenId, wallet, instanceId)"),
        ("/register-peer", "--link-port"),
    ] {
        for method in ["GET", "POST", "PUT", "DELETE"] {
            let body = ask(&api, &format!("{method} {path}"), &[])
                .await
                .problem(410);
            assert_eq!(body["error"], "This route was dropped");
            assert!(
                body["detail"].as_str().unwrap().contains(instead),
                "{path}: {body}"
            );
        }
    }
}

#[tokio::test]
async fn the_old_views_keep_their_shapes() {
    let api = api().await;
    let get = async |path: &str| ask(&api, &format!("GET {path}"), &[]).await.json();
    assert_eq!(
        get("/peers").await,
        json!({ "peers": ["http://127.0.0.1:8082"], "count": 1, "timestamp": 1.5, "instance_id": "ab" })
    );
    assert_eq!(
        get("/info").await,
        json!({
            "instance_id": "ab", "connection_url": "http://127.0.0.1:8081", "contract_address": "0xcc",
            "rpc_url": "http://127.0.0.1:8545", "registered": true, "timestamp": 1.5
        })
    );
    assert_eq!(
        get("/wallet-info").await,
        json!({
            "type": "dstack", "address": "0x01", "key_path": "synod/wallet/ab/<salt>",
            "key_purpose": "synod-v1:31337:0xcc:ab", "socket": "dstack.sock", "host_key_address": "0x01",
            "instance_id": "ab"
        })
    );
}
