//! Join, invite, knock, leave, kick, ban, unban, forget: for users of this server in rooms this server is in.

use std::sync::Arc;

use hearth_base::{Error, Requester, Result, clock::Clock, ids::UserNid};
use hearth_rules::event::Draft;
use hearth_store::{Store, rooms::Room};
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, UserId,
    events::{TimelineEventType, room::member::MembershipState},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    events::{Events, With, check_may_write},
    state::{State, version_of},
};

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
    server_name: OwnedServerName,
    clock: Clock,
    settings: Settings,
}

/// Content of a member event that we write.
#[derive(Debug, Default, Serialize)]
pub struct MemberContent {
    membership: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    displayname: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar_url: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_direct: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    join_authorised_via_users_server: Option<OwnedUserId>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

impl Membership {
    /// Made once.
    #[must_use]
    pub fn new(store: Store, state: Arc<State>, events: Arc<Events>, clock: Clock, settings: Settings) -> Self {
        let server_name = events.signer().server_name().to_owned();
        Self { store, state, events, server_name, clock, settings }
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
        Ok(room.room_id.clone())
    }

    /// Who of ours vouches for a join by the membership of another room; `None` where that is not needed (spec: rooms/v8,
    /// "Restricted rooms").
    async fn authoriser(&self, who: &Requester, room: &Room) -> Result<Option<OwnedUserId>> {
        #[derive(Deserialize)]
        struct JoinRules {
            join_rule: String,
            #[serde(default)]
            allow: Vec<Value>,
        }
        let rules: Option<JoinRules> =
            self.state.current_entry(room, "m.room.join_rules", "").await?.and_then(|e| e.pdu.content_as());
        let Some(rules) = rules.filter(|r| matches!(r.join_rule.as_str(), "restricted" | "knock_restricted")) else {
            return Ok(None);
        };
        if !version_of(room)?.rules.authorization.restricted_join_rule {
            return Ok(None);
        }
        let mut allowed = false;
        // Bounded by the size of an event.
        for condition in &rules.allow {
            let kind = condition.get("type").and_then(Value::as_str);
            let Some(other) = condition.get("room_id").and_then(Value::as_str) else { continue };
            if kind != Some("m.room_membership") {
                continue;
            }
            let Ok(other) = <&RoomId>::try_from(other) else { continue };
            if let Some(nid) = self.store.room_nid(other).await?
                && self.state.membership(nid, who.user_nid).await? == MembershipState::Join
            {
                allowed = true;
                break;
            }
        }
        if !allowed {
            return Err(Error::forbidden("You are in none of the rooms that this room lets in"));
        }
        let levels = self.state.power_levels(room).await?;
        let needed = self.invite_level(room).await?;
        for member in self.store.members(room.nid, &MembershipState::Join).await?.iter().filter(|m| m.local) {
            let user = self.store.user_id(member.user).await?;
            if levels.can(&user, needed) {
                return Ok(Some(user));
            }
        }
        Err(Error::told(
            http::StatusCode::BAD_REQUEST,
            "M_UNABLE_TO_GRANT_JOIN",
            "Nobody on this server may let you into the room",
        ))
    }

    async fn invite_level(&self, room: &Room) -> Result<i64> {
        #[derive(Deserialize)]
        struct Levels {
            invite: Option<Value>,
        }
        let levels: Option<Levels> =
            self.state.current_entry(room, "m.room.power_levels", "").await?.and_then(|e| e.pdu.content_as());
        Ok(levels
            .and_then(|l| l.invite)
            .and_then(|v| v.as_i64().or_else(|| v.as_str().and_then(|s| s.parse().ok())))
            .unwrap_or(0))
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
                let content = MemberContent { membership: "leave", reason, ..MemberContent::default() };
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

    /// Content of an invite for that user.
    pub(crate) async fn invite_content(&self, user: UserNid, reason: Option<String>) -> Result<MemberContent> {
        if self.settings.no_profile_on_invite {
            return Ok(MemberContent { membership: "invite", reason, ..MemberContent::default() });
        }
        self.content("invite", user, reason).await
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
                let content = MemberContent { membership: "leave", reason, ..MemberContent::default() };
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
        let content = MemberContent { membership: "ban", reason, ..MemberContent::default() };
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
        let content = MemberContent { membership: "leave", reason, ..MemberContent::default() };
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

    /// Writes the user's present name and avatar into the rooms they are joined to.
    ///
    /// # Errors
    /// If the database fails; a room that refuses is passed over.
    pub async fn propagate_profile(&self, who: &Requester) -> Result<()> {
        for nid in self.store.joined_rooms(who.user_nid).await? {
            let room = self.state.room_by_nid(nid).await?;
            let mut content = self.content("join", who.user_nid, None).await?;
            let old: Option<Map<String, Value>> = self
                .state
                .current_entry(&room, "m.room.member", who.user_id.as_str())
                .await?
                .and_then(|e| e.pdu.content_as());
            // What else stands in the event (a space's badge, the voucher of a restricted join) stays.
            content.more = old.unwrap_or_default();
            for key in ["membership", "displayname", "avatar_url", "reason", "is_direct", "third_party_invite"] {
                content.more.remove(key);
            }
            if let Err(e) = self.write(&room, who, &who.user_id, &content, None).await {
                tracing::debug!(room.id = %room.room_id, error = %e, "the profile could not be shown in a room");
            }
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

    /// Content with the user's present name and avatar.
    pub(crate) async fn content(
        &self,
        membership: &'static str,
        user: UserNid,
        reason: Option<String>,
    ) -> Result<MemberContent> {
        let (displayname, avatar_url) = self.store.name_and_avatar(user).await?;
        Ok(MemberContent { membership, displayname, avatar_url, reason, ..MemberContent::default() })
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

impl MemberContent {
    /// Marks an invite as one to a conversation of two.
    pub(crate) fn direct(mut self, is_direct: bool) -> Self {
        self.is_direct = is_direct.then_some(true);
        self
    }
}
