//! When to renew, and how long to wait after a failure. Pure: times and chance come in as arguments.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use crate::tls::Certificate;

/// When an authority would have a certificate renewed (RFC 9773).
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// Seconds since the epoch.
    pub start: i64,
    /// Seconds since the epoch.
    pub end: i64,
    /// When to ask again.
    pub again: Duration,
}

/// The longest sleep between two looks at a certificate.
const LOOK: Duration = Duration::from_secs(12 * 3600);
/// The shortest, whatever an authority says.
const LOOK_LEAST: Duration = Duration::from_secs(60);

/// How long a certificate may stay as it is at the moment; none when it is time for another: when a third of its life
/// is left, or at a moment within the authority's window, whichever comes first.
pub(super) fn wait(certificate: &Certificate, told: Option<Window>, now: i64) -> Option<Duration> {
    let life = certificate.not_after - certificate.not_before;
    let mut due = certificate.not_after - life / 3;
    if let Some(window) = told {
        // The same moment at each look, another one for each certificate, so that not all servers come at once.
        let mut hasher = DefaultHasher::new();
        certificate.key.cert.first().map(AsRef::as_ref).hash(&mut hasher);
        let span = u64::try_from(window.end - window.start).unwrap_or(0).max(1);
        let within = i64::try_from(hasher.finish() % span).unwrap_or(0);
        due = due.min(window.start + within);
    }
    let left = u64::try_from(due - now).ok().filter(|left| *left > 0)?;
    let again = told.map_or(LOOK, |w| w.again.clamp(LOOK_LEAST, LOOK));
    Some(Duration::from_secs(left).min(again))
}

/// The pause after that many failures in a row: from a minute, doubling, to six hours, a quarter more or less by
/// chance. Where an authority says we come too often, at least an hour.
pub(super) fn pause(failures: u32, rate_limited: bool, chance: u16) -> Duration {
    let minutes = 1u64 << failures.saturating_sub(1).min(9);
    let base = Duration::from_secs(60 * minutes.min(360));
    let base = if rate_limited { base.max(Duration::from_secs(3600)) } else { base };
    base.mul_f64(0.75 + 0.5 * f64::from(chance) / f64::from(u16::MAX))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tls::made;

    const DAY: i64 = 86_400;

    fn ninety_days() -> Certificate {
        Certificate { not_before: 0, not_after: 90 * DAY, ..made::self_signed(&["a.test".to_owned()]).unwrap() }
    }

    #[test]
    fn a_third_of_the_life_is_left() {
        let certificate = ninety_days();
        assert_eq!(wait(&certificate, None, DAY), Some(LOOK));
        assert_eq!(wait(&certificate, None, 60 * DAY - 100), Some(Duration::from_secs(100)));
        assert_eq!(wait(&certificate, None, 60 * DAY), None);
        assert_eq!(wait(&certificate, None, 99 * DAY), None);
    }

    #[test]
    fn the_authority_may_ask_for_an_earlier_day() {
        let certificate = ninety_days();
        let window = |from: i64, to: i64| Some(Window { start: from, end: to, again: Duration::from_secs(1) });
        assert_eq!(wait(&certificate, window(5 * DAY, 6 * DAY), 4 * DAY), Some(LOOK_LEAST));
        assert_eq!(wait(&certificate, window(5 * DAY, 6 * DAY), 6 * DAY), None);
        assert_eq!(wait(&certificate, window(0, 0), DAY), None);
        // A window later than a third of the life does not put it off.
        assert_eq!(wait(&certificate, window(80 * DAY, 81 * DAY), 60 * DAY), None);
    }

    #[test]
    fn pauses_grow_and_end_growing() {
        let minutes = |n, limited| pause(n, limited, u16::MAX / 2).as_secs() / 60;
        let grown: Vec<u64> = (1..=12).map(|n| minutes(n, false)).collect();
        assert!(grown.windows(2).all(|w| w[0] <= w[1]), "{grown:?}");
        assert!(grown[0] <= 1 && (350..=370).contains(&grown[11]), "{grown:?}");
        assert!(minutes(1, true) >= 59);
        assert!(pause(1, false, 0) < pause(1, false, u16::MAX));
    }
}
