//! One guest and one conversation with it, over whatever carries bytes.
//!
//! Rule: a client's faults end its connection and concern nobody else; an idle connection ends, and one whose client
//! does not read what it asked for.

use crate::{
    http::{self, Surface},
    instance::Instance,
    patience::Patience,
    spec::Traits,
    world::World,
};
use hyper::{Request, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{io, sync::Arc, time::Duration};
use tokio::io::{AsyncRead, AsyncWrite};

/// An idle connection is closed after this time, as the real agent does; so is one that takes no byte of an answer.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// A booted guest with its agent.
#[derive(Clone)]
pub struct Guest(Arc<Instance>);

impl Guest {
    /// Boots an instance of the world's app. The seed is what its disk keeps; without a key provider none is kept,
    /// and each boot is a new instance.
    pub fn boot(world: Arc<World>, seed: &[u8; 32], traits: Traits) -> Self {
        Self(Arc::new(Instance::boot(world, seed, traits)))
    }

    /// `None` if the compose text asks for none.
    pub fn instance_id(&self) -> Option<[u8; 20]> {
        self.0.id
    }

    /// Answers requests until the client is done, idle for too long, or dropped by a habit of this guest.
    pub async fn converse(
        &self,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        surface: Surface,
    ) {
        let service = service_fn(|request: Request<_>| {
            let instance = self.0.clone();
            async move {
                if instance.drops_request() {
                    return Err(io::Error::from(io::ErrorKind::ConnectionAborted));
                }
                Ok(http::respond(&instance, surface, request).await)
            }
        });
        let _ = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE_TIMEOUT)
            .half_close(true)
            .serve_connection(TokioIo::new(Patience::new(io, IDLE_TIMEOUT)), service)
            .await;
    }
}
