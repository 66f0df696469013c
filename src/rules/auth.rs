//! May this event stand? The authorisation rules of the room versions (rooms/vN, "Authorisation rules"; server-server
//! API, "Checks performed on receipt of a PDU"), an adapter over ruma's.
//!
//! Three calls make the checks of a received event: [`check_auth_events`] (with the events it names; reject),
//! [`check_against`] the state before it (reject) and again the current state (soft-fail). An event of our own is
//! checked by [`check`], since its auth events are chosen from the current state. Who holds what power is [`levels`]'.

use std::sync::Arc;

use hearth_base::Error;
use ruma::{
    EventId, OwnedEventId, UserId,
    events::{StateEventType, TimelineEventType},
    state_res::{auth_types_for_event, check_state_dependent_auth_rules, check_state_independent_auth_rules},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    event::{Draft, Pdu, canonical::MAX_FIELD},
    versions::RoomVersion,
};

pub(crate) mod judged;
pub mod levels;

use judged::Judged;
pub use levels::PowerLevels;

/// The rule that an event breaks, in a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotAllowed(pub String);

impl From<NotAllowed> for Error {
    fn from(not_allowed: NotAllowed) -> Self {
        Self::forbidden(not_allowed.0)
    }
}

/// Which state entries authorise such an event, and thus which current state events it names as its auth events
/// (server-server API, "Auth events selection"). Empty for a create event. Never names the create event since version
/// 12.
pub fn auth_keys(
    version: &RoomVersion,
    event_type: &TimelineEventType,
    sender: &UserId,
    state_key: Option<&str>,
    content: &str,
) -> Result<Vec<(StateEventType, String)>, NotAllowed> {
    // Only membership content is looked at.
    let content: &RawValue = if *event_type == TimelineEventType::RoomMember {
        serde_json::from_str(content).map_err(|e| NotAllowed(format!("unreadable content: {e}")))?
    } else {
        RawValue::NULL
    };
    auth_types_for_event(event_type, sender, state_key, content, &version.rules.authorization).map_err(NotAllowed)
}

impl Draft {
    /// [`auth_keys`] of this draft.
    pub fn auth_keys(&self, version: &RoomVersion) -> Result<Vec<(StateEventType, String)>, NotAllowed> {
        auth_keys(version, &self.event_type, &self.sender, self.state_key.as_deref(), self.content_json())
    }
}

/// Checks what does not depend on state: that type and state key are such as can be kept; a create event by itself; of
/// others, that the auth events exist, were not rejected, belong to the room and are those it should name. `fetch` finds
/// an event by id (since version 12 also the create event, which is not named).
pub fn check_independent(
    version: &RoomVersion,
    pdu: &Pdu,
    fetch: impl Fn(&EventId) -> Option<Arc<Pdu>>,
) -> Result<(), NotAllowed> {
    if !pdu.has_sound_names() {
        return Err(NotAllowed(format!("its type or state key has more than {MAX_FIELD} bytes, or NUL")));
    }
    if *pdu.event_type() == TimelineEventType::RoomCreate {
        check_room_version(version, pdu)?;
    }
    check_state_independent_auth_rules(&version.rules.authorization, pdu, fetch).map_err(NotAllowed)
}

/// Checks an event against a state: that before it, or the current one. `state` finds the event of a state entry.
pub fn check_against(
    version: &RoomVersion,
    pdu: &Pdu,
    state: impl Fn(&StateEventType, &str) -> Option<Arc<Pdu>>,
) -> Result<(), NotAllowed> {
    let judged = |event: Arc<Pdu>| Judged::new(version, event);
    let state = |event_type: &StateEventType, state_key: &str| {
        let event = state(event_type, state_key).or_else(|| match event_type {
            StateEventType::RoomJoinRules if state_key.is_empty() => judged::invite_only(version, pdu.room_id()),
            _ => None,
        });
        event.map(judged)
    };
    check_state_dependent_auth_rules(&version.rules.authorization, Judged::new(version, pdu), state).map_err(NotAllowed)
}

/// Checks an event against the state that its own auth events make up: the first check of a received event. Includes
/// [`check_independent`].
pub fn check_auth_events(
    version: &RoomVersion,
    pdu: &Pdu,
    fetch: impl Fn(&EventId) -> Option<Arc<Pdu>>,
) -> Result<(), NotAllowed> {
    check_independent(version, pdu, &fetch)?;
    let mut state: Vec<Arc<Pdu>> = pdu.auth_events().iter().filter_map(|id| fetch(id)).collect();
    if version.room_id_is_create_hash() && *pdu.event_type() != TimelineEventType::RoomCreate {
        state.extend(create_event_id(pdu).and_then(|id| fetch(&id)));
    }
    check_against(version, pdu, |event_type, state_key| {
        let event_type = event_type.to_string();
        state.iter().find(|e| e.state_key() == Some(state_key) && e.event_type().to_string() == event_type).cloned()
    })
}

/// Both checks at once, for an event of our own: its auth events by `fetch`, the current state by `state`.
pub fn check(
    version: &RoomVersion,
    pdu: &Pdu,
    fetch: impl Fn(&EventId) -> Option<Arc<Pdu>>,
    state: impl Fn(&StateEventType, &str) -> Option<Arc<Pdu>>,
) -> Result<(), NotAllowed> {
    check_independent(version, pdu, fetch)?;
    check_against(version, pdu, state)
}

/// The id of the create event of a room whose id follows from it (version 12 and later).
#[must_use]
pub fn create_event_id(pdu: &Pdu) -> Option<OwnedEventId> {
    let hash = pdu.room_id().as_str().strip_prefix('!')?;
    EventId::parse(format!("${hash}")).ok()
}

/// A create event must speak of the version by which it is judged (absent: version 1).
fn check_room_version(version: &RoomVersion, create: &Pdu) -> Result<(), NotAllowed> {
    #[derive(Deserialize)]
    struct Create {
        #[serde(default = "first")]
        room_version: String,
    }
    fn first() -> String {
        "1".to_owned()
    }
    let content: Create =
        create.content_as().ok_or_else(|| NotAllowed("`room_version` of the create event is not a string".into()))?;
    let named = content.room_version;
    if named == version.id.as_str() {
        Ok(())
    } else {
        Err(NotAllowed(format!("the create event is of room version {named}, not {version}")))
    }
}

#[cfg(test)]
mod tests;
