//! What another server may have done for it: what is dear is done as well, and then the server waits until that is made up
//! for. So one server takes a part of one processor for long, whatever it sends or asks, and most never notice.

use std::time::{Duration, Instant};

/// The longest wait, which is less than others wait for an answer.
pub(super) const LONGEST_REST: Duration = Duration::from_secs(30);

/// How much a server may have done.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long threads may be busy for it at once.
    pub burst: Duration,
    /// Beyond that it waits so many times as long.
    pub share: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { burst: Duration::from_secs(2), share: 6 }
    }
}

/// What a server has left.
#[derive(Debug)]
pub(super) struct Budget {
    settings: Settings,
    /// Time that threads may still be busy for it.
    left: Duration,
    /// From when on more is earned: not while it makes up for what it did not have.
    at: Instant,
}

impl Budget {
    pub(super) fn new(settings: Settings, now: Instant) -> Self {
        Self { settings, left: settings.burst, at: now }
    }

    /// Takes from it; gives how long the server is to wait until it has made up for what it did not have, now and before.
    pub(super) fn spend(&mut self, busy: Duration, now: Instant) -> Duration {
        let Settings { burst, share } = self.settings;
        let earned = now.saturating_duration_since(self.at) / share.max(1);
        let had = self.left.saturating_add(earned).min(burst);
        let more = busy.saturating_sub(had).saturating_mul(share).min(LONGEST_REST);
        (self.left, self.at) = (had.saturating_sub(busy), self.at.max(now) + more);
        self.at.saturating_duration_since(now).min(LONGEST_REST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_keeps_threads_busy_waits_for_as_long_as_makes_up_for_it() {
        let (begun, settings) = (Instant::now(), Settings::default());
        let at = |secs: u64| begun + Duration::from_secs(secs);
        let mut budget = Budget::new(settings, begun);
        let ms = Duration::from_millis;
        assert_eq!(budget.spend(ms(1_500), at(0)), Duration::ZERO, "a burst");
        assert_eq!(budget.spend(ms(1_500), at(0)), ms(1_000) * settings.share);
        assert_eq!(budget.spend(ms(100), at(6)), ms(100) * settings.share, "who waits saves nothing meanwhile");
        assert_eq!(budget.spend(ms(100), at(13)), Duration::ZERO, "a little is there again");
        assert_eq!(budget.spend(ms(100), at(60_000)), Duration::ZERO);
        assert!(budget.left < settings.burst, "no more than a burst is saved up");
        assert_eq!(budget.spend(Duration::from_secs(3_600), at(60_001)), LONGEST_REST);
    }

    #[test]
    fn what_is_done_at_the_same_time_is_made_up_for_one_after_the_other() {
        let (now, settings) = (Instant::now(), Settings { burst: Duration::ZERO, share: 6 });
        let mut budget = Budget::new(settings, now);
        let second = Duration::from_secs(1);
        assert_eq!(budget.spend(second, now), second * 6);
        assert_eq!(budget.spend(second, now), second * 12);
        assert_eq!(budget.spend(Duration::ZERO, now + second), second * 11, "what was done before counts as well");
        assert_eq!(budget.spend(second, now + second * 12), second * 6);
    }
}
