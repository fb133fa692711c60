//! Large bodies, slow ones, and the stop.

use super::*;

#[tokio::test]
async fn a_body_over_the_limit_is_refused_and_one_at_the_limit_is_not() {
    let api = api().await;
    let post = |len: usize| {
        [format!("POST /increment HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n").into_bytes(), vec![b'x'; len]].concat()
    };
    assert_eq!(raw(api.address, &post(BODY_LEN_MAX)).await.status, 200);
    raw(api.address, &post(BODY_LEN_MAX + 1)).await.problem(413);
    assert_eq!(*api.memory.added.lock().unwrap(), 1);
}

#[tokio::test]
async fn slow_headers_and_slow_bodies_are_ended() {
    let api = api().await;
    let half = raw(api.address, b"GET /status HTTP/1.1\r\nHost: local");
    let body = raw(api.address, b"POST /increment HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 5\r\n\r\nx");
    let idle = raw(api.address, b"");
    let (half, body, idle) = tokio::join!(half, body, idle);
    assert!(half.status == 0 || half.status == 408, "{}", half.status);
    body.problem(408);
    assert_eq!(idle.status, 0);
    assert_eq!(*api.memory.added.lock().unwrap(), 0);
}

#[tokio::test]
async fn a_stop_ends_the_server_although_a_connection_is_open() {
    let mut api = api().await;
    let mut open = TcpStream::connect(api.address).await.unwrap();
    open.write_all(b"GET /counter HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    assert!(open.read_u8().await.is_ok());
    api.stop.take().unwrap().send(()).unwrap();
    tokio::time::timeout(SOON, api.serving)
        .await
        .expect("stops in time")
        .unwrap()
        .unwrap();
    assert!(TcpStream::connect(api.address).await.is_err());
}
