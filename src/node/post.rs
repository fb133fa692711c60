//! Frames over the link: one short queue and one task per member, so that a member that cannot be dialled costs the
//! driver nothing. A full queue drops, as UDP does; whoever needs an answer says it again.

use crate::links::Links;
use std::collections::BTreeMap;
use std::time::Duration;
use synod_wire::Token;
use tokio::sync::mpsc;

/// Frames that wait for one member's link.
const QUEUE_LEN_MAX: usize = 128;
/// Dialling included.
const SEND_WITHIN: Duration = Duration::from_secs(2);

/// The queues, made when they are first needed.
pub struct Post {
    links: Links,
    boxes: BTreeMap<Token, mpsc::Sender<Vec<u8>>>,
}

impl Post {
    /// Nothing is queued.
    pub fn new(links: Links) -> Self {
        Self {
            links,
            boxes: BTreeMap::new(),
        }
    }

    /// Queue a frame; false = the queue is full and the frame is dropped.
    pub fn send(&mut self, to: Token, frame: Vec<u8>) -> bool {
        let links = &self.links;
        let queue = self.boxes.entry(to).or_insert_with(|| {
            let (sender, receiver) = mpsc::channel(QUEUE_LEN_MAX);
            tokio::spawn(deliver(links.clone(), to, receiver));
            sender
        });
        queue.try_send(frame).is_ok()
    }

    /// Members only; the others' tasks end with their queues.
    pub fn keep(&mut self, stays: impl Fn(Token) -> bool) {
        self.boxes.retain(|token, _| stays(*token));
    }
}

async fn deliver(links: Links, to: Token, mut frames: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = frames.recv().await {
        if let Err(why) = links.frame(to, frame, SEND_WITHIN).await {
            tracing::trace!(%to, "a frame did not leave over the link: {why}");
        }
    }
}
