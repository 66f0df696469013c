//! How the current state of a room changed, and when.

use std::collections::HashMap;

use hearth_base::{
    Result,
    ids::{EventNid, KeyNid, RoomNid, StreamPos},
};

use crate::{Store, fetch_all};

const STATE_CHANGES: &str =
    "SELECT key_nid, new_nid FROM state_changes WHERE room_nid = $1 AND pos > $2 AND pos <= $3 ORDER BY pos";
const ENTRY_CHANGES: &str =
    "SELECT old_nid, new_nid FROM state_changes WHERE room_nid = $1 AND key_nid = $2 AND pos > $3 ORDER BY pos";
const LATER_CHANGES: &str =
    "SELECT key_nid, old_nid, new_nid FROM state_changes WHERE room_nid = $1 AND pos > $2 ORDER BY pos";

/// One entry of a room's current state became another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Which entry.
    pub key: KeyNid,
    /// What it was; `None` if it was not there.
    pub old: Option<EventNid>,
    /// What it became; `None` if it is there no longer.
    pub new: Option<EventNid>,
}

impl Store {
    /// How the current state of a room changed in `(after, upto]`: the last value of each key; `None` is removed.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn state_changes(
        &self,
        room: RoomNid,
        after: StreamPos,
        upto: StreamPos,
    ) -> Result<HashMap<KeyNid, Option<EventNid>>> {
        if !self.changed_since(room, after).await? {
            return Ok(HashMap::new());
        }
        let rows: Vec<(i64, Option<i64>)> =
            fetch_all!(&mut self.read().await?, (i64, Option<i64>), STATE_CHANGES, room.0, after.0, upto.0)?;
        Ok(rows.into_iter().map(|(key, new)| (KeyNid(key), new.map(EventNid))).collect())
    }

    /// How the current state of a room changed after a position, in order.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn later_changes(&self, room: RoomNid, after: StreamPos) -> Result<Vec<Changed>> {
        type Row = (i64, Option<i64>, Option<i64>);
        let rows: Vec<Row> = fetch_all!(&mut self.read().await?, Row, LATER_CHANGES, room.0, after.0)?;
        let changed =
            |(key, old, new): Row| Changed { key: KeyNid(key), old: old.map(EventNid), new: new.map(EventNid) };
        Ok(rows.into_iter().map(changed).collect())
    }

    /// What one entry of the state of a room was and became, each time it changed after that position.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn entry_changes(
        &self,
        room: RoomNid,
        key: KeyNid,
        after: StreamPos,
    ) -> Result<Vec<(Option<EventNid>, Option<EventNid>)>> {
        let rows: Vec<(Option<i64>, Option<i64>)> =
            fetch_all!(&mut self.read().await?, (Option<i64>, Option<i64>), ENTRY_CHANGES, room.0, key.0, after.0)?;
        Ok(rows.into_iter().map(|(old, new)| (old.map(EventNid), new.map(EventNid))).collect())
    }
}
