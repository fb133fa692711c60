//! Datagrams over loopback.

use super::*;
use std::time::Duration;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(5);

/// A group port of its own per test, so that tests do not hear each other.
fn settings(group_port: u16) -> UdpSettings {
    UdpSettings {
        group: SocketAddrV4::new(Ipv4Addr::new(224, 1, 1, 1), group_port),
        interface: Ipv4Addr::LOCALHOST,
        unicast: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0),
    }
}

fn free_port() -> u16 {
    let probe = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    probe.local_addr().unwrap().port()
}

#[tokio::test]
async fn the_group_hears_everybody_and_answers_find_the_senders_own_port() {
    let shared = settings(free_port());
    let (a, b) = (Udp::bind(shared).unwrap(), Udp::bind(shared).unwrap());
    let (mut at_a, mut at_b) = (a.receive(), b.receive());
    a.send_all(b"to all").await;
    let heard = timeout(SOON, at_b.recv()).await.unwrap().unwrap();
    let expected = Datagram {
        bytes: b"to all".to_vec(),
        from: a.unicast().unwrap(),
        via: Via::Multicast,
    };
    assert_eq!(heard, expected);
    assert_eq!(
        timeout(SOON, at_a.recv()).await.unwrap().unwrap(),
        expected,
        "our own copy comes back"
    );
    b.send_to(heard.from, b"to you").await;
    let answer = timeout(SOON, at_a.recv()).await.unwrap().unwrap();
    assert_eq!(
        answer,
        Datagram {
            bytes: b"to you".to_vec(),
            from: b.unicast().unwrap(),
            via: Via::Unicast
        }
    );
    assert_eq!(a.stats().sent, 1);
    assert_eq!(a.stats().received, 2);
}

#[tokio::test]
async fn a_second_copy_of_a_node_is_told_that_its_port_is_taken() {
    let mut shared = settings(free_port());
    let first = Udp::bind(shared).unwrap();
    let SocketAddr::V4(taken) = first.unicast().unwrap() else {
        panic!("IPv4")
    };
    shared.unicast = taken;
    let why = Udp::bind(shared).err().unwrap().to_string();
    assert!(
        why.contains(&taken.to_string()) && why.contains("--udp-port"),
        "{why}"
    );
}

#[tokio::test]
async fn a_datagram_longer_than_any_frame_arrives_cut_but_longer_than_any_frame() {
    let a = Udp::bind(settings(free_port())).unwrap();
    let mut at_a = a.receive();
    a.send_to(a.unicast().unwrap(), &[7; 9_000]).await;
    assert_eq!(
        timeout(SOON, at_a.recv())
            .await
            .unwrap()
            .unwrap()
            .bytes
            .len(),
        FRAME_LEN_MAX + 1
    );
}

#[tokio::test]
async fn a_full_queue_drops_and_counts_and_the_loop_goes_on() {
    let a = Udp::bind(settings(free_port())).unwrap();
    let mut at_a = a.receive();
    let me = a.unicast().unwrap();
    let until = tokio::time::Instant::now() + SOON;
    while a.stats().dropped == 0 {
        assert!(tokio::time::Instant::now() < until, "{:?}", a.stats());
        a.send_to(me, b"flood").await;
        tokio::task::yield_now().await;
    }
    assert_eq!(a.stats().received, QUEUE_LEN_MAX as u64);
    while at_a.try_recv().is_ok() {}
    a.send_to(me, b"after").await;
    while timeout(SOON, at_a.recv()).await.unwrap().unwrap().bytes != b"after" {}
}

#[tokio::test]
async fn a_send_that_fails_is_counted_and_hurts_nobody() {
    let a = Udp::bind(settings(free_port())).unwrap();
    a.send_to(a.unicast().unwrap(), &vec![0; 70_000]).await;
    assert_eq!(a.stats().send_errors, 1);
    assert_eq!(a.stats().sent, 0);
}
