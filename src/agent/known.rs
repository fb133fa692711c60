//! The answer to `Info`, kept. On hardware each `Info` takes a quote, one at a time, so it is asked once.

use crate::Info;
use std::sync::{Arc, Mutex as Cell, PoisonError};
use tokio::sync::{Mutex, MutexGuard};

/// Clones share it.
#[derive(Clone, Default)]
pub struct Known(Arc<Inside>);

#[derive(Default)]
struct Inside {
    info: Cell<Option<Info>>,
    asking: Mutex<()>,
}

impl Known {
    pub fn info(&self) -> Option<Info> {
        self.0
            .info
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub fn keep(&self, info: Info) {
        *self.0.info.lock().unwrap_or_else(PoisonError::into_inner) = Some(info);
    }

    /// One asks, the others wait here and look again.
    pub async fn turn(&self) -> MutexGuard<'_, ()> {
        self.0.asking.lock().await
    }
}
