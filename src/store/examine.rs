//! A look at a database without a write: whether it is there, whose it is, how far its tables are, who uses it.

use hearth_base::{Error, Result};
use sqlx::{ConnectOptions, Connection, PgConnection};

use crate::{
    Store,
    db::{Engine, failed},
    migrate::{MIGRATIONS, check_known},
    ownership,
};

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Name and version of the database.
    pub software: String,
    /// Whether our tables are there; they are made at the first start.
    pub made: bool,
    /// Steps of the schema that the next start takes.
    pub outstanding: usize,
    /// Whether a running server has it.
    pub in_use: bool,
    /// What time the database's own machine has, ms since 1970; none for a file of ours.
    pub clock_ms: Option<i64>,
}

const SQLITE_ABOUT: &str = "SELECT sqlite_version()";
const STEPS: &str = "SELECT number FROM hearth_migrations";
const POSTGRES_THERE: &str = "SELECT count(*) > 0 FROM pg_catalog.pg_tables \
    WHERE schemaname = 'hearth' AND tablename = 'hearth_migrations'";
const POSTGRES_ABOUT: &str = "SELECT setting, CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT), \
    current_setting('server_encoding') \
    FROM pg_catalog.pg_settings WHERE name = 'server_version'";
const POSTGRES_FREE: &str = "SELECT pg_try_advisory_lock(hashtext('hearth writer'))";

impl Store {
    /// Looks at a database that need not be open, and that may be in use.
    ///
    /// # Errors
    /// One sentence for the operator: not reachable, not ours, newer than us.
    pub async fn examine(engine: &Engine) -> Result<Condition> {
        ownership::check(engine).await?;
        match engine {
            Engine::Sqlite { path } => {
                let in_use = in_use(path);
                let there = path.metadata().is_ok_and(|file| file.len() > 0);
                if !there {
                    return found("SQLite".to_owned(), None, in_use, None);
                }
                let mut connection = ownership::looking(path).await.map_err(failed)?;
                let version: String =
                    sqlx::query_scalar(SQLITE_ABOUT).fetch_one(&mut connection).await.map_err(failed)?;
                let steps = sqlx::query_scalar(STEPS).fetch_all(&mut connection).await.map_err(failed)?;
                connection.close().await.map_err(failed)?;
                found(format!("SQLite {version}"), Some(steps), in_use, None)
            }
            Engine::Postgres { options, .. } => {
                let options = (**options).clone().options([("search_path", "hearth")]);
                let reached = tokio::time::timeout(std::time::Duration::from_secs(10), options.connect()).await;
                let unreachable = |why: sqlx::Error| {
                    let what = "cannot open the PostgreSQL database; check the section `database` of the configuration";
                    Error::unavailable(what, why)
                };
                let mut connection: PgConnection = match reached {
                    Ok(connected) => connected.map_err(unreachable)?,
                    Err(_) => return Err(unreachable(sqlx::Error::PoolTimedOut)),
                };
                let c = &mut connection;
                let (version, now, encoding): (String, i64, String) =
                    sqlx::query_as(POSTGRES_ABOUT).fetch_one(&mut *c).await.map_err(failed)?;
                ownership::check_encoding(&encoding)?;
                let there: bool = sqlx::query_scalar(POSTGRES_THERE).fetch_one(&mut *c).await.map_err(failed)?;
                let steps = match there {
                    true => Some(sqlx::query_scalar(STEPS).fetch_all(&mut *c).await.map_err(failed)?),
                    false => None,
                };
                // Ours for as long as this connection lives, which is not long.
                let free: bool = sqlx::query_scalar(POSTGRES_FREE).fetch_one(&mut *c).await.map_err(failed)?;
                connection.close().await.map_err(failed)?;
                found(format!("PostgreSQL {version}"), steps, !free, Some(now))
            }
        }
    }
}

fn found(software: String, steps: Option<Vec<i64>>, in_use: bool, clock_ms: Option<i64>) -> Result<Condition> {
    let there = steps.as_deref().unwrap_or_default();
    check_known(there.iter().copied())?;
    let outstanding = MIGRATIONS.iter().filter(|m| !there.contains(&m.0)).count();
    Ok(Condition { software, made: steps.is_some(), outstanding, in_use, clock_ms })
}

/// Whether a running server holds a database file. Makes no file.
fn in_use(path: &std::path::Path) -> bool {
    let lock = std::fs::OpenOptions::new().write(true).open(path.with_extension("lock"));
    lock.is_ok_and(|file| matches!(file.try_lock(), Err(std::fs::TryLockError::WouldBlock)))
}
