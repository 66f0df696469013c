//! Redactions between servers: whether one may take an event's content away, whichever of the two was here first
//! (rooms/v3, "Handling redactions").

use std::sync::Arc;

use hearth_base::Result;
use hearth_rules::event::{Pdu, redaction};
use hearth_store::{
    Store,
    events::{NewRedaction, Standing},
    state::StateMap,
};
use ruma::events::TimelineEventType;

use super::{Arrival, lane::Staged};

impl Staged {
    /// What a redaction takes away, if it may and we have it (rooms/v3, "Handling redactions"). Since then its sender
    /// must have the power, or be of the server that sent the event.
    pub(super) async fn redaction(&self, store: &Store, pdu: &Pdu, before: &StateMap) -> Result<Option<NewRedaction>> {
        let Some(target) = pdu.redacts() else { return Ok(None) };
        let Some(target) = store.event_by_id(target).await?.filter(|e| e.room == self.head.room.nid) else {
            return Ok(None);
        };
        if *target.pdu.event_type() == TimelineEventType::RoomCreate {
            return Ok(None);
        }
        if !self.may_redact(store, pdu, &target.pdu, before).await? {
            return Ok(None);
        }
        Ok(Some(NewRedaction { target: target.nid, json: redaction::redact(target.pdu.json(), self.head.version)? }))
    }

    /// The arrival as a redaction leaves it that was here before it.
    pub(super) async fn redacted_early(&self, store: &Store, arrival: Arrival) -> Result<Arrival> {
        let pdu = arrival.pdu.clone();
        if !self.head.room.head.forked || *pdu.event_type() == TimelineEventType::RoomCreate {
            return Ok(arrival);
        }
        let near = |e: &&hearth_store::events::NewEvent| e.pdu.redacts() == Some(pdu.event_id());
        let mut early: Vec<_> = self
            .events
            .iter()
            .filter(near)
            .filter(|e| matches!(e.standing, Standing::Live | Standing::Backfilled))
            .map(|e| (e.nid, e.snap, e.pdu.clone()))
            .collect();
        for nid in store.early_redactions(pdu.event_id()).await? {
            if let Some(event) = store.event(nid).await?.filter(|e| e.room == self.head.room.nid) {
                early.push((nid, event.snap, event.pdu.clone()));
            }
        }
        for (nid, snap, by) in early {
            let Some(snap) = snap else { continue };
            let before = store.snapshot(snap).await?;
            if self.may_redact(store, &by, &pdu, &before).await? {
                let version = self.head.version;
                let remains = redaction::redact(pdu.json(), version)?;
                let remains = Pdu::parse_stored(pdu.event_id().to_owned(), remains, version)?;
                let pdu = Arc::new(remains.with_rejected(arrival.rejected.is_some()));
                return Ok(Arrival { pdu, redacted_by: Some(nid), ..arrival });
            }
        }
        Ok(arrival)
    }

    /// Whether a redaction's sender may take that event away, by the state before the redaction: they have the power, or
    /// are of the server that sent it.
    async fn may_redact(&self, store: &Store, by: &Pdu, target: &Pdu, before: &StateMap) -> Result<bool> {
        if by.sender().server_name() == target.sender().server_name() {
            return Ok(true);
        }
        let levels = self.levels(store, before).await?;
        Ok(levels.is_some_and(|levels| levels.can(by.sender(), levels.redact)))
    }
}
