//! How long messages, redacted content and forgotten rooms are kept, and when they are deleted.

use std::time::Duration;

use crate::read::At;

/// How long things are kept; none means for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Whether old messages are deleted at all.
    pub enabled: bool,
    /// Age at which messages go in rooms that do not say.
    pub default_max: Option<Duration>,
    /// Bounds to what rooms may say.
    pub allowed: (Option<Duration>, Option<Duration>),
    /// When it is done: for rooms that keep longer than the first and up to the second, at each interval.
    pub jobs: Vec<PurgeJob>,
    /// Content of redacted events.
    pub redacted: Option<Duration>,
    /// Rooms that all have forgotten.
    pub forgotten_rooms: Option<Duration>,
}

/// When old messages are deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PurgeJob {
    /// Rooms that keep longer than this.
    pub longer_than: Option<Duration>,
    /// And up to this.
    pub up_to: Option<Duration>,
    /// How often.
    pub interval: Duration,
}

impl Retention {
    pub(super) fn read(root: &At<'_>) -> Self {
        let at = root.get("retention");
        let (min_at, max_at) = (at.get("allowed_lifetime_min"), at.get("allowed_lifetime_max"));
        let allowed = (min_at.opt_duration(), max_at.opt_duration());
        if let (Some(min), Some(max)) = allowed
            && min > max
        {
            min_at.wrong("is more than retention.allowed_lifetime_max", "");
        }
        let job = |at: &At<'_>| {
            let interval = at.get("interval");
            if !interval.is_set() {
                interval.wrong("must be set", "write interval: 1d");
                return None;
            }
            Some(PurgeJob {
                longer_than: at.get("shortest_max_lifetime").opt_duration(),
                up_to: at.get("longest_max_lifetime").opt_duration(),
                interval: interval.duration(),
            })
        };
        let mut jobs = at.get("purge_jobs").each(job);
        if jobs.is_empty() {
            jobs.push(PurgeJob { longer_than: None, up_to: None, interval: Duration::from_secs(24 * 3600) });
        }
        Self {
            enabled: at.get("enabled").bool(),
            default_max: at.get("default_policy.max_lifetime").opt_duration(),
            allowed,
            jobs,
            redacted: root.get("redaction_retention_period").opt_duration(),
            forgotten_rooms: root.get("forgotten_room_retention_period").opt_duration(),
        }
    }
}
