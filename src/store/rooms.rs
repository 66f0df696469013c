//! Rooms: one row each, with all that the next event is built on.

use std::sync::Arc;

use hearth_base::{
    Error, Result,
    ids::{EventNid, RoomNid, SnapNid, StreamPos, UserNid},
};
use hearth_rules::event::Reference;
use ruma::{EventId, OwnedRoomId, RoomId, RoomVersionId};

use crate::{Store, db::Ints, execute, fetch_all, fetch_optional, log::Tx};

/// An event that no other event of ours follows yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extremity {
    /// Its number.
    pub nid: EventNid,
    /// How events name it.
    pub event: Reference,
    /// Its depth.
    pub depth: i64,
    /// State after it.
    pub after: SnapNid,
}

impl Extremity {
    /// Its id.
    #[must_use]
    pub fn event_id(&self) -> &EventId {
        self.event.event_id()
    }
}

/// What changes with each event of a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomHead {
    /// Counts changes of this head; the optimistic lock of the append path.
    pub rev: i64,
    /// Current state.
    pub snap: SnapNid,
    /// Greatest depth seen.
    pub depth: i64,
    /// What the next event names as its predecessors.
    pub extremities: Vec<Extremity>,
    /// Events so far that notify a member by the default rules.
    pub counter: i64,
    /// Position of the newest live event; set by the writer.
    pub pos: StreamPos,
    /// Whether parts of the state are still to come from other servers.
    pub partial: bool,
    /// Where in the log the state became whole, if it once was not; set by the writer.
    pub whole: StreamPos,
    /// Whether anybody may join or read the room, by its present state.
    pub open: bool,
    /// Whether its history has not always been one line of events here: then positions alone do not tell what the state
    /// was at an event.
    pub forked: bool,
    /// The depth of the event by which we came in through another server; 0 if the room was made here. What lies above it
    /// was before our time: history, whoever sends it.
    pub entered: i64,
}

impl RoomHead {
    /// Whether events of that depth were before our time in the room.
    #[must_use]
    pub fn is_before(&self, depth: u64) -> bool {
        i64::try_from(depth).is_ok_and(|depth| depth < self.entered)
    }
}

/// What the writer wrote last of a room. Who builds the next head may have read its own before that.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    /// See [`RoomHead`].
    pub(crate) rev: i64,
    /// See [`RoomHead`].
    pub(crate) pos: StreamPos,
    /// See [`RoomHead`].
    pub(crate) whole: StreamPos,
}

impl From<&RoomHead> for Written {
    fn from(head: &RoomHead) -> Self {
        Self { rev: head.rev, pos: head.pos, whole: head.whole }
    }
}

/// A room as it is stored.
#[derive(Clone, Debug)]
pub struct Room {
    /// Its number.
    pub nid: RoomNid,
    /// Its id.
    pub room_id: OwnedRoomId,
    /// Its version.
    pub version: RoomVersionId,
    /// Whether the room directory lists it.
    pub published: bool,
    /// Who made it, as far as we know.
    pub creator: UserNid,
    /// When it came to us, ms.
    pub created_ms: i64,
    /// See [`RoomHead`].
    pub head: RoomHead,
}

#[derive(sqlx::FromRow)]
struct Row {
    room_nid: i64,
    room_id: String,
    version: String,
    rev: i64,
    snap_nid: i64,
    depth: i64,
    extremities: String,
    counter: i64,
    pos: i64,
    published: bool,
    creator_nid: i64,
    created_ms: i64,
    partial: bool,
    open: bool,
    forked: bool,
    whole_pos: i64,
    entered_depth: i64,
}

impl TryFrom<Row> for Room {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self> {
        let fault = |e: String| Error::fault("rooms table", e);
        let extremities: Vec<(i64, Reference, i64, i64)> =
            serde_json::from_str(&row.extremities).map_err(|e| fault(e.to_string()))?;
        Ok(Self {
            nid: RoomNid(row.room_nid),
            room_id: row.room_id.try_into().map_err(|e: ruma::IdParseError| fault(e.to_string()))?,
            version: row.version.as_str().try_into().map_err(|e: ruma::IdParseError| fault(e.to_string()))?,
            published: row.published,
            creator: UserNid(row.creator_nid),
            created_ms: row.created_ms,
            head: RoomHead {
                rev: row.rev,
                snap: SnapNid(row.snap_nid),
                depth: row.depth,
                extremities: extremities
                    .into_iter()
                    .map(|(nid, event, depth, after)| Extremity {
                        nid: EventNid(nid),
                        event,
                        depth,
                        after: SnapNid(after),
                    })
                    .collect(),
                counter: row.counter,
                pos: StreamPos(row.pos),
                partial: row.partial,
                whole: StreamPos(row.whole_pos),
                open: row.open,
                forked: row.forked,
                entered: row.entered_depth,
            },
        })
    }
}

/// Extremities as the column holds them.
pub(crate) fn extremities_json(extremities: &[Extremity]) -> String {
    let list: Vec<(i64, &Reference, i64, i64)> =
        extremities.iter().map(|e| (e.nid.0, &e.event, e.depth, e.after.0)).collect();
    // Numbers and ids always serialise.
    serde_json::to_string(&list).unwrap_or_default()
}

macro_rules! room_columns {
    () => {
        "SELECT room_nid, room_id, version, rev, snap_nid, depth, extremities, counter, pos, published, creator_nid, created_ms, partial, open, forked, whole_pos, entered_depth FROM rooms "
    };
}

const ROOM_BY_NID: &str = concat!(room_columns!(), "WHERE room_nid = $1");
const ROOM_BY_ID: &str = "SELECT room_nid FROM rooms WHERE room_id = $1";
const ROOM_PUBLISHED: &str = "SELECT published FROM rooms WHERE room_nid = $1";
const ROOM_PUBLISH: &str = "UPDATE rooms SET published = $2 WHERE room_nid = $1";
const ROOMS_PUBLISHED: &str = "SELECT room_nid FROM rooms WHERE published ORDER BY room_nid";

impl Store {
    /// A room as committed. `published` may be behind; everything else is not.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn room(&self, nid: RoomNid) -> Result<Option<Arc<Room>>> {
        let rooms = &self.inner.rooms;
        if let Some(room) = rooms.get(&nid) {
            return Ok(Some(room));
        }
        let ticket = rooms.ticket(&nid);
        let row: Option<Row> = fetch_optional!(&mut self.read().await?, Row, ROOM_BY_NID, nid.0)?;
        let Some(row) = row else { return Ok(None) };
        let room = Arc::new(Room::try_from(row)?);
        rooms.fill(nid, room.clone(), ticket);
        Ok(Some(room))
    }

    /// The number of a room we know of.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn room_nid(&self, room_id: &RoomId) -> Result<Option<RoomNid>> {
        if let Some(known) = self.inner.room_nids.get(room_id.as_str()) {
            return Ok(known);
        }
        let find = || async {
            let row: Option<(i64,)> = fetch_optional!(&mut self.read().await?, (i64,), ROOM_BY_ID, room_id.as_str())?;
            Ok(row.map(|(nid,)| RoomNid(nid)))
        };
        self.inner.room_nids.get_or(room_id.as_str().to_owned(), find).await
    }

    /// A room of which we know more than that somebody keeps something with its id: it has events here, or somebody is or
    /// was something in it.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn known_room(&self, room_id: &RoomId) -> Result<Option<Arc<Room>>> {
        let Some(nid) = self.room_nid(room_id).await? else { return Ok(None) };
        let Some(room) = self.room(nid).await? else { return Ok(None) };
        let is_known = !room.head.extremities.is_empty() || self.has_memberships(nid).await?;
        Ok(is_known.then_some(room))
    }

    /// Ids and versions of many rooms, in no order.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn rooms(&self, nids: &[RoomNid]) -> Result<Vec<Room>> {
        let sql = crate::sql!(
            "SELECT room_nid, room_id, version, rev, snap_nid, depth, extremities, counter, pos, published, creator_nid, created_ms, partial, open, forked, whole_pos, entered_depth FROM rooms WHERE room_nid "
            [in 1]
        );
        let rows: Vec<Row> = fetch_all!(&mut self.read().await?, Row, sql, Ints(nids.iter().map(|n| n.0).collect()))?;
        rows.into_iter().map(Room::try_from).collect()
    }

    /// The rooms that the directory lists.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn published_rooms(&self) -> Result<Vec<RoomNid>> {
        let rows: Vec<(i64,)> = fetch_all!(&mut self.read().await?, (i64,), ROOMS_PUBLISHED)?;
        Ok(rows.into_iter().map(|(n,)| RoomNid(n)).collect())
    }

    /// Whether the directory lists a room.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn is_published(&self, room: RoomNid) -> Result<bool> {
        let row: Option<(bool,)> = fetch_optional!(&mut self.read().await?, (bool,), ROOM_PUBLISHED, room.0)?;
        Ok(row.is_some_and(|r| r.0))
    }

    /// Lists a room in the directory, or takes it out.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn publish_room(&self, room: RoomNid, published: bool) -> Result<()> {
        self.write(move |tx| Box::pin(async move { tx.publish_room(room, published).await })).await
    }
}

impl Tx {
    /// Lists a room in the directory, or takes it out.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn publish_room(&mut self, room: RoomNid, published: bool) -> Result<()> {
        execute!(self, ROOM_PUBLISH, room.0, published).map(drop)
    }
}
