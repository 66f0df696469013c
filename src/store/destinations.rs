//! Servers that could not be reached lately: since when, and when they are to be tried again. A server without a row is
//! well, which most are, so that is remembered too.

use hearth_base::{Result, cache::Cache};

use crate::{Store, execute, fetch_all, fetch_optional};

/// A server that could not be reached lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Failing {
    /// Since when, ms.
    pub failing_ms: i64,
    /// When it may be called again, ms.
    pub retry_ms: i64,
    /// The pause that ends then, ms.
    pub interval_ms: i64,
}

/// Servers that are remembered.
const CACHE: u64 = 50_000;

/// What is remembered of them; `None` is well.
#[derive(Debug)]
pub(crate) struct Memory(Cache<String, Option<Failing>>);

impl Default for Memory {
    fn default() -> Self {
        Self(Cache::new(CACHE))
    }
}

const ONE: &str = "SELECT failing_ms, retry_ms, interval_ms FROM destinations WHERE server = $1";
const LIST: &str =
    "SELECT server, failing_ms, retry_ms, interval_ms FROM destinations WHERE server > $1 ORDER BY server LIMIT $2";
const PUT: &str = "INSERT INTO destinations (server, failing_ms, retry_ms, interval_ms) VALUES ($1, $2, $3, $4) ON CONFLICT (server) DO UPDATE SET failing_ms = excluded.failing_ms, retry_ms = excluded.retry_ms, interval_ms = excluded.interval_ms";
const DROP: &str = "DELETE FROM destinations WHERE server = $1";

impl Store {
    /// Whether a server fails; `None` if it is well.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn destination(&self, server: &str) -> Result<Option<Failing>> {
        let load = || async { fetch_optional!(&mut self.read().await?, Failing, ONE, server) };
        self.inner.destinations.0.get_or(server.to_owned(), load).await
    }

    /// Servers that fail, by name, those behind `after`.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn failing_destinations(&self, after: &str, limit: i64) -> Result<Vec<(String, Failing)>> {
        let rows: Vec<(String, i64, i64, i64)> =
            fetch_all!(&mut self.read().await?, (String, i64, i64, i64), LIST, after, limit)?;
        let failing = |(failing_ms, retry_ms, interval_ms)| Failing { failing_ms, retry_ms, interval_ms };
        Ok(rows.into_iter().map(|(server, f, r, i)| (server, failing((f, r, i)))).collect())
    }

    /// Notes how a server fares; `None` is well.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn set_destination(&self, server: &str, failing: Option<Failing>) -> Result<()> {
        let server = server.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                match failing {
                    Some(f) => execute!(tx, PUT, server.as_str(), f.failing_ms, f.retry_ms, f.interval_ms)?,
                    None => execute!(tx, DROP, server.as_str())?,
                };
                tx.after_commit(move |store| store.inner.destinations.0.invalidate(&server));
                Ok(())
            })
        })
        .await
    }
}
