//! What the tables of a room's holes and changes would say, in memory where they nearly always say nothing: whether an
//! event is waited for by others, and when a room last changed in a way that its timeline does not show.

use hearth_base::{
    Result,
    cache::Cache,
    ids::{RoomNid, StreamPos},
};

use crate::{
    Store,
    db::{MOST_NAMES, Names, Session},
    fetch_all, fetch_optional,
};

/// Rooms whose last changes are remembered.
const ROOMS: u64 = 20_000;

/// See the module.
pub(crate) struct Memory {
    /// Room and event id of what others of a room name and we do not have (table `missing_events`).
    pub(crate) missing: Names,
    /// Event ids of what is redacted before it comes (table `redactions_ahead`).
    pub(crate) ahead: Names,
    /// Where a room's current state last changed (table `state_changes`).
    changes: Cache<RoomNid, StreamPos>,
    /// The newest hole in a room's timeline (table `gaps`).
    gaps: Cache<RoomNid, StreamPos>,
}

impl Memory {
    /// Reads the names.
    pub(crate) async fn load(session: &mut Session) -> Result<Self> {
        const MISSING: &str = "SELECT room_nid, event_id FROM missing_events LIMIT $1";
        const AHEAD: &str = "SELECT target_id FROM redactions_ahead LIMIT $1";
        let missing: Vec<(i64, String)> = fetch_all!(session, (i64, String), MISSING, MOST_NAMES + 1)?;
        let ahead: Vec<(String,)> = fetch_all!(session, (String,), AHEAD, MOST_NAMES + 1)?;
        Ok(Self {
            missing: Names::of(missing.iter().map(|(room, id)| (RoomNid(*room), id.as_str()))),
            ahead: Names::of(ahead.iter().map(|(id,)| id.as_str())),
            changes: Cache::new(ROOMS),
            gaps: Cache::new(ROOMS),
        })
    }

    /// Forgets, after a commit, where a room's state last changed.
    pub(crate) fn changed(&self, room: RoomNid) {
        self.changes.invalidate(&room);
    }

    /// Forgets, after a commit, where a room's newest hole is.
    pub(crate) fn torn(&self, room: RoomNid) {
        self.gaps.invalidate(&room);
    }
}

impl Store {
    /// Whether a room's current state changed after that position.
    pub(super) async fn changed_since(&self, room: RoomNid, after: StreamPos) -> Result<bool> {
        const CHANGED: &str = "SELECT MAX(pos) FROM state_changes WHERE room_nid = $1";
        Ok(self.inner.event_memory.changes.get_or(room, || self.highest(CHANGED, room)).await? > after)
    }

    /// Whether there is a hole in a room's timeline after that position.
    pub(super) async fn torn_since(&self, room: RoomNid, after: StreamPos) -> Result<bool> {
        const TORN: &str = "SELECT MAX(pos) FROM gaps WHERE room_nid = $1";
        Ok(self.inner.event_memory.gaps.get_or(room, || self.highest(TORN, room)).await? > after)
    }

    async fn highest(&self, sql: &'static str, room: RoomNid) -> Result<StreamPos> {
        let row: Option<(Option<i64>,)> = fetch_optional!(&mut self.read().await?, (Option<i64>,), sql, room.0)?;
        Ok(row.and_then(|(pos,)| pos).map_or(StreamPos::ZERO, StreamPos))
    }
}
