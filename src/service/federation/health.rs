//! Servers that cannot be reached are left alone for a while, longer each time; any contact, from either side, ends it.
//! Persisted by [`hearth_store::destinations`], so that a restart does not call all the dead at once.

use std::time::Duration;

use hearth_base::{Result, clock::Clock};
use hearth_store::{Store, destinations::Failing};
use rand::Rng;
use ruma::ServerName;
use tokio::sync::Notify;

/// Pauses.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The first of a server that did not come back at once (`federation.destination_min_retry_interval`).
    pub first: Duration,
    /// The factor of the next (`federation.destination_retry_multiplier`).
    pub factor: u32,
    /// The longest (`federation.destination_max_retry_interval`).
    pub longest: Duration,
}

/// The pause after one failure: whoever is only restarted is there again soon.
const EARLY: Duration = Duration::from_secs(5);
/// The factor of the next, until they are about as long as the first that is configured.
const EARLY_FACTOR: i64 = 4;

impl Default for Settings {
    fn default() -> Self {
        Self { first: Duration::from_secs(600), factor: 2, longest: Duration::from_secs(7 * 86_400) }
    }
}

/// How other servers fare.
#[derive(Debug)]
pub struct Health {
    store: Store,
    clock: Clock,
    settings: Settings,
    recovered: Notify,
}

impl Health {
    pub(super) fn new(store: Store, clock: Clock, settings: Settings) -> Self {
        Self { store, clock, settings, recovered: Notify::new() }
    }

    fn now(&self) -> i64 {
        i64::try_from(self.clock.now_ms()).unwrap_or(i64::MAX)
    }

    /// Until when a server is to be left alone, ms; `None` if it may be called.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn left_alone_until(&self, server: &ServerName) -> Result<Option<u64>> {
        let now = self.now();
        let failing = self.store.destination(server.as_str()).await?.filter(|f| rests(f, now));
        Ok(failing.and_then(|f| u64::try_from(f.retry_ms).ok()))
    }

    /// A call found nobody.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn failed(&self, server: &ServerName) -> Result<()> {
        let (now, old) = (self.now(), self.store.destination(server.as_str()).await?);
        if old.is_some_and(|f| rests(&f, now)) {
            // Begun before it was known: the same failure, not another.
            return Ok(());
        }
        let failing = after(old, now, self.settings, rand::rng().random_range(0.8..1.4));
        tracing::info!(%server, seconds = failing.interval_ms / 1000, "a server cannot be reached and is left alone");
        self.store.set_destination(server.as_str(), Some(failing)).await
    }

    /// A server answered, or asked.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn well(&self, server: &ServerName) -> Result<()> {
        if self.store.destination(server.as_str()).await?.is_none() {
            return Ok(());
        }
        tracing::info!(%server, "a server can be reached again");
        self.store.set_destination(server.as_str(), None).await?;
        self.recovered.notify_waiters();
        Ok(())
    }

    /// Rings when a server that failed is there again; for those who owe something to it.
    #[must_use]
    pub fn recovered(&self) -> &Notify {
        &self.recovered
    }
}

/// Whether a pause lasts still. One that has longer to go than it is long was begun by a clock that has been put back.
fn rests(failing: &Failing, now: i64) -> bool {
    (1..=failing.interval_ms).contains(&failing.retry_ms.saturating_sub(now))
}

/// What follows from a failure: the next pause, stretched by `jitter` so that servers that failed together do not come
/// back together.
fn after(old: Option<Failing>, now: i64, settings: Settings, jitter: f64) -> Failing {
    let ms = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX / 4);
    let (first, longest) = (ms(settings.first), ms(settings.longest));
    let pause = match old.map(|f| f.interval_ms.max(1)) {
        None => ms(EARLY).min(first),
        Some(last) if last < first / 2 => last.saturating_mul(EARLY_FACTOR),
        Some(last) => last.saturating_mul(i64::from(settings.factor.max(1))),
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "a pause needs no precision")]
    let interval_ms = ((pause.min(longest) as f64 * jitter) as i64).clamp(1, longest);
    Failing { failing_ms: old.map_or(now, |f| f.failing_ms), retry_ms: now.saturating_add(interval_ms), interval_ms }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_put_back_makes_no_pause_longer() {
        let failing = after(None, 10_000_000, Settings::default(), 1.0);
        assert!(rests(&failing, 10_000_001) && rests(&failing, 10_004_999));
        assert!(!rests(&failing, 10_005_000), "it is over");
        assert!(!rests(&failing, 9_999_999), "it was begun in the future");
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        let settings = Settings::default();
        let mut last = after(None, 1_000, settings, 1.0);
        assert_eq!(last, Failing { failing_ms: 1_000, retry_ms: 6_000, interval_ms: 5_000 });
        for seconds in [20, 80, 320, 640, 1_280] {
            last = after(Some(last), 700_000, settings, 1.0);
            assert_eq!((last.failing_ms, last.interval_ms), (1_000, seconds * 1000));
        }
        let short = Settings { first: Duration::from_millis(100), ..settings };
        let begun = after(None, 0, short, 1.0);
        assert_eq!([begun.interval_ms, after(Some(begun), 0, short, 1.0).interval_ms], [100, 200]);
        for _ in 0..40 {
            last = after(Some(last), 0, settings, 1.4);
        }
        assert_eq!(last.interval_ms, 7 * 86_400_000);
    }
}
