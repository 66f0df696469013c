//! Whom a new room is made with: users of ours by its first events, users of other servers and who is invited by address
//! once it is there.

use hearth_base::{Error, Requester, Result, ids::UserNid};
use hearth_rules::{auth::PowerLevels, versions::RoomVersion};
use hearth_store::events::Append;
use ruma::{OwnedUserId, RoomId, events::TimelineEventType};

use super::{NewRoom, Rooms, invalid_state};
use crate::membership::{MemberContent, by_address::check_power};

/// Invites at creation.
const MAX_INVITES: usize = 100;
/// Invites by address at creation; an identity server is asked about each.
const MAX_BY_ADDRESS: usize = 20;

impl Rooms {
    /// Users of ours who are invited by the room's first events.
    ///
    /// # Errors
    /// 400 for too many invites, 403 if the requester may invite nobody or one of them takes no invites, 404 for nobody.
    pub(super) async fn invites(&self, new: &NewRoom, who: &Requester) -> Result<Vec<(OwnedUserId, MemberContent)>> {
        if new.invite.len() > MAX_INVITES || new.invite_3pid.len() > MAX_BY_ADDRESS {
            return Err(Error::invalid_param("Too many invites"));
        }
        if !new.invite.is_empty() {
            self.membership.check_may_invite(who)?;
        }
        let mut invites: Vec<(OwnedUserId, MemberContent)> = Vec::with_capacity(new.invite.len());
        for user in new.invite.iter().filter(|user| user.server_name() == self.server_name) {
            if *user == who.user_id || invites.iter().any(|(u, _)| u == user) {
                continue;
            }
            self.membership.check_invitee(user).await?;
            let nid: UserNid = self.store.intern_user(user).await?;
            let content = self.membership.invite_content(nid, None).await?.direct(new.is_direct);
            invites.push((user.clone(), content));
        }
        Ok(invites)
    }

    /// Whose the addresses are that are to be invited: `None` for nobody's. Asked before the room is there, so that an identity
    /// server that fails leaves no room without its guests.
    ///
    /// # Errors
    /// 400 `M_INVALID_ROOM_STATE` if the creator will not have the power to invite; as
    /// [`crate::membership::Membership::invite_address`].
    pub(super) async fn found(
        &self,
        who: &Requester,
        new: &NewRoom,
        version: &RoomVersion,
        append: &Append,
    ) -> Result<Vec<Option<OwnedUserId>>> {
        if new.invite_3pid.is_empty() {
            return Ok(Vec::new());
        }
        may_invite(who, version, append)?;
        self.membership.found(who, &new.invite_3pid).await
    }

    /// Invites users of other servers, whose servers are asked when the room is there. One that refuses is passed over.
    pub(super) async fn invite_others(&self, who: &Requester, new: &NewRoom, room_id: &RoomId) -> Result<()> {
        let room = self.state.room(room_id).await?;
        let mut invited: Vec<&OwnedUserId> = Vec::new();
        for user in new.invite.iter().filter(|user| user.server_name() != self.server_name) {
            if invited.contains(&user) {
                continue;
            }
            invited.push(user);
            if let Err(e) = self.membership.invite_as(who, &room, user, None, new.is_direct).await {
                tracing::info!(room.id = %room_id, user.id = %user, error = %e, "an invite to a new room failed");
            }
        }
        Ok(())
    }

    /// Invites by address, now that the room is there. What fails is passed over here as well.
    pub(super) async fn invite_by_address(
        &self,
        who: &Requester,
        new: &NewRoom,
        found: Vec<Option<OwnedUserId>>,
        room_id: &RoomId,
    ) -> Result<()> {
        let room = self.state.room(room_id).await?;
        for (to, user) in new.invite_3pid.iter().zip(found) {
            let invited = match user {
                Some(user) => self.membership.invite_as(who, &room, &user, None, new.is_direct).await.map(drop),
                None => self.membership.invite_nobody(who, &room, to).await,
            };
            if let Err(e) = invited {
                tracing::info!(room.id = %room_id, error = %e, "an invite by address to a new room failed");
            }
        }
        Ok(())
    }
}

/// Whether whoever makes a room will have the power to invite to it.
fn may_invite(who: &Requester, version: &RoomVersion, append: &Append) -> Result<()> {
    let create = append.events.first().ok_or_else(|| Error::broken("a room without a first event"))?;
    let is_levels =
        |kind: &TimelineEventType, key: Option<&str>| *kind == TimelineEventType::RoomPowerLevels && key == Some("");
    let levels = append.events.iter().rev().find(|e| is_levels(e.pdu.event_type(), e.pdu.state_key()));
    let levels = PowerLevels::of(version, &create.pdu, levels.map(|e| &*e.pdu));
    check_power(who, &levels.map_err(|e| Error::fault("power levels", e))?).map_err(invalid_state)
}
