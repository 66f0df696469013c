//! What a piece of work costs: the time for which it keeps threads busy, itself and by the jobs that it gives away. Waiting
//! costs nothing.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

tokio::task_local! {
    static PRESENT: Bill;
}

/// A bill. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Bill(Arc<AtomicI64>);

impl Bill {
    /// The bill that the present work is on, if any.
    #[must_use]
    pub fn present() -> Option<Self> {
        PRESENT.try_with(Clone::clone).ok()
    }

    /// What is on it so far.
    #[must_use]
    pub fn busy(&self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.load(Ordering::Relaxed)).unwrap_or_default())
    }

    fn add(&self, busy: Duration) {
        self.0.fetch_add(i64::try_from(busy.as_nanos()).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// What is on a bill of its own is not on that of the work around it.
    fn take_off(&self, busy: Duration) {
        self.0.fetch_sub(i64::try_from(busy.as_nanos()).unwrap_or(i64::MAX), Ordering::Relaxed);
    }
}

/// Work, put on a bill, and on no other.
pub async fn charged<F: Future + Unpin>(bill: Bill, mut work: F) -> F::Output {
    std::future::poll_fn(|cx| {
        let began = Instant::now();
        let ended = PRESENT.sync_scope(bill.clone(), || Pin::new(&mut work).poll(cx));
        let busy = began.elapsed();
        bill.add(busy);
        if let Some(around) = Bill::present().filter(|around| !Arc::ptr_eq(&around.0, &bill.0)) {
            around.take_off(busy);
        }
        ended
    })
    .await
}

/// Work for a blocking thread, put on the bill of whoever gives it away.
pub fn blocking<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let bill = Bill::present();
    move || {
        let began = Instant::now();
        let done = work();
        if let Some(bill) = bill {
            bill.add(began.elapsed());
        }
        done
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tasks::Supervisor;

    fn busy(ms: u64) {
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(ms) {}
    }

    #[tokio::test]
    async fn work_is_charged_with_what_it_gives_away_and_not_with_its_waits() {
        let (bill, supervisor) = (Bill::default(), Supervisor::new());
        let work = async {
            busy(10);
            tokio::time::sleep(Duration::from_secs(1)).await;
            let job = supervisor.job(async {
                busy(20);
                tokio::task::spawn_blocking(blocking(|| busy(40))).await.unwrap();
                Ok(())
            });
            job.await.unwrap();
        };
        charged(bill.clone(), Box::pin(work)).await;
        assert!((70..900).contains(&bill.busy().as_millis()), "{:?}", bill.busy());
        assert!(Bill::present().is_none());
    }

    #[tokio::test]
    async fn what_has_a_bill_of_its_own_is_on_no_other() {
        let (whole, part) = (Bill::default(), Bill::default());
        let work = async {
            busy(10);
            charged(part.clone(), Box::pin(async { busy(100) })).await;
        };
        charged(whole.clone(), Box::pin(work)).await;
        assert!(part.busy() >= Duration::from_millis(100), "{part:?}");
        assert!((10..100).contains(&whole.busy().as_millis()), "{whole:?}");
    }
}
