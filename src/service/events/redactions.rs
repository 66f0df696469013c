//! What the redactions of other servers take away (rooms/v3, "Handling redactions"), in whichever order they and their
//! targets come: history is fetched from its newest end, so a redaction is mostly here before what it is about.

use std::sync::Arc;

use hearth_base::{Requester, Result, ids::EventNid};
use hearth_rules::{
    auth::PowerLevels,
    event::{Pdu, redaction},
};
use hearth_store::{
    Store,
    events::{LateRedaction, NewRedaction},
    state::{RoomState, StateMap},
};
use ruma::{
    EventId, OwnedEventId,
    events::{StateEventType, TimelineEventType},
};

use super::{Events, lane::Staged};

/// A redaction of what is not here.
#[derive(Clone, Debug)]
pub(super) struct Ahead {
    target: OwnedEventId,
    nid: EventNid,
    pdu: Arc<Pdu>,
    before: StateMap,
}

/// Redactions remembered until surely committed.
const AHEAD: usize = 64;

impl Events {
    /// Whether an event that we know of was sent by somebody else.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn is_of_another(&self, who: &Requester, event_id: &EventId) -> Result<bool> {
        Ok(self.store.event_by_id(event_id).await?.is_some_and(|event| event.sender != who.user_nid))
    }
}

impl Staged {
    /// What a redaction takes away, if it may and we have it; if we do not have it yet, that is noted.
    pub(super) async fn redaction(
        &mut self,
        store: &Store,
        nid: EventNid,
        pdu: &Arc<Pdu>,
        before: &RoomState,
    ) -> Result<Option<NewRedaction>> {
        // In versions 1 and 2 an event can name itself.
        let Some(id) = pdu.redacts().filter(|id| *id != pdu.event_id()) else { return Ok(None) };
        let Some((target, what)) = self.target(store, id).await? else {
            // PostgreSQL has no texts with NUL, and no event has such an id.
            if !id.as_str().contains('\0') {
                self.redactions_ahead.push((id.to_owned(), nid));
                let ahead = &mut self.head.ahead;
                if ahead.len() >= AHEAD {
                    ahead.remove(0);
                }
                ahead.push(Ahead { target: id.to_owned(), nid, pdu: pdu.clone(), before: before.map.clone() });
            }
            return Ok(None);
        };
        if !self.may_redact(store, pdu, &before.map, &what).await? {
            return Ok(None);
        }
        Ok(Some(NewRedaction { target, json: redaction::redact(what.json(), self.head.version)? }))
    }

    /// Has an event that comes now redacted by what was here before it. `known` says that the event has a row: as part of a
    /// state it may have been redacted before it has a place.
    pub(super) async fn redact_late(&mut self, store: &Store, nid: EventNid, pdu: &Pdu, known: bool) -> Result<()> {
        if known
            && let Some(stored) = store.event(nid).await?
            && let Some(by) = stored.redacted_by
        {
            let redaction = NewRedaction { target: nid, json: stored.pdu.json().to_owned() };
            self.redacted.push(LateRedaction { redaction, by, at_ms: 0 });
            return Ok(());
        }
        let id = pdu.event_id();
        let mut all: Vec<Ahead> = self.head.ahead.iter().filter(|ahead| ahead.target == id).cloned().collect();
        let on_disk = store.redactions_ahead(id).await?;
        for by in store.events(&on_disk).await? {
            if let (true, Some(snap)) = (by.room == self.head.room.nid && by.pos.is_some(), by.snap) {
                let before = store.snapshot(snap).await?;
                all.push(Ahead { target: id.to_owned(), nid: by.nid, pdu: by.pdu.clone(), before });
            }
        }
        for by in all {
            if self.may_redact(store, &by.pdu, &by.before, pdu).await? {
                let json = redaction::redact(pdu.json(), self.head.version)?;
                let at_ms = i64::try_from(by.pdu.origin_server_ts()).unwrap_or(i64::MAX);
                self.redacted.push(LateRedaction { redaction: NewRedaction { target: nid, json }, by: by.nid, at_ms });
                break;
            }
        }
        Ok(())
    }

    /// An event of the room, on disk or of this write, however it stands: whatever has a row is here, and not to be waited for.
    async fn target(&self, store: &Store, id: &EventId) -> Result<Option<(EventNid, Arc<Pdu>)>> {
        if let Some(e) = self.events.iter().find(|e| e.pdu.event_id() == id) {
            return Ok(Some((e.nid, e.pdu.clone())));
        }
        let stored = store.event_by_id(id).await?;
        Ok(stored.filter(|e| e.room == self.head.room.nid).map(|e| (e.nid, e.pdu.clone())))
    }

    /// Whether a redaction in this state may take that event away: its sender must have the power, or be of the server
    /// that sent the event.
    async fn may_redact(&self, store: &Store, by: &Pdu, state: &StateMap, target: &Pdu) -> Result<bool> {
        if *target.event_type() == TimelineEventType::RoomCreate {
            return Ok(false);
        }
        // Room versions 1 and 2 have checked it already, by the event's id.
        if self.head.version.redactions_are_authorised() || by.sender().server_name() == target.sender().server_name() {
            return Ok(true);
        }
        let levels = self.levels(store, state).await?;
        Ok(levels.is_some_and(|levels| levels.can(by.sender(), levels.redact)))
    }

    /// Who holds what power in a state.
    pub(super) async fn levels(&self, store: &Store, state: &StateMap) -> Result<Option<PowerLevels>> {
        let wanted = [StateEventType::RoomCreate, StateEventType::RoomPowerLevels].map(|t| (t, String::new())).to_vec();
        let entries = self.entries(store, state, wanted).await?;
        let of = |t: StateEventType| entries.iter().find(|(found, ..)| *found == t).map(|(.., pdu)| pdu.clone());
        let Some(create) = of(StateEventType::RoomCreate) else { return Ok(None) };
        let levels = of(StateEventType::RoomPowerLevels);
        Ok(PowerLevels::of(self.head.version, &create, levels.as_deref()).ok())
    }
}
