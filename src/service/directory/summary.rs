//! What is told of a room to those who are not in it (spec: `RoomSummary`).

use hearth_base::Result;
use hearth_store::{Store, rooms::Room, state::StateMap};
use ruma::OwnedRoomId;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::state::State;

/// A room from outside. Read from other servers, too: what they leave out is what is assumed then.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// Its id.
    pub room_id: OwnedRoomId,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Its alias.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canonical_alias: Option<String>,
    /// Its avatar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<String>,
    /// What kind of room it is, if of a special one (a space).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room_type: Option<String>,
    /// How it is joined.
    #[serde(default = "public")]
    pub join_rule: String,
    /// Whose members may join, for restricted rooms.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_room_ids: Vec<OwnedRoomId>,
    /// Whether everybody may read it.
    #[serde(default)]
    pub world_readable: bool,
    /// Whether guests may join.
    #[serde(default)]
    pub guest_can_join: bool,
    /// How many are in it.
    #[serde(default)]
    pub num_joined_members: u64,
    /// How it is encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption: Option<String>,
    /// Its version; empty if another server does not say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub room_version: String,
}

fn public() -> String {
    "public".to_owned()
}

/// The texts that summaries read, from whatever event.
#[derive(Default, Deserialize)]
struct Texts {
    name: Option<Value>,
    topic: Option<Value>,
    alias: Option<Value>,
    url: Option<Value>,
    r#type: Option<Value>,
    history_visibility: Option<Value>,
    guest_access: Option<Value>,
    algorithm: Option<Value>,
}

#[derive(Default, Deserialize)]
struct JoinRules {
    join_rule: Option<String>,
    #[serde(default)]
    allow: Vec<Value>,
}

impl Summary {
    pub(super) async fn of(store: &Store, rooms: &State, room: &Room, state: &StateMap) -> Result<Self> {
        let texts = async |event_type: &str| content::<Texts>(rooms, state, event_type).await;
        let rules: JoinRules = content(rooms, state, "m.room.join_rules").await?;
        let allowed = rules
            .allow
            .iter()
            .filter(|a| a.get("type").and_then(Value::as_str) == Some("m.room_membership"))
            .filter_map(|a| a.get("room_id")?.as_str()?.try_into().ok());
        let (joined, _) = store.member_counts(room.nid).await?;
        let visibility = text(texts("m.room.history_visibility").await?.history_visibility);
        Ok(Self {
            room_id: room.room_id.clone(),
            name: text(texts("m.room.name").await?.name),
            topic: text(texts("m.room.topic").await?.topic),
            canonical_alias: text(texts("m.room.canonical_alias").await?.alias),
            avatar_url: text(texts("m.room.avatar").await?.url),
            room_type: text(texts("m.room.create").await?.r#type),
            allowed_room_ids: allowed.collect(),
            join_rule: rules.join_rule.unwrap_or_else(|| "invite".to_owned()),
            world_readable: visibility.as_deref() == Some("world_readable"),
            guest_can_join: text(texts("m.room.guest_access").await?.guest_access).as_deref() == Some("can_join"),
            num_joined_members: joined,
            encryption: text(texts("m.room.encryption").await?.algorithm),
            room_version: room.version.to_string(),
        })
    }

    /// What of it stands in the list of published rooms (spec: `PublishedRoomsChunk`): there are clients that take no more.
    pub(super) fn published(&self) -> Self {
        Self { allowed_room_ids: Vec::new(), encryption: None, room_version: String::new(), ..self.clone() }
    }

    /// Whether people who are not in the room may hear of it at all (spec: `GET /room_summary`).
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.world_readable || matches!(self.join_rule.as_str(), "public" | "knock" | "knock_restricted")
    }

    /// Whether a text stands in what people would look for, given in lower case.
    pub(super) fn mentions(&self, term: &str) -> bool {
        [&self.name, &self.topic, &self.canonical_alias]
            .into_iter()
            .flatten()
            .any(|text| text.to_lowercase().contains(term))
    }
}

async fn content<T: DeserializeOwned + Default>(rooms: &State, state: &StateMap, event_type: &str) -> Result<T> {
    let event = rooms.entry(state, event_type, "").await?;
    Ok(event.and_then(|e| e.pdu.content_as()).unwrap_or_default())
}

/// A text that is one and is not empty: anything may stand in an event.
fn text(value: Option<Value>) -> Option<String> {
    match value {
        Some(Value::String(text)) if !text.is_empty() => Some(text),
        _ => None,
    }
}
