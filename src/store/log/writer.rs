//! The writer: the one who commits.
//!
//! It outlives whatever happens to the disk. A batch that fails is answered and forgotten, a connection that is lost is
//! replaced, a job that panics costs its own batch. Two things it does not guess. A commit whose answer was lost with
//! the connection is *in doubt* until the database says what became of it ([`Doubt`]). And a database that is not as we
//! left it (an older replica took over, somebody else wrote) makes everything in memory worthless: then nothing is
//! written any more, and the process is to end ([`Store::lost`]).
//!
//! On PostgreSQL the transaction begins by locking the row `log_head`, so positions are in commit order whoever writes. A
//! batch of nothing but statements that can wait ([`crate::db::Later`]) is one round trip: a statement, and a
//! transaction by itself, that moves the head from where it is thought to be and fails if it is not there.

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use hearth_base::{
    Error, Result,
    ids::{EventNid, RoomNid, StreamPos},
};
use tokio::sync::mpsc;

use super::{
    Logged, Tx,
    commit::{Ended, Head, begin_on, end, passing},
    queue::{Closure, Job, Kind, Pending, not_committed, refuse},
    transaction::After,
};
use crate::{
    Store,
    db::{HasSession as _, Later, Session, ask},
    events::{Append, Appended, append_all},
    intern::{Settled, store_pending},
    rooms::{Room, Written},
};

/// Jobs in one transaction at most.
const BATCH: usize = 256;
/// Rooms remembered at most; forgetting costs one read.
const KNOWN: usize = 20_000;
/// The pause between two questions what became of a commit.
const DOUBT: Duration = Duration::from_millis(250);
/// A connection that was used this lately is not asked first whether it still works. A transaction in one round trip is in
/// doubt if it does not, and so its callers get an error that the question, a small round trip, would have spared them.
const FRESH: Duration = Duration::from_secs(1);

/// Runs until the last [`Store`] handle or the stop closes the queue.
pub(crate) struct Writer {
    store: Store,
    session: Option<Session>,
    /// When the connection last did all that was asked of it.
    used: Option<Instant>,
    head: Head,
    /// What was written last of rooms, right as long as nobody else writes.
    known: HashMap<RoomNid, Written>,
    doubt: Option<Doubt>,
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
        Self { store, session: Some(session), used: None, head, known: HashMap::new(), doubt: None }
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
                () = store.inner.server_keys.due() => {
                    self.batch(Vec::new(), Vec::new()).await;
                    continue;
                }
            };
            if taken == 0 {
                if store.inner.server_keys.has_waiting() {
                    self.batch(Vec::new(), Vec::new()).await;
                }
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
                self.known.clear();
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
        let outcomes = match write_appends(&mut tx, &appends, closures.is_empty()).await {
            Ok(outcomes) => outcomes,
            Err(e) => {
                self.rollback(tx).await;
                self.one_by_one(e, appends, closures).await;
                return;
            }
        };
        let (mut ran, broken) = run_closures(&mut tx, closures, alone).await;
        let committed = if broken {
            self.rollback(tx).await;
            false
        } else {
            match self.commit(tx, settled).await {
                Ended::Committed(_) => true,
                Ended::Undone(e) if ran.is_empty() => {
                    self.one_by_one(e, appends, ran).await;
                    return;
                }
                Ended::Undone(e) => {
                    if let (true, [only]) = (alone, &mut *ran) {
                        only.fail(e);
                    }
                    false
                }
                Ended::Unknown(_) => false,
            }
        };
        for ((_, tell), outcome) in appends.into_iter().zip(outcomes) {
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
        let (session, begun) = match self.answering().await {
            Some(session) => (session, false),
            None => (self.locked().await?, true),
        };
        let mut known = std::mem::take(&mut self.known);
        if known.len() > KNOWN {
            known.clear();
        }
        let mut tx = Tx {
            session,
            begun,
            head: self.head,
            astray: false,
            later: Later::default(),
            store: self.store.clone(),
            pos: self.head.pos,
            changes: Vec::new(),
            stale: Vec::new(),
            after: Vec::new(),
            rooms: Vec::new(),
            known,
        };
        match store_pending(&mut tx).await {
            Ok(settled) => Ok((tx, settled)),
            Err(e) => {
                self.rollback(tx).await;
                Err(e)
            }
        }
    }

    /// A connection of PostgreSQL that was used just now, or answers: what waits may be all there is to do on it.
    async fn answering(&mut self) -> Option<Session> {
        if self.doubt.is_some() || self.store.is_lost() {
            return None;
        }
        let used = self.used?;
        let mut session = self.session.take_if(|session| session.is_postgres())?;
        if used.elapsed() >= FRESH
            && let Session::Postgres(c) = &mut session
            && let Err(e) = ask(c).await
        {
            tracing::warn!(error = %e, "the writer's connection is lost; opening another");
            self.store.inner.db.doubt();
            return None;
        }
        Some(session)
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
                let mut session = Box::pin(self.store.inner.db.writer()).await?;
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
    async fn commit(&mut self, mut tx: Tx, settled: Settled) -> Ended {
        // Events are noted behind what follows from them; those who hear of it hear it in order.
        tx.changes.sort_by_key(|logged| logged.pos);
        let ended = end(&mut tx).await;
        if let Ended::Undone(e) = &ended {
            // What is the caller's own mistake is told to the caller alone.
            if matches!(e, Error::Fault(_)) {
                tracing::error!(error = %e, "cannot commit");
            }
            // Perhaps because the database is not as we left it.
            tx.astray = !tx.begun;
            self.rollback(tx).await;
            return ended;
        }
        let Tx { mut session, changes, stale, after, rooms, known, .. } = tx;
        let follows = Follows { changes, stale, after, rooms, settled };
        match ended {
            Ended::Committed(head) => {
                self.session = Some(session);
                self.used = Some(Instant::now());
                self.known = known;
                self.head = head;
                self.publish(follows);
            }
            // What can be rolled back was not committed.
            Ended::Unknown(head) => {
                self.used = None;
                self.known.clear();
                let postgres = session.is_postgres();
                match session.batch("ROLLBACK".to_owned()).await {
                    Ok(()) => self.session = Some(session),
                    Err(_) if postgres => {
                        self.store.inner.db.doubt();
                        self.doubt = Some(Doubt { head, follows });
                    }
                    // SQLite has undone it by itself, or does when the connection is closed.
                    Err(_) => drop(session),
                }
            }
            Ended::Undone(_) => {}
        }
        ended
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
        self.known.clear();
        if tx.begun {
            self.used = None;
            self.release(tx.session).await;
        } else {
            self.session = Some(tx.session);
        }
        if tx.astray {
            self.used = None;
            self.look().await;
        }
    }

    /// Ends a transaction without effect. A connection that cannot even do that is thrown away.
    async fn release(&mut self, mut session: Session) {
        match session.batch("ROLLBACK".to_owned()).await {
            Ok(()) => self.session = Some(session),
            Err(e) => {
                tracing::warn!(error = %e, "the writer's connection is lost; opening another");
                self.store.inner.db.doubt();
            }
        }
    }
}

/// Writes the appends of a batch. If something follows them, they are not left waiting: what fails then is theirs.
async fn write_appends(tx: &mut Tx, appends: &[Pending], last: bool) -> Result<Vec<Appended>> {
    if appends.is_empty() {
        return Ok(Vec::new());
    }
    let all: Vec<&Append> = appends.iter().map(|(append, _)| &**append).collect();
    // Boxed: what it holds on the way is large, and so would be whatever waits for it.
    let outcomes = Box::pin(append_all(tx, &all)).await?;
    if !last {
        tx.ready().await?;
    }
    Ok(outcomes)
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
        let mut ok = alone || tx.batch("SAVEPOINT job").await.is_ok();
        ok = ok && closure.run(tx).await;
        if ok && !alone {
            // What it left waiting is its own to answer for.
            if let Err(e) = tx.ready().await {
                closure.fail(e);
                ok = false;
            }
        }
        if ok {
            broken = !alone && tx.batch("RELEASE SAVEPOINT job").await.is_err();
        } else {
            tx.unnote(&noted);
            broken = alone || tx.batch("ROLLBACK TO SAVEPOINT job; RELEASE SAVEPOINT job").await.is_err();
        }
        ran.push(closure);
    }
    (ran, broken)
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Writer({:?})", self.head)
    }
}
