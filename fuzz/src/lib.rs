//! What the targets share: a simulated guest that is spoken to in memory, and the strict reader of its answers.
//!
//! Rule: a target panics exactly when a promise is broken; what the simulator may answer to nonsense is listed here, and
//! whatever is not listed is a finding. Time is tokio's paused clock, so a timeout of the simulator costs nothing and a
//! conversation that would never end is seen at once.

use dstack_simulator::{Guest, Surface, Traits, World, WorldSpec};
use std::{
    str,
    sync::{Arc, LazyLock},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split},
    runtime::{Builder, Runtime},
    time::timeout,
};

/// Bytes in flight in each direction; smaller than an `Info`, so that the simulator has to wait for its reader.
const PIPE: usize = 4 * 1024;
/// Longer (by the paused clock) than every timeout of the simulator together.
const ENDS_WITHIN: Duration = Duration::from_secs(600);
/// What a simulator may say: the API's own, the framework's pages, and what hyper says to that which is no HTTP.
const STATUSES: &[u16] = &[200, 400, 404, 414, 422, 431];

/// Whether the client closes its half after the last byte or waits for the simulator to close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Shuts its sending half down.
    HalfClose,
    /// Keeps the connection open.
    Open,
}

/// One complete answer.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Value of `content-type`; empty if there is none.
    pub kind: String,
    /// The body.
    pub body: Vec<u8>,
}

static GUEST: LazyLock<Guest> = LazyLock::new(|| {
    let world = World::build(WorldSpec::new([7; 32])).expect("the default world can be built");
    Guest::boot(Arc::new(world), &[8; 32], Traits::default())
});

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without sockets can be built");
}

/// Says these bytes to the guest and gives what it answered until it closed.
pub fn converse(surface: Surface, said: &[u8], end: End) -> Vec<u8> {
    let (ours, theirs) = duplex(PIPE);
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let both =
                async { tokio::join!(GUEST.converse(theirs, surface), client(ours, said, end)).1 };
            timeout(ENDS_WITHIN, both).await.unwrap_or_else(|_| {
                panic!("expected the end of the conversation within {ENDS_WITHIN:?}, {end:?}")
            })
        })
    })
}

async fn client(io: DuplexStream, said: &[u8], end: End) -> Vec<u8> {
    let (mut from, mut to) = split(io);
    let speak = async {
        // an error here means that the simulator has closed already; it may
        if to.write_all(said).await.is_ok() && end == End::HalfClose {
            let _ = to.shutdown().await;
        }
    };
    let mut heard = Vec::new();
    let listen = async {
        from.read_to_end(&mut heard)
            .await
            .expect("a pipe in memory does not fail")
    };
    tokio::join!(speak, listen);
    heard
}

/// All answers of a conversation. `may_omit_bodies`: a HEAD was among the requests, its answer names a length and has no body.
pub fn answers(mut heard: &[u8], may_omit_bodies: bool) -> Vec<Answer> {
    let mut all = Vec::new();
    while !heard.is_empty() {
        let (answer, rest) = first_answer(heard, may_omit_bodies);
        heard = rest;
        all.extend(answer);
    }
    all
}

/// `None` for an interim answer (100), which has no body.
fn first_answer(heard: &[u8], may_omit_bodies: bool) -> (Option<Answer>, &[u8]) {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut fields);
    let head_length = match head.parse(heard) {
        Ok(httparse::Status::Complete(length)) => length,
        other => panic!(
            "expected the head of an answer, found {other:?} in {}",
            heard.escape_ascii()
        ),
    };
    let status = head.code.expect("a complete head has a status");
    let after = &heard[head_length..];
    if status == 100 {
        return (None, after);
    }
    assert!(
        STATUSES.contains(&status),
        "expected a status of {STATUSES:?}, found {status}"
    );
    let field = |name: &str| {
        head.headers
            .iter()
            .find(|f| f.name.eq_ignore_ascii_case(name))
            .map(|f| f.value)
    };
    let length: usize = field("content-length")
        .and_then(|value| str::from_utf8(value).ok()?.parse().ok())
        .unwrap_or_else(|| {
            panic!(
                "expected a content-length, found {:?}",
                heard[..head_length].escape_ascii().to_string()
            )
        });
    let omitted = may_omit_bodies && (after.is_empty() || after.starts_with(b"HTTP/1."));
    let length = if omitted { 0 } else { length };
    assert!(
        after.len() >= length,
        "expected a body of {length} bytes, found {}",
        after.len()
    );
    let answer = Answer {
        status,
        kind: String::from_utf8_lossy(field("content-type").unwrap_or_default()).into_owned(),
        body: after[..length].to_vec(),
    };
    (Some(answer), &after[length..])
}
