//! The state that goes with a timeline, whole or as far as it changed, and which members of it (spec: "Lazy-loading room
//! members").

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use hearth_base::{
    Result,
    ids::{EventNid, KeyNid, RoomNid, StreamPos},
};
use hearth_store::{events::StoredEvent, rooms::Room, state::StateMap};
use ruma::{OwnedUserId, UserId, events::TimelineEventType};

use super::{
    super::{Sync, Turn, section::key},
    timeline::Timeline,
};
use crate::history::{Form, Viewer};

/// The stretch of a room's history that an answer covers.
#[derive(Clone, Copy)]
pub(super) struct Span<'a> {
    pub(super) from: StreamPos,
    pub(super) upto: StreamPos,
    /// All state is wanted, not only what changed.
    pub(super) full: bool,
    /// State at its end.
    pub(super) newest: &'a StateMap,
}
impl Sync {
    /// The state that goes with a timeline: all of it, or what changed between the last answer and the timeline (or, with
    /// `state_after`, up to its end).
    pub(super) async fn state_events(
        &self,
        turn: &Turn<'_>,
        room: &Room,
        timeline: &Timeline,
        span: Span<'_>,
    ) -> Result<Vec<Arc<StoredEvent>>> {
        let (filter, shown_by) = (&turn.ask.filter.state, &turn.ask.filter.timeline);
        if !filter.has_room(&room.room_id) {
            return Ok(Vec::new());
        }
        let lazy = filter.lazy_members;
        let after_timeline = turn.wants_state_after();
        let first = timeline.events.first();
        // Then the timeline alone does not lead to its end: state changes also by what it does not show, since it stands on
        // another branch, the user may not see it or the filter leaves it out.
        let partly = (room.head.forked || timeline.hides || !shown_by.is_open_for(&room.room_id)) && !after_timeline;
        let before = match first.and_then(|e| e.snap) {
            _ if !span.full && !lazy => StateMap::new(),
            Some(snap) if !after_timeline => self.store.snapshot(snap).await?,
            _ => span.newest.clone(),
        };
        let before = if partly && (span.full || lazy) { leading_to(before, span.newest, timeline) } else { before };
        let mut wanted: Vec<EventNid> = if span.full {
            if lazy {
                let mut wanted = self.without_members(turn, &before).await?;
                // Members that changed since are among those that the client knows.
                if span.from > StreamPos::ZERO {
                    let changes = self.store.state_changes(room.nid, span.from, span.upto).await?;
                    wanted.extend(changes.keys().filter_map(|key| before.get(key)).copied());
                    wanted.sort_unstable();
                    wanted.dedup();
                }
                wanted
            } else {
                before.values().copied().collect()
            }
        } else if timeline.limited || after_timeline || partly {
            // Whatever changed in the gap, members too: they may be members the client knows.
            let upto = match first.and_then(|e| e.pos) {
                Some(pos) if !after_timeline => StreamPos(pos.0 - 1),
                _ => span.upto,
            };
            let mut changes: HashMap<KeyNid, Option<EventNid>> =
                self.store.state_changes(room.nid, span.from, upto).await?;
            if partly && upto < span.upto {
                let later = self.store.state_changes(room.nid, upto, span.upto).await?;
                changes
                    .extend(later.into_iter().filter(|(_, new)| !timeline.events.iter().any(|e| Some(e.nid) == *new)));
            }
            changes.into_values().flatten().collect()
        } else {
            Vec::new()
        };
        if lazy {
            let listener = self.told.listener(turn, room.nid).filter(|_| !span.full);
            for nid in self.history.speakers(&before, &timeline.events).await? {
                if !wanted.contains(&nid) && !listener.is_some_and(|l| self.told.has(&l, nid)) {
                    wanted.push(nid);
                }
            }
        }
        let shown: Vec<EventNid> =
            if after_timeline { Vec::new() } else { timeline.events.iter().map(|e| e.nid).collect() };
        let events = self.store.events(&wanted).await?;
        Ok(events.into_iter().filter(|e| !shown.contains(&e.nid) && filter.has(&e.pdu)).collect())
    }

    /// A whole state but for members other than the user (spec: "Lazy-loading room members").
    async fn without_members(&self, turn: &Turn<'_>, state: &StateMap) -> Result<Vec<EventNid>> {
        let keys = self.store.keys(&state.keys().copied().collect::<Vec<_>>()).await?;
        let others = state
            .values()
            .zip(&keys)
            .filter(|(_, key)| key.event_type != "m.room.member" || key.state_key == turn.who.user_id.as_str());
        Ok(others.map(|(event, _)| *event).collect())
    }

    /// Adds the member events of users the room is named by (spec: `RoomSummary`, with lazy loading).
    pub(super) async fn add_members(
        &self,
        turn: &Turn<'_>,
        room: &Room,
        state: &mut Vec<Arc<StoredEvent>>,
        timeline: &Timeline,
        span: Span<'_>,
        users: &[OwnedUserId],
    ) -> Result<()> {
        if !turn.ask.filter.state.has_room(&room.room_id) {
            return Ok(());
        }
        let users: Vec<&UserId> = users.iter().map(|u| &**u).collect();
        let listener = self.told.listener(turn, room.nid).filter(|_| !span.full);
        for event in self.history.members_of(span.newest, &users).await? {
            if turn.ask.filter.state.has(&event.pdu)
                && !state.iter().chain(state_in(turn, timeline)).any(|e| e.nid == event.nid)
                && !listener.is_some_and(|l| self.told.has(&l, event.nid))
            {
                state.push(event);
            }
        }
        Ok(())
    }

    /// Notes which members the client has been told of when it has this answer.
    pub(super) fn note_members(&self, turn: &Turn<'_>, room: RoomNid, state: &[Arc<StoredEvent>], timeline: &Timeline) {
        if let Some(listener) = self.told.listener(turn, room) {
            let members = state.iter().chain(state_in(turn, timeline));
            let members = members.filter(|e| *e.pdu.event_type() == TimelineEventType::RoomMember && e.pdu.is_state());
            self.told.note(&listener, members.map(|e| e.nid));
        }
    }

    pub(super) async fn write_state(
        &self,
        out: &mut String,
        turn: &Turn<'_>,
        viewer: &Viewer,
        events: &[Arc<StoredEvent>],
    ) -> Result<()> {
        let name = match (turn.ask.state_after, turn.ask.state_after_unstable) {
            (true, _) => "state_after",
            (false, true) => "org.matrix.msc4222.state_after",
            (false, false) => "state",
        };
        key(out, name);
        out.push_str("{\"events\":");
        self.history.write_all(out, events, viewer, Form { state: true, ..turn.form() }).await?;
        out.push('}');
        Ok(())
    }
}

/// Events of a timeline from which a client learns state: none, if it is told the state after it.
fn state_in<'t>(turn: &Turn<'_>, timeline: &'t Timeline) -> &'t [Arc<StoredEvent>] {
    if turn.wants_state_after() { &[] } else { &timeline.events }
}

/// The state before a timeline such that the timeline leads to the newest state: what came of other branches of history,
/// or is left out by a filter, is in it from the start.
fn leading_to(before: StateMap, newest: &StateMap, timeline: &Timeline) -> StateMap {
    let shown: HashSet<EventNid> = timeline.events.iter().map(|e| e.nid).collect();
    let entry = |(key, nid): (&KeyNid, &EventNid)| {
        let nid = if shown.contains(nid) { before.get(key)? } else { nid };
        Some((*key, *nid))
    };
    newest.iter().filter_map(entry).collect()
}
