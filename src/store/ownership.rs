//! Whose database is it? Asked before anything is written, since a configuration that was made for Synapse names
//! Synapse's database.
//!
//! A SQLite file is opened for reading only, so that one that is not ours stays as it is to the last byte. On PostgreSQL
//! our tables have a schema of their own and nobody else's are in the way; only somebody else's schema of that name is.

use std::{io::Read, path::Path, time::Duration};

use hearth_base::{Error, Result};
use sqlx::{ConnectOptions, Connection, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{
    db::{Engine, Session},
    fetch_all,
};

/// The table that every database of ours has.
const OURS: &str = "hearth_migrations";
/// What every database of a Synapse has.
const SYNAPSES: [&str; 3] = ["schema_version", "applied_schema_deltas", "events"];
/// With what a SQLite file begins.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

const POSTGRES_ENCODING: &str = "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'server_encoding'";
const SQLITE_TABLES: &str = "SELECT name FROM sqlite_master WHERE type = 'table'";
const POSTGRES_TABLES: &str = "SELECT CAST(tablename AS TEXT) FROM pg_catalog.pg_tables WHERE schemaname = 'hearth'";

/// Makes sure that a database file is ours or new.
///
/// # Errors
/// One sentence for the operator: which option names which file, what that is, and the way out.
pub(crate) async fn check(engine: &Engine) -> Result<()> {
    let Engine::Sqlite { path } = engine else { return Ok(()) };
    let named = || format!("database.args.database names {}", path.display());
    if !is_sqlite(path).map_err(|e| Error::fault(format!("{}, which cannot be read", named()), e))? {
        return Ok(());
    }
    let tables = tables_of(path).await.map_err(|e| {
        Error::fault(
            format!("{}, which cannot be read as a SQLite database; name a file that hearth may make", named()),
            e,
        )
    })?;
    let has = |name: &str| tables.iter().any(|t| t == name);
    if tables.is_empty() || has(OURS) {
        Ok(())
    } else if SYNAPSES.iter().all(|name| has(name)) {
        Err(Error::broken(format!(
            "{}, which is the database of a Synapse; nothing was written to it. Hearth keeps a database of its own: name \
             a file there that does not exist yet",
            named()
        )))
    } else {
        Err(Error::broken(format!(
            "{}, which is the database of another program (it has a table {}); nothing was written to it. Name a file \
             there that does not exist yet",
            named(),
            tables.first().map_or("", String::as_str)
        )))
    }
}

/// Whether a file is there that has anything in it.
///
/// # Errors
/// If it is something else than a SQLite database.
fn is_sqlite(path: &Path) -> std::io::Result<bool> {
    let mut begin = Vec::with_capacity(MAGIC.len());
    match std::fs::File::open(path) {
        Ok(file) => file.take(MAGIC.len() as u64).read_to_end(&mut begin)?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    if begin.is_empty() {
        return Ok(false);
    }
    if begin == MAGIC {
        return Ok(true);
    }
    Err(std::io::Error::other(
        "it is no SQLite database; nothing was written to it. Name a file that does not exist yet",
    ))
}

async fn tables_of(path: &Path) -> std::result::Result<Vec<String>, sqlx::Error> {
    let mut connection = looking(path).await?;
    let tables = sqlx::query_scalar(SQLITE_TABLES).fetch_all(&mut connection).await?;
    connection.close().await?;
    Ok(tables)
}

/// A connection that only looks.
pub(crate) async fn looking(path: &Path) -> std::result::Result<SqliteConnection, sqlx::Error> {
    // With a log of its own beside it somebody may be writing; without one not even the files of locks need be made.
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let options = SqliteConnectOptions::new()
        .filename(path)
        .read_only(true)
        .immutable(!Path::new(&log).exists())
        .busy_timeout(Duration::from_secs(5));
    options.connect().await
}

/// Makes sure that the schema `hearth` of a PostgreSQL database is ours or new, and that the database can hold any text.
///
/// # Errors
/// One sentence for the operator.
pub(crate) async fn check_schema(session: &mut Session) -> Result<()> {
    if !session.is_postgres() {
        return Ok(());
    }
    for (encoding,) in fetch_all!(session, (String,), POSTGRES_ENCODING)? {
        check_encoding(&encoding)?;
    }
    let tables: Vec<(String,)> = fetch_all!(session, (String,), POSTGRES_TABLES)?;
    if tables.is_empty() || tables.iter().any(|(t,)| t == OURS) {
        return Ok(());
    }
    Err(Error::broken(
        "the PostgreSQL database that the section `database` names has a schema `hearth` of another program; nothing was \
         written to it. Name another database",
    ))
}

/// What people write has letters of every script; a database of another encoding takes them as errors, or as bytes.
pub(crate) fn check_encoding(encoding: &str) -> Result<()> {
    if encoding == "UTF8" {
        return Ok(());
    }
    Err(Error::broken(format!(
        "the PostgreSQL database that the section `database` names has the encoding {encoding}, and has to have UTF8; nothing \
         was written to it. Name one that was made by: CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0"
    )))
}
