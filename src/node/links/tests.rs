//! Links over real sockets: who gets through, and who does not for exactly one reason.

use super::*;
use crate::tls::{TlsIdentity, spki_hash};
use rustls::pki_types::ServerName;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use synod_wire::SessionPublic;
use synod_wire::hello::{HELLO_LEN, Hello};
use synod_wire::seal::Sessions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

const CLUSTER: ClusterId = ClusterId(Hash([7; 32]));
const A: Token = Token(1);
const B: Token = Token(2);
const SOON: Duration = Duration::from_secs(5);

/// What both nodes see of the contract.
#[derive(Default)]
struct Book {
    members: Mutex<BTreeMap<Token, (Incarnation, SessionPublic)>>,
    addresses: Mutex<BTreeMap<Token, SocketAddr>>,
    log_id: Mutex<Option<Hash>>,
}

impl Book {
    fn register(&self, token: Token, incarnation: u64) {
        lock(&self.members).insert(token, (Incarnation(incarnation), session(token).public()));
    }
}

impl Sessions for Book {
    fn session(&self, token: Token) -> Option<(Incarnation, SessionPublic)> {
        lock(&self.members).get(&token).copied()
    }
}

impl PeerBook for Book {
    fn address(&self, token: Token) -> Option<SocketAddr> {
        lock(&self.addresses).get(&token).copied()
    }

    fn log_id(&self) -> Option<Hash> {
        *lock(&self.log_id)
    }
}

/// Answers with the request reversed; `never` is never answered, `slow…` later than others.
#[derive(Default)]
struct Echo {
    asked: AtomicU64,
    frames: Mutex<Vec<(LinkPeer, Vec<u8>)>>,
}

impl LinkService for Echo {
    fn answer(&self, _from: LinkPeer, mut request: Vec<u8>) -> BoxFuture<'static, Vec<u8>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            if request == b"never" {
                std::future::pending::<()>().await;
            }
            if request.starts_with(b"slow") {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            request.reverse();
            request
        })
    }

    fn frame(&self, from: LinkPeer, bytes: Vec<u8>) {
        lock(&self.frames).push((from, bytes));
    }
}

struct Node {
    links: Links,
    echo: Arc<Echo>,
    address: SocketAddr,
}

fn session(token: Token) -> SessionKey {
    SessionKey::from_bytes(&[u8::try_from(token.0).unwrap(); 32]).unwrap()
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn start(
    book: &Arc<Book>,
    token: Token,
    incarnation: u64,
    tls: TlsIdentity,
    at: SocketAddr,
) -> Node {
    let listener = Links::bind(at).unwrap();
    let address = listener.address().unwrap();
    lock(&book.addresses).insert(token, address);
    let settings = LinkSettings {
        cluster: CLUSTER,
        me: token,
        incarnation: Incarnation(incarnation),
    };
    let echo = Arc::new(Echo::default());
    let (peers, service) = (Arc::clone(book), Arc::clone(&echo));
    let links = listener
        .start(settings, Arc::new(session(token)), tls, peers, service)
        .unwrap();
    Node {
        links,
        echo,
        address,
    }
}

fn member(book: &Arc<Book>, token: Token) -> Node {
    book.register(token, 1);
    start(book, token, 1, TlsIdentity::generate().unwrap(), any_port())
}

fn pair() -> (Arc<Book>, Node, Node) {
    let book = Arc::new(Book::default());
    let (a, b) = (member(&book, A), member(&book, B));
    (book, a, b)
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < until, "not within {SOON:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn refused(node: &Node, reason: &str) -> u64 {
    node.links.stats().refused.get(reason).copied().unwrap_or(0)
}

/// TLS as any stranger can have it.
async fn stranger(tls: &TlsIdentity, to: SocketAddr) -> TlsStream<TcpStream> {
    let connector = TlsConnector::from(tls.dialling(None).unwrap());
    let name = ServerName::try_from("anything.example").unwrap();
    connector
        .connect(name, TcpStream::connect(to).await.unwrap())
        .await
        .unwrap()
}

/// The hello that node A would say to B on this session.
fn hello(tls: &TlsIdentity, stream: &TlsStream<TcpStream>) -> Hello {
    let exporter = stream
        .get_ref()
        .1
        .export_keying_material([0; 32], b"EXPORTER-synod-hello-v1", None)
        .unwrap();
    Hello {
        cluster: CLUSTER,
        log_id: None,
        token: A,
        incarnation: Incarnation(1),
        spki: tls.spki_hash(),
        peer: B,
        exporter,
    }
}

/// What the other side says to a hello: its own (1) or a reason.
async fn reply(stream: &mut TlsStream<TcpStream>) -> Result<(), &'static str> {
    match tokio::time::timeout(SOON, stream.read_u8())
        .await
        .expect("an answer or the end")
    {
        Ok(1) => {
            let mut rest = [0; HELLO_LEN - 1];
            stream.read_exact(&mut rest).await.unwrap();
            Ok(())
        }
        Ok(0) => Err(stats::reason(stream.read_u8().await.unwrap())),
        Ok(other) => panic!("first byte {other}"),
        Err(_) => Err("closed"),
    }
}

#[tokio::test]
async fn two_members_ask_and_answer_in_both_directions() {
    let (_book, a, b) = pair();
    assert_eq!(
        a.links.call(B, b"abc".to_vec(), SOON).await.unwrap(),
        b"cba"
    );
    assert_eq!(
        b.links.call(A, b"xyz".to_vec(), SOON).await.unwrap(),
        b"zyx"
    );
    a.links.frame(B, b"frame".to_vec(), SOON).await.unwrap();
    eventually("the frame arrives", || lock(&b.echo.frames).len() == 1).await;
    let from = LinkPeer {
        token: A,
        incarnation: Incarnation(1),
    };
    assert_eq!(
        lock(&b.echo.frames).first(),
        Some(&(from, b"frame".to_vec()))
    );
    let stats = a.links.stats();
    assert_eq!((stats.open, stats.accepted, stats.dialled), (2, 1, 1));
    assert!(stats.refused.is_empty() && stats.bytes_in > 0 && stats.bytes_out > 0);
}

#[tokio::test]
async fn many_parallel_calls_share_one_link() {
    let (_book, a, b) = pair();
    let calls = (0..200u32).map(|n| {
        let links = a.links.clone();
        async move {
            let body = [
                if n % 3 == 0 {
                    b"slow".to_vec()
                } else {
                    b"fast".to_vec()
                },
                vec![n as u8; n as usize * 100],
            ]
            .concat();
            let mut expected = body.clone();
            expected.reverse();
            assert_eq!(links.call(B, body, SOON).await.unwrap(), expected);
        }
    });
    futures_util::future::join_all(calls).await;
    assert_eq!(a.links.stats().dialled, 1);
    assert_eq!(b.links.stats().accepted, 1);
}

#[tokio::test]
async fn the_longest_body_passes_and_one_more_byte_is_refused_here() {
    let (_book, a, _b) = pair();
    let answer = a.links.call(B, vec![5; BODY_LEN_MAX], SOON).await.unwrap();
    assert_eq!(answer.len(), BODY_LEN_MAX);
    let long = a.links.call(B, vec![5; BODY_LEN_MAX + 1], SOON).await;
    assert!(matches!(long, Err(LinkError::TooLong { len }) if len == BODY_LEN_MAX + 1));
    assert_eq!(
        a.links.stats().open,
        1,
        "our own mistake does not cost the link"
    );
}

#[tokio::test]
async fn a_certificate_shown_without_its_key_fails_in_the_handshake() {
    let book = Arc::new(Book::default());
    let honest = TlsIdentity::generate().unwrap();
    let thief = TlsIdentity::impostor_of(&honest);
    assert_eq!(thief.spki_hash(), honest.spki_hash());
    let b = member(&book, B);
    // as client: TLS 1.3 lets the client finish first, then the server's alert arrives
    let connector = TlsConnector::from(thief.dialling(None).unwrap());
    let name = ServerName::try_from("anything.example").unwrap();
    let dialled = connector
        .connect(name, TcpStream::connect(b.address).await.unwrap())
        .await;
    if let Ok(mut stream) = dialled {
        assert!(stream.read_u8().await.is_err());
    }
    eventually("the acceptor counts it", || refused(&b, "tls") == 1).await;
    // as server
    book.register(A, 1);
    let a = start(&book, A, 1, thief, any_port());
    let called = b.links.call(A, b"x".to_vec(), SOON).await;
    assert!(
        matches!(&called, Err(LinkError::Dial { why, .. }) if why.contains("TLS")),
        "{called:?}"
    );
    assert_eq!(refused(&b, "tls"), 2);
    assert_eq!(a.echo.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn another_certificate_in_the_same_incarnation_is_refused_inside_tls_and_at_the_acceptor() {
    let (book, a, b) = pair();
    a.links.call(B, b"learn".to_vec(), SOON).await.unwrap();
    b.links.close_all();
    let other = TlsIdentity::generate().unwrap();
    let found_hash = other.spki_hash();
    let b2 = start(&book, B, 1, other, any_port());
    let mut last = None;
    let until = Instant::now() + SOON;
    while !matches!(last, Some(LinkError::Pin { .. })) {
        assert!(Instant::now() < until, "{last:?}");
        last = a.links.call(B, b"x".to_vec(), SOON).await.err();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let Some(LinkError::Pin { why, .. }) = last else {
        unreachable!()
    };
    assert!(why.found == found_hash && why.expected != found_hash);
    assert_eq!(b2.links.stats().accepted, 0, "it never saw a hello");
    let back = b2.links.call(A, b"x".to_vec(), SOON).await;
    assert!(
        matches!(back, Err(LinkError::RefusedThere { reason: "pin", .. })),
        "{back:?}"
    );
}

#[tokio::test]
async fn each_false_field_of_a_hello_is_refused_by_its_own_name() {
    let (book, _a, b) = pair();
    *lock(&book.log_id) = Some(Hash([4; 32]));
    let tls = TlsIdentity::generate().unwrap();
    type Lie = fn(&mut Hello);
    let lies: [(&str, Lie); 8] = [
        ("cluster", |h| h.cluster = ClusterId(Hash([8; 32]))),
        ("log_id", |h| h.log_id = Some(Hash([5; 32]))),
        ("unknown_sender", |h| h.token = Token(9)),
        ("signature", |h| h.token = B),
        ("incarnation", |h| h.incarnation = Incarnation(0)),
        ("certificate_key", |h| h.spki = Hash([1; 32])),
        ("peer", |h| h.peer = Token(3)),
        ("tls_session", |h| h.exporter = [9; 32]),
    ];
    for (reason, lie) in lies {
        let mut stream = stranger(&tls, b.address).await;
        let mut said = hello(&tls, &stream);
        lie(&mut said);
        stream.write_all(&said.seal(&session(A))).await.unwrap();
        assert_eq!(reply(&mut stream).await, Err(reason));
        eventually(reason, || refused(&b, reason) == 1).await;
    }
    // the same hello without a lie passes, so each lie alone was the reason
    let mut stream = stranger(&tls, b.address).await;
    let said = hello(&tls, &stream);
    stream.write_all(&said.seal(&session(A))).await.unwrap();
    assert_eq!(reply(&mut stream).await, Ok(()));
}

#[tokio::test]
async fn a_key_that_is_not_registered_signs_in_vain() {
    let (_book, _a, b) = pair();
    let tls = TlsIdentity::generate().unwrap();
    let mut stream = stranger(&tls, b.address).await;
    let said = hello(&tls, &stream);
    stream
        .write_all(&said.seal(&session(Token(77))))
        .await
        .unwrap();
    assert_eq!(reply(&mut stream).await, Err("signature"));
}

#[tokio::test]
async fn a_hello_of_one_tls_session_is_worth_nothing_on_another() {
    let (_book, _a, b) = pair();
    let tls = TlsIdentity::generate().unwrap();
    let first = stranger(&tls, b.address).await;
    let recorded = hello(&tls, &first).seal(&session(A));
    let mut second = stranger(&tls, b.address).await;
    second.write_all(&recorded).await.unwrap();
    assert_eq!(reply(&mut second).await, Err("tls_session"));
}

#[tokio::test]
async fn a_relay_between_two_members_gets_neither_side() {
    let (book, a, b) = pair();
    // A believes that B lives at the relay
    let relay = TcpListener::bind(any_port()).await.unwrap();
    lock(&book.addresses).insert(B, relay.local_addr().unwrap());
    let tls = TlsIdentity::generate().unwrap();
    let real = b.address;
    let relaying = tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(tls.accepting().unwrap());
        let (tcp, _) = relay.accept().await.unwrap();
        let mut from_a = acceptor.accept(tcp).await.unwrap();
        let mut said = [0; HELLO_LEN];
        from_a.read_exact(&mut said).await.unwrap();
        let mut to_b = stranger(&tls, real).await;
        to_b.write_all(&said).await.unwrap();
        reply(&mut to_b).await
    });
    let called = a.links.call(B, b"x".to_vec(), SOON).await;
    assert!(matches!(called, Err(LinkError::Dial { .. })), "{called:?}");
    assert_eq!(relaying.await.unwrap(), Err("certificate_key"));
    assert_eq!(b.echo.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_request_before_the_hello_is_not_read() {
    let (_book, _a, b) = pair();
    let tls = TlsIdentity::generate().unwrap();
    // a short message, one as long as a hello, one that begins like a hello
    let short = [header(1, 1), vec![65]].concat();
    for request in [
        short,
        [header(205, 1), vec![65; 205]].concat(),
        [vec![1], vec![255; HELLO_LEN - 1]].concat(),
    ] {
        let mut stream = stranger(&tls, b.address).await;
        stream.write_all(&request).await.unwrap();
        let said = reply(&mut stream).await;
        assert!(
            said == Err("not_a_hello") || said == Err("closed"),
            "{said:?}"
        );
    }
    eventually("each counted", || refused(&b, "not_a_hello") == 3).await;
    assert_eq!(b.echo.asked.load(Ordering::SeqCst), 0);
    assert_eq!(b.links.stats().accepted, 0);
}

/// Past a true hello, as A.
async fn inside(b: &Node) -> TlsStream<TcpStream> {
    let tls = TlsIdentity::generate().unwrap();
    let mut stream = stranger(&tls, b.address).await;
    let said = hello(&tls, &stream);
    stream.write_all(&said.seal(&session(A))).await.unwrap();
    assert_eq!(reply(&mut stream).await, Ok(()));
    stream
}

fn header(len: usize, kind: u8) -> Vec<u8> {
    [
        &u32::try_from(len).unwrap().to_be_bytes()[..],
        &1u64.to_be_bytes(),
        &[kind],
    ]
    .concat()
}

#[tokio::test]
async fn a_member_that_breaks_the_framing_loses_the_link() {
    for (bytes, reason) in [
        (header(BODY_LEN_MAX + 1, 1), "too_long"),
        (header(u32::MAX as usize, 1), "too_long"),
        (header(0, 2), "wrong_kind"),
        (header(0, 77), "wrong_kind"),
    ] {
        let (_book, _a, b) = pair();
        let mut stream = inside(&b).await;
        stream.write_all(&bytes).await.unwrap();
        assert!(
            tokio::time::timeout(SOON, stream.read_u8())
                .await
                .expect("closed in time")
                .is_err()
        );
        eventually(reason, || {
            refused(&b, reason) == 1 && b.links.stats().open == 0
        })
        .await;
    }
}

#[tokio::test]
async fn who_says_no_hello_is_closed_in_time_and_does_not_keep_others_out() {
    let (_book, a, b) = pair();
    let began = Instant::now();
    let tls = TlsIdentity::generate().unwrap();
    let mut silent_tcp = TcpStream::connect(b.address).await.unwrap();
    let mut silent_tls = stranger(&tls, b.address).await;
    let mut drip = stranger(&tls, b.address).await;
    drip.write_all(&[1, 0]).await.unwrap();
    assert_eq!(a.links.call(B, b"ab".to_vec(), SOON).await.unwrap(), b"ba");
    assert!(matches!(
        tokio::time::timeout(SOON, silent_tcp.read_u8()).await,
        Ok(Err(_))
    ));
    assert!(matches!(
        tokio::time::timeout(SOON, silent_tls.read_u8()).await,
        Ok(Err(_))
    ));
    assert!(matches!(
        tokio::time::timeout(SOON, drip.read_u8()).await,
        Ok(Err(_))
    ));
    assert!(began.elapsed() < HANDSHAKE_MAX * 2);
    eventually("all three counted", || refused(&b, "slow") == 3).await;
}

#[tokio::test]
async fn more_strangers_than_places_are_turned_away_at_once() {
    let (_book, _a, b) = pair();
    let mut crowd = Vec::new();
    for _ in 0..HANDSHAKES_MAX + 5 {
        crowd.push(TcpStream::connect(b.address).await.unwrap());
    }
    eventually("five too many", || refused(&b, "busy") == 5).await;
}

#[tokio::test]
async fn the_third_incoming_link_of_a_member_ends_its_first() {
    let (_book, _a, b) = pair();
    let tls = TlsIdentity::generate().unwrap();
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = stranger(&tls, b.address).await;
        let said = hello(&tls, &stream);
        stream.write_all(&said.seal(&session(A))).await.unwrap();
        assert_eq!(reply(&mut stream).await, Ok(()));
        streams.push(stream);
    }
    assert!(matches!(
        tokio::time::timeout(SOON, streams[0].read_u8()).await,
        Ok(Err(_))
    ));
    eventually("two stay", || b.links.stats().open == 2).await;
}

#[tokio::test]
async fn an_ended_incarnation_loses_its_links_on_both_sides() {
    let (book, a, b) = pair();
    a.links.call(B, b"x".to_vec(), SOON).await.unwrap();
    b.links.call(A, b"x".to_vec(), SOON).await.unwrap();
    book.register(B, 2);
    eventually("no link is left", || {
        a.links.stats().open == 0 && b.links.stats().open == 0
    })
    .await;
    // the old copy is still running: it is not taken for the new one
    let called = a.links.call(B, b"x".to_vec(), SOON).await;
    let field =
        |e: &LinkError| matches!(e, LinkError::RefusedThere { .. } | LinkError::Hello { .. });
    assert!(called.as_ref().is_err_and(field), "{called:?}");
    let back = b.links.call(A, b"x".to_vec(), SOON).await;
    assert!(
        matches!(
            back,
            Err(LinkError::RefusedThere {
                reason: "incarnation",
                ..
            })
        ),
        "{back:?}"
    );
    // the new one is welcome
    b.links.close_all();
    let b2 = start(&book, B, 2, TlsIdentity::generate().unwrap(), any_port());
    assert_eq!(b2.links.call(A, b"ab".to_vec(), SOON).await.unwrap(), b"ba");
    assert_eq!(a.links.call(B, b"ab".to_vec(), SOON).await.unwrap(), b"ba");
}

#[tokio::test]
async fn calls_to_a_dead_peer_fail_at_once_and_succeed_after_its_return() {
    let (book, a, b) = pair();
    a.links.call(B, b"x".to_vec(), SOON).await.unwrap();
    let links = a.links.clone();
    let waiting = tokio::spawn(async move { links.call(B, b"never".to_vec(), SOON * 4).await });
    eventually("the request is there", || {
        b.echo.asked.load(Ordering::SeqCst) == 2
    })
    .await;
    let (died, address) = (Instant::now(), b.address);
    b.links.close_all();
    drop(b);
    assert!(matches!(
        waiting.await.unwrap(),
        Err(LinkError::Ended { .. })
    ));
    assert!(a.links.call(B, b"x".to_vec(), SOON).await.is_err());
    assert!(a.links.call(B, b"x".to_vec(), SOON).await.is_err());
    assert!(
        died.elapsed() < Duration::from_secs(1),
        "{:?}",
        died.elapsed()
    );
    book.register(B, 2);
    let _b2 = start(&book, B, 2, TlsIdentity::generate().unwrap(), address);
    let until = Instant::now() + SOON;
    while a.links.call(B, b"x".to_vec(), SOON).await.is_err() {
        assert!(Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_call_past_its_deadline_says_so_and_leaves_the_link_to_others() {
    let (_book, a, _b) = pair();
    a.links.call(B, b"x".to_vec(), SOON).await.unwrap();
    let late = a
        .links
        .call(B, b"never".to_vec(), Duration::from_millis(50))
        .await;
    assert!(
        matches!(
            late,
            Err(LinkError::Deadline {
                deadline_ms: 50,
                ..
            })
        ),
        "{late:?}"
    );
    assert_eq!(a.links.call(B, b"ab".to_vec(), SOON).await.unwrap(), b"ba");
    assert_eq!(a.links.stats().dialled, 1);
}

#[tokio::test]
async fn a_peer_that_owes_answers_and_says_nothing_is_dialled_anew() {
    let (_book, a, _b) = pair();
    let until = Instant::now() + SOON;
    while a.links.stats().dialled < 2 {
        assert!(Instant::now() < until, "{:?}", a.links.stats());
        let hung = a
            .links
            .call(B, b"never".to_vec(), Duration::from_millis(50));
        assert!(hung.await.is_err());
    }
    assert_eq!(a.links.call(B, b"ab".to_vec(), SOON).await.unwrap(), b"ba");
}

#[tokio::test]
async fn requests_in_flight_are_bounded_on_both_sides() {
    let (_book, a, b) = pair();
    let calls: Vec<_> = (0..IN_FLIGHT_MAX)
        .map(|_| {
            let links = a.links.clone();
            tokio::spawn(async move { links.call(B, b"never".to_vec(), SOON * 4).await })
        })
        .collect();
    let served = || b.echo.asked.load(Ordering::SeqCst) == pipe::ANSWERING_MAX as u64;
    eventually("as many as may be served are", served).await;
    let until = Instant::now() + SOON;
    loop {
        let next = a
            .links
            .call(B, b"x".to_vec(), Duration::from_millis(20))
            .await;
        if matches!(next, Err(LinkError::Busy { .. })) {
            break;
        }
        assert!(Instant::now() < until, "{next:?}");
    }
    assert!(served(), "the acceptor takes no more than it serves");
    calls.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn strangers_to_the_book_are_not_dialled_and_a_taken_port_is_named() {
    let (book, a, _b) = pair();
    assert!(matches!(
        a.links.call(Token(9), vec![], SOON).await,
        Err(LinkError::NotAMember { .. })
    ));
    book.register(Token(9), 1);
    assert!(matches!(
        a.links.call(Token(9), vec![], SOON).await,
        Err(LinkError::NoAddress { .. })
    ));
    let taken = Links::bind(a.address).err().unwrap().to_string();
    assert!(
        taken.contains(&a.address.to_string()) && taken.contains("--link-port"),
        "{taken}"
    );
    a.links.close_all();
    assert!(matches!(
        a.links.call(B, vec![], SOON).await,
        Err(LinkError::Ended { .. })
    ));
}

#[test]
fn a_certificate_that_does_not_parse_has_no_key() {
    assert!(
        spki_hash(&rustls::pki_types::CertificateDer::from(vec![
            0x30, 0x03, 1, 2, 3
        ]))
        .is_err()
    );
}
