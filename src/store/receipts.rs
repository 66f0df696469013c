//! Read receipts, and how far a user has read (`read_positions`, which the append path moves, too, when a user sends).
//!
//! The newest receipts of a room are remembered together, since all its members ask for the same ones; the memory follows
//! [`Change::Receipt`].

use std::sync::Arc;

use hearth_base::{
    Result,
    cache::Cache,
    ids::{RoomNid, StreamPos, UserNid},
};

use crate::{
    Store, fetch_all, fetch_optional, later,
    log::{Change, Logged, Tx},
};

/// Up to which event a user has read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Whose.
    pub user: UserNid,
    /// `m.read` or `m.read.private`.
    pub kind: String,
    /// `main` or the root's event id; `None` is unthreaded.
    pub thread: Option<String>,
    /// The event.
    pub event_id: String,
    /// When it was sent, ms.
    pub ts_ms: i64,
    /// Where it stands in the log.
    pub pos: StreamPos,
}

/// A receipt to be stored.
#[derive(Clone, Debug)]
pub struct NewReceipt {
    /// `m.read` or `m.read.private`.
    pub kind: String,
    /// `main` or the root's event id; `None` is unthreaded.
    pub thread: Option<String>,
    /// The event.
    pub event_id: String,
    /// Its position; `None` if it is not part of the timeline, or we do not have it.
    pub event_pos: Option<StreamPos>,
    /// The room's counter after it.
    pub counter: i64,
    /// Now, ms; by another server's clock if it tells of its user.
    pub ts_ms: i64,
    /// Whether another server tells of its user. Then what it says later counts: it has the events in another order, and
    /// some that are on their way to us.
    pub is_remote: bool,
}

/// How far a user has read in a room or thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadPosition {
    /// Empty is unthreaded, else `main` or the root's event id.
    pub thread: String,
    /// Position of the last event read.
    pub pos: StreamPos,
    /// The room's counter there.
    pub counter: i64,
}

/// The newest receipts of a room.
#[derive(Clone, Debug)]
pub struct Recent {
    /// All receipts after this position are among `receipts`.
    pub floor: StreamPos,
    /// Newest first.
    pub receipts: Vec<Receipt>,
}

/// What is remembered of these tables.
#[derive(Debug)]
pub(crate) struct Memory {
    recent: Cache<RoomNid, Arc<Recent>>,
}

/// Rooms remembered.
const ROOMS: u64 = 10_000;
/// Receipts remembered of a room.
const RECENT: i64 = 48;

impl Default for Memory {
    fn default() -> Self {
        Self { recent: Cache::new(ROOMS) }
    }
}

impl Memory {
    /// Forgets what a commit has changed.
    pub(crate) fn published(&self, changes: &[Logged]) {
        for logged in changes {
            if let Change::Receipt { room, .. } = &logged.change {
                self.recent.invalidate(room);
            }
        }
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    user_nid: i64,
    kind: String,
    thread: String,
    event_id: String,
    ts_ms: i64,
    pos: i64,
}

impl From<Row> for Receipt {
    fn from(row: Row) -> Self {
        Self {
            user: UserNid(row.user_nid),
            kind: row.kind,
            thread: (!row.thread.is_empty()).then_some(row.thread),
            event_id: row.event_id,
            ts_ms: row.ts_ms,
            pos: StreamPos(row.pos),
        }
    }
}

/// Where a receipt stands.
#[derive(sqlx::FromRow)]
struct At {
    pos: Option<i64>,
    event_id: String,
    ts_ms: i64,
}

impl At {
    /// Whether a receipt is not to take the place of this one.
    fn outdates(&self, new: &NewReceipt) -> bool {
        if new.is_remote {
            return new.ts_ms < self.ts_ms || new.event_id == self.event_id;
        }
        self.pos.is_some_and(|old| new.event_pos.is_none_or(|ahead| ahead.0 <= old))
    }
}

macro_rules! receipt_columns {
    () => {
        "SELECT user_nid, kind, thread, event_id, ts_ms, pos FROM receipts WHERE room_nid = $1 "
    };
}

const RECEIPTS_RECENT: &str = concat!(receipt_columns!(), "ORDER BY pos DESC LIMIT $2");
const RECEIPTS_SINCE: &str = concat!(receipt_columns!(), "AND pos > $2 AND pos <= $3 ORDER BY pos DESC");
const RECEIPTS_OF: &str = concat!(receipt_columns!(), "AND user_nid = $2");
const RECEIPT_AT: &str = "SELECT e.pos, r.event_id, r.ts_ms FROM receipts r LEFT JOIN events e ON e.event_id = r.event_id WHERE r.room_nid = $1 AND r.user_nid = $2 AND r.kind = $3 AND r.thread = $4";
const EVENT_OF: &str =
    "SELECT event_id FROM receipts WHERE room_nid = $1 AND user_nid = $2 AND kind = $3 AND thread = ''";
const RECEIPT_PUT: &str = "INSERT INTO receipts (room_nid, user_nid, kind, thread, event_id, ts_ms, pos) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (room_nid, user_nid, kind, thread) DO UPDATE SET event_id = excluded.event_id, ts_ms = excluded.ts_ms, pos = excluded.pos";
const READ_GET: &str = "SELECT thread, pos, counter FROM read_positions WHERE room_nid = $1 AND user_nid = $2";
const READ_MOVE: &str = "INSERT INTO read_positions (room_nid, user_nid, thread, pos, counter) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (room_nid, user_nid, thread) DO UPDATE SET pos = excluded.pos, counter = excluded.counter WHERE excluded.pos > read_positions.pos";
const READ_DROP_COVERED: &str =
    "DELETE FROM read_positions WHERE room_nid = $1 AND user_nid = $2 AND thread <> '' AND pos <= $3";

/// Threads beyond so many, those longest unread, lose their receipt: a thread is a name that anybody makes up.
const THREADS: i64 = 1_000;
const CROWD_OUT: &str = "DELETE FROM receipts WHERE room_nid = $1 AND user_nid = $2 AND thread <> '' AND pos < (SELECT r.pos FROM receipts r WHERE r.room_nid = $1 AND r.user_nid = $2 AND r.thread <> '' ORDER BY r.pos DESC LIMIT 1 OFFSET $3)";

impl Store {
    /// The newest receipts of a room, private ones of everybody included.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn recent_receipts(&self, room: RoomNid) -> Result<Arc<Recent>> {
        self.inner
            .receipts
            .recent
            .get_or(room, || async {
                let rows: Vec<Row> = fetch_all!(&mut self.read().await?, Row, RECEIPTS_RECENT, room.0, RECENT)?;
                let receipts: Vec<Receipt> = rows.into_iter().map(Into::into).collect();
                let all = (receipts.len() as i64) < RECENT;
                let floor = receipts.last().filter(|_| !all).map_or(StreamPos::ZERO, |r| r.pos);
                Ok(Arc::new(Recent { floor, receipts }))
            })
            .await
    }

    /// The receipts of a room that changed in `(after, upto]`, newest first, private ones of everybody included.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn receipts_since(&self, room: RoomNid, after: StreamPos, upto: StreamPos) -> Result<Vec<Receipt>> {
        let recent = self.recent_receipts(room).await?;
        if recent.floor <= after {
            return Ok(recent.receipts.iter().filter(|r| r.pos > after && r.pos <= upto).cloned().collect());
        }
        let rows: Vec<Row> = fetch_all!(&mut self.read().await?, Row, RECEIPTS_SINCE, room.0, after.0, upto.0)?;
        Ok(rows.into_iter().map(Into::into).collect())
    }

    /// The receipts of one user in a room.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn receipts_of(&self, room: RoomNid, user: UserNid) -> Result<Vec<Receipt>> {
        let rows: Vec<Row> = fetch_all!(&mut self.read().await?, Row, RECEIPTS_OF, room.0, user.0)?;
        Ok(rows.into_iter().map(Into::into).collect())
    }

    /// How far a user has read in a room, by thread.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn read_positions(&self, room: RoomNid, user: UserNid) -> Result<Vec<ReadPosition>> {
        let rows: Vec<(String, i64, i64)> =
            fetch_all!(&mut self.read().await?, (String, i64, i64), READ_GET, room.0, user.0)?;
        Ok(rows
            .into_iter()
            .map(|(thread, pos, counter)| ReadPosition { thread, pos: StreamPos(pos), counter })
            .collect())
    }
}

impl Tx {
    /// Moves receipts of a user forward; those that would move backwards stay. Returns whether any moved.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn put_receipts(&mut self, room: RoomNid, user: UserNid, receipts: &[NewReceipt]) -> Result<bool> {
        let mut logged = None;
        for new in receipts {
            let thread = new.thread.as_deref().unwrap_or("");
            // A receipt of the whole room at the same event says all that this one says (MSC4102).
            if !thread.is_empty()
                && fetch_optional!(self, (String,), EVENT_OF, room.0, user.0, new.kind.as_str())?
                    .is_some_and(|(event_id,)| event_id == new.event_id.as_str())
            {
                continue;
            }
            let at = fetch_optional!(self, At, RECEIPT_AT, room.0, user.0, new.kind.as_str(), thread)?;
            let ahead = new.event_pos.map(|p| p.0);
            if at.is_some_and(|at| at.outdates(new)) {
                continue;
            }
            let pos = match logged {
                Some(pos) => pos,
                None => *logged.insert(self.log(Change::Receipt { room, user })),
            };
            later!(
                self,
                RECEIPT_PUT,
                room.0,
                user.0,
                new.kind.as_str(),
                thread,
                new.event_id.as_str(),
                new.ts_ms,
                pos.0
            )?;
            // What was backfilled never was news, so nothing becomes read by it.
            if let Some(ahead) = ahead.filter(|pos| *pos > 0) {
                later!(self, READ_MOVE, room.0, user.0, thread, ahead, new.counter)?;
                if thread.is_empty() {
                    later!(self, READ_DROP_COVERED, room.0, user.0, ahead)?;
                }
            }
        }
        if logged.is_some() && receipts.iter().any(|new| new.thread.as_deref().is_some_and(|thread| thread != "main")) {
            later!(self, CROWD_OUT, room.0, user.0, THREADS - 1)?;
        }
        Ok(logged.is_some())
    }
}
