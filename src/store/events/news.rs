//! Events in the order in which they became news: of one room the newest, of several the oldest.

use std::sync::Arc;

use hearth_base::{
    Result,
    ids::{EventNid, RoomNid, StreamPos},
};

use super::StoredEvent;
use crate::{Store, db::Ints, fetch_all, sql};

const NEWS_BACK: &str =
    "SELECT event_nid FROM events WHERE room_nid = $1 AND pos > $2 AND pos <= $3 ORDER BY pos DESC LIMIT $4";

impl Store {
    /// The newest live events of a room in `(after, upto]`, newest first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn news(
        &self,
        room: RoomNid,
        after: StreamPos,
        upto: StreamPos,
        limit: usize,
    ) -> Result<Vec<Arc<StoredEvent>>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows: Vec<(i64,)> = fetch_all!(&mut self.read().await?, (i64,), NEWS_BACK, room.0, after.0, upto.0, limit)?;
        self.events(&rows.into_iter().map(|(n,)| EventNid(n)).collect::<Vec<_>>()).await
    }

    /// The oldest live events of these rooms in `(after, upto]`, oldest first, at most `limit`.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn news_of_rooms(
        &self,
        rooms: &[RoomNid],
        after: StreamPos,
        upto: StreamPos,
        limit: usize,
    ) -> Result<Vec<Arc<StoredEvent>>> {
        if rooms.is_empty() {
            return Ok(Vec::new());
        }
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let sql = sql!(
            "SELECT event_nid FROM events WHERE room_nid "
            [in 1]
            " AND pos > $2 AND pos <= $3 ORDER BY pos LIMIT $4"
        );
        let rooms = Ints(rooms.iter().map(|room| room.0).collect());
        let rows: Vec<(i64,)> = fetch_all!(&mut self.read().await?, (i64,), sql, rooms, after.0, upto.0, limit)?;
        self.events(&rows.into_iter().map(|(n,)| EventNid(n)).collect::<Vec<_>>()).await
    }
}
