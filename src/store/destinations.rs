//! Servers that could not be reached lately: since when, and when they are to be tried again. A server without a row is
//! well, which most are. All rows are held in memory, so that a call to a server that is well asks nothing of the database.

use std::collections::HashMap;

use hearth_base::Result;
use parking_lot::RwLock;

use crate::{Store, db::Session, execute, fetch_all, fetch_optional};

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

/// Servers held in memory; where more fail, the database is asked for the others.
const HELD: usize = if cfg!(test) { 3 } else { 50_000 };

/// The servers that fail.
#[derive(Debug, Default)]
pub(crate) struct Memory(RwLock<Held>);

#[derive(Debug, Default)]
struct Held {
    servers: HashMap<Box<str>, Failing>,
    /// Whether some were left out.
    others: bool,
}

const ONE: &str = "SELECT failing_ms, retry_ms, interval_ms FROM destinations WHERE server = $1";
const LIST: &str = "SELECT server, failing_ms, retry_ms, interval_ms FROM destinations LIMIT $1";
const PUT: &str = "INSERT INTO destinations (server, failing_ms, retry_ms, interval_ms) VALUES ($1, $2, $3, $4) ON CONFLICT (server) DO UPDATE SET failing_ms = excluded.failing_ms, retry_ms = excluded.retry_ms, interval_ms = excluded.interval_ms";
const DROP: &str = "DELETE FROM destinations WHERE server = $1";

impl Memory {
    /// The servers that fail now.
    pub(crate) async fn load(session: &mut Session) -> Result<Self> {
        type Row = (String, i64, i64, i64);
        let most = i64::try_from(HELD).unwrap_or(i64::MAX);
        let rows: Vec<Row> = fetch_all!(session, Row, LIST, most)?;
        let others = rows.len() == HELD;
        let failing = |(server, failing_ms, retry_ms, interval_ms): Row| {
            (server.into(), Failing { failing_ms, retry_ms, interval_ms })
        };
        Ok(Self(RwLock::new(Held { servers: rows.into_iter().map(failing).collect(), others })))
    }

    /// How a server is known to fare; nothing if only the database knows.
    fn get(&self, server: &str) -> Option<Option<Failing>> {
        let held = self.0.read();
        match held.servers.get(server) {
            Some(failing) => Some(Some(*failing)),
            None if held.others => None,
            None => Some(None),
        }
    }

    fn set(&self, server: String, failing: Option<Failing>) {
        let mut held = self.0.write();
        match failing {
            None => drop(held.servers.remove(&*server)),
            Some(failing) if held.servers.len() < HELD || held.servers.contains_key(&*server) => {
                held.servers.insert(server.into(), failing);
            }
            Some(_) => held.others = true,
        }
    }
}

impl Store {
    /// Whether a server fails; `None` if it is well.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn destination(&self, server: &str) -> Result<Option<Failing>> {
        match self.inner.destinations.get(server) {
            Some(known) => Ok(known),
            None => fetch_optional!(&mut self.read().await?, Failing, ONE, server),
        }
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
                tx.after_commit(move |store| store.inner.destinations.set(server, failing));
                Ok(())
            })
        })
        .await
    }
}
