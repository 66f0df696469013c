//! The writer: the one who commits.
//!
//! It outlives whatever happens to the disk. A batch that fails is answered and forgotten, a connection that is lost is
//! replaced, a job that panics costs its own batch. Two things it does not guess. A commit whose answer was lost with
//! the connection is *in doubt* until the database says what became of it ([`Doubt`]). And a database that is not as we
//! left it (an older replica took over, somebody else wrote) makes everything in memory worthless: then nothing is
//! written any more, and the process is to end ([`Store::lost`]).
//!
//! On PostgreSQL the transaction begins by locking the row `log_head`, so positions are in commit order whoever writes.

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use hearth_base::{
    Error, Result,
    ids::{EventNid, RoomNid, StreamPos},
};
use tokio::sync::mpsc;

use super::{
    Logged, Tx, insert,
    queue::{Closure, Job, Kind, Pending, not_committed},
    transaction::After,
};
use crate::{
    Store,
    db::Session,
    events::{Append, append_all},
    intern::{Settled, store_pending},
    rooms::Room,
};

/// Jobs in one transaction at most.
const BATCH: usize = 256;
/// Revisions remembered at most; forgetting costs one read.
const REVS: usize = 20_000;
/// The pause between two questions what became of a commit.
const DOUBT: Duration = Duration::from_millis(250);

/// Runs until the last [`Store`] handle or the stop closes the queue.
pub(crate) struct Writer {
    store: Store,
    session: Option<Session>,
    head: Head,
    /// Revisions of rooms, right as long as nobody else writes.
    revs: HashMap<RoomNid, i64>,
    doubt: Option<Doubt>,
}

/// What the row `log_head` says that we wrote last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Position of the newest change.
    pub(crate) pos: i64,
    /// Transactions so far; counted on PostgreSQL only, where another can write.
    pub(crate) commits: i64,
    /// The run that writes.
    pub(crate) run: i64,
}

/// A commit of which we do not know whether it took place, and what is to follow if it did.
struct Doubt {
    head: Head,
    follows: Follows,
}

/// What follows a commit.
struct Follows {
    changes: Vec<Logged>,
    stale: Vec<EventNid>,
    after: Vec<After>,
    rooms: Vec<Room>,
    settled: Settled,
}

impl Writer {
    /// The writer that begins at this head.
    pub(crate) fn new(store: Store, session: Session, head: Head) -> Self {
        Self { store, session: Some(session), head, revs: HashMap::new(), doubt: None }
    }

    /// Takes and writes batches until the queue is closed, or `closing` says so, and empty.
    pub(crate) async fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut jobs = Vec::with_capacity(BATCH);
        loop {
            let store = self.store.clone();
            let taken = tokio::select! {
                taken = queue.recv_many(&mut jobs, BATCH) => taken,
                () = store.inner.closing.notified() => {
                    // No new jobs; those that were queued are still written.
                    queue.close();
                    continue;
                }
                () = tokio::time::sleep(DOUBT), if self.doubt.is_some() => {
                    self.look().await;
                    continue;
                }
            };
            if taken == 0 {
                break;
            }
            metrics::histogram!("hearth_store_batch_jobs").record(taken as f64);
            let (mut appends, mut closures) = (Vec::new(), Vec::new());
            for Job(kind) in jobs.drain(..) {
                match kind {
                    Kind::Append(append) => appends.push(append),
                    Kind::Closure(closure) => closures.push(closure),
                }
            }
            // The connection of a transaction that is dropped on the way is closed, and the callers hear of it.
            if AssertUnwindSafe(self.batch(appends, closures)).catch_unwind().await.is_err() {
                tracing::error!("a job of the writer panicked; its batch is not written");
                self.revs.clear();
            }
        }
        drop(self.session.take());
        self.store.inner.drained.notify_one();
    }

    /// Writes one batch. A statement that fails in the bulk of the appends sends each append into a transaction of
    /// its own, so that one bad row costs nobody else.
    async fn batch(&mut self, appends: Vec<Pending>, closures: Vec<Box<dyn Closure>>) {
        let alone = appends.len() + closures.len() == 1;
        let (mut tx, settled) = match self.begin().await {
            Ok(begun) => begun,
            Err(e) => {
                tracing::error!(error = %e, "cannot begin a transaction");
                refuse(appends, closures);
                return;
            }
        };
        let mut answers = Vec::new();
        if !appends.is_empty() {
            let all: Vec<&Append> = appends.iter().map(|(a, _)| &**a).collect();
            match append_all(&mut tx, &all).await {
                Ok(outcomes) => {
                    answers = outcomes.into_iter().zip(appends.into_iter().map(|(_, tell)| tell)).collect();
                }
                Err(e) => {
                    self.rollback(tx).await;
                    self.one_by_one(e, appends, closures).await;
                    return;
                }
            }
        }
        let (ran, broken) = run_closures(&mut tx, closures, alone).await;
        let committed = if broken {
            self.rollback(tx).await;
            false
        } else {
            self.commit(tx, settled).await
        };
        for (outcome, tell) in answers {
            let _ = tell.send(if committed { Ok(outcome) } else { Err(not_committed()) });
        }
        ran.into_iter().for_each(|c| c.finish(committed));
    }

    /// What is done with a batch whose appends failed together.
    async fn one_by_one(&mut self, e: Error, appends: Vec<Pending>, closures: Vec<Box<dyn Closure>>) {
        if passing(&e) {
            // The disk is full or the database away: the next try would fail alike.
            tracing::error!(error = %e, "cannot write");
            refuse(appends, closures);
            return;
        }
        if appends.len() == 1 {
            let mut error = Some(e);
            for (_, tell) in appends {
                let _ = tell.send(Err(error.take().unwrap_or_else(not_committed)));
            }
        } else {
            tracing::warn!(error = %e, "a batch failed; writing its events one by one");
            for one in appends {
                Box::pin(self.batch(vec![one], Vec::new())).await;
            }
        }
        if !closures.is_empty() {
            Box::pin(self.batch(Vec::new(), closures)).await;
        }
    }

    async fn begin(&mut self) -> Result<(Tx, Settled)> {
        let session = self.locked().await?;
        let mut revs = std::mem::take(&mut self.revs);
        if revs.len() > REVS {
            revs.clear();
        }
        let mut tx = Tx {
            session,
            store: self.store.clone(),
            pos: self.head.pos,
            changes: Vec::new(),
            stale: Vec::new(),
            after: Vec::new(),
            rooms: Vec::new(),
            revs,
        };
        match store_pending(&mut tx).await {
            Ok(settled) => Ok((tx, settled)),
            Err(e) => {
                self.rollback(tx).await;
                Err(e)
            }
        }
    }

    /// A connection with an open transaction, on a database that is as we left it.
    async fn locked(&mut self) -> Result<Session> {
        if self.store.is_lost() {
            return Err(Error::unavailable("database", "it is not the one we knew"));
        }
        let begun = match self.session.take() {
            Some(mut session) => match begin_on(&mut session).await {
                Ok(head) => Some((session, head)),
                Err(e) => {
                    tracing::warn!(error = %e, "the writer's connection is lost; opening another");
                    self.store.inner.db.doubt();
                    None
                }
            },
            None => None,
        };
        let (session, found) = match begun {
            Some(begun) => begun,
            None => {
                let mut session = self.store.inner.db.writer().await?;
                crate::claim(&mut session).await?;
                let head = begin_on(&mut session).await?;
                (session, head)
            }
        };
        if let Some(found) = found {
            self.compare(found)?;
        }
        Ok(session)
    }

    /// Holds what the database says against what we wrote last, and clears up a doubt.
    fn compare(&mut self, found: Head) -> Result<()> {
        match self.doubt.take() {
            Some(doubt) if found == doubt.head => {
                tracing::warn!("a commit whose answer was lost has taken place");
                self.head = doubt.head;
                self.publish(doubt.follows);
                return Ok(());
            }
            _ if found == self.head => return Ok(()),
            _ => {}
        }
        let why = if found.run == self.head.run {
            format!(
                "the database has gone back from transaction {} to {}: a backup was restored or an older replica took over",
                self.head.commits, found.commits
            )
        } else {
            "another hearth has written to the database meanwhile".to_owned()
        };
        self.store.lose(why.clone());
        Err(Error::broken(why))
    }

    /// Ends the transaction: log rows, the new head, commit; then caches, notifier.
    async fn commit(&mut self, mut tx: Tx, settled: Settled) -> bool {
        let head = Head { pos: tx.pos, commits: self.head.commits + 1, ..self.head };
        // Events are noted behind what follows from them; those who hear of it hear it in order.
        tx.changes.sort_by_key(|logged| logged.pos);
        let ended = match end(&mut tx, head).await {
            Ok(()) => Ended::Committed,
            Err(Failed::Before(e)) => {
                tracing::error!(error = %e, "cannot commit");
                self.rollback(tx).await;
                return false;
            }
            Err(Failed::Committing(e)) => {
                tracing::error!(error = %e, "cannot commit");
                Ended::Unknown
            }
        };
        let Tx { mut session, changes, stale, after, rooms, revs, .. } = tx;
        let follows = Follows { changes, stale, after, rooms, settled };
        match ended {
            Ended::Committed => {
                self.session = Some(session);
                self.revs = revs;
                self.head = head;
                self.publish(follows);
                true
            }
            // What can be rolled back was not committed.
            Ended::Unknown => {
                self.revs.clear();
                let postgres = session.is_postgres();
                match session.batch("ROLLBACK".to_owned()).await {
                    Ok(()) => self.session = Some(session),
                    Err(_) if postgres => self.doubt = Some(Doubt { head, follows }),
                    // SQLite has undone it by itself, or does when the connection is closed.
                    Err(_) => drop(session),
                }
                false
            }
        }
    }

    fn publish(&self, follows: Follows) {
        let Follows { changes, stale, after, rooms, settled } = follows;
        self.store.settle(settled);
        for work in after {
            (work.0)(&self.store);
        }
        self.store.publish(StreamPos(self.head.pos), &changes, &stale, rooms);
    }

    /// Asks what became of a commit in doubt, while nobody writes.
    async fn look(&mut self) {
        match self.locked().await {
            Ok(session) => self.release(session).await,
            Err(e) => tracing::debug!(error = %e, "a commit is still in doubt"),
        }
    }

    /// Undoes the transaction.
    async fn rollback(&mut self, tx: Tx) {
        self.release(tx.session).await;
        self.revs.clear();
    }

    /// Ends a transaction without effect. A connection that cannot even do that is thrown away.
    async fn release(&mut self, mut session: Session) {
        match session.batch("ROLLBACK".to_owned()).await {
            Ok(()) => self.session = Some(session),
            Err(e) => tracing::warn!(error = %e, "the writer's connection is lost; opening another"),
        }
    }
}

enum Ended {
    Committed,
    Unknown,
}

/// At which point the end of a transaction failed.
enum Failed {
    Before(Error),
    Committing(Error),
}

/// Runs closures, each in a savepoint unless it is alone. Gives whether the transaction is beyond repair.
async fn run_closures(tx: &mut Tx, closures: Vec<Box<dyn Closure>>, alone: bool) -> (Vec<Box<dyn Closure>>, bool) {
    let mut ran = Vec::with_capacity(closures.len());
    let mut broken = false;
    for mut closure in closures {
        if broken {
            ran.push(closure);
            continue;
        }
        let noted = tx.noted();
        let mut ok = alone || tx.session.batch("SAVEPOINT job".to_owned()).await.is_ok();
        ok = ok && closure.run(tx).await;
        if ok {
            broken = !alone && tx.session.batch("RELEASE SAVEPOINT job".to_owned()).await.is_err();
        } else {
            tx.unnote(&noted);
            broken =
                alone || tx.session.batch("ROLLBACK TO SAVEPOINT job; RELEASE SAVEPOINT job".to_owned()).await.is_err();
        }
        ran.push(closure);
    }
    (ran, broken)
}

/// Tells all callers of a batch that nothing came of it.
fn refuse(appends: Vec<Pending>, closures: Vec<Box<dyn Closure>>) {
    for (_, tell) in appends {
        let _ = tell.send(Err(not_committed()));
    }
    closures.into_iter().for_each(|c| c.finish(false));
}

/// Whether the same may work a moment later.
fn passing(e: &Error) -> bool {
    matches!(e, Error::Fault(fault) if fault.retry)
}

async fn end(tx: &mut Tx, head: Head) -> std::result::Result<(), Failed> {
    let logged = !tx.changes.is_empty();
    if logged {
        insert(&mut tx.session, &tx.changes).await.map_err(Failed::Before)?;
    }
    let mut text = String::new();
    if tx.session.is_postgres() {
        text = format!("UPDATE log_head SET pos = {}, commits = {} WHERE id = 1; ", head.pos, head.commits);
    } else if logged {
        text = format!("UPDATE log_head SET pos = {} WHERE id = 1; ", head.pos);
    }
    text.push_str("COMMIT");
    tx.session.batch(text).await.map_err(Failed::Committing)
}

/// Begins a transaction; on PostgreSQL gives the head of the log, locked.
async fn begin_on(session: &mut Session) -> Result<Option<Head>> {
    match session {
        Session::Sqlite(c) => {
            sqlx::query("BEGIN IMMEDIATE").execute(&mut **c).await.map_err(crate::db::failed)?;
            Ok(None)
        }
        Session::Postgres(c) => {
            let begin = sqlx::raw_sql("BEGIN; SELECT pos, commits, run FROM log_head WHERE id = 1 FOR UPDATE");
            let rows = sqlx::Executor::fetch_all(&mut **c, begin).await.map_err(crate::db::failed)?;
            let row = rows.first().ok_or_else(|| Error::broken("log_head has no row"))?;
            let column = |n: usize| sqlx::Row::try_get(row, n).map_err(crate::db::failed);
            Ok(Some(Head { pos: column(0)?, commits: column(1)?, run: column(2)? }))
        }
    }
}

impl Store {
    /// Comes back, with the reason, when the database is no longer the one whose contents we remember. Nothing is
    /// written from then on: the process is to end, and to begin anew on what is there.
    pub async fn lost(&self) -> Arc<str> {
        loop {
            let told = self.inner.losing.notified();
            tokio::pin!(told);
            told.as_mut().enable();
            if let Some(why) = self.inner.lost.get() {
                return why.clone();
            }
            told.await;
        }
    }

    fn is_lost(&self) -> bool {
        self.inner.lost.get().is_some()
    }

    fn lose(&self, why: String) {
        tracing::error!("{why}");
        let _ = self.inner.lost.set(why.into());
        self.inner.losing.notify_waiters();
        metrics::counter!("hearth_store_lost_total").increment(1);
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Writer({:?})", self.head)
    }
}
