//! Foreign names, foreign pages, foreign networks.

use super::*;

#[tokio::test]
async fn only_our_own_names_are_answered() {
    let api = api().await;
    let port = api.address.port();
    for ours in [
        "127.0.0.1".to_owned(),
        format!("localhost:{port}"),
        "LOCALHOST".into(),
        "[::1]:80".into(),
        "node1.example:8081".into(),
        "10.0.0.7".into(),
    ] {
        assert_eq!(
            ask(&api, "GET /counter", &[&format!("Host: {ours}")])
                .await
                .status,
            200,
            "{ours}"
        );
    }
    for foreign in [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:8081",
        "127.1",
        "2130706433",
        "",
        "[::1",
        "[evil]",
        "localhost:x",
        "localhost:99999",
        "::1",
        "node1.example.",
        "user@127.0.0.1",
    ] {
        let answer = ask(&api, "POST /increment", &[&format!("Host: {foreign}")]).await;
        assert!(
            answer.status == 421 || answer.status == 400,
            "{foreign}: {}",
            answer.status
        );
    }
    ask(
        &api,
        "GET /counter",
        &["Host: 127.0.0.1", "Host: evil.example"],
    )
    .await
    .problem(421);
    ask(&api, "GET /status", &["Host: evil.example"])
        .await
        .problem(421);
    let none = raw(api.address, b"GET /counter HTTP/1.0\r\n\r\n").await;
    none.problem(421);
    assert_eq!(*api.memory.added.lock().unwrap(), 0);
}

#[tokio::test]
async fn a_foreign_page_gets_nothing_by_any_method() {
    let api = api().await;
    let own = format!("Origin: http://{}", api.address);
    assert_eq!(
        ask(
            &api,
            "POST /increment",
            &[&own, "Sec-Fetch-Site: same-origin"]
        )
        .await
        .status,
        200
    );
    for header in [
        "Origin: https://evil.example",
        "Origin: null",
        "Origin: http://127.0.0.1:1",
        "Origin: https://127.0.0.1",
        "Origin:",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: Cross-Site",
    ] {
        for line in [
            "POST /increment",
            "POST /trades",
            "GET /balances",
            "GET /status",
            "OPTIONS /increment",
        ] {
            ask(&api, line, &[header]).await.problem(403);
        }
    }
    assert_eq!(*api.memory.added.lock().unwrap(), 1);
    assert!(
        !ask(&api, "GET /status", &[&own])
            .await
            .head
            .contains("access-control-allow-origin")
    );
}

#[tokio::test]
#[should_panic(expected = "loopback only")]
async fn an_address_that_others_reach_is_not_served() {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let memory = Memory::new();
    serve(listener, memory, Vec::new(), std::future::pending())
        .await
        .unwrap();
}
