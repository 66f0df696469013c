//! Wall-clock time as an argument: services hold a [`Clock`], tests turn its hands.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

/// Milliseconds since the Unix epoch, as Matrix counts time.
pub type Millis = u64;

/// A source of wall-clock time. Clones share their hands.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// Added to the system's time, ms; only tests set it.
    ahead: Arc<AtomicU64>,
}

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Now, in milliseconds since the Unix epoch; 0 if the system's clock stands before 1970.
    #[must_use]
    pub fn now_ms(&self) -> Millis {
        let system = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        system.saturating_add(self.ahead.load(Ordering::Relaxed))
    }

    /// Moves this clock and its clones forward; for tests of expiry.
    pub fn advance_ms(&self, ms: u64) {
        self.ahead.fetch_add(ms, Ordering::Relaxed);
    }
}
