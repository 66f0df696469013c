//! A new room: its first events in the order of the specification, its alias and its place in the directory, in one
//! transaction (spec: client-server API, "Creation").

use hearth_base::{
    Error, Requester, Result,
    ids::{StreamPos, UserNid},
};
use hearth_rules::{event::Draft, versions::RoomVersion};
use hearth_store::{
    events::Appended,
    rooms::{Room, RoomHead},
};
use ruma::{OwnedRoomAliasId, OwnedRoomId, OwnedUserId, RoomAliasId, RoomId, RoomVersionId, events::TimelineEventType};
use serde_json::{Map, Value, json, value::RawValue};

use super::{Preset, Rooms};
use crate::{
    events::check_may_write,
    membership::{ByAddress, MemberContent},
};

mod invites;

/// A room asked for.
#[derive(Debug, Default)]
pub struct NewRoom {
    /// Its version; `None` for the default.
    pub version: Option<RoomVersionId>,
    /// Whether the room directory lists it.
    pub published: bool,
    /// Its preset; by default `public_chat` for published rooms, else `private_chat`.
    pub preset: Option<Preset>,
    /// Local part of its alias.
    pub alias: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// Its topic.
    pub topic: Option<String>,
    /// Further keys of the create event.
    pub creation_content: Map<String, Value>,
    /// State events: type, state key, content.
    pub initial_state: Vec<(TimelineEventType, String, Box<RawValue>)>,
    /// Keys to put over the default power levels.
    pub power_levels: Map<String, Value>,
    /// Who is invited.
    pub invite: Vec<OwnedUserId>,
    /// Who is invited by address. Identity servers say who that is, so it gives nobody the power that [`Self::invite`] gives.
    pub invite_3pid: Vec<ByAddress>,
    /// Whether the invites are to a conversation of two.
    pub is_direct: bool,
}

/// A room that was made.
#[derive(Debug)]
pub struct Created {
    /// Its id.
    pub room_id: OwnedRoomId,
    /// Its alias, if one was asked for.
    pub alias: Option<OwnedRoomAliasId>,
}

/// State events a client may set at creation; beyond, the body would be too large anyway.
const MAX_INITIAL_STATE: usize = 200;

impl Rooms {
    /// Creates a room with all its first events in one transaction.
    ///
    /// # Errors
    /// 400 `M_UNSUPPORTED_ROOM_VERSION`, `M_INVALID_ROOM_STATE`, 409 `M_ROOM_IN_USE` for a taken alias, 403 for what the
    /// room's own rules refuse; what [`crate::membership::Membership::invite_address`] refuses before an address is known to
    /// be anybody's.
    pub async fn create(&self, who: &Requester, new: NewRoom) -> Result<Created> {
        check_may_write(who)?;
        let version = self.version(new.version.as_ref())?;
        if new.initial_state.len() > MAX_INITIAL_STATE {
            return Err(Error::invalid_param("Too many initial state events"));
        }
        let preset = new.preset.unwrap_or(if new.published { Preset::Public } else { Preset::Private });
        let alias = new.alias.as_deref().map(|a| self.alias(a)).transpose()?;
        if let Some(alias) = &alias
            && self.store.alias(alias).await?.is_some()
        {
            return Err(in_use(alias));
        }
        let names = |(kind, key, _): &&(TimelineEventType, String, Box<RawValue>)| {
            *kind == TimelineEventType::RoomCanonicalAlias && key.is_empty()
        };
        for (_, _, content) in new.initial_state.iter().filter(names) {
            crate::directory::Directory::check_first_aliases(content, alias.as_deref())?;
        }
        let invites = self.invites(&new, who).await?;
        let coming = self.membership.sets_out(who.user_nid);
        let own = self.membership.content("join", who.user_nid, None).await?;
        let now = self.birth_ms();
        let room = self.unmade(version, who.user_nid, new.published, now).await?;
        let nid = room.nid;
        let draft = Drafting { sender: who.user_id.clone(), nid: who.user_nid, now };
        let room_id = (!version.room_id_is_create_hash()).then(|| room.room_id.clone());
        let create = draft.event(
            room_id,
            TimelineEventType::RoomCreate,
            "",
            &self.create_content(who, &new, preset, version)?,
        )?;
        let rest =
            |room_id: &RoomId| self.rest(&draft, room_id, &new, preset, version, &own, &invites, alias.as_deref(), who);
        let append = self.events.first_events(room, create, rest).await.map_err(invalid_state)?;
        let room_id = append.room.room_id.clone();
        if let Some(alias) = &alias {
            self.directory.check_alias_rules(who, &room_id, alias)?;
        }
        if new.published {
            let aliases: Vec<&str> = alias.iter().map(|a| a.as_str()).collect();
            self.directory.check_publication_rules(who, &room_id, &aliases)?;
        }
        let found = self.found(who, &new, version, &append).await?;
        let (published, creator, named) = (new.published, who.user_nid, alias.clone());
        self.store
            .write(move |tx| {
                Box::pin(async move {
                    if let Some(alias) = &alias {
                        tx.insert_alias(alias, nid, creator).await?;
                    }
                    match tx.append(&append).await? {
                        Appended::Done(_) => {}
                        Appended::Conflict => return Err(Error::broken("a new room was there already")),
                    }
                    if published {
                        tx.publish_room(nid, true).await?;
                    }
                    Ok(())
                })
            })
            .await
            .map_err(|e| match (e.errcode(), &named) {
                // Somebody else took it since we looked.
                ("M_ROOM_IN_USE", Some(alias)) => in_use(alias),
                _ => e,
            })?;
        self.membership.arrives(coming, who, &room_id).await;
        self.invite_others(who, &new, &room_id).await?;
        self.invite_by_address(who, &new, found, &room_id).await?;
        Ok(Created { room_id, alias: named })
    }

    /// A room without any event yet.
    pub(super) async fn unmade(
        &self,
        version: &RoomVersion,
        creator: UserNid,
        published: bool,
        now: u64,
    ) -> Result<Room> {
        Ok(Room {
            nid: self.store.new_room_nid().await?,
            // Versions before 12 name rooms at random; 12 takes the name from the create event.
            room_id: RoomId::new_v1(&self.server_name),
            version: version.id.clone(),
            published,
            creator,
            created_ms: i64::try_from(now).unwrap_or(i64::MAX),
            head: RoomHead {
                rev: 0,
                forked: false,
                entered: 0,
                snap: self.store.new_snap_nid().await?,
                depth: 0,
                extremities: Vec::new(),
                counter: 0,
                pos: StreamPos::ZERO,
                partial: false,
                whole: StreamPos::ZERO,
                open: false,
            },
        })
    }
    fn alias(&self, localpart: &str) -> Result<OwnedRoomAliasId> {
        if localpart.is_empty() || localpart.contains([':', '#', '\0']) || localpart.chars().any(char::is_whitespace) {
            return Err(Error::invalid_param("`room_alias_name` is not the local part of an alias"));
        }
        RoomAliasId::parse(format!("#{localpart}:{}", self.server_name))
            .map_err(|_| Error::invalid_param("`room_alias_name` is not the local part of an alias"))
    }

    fn create_content(
        &self,
        who: &Requester,
        new: &NewRoom,
        preset: Preset,
        version: &RoomVersion,
    ) -> Result<Map<String, Value>> {
        let mut content = new.creation_content.clone();
        content.insert("room_version".to_owned(), json!(version.id));
        if version.rules.authorization.use_room_create_sender {
            content.remove("creator");
        } else {
            content.insert("creator".to_owned(), json!(who.user_id));
        }
        if version.rules.authorization.additional_room_creators && preset == Preset::TrustedPrivate {
            let creators = content.entry("additional_creators").or_insert_with(|| json!([]));
            let Some(creators) = creators.as_array_mut() else {
                return Err(Error::bad_json("`additional_creators` is not a list of user ids"));
            };
            for user in new.invite.iter().filter(|u| **u != who.user_id) {
                if !creators.iter().any(|c| c.as_str() == Some(user.as_str())) {
                    creators.push(json!(user));
                }
            }
        }
        Ok(content)
    }

    /// All events after the create event, in the order of the specification.
    #[expect(clippy::too_many_arguments, reason = "all of it goes into one list of events")]
    fn rest(
        &self,
        draft: &Drafting,
        room_id: &RoomId,
        new: &NewRoom,
        preset: Preset,
        version: &RoomVersion,
        own: &MemberContent,
        invites: &[(OwnedUserId, MemberContent)],
        alias: Option<&RoomAliasId>,
        who: &Requester,
    ) -> Result<Vec<(UserNid, Draft)>> {
        use TimelineEventType as T;
        let mut out = Vec::with_capacity(8 + new.initial_state.len() + invites.len());
        let room = || Some(room_id.to_owned());
        let given = |t: &T| new.initial_state.iter().any(|(g, key, _)| g == t && key.is_empty());
        out.push((draft.nid, draft.event(room(), T::RoomMember, who.user_id.as_str(), own)?));
        if !given(&T::RoomPowerLevels) {
            let levels = self.power_levels(new, preset, version, who);
            out.push((draft.nid, draft.event(room(), T::RoomPowerLevels, "", &levels)?));
        }
        if let Some(alias) = alias
            && !given(&T::RoomCanonicalAlias)
        {
            out.push((draft.nid, draft.event(room(), T::RoomCanonicalAlias, "", &json!({ "alias": alias }))?));
        }
        let (join_rule, guests_may) = match preset {
            Preset::Private | Preset::TrustedPrivate => ("invite", true),
            Preset::Public => ("public", false),
        };
        let guests = guests_may.then(|| (T::RoomGuestAccess, json!({ "guest_access": "can_join" })));
        let by_preset = [
            (T::RoomJoinRules, json!({ "join_rule": join_rule })),
            (T::RoomHistoryVisibility, json!({ "history_visibility": "shared" })),
        ];
        // Without an event, guests are forbidden.
        for (kind, content) in by_preset.into_iter().chain(guests) {
            if !given(&kind) {
                out.push((draft.nid, draft.event(room(), kind, "", &content)?));
            }
        }
        if self.settings.encrypted_presets.contains(&preset) && !given(&T::RoomEncryption) {
            let content = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
            out.push((draft.nid, draft.event(room(), T::RoomEncryption, "", &content)?));
        }
        for (kind, state_key, content) in &new.initial_state {
            let event =
                Draft::new(room(), draft.sender.clone(), kind.clone(), Some(state_key.clone()), content, draft.now)?;
            out.push((draft.nid, event));
        }
        if let Some(name) = &new.name {
            out.push((draft.nid, draft.event(room(), T::RoomName, "", &json!({ "name": name }))?));
        }
        if let Some(topic) = &new.topic {
            let content = json!({ "topic": topic, "m.topic": { "m.text": [{ "body": topic }] } });
            out.push((draft.nid, draft.event(room(), T::RoomTopic, "", &content)?));
        }
        for (user, content) in invites {
            out.push((draft.nid, draft.event(room(), T::RoomMember, user.as_str(), content)?));
        }
        Ok(out)
    }

    fn power_levels(
        &self,
        new: &NewRoom,
        preset: Preset,
        version: &RoomVersion,
        who: &Requester,
    ) -> Map<String, Value> {
        let privileged = version.rules.authorization.explicitly_privilege_room_creators;
        let mut users = Map::new();
        if !privileged {
            users.insert(who.user_id.to_string(), json!(100));
            if preset == Preset::TrustedPrivate {
                users.extend(new.invite.iter().map(|u| (u.to_string(), json!(100))));
            }
        }
        let levels = json!({
            "users": users,
            "users_default": 0,
            "events": {
                "m.room.name": 50,
                "m.room.avatar": 50,
                "m.room.canonical_alias": 50,
                "m.room.power_levels": 100,
                "m.room.history_visibility": 100,
                "m.room.encryption": 100,
                "m.room.server_acl": 100,
                "m.room.tombstone": if privileged { 150 } else { 100 },
            },
            "events_default": 0,
            "state_default": 50,
            "ban": 50,
            "kick": 50,
            "redact": 50,
            "invite": if preset == Preset::Public { 50 } else { 0 },
            "historical": 100,
        });
        let Value::Object(mut levels) = levels else { return Map::new() };
        let by_config = self.settings.power_level_overrides.iter().filter(|(p, _)| *p == preset).map(|(_, o)| o);
        for over in by_config.chain([&new.power_levels]) {
            levels.extend(over.clone());
        }
        levels
    }
}

/// Who writes the first events, and when.
pub(super) struct Drafting {
    pub(super) sender: OwnedUserId,
    pub(super) nid: UserNid,
    pub(super) now: u64,
}

impl Drafting {
    pub(super) fn event(
        &self,
        room_id: Option<OwnedRoomId>,
        kind: TimelineEventType,
        state_key: &str,
        content: &impl serde::Serialize,
    ) -> Result<Draft> {
        Draft::of(room_id, self.sender.clone(), kind, Some(state_key.to_owned()), content, self.now)
    }
}

/// 400 here, though 409 where only an alias is asked for (spec: `createRoom`, `PUT /directory/room`).
fn in_use(alias: &RoomAliasId) -> Error {
    Error::told(http::StatusCode::BAD_REQUEST, "M_ROOM_IN_USE", format!("The alias {alias} is already taken"))
}

/// What a room's own rules refuse of its first events is the fault of the request (spec: `createRoom`, 400).
pub(super) fn invalid_state(e: Error) -> Error {
    match e {
        Error::Told(told) if told.errcode == "M_FORBIDDEN" => {
            Error::told(http::StatusCode::BAD_REQUEST, "M_INVALID_ROOM_STATE", told.error)
        }
        e => e,
    }
}
