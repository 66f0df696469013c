//! What callers queue: appends to rooms, many of which are written together by bulk statements, and closures over the
//! transaction.

use futures_util::future::BoxFuture;
use hearth_base::{Error, Result};
use tokio::sync::oneshot;

use super::Tx;
use crate::{
    Store,
    events::{Append, Appended},
};

/// Jobs that may wait; callers beyond wait for room.
pub(crate) const QUEUE: usize = 1024;

/// The part of a job that the writer sees.
pub(super) trait Closure: Send {
    fn run<'a>(&'a mut self, tx: &'a mut Tx) -> BoxFuture<'a, bool>;
    /// Has the caller told of this error instead of what the work gave.
    fn fail(&mut self, e: Error);
    fn finish(self: Box<Self>, committed: bool);
}

/// What callers queue.
pub(crate) struct Job(pub(super) Kind);

pub(super) enum Kind {
    Append(Pending),
    Closure(Box<dyn Closure>),
}

/// An append, and who waits for it.
pub(super) type Pending = (Box<Append>, oneshot::Sender<Result<Appended>>);

struct Work<F, T> {
    work: Option<F>,
    result: Option<Result<T>>,
    tell: oneshot::Sender<Result<T>>,
}

impl<F, T> Closure for Work<F, T>
where
    F: for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T>> + Send,
    T: Send,
{
    fn run<'a>(&'a mut self, tx: &'a mut Tx) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let Some(work) = self.work.take() else { return false };
            let result = work(tx).await;
            let ok = result.is_ok();
            self.result = Some(result);
            ok
        })
    }

    fn fail(&mut self, e: Error) {
        self.result = Some(Err(e));
    }

    fn finish(self: Box<Self>, committed: bool) {
        let result = match self.result {
            Some(Ok(_)) | None if !committed => Err(not_committed()),
            Some(result) => result,
            None => Err(not_committed()),
        };
        let _ = self.tell.send(result);
    }
}

/// What callers are told when their work could not be made to last.
pub(super) fn not_committed() -> Error {
    Error::unavailable("database", "the transaction could not be committed")
}

/// Tells all callers of a batch that nothing came of it.
pub(super) fn refuse(appends: Vec<Pending>, closures: Vec<Box<dyn Closure>>) {
    for (_, tell) in appends {
        let _ = tell.send(Err(not_committed()));
    }
    closures.into_iter().for_each(|c| c.finish(false));
}

impl Store {
    /// Runs a closure in the writer's transaction, together with whatever else waits to be written. What it notes
    /// by [`Tx::log`] is published once committed. If it returns an error nothing of it stays.
    ///
    /// The work is done even if the caller goes away meanwhile.
    ///
    /// # Errors
    /// The closure's own; 503 if the commit fails or the server stops.
    pub async fn write<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T>> + Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        let work = Work { work: Some(work), result: None, tell };
        self.queue(Job(Kind::Closure(Box::new(work)))).await?;
        told.await.map_err(|_| not_committed())?
    }

    /// Queues events of one room without waiting for the commit: the order of calls is the order in the log.
    /// The receiver hears when they are durable.
    ///
    /// # Errors
    /// 503 if the server stops.
    pub async fn enqueue(&self, append: Append) -> Result<oneshot::Receiver<Result<Appended>>> {
        let (tell, told) = oneshot::channel();
        self.queue(Job(Kind::Append((Box::new(append), tell)))).await?;
        Ok(told)
    }

    /// Queues events of one room and waits until they are durable.
    ///
    /// # Errors
    /// 503 if the commit fails or the server stops.
    pub async fn append(&self, append: Append) -> Result<Appended> {
        self.enqueue(append).await?.await.map_err(|_| not_committed())?
    }

    async fn queue(&self, job: Job) -> Result<()> {
        self.inner.queue.send(job).await.map_err(|_| Error::unavailable("database", "the server is stopping"))
    }
}
