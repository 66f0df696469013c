//! The event nearest to a time. Where ours is at the edge of a gap, others may have a nearer one.

use std::sync::Arc;

use hearth_base::{OrNotFound, Requester, Result};
use hearth_store::events::{Direction, StoredEvent};
use ruma::RoomId;

use super::{History, Viewer};

/// Events that the user may not see, looked through.
const LOOK_THROUGH: usize = 200;

impl History {
    /// The event of a room sent nearest to a time, ms, among those the user may see.
    ///
    /// # Errors
    /// 404 if there is none in that direction.
    pub async fn event_by_time(
        &self,
        who: &Requester,
        room_id: &RoomId,
        direction: Direction,
        origin_ms: u64,
    ) -> Result<Arc<StoredEvent>> {
        let viewer = self.enter(who, room_id).await?;
        let ours = self.nearest(&viewer, direction, origin_ms).await?;
        if let Some(backfill) = &self.backfill
            && viewer.room.head.forked
            && self.may_lack(&viewer, origin_ms).await?
        {
            let than = ours.as_ref().map(|e| e.pdu.origin_server_ts());
            if let Some(theirs) = Box::pin(backfill.by_time(&viewer.room, direction, origin_ms, than)).await?
                && viewer.shows(&theirs).await?
            {
                return Ok(theirs);
            }
        }
        ours.or_not_found("Event")
    }

    async fn nearest(&self, viewer: &Viewer, direction: Direction, origin_ms: u64) -> Result<Option<Arc<StoredEvent>>> {
        let origin_ms = i64::try_from(origin_ms).unwrap_or(i64::MAX);
        for event in self.store.events_by_time(viewer.room.nid, direction, origin_ms, LOOK_THROUGH).await? {
            if viewer.shows(&event).await? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// Whether events are missing before the first of ours after that time: whatever was sent about then would be there.
    async fn may_lack(&self, viewer: &Viewer, origin_ms: u64) -> Result<bool> {
        let (room, at) = (viewer.room.nid, i64::try_from(origin_ms).unwrap_or(i64::MAX));
        let after = self.store.events_by_time(room, Direction::Forward, at, 1).await?;
        match after.first() {
            Some(event) => Ok(!self.store.missing_among(room, event.pdu.prev_events()).await?.is_empty()),
            None => Ok(false),
        }
    }
}
