//! Into the room that replaces another: what its members keep with the old one (tags, direct chats, push rules) goes along,
//! so that a favourite stays one and what was muted stays silent.

use hearth_base::{Requester, Result};
use hearth_store::rooms::Room;
use ruma::OwnedRoomId;
use serde::Deserialize;

use super::Membership;
use crate::state::Tombstone;

impl Membership {
    /// Takes along what a user who just joined a room keeps with its predecessor, if they were there. That it fails is no
    /// reason not to be in the room.
    pub(crate) async fn follow(&self, who: &Requester, room: &Room) {
        if let Err(e) = self.try_follow(who, room).await {
            tracing::warn!(room.id = %room.room_id, error = %e, "what a user kept with a room could not go along");
        }
    }

    async fn try_follow(&self, who: &Requester, room: &Room) -> Result<()> {
        #[derive(Deserialize)]
        struct Create {
            predecessor: Predecessor,
        }
        #[derive(Deserialize)]
        struct Predecessor {
            room_id: OwnedRoomId,
        }
        let create = self.state.current_entry(room, "m.room.create", "").await?;
        let Some(Create { predecessor }) = create.and_then(|e| e.pdu.content_as()) else { return Ok(()) };
        let Some(old) = self.store.room_nid(&predecessor.room_id).await? else { return Ok(()) };
        // Anybody can name anything as a predecessor: only where the user was and the old room agrees, it is one.
        let old = self.state.room_by_nid(old).await?;
        let tombstone = self.state.current_entry(&old, "m.room.tombstone", "").await?;
        let replaced_by = tombstone.and_then(|e| e.pdu.content_as::<Tombstone>()).map(|t| t.replacement_room);
        if replaced_by.as_ref() != Some(&room.room_id) || self.store.membership(old.nid, who.user_nid).await?.is_none()
        {
            return Ok(());
        }
        self.account_data.follow(who.user_nid, &old, room).await?;
        self.push.follow(who, &old.room_id, &room.room_id).await
    }
}
