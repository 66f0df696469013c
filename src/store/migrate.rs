//! Brings a database to the tables this program knows: runs `migrations/`, refuses a database newer than us.
//!
//! Migrations carry the same number and name for both engines; each runs in a transaction together with its
//! line in `hearth_migrations`.

use hearth_base::{Error, Result};

use crate::{db::Session, execute, fetch_all};

/// One step: (number, name, text for SQLite, text for PostgreSQL).
type Migration = (i64, &'static str, &'static str, &'static str);

macro_rules! migrations {
    ($($number:literal $name:literal),+ $(,)?) => {
        &[$((
            $number,
            $name,
            include_str!(concat!("../../migrations/sqlite/", $name, ".sql")),
            include_str!(concat!("../../migrations/postgres/", $name, ".sql")),
        )),+]
    };
}

/// All steps, in order. Never edited once released: a change is a new step.
pub const MIGRATIONS: &[Migration] = migrations![
    1 "0001_core", 2 "0002_accounts", 3 "0003_federation", 4 "0004_outbox", 5 "0005_partial", 6 "0006_previews",
    7 "0007_held", 8 "0008_entered", 9 "0009_key_documents", 10 "0010_own_keys", 11 "0011_erased",
    12 "0012_lacking", 13 "0013_presence",
];

const MADE: &str = "CREATE TABLE IF NOT EXISTS hearth_migrations (number BIGINT PRIMARY KEY, name TEXT NOT NULL)";
const SCHEMA: &str = "SELECT CAST(1 AS BIGINT) FROM pg_catalog.pg_namespace WHERE nspname = 'hearth'";
const APPLIED: &str = "SELECT number FROM hearth_migrations ORDER BY number";
const NOTE: &str = "INSERT INTO hearth_migrations (number, name) VALUES ($1, $2)";

/// Makes sure that a database carries no step that this program does not know.
///
/// # Errors
/// A sentence for the operator.
pub(crate) fn check_known(mut applied: impl Iterator<Item = i64>) -> Result<()> {
    let newest = MIGRATIONS.last().map_or(0, |m| m.0);
    match applied.find(|n| *n > newest) {
        Some(ahead) => Err(Error::broken(format!(
            "the database has schema step {ahead}, this version of hearth knows up to {newest}: \
             start the newer hearth it was last used with, or restore a backup"
        ))),
        None => Ok(()),
    }
}

/// Runs what is missing.
///
/// # Errors
/// A fault if the database carries a step this program does not know, or a statement fails; the steps before
/// the failing one stay.
pub(crate) async fn run(session: &mut Session) -> Result<()> {
    crate::ownership::check_schema(session).await?;
    if session.is_postgres() {
        // Asked first: whoever has the schema need not be allowed to make one.
        let there: Vec<(i64,)> = fetch_all!(session, (i64,), SCHEMA)?;
        if there.is_empty() {
            session.batch("CREATE SCHEMA hearth".to_owned()).await.map_err(|e| {
                Error::fault(
                    "cannot make the schema `hearth`; allow it by GRANT CREATE ON DATABASE … TO …, or have it made by \
                     CREATE SCHEMA hearth AUTHORIZATION …",
                    e,
                )
            })?;
        }
    }
    execute!(session, MADE)?;
    let applied: Vec<(i64,)> = fetch_all!(session, (i64,), APPLIED)?;
    check_known(applied.iter().map(|(n,)| *n))?;
    for (number, name, sqlite, postgres) in MIGRATIONS {
        if applied.iter().any(|(n,)| n == number) {
            continue;
        }
        tracing::info!(step = number, name, "bringing the database up to date");
        session.batch("BEGIN".to_owned()).await?;
        let text = if session.is_postgres() { postgres } else { sqlite };
        let done = match session.batch((*text).to_owned()).await {
            Ok(()) => execute!(session, NOTE, *number, *name),
            Err(e) => Err(e),
        };
        match done {
            Ok(_) => session.batch("COMMIT".to_owned()).await?,
            Err(e) => {
                session.batch("ROLLBACK".to_owned()).await?;
                return Err(e);
            }
        }
    }
    Ok(())
}
