//! What stood before an event that comes with a place of its own, and whether that allows it.

use std::{collections::HashSet, sync::Arc};

use hearth_base::{
    Result,
    ids::{EventNid, SnapNid},
};
use hearth_rules::{
    auth::{self, NotAllowed},
    event::Pdu,
};
use hearth_store::{
    Store,
    events::Standing,
    rooms::Extremity,
    state::{RoomState, SnapRow, StateMap},
};
use ruma::{
    OwnedEventId,
    events::{StateEventType, TimelineEventType},
};

use super::{
    arrivals::{Arrival, Near},
    lane::{Builder, Staged, pdu_of},
};
use crate::state::State;

/// Hidden events looked at for the ends before them.
const HIDDEN: usize = 200;

/// A predecessor.
pub(super) struct Prev {
    pub(super) nid: EventNid,
    after: PrevState,
}

/// The state after a predecessor.
enum PrevState {
    /// Of this write.
    Near(Box<RoomState>),
    /// Written before.
    Snap(SnapNid),
}

impl Staged {
    /// The predecessors that we have.
    pub(super) async fn prevs(&self, store: &Store, near: &Near, arrival: &Arrival) -> Result<Vec<Prev>> {
        let mut prevs = Vec::new();
        let mut far = Vec::new();
        for id in arrival.pdu.prev_events() {
            if let Some((nid, after)) = near.0.get(id) {
                prevs.push(Prev { nid: *nid, after: PrevState::Near(Box::new(after.clone())) });
            } else if let Some(e) = self.head.room.head.extremities.iter().find(|e| e.event_id() == *id) {
                prevs.push(Prev { nid: e.nid, after: PrevState::Snap(e.after) });
            } else {
                far.push(id.clone());
            }
        }
        for event in store.events_by_id(&far).await? {
            if let (Some(after), true) = (event.after, event.room == self.head.room.nid) {
                prevs.push(Prev { nid: event.nid, after: PrevState::Snap(after) });
            }
        }
        Ok(prevs)
    }

    /// The ends of the room that an event ends beside those it names: others may count what is hidden here (soft-failed),
    /// and name only that. What of all this is not here is noted, so that it is no end when it comes.
    pub(super) async fn ended_beyond(&mut self, store: &Store, pdu: &Pdu, depth: i64) -> Result<Vec<EventNid>> {
        let end = |ends: &[Extremity], id: &OwnedEventId| ends.iter().find(|e| e.event_id() == *id).map(|e| e.nid);
        let is_hidden = |standing: Standing| matches!(standing, Standing::SoftFailed | Standing::Rejected);
        let (mut ended, mut seen) = (Vec::new(), HashSet::new());
        let mut next: Vec<OwnedEventId> = pdu.prev_events().to_vec();
        while seen.len() < HIDDEN {
            let ends = &self.head.room.head.extremities;
            next.retain(|id| end(ends, id).is_none() && seen.insert(id.clone()));
            if next.is_empty() {
                break;
            }
            let staged: Vec<(OwnedEventId, Standing, Arc<Pdu>)> = self
                .events
                .iter()
                .filter(|e| next.iter().any(|id| id == e.pdu.event_id()))
                .map(|e| (e.pdu.event_id().to_owned(), e.standing, e.pdu.clone()))
                .collect();
            next.retain(|id| !staged.iter().any(|(found, ..)| found == id));
            let stored = store.events_by_id(&next).await?;
            let stored = stored.iter().filter(|e| e.room == self.head.room.nid);
            let stored = stored.map(|e| (e.event_id().to_owned(), e.standing, e.pdu.clone()));
            next.clear();
            for (_, _, hidden) in staged.into_iter().chain(stored).filter(|(_, standing, _)| is_hidden(*standing)) {
                for id in hidden.prev_events() {
                    match end(&self.head.room.head.extremities, id) {
                        Some(nid) => ended.push(nid),
                        None => next.push(id.clone()),
                    }
                }
            }
            let here = store.known_events(&next).await?;
            let placed = |id: &OwnedEventId| here.get(id).is_some_and(|known| known.standing != Standing::Outlier);
            let is_staged = |id: &OwnedEventId| self.events.iter().any(|e| e.pdu.event_id() == id);
            let missing: Vec<OwnedEventId> = next.iter().filter(|id| !placed(id) && !is_staged(id)).cloned().collect();
            self.missing.extend(missing.into_iter().map(|id| (id, depth)));
        }
        Ok(ended)
    }

    /// The state before an event: after its one predecessor, or resolved from those after several.
    pub(super) async fn state_before(
        &mut self,
        store: &Store,
        state: &State,
        prevs: &[Prev],
        arrival: &Arrival,
    ) -> Result<RoomState> {
        if let ([all], true) = (arrival.states.as_slice(), arrival.whole) {
            return self.told(store, all.clone()).await;
        }
        let extremities = &self.head.room.head.extremities;
        let is_next = arrival.states.is_empty()
            && prevs.len() == extremities.len()
            && prevs.iter().all(|p| extremities.iter().any(|e| e.nid == p.nid));
        if is_next && !prevs.is_empty() {
            return Ok(self.head.state.clone());
        }
        if let ([one], true) = (prevs, arrival.states.is_empty()) {
            return match &one.after {
                PrevState::Near(after) => Ok((**after).clone()),
                PrevState::Snap(snap) if *snap == self.head.state.snap => Ok(self.head.state.clone()),
                PrevState::Snap(snap) => store.room_state(*snap).await,
            };
        }
        let mut states = arrival.states.clone();
        for prev in prevs {
            states.push(match &prev.after {
                PrevState::Near(after) => after.map.clone(),
                PrevState::Snap(snap) => store.snapshot(*snap).await?,
            });
        }
        let map = match states.as_slice() {
            [one] => one.clone(),
            several => state.resolve(self.head.version, several, &self.head.fresh).await?,
        };
        self.told(store, map).await
    }

    /// A state with a number.
    pub(super) async fn told(&mut self, store: &Store, map: StateMap) -> Result<RoomState> {
        if map == self.head.state.map {
            return Ok(self.head.state.clone());
        }
        let (state, row) = self.head.state.near(store.new_snap_nid().await?, map);
        self.keep(store, &state, row);
        Ok(state)
    }

    pub(super) fn keep(&mut self, store: &Store, state: &RoomState, row: SnapRow) {
        store.remember_state(state);
        self.snaps.push(row);
    }

    /// The same where the state may be part of one: what seems to hold of members there may have been allowed by what only
    /// seemed to hold, so that what the event names as its auth events has its say beside it, by state resolution.
    pub(super) async fn allowed_in(
        &self,
        store: &Store,
        state: &State,
        pdu: &Pdu,
        before: &StateMap,
        believed: &[EventNid],
    ) -> Result<std::result::Result<(), NotAllowed>> {
        let allowed = self.allowed(store, pdu, before, believed).await?;
        let Err(why) = allowed else { return Ok(Ok(())) };
        let mut claimed = before.clone();
        for nid in believed {
            let Some(event) = pdu_of(store, &self.head.fresh, *nid).await? else { continue };
            if *event.event_type() != TimelineEventType::RoomMember || event.rejected() {
                continue;
            }
            let Some(state_key) = event.state_key() else { continue };
            let key = store.intern_key(&event.event_type().to_string(), state_key).await?;
            if before.contains_key(&key) {
                claimed.insert(key, *nid);
            }
        }
        if claimed == *before {
            return Ok(Err(why));
        }
        let both = state.resolve(self.head.version, &[before.clone(), claimed], &self.head.fresh).await?;
        self.allowed(store, pdu, &both, believed).await
    }

    /// Whether a state allows an event. What it does not know of members is taken from `believed`, some of what the event
    /// names as its auth events.
    pub(super) async fn allowed(
        &self,
        store: &Store,
        pdu: &Pdu,
        state: &StateMap,
        believed: &[EventNid],
    ) -> Result<std::result::Result<(), NotAllowed>> {
        let version = self.head.version;
        let wanted = auth::auth_keys(version, pdu.event_type(), pdu.sender(), pdu.state_key(), pdu.content_json());
        let mut wanted = match wanted {
            Ok(wanted) => wanted,
            Err(why) => return Ok(Err(why)),
        };
        wanted.push((StateEventType::RoomCreate, String::new()));
        let entries = self.entries(store, state, wanted).await?;
        let mut members: Vec<Arc<Pdu>> = Vec::new();
        for nid in believed {
            let event = pdu_of(store, &self.head.fresh, *nid).await?;
            members.extend(event.filter(|e| *e.event_type() == TimelineEventType::RoomMember && !e.rejected()));
        }
        Ok(auth::check_against(version, pdu, |event_type, state_key| {
            let known = entries.iter().find(|(t, k, _)| t == event_type && k == state_key).map(|(.., pdu)| pdu);
            let told = || members.iter().find(|e| e.state_key() == Some(state_key));
            match event_type {
                StateEventType::RoomMember => known.or_else(told),
                _ => known,
            }
            .cloned()
        }))
    }

    /// Whether the present state allows an event, together with a state that fills its holes if there is one.
    pub(super) async fn allowed_now(
        &self,
        cx: &Builder<'_>,
        state: &State,
        pdu: &Pdu,
        beside: Option<&RoomState>,
    ) -> Result<std::result::Result<(), NotAllowed>> {
        let present = &self.head.state.map;
        let Some(beside) = beside else { return self.allowed(cx.store, pdu, present, &[]).await };
        let both = [present.clone(), beside.map.clone()];
        let both = state.resolve(self.head.version, &both, &self.head.fresh).await?;
        self.allowed(cx.store, pdu, &both, &[]).await
    }

    pub(super) async fn entries(
        &self,
        store: &Store,
        state: &StateMap,
        wanted: Vec<(StateEventType, String)>,
    ) -> Result<Vec<(StateEventType, String, Arc<Pdu>)>> {
        let mut entries = Vec::with_capacity(wanted.len());
        for (event_type, state_key) in wanted {
            let Some(key) = store.key_nid(&event_type.to_string(), &state_key).await? else { continue };
            let Some(nid) = state.get(&key) else { continue };
            if let Some(pdu) = pdu_of(store, &self.head.fresh, *nid).await? {
                entries.push((event_type, state_key, pdu));
            }
        }
        Ok(entries)
    }
}
