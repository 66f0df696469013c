//! Events without a place in the timeline, and rooms of which nothing else is known.

use std::{collections::HashMap, sync::Arc};

use hearth_base::{
    Result,
    ids::{EventNid, RoomNid, StreamPos},
};
use ruma::{OwnedEventId, OwnedRoomId, RoomVersionId};

use super::{Append, NewEvent, StoredEvent, placed::Placed, write::insert_outliers};
use crate::{
    Store,
    rooms::{Room, RoomHead},
    state::RoomState,
};

/// Outliers written in one transaction at most, so that a huge room does not keep others from writing.
const AT_ONCE: usize = 1_000;
/// Of so many or fewer all are kept in memory.
const KEPT: usize = 200;

impl NewEvent {
    /// An event that has no place in the timeline, as it stands once it is stored.
    #[must_use]
    pub fn as_outlier(&self, room: RoomNid) -> StoredEvent {
        Placed { room, event: self, pos: StreamPos::ZERO }.stored()
    }
}

impl Store {
    /// Stores outliers of a room; those that somebody else stored meanwhile stay as they are. Gives the numbers that
    /// hold.
    ///
    /// # Errors
    /// 503 if the database fails.
    pub async fn insert_outliers(
        &self,
        room: RoomNid,
        events: Vec<NewEvent>,
    ) -> Result<HashMap<OwnedEventId, EventNid>> {
        let ids: Vec<OwnedEventId> = events.iter().map(|e| e.pdu.event_id().to_owned()).collect();
        // The state of a small room is looked at next; one that fills the memory is read again as it is needed.
        let kept: Vec<_> = match events.len() {
            0..=KEPT => events.iter().map(|e| (self.inner.events.ticket(&e.nid), e.as_outlier(room))).collect(),
            _ => Vec::new(),
        };
        let mut left = events;
        while !left.is_empty() {
            let rest = left.split_off(left.len().min(AT_ONCE));
            let part = std::mem::replace(&mut left, rest);
            self.write(move |tx| Box::pin(async move { insert_outliers(tx, room, &part).await })).await?;
        }
        let mut nids = HashMap::with_capacity(ids.len());
        for part in ids.chunks(AT_ONCE) {
            nids.extend(self.known_events(part).await?.into_iter().map(|(id, known)| (id, known.nid)));
        }
        for (ticket, event) in kept {
            if nids.get(event.event_id()) == Some(&event.nid) {
                self.inner.event_nids.insert(event.event_id().as_str().into(), event.nid);
                self.inner.events.fill(event.nid, Arc::new(event), ticket);
            }
        }
        Ok(nids)
    }

    /// Makes a room of which we know no more than its id and version, or gives the one that is there.
    ///
    /// # Errors
    /// 503 if the database fails.
    pub async fn make_stub_room(
        &self,
        room_id: OwnedRoomId,
        version: RoomVersionId,
        creator: hearth_base::ids::UserNid,
        now_ms: i64,
    ) -> Result<RoomNid> {
        if let Some(nid) = self.room_nid(&room_id).await? {
            return Ok(nid);
        }
        let room = self.new_stub_room(room_id.clone(), version, creator, now_ms).await?;
        let (state, empty) = RoomState::empty(room.head.snap);
        self.remember_state(&state);
        let nid = room.nid;
        let append = Append { snaps: vec![empty], ..Append::on(room, None) };
        match self.append(append).await {
            Ok(_) => Ok(nid),
            // Somebody else made it meanwhile.
            Err(e) => self.room_nid(&room_id).await?.ok_or(e),
        }
    }

    /// Such a room, not stored yet.
    ///
    /// # Errors
    /// 503 if the database fails.
    pub async fn new_stub_room(
        &self,
        room_id: OwnedRoomId,
        version: RoomVersionId,
        creator: hearth_base::ids::UserNid,
        now_ms: i64,
    ) -> Result<Room> {
        let head = RoomHead {
            rev: 0,
            snap: self.new_snap_nid().await?,
            depth: 0,
            extremities: Vec::new(),
            counter: 0,
            pos: StreamPos::ZERO,
            partial: false,
            entered: 0,
            whole: StreamPos::ZERO,
            open: false,
            forked: true,
        };
        let nid = self.new_room_nid().await?;
        Ok(Room { nid, room_id, version, published: false, creator, created_ms: now_ms, head })
    }
}
