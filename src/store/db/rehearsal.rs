//! What a server is asked first, prepared before anybody waits for it.
//!
//! PostgreSQL parses and plans a statement on each connection that runs it, the first time it does, and reads of its
//! catalogs what it needs for that: for the few dozen statements of a first join through another server that is three
//! times the work of running them. So after a start, when nobody is in a hurry, the connection that writes and the one
//! that is read by while nothing else reads go through them, one by one, among whatever else is asked. Others do not: they
//! are opened when there is much to do.
//!
//! The lists are recorded, not written: `tests/bench/join_cost.py --record`. A statement that is missing there is prepared
//! when it is first asked; one that nobody asks any more is found by the test of all statements.

use std::time::Duration;

use hearth_base::{Error, Result};
use sqlx::{
    Encode, Executor as _, PgConnection, Postgres, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgTypeInfo, types::Oid},
};

use crate::{
    Store,
    db::{HasSession as _, Reading, Session, failed},
};

/// One statement a line, as those who read ask them; none changes anything.
pub(crate) const READING: &str = include_str!("rehearsal/reading.sql");
/// As the writer asks them, which joins what can wait for each other (`db::Later`).
pub(crate) const WRITING: &str = include_str!("rehearsal/writing.sql");

/// How often a connection is waited for.
const TRIES: u32 = 50;
/// And how long each time.
const PAUSE: Duration = Duration::from_millis(5);

impl Store {
    /// Has PostgreSQL prepare what it is going to be asked first. SQLite prepares in no time.
    ///
    /// # Errors
    /// If the database is away. What it cannot prepare is passed over.
    pub async fn rehearse(&self, is_stopping: impl Fn() -> bool) -> Result<()> {
        for text in READING.lines().take_while(|_| !is_stopping()) {
            let Some(mut reading) = self.first_reader().await? else { continue };
            let Session::Postgres(c) = reading.session() else { return Ok(()) };
            passed_over(text, rehearse(c, text).await.map_err(failed))?;
            reading.ended();
        }
        for text in WRITING.lines().take_while(|_| !is_stopping()) {
            let rehearsed = self.write(move |tx| {
                Box::pin(async move {
                    let Session::Postgres(c) = tx.session() else { return Ok(()) };
                    rehearse(c, text).await.map_err(failed)
                })
            });
            passed_over(text, rehearsed.await)?;
        }
        Ok(())
    }

    /// The connection that is read by first, unless it has much to do.
    async fn first_reader(&self) -> Result<Option<Reading>> {
        for _ in 0..TRIES {
            let reading = self.read().await?;
            if reading.is_first() {
                return Ok(Some(reading));
            }
            drop(reading);
            tokio::time::sleep(PAUSE).await;
        }
        Ok(None)
    }
}

/// What the database refuses is nobody's concern; that it is away is.
fn passed_over(text: &str, rehearsed: Result<()>) -> Result<()> {
    match rehearsed {
        Err(Error::Fault(fault)) if fault.retry => Err(Error::Fault(fault)),
        Err(e) => {
            tracing::debug!(text, error = %e, "cannot be rehearsed");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Prepares one statement, with a plan. A question is asked, about nothing; anything else is explained.
pub(crate) async fn rehearse(c: &mut PgConnection, text: &'static str) -> sqlx::Result<()> {
    const NAME: &str = "SELECT name FROM pg_prepared_statements WHERE statement = $1";
    let parameters = parameters(text);
    if text.starts_with("SELECT") {
        let about_nothing = (0..parameters).fold(sqlx::query(text), |query, _| query.bind(Nothing));
        return about_nothing.execute(c).await.map(drop);
    }
    c.prepare(sqlx::SqlSafeStr::into_sql_str(text)).await?;
    let name: String = sqlx::query_scalar(NAME).bind(text).fetch_one(&mut *c).await?;
    let nothing = vec!["NULL"; parameters].join(", ");
    c.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(format!("EXPLAIN EXECUTE {name} ({nothing})")))).await.map(drop)
}

/// How many parameters a statement has.
fn parameters(text: &str) -> usize {
    let numbers = text.split('$').skip(1).filter_map(|rest| {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest.get(..digits)?.parse::<usize>().ok()
    });
    numbers.max().unwrap_or(0)
}

/// NULL, of the type that the statement wants.
#[derive(Clone, Copy, Debug)]
struct Nothing;

impl Type<Postgres> for Nothing {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(0))
    }
}

impl Encode<'_, Postgres> for Nothing {
    fn encode_by_ref(&self, _: &mut PgArgumentBuffer) -> std::result::Result<IsNull, BoxDynError> {
        Ok(IsNull::Yes)
    }
}
