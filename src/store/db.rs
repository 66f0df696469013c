//! The two engines behind one door: connections, the macros that run one SQL text on either, and the few named
//! differences (lists of parameters, beginning and ending a transaction, what an error means).
//!
//! The common tongue is `$1` parameters, `ON CONFLICT … DO UPDATE`, `RETURNING`, `BIGINT`, `TEXT`, JSON as text.
//! What differs is written with [`sql!`](crate::sql), which gives one text an engine.

use std::{
    fs::OpenOptions,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hearth_base::{Error, Result};
use sqlx::{
    ConnectOptions as _, Postgres, Sqlite,
    pool::PoolConnection,
    postgres::{PgPool, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous},
};

mod away;
pub(crate) mod later;
mod lists;
mod macros;
mod names;
mod readers;
pub(crate) mod rehearsal;

use away::Away;
pub(crate) use later::Later;
pub use lists::{Ints, Texts};
pub(crate) use names::{MOST_NAMES, Names};
use readers::Readers;
pub use readers::Reading;
pub use sqlx::postgres::PgConnectOptions;

/// Where the data lives.
#[derive(Clone, Debug)]
pub enum Engine {
    /// One file; one process at a time.
    Sqlite {
        /// The database file; made when missing.
        path: PathBuf,
    },
    /// A PostgreSQL server, version 12 or newer; our tables live in the schema `hearth`.
    Postgres {
        /// How to connect, password included.
        options: Box<PgConnectOptions>,
        /// Connections at most.
        max_connections: u32,
    },
}

/// An open database.
#[derive(Debug)]
pub(crate) struct Db {
    pools: Pools,
    readers: Arc<Readers>,
}

/// The open pools of one engine.
#[derive(Debug)]
enum Pools {
    Sqlite { write: SqlitePool, read: SqlitePool },
    Postgres(PgPool, Away),
}

/// A connection of either engine, for reading or inside the writer's transaction.
#[derive(Debug)]
pub enum Session {
    /// SQLite.
    Sqlite(PoolConnection<Sqlite>),
    /// PostgreSQL.
    Postgres(PoolConnection<Postgres>),
}

/// Whatever statements can be run on: a [`Session`], or the writer's [`Tx`](crate::log::Tx).
pub trait HasSession: Send {
    /// Has everything done that is to come before the next statement.
    ///
    /// # Errors
    /// If the database fails; the statement is not to be run then.
    fn ready(&mut self) -> impl Future<Output = Result<()>> + Send {
        std::future::ready(Ok(()))
    }

    /// The connection, for a statement about to begin.
    fn session(&mut self) -> &mut Session;

    /// Says that the statement has ended well.
    fn ended(&mut self) {}
}

impl HasSession for Session {
    fn session(&mut self) -> &mut Session {
        self
    }
}

/// One statement, as a text for each engine. Made by [`sql!`](crate::sql), or from a plain text that both read.
#[derive(Clone, Copy, Debug)]
pub struct Sql {
    /// What SQLite runs.
    pub sqlite: &'static str,
    /// What PostgreSQL runs.
    pub postgres: &'static str,
}

impl From<&'static str> for Sql {
    fn from(text: &'static str) -> Self {
        Self { sqlite: text, postgres: text }
    }
}

/// What an error of the database means for us: a broken connection or a full disk passes, a text that no column can
/// hold is the caller's, the rest is a fault.
#[track_caller]
pub fn failed(e: sqlx::Error) -> Error {
    // A caller's text with NUL, which PostgreSQL does not have (character_not_in_repertoire).
    if e.as_database_error().and_then(|db| db.code()).is_some_and(|code| code == "22021") {
        return Error::invalid_param("Texts cannot contain NUL here");
    }
    let passing = match &e {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Tls(_) => true,
        sqlx::Error::Database(db) => match db.code().as_deref() {
            // SQLITE_BUSY, SQLITE_FULL, SQLITE_IOERR* and PostgreSQL's classes 53 (resources), 57 (operator), 08 (connection).
            Some(code) if db.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() => {
                code.parse::<u32>().is_ok_and(|c| matches!(c & 0xff, 5 | 10 | 13))
            }
            Some(code) => code.starts_with("53") || code.starts_with("57") || code.starts_with("08"),
            None => false,
        },
        _ => false,
    };
    if passing { Error::unavailable("database", e) } else { Error::fault("database", e) }
}

/// How long a connection that works takes to say so, at most.
const ANSWER: Duration = Duration::from_secs(5);

/// Asks a connection whether it works. Nobody says no where a host has gone without a word, and the system would wait for it
/// for a quarter of an hour.
pub(crate) async fn ask(connection: &mut sqlx::PgConnection) -> sqlx::Result<()> {
    let answer = tokio::time::timeout(ANSWER, sqlx::Connection::ping(connection)).await;
    answer.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// Readers of SQLite beside the one writer.
const SQLITE_READERS: u32 = 4;
/// Prepared statements kept by a connection; more than we have.
const STATEMENTS: usize = 512;

/// Makes the file of a new database, for our user alone whatever the umask: it holds hashes of passwords and all that is
/// said. Its log and index files take its rights. Those of a file that is there are its owner's affair.
fn keep_private(path: &Path) -> std::io::Result<()> {
    if path == Path::new(":memory:") {
        return Ok(());
    }
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

impl Db {
    pub(crate) async fn open(engine: &Engine) -> Result<Self> {
        match engine {
            Engine::Sqlite { path } => {
                keep_private(path)
                    .map_err(|e| cannot_open(&format!("SQLite database {}", path.display()), sqlx::Error::Io(e)))?;
                let options = SqliteConnectOptions::new()
                    .filename(path)
                    .create_if_missing(true)
                    .journal_mode(SqliteJournalMode::Wal)
                    // An acknowledged event survives power loss, not only a crash of the process.
                    .synchronous(SqliteSynchronous::Full)
                    .busy_timeout(Duration::from_secs(10))
                    .foreign_keys(false)
                    .statement_cache_capacity(STATEMENTS)
                    .pragma("cache_size", "-8192")
                    .pragma("temp_store", "memory")
                    .pragma("journal_size_limit", "67108864")
                    .log_statements(tracing::log::LevelFilter::Debug)
                    .log_slow_statements(tracing::log::LevelFilter::Warn, Duration::from_secs(1));
                let write = SqlitePoolOptions::new()
                    .max_connections(1)
                    .test_before_acquire(false)
                    .idle_timeout(None)
                    .max_lifetime(None)
                    .connect_with(options.clone())
                    .await
                    .map_err(|e| cannot_open(&format!("SQLite database {}", path.display()), e))?;
                let read = SqlitePoolOptions::new()
                    .max_connections(SQLITE_READERS)
                    .test_before_acquire(false)
                    .idle_timeout(None)
                    .max_lifetime(None)
                    .connect_with(options.pragma("query_only", "1").pragma("cache_size", "-4096"))
                    .await
                    .map_err(|e| cannot_open(&format!("SQLite database {}", path.display()), e))?;
                Ok(Self::of(Pools::Sqlite { write, read }, SQLITE_READERS))
            }
            Engine::Postgres { options, max_connections } => {
                let named = options.get_application_name().unwrap_or("hearth").to_owned();
                let options = (**options)
                    .clone()
                    .application_name(&named)
                    .statement_cache_capacity(STATEMENTS)
                    .options([
                        ("search_path", "hearth"),
                        ("client_min_messages", "warning"),
                        // Each statement is planned once a connection, not anew for its first five arguments: none of
                        // ours has a better plan for some arguments than for others.
                        ("plan_cache_mode", "force_generic_plan"),
                        // A plan without arguments may look dear enough to be compiled, for milliseconds each time it is
                        // run; what it finds are a few rows.
                        ("jit", "off"),
                        // A server that lost us ends our session, and with it our claim on the database, in a minute.
                        ("tcp_keepalives_idle", "30"),
                        ("tcp_keepalives_interval", "10"),
                        ("tcp_keepalives_count", "3"),
                    ])
                    .log_statements(tracing::log::LevelFilter::Debug)
                    .log_slow_statements(tracing::log::LevelFilter::Warn, Duration::from_secs(1));
                let name = format!(
                    "PostgreSQL database {} at {}:{} as user {}",
                    options.get_database().unwrap_or("(default)"),
                    options.get_host(),
                    options.get_port(),
                    options.get_username()
                );
                // One of them writes.
                let readers = max_connections.saturating_sub(1).max(1);
                let opened = PgPoolOptions::new()
                    .max_connections(readers + 1)
                    .acquire_timeout(Duration::from_secs(10))
                    .connect_with(options.clone())
                    .await;
                match opened {
                    Ok(pool) => Ok(Self::of(Pools::Postgres(pool, Away::default()), readers)),
                    // The pool tried again and again, and does not say why in vain; a connection by itself does.
                    Err(sqlx::Error::PoolTimedOut) => {
                        let again = tokio::time::timeout(Duration::from_secs(5), options.connect()).await;
                        let why = again.ok().and_then(Result::err).unwrap_or(sqlx::Error::PoolTimedOut);
                        Err(cannot_open(&name, why))
                    }
                    Err(e) => Err(cannot_open(&name, e)),
                }
            }
        }
    }

    fn of(pools: Pools, readers: u32) -> Self {
        Self { pools, readers: Arc::new(Readers::new(readers)) }
    }

    /// A connection for reading.
    pub(crate) async fn read(&self) -> Result<Reading> {
        self.readers.read(&self.pools).await
    }

    /// How many connections are open.
    #[cfg(test)]
    pub(crate) fn connections(&self) -> u32 {
        match &self.pools {
            Pools::Sqlite { write, read } => write.size() + read.size(),
            Pools::Postgres(pool, _) => pool.size(),
        }
    }

    /// Says that a connection was lost: others may be too.
    pub(crate) fn doubt(&self) {
        self.readers.doubt();
    }

    /// The connection that writes. It is closed when it is dropped, since then its transaction may be open.
    pub(crate) async fn writer(&self) -> Result<Session> {
        match &self.pools {
            Pools::Sqlite { write, .. } => {
                let mut connection = write.acquire().await.map_err(failed)?;
                connection.close_on_drop();
                Ok(Session::Sqlite(connection))
            }
            Pools::Postgres(pool, away) => {
                // Readers may have left connections that are lost.
                for _ in 0..pool.options().get_max_connections() {
                    let mut connection = away.acquire(pool).await?;
                    connection.close_on_drop();
                    if ask(&mut connection).await.is_ok() {
                        return Ok(Session::Postgres(connection));
                    }
                }
                Err(Error::unavailable("database", "every connection to it is lost"))
            }
        }
    }

    pub(crate) async fn close(&self) {
        self.readers.close().await;
        match &self.pools {
            Pools::Sqlite { write, read } => {
                read.close().await;
                // The last to go takes the write-ahead log along, which readers cannot.
                if let Ok(last) = write.acquire().await {
                    let _ = last.close().await;
                }
                write.close().await;
            }
            Pools::Postgres(pool, _) => pool.close().await,
        }
    }
}

impl Pools {
    /// One more connection for reading.
    async fn reader(&self) -> Result<Session> {
        match self {
            Self::Sqlite { read, .. } => Ok(Session::Sqlite(read.acquire().await.map_err(failed)?)),
            Self::Postgres(pool, away) => Ok(Session::Postgres(away.acquire(pool).await?)),
        }
    }
}

fn cannot_open(what: &str, e: sqlx::Error) -> Error {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    let is_full = match &e {
        sqlx::Error::Io(e) => matches!(e.kind(), StorageFull | QuotaExceeded | FileTooLarge),
        // SQLITE_FULL, and SQLITE_IOERR*: SQLite does not say why a write failed.
        sqlx::Error::Database(db) if db.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() => {
            db.code().and_then(|code| code.parse::<u32>().ok()).is_some_and(|code| matches!(code & 0xff, 10 | 13))
        }
        _ => false,
    };
    let way_out = match is_full {
        true => "look whether its disk is full, and make room there",
        false => "check the section `database` of the configuration",
    };
    Error::unavailable(format!("cannot open the {what}; {way_out}"), e)
}

impl Session {
    /// Runs texts without parameters, several at once, in one round trip.
    pub(crate) async fn batch(&mut self, text: String) -> Result<()> {
        let sql = sqlx::AssertSqlSafe(text);
        match self {
            Self::Sqlite(c) => sqlx::Executor::execute(&mut **c, sqlx::raw_sql(sql)).await.map(drop),
            Self::Postgres(c) => sqlx::Executor::execute(&mut **c, sqlx::raw_sql(sql)).await.map(drop),
        }
        .map_err(failed)
    }

    /// Whether this is PostgreSQL.
    #[must_use]
    pub fn is_postgres(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }
}
