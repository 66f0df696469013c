//! The log: every change that /sync may have to hear of, in one global, gapless, commit-ordered row of positions.
//!
//! The append path is in the parts: callers queue a job ([`queue`]); the writer takes what has gathered ([`writer`]), runs
//! it in ONE transaction ([`transaction`]), gives every change its position, commits, publishes to the caches and the
//! notifier, and only then answers the callers. So what is acknowledged is durable, commits are shared by all who wait,
//! and whoever was answered reads their own write.
//!
//! Owns the tables `log` and `log_marks` (when the log had come how far, so that what is old can be told from its
//! position).

use std::sync::Arc;

use hearth_base::{
    Result,
    ids::{RoomNid, StreamPos, UserNid},
};

use ruma::OwnedServerName;

use crate::{
    Store,
    events::{StateChange, StoredEvent},
    execute, fetch_optional, insert_rows,
};

mod commit;
mod lost;
mod queue;
mod transaction;
mod writer;

pub(crate) use commit::Head;
pub(crate) use queue::{Job, QUEUE};
pub use transaction::Tx;
pub(crate) use writer::Writer;

/// A change that /sync, push, appservices or other servers may have to hear of.
#[derive(Clone, Debug)]
pub enum Change {
    /// A live event of a room.
    Event(Arc<StoredEvent>),
    /// The current state of a room changed in a way that no event does by itself; memberships it names are as they say.
    State {
        /// Where.
        room: RoomNid,
        /// What; nothing if the whole state came anew, with the room.
        changes: Arc<[StateChange]>,
    },
    /// All of a room's state is there, of which part was missing.
    Whole {
        /// Which.
        room: RoomNid,
        /// Servers that were in it since we are, and of which we did not know.
        met: Arc<[OwnedServerName]>,
    },
    /// The receipts of a user in a room.
    Receipt {
        /// Where.
        room: RoomNid,
        /// Whose.
        user: UserNid,
    },
    /// Account data of a user, tags and push rules included.
    AccountData {
        /// Whose.
        user: UserNid,
        /// The room it belongs to; `None` is global.
        room: Option<RoomNid>,
        /// Event type, e.g. `m.direct`.
        kind: Arc<str>,
    },
    /// A user's devices or their keys.
    DeviceList {
        /// Whose.
        user: UserNid,
        /// Of one of the devices, and not of the cross-signing keys.
        device: bool,
    },
    /// What a user alone sees of keys changed: their user-signing key, or their signatures on keys of others.
    OwnKeys {
        /// Whose.
        user: UserNid,
    },
    /// To-device messages, all with this position as their id.
    ToDevice {
        /// Receiving users and their devices.
        recipients: Arc<[(UserNid, String)]>,
    },
    /// A user forgot or un-forgot a room, or an invite from outside came or went: their room list changed without an event.
    Rooms {
        /// Whose.
        user: UserNid,
        /// Which.
        room: RoomNid,
    },
}

/// A change with its place in the log.
#[derive(Clone, Debug)]
pub struct Logged {
    /// Where it stands.
    pub pos: StreamPos,
    /// What it is.
    pub change: Change,
}

const MARK: &str =
    "INSERT INTO log_marks (pos, at_ms) SELECT pos, $1 FROM log_head WHERE id = 1 ON CONFLICT (pos) DO NOTHING";
const MARK_BEFORE: &str = "SELECT MAX(pos) FROM log_marks WHERE at_ms <= $1";
const DROP_MARKS: &str = "DELETE FROM log_marks WHERE pos < $1";
const PRUNE: &str = "DELETE FROM log WHERE pos <= $1 AND pos < (SELECT COALESCE(MIN(pos), 0) + $2 FROM log)";

impl Store {
    /// Notes how far the log has come by now, and says how far it had come at `before_ms` at least: what stands at or
    /// before that position is older. `None` if nobody noted anything so early.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn mark_log(&self, now_ms: i64, before_ms: i64) -> Result<Option<StreamPos>> {
        self.write(move |tx| {
            Box::pin(async move {
                execute!(tx, MARK, now_ms)?;
                let row: Option<(Option<i64>,)> = fetch_optional!(tx, (Option<i64>,), MARK_BEFORE, before_ms)?;
                let Some(pos) = row.and_then(|r| r.0) else { return Ok(None) };
                execute!(tx, DROP_MARKS, pos)?;
                Ok(Some(StreamPos(pos)))
            })
        })
        .await
    }

    /// Forgets rows of the log up to a position, `most` at once and oldest first; gives how many. /sync reads the tables
    /// that the log points into and never the log itself, so that no token is too old for what remains.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn prune_log(&self, upto: StreamPos, most: u32) -> Result<u64> {
        self.write(move |tx| Box::pin(async move { execute!(tx, PRUNE, upto.0, i64::from(most)) })).await
    }
}

/// Writes changes as rows.
async fn insert(tx: &mut Tx, rows: Vec<LogRow>) -> Result<()> {
    insert_rows!(tx, &rows,
    "INSERT INTO log (pos, kind, room_nid, user_nid, ref_nid, extra) VALUES ($1, $2, $3, $4, $5, $6)",
    "INSERT INTO log (pos, kind, room_nid, user_nid, ref_nid, extra) SELECT * FROM UNNEST($1::BIGINT[], $2::BIGINT[], $3::BIGINT[], $4::BIGINT[], $5::BIGINT[], $6::TEXT[])",
    r => {
        pos: i64 = r.pos,
        kind: i64 = r.kind,
        room: Option<i64> = r.room,
        user: Option<i64> = r.user,
        reference: Option<i64> = r.reference,
        extra: Option<String> = r.extra.clone(),
    })
}

/// A change as a row of `log`.
struct LogRow {
    pos: i64,
    kind: i64,
    room: Option<i64>,
    user: Option<i64>,
    reference: Option<i64>,
    extra: Option<String>,
}

impl From<&Logged> for LogRow {
    fn from(logged: &Logged) -> Self {
        let mut row = Self { pos: logged.pos.0, kind: 0, room: None, user: None, reference: None, extra: None };
        match &logged.change {
            Change::Event(event) => {
                row.kind = 1;
                row.room = Some(event.room.0);
                row.user = Some(event.sender.0);
                row.reference = Some(event.nid.0);
                row.extra = match (event.relay, event.told) {
                    (true, _) => Some(crate::outbox::RELAY.to_owned()),
                    (false, true) => Some(crate::outbox::TOLD.to_owned()),
                    (false, false) => None,
                };
            }
            Change::State { room, .. } => {
                row.kind = 7;
                row.room = Some(room.0);
            }
            Change::Whole { room, met } => {
                row.kind = 8;
                row.room = Some(room.0);
                row.extra = serde_json::to_string(&**met).ok();
            }
            Change::Receipt { room, user } => {
                row.kind = 2;
                row.room = Some(room.0);
                row.user = Some(user.0);
            }
            Change::AccountData { user, room, kind } => {
                row.kind = 3;
                row.room = room.map(|r| r.0);
                row.user = Some(user.0);
                row.extra = Some(kind.to_string());
            }
            Change::DeviceList { user, device } => {
                row.kind = 4;
                row.user = Some(user.0);
                row.extra = device.then(|| crate::outbox::DEVICE.to_owned());
            }
            Change::OwnKeys { user } => {
                row.kind = 9;
                row.user = Some(user.0);
            }
            Change::ToDevice { recipients } => {
                row.kind = 5;
                row.extra = serde_json::to_string(&**recipients).ok();
            }
            Change::Rooms { user, room } => {
                row.kind = 6;
                row.room = Some(room.0);
                row.user = Some(user.0);
            }
        }
        row
    }
}
