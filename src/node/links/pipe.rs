//! Messages on a link whose hellos have verified: `{body length u32, id u64, kind u8, body}`, big-endian.
//! The dialler sends requests and frames, the acceptor answers by id, in any order. A message of another kind,
//! a length over the limit or an ended incarnation ends the link: a member that speaks out of turn is not
//! served half.

use super::{
    BODY_LEN_MAX, ENDED_INCARNATION, IDLE_MAX, IN_FLIGHT_MAX, LinkError, LinkPeer, Shared, lock,
};
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

/// Bytes before the body.
pub(super) const HEADER_LEN: usize = 13;
/// A message that has begun must have arrived by then (slow senders), a written one been taken.
const MESSAGE_MAX: Duration = Duration::from_secs(20);
/// After this nobody waits for an answer any more.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Requests of one peer that are answered at one time; the next ones wait in its own TCP window.
pub(super) const ANSWERING_MAX: usize = 64;
/// Messages that wait for the writer.
const OUT_LEN_MAX: usize = 64;
/// A peer that says nothing for so long while it owes answers is taken for gone.
const SILENCE_MAX: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Request = 1,
    Answer = 2,
    Frame = 3,
}

impl Kind {
    fn from_number(number: u8) -> Option<Self> {
        [Self::Request, Self::Answer, Self::Frame]
            .into_iter()
            .find(|kind| *kind as u8 == number)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Dialler,
    Acceptor,
}

struct Message {
    kind: Kind,
    id: u64,
    body: Vec<u8>,
}

/// One open link.
pub(super) struct Pipe {
    peer: LinkPeer,
    side: Side,
    out: mpsc::Sender<Message>,
    waiting: Mutex<BTreeMap<u64, oneshot::Sender<Vec<u8>>>>,
    /// Since when the peer owes us something without having said anything.
    silent_since: Mutex<Option<Instant>>,
    next_id: AtomicU64,
    end: watch::Sender<Option<String>>,
}

impl Pipe {
    /// Reader and writer run until the link ends.
    pub(super) fn start<S>(shared: &Arc<Shared>, stream: S, peer: LinkPeer, side: Side) -> Arc<Self>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (out, queue) = mpsc::channel(OUT_LEN_MAX);
        let pipe = Arc::new(Self {
            peer,
            side,
            out,
            waiting: Mutex::default(),
            silent_since: Mutex::default(),
            next_id: AtomicU64::new(1),
            end: watch::Sender::new(None),
        });
        shared.lock_pipes().push(Arc::clone(&pipe));
        let (read, write) = tokio::io::split(stream);
        let (owner, me) = (Arc::clone(shared), Arc::clone(&pipe));
        tokio::spawn(async move {
            let why = tokio::select! {
                why = me.ended() => why,
                why = me.read_all(&owner, read) => why,
                why = me.write_all(&owner, write, queue) => why,
            };
            me.close(&why);
            owner.lock_pipes().retain(|open| !Arc::ptr_eq(open, &me));
            tracing::debug!(token = %me.peer.token, side = ?me.side, why, "link ended");
        });
        if shared.stopped() {
            pipe.close("this node stops its links");
        }
        pipe
    }

    pub(super) fn peer(&self) -> LinkPeer {
        self.peer
    }

    pub(super) fn side(&self) -> Side {
        self.side
    }

    /// Every call on this link fails now; the tasks follow.
    pub(super) fn close(&self, why: &str) {
        self.end.send_if_modified(|end| {
            let first = end.is_none();
            if first {
                *end = Some(why.to_owned());
            }
            first
        });
        lock(&self.waiting).clear();
    }

    pub(super) fn end(&self) -> Option<String> {
        self.end.borrow().clone()
    }

    async fn ended(&self) -> String {
        let mut end = self.end.subscribe();
        let ended = end.wait_for(Option::is_some).await;
        ended.ok().and_then(|why| why.clone()).unwrap_or_default()
    }

    /// Ask and wait; the caller brings the deadline.
    pub(super) async fn request(self: &Arc<Self>, body: Vec<u8>) -> Result<Vec<u8>, LinkError> {
        let token = self.peer.token;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (answered, answer) = oneshot::channel();
        {
            let mut waiting = lock(&self.waiting);
            if waiting.len() >= IN_FLIGHT_MAX {
                return Err(LinkError::Busy { token });
            }
            waiting.insert(id, answered);
        }
        let _forget = Forget(self, id);
        // `close` first says so and then clears: whoever comes in between sees it here
        self.send(Kind::Request, id, body).await?;
        lock(&self.silent_since).get_or_insert_with(Instant::now);
        answer.await.map_err(|_| self.ended_error())
    }

    /// Queue a frame.
    pub(super) async fn frame(&self, frame: Vec<u8>) -> Result<(), LinkError> {
        self.send(Kind::Frame, 0, frame).await
    }

    async fn send(&self, kind: Kind, id: u64, body: Vec<u8>) -> Result<(), LinkError> {
        if body.len() > BODY_LEN_MAX {
            return Err(LinkError::TooLong { len: body.len() });
        }
        if self.end.borrow().is_some() {
            return Err(self.ended_error());
        }
        self.out
            .send(Message { kind, id, body })
            .await
            .map_err(|_| self.ended_error())
    }

    fn ended_error(&self) -> LinkError {
        let why = self
            .end()
            .unwrap_or_else(|| "its tasks have stopped".to_owned());
        LinkError::Ended {
            token: self.peer.token,
            why,
        }
    }

    /// A call ran into its deadline: is the peer gone, or only slow?
    pub(super) fn missed(&self) {
        if lock(&self.silent_since).is_some_and(|since| since.elapsed() >= SILENCE_MAX) {
            self.close("the peer has said nothing while it owed answers");
        }
    }

    async fn read_all<R: AsyncRead + Unpin>(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        mut read: R,
    ) -> String {
        let answering = Arc::new(Semaphore::new(ANSWERING_MAX));
        loop {
            let message = match read_message(&mut read).await {
                Ok(message) => message,
                Err(fault) => {
                    if let Some(reason) = fault.reason() {
                        shared.counts.refuse(reason);
                    }
                    return fault.to_string();
                }
            };
            shared
                .counts
                .bytes_in
                .fetch_add((HEADER_LEN + message.body.len()) as u64, Ordering::Relaxed);
            if !shared.is_current(self.peer) {
                shared.counts.refuse("ended_incarnation");
                return ENDED_INCARNATION.to_owned();
            }
            *lock(&self.silent_since) = None;
            match (self.side, message.kind) {
                (Side::Acceptor, Kind::Request) => {
                    let permit = Arc::clone(&answering).acquire_owned().await;
                    let (pipe, service) = (Arc::clone(self), Arc::clone(&shared.service));
                    tokio::spawn(async move {
                        let work = service.answer(pipe.peer, message.body);
                        if let Ok(answer) = tokio::time::timeout(ANSWER_MAX, work).await
                            && let Err(why) = pipe.send(Kind::Answer, message.id, answer).await
                        {
                            tracing::debug!(token = %pipe.peer.token, %why, "answer not sent");
                        }
                        drop(permit);
                    });
                }
                (Side::Acceptor, Kind::Frame) => shared.service.frame(self.peer, message.body),
                (Side::Dialler, Kind::Answer) => self.answered(message),
                (Side::Acceptor, Kind::Answer) | (Side::Dialler, Kind::Request | Kind::Frame) => {
                    shared.counts.refuse("wrong_kind");
                    return format!("{:?} is not for this side of a link", message.kind);
                }
            }
        }
    }

    /// An answer that nobody waits for any more is no fault: its caller ran out of time.
    fn answered(&self, message: Message) {
        let mut waiting = lock(&self.waiting);
        if let Some(caller) = waiting.remove(&message.id) {
            caller.send(message.body).ok();
        }
        if !waiting.is_empty() {
            lock(&self.silent_since).get_or_insert_with(Instant::now);
        }
    }

    async fn write_all<W>(
        &self,
        shared: &Shared,
        mut write: W,
        mut queue: mpsc::Receiver<Message>,
    ) -> String
    where
        W: AsyncWrite + Unpin,
    {
        while let Some(message) = queue.recv().await {
            let bytes = encode(&message);
            let sending = async {
                write.write_all(&bytes).await?;
                write.flush().await
            };
            match tokio::time::timeout(MESSAGE_MAX, sending).await {
                Ok(Ok(())) => shared
                    .counts
                    .bytes_out
                    .fetch_add(bytes.len() as u64, Ordering::Relaxed),
                Ok(Err(why)) => return format!("not sent: {why}"),
                Err(_) => return "the peer takes nothing".to_owned(),
            };
        }
        "this side let go".to_owned()
    }
}

/// A caller that goes away leaves nothing behind.
struct Forget<'a>(&'a Pipe, u64);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(&self.0.waiting).remove(&self.1);
    }
}

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("closed there")]
    Closed,
    #[error("lost: {0}")]
    Lost(io::Error),
    #[error("no message for {} s", IDLE_MAX.as_secs())]
    Idle,
    #[error("a message took longer than {} s", MESSAGE_MAX.as_secs())]
    Slow,
    #[error("a message of {0} bytes; a link carries {BODY_LEN_MAX}")]
    TooLong(usize),
    #[error("message kind {0} is not spoken here")]
    Kind(u8),
}

impl Fault {
    /// Faults of a peer that broke a rule are counted as refused; the others happen.
    fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Slow => Some("slow"),
            Self::TooLong(_) => Some("too_long"),
            Self::Kind(_) => Some("wrong_kind"),
            Self::Closed | Self::Lost(_) | Self::Idle => None,
        }
    }
}

fn encode(message: &Message) -> Vec<u8> {
    let len = u32::try_from(message.body.len()).expect("send has checked the length");
    let mut bytes = Vec::with_capacity(HEADER_LEN + message.body.len());
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes.extend_from_slice(&message.id.to_be_bytes());
    bytes.push(message.kind as u8);
    bytes.extend_from_slice(&message.body);
    bytes
}

async fn read_message<R: AsyncRead + Unpin>(read: &mut R) -> Result<Message, Fault> {
    let first = match tokio::time::timeout(IDLE_MAX, read.read_u8()).await {
        Ok(Ok(byte)) => byte,
        Ok(Err(why)) if why.kind() == io::ErrorKind::UnexpectedEof => return Err(Fault::Closed),
        Ok(Err(why)) => return Err(Fault::Lost(why)),
        Err(_) => return Err(Fault::Idle),
    };
    tokio::time::timeout(MESSAGE_MAX, read_rest(first, read))
        .await
        .unwrap_or(Err(Fault::Slow))
}

async fn read_rest<R: AsyncRead + Unpin>(first: u8, read: &mut R) -> Result<Message, Fault> {
    let mut rest = [0; 3];
    read.read_exact(&mut rest).await.map_err(Fault::Lost)?;
    let [b, c, d] = rest;
    let len = u32::from_be_bytes([first, b, c, d]) as usize;
    if len > BODY_LEN_MAX {
        return Err(Fault::TooLong(len));
    }
    let id = read.read_u64().await.map_err(Fault::Lost)?;
    let number = read.read_u8().await.map_err(Fault::Lost)?;
    let kind = Kind::from_number(number).ok_or(Fault::Kind(number))?;
    // grows with what arrives, not with what was announced
    let mut body = Vec::new();
    let read_len = read
        .take(len as u64)
        .read_to_end(&mut body)
        .await
        .map_err(Fault::Lost)?;
    if read_len != len {
        return Err(Fault::Closed);
    }
    Ok(Message { kind, id, body })
}
