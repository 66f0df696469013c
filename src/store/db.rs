//! The two engines behind one door: connections, the macros that run one SQL text on either, and the few named
//! differences (lists of parameters, beginning and ending a transaction, what an error means).
//!
//! The common tongue is `$1` parameters, `ON CONFLICT … DO UPDATE`, `RETURNING`, `BIGINT`, `TEXT`, JSON as text.
//! What differs is written with [`sql!`](crate::sql), which gives one text an engine.

use std::{
    fs::OpenOptions,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use hearth_base::{Error, Result};
use sqlx::{
    ConnectOptions as _, Postgres, Sqlite,
    pool::PoolConnection,
    postgres::{PgPool, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous},
};

mod lists;

pub use lists::{Ints, Texts};
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

/// The open pools of one engine.
#[derive(Clone, Debug)]
pub(crate) enum Db {
    Sqlite { write: SqlitePool, read: SqlitePool },
    Postgres(PgPool),
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
pub trait HasSession {
    /// The connection.
    fn session(&mut self) -> &mut Session;
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

/// Builds a [`Sql`] from literals and the named differences: `[in 1]` is membership in the list bound as `$1`
/// ([`Ints`] or [`Texts`]); `[rows 1]` is a table `e` with one column `value`, of the elements of the JSON array bound
/// as `$1`, whose fields are read by `e.value ->> 0`.
#[macro_export]
macro_rules! sql {
    ($($part:tt)+) => {
        $crate::db::Sql {
            sqlite: concat!($($crate::sql_part!(sqlite $part)),+),
            postgres: concat!($($crate::sql_part!(postgres $part)),+),
        }
    };
}

/// One piece of a [`sql!`](crate::sql).
#[macro_export]
#[doc(hidden)]
macro_rules! sql_part {
    (sqlite [in $n:literal]) => {
        concat!("IN (SELECT value FROM json_each($", $n, "))")
    };
    (postgres [in $n:literal]) => {
        concat!("= ANY($", $n, ")")
    };
    (sqlite [rows $n:literal]) => {
        concat!("json_each($", $n, ") AS e")
    };
    (postgres [rows $n:literal]) => {
        concat!("json_array_elements($", $n, "::json) AS e(value)")
    };
    ($engine:ident $text:literal) => {
        $text
    };
}

/// All rows of a statement, as `Vec<$row>`.
#[macro_export]
macro_rules! fetch_all {
    ($session:expr, $row:ty, $sql:expr $(, $arg:expr)* $(,)?) => {{
        let sql: $crate::db::Sql = $sql.into();
        match $crate::db::HasSession::session(&mut *$session) {
            $crate::db::Session::Sqlite(c) => sqlx::query_as::<sqlx::Sqlite, $row>(sql.sqlite)$(.bind($arg))*.fetch_all(&mut **c).await,
            $crate::db::Session::Postgres(c) => sqlx::query_as::<sqlx::Postgres, $row>(sql.postgres)$(.bind($arg))*.fetch_all(&mut **c).await,
        }.map_err($crate::db::failed)
    }};
}

/// The row of a statement, if there is one.
#[macro_export]
macro_rules! fetch_optional {
    ($session:expr, $row:ty, $sql:expr $(, $arg:expr)* $(,)?) => {{
        let sql: $crate::db::Sql = $sql.into();
        match $crate::db::HasSession::session(&mut *$session) {
            $crate::db::Session::Sqlite(c) => sqlx::query_as::<sqlx::Sqlite, $row>(sql.sqlite)$(.bind($arg))*.fetch_optional(&mut **c).await,
            $crate::db::Session::Postgres(c) => sqlx::query_as::<sqlx::Postgres, $row>(sql.postgres)$(.bind($arg))*.fetch_optional(&mut **c).await,
        }.map_err($crate::db::failed)
    }};
}

/// Runs a statement; gives the number of rows it touched.
#[macro_export]
macro_rules! execute {
    ($session:expr, $sql:expr $(, $arg:expr)* $(,)?) => {{
        let sql: $crate::db::Sql = $sql.into();
        match $crate::db::HasSession::session(&mut *$session) {
            $crate::db::Session::Sqlite(c) => sqlx::query::<sqlx::Sqlite>(sql.sqlite)$(.bind($arg))*.execute(&mut **c).await.map(|r| r.rows_affected()),
            $crate::db::Session::Postgres(c) => sqlx::query::<sqlx::Postgres>(sql.postgres)$(.bind($arg))*.execute(&mut **c).await.map(|r| r.rows_affected()),
        }.map_err($crate::db::failed)
    }};
}

/// Inserts many rows: `$one` row by row on SQLite, where a statement costs little; `$many` once on PostgreSQL, with a
/// list a column for `UNNEST`.
#[macro_export]
macro_rules! insert_rows {
    ($session:expr, $rows:expr, $one:expr, $many:expr, $r:ident => { $($col:ident : $ty:ty = $val:expr),+ $(,)? }) => {{
        let rows = $rows;
        match $crate::db::HasSession::session(&mut *$session) {
            $crate::db::Session::Sqlite(c) => {
                let mut done = Ok(());
                for $r in rows {
                    if let Err(e) = sqlx::query::<sqlx::Sqlite>($one)$(.bind({ let v: $ty = $val; v }))+.execute(&mut **c).await {
                        done = Err(e);
                        break;
                    }
                }
                done
            }
            $crate::db::Session::Postgres(c) => {
                $(let mut $col: Vec<$ty> = Vec::new();)+
                for $r in rows {
                    $($col.push($val);)+
                }
                sqlx::query::<sqlx::Postgres>($many)$(.bind($col))+.execute(&mut **c).await.map(|_| ())
            }
        }.map_err($crate::db::failed)
    }};
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

/// Readers of SQLite beside the one writer.
const SQLITE_READERS: u32 = 4;
/// A connection of PostgreSQL that was not used for so long is asked whether it still is one.
const IDLE: Duration = Duration::from_secs(1);
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
                Ok(Self::Sqlite { write, read })
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
                let opened = PgPoolOptions::new()
                    .max_connections((*max_connections).max(2))
                    .test_before_acquire(false)
                    .acquire_timeout(Duration::from_secs(10))
                    // Whoever was idle for a moment may have lost the server meanwhile: it is asked first.
                    .before_acquire(|connection, idle| {
                        Box::pin(
                            async move { Ok(idle.idle_for < IDLE || sqlx::Connection::ping(connection).await.is_ok()) },
                        )
                    })
                    .connect_with(options.clone())
                    .await;
                match opened {
                    Ok(pool) => Ok(Self::Postgres(pool)),
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

    /// A connection for reading.
    pub(crate) async fn read(&self) -> Result<Session> {
        match self {
            Self::Sqlite { read, .. } => Ok(Session::Sqlite(read.acquire().await.map_err(failed)?)),
            Self::Postgres(pool) => Ok(Session::Postgres(pool.acquire().await.map_err(failed)?)),
        }
    }

    /// The connection that writes. It is closed when it is dropped, since then its transaction may be open.
    pub(crate) async fn writer(&self) -> Result<Session> {
        match self {
            Self::Sqlite { write, .. } => {
                let mut connection = write.acquire().await.map_err(failed)?;
                connection.close_on_drop();
                Ok(Session::Sqlite(connection))
            }
            Self::Postgres(pool) => {
                // Readers may have left connections that are lost.
                for _ in 0..pool.options().get_max_connections() {
                    let mut connection = pool.acquire().await.map_err(failed)?;
                    connection.close_on_drop();
                    if sqlx::Connection::ping(&mut *connection).await.is_ok() {
                        return Ok(Session::Postgres(connection));
                    }
                }
                Err(Error::unavailable("database", "every connection to it is lost"))
            }
        }
    }

    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite { write, read } => {
                read.close().await;
                // The last to go takes the write-ahead log along, which readers cannot.
                if let Ok(last) = write.acquire().await {
                    let _ = last.close().await;
                }
                write.close().await;
            }
            Self::Postgres(pool) => pool.close().await,
        }
    }
}

fn cannot_open(what: &str, e: sqlx::Error) -> Error {
    Error::unavailable(format!("cannot open the {what}; check the section `database` of the configuration"), e)
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
