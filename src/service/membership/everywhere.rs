//! What happens to a user in all their rooms at once: a new name or avatar is shown, a closed account leaves.

use hearth_base::{Requester, Result};
use hearth_store::rooms::Room;
use ruma::events::room::member::MembershipState;
use serde_json::{Map, Value};

use super::Membership;

/// What of a member event is said anew with each: who vouched for a join does not for what follows it, and other servers
/// would look for their signature.
const SAID_ANEW: [&str; 7] = [
    "membership",
    "displayname",
    "avatar_url",
    "reason",
    "is_direct",
    "third_party_invite",
    "join_authorised_via_users_server",
];

impl Membership {
    /// Writes the user's present name and avatar into the rooms they are joined to.
    ///
    /// # Errors
    /// If the database fails; a room that refuses is passed over.
    pub async fn propagate_profile(&self, who: &Requester) -> Result<()> {
        // First: who comes into a room from here on is told, or is in it by the time we look.
        self.on_the_way.renamed(who.user_nid);
        for nid in self.store.joined_rooms(who.user_nid).await? {
            self.show_profile(who, &*self.state.room_by_nid(nid).await?).await?;
        }
        Ok(())
    }

    /// Writes the user's present name and avatar into a room they are joined to. A room that refuses is left as it is.
    pub(super) async fn show_profile(&self, who: &Requester, room: &Room) -> Result<()> {
        let mut content = self.content("join", who.user_nid, None).await?;
        let old: Option<Map<String, Value>> = self
            .state
            .current_entry(room, "m.room.member", who.user_id.as_str())
            .await?
            .and_then(|e| e.pdu.content_as());
        // What else stands in the event (a space's badge) stays.
        content.more = old.unwrap_or_default();
        for key in SAID_ANEW {
            content.more.remove(key);
        }
        if let Err(e) = self.write(room, who, &who.user_id, &content, None).await {
            tracing::debug!(room.id = %room.room_id, error = %e, "the profile could not be shown in a room");
        }
        Ok(())
    }

    /// Leaves every room, for an account that is closed.
    ///
    /// # Errors
    /// If the database fails; a room that refuses is passed over.
    pub async fn leave_all(&self, who: &Requester) -> Result<()> {
        for membership in self.store.memberships_of(who.user_nid).await? {
            if matches!(membership.membership, MembershipState::Leave | MembershipState::Ban) {
                continue;
            }
            let room = self.state.room_by_nid(membership.room).await?;
            if let Err(e) = self.leave(who, &room.room_id, None).await {
                tracing::warn!(room.id = %room.room_id, error = %e, "a closed account could not leave a room");
            }
        }
        Ok(())
    }
}
