//! Our disk: SQL, and the caches that stand beside their tables.
//!
//! [`Store`] is the one handle that services hold: `read()` a connection, `append` events, `write` anything else. All
//! SQL of a capability is in the file of its name; a table is written by one file only. SQLite and PostgreSQL run the
//! same statements ([`db`]); every change goes through the one writer ([`log`]).

use std::{
    panic::AssertUnwindSafe,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use hearth_base::{
    Error, Result,
    cache::Cache,
    ids::{EventNid, RoomNid, SnapNid, StreamPos},
    tasks::Supervisor,
};
use ruma::OwnedUserId;
use tokio::sync::{Notify, mpsc};

pub mod account_data;
pub mod accounts;
pub mod blobs;
pub mod db;
pub mod destinations;
pub mod devices;
pub mod directory;
pub mod events;
pub mod examine;
pub mod graph;
pub mod intern;
pub mod keys;
pub mod log;
pub mod login;
pub mod media;
pub mod membership;
pub mod migrate;
pub mod outbox;
mod ownership;
pub mod presence;
pub mod profile;
pub mod push;
pub mod receipts;
pub mod relations;
pub mod reports;
pub mod rooms;
pub mod runs;
pub mod server_keys;
pub mod state;
#[cfg(test)]
mod tests;

use blobs::Blobs;
use db::{Db, Engine, Reading, Session};
use events::StoredEvent;
use intern::{Interner, Nids, StateKey};
use log::{Head, Logged, Writer};
use rooms::Room;
use state::{RoomState, StateMap};

/// How the store is to be opened.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which database.
    pub engine: Engine,
    /// Folder of media; without one this server keeps none.
    pub media: Option<PathBuf>,
    /// Bytes of memory for parsed events.
    pub event_cache_bytes: u64,
    /// Entries of memory for state snapshots; about 20 bytes each.
    pub state_cache_entries: u64,
}

impl Settings {
    /// Usual cache sizes; media beside a SQLite database.
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        let media = match &engine {
            Engine::Sqlite { path } => Some(path.with_file_name("media")),
            Engine::Postgres { .. } => None,
        };
        Self { engine, media, event_cache_bytes: 24 << 20, state_cache_entries: 500_000 }
    }
}

/// The handle to our disk. Clones are the same store.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({:?})", self.head())
    }
}

/// Who hears of what was committed, in order, before those who wrote it are answered. What it gives back is called once
/// the new head can be read: whoever is woken by it must not find the old one.
pub type Subscriber = Box<dyn Fn(&[Logged]) -> Wake + Send + Sync>;

/// Wakes those who wait.
pub type Wake = Box<dyn FnOnce() + Send>;

pub(crate) struct Inner {
    pub(crate) db: Db,
    pub(crate) queue: mpsc::Sender<log::Job>,
    pub(crate) nids: Nids,
    pub(crate) users: Interner<OwnedUserId>,
    pub(crate) keys: Interner<StateKey>,
    /// `None` for rooms that were asked for and are not here.
    pub(crate) room_nids: Cache<String, Option<RoomNid>>,
    pub(crate) rooms: Cache<RoomNid, Arc<Room>>,
    pub(crate) events: Cache<EventNid, Arc<StoredEvent>>,
    pub(crate) event_nids: Cache<Box<str>, EventNid>,
    pub(crate) auth_edges: Cache<EventNid, Arc<[EventNid]>>,
    pub(crate) snaps: Cache<SnapNid, StateMap>,
    /// Those of them that the next events stand on.
    pub(crate) newest_states: Cache<SnapNid, RoomState>,
    pub(crate) member_counts: membership::Counts,
    pub(crate) event_memory: events::Memory,
    pub(crate) relations: relations::Memory,
    pub(crate) sessions: login::Sessions,
    pub(crate) account_data: account_data::Memory,
    pub(crate) receipts: receipts::Memory,
    pub(crate) media: media::MediaCache,
    pub(crate) e2ee: keys::Memory,
    pub(crate) inboxes: devices::to_device::Inboxes,
    pub(crate) outgoing: outbox::Outgoing,
    pub(crate) stale_lists: keys::theirs::StaleLists,
    pub(crate) partial: events::Bell,
    pub(crate) lacking: events::Bell,
    pub(crate) destinations: destinations::Memory,
    pub(crate) profiles: profile::Memory,
    pub(crate) server_keys: server_keys::Memory,
    pub(crate) erased: accounts::Erased,
    blobs: Option<Blobs>,
    head: AtomicI64,
    subscriber: OnceLock<Subscriber>,
    pub(crate) runs: runs::Runs,
    /// Why nothing can be written any more; see [`Store::lost`].
    pub(crate) lost: OnceLock<Arc<str>>,
    pub(crate) losing: Notify,
    pub(crate) closing: Notify,
    pub(crate) drained: Notify,
    /// The lock file of a SQLite database, held until it is closed.
    lock: Option<std::fs::File>,
}

impl Store {
    /// Opens the database, brings its tables up to date and starts the writer.
    ///
    /// # Errors
    /// One sentence for the operator: database unreachable, not ours, newer than us, or in use by another process.
    pub async fn open(settings: &Settings, supervisor: &Supervisor) -> Result<Self> {
        ownership::check(&settings.engine).await?;
        let lock = lock(&settings.engine)?;
        let db = Db::open(&settings.engine).await?;
        let mut session = db.writer().await?;
        claim(&mut session).await?;
        migrate::run(&mut session).await?;
        let blobs = match &settings.media {
            Some(folder) => Some(Blobs::open(folder).await?),
            None => None,
        };
        let nids = Nids::default();
        let (head, runs) = begin_run(&mut session, &nids).await?;
        let event_memory = events::Memory::load(&mut session).await?;
        let erased = accounts::Erased::load(&mut session).await?;
        let destinations = destinations::Memory::load(&mut session).await?;
        let server_keys = server_keys::Memory::load(&mut session).await?;
        let keys = Interner::load(&mut session).await?;
        let (queue, jobs) = mpsc::channel(log::QUEUE);
        let weigh = |_: &EventNid, e: &Arc<StoredEvent>| u32::try_from(e.pdu.json().len() + 700).unwrap_or(u32::MAX);
        let store = Self {
            inner: Arc::new(Inner {
                db,
                queue,
                nids,
                users: Interner::default(),
                keys,
                room_nids: Cache::new(50_000),
                rooms: Cache::new(20_000),
                event_nids: Cache::new(50_000),
                auth_edges: graph::cache(),
                events: Cache::weighed(settings.event_cache_bytes, weigh),
                member_counts: membership::Counts::default(),
                event_memory,
                relations: relations::Memory::default(),
                snaps: Cache::weighed(settings.state_cache_entries, |_, map: &StateMap| {
                    u32::try_from(map.len() / 8 + 40).unwrap_or(u32::MAX)
                }),
                newest_states: Cache::new(state::NEWEST),
                sessions: login::Sessions::default(),
                account_data: account_data::Memory::default(),
                receipts: receipts::Memory::default(),
                media: media::MediaCache::default(),
                e2ee: keys::Memory::new(head.pos),
                inboxes: devices::to_device::Inboxes::default(),
                outgoing: outbox::Outgoing::default(),
                stale_lists: keys::theirs::StaleLists::default(),
                partial: events::Bell::default(),
                lacking: events::Bell::default(),
                destinations,
                profiles: profile::Memory::default(),
                server_keys,
                erased,
                blobs,
                head: AtomicI64::new(head.pos),
                subscriber: OnceLock::new(),
                runs,
                lost: OnceLock::new(),
                losing: Notify::new(),
                closing: Notify::new(),
                drained: Notify::new(),
                lock,
            }),
        };
        supervisor.detach(Writer::new(store.clone(), session, head).run(jobs));
        Ok(store)
    }

    /// A connection for reading.
    ///
    /// # Errors
    /// 503 if none is to be had.
    pub async fn read(&self) -> Result<Reading> {
        self.inner.db.read().await
    }

    /// The bytes of media, if this server keeps any.
    #[must_use]
    pub fn blobs(&self) -> Option<&Blobs> {
        self.inner.blobs.as_ref()
    }

    /// The newest committed position.
    #[must_use]
    pub fn head(&self) -> StreamPos {
        StreamPos(self.inner.head.load(Ordering::Acquire))
    }

    /// Says who hears of commits. Only the first call counts: there is one notifier.
    pub fn subscribe(&self, subscriber: Subscriber) {
        let _ = self.inner.subscriber.set(subscriber);
    }

    /// After a commit: caches first, then the notifier, then the head, so that whoever sees a position can read it; then
    /// those who wait are woken, and see it.
    pub(crate) fn publish(&self, head: StreamPos, changes: &[Logged], stale: &[EventNid], rooms: Vec<Room>) {
        for room in rooms {
            self.inner.rooms.put(room.nid, Arc::new(room));
        }
        for logged in changes {
            if let log::Change::Event(event) = &logged.change {
                self.inner.events.put(event.nid, event.clone());
            }
        }
        // After the insertions: an event may be redacted by the commit that brings it.
        for nid in stale {
            self.inner.events.invalidate(nid);
        }
        self.inner.e2ee.published(&self.inner, changes);
        self.inner.inboxes.published(changes);
        self.inner.account_data.published(changes);
        self.inner.receipts.published(changes);
        // What is committed is committed: a listener that panics costs itself its news, not the caller their answer.
        let guarded = |work: &mut dyn FnMut()| {
            if std::panic::catch_unwind(AssertUnwindSafe(work)).is_err() {
                tracing::error!("a listener panicked at a commit");
            }
        };
        let mut wake = None;
        guarded(&mut || wake = self.inner.subscriber.get().map(|subscriber| subscriber(changes)));
        self.inner.head.store(head.0, Ordering::Release);
        guarded(&mut || {
            if let Some(wake) = wake.take() {
                wake();
            }
        });
    }

    /// Writes what is queued, then closes the database. For the end of the process, after everybody else stopped.
    pub async fn close(&self) {
        self.inner.closing.notify_one();
        let _ = tokio::time::timeout(Duration::from_secs(10), self.inner.drained.notified()).await;
        let _ = tokio::time::timeout(Duration::from_secs(10), self.inner.db.close()).await;
        if let Some(lock) = &self.inner.lock {
            let _ = lock.unlock();
        }
        if let Some(blobs) = &self.inner.blobs {
            blobs.release();
        }
    }

    /// Checks that the database answers.
    ///
    /// # Errors
    /// If it does not.
    pub async fn ping(&self) -> Result<()> {
        execute!(&mut self.read().await?, "SELECT 1").map(drop)
    }
}

/// Reserves numbers and notes a new run, both or neither.
async fn begin_run(session: &mut Session, nids: &Nids) -> Result<(Head, runs::Runs)> {
    const HEAD: &str = "SELECT pos, commits FROM log_head WHERE id = 1";
    session.batch("BEGIN".to_owned()).await?;
    intern::reserve_first(session, nids).await?;
    let row: Option<(i64, i64)> = fetch_optional!(session, (i64, i64), HEAD)?;
    let (pos, commits) = row.ok_or_else(|| Error::broken("log_head has no row"))?;
    let runs = runs::begin(session, pos).await?;
    session.batch("COMMIT".to_owned()).await?;
    Ok((Head { pos, commits, run: i64::from(runs.boot()) }, runs))
}

/// Makes sure that a SQLite database has one process.
fn lock(engine: &Engine) -> Result<Option<std::fs::File>> {
    let Engine::Sqlite { path } = engine else { return Ok(None) };
    let name = path.with_extension("lock");
    let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&name).map_err(|e| {
        Error::fault(
            format!("cannot write {}: check that its folder exists and belongs to this user", name.display()),
            e,
        )
    })?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::broken(format!(
            "the database {} is in use by another hearth; stop that one first",
            path.display()
        ))),
        Err(std::fs::TryLockError::Error(e)) => Err(Error::fault(format!("cannot lock {}", name.display()), e)),
    }
}

/// Makes sure that a PostgreSQL database has one process, for as long as the writer's connection lives. PostgreSQL may
/// take a moment to see that a process before this one is gone.
pub(crate) async fn claim(session: &mut Session) -> Result<()> {
    const CLAIM: &str = "SELECT pg_try_advisory_lock(hashtext('hearth writer'))";
    const WAIT: Duration = Duration::from_secs(5);
    const LOOK: Duration = Duration::from_millis(100);
    let Session::Postgres(c) = session else { return Ok(()) };
    let begun = Instant::now();
    loop {
        let (free,): (bool,) = sqlx::query_as(CLAIM).fetch_one(&mut **c).await.map_err(db::failed)?;
        if free {
            return Ok(());
        }
        if begun.elapsed() >= WAIT {
            return Err(Error::broken("the PostgreSQL database is in use by another hearth; stop that one first"));
        }
        tokio::time::sleep(LOOK).await;
    }
}
