//! Replaces a room by one of another version (spec: client-server API, "Room upgrades").
//!
//! The new room, its aliases and its place in the directory come about in one transaction; only then is the old one
//! closed.

use std::sync::Arc;

use hearth_base::{Error, Requester, Result, ids::UserNid};
use hearth_rules::{auth::PowerLevels, event::Draft, versions::RoomVersion};
use hearth_store::{
    events::{Appended, StoredEvent},
    rooms::Room,
    state::StateMap,
};
use ruma::{
    EventId, OwnedRoomId, OwnedUserId, RoomAliasId, RoomId, RoomVersionId,
    events::{TimelineEventType, room::member::MembershipState},
};
use serde_json::{Map, Value, json};

use super::{
    Rooms,
    create::{Drafting, invalid_state},
};
use crate::{
    events::{Arrival, Arrived, Outgoing, check_may_write},
    membership::MemberContent,
    state::Tombstone,
};

/// State that goes along, in this order. Power levels come last: until they are set, the new creator may do everything.
const MOVED: [&str; 9] = [
    "m.room.server_acl",
    "m.room.encryption",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.guest_access",
    "m.room.history_visibility",
    "m.room.join_rules",
    "m.room.canonical_alias",
];
/// Bans and children of a space that go along at most.
const MAX_MOVED: usize = 2_000;
/// What the number of a power level is never below for those who made the room.
const CREATOR: i64 = 100;
/// So long after an upgrade who asks for it again is taken not to have heard the answer, ms.
const AGAIN_MS: u64 = 600_000;
/// Power to close a room whose creators stand above all numbers (spec: `createRoom`).
const TOMBSTONE: i64 = 150;

impl Rooms {
    /// Replaces a room; gives the new one's id.
    ///
    /// # Errors
    /// 400 `M_UNSUPPORTED_ROOM_VERSION`, 403 for those who may not close the room.
    pub async fn upgrade(
        &self,
        who: &Requester,
        room_id: &RoomId,
        version: &RoomVersionId,
        additional_creators: &[OwnedUserId],
    ) -> Result<OwnedRoomId> {
        check_may_write(who)?;
        let version = self.version(Some(version))?;
        let old = self.state.room(room_id).await?;
        // Bans go along, and all of them.
        let old = if old.head.partial { self.state.whole(old.nid).await? } else { old };
        let refused = || Error::forbidden("You cannot upgrade this room");
        if self.state.membership(old.nid, who.user_nid).await? != MembershipState::Join {
            return Err(refused());
        }
        let lane = self.upgrades.get_with(old.nid, Arc::default);
        let _one = lane.lock().await;
        let old = self.state.room(room_id).await?;
        let levels = self.state.power_levels(&old).await?;
        if !levels.can_send(&who.user_id, &TimelineEventType::RoomTombstone, true) {
            return Err(refused());
        }
        if let Some(made) = self.replaced_just_now(who, &old, version).await? {
            return Ok(made);
        }
        let coming = self.membership.sets_out(who.user_nid);
        let (room_id, tombstone) = self.replacement(who, &old, &levels, version, additional_creators).await?;
        self.entomb(who, &old, &room_id, tombstone).await?;
        for step in [self.close(who, &old).await, self.give_up_aliases(who, &old).await] {
            if let Err(e) = step {
                // Those who may close a room may not always change its power levels or its aliases.
                tracing::debug!(room.id = %old.room_id, error = %e, "a replaced room stays as it was in part");
            }
        }
        let new = self.state.room(&room_id).await?;
        self.membership.arrives(coming, who, &room_id).await;
        self.membership.follow(who, &new).await;
        Ok(room_id)
    }

    /// The room that a user has replaced another by a moment ago, if it is of that version: whoever did not get the answer
    /// asks again, and wants no second one.
    async fn replaced_just_now(
        &self,
        who: &Requester,
        old: &Room,
        version: &RoomVersion,
    ) -> Result<Option<OwnedRoomId>> {
        let Some(event) = self.state.current_entry(old, "m.room.tombstone", "").await? else { return Ok(None) };
        let age_ms = self.clock.now_ms().saturating_sub(event.pdu.origin_server_ts());
        let Some(Tombstone { replacement_room }) = event.pdu.content_as() else { return Ok(None) };
        if event.pdu.sender() != who.user_id || age_ms > AGAIN_MS {
            return Ok(None);
        }
        let Some(nid) = self.store.room_nid(&replacement_room).await? else { return Ok(None) };
        let new = self.state.room_by_nid(nid).await?;
        let create = self.state.current_entry(&new, "m.room.create", "").await?;
        let of_them = create.is_some_and(|e| e.pdu.sender() == who.user_id) && new.version == version.id;
        Ok(of_them.then_some(replacement_room))
    }

    /// Makes the new room. Since what is known of the old one in the new is how it ended, that comes first where it can: since
    /// version 12 rooms have no name before they are made.
    async fn replacement(
        &self,
        who: &Requester,
        old: &Room,
        levels: &PowerLevels,
        version: &'static RoomVersion,
        additional_creators: &[OwnedUserId],
    ) -> Result<(OwnedRoomId, Option<Arrival>)> {
        let published = self.store.is_published(old.nid).await?;
        let state = self.state.current(old).await?;
        let moved = self.moved(&state, who).await?;
        let power = self.power_again(&state, who, levels, version, additional_creators).await?;
        let own = self.membership.content("join", who.user_nid, None).await?;
        let now = self.birth_ms();
        let room = self.unmade(version, who.user_nid, published, now).await?;
        let (nid, old_nid) = (room.nid, old.nid);
        let draft = Drafting { sender: who.user_id.clone(), nid: who.user_nid, now };
        let room_id = (!version.room_id_is_create_hash()).then(|| room.room_id.clone());
        let tombstone = match &room_id {
            Some(room_id) => {
                let content = tombstone(room_id);
                let closing = draft.event(Some(old.room_id.clone()), TimelineEventType::RoomTombstone, "", &content)?;
                Some(self.events.offer(old.nid, &closing).await?)
            }
            None => None,
        };
        let last = tombstone.as_ref().map(|t| t.pdu.event_id());
        let create = self.create_again(who, old, &state, version, additional_creators, last).await?;
        let create = draft.event(room_id, TimelineEventType::RoomCreate, "", &create)?;
        let rest = |room_id: &RoomId| first_state(&draft, room_id, &own, &moved, power.as_ref());
        let append = self.events.first_events(room, create, rest).await.map_err(invalid_state)?;
        let room_id = append.room.room_id.clone();
        self.store
            .write(move |tx| {
                Box::pin(async move {
                    if let Appended::Conflict = tx.append(&append).await? {
                        return Err(Error::broken("a new room was there already"));
                    }
                    tx.move_aliases(old_nid, nid).await?;
                    if published {
                        tx.publish_room(nid, true).await?;
                        tx.publish_room(old_nid, false).await?;
                    }
                    Ok(())
                })
            })
            .await?;
        Ok((room_id, tombstone))
    }

    /// Ends the old room.
    async fn entomb(&self, who: &Requester, old: &Room, new: &RoomId, tombstone_made: Option<Arrival>) -> Result<()> {
        if let Some(made) = tombstone_made {
            match self.events.receive(old.nid, vec![made]).await?.pop() {
                Some(Arrived::Placed) => return Ok(()),
                other => tracing::info!(room.id = %old.room_id, "the end of a room is made anew: {other:?}"),
            }
        }
        self.set_state(who, old, TimelineEventType::RoomTombstone, &tombstone(new)).await
    }

    async fn create_again(
        &self,
        who: &Requester,
        old: &Room,
        state: &StateMap,
        version: &RoomVersion,
        additional_creators: &[OwnedUserId],
        last: Option<&EventId>,
    ) -> Result<Map<String, Value>> {
        let create = self.state.entry(state, "m.room.create", "").await?;
        let mut content: Map<String, Value> = create.and_then(|e| e.pdu.content_as()).unwrap_or_default();
        for key in ["creator", "additional_creators"] {
            content.remove(key);
        }
        let mut predecessor = json!({ "room_id": old.room_id });
        if let Some(last) = last {
            predecessor["event_id"] = json!(last);
        }
        content.insert("predecessor".to_owned(), predecessor);
        content.insert("room_version".to_owned(), json!(version.id));
        if !version.rules.authorization.use_room_create_sender {
            content.insert("creator".to_owned(), json!(who.user_id));
        }
        if version.rules.authorization.additional_room_creators && !additional_creators.is_empty() {
            content.insert("additional_creators".to_owned(), json!(additional_creators));
        }
        Ok(content)
    }

    /// Events of the old room that go along, but for power levels.
    async fn moved(&self, state: &StateMap, who: &Requester) -> Result<Vec<Arc<StoredEvent>>> {
        let mut moved = Vec::new();
        for event_type in MOVED {
            moved.extend(self.state.entry(state, event_type, "").await?);
        }
        let keys: Vec<_> = state.keys().copied().collect();
        let names = self.store.keys(&keys).await?;
        let (children, members): (Vec<_>, Vec<_>) = state
            .values()
            .zip(&names)
            .filter(|(_, name)| matches!(name.event_type.as_str(), "m.space.child" | "m.room.member"))
            .partition(|(_, name)| name.event_type == "m.space.child");
        let nids = |list: &[(&_, &_)]| list.iter().map(|(nid, _): &(&hearth_base::ids::EventNid, _)| **nid).collect();
        let nids: [Vec<_>; 2] = [nids(&children), nids(&members)];
        let [children, members] = nids;
        let children = self.store.events(&children).await?;
        moved.extend(children.into_iter().filter(|e| e.pdu.content_json() != "{}").take(MAX_MOVED));
        // Who is banned from the old room shall not walk into the new one.
        let members = self.store.events(&members).await?;
        let banned = members.into_iter().filter(|e| e.pdu.membership() == "ban");
        moved.extend(banned.filter(|e| e.pdu.state_key() != Some(who.user_id.as_str())).take(MAX_MOVED));
        Ok(moved)
    }

    /// The old power levels as the new version can hold them.
    async fn power_again(
        &self,
        state: &StateMap,
        who: &Requester,
        levels: &PowerLevels,
        version: &RoomVersion,
        additional_creators: &[OwnedUserId],
    ) -> Result<Option<Map<String, Value>>> {
        let Some(event) = self.state.entry(state, "m.room.power_levels", "").await? else { return Ok(None) };
        let mut content: Map<String, Value> = event.pdu.content_as().unwrap_or_default();
        // Before version 10 numbers could be texts.
        content.values_mut().for_each(as_number);
        let top = content.values().flat_map(numbers).max().unwrap_or(CREATOR).max(CREATOR);
        let mut users: Map<String, Value> =
            content.get("users").and_then(Value::as_object).cloned().unwrap_or_default();
        if version.rules.authorization.explicitly_privilege_room_creators {
            // Creators stand above all numbers and must have none.
            for user in additional_creators.iter().chain([&who.user_id]) {
                users.remove(user.as_str());
            }
            let events = content.entry("events").or_insert_with(|| json!({}));
            if let Some(events) = events.as_object_mut() {
                let needed = events.get("m.room.tombstone").and_then(Value::as_i64).unwrap_or(0).max(TOMBSTONE);
                events.insert("m.room.tombstone".to_owned(), json!(needed));
            }
        } else if levels.creators().iter().any(|user| !users.contains_key(user.as_str())) {
            // Who stood above all numbers needs one now.
            for user in levels.creators().iter().filter(|user| levels.can(user, top)) {
                users.entry(user.to_string()).or_insert_with(|| json!(top));
            }
        }
        content.insert("users".to_owned(), Value::Object(users));
        Ok(Some(content))
    }

    /// Lets nobody without power speak in or be invited to the old room any more.
    async fn close(&self, who: &Requester, old: &Room) -> Result<()> {
        let Some(event) = self.state.current_entry(old, "m.room.power_levels", "").await? else { return Ok(()) };
        let mut content: Map<String, Value> = event.pdu.content_as().unwrap_or_default();
        let of = |content: &Map<String, Value>, key: &str| content.get(key).and_then(Value::as_i64).unwrap_or(0);
        let needed = (of(&content, "users_default") + 1).max(50);
        for key in ["events_default", "invite"] {
            if of(&content, key) < needed {
                content.insert(key.to_owned(), json!(needed));
            }
        }
        self.set_state(who, old, TimelineEventType::RoomPowerLevels, &Value::Object(content)).await
    }

    /// The aliases of this server lead to the new room, so the old one does not go by them any longer.
    async fn give_up_aliases(&self, who: &Requester, old: &Room) -> Result<()> {
        let Some(event) = self.state.current_entry(old, "m.room.canonical_alias", "").await? else { return Ok(()) };
        let mut content: Map<String, Value> = event.pdu.content_as().unwrap_or_default();
        let before = content.clone();
        let is_ours = |alias: &Value| {
            let alias = alias.as_str().and_then(|alias| <&RoomAliasId>::try_from(alias).ok());
            alias.is_some_and(|alias| alias.server_name() == self.server_name)
        };
        if content.get("alias").is_some_and(is_ours) {
            content.remove("alias");
        }
        if let Some(others) = content.get_mut("alt_aliases").and_then(Value::as_array_mut) {
            others.retain(|alias| !is_ours(alias));
            if others.is_empty() {
                content.remove("alt_aliases");
            }
        }
        if content == before {
            return Ok(());
        }
        self.set_state(who, old, TimelineEventType::RoomCanonicalAlias, &Value::Object(content)).await
    }

    async fn set_state(
        &self,
        who: &Requester,
        room: &Room,
        event_type: TimelineEventType,
        content: &Value,
    ) -> Result<()> {
        let content = serde_json::value::to_raw_value(content).map_err(|e| Error::fault("writing state", e))?;
        let out =
            Outgoing { event_type, state_key: Some(String::new()), content: &content, txn_id: None, timestamp: None };
        self.events.send(who, &room.room_id, out).await.map(drop)
    }
}

/// What the old room says of the new.
fn tombstone(new: &RoomId) -> Value {
    json!({ "body": "This room has been replaced", "replacement_room": new })
}

/// The events after the create event.
fn first_state(
    draft: &Drafting,
    room_id: &RoomId,
    own: &MemberContent,
    moved: &[Arc<StoredEvent>],
    power: Option<&Map<String, Value>>,
) -> Result<Vec<(UserNid, Draft)>> {
    let room = || Some(room_id.to_owned());
    let join = draft.event(room(), TimelineEventType::RoomMember, draft.sender.as_str(), own)?;
    let mut out = vec![(draft.nid, join)];
    for event in moved {
        let state_key = event.pdu.state_key().unwrap_or_default().to_owned();
        let kind = event.pdu.event_type().clone();
        let content = event.pdu.content();
        let event = Draft::new(room(), draft.sender.clone(), kind, Some(state_key), content, draft.now)?;
        out.push((draft.nid, event));
    }
    if let Some(power) = power {
        out.push((draft.nid, draft.event(room(), TimelineEventType::RoomPowerLevels, "", power)?));
    }
    Ok(out)
}

/// Makes numbers of texts, one level deep.
fn as_number(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Ok(number) = text.trim().parse::<i64>() {
                *value = json!(number);
            }
        }
        Value::Object(map) => map.values_mut().for_each(|inner| {
            if inner.is_string() {
                as_number(inner);
            }
        }),
        _ => {}
    }
}

/// The numbers in a value, one level deep.
fn numbers(value: &Value) -> Vec<i64> {
    match value {
        Value::Object(map) => map.values().filter_map(Value::as_i64).collect(),
        other => other.as_i64().into_iter().collect(),
    }
}
