//! Which state entries allow an event: those that it names as its auth events.

use std::sync::Arc;

use hearth_base::{Error, Result, ids::EventNid};
use hearth_rules::{
    auth::PowerLevels,
    event::{Draft, Pdu, Reference},
    versions::RoomVersion,
};
use hearth_store::Store;
use ruma::{
    EventId,
    events::{StateEventType, TimelineEventType},
};

use super::lane::{Head, pdu_of};

/// The state entries that allow an event.
pub(super) struct AllowedBy(Vec<(StateEventType, String, EventNid, Arc<Pdu>)>);

impl AllowedBy {
    pub(super) async fn gather(store: &Store, head: &Head, draft: &Draft) -> Result<Self> {
        Self::of(store, head, draft.auth_keys(head.version)?, draft.event_type == TimelineEventType::RoomCreate).await
    }

    /// The entries of these keys, and the create event unless this is one.
    pub(super) async fn of(
        store: &Store,
        head: &Head,
        mut keys: Vec<(StateEventType, String)>,
        is_create: bool,
    ) -> Result<Self> {
        if !is_create && !keys.iter().any(|(t, _)| *t == StateEventType::RoomCreate) {
            keys.push((StateEventType::RoomCreate, String::new()));
        }
        let mut found = Vec::with_capacity(keys.len());
        for (event_type, state_key) in keys {
            let Some(key) = store.key_nid(&event_type.to_string(), &state_key).await? else { continue };
            let Some(nid) = head.state.map.get(&key).copied() else { continue };
            if let Some(pdu) = pdu_of(store, &head.fresh, nid).await? {
                found.push((event_type, state_key, nid, pdu));
            }
        }
        Ok(Self(found))
    }

    /// What stands in `auth_events`: since version 12 without the create event.
    pub(super) fn named(&self, version: &RoomVersion) -> Vec<Reference> {
        self.0
            .iter()
            .filter(|(t, ..)| !(version.room_id_is_create_hash() && *t == StateEventType::RoomCreate))
            .map(|(.., pdu)| pdu.reference(version))
            .collect()
    }

    /// Numbers of them all.
    pub(super) fn nids(&self) -> Vec<EventNid> {
        self.0.iter().map(|(_, _, nid, _)| *nid).collect()
    }

    /// Who holds what power before the event; `None` before there is a create event.
    pub(super) fn levels(&self, version: &RoomVersion) -> Result<Option<PowerLevels>> {
        let Some(create) = self.by_key(&StateEventType::RoomCreate, "") else { return Ok(None) };
        let levels = self.by_key(&StateEventType::RoomPowerLevels, "");
        PowerLevels::of(version, &create, levels.as_deref()).map(Some).map_err(|e| Error::fault("power levels", e))
    }

    pub(super) fn by_id(&self, id: &EventId) -> Option<Arc<Pdu>> {
        self.0.iter().find(|(.., pdu)| pdu.event_id() == id).map(|(.., pdu)| pdu.clone())
    }

    pub(super) fn by_key(&self, event_type: &StateEventType, state_key: &str) -> Option<Arc<Pdu>> {
        self.0.iter().find(|(t, k, ..)| t == event_type && k == state_key).map(|(.., pdu)| pdu.clone())
    }
}
