//! Between the engine of the log and the links: the engine knows tokens, the links know sockets.

use crate::links::{LinkPeer, LinkService, Links};
use futures_util::future::{BoxFuture, FutureExt};
use std::sync::OnceLock;
use std::time::Duration;
use synod_counter::{Courier, CourierError, Engine, Peer};
use synod_wire::Token;
use tokio::sync::mpsc;

/// Carries the engine's requests out. Made before the links are: the engine opens first.
#[derive(Default)]
pub struct LinkCourier(OnceLock<Links>);

impl LinkCourier {
    /// Links are up.
    pub fn connect(&self, links: Links) {
        // set once per boot; a second call would be a bug and changes nothing
        let _ = self.0.set(links);
    }
}

impl Courier for LinkCourier {
    fn call(
        &self,
        to: Token,
        request: Vec<u8>,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Vec<u8>, CourierError>> {
        let links = self.0.get().cloned();
        async move {
            let links = links.ok_or_else(|| CourierError::new("the links are not up yet"))?;
            links
                .call(to, request, deadline)
                .await
                .map_err(|why| CourierError::new(why.to_string()))
        }
        .boxed()
    }
}

/// Answers what comes in over links.
pub struct Service {
    /// Its gate comes first.
    pub engine: Engine,
    /// Frames go the same way as datagrams.
    pub frames: mpsc::Sender<(LinkPeer, Vec<u8>)>,
}

impl LinkService for Service {
    fn answer(&self, from: LinkPeer, request: Vec<u8>) -> BoxFuture<'static, Vec<u8>> {
        let engine = self.engine.clone();
        let peer = Peer {
            token: from.token,
            incarnation: from.incarnation,
        };
        async move { engine.answer(peer, &request).await }.boxed()
    }

    fn frame(&self, from: LinkPeer, bytes: Vec<u8>) {
        // a full queue drops, as UDP does; whoever sent it sends again
        let _ = self.frames.try_send((from, bytes));
    }
}
