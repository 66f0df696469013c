//! The writer's open transaction: what closures write by, and what they leave to be told once it is committed.

use std::collections::HashMap;

use hearth_base::{
    Error, Result,
    ids::{EventNid, RoomNid, StreamPos},
};
use sqlx::postgres::PgArguments;

use super::{
    Change, Logged,
    commit::{Head, begin_on},
};
use crate::{
    Store,
    db::{HasSession, Later, Session, failed, later::Bound},
    events::{Append, Appended},
    rooms::{Room, Written},
};

/// What a cache has to do once a transaction is committed.
pub(super) struct After(pub(super) Box<dyn FnOnce(&Store) + Send>);

impl std::fmt::Debug for After {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("After")
    }
}

/// The writer's transaction. On PostgreSQL it is opened by the first statement that cannot wait; if none comes, all that
/// waited is one statement, which is a transaction by itself.
#[derive(Debug)]
pub struct Tx {
    pub(super) session: Session,
    /// Whether it is open on the connection.
    pub(super) begun: bool,
    /// Where the log has to stand when it is opened.
    pub(super) head: Head,
    /// Whether it stood elsewhere.
    pub(super) astray: bool,
    pub(super) later: Later,
    pub(super) store: Store,
    /// Position of the last change noted.
    pub(super) pos: i64,
    pub(super) changes: Vec<Logged>,
    pub(super) stale: Vec<EventNid>,
    pub(super) after: Vec<After>,
    /// Rooms as they are after this transaction.
    pub(crate) rooms: Vec<Room>,
    /// Rooms as this transaction has them; right as long as nobody else wrote since.
    pub(crate) known: HashMap<RoomNid, Written>,
}

impl HasSession for Tx {
    async fn ready(&mut self) -> Result<()> {
        // Boxed, so that what every statement carries about is small.
        if self.begun && self.later.is_empty() { Ok(()) } else { Box::pin(self.catch_up()).await }
    }

    fn session(&mut self) -> &mut Session {
        &mut self.session
    }
}

impl Tx {
    /// Notes a change in the log; gives its position, to be stored with the row it is about.
    pub fn log(&mut self, change: Change) -> StreamPos {
        self.pos += 1;
        let pos = StreamPos(self.pos);
        self.changes.push(Logged { pos, change });
        pos
    }

    /// Draws a position whose change follows by [`Tx::fill`], in the same order.
    pub(crate) fn draw(&mut self) -> StreamPos {
        self.pos += 1;
        StreamPos(self.pos)
    }

    /// Notes the change that a position was drawn for.
    pub(crate) fn fill(&mut self, pos: StreamPos, change: Change) {
        self.changes.push(Logged { pos, change });
    }

    /// Notes that the stored form of an event changes, so that no cache keeps the old one.
    pub(crate) fn stale(&mut self, event: EventNid) {
        self.stale.push(event);
    }

    /// Has caches forget what this transaction changes: run once it is committed, before anybody is answered, and
    /// whether or not the caller is still there. Not run if the job or the commit fails.
    pub(crate) fn after_commit(&mut self, work: impl FnOnce(&Store) + Send + 'static) {
        self.after.push(After(Box::new(work)));
    }

    /// The position the next change will get.
    #[must_use]
    pub fn next_pos(&self) -> StreamPos {
        StreamPos(self.pos + 1)
    }

    /// The store this transaction belongs to.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Appends events of one room within this transaction.
    ///
    /// # Errors
    /// A fault if the database fails. A room that has moved on is no error but [`Appended::Conflict`].
    pub async fn append(&mut self, append: &Append) -> Result<Appended> {
        let mut outcomes = Box::pin(crate::events::append_all(self, &[append])).await?;
        outcomes.pop().ok_or_else(|| Error::broken("an append without an outcome"))
    }

    /// Whether statements that nobody asks of can wait here.
    pub(crate) fn waits(&self) -> bool {
        self.session.is_postgres()
    }

    /// Keeps a statement for later, after what writes to the same table.
    pub(crate) async fn later(
        &mut self,
        text: &'static str,
        bind: impl FnOnce(&mut PgArguments) -> Bound,
    ) -> Result<()> {
        if self.later.writes_where(text) {
            self.ready().await?;
        }
        self.later.add(text, bind)
    }

    /// The same for a statement that writes rows, of which there is one for `one` row and one for `many`.
    pub(crate) async fn later_rows(
        &mut self,
        (one, many): (&'static str, &'static str),
        rows: usize,
        bind: impl FnOnce(&mut PgArguments) -> Bound,
    ) -> Result<()> {
        if self.later.writes_where(many) {
            self.ready().await?;
        }
        self.later.add_rows((one, many), rows, bind)
    }

    /// Opens the transaction, and runs what waits.
    async fn catch_up(&mut self) -> Result<()> {
        if !self.begun {
            // From here on there may be something to undo.
            self.begun = true;
            self.astray = begin_on(&mut self.session).await?.is_some_and(|found| found != self.head);
            if self.astray {
                return Err(Error::unavailable("database", "it is not as this server left it"));
            }
        }
        match (self.later.join(), &mut self.session) {
            (Some((text, args)), Session::Postgres(c)) => {
                let statement = sqlx::query_with(sqlx::AssertSqlSafe(text), args);
                statement.execute(&mut **c).await.map(drop).map_err(failed)
            }
            _ => Ok(()),
        }
    }

    /// Runs texts without parameters after what waits.
    pub(super) async fn batch(&mut self, text: &'static str) -> Result<()> {
        self.ready().await?;
        self.session.batch(text.to_owned()).await
    }

    /// How much has been noted so far.
    pub(super) fn noted(&self) -> Noted {
        Noted {
            pos: self.pos,
            changes: self.changes.len(),
            stale: self.stale.len(),
            after: self.after.len(),
            rooms: self.rooms.len(),
        }
    }

    /// Forgets what was noted since, by a job that failed.
    pub(super) fn unnote(&mut self, noted: &Noted) {
        self.later.clear();
        self.pos = noted.pos;
        self.changes.truncate(noted.changes);
        self.stale.truncate(noted.stale);
        self.after.truncate(noted.after);
        self.rooms.truncate(noted.rooms);
        self.known.clear();
    }
}

/// How much a transaction had noted before a job.
pub(super) struct Noted {
    pos: i64,
    changes: usize,
    stale: usize,
    after: usize,
    rooms: usize,
}
