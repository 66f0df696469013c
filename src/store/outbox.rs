//! What is owed to other servers.
//!
//! Events and device changes stand in the log; a server that is behind has a row in `outbox_cursors` saying how far it
//! is, and one row of the empty name says it for all the others. So nothing is written for each server when an event is
//! sent. To-device messages are rows of `outbox_to_device` until they are acknowledged.

use std::collections::HashSet;

use hearth_base::{
    Result,
    ids::{EventNid, RoomNid, StreamPos, UserNid},
};
use parking_lot::Mutex;
use ruma::OwnedServerName;
use tokio::sync::Notify;

use crate::{Store, db::Ints, execute, fetch_all, fetch_optional, insert_rows, later, log::Tx, sql};

/// What the log says beside an event that is to be relayed.
pub(crate) const RELAY: &str = "relay";
/// What it says beside one of ours that another server tells the others.
pub(crate) const TOLD: &str = "told";

/// What it says of a change of a user's keys that is one of a device.
pub(crate) const DEVICE: &str = "device";

/// How far a server is that is behind.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Cursor {
    /// Its name; empty stands for all that have no row.
    pub server: String,
    /// It has, or is not owed, what stands in the log up to here.
    pub pos: i64,
    /// Behind since then, ms.
    pub since_ms: i64,
}

/// Something in the log that other servers may be owed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owed {
    /// An event of `sender`'s.
    Event {
        /// Which.
        event: EventNid,
        /// Where.
        room: RoomNid,
        /// Who sent it.
        sender: UserNid,
        /// Owed though the sender is none of ours.
        relay: bool,
        /// Not owed though the sender is ours.
        told: bool,
    },
    /// A change of a user's devices or keys.
    Devices {
        /// Whose.
        user: UserNid,
        /// Of one of the devices, and not of the cross-signing keys.
        device: bool,
    },
    /// A room in which servers were of which we did not know.
    Met {
        /// Which room.
        room: RoomNid,
        /// Which servers.
        servers: Vec<OwnedServerName>,
    },
}

/// A message to devices of another server.
#[derive(Clone, Debug)]
pub struct NewOutgoing {
    /// The server.
    pub server: String,
    /// The EDU.
    pub json: String,
}

/// Servers for which to-device messages were just stored.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    servers: Mutex<HashSet<String>>,
    bell: Notify,
}

#[derive(sqlx::FromRow)]
struct Row {
    pos: i64,
    kind: i64,
    room_nid: Option<i64>,
    user_nid: Option<i64>,
    ref_nid: Option<i64>,
    extra: Option<String>,
}

const CURSORS: &str = "SELECT server, pos, since_ms FROM outbox_cursors";
const PUT_CURSOR: &str = "INSERT INTO outbox_cursors (server, pos, since_ms) VALUES ($1, $2, $3) ON CONFLICT (server) DO UPDATE SET pos = excluded.pos, since_ms = excluded.since_ms";
const DROP_CURSOR: &str = "DELETE FROM outbox_cursors WHERE server = $1";
const NEEDED: &str = "SELECT MIN(pos) FROM outbox_cursors WHERE server = '' OR since_ms >= $1";
const OWED: &str = "SELECT pos, kind, room_nid, user_nid, ref_nid, extra FROM log WHERE pos > $1 AND pos <= $2 AND kind IN (1, 4, 8) ORDER BY pos LIMIT $3";
const OLDEST: &str = "SELECT MIN(pos) FROM log";
const WAITING: &str = "SELECT DISTINCT server FROM outbox_to_device";
const PAGE: &str = "SELECT id, json FROM outbox_to_device WHERE server = $1 ORDER BY id LIMIT $2";
const SHARED: &str = "SELECT DISTINCT m.room_nid FROM memberships m JOIN users u ON u.user_nid = m.user_nid WHERE m.membership = 'join' AND NOT m.local AND u.user_id LIKE $1 ESCAPE '!'";
const NEWEST_OF: &str = "SELECT e.event_nid FROM events e JOIN users u ON u.user_nid = e.sender_nid WHERE e.room_nid = $1 AND e.pos > $2 AND u.user_id LIKE $3 ESCAPE '!' ORDER BY e.pos DESC LIMIT 1";
const PUT_OUT: &str = "SELECT m.event_nid FROM memberships m JOIN users u ON u.user_nid = m.user_nid JOIN events e ON e.event_nid = m.event_nid JOIN users s ON s.user_nid = e.sender_nid WHERE NOT m.local AND m.membership IN ('leave', 'ban') AND m.pos > $2 AND u.user_id LIKE $1 ESCAPE '!' AND s.user_id LIKE $3 ESCAPE '!' ORDER BY m.pos DESC LIMIT 25";
const CHANGED_SINCE: &str = "SELECT pos FROM device_changes WHERE pos > $1 ORDER BY pos LIMIT $2";

/// The same after the join by which the room was entered, which the server that let us in tells everybody.
const NEWEST_SINCE_JOIN: &str = "SELECT e.event_nid FROM events e JOIN users u ON u.user_nid = e.sender_nid JOIN rooms r ON r.room_nid = e.room_nid WHERE e.room_nid = $1 AND e.pos > 0 AND e.depth > r.entered_depth AND u.user_id LIKE $2 ESCAPE '!' ORDER BY e.pos DESC LIMIT 1";

/// The pattern of a server's users.
fn users_of(server: &str) -> String {
    let escaped: String =
        server.chars().flat_map(|c| if matches!(c, '%' | '_' | '!') { vec!['!', c] } else { vec![c] }).collect();
    format!("%:{escaped}")
}

impl Store {
    /// How far servers are that are behind, and (under the empty name) all the others.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn outbox_cursors(&self) -> Result<Vec<Cursor>> {
        fetch_all!(&mut self.read().await?, Cursor, CURSORS)
    }

    /// Notes how far servers are, and forgets those that are behind no longer.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn move_outbox_cursors(&self, moved: Vec<Cursor>, caught_up: Vec<String>) -> Result<()> {
        if moved.is_empty() && caught_up.is_empty() {
            return Ok(());
        }
        self.write(move |tx| {
            Box::pin(async move {
                for cursor in moved {
                    later!(tx, PUT_CURSOR, cursor.server, cursor.pos, cursor.since_ms)?;
                }
                for server in caught_up {
                    later!(tx, DROP_CURSOR, server)?;
                }
                Ok(())
            })
        })
        .await
    }

    /// The log is needed from behind this position on, for all servers but those that are behind since before
    /// `since_ms`; `None` if nothing was ever sent. Whoever prunes the log asks this first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn outbox_needs_after(&self, since_ms: i64) -> Result<Option<StreamPos>> {
        let row: Option<(Option<i64>,)> = fetch_optional!(&mut self.read().await?, (Option<i64>,), NEEDED, since_ms)?;
        Ok(row.and_then(|r| r.0).map(StreamPos))
    }

    /// The newest event in a room that users of `ours` sent since the join by which this server entered it.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn newest_of(&self, room: RoomNid, ours: &str) -> Result<Option<EventNid>> {
        let row: Option<(i64,)> =
            fetch_optional!(&mut self.read().await?, (i64,), NEWEST_SINCE_JOIN, room.0, users_of(ours))?;
        Ok(row.map(|(nid,)| EventNid(nid)))
    }

    /// What may be owed in `(after, upto]`, oldest first, `limit` at most; relayed or ours is for the caller to see.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn owed(&self, after: StreamPos, upto: StreamPos, limit: usize) -> Result<Vec<(StreamPos, Owed)>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows: Vec<Row> = fetch_all!(&mut self.read().await?, Row, OWED, after.0, upto.0, limit)?;
        let read = |r: Row| {
            let owed = match (r.kind, r.room_nid, r.user_nid, r.ref_nid) {
                (1, Some(room), Some(sender), Some(event)) => Owed::Event {
                    event: EventNid(event),
                    room: RoomNid(room),
                    sender: UserNid(sender),
                    relay: r.extra.as_deref() == Some(RELAY),
                    told: r.extra.as_deref() == Some(TOLD),
                },
                (8, Some(room), ..) => {
                    let servers = r.extra.and_then(|extra| serde_json::from_str(&extra).ok()).unwrap_or_default();
                    Owed::Met { room: RoomNid(room), servers }
                }
                (4, _, Some(user), _) => {
                    Owed::Devices { user: UserNid(user), device: r.extra.as_deref() == Some(DEVICE) }
                }
                _ => return None,
            };
            Some((StreamPos(r.pos), owed))
        };
        Ok(rows.into_iter().filter_map(read).collect())
    }

    /// The oldest position that the log still holds; `None` if it is empty.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn oldest_logged(&self) -> Result<Option<StreamPos>> {
        let row: Option<(Option<i64>,)> = fetch_optional!(&mut self.read().await?, (Option<i64>,), OLDEST)?;
        Ok(row.and_then(|r| r.0).map(StreamPos))
    }

    /// For a server that was away for longer than the log reaches back: by what users of `ours` took its users out of rooms
    /// after `after`, the last 25 of that, and the newest event that they sent in each room it is in. Reads all remote
    /// members.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn newest_for(&self, server: &str, ours: &str, after: StreamPos) -> Result<Vec<EventNid>> {
        let mut session = self.read().await?;
        let rooms: Vec<(i64,)> = fetch_all!(&mut session, (i64,), SHARED, users_of(server))?;
        let out: Vec<(i64,)> = fetch_all!(&mut session, (i64,), PUT_OUT, users_of(server), after.0, users_of(ours))?;
        let mut newest: Vec<EventNid> = out.into_iter().rev().map(|(nid,)| EventNid(nid)).collect();
        for (room,) in rooms {
            let row: Option<(i64,)> = fetch_optional!(&mut session, (i64,), NEWEST_OF, room, after.0, users_of(ours))?;
            let nid = row.map(|(nid,)| EventNid(nid)).filter(|nid| !newest.contains(nid));
            newest.extend(nid);
        }
        Ok(newest)
    }

    /// Positions of the device changes after one, oldest first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn device_changes_since(&self, after: StreamPos, limit: i64) -> Result<Vec<StreamPos>> {
        let rows: Vec<(i64,)> = fetch_all!(&mut self.read().await?, (i64,), CHANGED_SINCE, after.0, limit)?;
        Ok(rows.into_iter().map(|(pos,)| StreamPos(pos)).collect())
    }

    /// Servers for which to-device messages wait.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn outgoing_servers(&self) -> Result<Vec<String>> {
        let rows: Vec<(String,)> = fetch_all!(&mut self.read().await?, (String,), WAITING)?;
        Ok(rows.into_iter().map(|(server,)| server).collect())
    }

    /// The oldest to-device messages for a server.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn outgoing_to_device(&self, server: &str, limit: i64) -> Result<Vec<(i64, String)>> {
        fetch_all!(&mut self.read().await?, (i64, String), PAGE, server, limit)
    }

    /// Deletes messages that a server has acknowledged.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn delete_outgoing(&self, server: String, ids: Vec<i64>) -> Result<()> {
        let gone = sql!("DELETE FROM outbox_to_device WHERE server = $1 AND id " [in 2]);
        self.write(move |tx| Box::pin(async move { execute!(tx, gone, server.as_str(), Ints(ids)).map(drop) })).await
    }

    /// Gives messages their numbers. Numbers are drawn before the transaction: the writer must not wait for itself.
    pub(crate) async fn numbered(&self, outgoing: Vec<NewOutgoing>) -> Result<Vec<(i64, NewOutgoing)>> {
        let mut numbered = Vec::with_capacity(outgoing.len());
        for one in outgoing {
            // Any number not used before will do; they grow.
            numbered.push((self.new_event_nid().await?.0, one));
        }
        Ok(numbered)
    }

    /// The servers for which to-device messages were stored since this was last asked.
    #[must_use]
    pub fn take_outgoing_news(&self) -> HashSet<String> {
        std::mem::take(&mut *self.inner.outgoing.servers.lock())
    }

    /// Rings when to-device messages for other servers were stored.
    #[must_use]
    pub fn outgoing_bell(&self) -> &Notify {
        &self.inner.outgoing.bell
    }
}

impl Tx {
    /// Stores to-device messages for other servers; the outbox is woken once they are committed.
    pub(crate) async fn put_outgoing(&mut self, outgoing: Vec<(i64, NewOutgoing)>) -> Result<()> {
        if outgoing.is_empty() {
            return Ok(());
        }
        insert_rows!(self, &outgoing,
        "INSERT INTO outbox_to_device (server, id, json) VALUES ($1, $2, $3)",
        "INSERT INTO outbox_to_device (server, id, json) SELECT * FROM UNNEST($1::TEXT[], $2::BIGINT[], $3::TEXT[])",
        r => {
            server: String = r.1.server.clone(),
            id: i64 = r.0,
            json: String = r.1.json.clone(),
        })?;
        self.after_commit(move |store| {
            let news = &store.inner.outgoing;
            news.servers.lock().extend(outgoing.into_iter().map(|(_, one)| one.server));
            news.bell.notify_one();
        });
        Ok(())
    }
}
