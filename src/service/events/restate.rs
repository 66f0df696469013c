//! Rooms whose state came in part (MSC3902) get the rest of it: events that were placed meanwhile are judged anew by the
//! state that truly stood before them, each after those it follows, and when none is left so is what holds now.
//!
//! This is written piece by piece, on the room's newest head; whatever ends in between goes on from there.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use hearth_base::{
    OrNotFound, Result,
    ids::{EventNid, RoomNid, SnapNid},
};
use hearth_rules::auth;
use hearth_store::{
    Store,
    events::{PartialRoom, Restated, Standing, StoredEvent},
    rooms::Extremity,
    state::{RoomState, StateMap},
};
use ruma::EventId;

use super::{
    ATTEMPTS, Events,
    heads::{PART, too_busy},
    lane::{Builder, Head, Staged},
};
use crate::state::State;

mod again;
mod whole;

/// Events that get their states in one write.
const AT_ONCE: usize = 300;
/// Events looked at for them, and how often, as some wait for later ones.
const LOOKED_AT: usize = 20_000;
const ROUNDS: usize = 10;

/// What other servers said of the state before an event some of whose predecessors are not here.
#[derive(Clone, Debug)]
pub enum Told {
    /// All that stood before it.
    Before(StateMap),
    /// What stood after those predecessors.
    After(Vec<StateMap>),
    /// Nobody knows.
    Nothing,
}

/// How far a room has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restating {
    /// Its state is whole.
    Whole,
    /// So many of its events got theirs.
    Some(usize),
}

impl Events {
    /// Gives events of a room states that are whole, as far as that is possible with what others told, and the room itself
    /// if no event is left. Runs to its end even if the caller goes.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn restate(self: &Arc<Self>, room: RoomNid, told: Arc<HashMap<EventNid, Told>>) -> Result<Restating> {
        let this = self.clone();
        self.supervisor.job(async move { this.restate_now(room, &told).await }).await
    }

    async fn restate_now(&self, room: RoomNid, told: &HashMap<EventNid, Told>) -> Result<Restating> {
        let lane = self.lanes.get_with(room, Arc::default);
        for _ in 0..ATTEMPTS {
            let mut newest = lane.newest.lock().await;
            // What was on its way to the disk is there now, and nobody adds to it while the lane is held.
            self.store.write(|_| Box::pin(async { Ok(()) })).await?;
            let head = Head::read(&self.store, room).await?;
            let Some(partial) = self.store.partial_room(room).await? else { return Ok(Restating::Whole) };
            let (epoch, on_rev) = (newest.epoch, head.room.head.rev);
            let mut staged = Staged::on(head, Some(on_rev));
            let mut anew = Anew::new(partial);
            let left = staged.restate(&self.builder(), &self.state, &mut anew, told).await?;
            let outcome = match (left, staged.restated.len()) {
                (true, 0) => return Ok(Restating::Some(0)),
                (true, count) => Restating::Some(count),
                (false, _) => {
                    staged.make_whole(&self.builder(), &self.state, &anew).await?;
                    Restating::Whole
                }
            };
            staged.head.room.head.rev += 1;
            let (head, append) = staged.into_append();
            let committed = self.store.enqueue(append).await?;
            newest.head = Some(head);
            drop(newest);
            if self.settled(&lane, epoch, committed).await? {
                return Ok(outcome);
            }
        }
        Err(too_busy())
    }
}

/// What is found while events get their states.
struct Anew {
    partial: PartialRoom,
    /// Events that have none yet.
    pending: HashSet<EventNid>,
    /// States that were read or found, by their numbers: some are not on the disk yet.
    states: HashMap<SnapNid, RoomState>,
    /// After which state an event of this write stands.
    after: HashMap<EventNid, SnapNid>,
    /// The newest that was found, to which the next is near.
    last: Option<RoomState>,
}

impl Anew {
    fn new(partial: PartialRoom) -> Self {
        let (pending, states, after) = (HashSet::new(), HashMap::new(), HashMap::new());
        Self { partial, pending, states, after, last: None }
    }

    async fn state(&mut self, store: &Store, snap: SnapNid) -> Result<RoomState> {
        if let Some(state) = self.states.get(&snap) {
            return Ok(state.clone());
        }
        let state = store.room_state(snap).await?;
        self.states.insert(snap, state.clone());
        Ok(state)
    }

    fn keep(&mut self, state: &RoomState) {
        self.states.insert(state.snap, state.clone());
        self.last = Some(state.clone());
    }
}

impl Staged {
    /// Gives events their states; whether there are others left.
    async fn restate(
        &mut self,
        cx: &Builder<'_>,
        state: &State,
        anew: &mut Anew,
        told: &HashMap<EventNid, Told>,
    ) -> Result<bool> {
        let rows = cx.store.partial_events(self.head.room.nid, LOOKED_AT).await?;
        anew.pending = rows.iter().copied().collect();
        'all: for _ in 0..ROUNDS {
            let before = self.restated.len();
            for nid in &rows {
                if !anew.pending.contains(nid) {
                    continue;
                }
                let event = cx.store.event(*nid).await?.or_not_found("Event")?;
                let Some(before) = self.before_anew(cx, state, anew, &event, told.get(nid)).await? else { continue };
                let stands_otherwise = self.judge_anew(cx, anew, &event, before).await?;
                // What leans on it is judged when it stands so on the disk.
                if stands_otherwise || self.restated.len() >= AT_ONCE {
                    break 'all;
                }
            }
            if self.restated.len() == before {
                break;
            }
        }
        Ok(!anew.pending.is_empty() || rows.len() == LOOKED_AT)
    }

    /// The state before an event; `None` while that cannot be told.
    async fn before_anew(
        &mut self,
        cx: &Builder<'_>,
        state: &State,
        anew: &mut Anew,
        event: &StoredEvent,
        told: Option<&Told>,
    ) -> Result<Option<RoomState>> {
        let mut states: Vec<RoomState> = Vec::new();
        let prevs = self.placed_prevs(cx.store, event).await?;
        for prev in &prevs {
            if anew.pending.contains(&prev.nid) {
                return Ok(None);
            }
            let Some(after) = anew.after.get(&prev.nid).copied().or(prev.after) else { return Ok(None) };
            let known = anew.state(cx.store, after).await?;
            if !states.iter().any(|s| s.snap == known.snap) {
                states.push(known);
            }
        }
        let mut maps: Vec<StateMap> = Vec::new();
        // What is known of our beginning has a hole, whatever else has come of it since.
        let is_beginning = anew.partial.again && event.nid == anew.partial.join;
        if is_beginning || prevs.len() < event.pdu.prev_events().len() {
            match told {
                _ if anew.partial.again && !is_beginning => match self.filled(cx.store, anew, event).await? {
                    Some(map) => maps.push(map),
                    None => return Ok(None),
                },
                None => return Ok(None),
                Some(Told::Before(map)) => return self.numbered(cx, anew, map.clone()).await.map(Some),
                Some(Told::After(told)) => maps.extend(told.iter().cloned()),
                // What we know best stands in for it, but for our own beginning.
                Some(Told::Nothing) if event.nid == anew.partial.join => return Ok(None),
                Some(Told::Nothing) if states.is_empty() => {
                    let join = cx.store.event(anew.partial.join).await?.or_not_found("Event")?;
                    if anew.pending.contains(&join.nid) {
                        return Ok(None);
                    }
                    let after = anew.after.get(&join.nid).copied().or(join.after).or_not_found("State")?;
                    states.push(anew.state(cx.store, after).await?);
                }
                Some(Told::Nothing) => {}
            }
        }
        if let ([one], true) = (states.as_slice(), maps.is_empty()) {
            return Ok(Some(one.clone()));
        }
        maps.extend(states.iter().map(|s| s.map.clone()));
        let map = match maps.as_slice() {
            [one] => one.clone(),
            several => state.resolve(self.head.version, several, &self.head.fresh).await?,
        };
        if let Some(same) = states.into_iter().find(|s| s.map == map) {
            return Ok(Some(same));
        }
        self.numbered(cx, anew, map).await.map(Some)
    }

    /// The predecessors of an event that have a place with a state.
    async fn placed_prevs(&self, store: &Store, event: &StoredEvent) -> Result<Vec<Arc<StoredEvent>>> {
        let mut prevs = store.events_by_id(event.pdu.prev_events()).await?;
        prevs.retain(|prev| prev.room == self.head.room.nid && prev.after.is_some());
        Ok(prevs)
    }

    async fn numbered(&mut self, cx: &Builder<'_>, anew: &mut Anew, map: StateMap) -> Result<RoomState> {
        let snap = cx.store.new_snap_nid().await?;
        let (state, row) = match &anew.last {
            Some(last) if last.map == map => return Ok(last.clone()),
            Some(last) => last.near(snap, map),
            None => RoomState::whole(snap, map),
        };
        self.keep(cx.store, &state, row);
        anew.keep(&state);
        Ok(state)
    }

    /// Judges an event by the state before it; whether it stands in another way than before.
    async fn judge_anew(
        &mut self,
        cx: &Builder<'_>,
        anew: &mut Anew,
        event: &StoredEvent,
        before: RoomState,
    ) -> Result<bool> {
        let store = cx.store;
        let is_allowed = self.is_allowed_anew(store, event, &before.map).await?;
        let standing = match (event.standing, is_allowed) {
            (Standing::Rejected, true) => Some(Standing::Backfilled),
            (Standing::SoftFailed, true) if self.was_unknown(cx, anew, event).await? => Some(Standing::Backfilled),
            (Standing::Rejected, false) | (_, true) => None,
            (_, false) => Some(Standing::Rejected),
        };
        let after = match event.key {
            Some(key) if is_allowed => {
                let (after, row) = before.set(store.new_snap_nid().await?, key, event.nid);
                self.keep(store, &after, row);
                after
            }
            _ => before.clone(),
        };
        anew.keep(&after);
        anew.after.insert(event.nid, after.snap);
        anew.pending.remove(&event.nid);
        self.restated.push(Restated {
            event: event.nid,
            snap: before.snap,
            after: after.snap,
            replaces: event.key.and_then(|key| before.map.get(&key).copied()),
            standing,
        });
        if let Some(standing) = standing {
            tracing::info!(room.id = %self.head.room.room_id, event.id = %event.event_id(), ?standing, "an event stands otherwise by all of the state");
        }
        self.move_ends(store, anew, event, after.snap, standing).await?;
        Ok(standing.is_some())
    }

    async fn is_allowed_anew(&self, store: &Store, event: &StoredEvent, before: &StateMap) -> Result<bool> {
        let edges = store.auth_edges(&[event.nid]).await?;
        let Some(edges) = edges.get(&event.nid) else { return Ok(false) };
        let allow = store.events(edges).await?;
        let by_id = |id: &EventId| allow.iter().find(|e| e.event_id() == id).map(|e| e.pdu.clone());
        if auth::check_auth_events(self.head.version, &event.pdu, by_id).is_err() {
            return Ok(false);
        }
        Ok(self.allowed(store, &event.pdu, before, &[]).await?.is_ok())
    }

    /// What an event has become changes at which ends the next one stands.
    async fn move_ends(
        &mut self,
        store: &Store,
        anew: &Anew,
        event: &StoredEvent,
        after: SnapNid,
        standing: Option<Standing>,
    ) -> Result<()> {
        let version = self.head.version;
        let ends = &mut self.head.room.head.extremities;
        let at = ends.iter().position(|end| end.nid == event.nid);
        match (standing, at) {
            (Some(Standing::Rejected), Some(at)) => {
                ends.remove(at);
                for prev in self.placed_prevs(store, event).await?.iter().filter(|p| p.standing != Standing::Rejected) {
                    let ends = &mut self.head.room.head.extremities;
                    let Some(after) = anew.after.get(&prev.nid).copied().or(prev.after) else { continue };
                    if !ends.iter().any(|end| end.nid == prev.nid) {
                        let event = prev.pdu.reference(version);
                        ends.push(Extremity { nid: prev.nid, event, depth: prev.depth, after });
                    }
                }
            }
            (Some(Standing::Backfilled), None) => {
                // One that nothing follows is an end, as it should have been.
                let rest: Vec<EventNid> = anew.pending.iter().copied().take(PART).collect();
                let follows = store.events(&rest).await?;
                if !follows.iter().any(|e| e.pdu.prev_events().iter().any(|id| id == event.event_id())) {
                    let prevs = self.placed_prevs(store, event).await?;
                    let ends = &mut self.head.room.head.extremities;
                    ends.retain(|end| !prevs.iter().any(|prev| prev.nid == end.nid));
                    let reference = event.pdu.reference(version);
                    ends.push(Extremity { nid: event.nid, event: reference, depth: event.depth, after });
                }
            }
            (_, Some(at)) => {
                if let Some(end) = ends.get_mut(at) {
                    end.after = after;
                }
            }
            (_, None) => {}
        }
        Ok(())
    }
}
