//! Invites of other servers' users to ours (server-server API, `PUT /invite`).

use std::sync::Arc;

use hearth_base::{
    Doing, Error, Result,
    ids::{RoomNid, UserNid},
};
use hearth_rules::{auth, event::Pdu, versions::RoomVersion};
use hearth_store::events::{NewEvent, NewMembership, NewPushAction};
use http::StatusCode;
use ruma::{
    EventId, OwnedUserId, RoomId, ServerName, UserId,
    events::{TimelineEventType, room::member::MembershipState},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Joins, stripped::Care, version_named};
use crate::{
    account_data::invites::{self, INVITE_PERMISSION},
    events::Arrival,
    federation::outliers::auth_ids,
    relations::MAIN,
};

/// What another server sends to invite one of ours.
#[derive(Debug, Deserialize)]
pub struct Invitation {
    /// The room's version.
    pub room_version: String,
    /// The event.
    pub event: Box<RawValue>,
    /// What may be known of the room.
    #[serde(default)]
    pub invite_room_state: Vec<Box<RawValue>>,
}

impl Invitation {
    /// An invite in the form for rooms of versions 1 and 2, which looks the same in both: of which it is stands in the
    /// create event, if that is shown.
    #[must_use]
    pub fn of_old_room(event: Box<RawValue>) -> Self {
        #[derive(Deserialize)]
        struct Event {
            #[serde(default)]
            unsigned: Unsigned,
        }
        #[derive(Default, Deserialize)]
        struct Unsigned {
            #[serde(default)]
            invite_room_state: Vec<Box<RawValue>>,
        }
        #[derive(Deserialize)]
        struct Create {
            #[serde(rename = "type")]
            event_type: String,
            content: Content,
        }
        #[derive(Deserialize)]
        struct Content {
            room_version: Option<String>,
        }
        let shown =
            serde_json::from_str::<Event>(event.get()).map(|e| e.unsigned.invite_room_state).unwrap_or_default();
        let second = shown
            .iter()
            .filter_map(|raw| serde_json::from_str::<Create>(raw.get()).ok())
            .any(|create| create.event_type == "m.room.create" && create.content.room_version.as_deref() == Some("2"));
        let room_version = if second { "2" } else { "1" }.to_owned();
        Self { room_version, event, invite_room_state: shown }
    }
}

impl Joins {
    /// Takes an invite for a user of ours; gives the event with our signature.
    ///
    /// # Errors
    /// 400 `M_INCOMPATIBLE_ROOM_VERSION`, `M_BAD_JSON`, `M_INVALID_PARAM`, `M_MISSING_PARAM`; 403 `M_FORBIDDEN` for bad
    /// signatures, for users there are not, where invites are not allowed, and by the room's ACL; 403 `M_INVITE_BLOCKED` for
    /// who wants none.
    pub async fn invited(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
        invitation: &Invitation,
    ) -> Result<Box<RawValue>> {
        let version = version_named(&invitation.room_version)?;
        let event = Pdu::parse_remote(invitation.event.get(), version)?;
        let user = self.check_invite(event.claimed(), origin, room_id, event_id, version)?;
        let nid = self.may_be_invited(&user).await?;
        if self.settings.block_invites {
            return Err(Error::forbidden("This server takes no invites"));
        }
        let resident = self.resident(room_id).await?;
        if let Some(room) = &resident {
            self.check_acl(room, origin).await?;
        }
        let pdu = self.verified(event, version).await?;
        // Asked for since version 12, which alone needs it to be true: there the create event is what the room is.
        let care = if version.room_id_is_create_hash() { Care::Strict } else { Care::None };
        let stripped = self.stripped(room_id, version, &invitation.invite_room_state, &pdu, care).await?;
        let pdu = pdu.co_signed(version, self.server_keys.signer())?;
        let answer = RawValue::from_string(pdu.json().to_owned()).doing("writing an invite")?;
        match resident {
            // It comes by a transaction as well; what we can place now is there the sooner.
            Some(room) => {
                if self.events.is_vetted(&room, &pdu).await?
                    && let Some(arrival) = self.invite_arrival(&pdu, room.nid, version).await?
                {
                    self.events.receive(room.nid, vec![arrival]).await?;
                }
            }
            None => self.keep_invite(room_id, version, pdu, nid, stripped).await?,
        }
        Ok(answer)
    }

    /// Whether a user of ours is there and takes invites; gives their number.
    ///
    /// # Errors
    /// 403 `M_FORBIDDEN` and `M_INVITE_BLOCKED`.
    pub async fn may_be_invited(&self, user: &UserId) -> Result<UserNid> {
        let nobody = || Error::forbidden(format!("There is no user {user}"));
        let nid = self.store.user_nid(user).await?.ok_or_else(nobody)?;
        let account = self.store.account(nid).await?.ok_or_else(nobody)?;
        if account.deactivated {
            return Err(nobody());
        }
        if invites::blocks(self.store.account_data(nid, None, INVITE_PERMISSION).await?.as_deref()) {
            let why = format!("{user} does not take invites");
            return Err(Error::told(StatusCode::FORBIDDEN, "M_INVITE_BLOCKED", why));
        }
        Ok(nid)
    }

    /// Whether an event is an invite of a user of ours by one of `origin`; gives whom it invites.
    fn check_invite(
        &self,
        event: &Pdu,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
        version: &RoomVersion,
    ) -> Result<OwnedUserId> {
        let user = event.state_key().and_then(|key| OwnedUserId::try_from(key).ok());
        let what_is_wrong = if event.event_id() != event_id {
            "The event is not the one of the path"
        } else if event.room_id() != room_id || version.room_id_is_create_hash() != room_id.server_name().is_none() {
            "The event is of another room"
        } else if *event.event_type() != TimelineEventType::RoomMember || event.membership() != "invite" {
            "The event is no invite"
        } else if event.sender().server_name() != origin {
            "The event is of another server's user"
        } else {
            match user {
                Some(user) if user.server_name() == self.name() => return Ok(user),
                _ => "The event invites nobody of this server",
            }
        };
        Err(Error::invalid_param(what_is_wrong))
    }

    /// The invite's place in a room we are in, if we have all it leans on.
    async fn invite_arrival(&self, pdu: &Pdu, room: RoomNid, version: &RoomVersion) -> Result<Option<Arrival>> {
        if self.store.event_by_id(pdu.event_id()).await?.is_some() {
            return Ok(None);
        }
        let ids = auth_ids(version, pdu);
        let mut auth = self.store.events_by_id(&ids).await?;
        auth.retain(|e| e.room == room);
        let prev = self.store.events_by_id(pdu.prev_events()).await?;
        let placed = prev.iter().filter(|e| e.room == room && e.after.is_some()).count();
        let by_id = |id: &EventId| auth.iter().find(|e| e.event_id() == id).map(|e| e.pdu.clone());
        if auth.len() != ids.len()
            || placed == 0
            || placed != pdu.prev_events().len()
            || auth::check_auth_events(version, pdu, by_id).is_err()
            || self.events.check_now(room, pdu).await.is_err()
        {
            return Ok(None);
        }
        let nids = auth.iter().map(|e| e.nid).collect();
        Ok(Some(Arrival::placed(self.store.new_event_nid().await?, Arc::new(pdu.clone()), nids)))
    }

    async fn keep_invite(
        &self,
        room_id: &RoomId,
        version: &'static RoomVersion,
        pdu: Pdu,
        user: UserNid,
        stripped: String,
    ) -> Result<()> {
        // Whoever made the room, we only know who invites.
        let creator = self.store.intern_user(pdu.sender()).await?;
        let room = self.stub(room_id.to_owned(), version, creator).await?;
        // As in rooms that we are in.
        let outcome = self.push.evaluate(room, &pdu, creator, MAIN, || async { Ok(None) }).await?;
        let push = outcome.actions.into_iter().find(|action| action.user == user);
        self.note(room, Arc::new(pdu), (user, MembershipState::Invite), Some(stripped), push).await
    }

    /// Notes what a user of ours is in a room we are not in.
    pub(super) async fn tell(
        &self,
        room: RoomNid,
        pdu: Arc<Pdu>,
        user: UserNid,
        membership: MembershipState,
        stripped: Option<String>,
    ) -> Result<()> {
        self.note(room, pdu, (user, membership), stripped, None).await
    }

    async fn note(
        &self,
        room: RoomNid,
        pdu: Arc<Pdu>,
        (user, membership): (UserNid, MembershipState),
        stripped: Option<String>,
        push: Option<NewPushAction>,
    ) -> Result<()> {
        let sender = self.store.intern_user(pdu.sender()).await?;
        let state_key = pdu.state_key().unwrap_or_default();
        let key = self.store.intern_key("m.room.member", state_key).await?;
        let nid = self.store.new_event_nid().await?;
        let event = NewEvent::outlier(nid, pdu, sender, Some(key), None, false);
        let is = NewMembership { user, membership, local: true, stripped };
        self.store.tell_from_outside(room, event, is, push).await
    }
}
