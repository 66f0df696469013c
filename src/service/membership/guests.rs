//! Guests (spec: "Guest access"): a room lets them in only if it says so, and puts them out when it says so no longer.

use hearth_base::{Requester, Result, ids::RoomNid};
use hearth_store::rooms::Room;
use ruma::{OwnedEventId, RoomId, events::TimelineEventType};
use serde_json::value::RawValue;

use super::Membership;
use crate::{events::Outgoing, federation::joins::guests};

impl Membership {
    /// A guest joins only rooms that are open to guests.
    pub(super) async fn check_guest(&self, who: &Requester, room: &Room) -> Result<()> {
        if !who.is_guest || self.lets_guests_in(room).await? {
            return Ok(());
        }
        Err(guests::kept_out())
    }

    async fn lets_guests_in(&self, room: &Room) -> Result<bool> {
        let event = self.state.current_entry(room, "m.room.guest_access", "").await?;
        Ok(event.is_some_and(|e| guests::lets_in(&e.pdu)))
    }

    /// Sets whether guests may join a room. If not, those who are in it are out of it with the answer.
    ///
    /// # Errors
    /// As of sending state.
    pub async fn set_guest_access(
        &self,
        who: &Requester,
        room_id: &RoomId,
        content: &RawValue,
        timestamp: Option<u64>,
    ) -> Result<OwnedEventId> {
        let out = Outgoing {
            event_type: TimelineEventType::RoomGuestAccess,
            state_key: Some(String::new()),
            content,
            txn_id: None,
            timestamp,
        };
        let event_id = self.events.send(who, room_id, out).await?;
        let room = self.state.room(room_id).await?;
        self.put_guests_out(room.nid).await?;
        Ok(event_id)
    }

    /// Has the guests of this server leave a room that is not open to guests any longer.
    pub(super) async fn put_guests_out(&self, room: RoomNid) -> Result<()> {
        let room = self.state.room_by_nid(room).await?;
        if self.lets_guests_in(&room).await? {
            return Ok(());
        }
        for nid in self.store.guests_in(room.nid).await? {
            let guest = Requester::internal(self.store.user_id(nid).await?, nid);
            if let Err(e) = self.leave(&guest, &room.room_id, None).await {
                tracing::warn!(room.id = %room.room_id, user.id = %guest.user_id, error = %e, "a guest could not be put out");
            }
        }
        Ok(())
    }
}
