//! How busy a connection is: whether something is asked or on its way, and for how long nothing has moved.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::time::sleep;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::io::Unread;
use crate::limits::Pass;

/// How busy a connection is; holds its place among the counted ones.
pub(crate) struct Activity {
    running: AtomicU32,
    /// Pieces of answers by HTTP/2 that hyper has been given, and the client has not taken yet.
    untaken: AtomicU32,
    /// Counts whatever happens here.
    moves: AtomicU32,
    pub unread: Unread,
    _pass: Pass,
    _open: TaskTrackerToken,
}

impl Activity {
    pub fn new(pass: Pass, open: TaskTrackerToken) -> Self {
        Self {
            running: AtomicU32::new(0),
            untaken: AtomicU32::new(0),
            moves: AtomicU32::new(0),
            unread: Unread::default(),
            _pass: pass,
            _open: open,
        }
    }

    /// Whether no request has come yet.
    pub fn is_unused(&self) -> bool {
        self.moves.load(Ordering::Relaxed) == 0
    }

    /// Ends when for a whole period nothing ran and nothing moved.
    pub async fn idle(&self, period: Duration) {
        self.still(period, || self.running.load(Ordering::Relaxed) == 0).await;
    }

    /// Ends when for a whole period nothing moved, though a piece of an answer waits for the client to take it.
    pub async fn stalled(&self, period: Duration) {
        self.still(period, || self.untaken.load(Ordering::Relaxed) > 0).await;
    }

    /// Ends when at the end of a period in which nothing moved `so` holds.
    async fn still(&self, period: Duration, so: impl Fn() -> bool) {
        let mut seen = self.moves.load(Ordering::Relaxed);
        loop {
            sleep(period).await;
            let moves = self.moves.load(Ordering::Relaxed);
            if moves == seen && so() {
                return;
            }
            seen = moves;
        }
    }

    fn moved(&self) {
        self.moves.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts a request as running until it is answered, by HTTP/2 until its answer is read whole from whoever makes it; or
/// until it is dropped because its client left.
pub(crate) struct Running(pub Arc<Activity>);

impl Running {
    pub fn new(activity: &Arc<Activity>) -> Self {
        activity.moved();
        activity.running.fetch_add(1, Ordering::Relaxed);
        Self(activity.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.moved();
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts a piece of an answer as not taken until it has left us.
pub(crate) struct Untaken(Arc<Activity>);

impl Untaken {
    pub fn new(activity: &Arc<Activity>) -> Self {
        activity.moved();
        activity.untaken.fetch_add(1, Ordering::Relaxed);
        Self(activity.clone())
    }
}

impl Drop for Untaken {
    fn drop(&mut self) {
        self.0.moved();
        self.0.untaken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::{IpAddr, Ipv4Addr};

    use tokio::time::timeout;
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::limits::{Gate, Limits};

    const PERIOD: Duration = Duration::from_secs(60);

    fn activity() -> Arc<Activity> {
        let limits = Limits::new(&hearth_config::edge::Limits::default(), 0);
        let pass = Gate::default().admit(&limits, IpAddr::V4(Ipv4Addr::LOCALHOST), false).unwrap();
        Arc::new(Activity::new(pass, TaskTracker::new().token()))
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_takes_slowly_is_not_stalled_and_whoever_takes_nothing_is() {
        let activity = activity();
        assert!(timeout(10 * PERIOD, activity.stalled(PERIOD)).await.is_err(), "nothing is owed");
        let (first, mut last) = (Untaken::new(&activity), Untaken::new(&activity));
        let takes = async {
            for _ in 0..10 {
                sleep(PERIOD * 9 / 10).await;
                last = Untaken::new(&activity);
            }
        };
        tokio::select! {
            () = activity.stalled(PERIOD) => panic!("cut off while it takes"),
            () = takes => {}
        }
        assert!(timeout(3 * PERIOD, activity.stalled(PERIOD)).await.is_ok());
        drop((first, last));
        assert!(timeout(10 * PERIOD, activity.stalled(PERIOD)).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_with_a_request_is_not_idle() {
        let activity = activity();
        assert!(activity.is_unused());
        let running = Running::new(&activity);
        assert!(!activity.is_unused());
        assert!(timeout(10 * PERIOD, activity.idle(PERIOD)).await.is_err());
        drop(running);
        assert!(timeout(3 * PERIOD, activity.idle(PERIOD)).await.is_ok());
    }
}
