//! The only clock of a node: monotonic milliseconds since the start for every decision, wall time for show
//! and for what leaves the process.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Monotonic; cheap to copy.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Starts at 0.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Milliseconds since the start.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The instant at which it showed 0.
    pub fn epoch(&self) -> Instant {
        self.0
    }

    /// The tokio instant at which this clock shows `ms`.
    pub fn at(&self, ms: u64) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.0 + std::time::Duration::from_millis(ms))
    }
}

/// Unix seconds, for people and for expiry dates; never for a decision about who is alive.
pub fn wall_seconds() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |d| d.as_secs_f64())
}
