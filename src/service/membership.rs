//! Join, invite, knock, leave, kick, ban, unban, forget: for users of this server in rooms this server is in.

use std::sync::Arc;

use hearth_base::{Error, Requester, Result, clock::Clock};
use hearth_rules::event::Draft;
use hearth_store::{Store, rooms::Room};
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, UserId,
    events::{TimelineEventType, room::member::MembershipState},
};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    account_data::AccountData,
    events::{Events, With, check_may_write},
    push::Push,
    state::State,
};

mod content;
mod everywhere;
mod following;
mod restricted;

pub use content::MemberContent;

/// How membership is configured.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Only administrators may invite (`block_non_admin_invites`).
    pub block_non_admin_invites: bool,
    /// Names and avatars stay out of invites (`include_profile_data_on_invite: false`).
    pub no_profile_on_invite: bool,
    /// Leaving a room forgets it (`forget_rooms_on_leave`).
    pub forget_on_leave: bool,
}

/// Changes of membership.
#[derive(Debug)]
pub struct Membership {
    store: Store,
    state: Arc<State>,
    events: Arc<Events>,
    account_data: Arc<AccountData>,
    push: Arc<Push>,
    server_name: OwnedServerName,
    clock: Clock,
    settings: Settings,
}

impl Membership {
    /// Made once.
    #[must_use]
    pub fn new(
        store: Store,
        state: Arc<State>,
        events: Arc<Events>,
        account_data: Arc<AccountData>,
        push: Arc<Push>,
        clock: Clock,
        settings: Settings,
    ) -> Self {
        let server_name = events.signer().server_name().to_owned();
        Self { store, state, events, account_data, push, server_name, clock, settings }
    }

    /// Joins a room.
    ///
    /// # Errors
    /// 404 for rooms we do not know, 403 if the room's rules do not allow it.
    pub async fn join(&self, who: &Requester, room_id: &RoomId, reason: Option<String>) -> Result<OwnedRoomId> {
        check_may_write(who)?;
        let room = self.state.room(room_id).await.map_err(|_| Error::not_found("No known servers are in this room"))?;
        let now = self.state.membership(room.nid, who.user_nid).await?;
        if now == MembershipState::Join && reason.is_none() {
            return Ok(room.room_id.clone());
        }
        let mut content = self.content("join", who.user_nid, reason).await?;
        if now != MembershipState::Join && now != MembershipState::Invite {
            content.join_authorised_via_users_server = self.authoriser(who, &room).await?;
        }
        self.write(&room, who, &who.user_id, &content, None).await?;
        if now != MembershipState::Join {
            self.follow(who, &room).await;
        }
        Ok(room.room_id.clone())
    }

    /// Leaves a room, rejects an invite, takes back a knock.
    ///
    /// # Errors
    /// 403 if the requester is in no such relation to the room.
    pub async fn leave(&self, who: &Requester, room_id: &RoomId, reason: Option<String>) -> Result<()> {
        let room = self.state.room(room_id).await?;
        match self.state.membership(room.nid, who.user_nid).await? {
            MembershipState::Leave => {
                // Leaving twice is no mistake, leaving where one never was is.
                if self.store.membership(room.nid, who.user_nid).await?.is_none() {
                    return Err(Error::forbidden("You are not a member of this room"));
                }
            }
            MembershipState::Ban => return Err(Error::forbidden("You are banned from this room")),
            _ => {
                let content = MemberContent::bare("leave", reason);
                self.write(&room, who, &who.user_id, &content, None).await?;
            }
        }
        if self.settings.forget_on_leave {
            self.store.forget(room.nid, who.user_nid).await?;
        }
        Ok(())
    }

    /// Invites a user.
    ///
    /// # Errors
    /// 403 if not allowed or the user is in the room or banned.
    pub async fn invite(&self, who: &Requester, room_id: &RoomId, user: &UserId, reason: Option<String>) -> Result<()> {
        check_may_write(who)?;
        if self.settings.block_non_admin_invites && !who.is_admin {
            return Err(Error::forbidden("Invites have been disabled on this server"));
        }
        let room = self.known(room_id).await?;
        if user.server_name() != self.server_name {
            return Err(Error::told(
                http::StatusCode::BAD_GATEWAY,
                "M_UNKNOWN",
                "Users of other servers cannot be invited yet",
            ));
        }
        self.check_invitee(user).await?;
        let nid = self.store.intern_user(user).await?;
        if self.state.membership(room.nid, nid).await? == MembershipState::Ban {
            return Err(Error::forbidden("The user is banned from this room"));
        }
        let content = self.invite_content(nid, reason).await?;
        self.write(&room, who, user, &content, None).await.map(drop)
    }

    /// A local user who is to be invited must exist.
    pub(crate) async fn check_invitee(&self, user: &UserId) -> Result<()> {
        if user.server_name() == self.server_name && self.store.user_nid(user).await?.is_none() {
            return Err(Error::not_found(format!("There is no user {user}")));
        }
        Ok(())
    }

    /// Knocks at a room's door.
    ///
    /// # Errors
    /// 404 for rooms we do not know, 403 if its join rules do not take knocks.
    pub async fn knock(&self, who: &Requester, room_id: &RoomId, reason: Option<String>) -> Result<OwnedRoomId> {
        check_may_write(who)?;
        let room = self.state.room(room_id).await?;
        let content = self.content("knock", who.user_nid, reason).await?;
        self.write(&room, who, &who.user_id, &content, None).await?;
        Ok(room.room_id.clone())
    }

    /// Removes a user who is in, invited or knocking.
    ///
    /// # Errors
    /// 403 if not allowed or the user is not in the room.
    pub async fn kick(&self, who: &Requester, room_id: &RoomId, user: &UserId, reason: Option<String>) -> Result<()> {
        check_may_write(who)?;
        let room = self.known(room_id).await?;
        match self.of(&room, user).await? {
            MembershipState::Leave | MembershipState::Ban => Err(Error::forbidden("The user is not in this room")),
            _ => {
                let content = MemberContent::bare("leave", reason);
                self.write(&room, who, user, &content, None).await.map(drop)
            }
        }
    }

    /// Bans a user; banning twice changes nothing.
    ///
    /// # Errors
    /// 403 if not allowed.
    pub async fn ban(&self, who: &Requester, room_id: &RoomId, user: &UserId, reason: Option<String>) -> Result<()> {
        check_may_write(who)?;
        let room = self.known(room_id).await?;
        let content = MemberContent::bare("ban", reason);
        self.write(&room, who, user, &content, None).await.map(drop)
    }

    /// Lifts a ban.
    ///
    /// # Errors
    /// 403 if not allowed or the user is not banned.
    pub async fn unban(&self, who: &Requester, room_id: &RoomId, user: &UserId, reason: Option<String>) -> Result<()> {
        check_may_write(who)?;
        let room = self.known(room_id).await?;
        if self.of(&room, user).await? != MembershipState::Ban {
            return Err(Error::forbidden("The user is not banned from this room"));
        }
        let content = MemberContent::bare("leave", reason);
        self.write(&room, who, user, &content, None).await.map(drop)
    }

    /// Takes a room one has left out of one's sight.
    ///
    /// # Errors
    /// 400 `M_UNKNOWN` while one is still in it (spec: "Leaving rooms").
    pub async fn forget(&self, who: &Requester, room_id: &RoomId) -> Result<()> {
        let room = self.known(room_id).await?;
        match self.store.membership(room.nid, who.user_nid).await? {
            None => Err(Error::forbidden("You were never in this room")),
            Some(m) if matches!(m.membership, MembershipState::Leave | MembershipState::Ban) => {
                self.store.forget(room.nid, who.user_nid).await.map(drop)
            }
            Some(_) => Err(Error::unknown("You are still in this room; leave it first")),
        }
    }

    /// The rooms the requester is joined to.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn joined_rooms(&self, who: &Requester) -> Result<Vec<OwnedRoomId>> {
        let nids = self.store.joined_rooms(who.user_nid).await?;
        Ok(self.store.rooms(&nids).await?.into_iter().map(|r| r.room_id).collect())
    }

    /// Sends a member event as a state event from a client, with content of its own choosing.
    ///
    /// # Errors
    /// 403 if not allowed; 400 if it is not the content of a member event.
    pub async fn set(&self, who: &Requester, room_id: &RoomId, user: &UserId, content: &str) -> Result<OwnedEventId> {
        #[derive(Deserialize)]
        struct Wanted {
            membership: String,
        }
        check_may_write(who)?;
        let wanted: Wanted =
            serde_json::from_str(content).map_err(|_| Error::bad_json("`membership` is missing or not a string"))?;
        if wanted.membership == "invite" {
            if self.settings.block_non_admin_invites && !who.is_admin {
                return Err(Error::forbidden("Invites have been disabled on this server"));
            }
            self.check_invitee(user).await?;
        }
        let room = self.known(room_id).await?;
        let content: Map<String, Value> =
            serde_json::from_str(content).map_err(|_| Error::bad_json("The content is not an object"))?;
        let draft = Draft::of(
            Some(room.room_id.clone()),
            who.user_id.clone(),
            TimelineEventType::RoomMember,
            Some(user.to_string()),
            &content,
            self.clock.now_ms(),
        )?;
        self.events.append(room.nid, who.user_nid, draft, With { dedupe: true, ..With::default() }).await
    }

    async fn known(&self, room_id: &RoomId) -> Result<Arc<Room>> {
        self.state.room(room_id).await.map_err(|e| match e.errcode() {
            "M_NOT_FOUND" => Error::forbidden("You are not a member of this room"),
            _ => e,
        })
    }

    async fn of(&self, room: &Room, user: &UserId) -> Result<MembershipState> {
        match self.store.user_nid(user).await? {
            Some(nid) => self.state.membership(room.nid, nid).await,
            None => Ok(MembershipState::Leave),
        }
    }

    async fn write(
        &self,
        room: &Room,
        who: &Requester,
        user: &UserId,
        content: &MemberContent,
        stripped: Option<String>,
    ) -> Result<OwnedEventId> {
        let draft = Draft::of(
            Some(room.room_id.clone()),
            who.user_id.clone(),
            TimelineEventType::RoomMember,
            Some(user.to_string()),
            content,
            self.clock.now_ms(),
        )?;
        self.events.append(room.nid, who.user_nid, draft, With { stripped, dedupe: true, ..With::default() }).await
    }
}
