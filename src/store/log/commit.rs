//! How the writer's transaction begins and ends: on SQLite, on PostgreSQL, and on PostgreSQL in one round trip.

use hearth_base::{Error, Result};

use super::{LogRow, Tx, insert};
use crate::db::{HasSession as _, Session};

/// What the row `log_head` says that we wrote last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Position of the newest change.
    pub(crate) pos: i64,
    /// Transactions so far; counted on PostgreSQL only, where another can write.
    pub(crate) commits: i64,
    /// The run that writes.
    pub(crate) run: i64,
}

/// What became of a transaction.
pub(super) enum Ended {
    /// It is durable, and the head is this.
    Committed(Head),
    /// It failed before anything could last.
    Undone(Error),
    /// It may have been committed, with this head.
    Unknown(Head),
}

/// Whether the same may work a moment later.
pub(super) fn passing(e: &Error) -> bool {
    matches!(e, Error::Fault(fault) if fault.retry)
}

/// Ends a transaction: log rows, the new head, commit.
pub(super) async fn end(tx: &mut Tx) -> Ended {
    let head = Head { pos: tx.pos, commits: tx.head.commits + 1, ..tx.head };
    let logged = !tx.changes.is_empty();
    if logged {
        let rows = tx.changes.iter().map(LogRow::from).collect();
        if let Err(e) = insert(tx, rows).await {
            return Ended::Undone(e);
        }
    }
    if !tx.begun {
        return end_at_once(tx, head).await;
    }
    if let Err(e) = tx.ready().await {
        return Ended::Undone(e);
    }
    let mut text = String::new();
    if tx.session.is_postgres() {
        text = format!("UPDATE log_head SET pos = {}, commits = {} WHERE id = 1; ", head.pos, head.commits);
    } else if logged {
        text = format!("UPDATE log_head SET pos = {} WHERE id = 1; ", head.pos);
    }
    text.push_str("COMMIT");
    match tx.session.batch(text).await {
        Ok(()) => Ended::Committed(head),
        Err(e) => {
            tracing::error!(error = %e, "cannot commit");
            Ended::Unknown(head)
        }
    }
}

/// Runs what waits, all there is of the transaction, as one by itself.
async fn end_at_once(tx: &mut Tx, head: Head) -> Ended {
    if tx.later.is_empty() {
        return Ended::Committed(tx.head);
    }
    let Session::Postgres(c) = &mut tx.session else {
        return Ended::Undone(Error::broken("a transaction that was not begun"));
    };
    let from = [tx.head.pos, tx.head.commits, tx.head.run];
    let (text, args) = match tx.later.join_moving_head(from, [head.pos, head.commits]) {
        Ok(joined) => joined,
        Err(e) => return Ended::Undone(e),
    };
    let done = sqlx::query_with(sqlx::AssertSqlSafe(text), args).execute(&mut **c).await;
    match done {
        Ok(_) => Ended::Committed(head),
        Err(e) => {
            let refused = matches!(e, sqlx::Error::Database(_));
            let e = crate::db::failed(e);
            // PostgreSQL has undone what it refuses; whatever else may come after the commit.
            if refused && !passing(&e) {
                return Ended::Undone(e);
            }
            tracing::error!(error = %e, "cannot commit");
            Ended::Unknown(head)
        }
    }
}

/// Begins a transaction; on PostgreSQL gives the head of the log, locked.
pub(super) async fn begin_on(session: &mut Session) -> Result<Option<Head>> {
    match session {
        Session::Sqlite(c) => {
            sqlx::query("BEGIN IMMEDIATE").execute(&mut **c).await.map_err(crate::db::failed)?;
            Ok(None)
        }
        Session::Postgres(c) => {
            let begin = sqlx::raw_sql("BEGIN; SELECT pos, commits, run FROM log_head WHERE id = 1 FOR UPDATE");
            let rows = sqlx::Executor::fetch_all(&mut **c, begin).await.map_err(crate::db::failed)?;
            let row = rows.first().ok_or_else(|| Error::broken("log_head has no row"))?;
            let column = |n: usize| sqlx::Row::try_get(row, n).map_err(crate::db::failed);
            Ok(Some(Head { pos: column(0)?, commits: column(1)?, run: column(2)? }))
        }
    }
}
