//! A PostgreSQL that is known to be away: whoever wants a connection is told so at once, rather than each after waiting
//! for it, and one at a time looks whether it is back.

use std::time::{Duration, Instant};

use hearth_base::{Error, Result};
use parking_lot::Mutex;
use sqlx::{ConnectOptions as _, Connection as _, Postgres, pool::PoolConnection, postgres::PgPool};
use tokio::{sync::Mutex as Turn, time::timeout};

use super::failed;

/// How long a look may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether the database is known to be away.
#[derive(Debug, Default)]
pub(super) struct Away {
    /// When somebody may look again; none while it is not known to be away.
    next: Mutex<Option<Instant>>,
    /// Held by who looks.
    turn: Turn<()>,
}

impl Away {
    /// A connection of the pool, which waits for a server that is away: it may be back in a moment. Once it has been waited
    /// for in vain, nobody else waits until it is seen again.
    ///
    /// # Errors
    /// If there is none.
    pub(super) async fn acquire(&self, pool: &PgPool) -> Result<PoolConnection<Postgres>> {
        if self.next().is_some() {
            self.look(pool).await?;
        }
        let acquired = pool.acquire().await;
        if let Err(sqlx::Error::PoolTimedOut | sqlx::Error::Io(_)) = &acquired {
            // Or all its connections are in use, which is no news of the server.
            self.next.lock().get_or_insert_with(Instant::now);
            let _ = self.look(pool).await;
        }
        acquired.map_err(failed)
    }

    fn next(&self) -> Option<Instant> {
        *self.next.lock()
    }

    /// Looks whether it is back, unless somebody else does, or just did.
    ///
    /// # Errors
    /// If it is away.
    async fn look(&self, pool: &PgPool) -> Result<()> {
        let known = || Error::unavailable("database", "it is away, as was just seen");
        let Ok(_turn) = self.turn.try_lock() else { return Err(known()) };
        match self.next() {
            None => return Ok(()),
            Some(next) if Instant::now() < next => return Err(known()),
            Some(_) => {}
        }
        let begun = Instant::now();
        let away = match timeout(PATIENCE, pool.connect_options().connect()).await {
            Ok(Ok(connection)) => {
                let _ = connection.close().await;
                None
            }
            Ok(Err(e)) => is_away(&e).then_some(e),
            Err(_) => Some(sqlx::Error::PoolTimedOut),
        };
        // One that does not even refuse takes long to look at: no more than half of the time.
        *self.next.lock() = away.as_ref().map(|_| Instant::now() + begun.elapsed());
        away.map_or(Ok(()), |e| Err(failed(e)))
    }
}

/// Whether there is no server, or one that is about to go or to come (PostgreSQL's class 57). Others have their reasons.
fn is_away(e: &sqlx::Error) -> bool {
    match e {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) => true,
        sqlx::Error::Database(db) => db.code().is_some_and(|code| code.starts_with("57")),
        _ => false,
    }
}
