//! The supervisor: the one place that spawns.
//!
//! Two kinds of work. A *task* lives as long as the server, is restarted with back-off when it ends in error,
//! and ends at the soft stop. A *job* is a piece of work that must finish although its caller may go away (a
//! commit whose client hung up): the stop waits for jobs up to a deadline, and only then drops them.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{sync::oneshot, task::JoinSet};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, error, info_span, warn};

use crate::{
    Error, Result,
    bill::{Bill, charged},
};

/// Starts and ends background work. Clones share one lifetime.
#[derive(Clone, Debug)]
pub struct Supervisor {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    soft: CancellationToken,
    hard: CancellationToken,
    tracker: TaskTracker,
}

impl Default for Supervisor {
    fn default() -> Self {
        Self::new()
    }
}

/// How long after the first failure a task is started again; doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest pause between two starts of a failing task.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

impl Supervisor {
    /// A supervisor with nothing to do. Needs a tokio runtime once work is given to it.
    #[must_use]
    pub fn new() -> Self {
        Self {
            inner: Arc::new(Inner {
                soft: CancellationToken::new(),
                hard: CancellationToken::new(),
                tracker: TaskTracker::new(),
            }),
        }
    }

    /// Cancelled when the server begins to stop: finish what you do, begin nothing.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.inner.soft.clone()
    }

    /// Whether the stop has begun.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.inner.soft.is_cancelled()
    }

    /// Runs a task until the stop. `make` is called again, after a pause, whenever its future ends in error or
    /// panics; a future that ends well ends the task.
    pub fn task<F, Fut>(&self, name: &'static str, make: F)
    where
        F: Fn() -> Fut + Send + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        let (soft, hard) = (self.inner.soft.clone(), self.inner.hard.clone());
        let span = info_span!("task", name);
        self.inner.tracker.spawn(
            async move {
                let mut pause = BACKOFF_MIN;
                while !soft.is_cancelled() {
                    let started = tokio::time::Instant::now();
                    let mut set = JoinSet::new();
                    set.spawn(make().in_current_span());
                    let ended = tokio::select! {
                        () = hard.cancelled() => return,
                        ended = set.join_next() => ended,
                    };
                    match ended {
                        Some(Ok(Ok(()))) | None => return,
                        Some(Ok(Err(e))) => warn!(error = %e, "task failed, starting it again"),
                        Some(Err(e)) => error!(error = %e, "task panicked, starting it again"),
                    }
                    if started.elapsed() > BACKOFF_MAX {
                        pause = BACKOFF_MIN;
                    }
                    tokio::select! {
                        () = soft.cancelled() => return,
                        () = tokio::time::sleep(pause) => pause = (pause * 2).min(BACKOFF_MAX),
                    }
                }
            }
            .instrument(span),
        );
    }

    /// Runs idempotent work now and then until the stop, with a pause before each time; what fails is logged and made
    /// again at the next. It is dropped wherever it stands when the stop begins.
    pub fn every<F, Fut>(&self, name: &'static str, pause: Duration, work: F)
    where
        F: Fn() -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        let soft = self.inner.soft.clone();
        self.task(name, move || {
            let (soft, work) = (soft.clone(), work.clone());
            async move {
                let rounds = async move {
                    loop {
                        tokio::time::sleep(pause).await;
                        if let Err(e) = work().await {
                            warn!(error = %e, "periodic work failed; it is made again at its next time");
                        }
                    }
                };
                tokio::select! {
                    () = soft.cancelled() => Ok(()),
                    () = rounds => Ok(()),
                }
            }
        });
    }

    /// Runs a piece of work to its end even if the caller is dropped, and gives its result to a caller who stays.
    ///
    /// # Errors
    /// The work's own error; a fault if it panicked or the hard stop came first.
    pub async fn job<T, Fut>(&self, work: Fut) -> Result<T>
    where
        T: Send + 'static,
        Fut: Future<Output = Result<T>> + Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        self.detach(async move {
            let _ = tell.send(work.await);
        });
        match told.await {
            Ok(result) => result,
            Err(_) => Err(Error::broken("work was dropped before it ended")),
        }
    }

    /// Runs a piece of work to its end; nobody waits for it but the stop.
    pub fn detach<Fut>(&self, work: Fut)
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        // On its way to its task a future is moved several times, and some are large.
        let work = Box::pin(work);
        match Bill::present() {
            None => self.spawn(work),
            Some(bill) => self.spawn(charged(bill, work)),
        }
    }

    fn spawn<Fut>(&self, work: Fut)
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        let hard = self.inner.hard.clone();
        self.inner.tracker.spawn(
            async move {
                tokio::select! {
                    () = work => {}
                    () = hard.cancelled() => warn!("work dropped by the hard stop"),
                }
            }
            .in_current_span(),
        );
    }

    /// Begins the stop without waiting.
    pub fn begin_stop(&self) {
        self.inner.soft.cancel();
    }

    /// Begins the stop, waits for tasks and jobs up to `deadline`, then drops what is left.
    /// Returns whether all ended by themselves.
    pub async fn stop(&self, deadline: Duration) -> bool {
        self.inner.soft.cancel();
        self.inner.tracker.close();
        if tokio::time::timeout(deadline, self.inner.tracker.wait()).await.is_ok() {
            return true;
        }
        self.inner.hard.cancel();
        // A task that does not yield cannot be helped; do not hang on it.
        let _ = tokio::time::timeout(Duration::from_secs(2), self.inner.tracker.wait()).await;
        false
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_failing_task_is_started_again_until_it_ends_well() {
        let sup = Supervisor::new();
        let runs = Arc::new(AtomicU32::new(0));
        let seen = runs.clone();
        sup.task("flaky", move || {
            let n = seen.fetch_add(1, Ordering::SeqCst);
            async move { if n < 3 { Err(Error::broken("not yet")) } else { Ok(()) } }
        });
        assert!(sup_wait(&sup).await);
        assert_eq!(runs.load(Ordering::SeqCst), 4);
    }

    async fn sup_wait(sup: &Supervisor) -> bool {
        sup.inner.tracker.close();
        tokio::time::timeout(Duration::from_secs(600), sup.inner.tracker.wait()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn periodic_work_goes_on_after_an_error_and_ends_at_the_stop() {
        let sup = Supervisor::new();
        let runs = Arc::new(AtomicU32::new(0));
        let seen = runs.clone();
        sup.every("now-and-then", Duration::from_secs(60), move || {
            let n = seen.fetch_add(1, Ordering::SeqCst);
            async move {
                match n {
                    0 => Err(Error::broken("not today")),
                    // Work that hangs is dropped by the stop.
                    2 => std::future::pending().await,
                    _ => Ok(()),
                }
            }
        });
        tokio::time::sleep(Duration::from_secs(250)).await;
        assert_eq!(runs.load(Ordering::SeqCst), 3);
        assert!(sup.stop(Duration::from_secs(1)).await);
    }

    #[tokio::test]
    async fn a_job_outlives_its_caller() {
        let sup = Supervisor::new();
        let (go, wait) = oneshot::channel::<()>();
        let (done, ended) = oneshot::channel();
        {
            let call = sup.job(async move {
                wait.await.unwrap();
                done.send(5).unwrap();
                Ok(())
            });
            futures_poll_once(call).await;
        }
        go.send(()).unwrap();
        assert_eq!(ended.await.unwrap(), 5);
        assert!(sup.stop(Duration::from_secs(1)).await);
    }

    async fn futures_poll_once<F: Future>(f: F) {
        let mut f = std::pin::pin!(f);
        std::future::poll_fn(|cx| {
            let _ = f.as_mut().poll(cx);
            std::task::Poll::Ready(())
        })
        .await;
    }
}
