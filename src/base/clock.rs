//! Time as an argument: services hold a [`Clock`], tests turn its hands.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

/// Milliseconds since the Unix epoch, as Matrix counts time.
pub type Millis = u64;

/// A source of time. Clones share their hands.
#[derive(Clone, Debug)]
pub struct Clock {
    began: Instant,
    /// The system's time then, ms.
    began_ms: Millis,
    /// Added to the system's time, ms; only tests set it.
    ahead: Arc<AtomicU64>,
    /// Taken from the system's time, ms; only tests set it.
    back: Arc<AtomicU64>,
}

impl Default for Clock {
    fn default() -> Self {
        Self { began: Instant::now(), began_ms: system_ms(), ahead: Arc::default(), back: Arc::default() }
    }
}

fn system_ms() -> Millis {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
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
        let system = system_ms().saturating_sub(self.back.load(Ordering::Relaxed));
        system.saturating_add(self.ahead.load(Ordering::Relaxed))
    }

    /// Milliseconds that go on evenly when the system's clock is set, on from what it said when this one was made: for
    /// pauses, limits and all else that nobody is told and that no restart outlives.
    #[must_use]
    pub fn steady_ms(&self) -> Millis {
        let since = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.began_ms.saturating_add(since).saturating_add(self.ahead.load(Ordering::Relaxed))
    }

    /// Moves this clock and its clones forward; for tests of expiry.
    pub fn advance_ms(&self, ms: u64) {
        self.ahead.fetch_add(ms, Ordering::Relaxed);
    }

    /// Sets this clock and its clones back, as a machine's that was ahead is; for tests.
    pub fn set_back_ms(&self, ms: u64) {
        self.back.fetch_add(ms, Ordering::Relaxed);
    }
}
