//! The append path: one queue, one writer, one log.
//!
//! Callers queue a job; the writer takes what has gathered, runs it in ONE transaction, gives every change its
//! position in a global, gapless, commit-ordered log, commits, publishes to the caches and the notifier, and only
//! then answers the callers. So what is acknowledged is durable, commits are shared by all who wait, and whoever
//! was answered reads their own write.
//!
//! On PostgreSQL the transaction begins by locking the row `log_head`, so positions are in commit order whoever
//! writes. A job is either an [`Append`] (events of one room; many are written together by bulk statements) or a
//! closure over the transaction ([`Store::write`]).

use std::{collections::HashMap, sync::Arc};

use futures_util::future::BoxFuture;
use hearth_base::{
    Error, Result,
    ids::{EventNid, RoomNid, StreamPos, UserNid},
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    Store,
    db::{HasSession, Session},
    events::{Append, Appended, StateChange, StoredEvent},
    insert_rows,
    intern::{Settled, store_pending},
    rooms::Room,
};

/// Jobs in one transaction at most.
const BATCH: usize = 256;
/// Jobs that may wait; callers beyond wait for room.
pub(crate) const QUEUE: usize = 1024;

/// A change that /sync, push, appservices or other servers may have to hear of.
#[derive(Clone, Debug)]
pub enum Change {
    /// A live event of a room.
    Event(Arc<StoredEvent>),
    /// The current state of a room changed in a way that no event does by itself; memberships it names are as they say.
    State {
        /// Where.
        room: RoomNid,
        /// What.
        changes: Arc<[StateChange]>,
    },
    /// The receipts of a user in a room.
    Receipt {
        /// Where.
        room: RoomNid,
        /// Whose.
        user: UserNid,
    },
    /// Account data of a user, tags and push rules included.
    AccountData {
        /// Whose.
        user: UserNid,
        /// The room it belongs to; `None` is global.
        room: Option<RoomNid>,
        /// Event type, e.g. `m.direct`.
        kind: Arc<str>,
    },
    /// A user's devices or their keys.
    DeviceList {
        /// Whose.
        user: UserNid,
    },
    /// To-device messages, all with this position as their id.
    ToDevice {
        /// Receiving users and their devices.
        recipients: Arc<[(UserNid, String)]>,
    },
    /// A user forgot or un-forgot a room, or an invite from outside came or went: their room list changed without an event.
    Rooms {
        /// Whose.
        user: UserNid,
        /// Which.
        room: RoomNid,
    },
}

/// A change with its place in the log.
#[derive(Clone, Debug)]
pub struct Logged {
    /// Where it stands.
    pub pos: StreamPos,
    /// What it is.
    pub change: Change,
}

/// What a cache has to do once a transaction is committed.
struct After(Box<dyn FnOnce(&Store) + Send>);

impl std::fmt::Debug for After {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("After")
    }
}

/// The writer's open transaction.
#[derive(Debug)]
pub struct Tx {
    session: Session,
    store: Store,
    /// Position of the last change noted.
    pos: i64,
    changes: Vec<Logged>,
    stale: Vec<EventNid>,
    after: Vec<After>,
    /// Rooms as they are after this transaction.
    pub(crate) rooms: Vec<Room>,
    /// Revisions of rooms as this transaction has them; right as long as nobody else wrote since.
    pub(crate) revs: HashMap<RoomNid, i64>,
}

impl HasSession for Tx {
    fn session(&mut self) -> &mut Session {
        &mut self.session
    }
}

impl Tx {
    /// Notes a change in the log; gives its position, to be stored with the row it is about.
    pub fn log(&mut self, change: Change) -> StreamPos {
        self.pos += 1;
        let pos = StreamPos(self.pos);
        self.changes.push(Logged { pos, change });
        pos
    }

    /// Draws a position whose change follows by [`Tx::fill`], in the same order.
    pub(crate) fn draw(&mut self) -> StreamPos {
        self.pos += 1;
        StreamPos(self.pos)
    }

    /// Notes the change that a position was drawn for.
    pub(crate) fn fill(&mut self, pos: StreamPos, change: Change) {
        self.changes.push(Logged { pos, change });
    }

    /// Notes that the stored form of an event changes, so that no cache keeps the old one.
    pub(crate) fn stale(&mut self, event: EventNid) {
        self.stale.push(event);
    }

    /// Has caches forget what this transaction changes: run once it is committed, before anybody is answered, and
    /// whether or not the caller is still there. Not run if the job or the commit fails.
    pub(crate) fn after_commit(&mut self, work: impl FnOnce(&Store) + Send + 'static) {
        self.after.push(After(Box::new(work)));
    }

    /// The position the next change will get.
    #[must_use]
    pub fn next_pos(&self) -> StreamPos {
        StreamPos(self.pos + 1)
    }

    /// The store this transaction belongs to.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Appends events of one room within this transaction.
    ///
    /// # Errors
    /// A fault if the database fails. A room that has moved on is no error but [`Appended::Conflict`].
    pub async fn append(&mut self, append: &Append) -> Result<Appended> {
        let mut outcomes = crate::events::append_all(self, &[append]).await?;
        outcomes.pop().ok_or_else(|| Error::broken("an append without an outcome"))
    }
}

/// The part of a job that the writer sees.
trait Closure: Send {
    fn run<'a>(&'a mut self, tx: &'a mut Tx) -> BoxFuture<'a, bool>;
    fn finish(self: Box<Self>, committed: bool);
}

/// What callers queue.
pub(crate) struct Job(Kind);

enum Kind {
    Append(Box<Append>, oneshot::Sender<Result<Appended>>),
    Closure(Box<dyn Closure>),
}

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

    fn finish(self: Box<Self>, committed: bool) {
        let result = match self.result {
            Some(Ok(_)) | None if !committed => Err(not_committed()),
            Some(result) => result,
            None => Err(not_committed()),
        };
        let _ = self.tell.send(result);
    }
}

fn not_committed() -> Error {
    Error::unavailable("database", "the transaction could not be committed")
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
        self.queue(Job(Kind::Append(Box::new(append), tell))).await?;
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

/// The writer: runs until the last [`Store`] handle or the stop closes the queue.
pub(crate) struct Writer {
    pub(crate) store: Store,
    pub(crate) session: Option<Session>,
    pub(crate) pos: i64,
    pub(crate) revs: HashMap<RoomNid, i64>,
}

/// Revisions remembered at most; forgetting costs one read.
const REVS: usize = 20_000;

impl Writer {
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
            };
            if taken == 0 {
                break;
            }
            metrics::histogram!("hearth_store_batch_jobs").record(taken as f64);
            let (mut appends, mut closures) = (Vec::new(), Vec::new());
            for Job(kind) in jobs.drain(..) {
                match kind {
                    Kind::Append(append, tell) => appends.push((append, tell)),
                    Kind::Closure(closure) => closures.push(closure),
                }
            }
            self.batch(appends, closures).await;
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
                for (_, tell) in appends {
                    let _ = tell.send(Err(not_committed()));
                }
                closures.into_iter().for_each(|c| c.finish(false));
                return;
            }
        };
        let mut answers = Vec::new();
        if !appends.is_empty() {
            let all: Vec<&Append> = appends.iter().map(|(a, _)| &**a).collect();
            match crate::events::append_all(&mut tx, &all).await {
                Ok(outcomes) => {
                    answers = outcomes.into_iter().zip(appends.into_iter().map(|(_, tell)| tell)).collect();
                }
                Err(e) => {
                    self.rollback(tx).await;
                    if appends.len() == 1 {
                        appends
                            .into_iter()
                            .for_each(|(_, tell)| drop(tell.send(Err(Error::fault("append", e.to_string())))));
                    } else {
                        tracing::warn!(error = %e, "a batch failed; writing its events one by one");
                        for one in appends {
                            Box::pin(self.batch(vec![one], Vec::new())).await;
                        }
                    }
                    if !closures.is_empty() {
                        Box::pin(self.batch(Vec::new(), closures)).await;
                    }
                    return;
                }
            }
        }
        let mut ran = Vec::with_capacity(closures.len());
        let mut broken = false;
        for mut closure in closures {
            if broken {
                ran.push(closure);
                continue;
            }
            let (pos, noted, rooms, stale) = (tx.pos, tx.changes.len(), tx.rooms.len(), tx.stale.len());
            let after = tx.after.len();
            let mut ok = alone || tx.session.batch("SAVEPOINT job".to_owned()).await.is_ok();
            ok = ok && closure.run(&mut tx).await;
            if ok {
                broken = !alone && tx.session.batch("RELEASE SAVEPOINT job".to_owned()).await.is_err();
            } else {
                tx.pos = pos;
                tx.changes.truncate(noted);
                tx.after.truncate(after);
                tx.rooms.truncate(rooms);
                tx.stale.truncate(stale);
                tx.revs.clear();
                broken = alone
                    || tx.session.batch("ROLLBACK TO SAVEPOINT job; RELEASE SAVEPOINT job".to_owned()).await.is_err();
            }
            ran.push(closure);
        }
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

    async fn begin(&mut self) -> Result<(Tx, Settled)> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => {
                let mut session = self.store.inner.db.writer().await?;
                crate::claim(&mut session).await?;
                session
            }
        };
        match begin_on(&mut session).await {
            Ok(None) => {}
            Ok(Some(head)) if head == self.pos => {}
            Ok(Some(head)) => {
                // Another node wrote: what we remember of rooms may be old.
                self.revs.clear();
                self.pos = head;
            }
            Err(e) => {
                // A connection that was lost meanwhile is not used again; the next try opens another.
                discard(session);
                return Err(e);
            }
        }
        let mut revs = std::mem::take(&mut self.revs);
        if revs.len() > REVS {
            revs.clear();
        }
        let mut tx = Tx {
            session,
            store: self.store.clone(),
            pos: self.pos,
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

    /// Ends the transaction: log rows, the new head, commit; then caches, notifier.
    async fn commit(&mut self, mut tx: Tx, settled: Settled) -> bool {
        if let Err(e) = self.end(&mut tx).await {
            tracing::error!(error = %e, "cannot commit");
            self.rollback(tx).await;
            return false;
        }
        let Tx { session, pos, changes, stale, after, rooms, revs, .. } = tx;
        self.session = Some(session);
        self.revs = revs;
        self.pos = pos;
        self.store.settle(settled);
        for work in after {
            (work.0)(&self.store);
        }
        self.store.publish(StreamPos(pos), &changes, &stale, rooms);
        true
    }

    async fn end(&mut self, tx: &mut Tx) -> Result<()> {
        let logged = !tx.changes.is_empty();
        if logged {
            let rows: Vec<LogRow> = tx.changes.iter().map(LogRow::from).collect();
            insert_rows!(&mut tx.session, &rows,
            "INSERT INTO log (pos, kind, room_nid, user_nid, ref_nid, extra) VALUES ($1, $2, $3, $4, $5, $6)",
            "INSERT INTO log (pos, kind, room_nid, user_nid, ref_nid, extra) SELECT * FROM UNNEST($1::BIGINT[], $2::BIGINT[], $3::BIGINT[], $4::BIGINT[], $5::BIGINT[], $6::TEXT[])",
            r => {
                pos: i64 = r.pos,
                kind: i64 = r.kind,
                room: Option<i64> = r.room,
                user: Option<i64> = r.user,
                reference: Option<i64> = r.reference,
                extra: Option<String> = r.extra.clone(),
            })?;
        }
        let postgres = tx.session.is_postgres();
        let mut text = String::new();
        if logged {
            text = format!("UPDATE log_head SET pos = {} WHERE id = 1; ", tx.pos);
            if postgres {
                text.push_str("NOTIFY hearth_log; ");
            }
        }
        text.push_str("COMMIT");
        tx.session.batch(text).await
    }

    /// Undoes the transaction. A connection that cannot even do that is thrown away.
    async fn rollback(&mut self, tx: Tx) {
        let mut session = tx.session;
        self.revs.clear();
        match session.batch("ROLLBACK".to_owned()).await {
            Ok(()) => self.session = Some(session),
            Err(e) => {
                tracing::warn!(error = %e, "the writer's connection is lost; opening another");
                discard(session);
            }
        }
    }
}

/// Begins a transaction; on PostgreSQL gives the head of the log, locked.
async fn begin_on(session: &mut Session) -> Result<Option<i64>> {
    match session {
        Session::Sqlite(c) => {
            sqlx::query("BEGIN IMMEDIATE").execute(&mut **c).await.map_err(crate::db::failed)?;
            Ok(None)
        }
        Session::Postgres(c) => {
            let begin = sqlx::raw_sql("BEGIN; SELECT pos FROM log_head WHERE id = 1 FOR UPDATE");
            let rows = sqlx::Executor::fetch_all(&mut **c, begin).await.map_err(crate::db::failed)?;
            let row = rows.first().ok_or_else(|| Error::broken("log_head has no row"))?;
            sqlx::Row::try_get(row, 0).map(Some).map_err(crate::db::failed)
        }
    }
}

/// Closes a connection instead of giving it back.
fn discard(session: Session) {
    match session {
        Session::Sqlite(c) => drop(c.detach()),
        Session::Postgres(c) => drop(c.detach()),
    }
}

type Pending = (Box<Append>, oneshot::Sender<Result<Appended>>);

/// A change as a row of `log`.
struct LogRow {
    pos: i64,
    kind: i64,
    room: Option<i64>,
    user: Option<i64>,
    reference: Option<i64>,
    extra: Option<String>,
}

impl From<&Logged> for LogRow {
    fn from(logged: &Logged) -> Self {
        let mut row = Self { pos: logged.pos.0, kind: 0, room: None, user: None, reference: None, extra: None };
        match &logged.change {
            Change::Event(event) => {
                row.kind = 1;
                row.room = Some(event.room.0);
                row.user = Some(event.sender.0);
                row.reference = Some(event.nid.0);
                row.extra = event.relay.then(|| crate::outbox::RELAY.to_owned());
            }
            Change::State { room, .. } => {
                row.kind = 7;
                row.room = Some(room.0);
            }
            Change::Receipt { room, user } => {
                row.kind = 2;
                row.room = Some(room.0);
                row.user = Some(user.0);
            }
            Change::AccountData { user, room, kind } => {
                row.kind = 3;
                row.room = room.map(|r| r.0);
                row.user = Some(user.0);
                row.extra = Some(kind.to_string());
            }
            Change::DeviceList { user } => {
                row.kind = 4;
                row.user = Some(user.0);
            }
            Change::ToDevice { recipients } => {
                row.kind = 5;
                row.extra = serde_json::to_string(&**recipients).ok();
            }
            Change::Rooms { user, room } => {
                row.kind = 6;
                row.room = Some(room.0);
                row.user = Some(user.0);
            }
        }
        row
    }
}
