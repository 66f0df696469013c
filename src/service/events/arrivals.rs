//! Events that come with a place in the graph of their own: from other servers, or signed by one of them with us.
//!
//! Form, signatures and the check by their auth events are done ([`crate::federation`]); what is left needs the room's
//! head: the state before the event, the check against it (reject), the check against the current state (soft-fail), the
//! new extremities and, where branches meet, resolution (server-server API, "Checks performed on receipt of a PDU").

use std::{collections::HashMap, sync::Arc};

use hearth_base::{
    Error, Result,
    ids::{EventNid, KeyNid, SnapNid},
};
use hearth_rules::event::Pdu;
use hearth_store::{
    Store,
    events::{NewEvent, Standing, StateChange, StoredEvent},
    rooms::Extremity,
    state::{RoomState, StateMap},
};
use ruma::{OwnedEventId, UserId, events::TimelineEventType};

use super::lane::{Builder, Staged, With, membership_of, opens, relation_of};
use crate::state::State;

/// An event about to be placed.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The event, whose form and signatures are good.
    pub pdu: Arc<Pdu>,
    /// Its number.
    pub nid: EventNid,
    /// Whether it has a row already: an outlier so far.
    pub known: bool,
    /// Its auth events, all of which we have; the create event among them.
    pub auth: Vec<EventNid>,
    /// Why its auth events do not allow it, if they do not.
    pub rejected: Option<String>,
    /// Not to be shown whatever the rules say: refused by the room's policy server.
    pub refused: bool,
    /// States after those of its predecessors that we do not have, as another server told them.
    pub states: Vec<StateMap>,
    /// Whether that is one, and all that stands before the event.
    pub whole: bool,
    /// Its predecessors that we do not have.
    pub missing: Vec<OwnedEventId>,
    /// Whether another event of ours names it as a predecessor already.
    pub referenced: bool,
    /// Fetched as history: part of the timeline, but no news.
    pub history: bool,
    /// Only we were told of it, so that we owe it to the room's other servers.
    pub relay: bool,
    /// One of ours that another server tells the room's others.
    pub told: bool,
    /// What is said of the state before it is not all of it, as in a room of which we know part only.
    pub in_part: bool,
    /// The present state says nothing of its sender, and what others told does: the present one has a hole, and it is both
    /// together that may hide the event.
    pub of_stranger: bool,
    /// What goes with it, if it is of our own.
    pub with: With,
}

/// What became of an arrival.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// Part of the room.
    Placed,
    /// Kept, but not shown and not built upon.
    SoftFailed(String),
    /// Refused for good.
    Rejected(String),
}

/// Events of one write by id, which those after them may name.
#[derive(Debug, Default)]
pub(super) struct Near(pub(super) HashMap<OwnedEventId, (EventNid, RoomState)>);

impl Staged {
    /// Places one event; those before it of the same write are in `near`.
    ///
    /// # Errors
    /// If the database fails. A bad event is no error.
    pub(super) async fn receive(
        &mut self,
        cx: &Builder<'_>,
        state: &State,
        near: &mut Near,
        mut arrival: Arrival,
    ) -> Result<Arrived> {
        let Builder { store, push, server_name, .. } = *cx;
        let pdu = arrival.pdu.clone();
        let of_part = self.head.room.head.partial;
        if arrival.in_part && !of_part {
            // Meanwhile we know better.
            (arrival.states, arrival.whole) = (vec![self.head.state.map.clone()], true);
        }
        let prevs = self.prevs(store, near, &arrival).await?;
        let before = self.state_before(store, state, &prevs, &arrival).await?;
        // All of it may be told by others.
        let in_part = of_part && (arrival.in_part || !prevs.is_empty());
        // Of members about whom nothing is known the event's own word is taken, until more is.
        let believed: &[EventNid] = if in_part { &arrival.auth } else { &[] };
        let mut outcome = match arrival.rejected {
            Some(why) => Arrived::Rejected(why),
            None => match self.allowed_in(store, state, &pdu, &before.map, believed).await? {
                Ok(()) => Arrived::Placed,
                Err(why) => Arrived::Rejected(why.0),
            },
        };
        if outcome == Arrived::Placed && !arrival.history {
            if arrival.refused {
                outcome = Arrived::SoftFailed("the policy server refused it".to_owned());
            } else if before.snap != self.head.state.snap
                // What holds now is not known well enough to hide anything.
                && !of_part
                && let Err(why) = self.allowed_now(cx, state, &pdu, arrival.of_stranger.then_some(&before)).await?
            {
                outcome = Arrived::SoftFailed(why.0);
            }
        }
        let nid = arrival.nid;
        let key = match pdu.state_key().filter(|_| pdu.has_sound_names()) {
            Some(state_key) => Some(store.intern_key(&pdu.event_type().to_string(), state_key).await?),
            None => None,
        };
        let after = match key {
            Some(key) if !matches!(outcome, Arrived::Rejected(_)) => {
                let (after, row) = before.set(store.new_snap_nid().await?, key, nid);
                self.keep(store, &after, row);
                after
            }
            _ => before.clone(),
        };
        near.0.insert(pdu.event_id().to_owned(), (nid, after.clone()));
        if pdu.is_state() {
            self.head.remember(nid, &pdu, &arrival.auth);
        }
        let depth = i64::try_from(pdu.depth()).unwrap_or(i64::MAX);
        let standing = match &outcome {
            Arrived::Rejected(_) => Standing::Rejected,
            Arrived::SoftFailed(_) => Standing::SoftFailed,
            Arrived::Placed if arrival.history => Standing::Backfilled,
            Arrived::Placed => Standing::Live,
        };
        let has_holes = !arrival.missing.is_empty();
        if matches!(standing, Standing::Live | Standing::Backfilled) {
            // What only events name that do not count is an end of the room when it comes, as if it had come before them.
            self.missing.extend(arrival.missing.into_iter().map(|id| (id, depth)));
        }
        let linear = prevs.iter().all(|p| self.head.room.head.extremities.iter().any(|e| e.nid == p.nid))
            && prevs.len() == self.head.room.head.extremities.len();
        let rh = &mut self.head.room.head;
        rh.rev += 1;
        if standing != Standing::Live || !linear || has_holes || arrival.referenced {
            rh.forked = true;
        }
        let replaces = key.and_then(|key| before.map.get(&key).copied());
        let sender = store.intern_user(pdu.sender()).await?;
        let (relation, thread) = relation_of(store, self.head.room.nid, &pdu).await?;
        let mut event = NewEvent {
            nid,
            standing,
            sender,
            key,
            known: arrival.known,
            snap: Some(before.snap),
            after: Some(after.snap),
            auth: Some(arrival.auth),
            counter: rh.counter,
            replaces,
            sets_state: false,
            txn: arrival.with.txn,
            membership: None,
            reads: standing == Standing::Live && pdu.sender().server_name() == server_name,
            counted: false,
            thread,
            push: Vec::new(),
            relation,
            redaction: None,
            relay: arrival.relay,
            told: arrival.told,
            partial: in_part.then_some(rh.rev),
            pdu: pdu.clone(),
        };
        if matches!(standing, Standing::Live | Standing::Backfilled) {
            event.redaction = self.redaction(store, nid, &pdu, &before).await?;
        }
        // Of rooms without other servers nothing comes in another order than it was made. What is not shown may be state.
        if standing == Standing::Backfilled || standing != Standing::Rejected && self.head.room.head.forked {
            self.redact_late(store, nid, &pdu, event.known).await?;
        }
        if standing == Standing::Backfilled {
            // It notified nobody.
            event.counter = 0;
        }
        if standing == Standing::Live {
            let levels = async || self.levels(store, &before.map).await;
            let said = push.evaluate(self.head.room.nid, &pdu, sender, &event.thread, levels).await?;
            event.counted = said.counted;
            event.push = said.actions;
            let mut ended: Vec<EventNid> = prevs.iter().map(|p| p.nid).collect();
            if !linear {
                ended.extend(self.ended_beyond(store, &pdu, depth).await?);
            }
            let rh = &mut self.head.room.head;
            rh.counter += i64::from(said.counted);
            event.counter = rh.counter;
            rh.depth = rh.depth.max(depth);
            let mut extremities: Vec<Extremity> =
                rh.extremities.drain(..).filter(|e| !ended.contains(&e.nid)).collect();
            if !arrival.referenced {
                extremities.push(Extremity { nid, event: pdu.reference(self.head.version), depth, after: after.snap });
            }
            rh.extremities = extremities;
            self.move_current(cx, state, &after, &mut event).await?;
            if event.sets_state {
                event.membership = membership_of(store, &pdu, server_name, arrival.with.stripped).await?;
            }
        }
        self.events.push(event);
        Ok(outcome)
    }

    /// Finds the current state after the newest event: that of its one branch, or of all branches together. What changes
    /// beyond what the event itself says is noted.
    pub(super) async fn move_current(
        &mut self,
        cx: &Builder<'_>,
        state: &State,
        after: &RoomState,
        event: &mut NewEvent,
    ) -> Result<()> {
        let store = cx.store;
        let old = self.head.state.clone();
        let afters: Vec<SnapNid> = {
            let mut all: Vec<SnapNid> = self.head.room.head.extremities.iter().map(|e| e.after).collect();
            all.sort_unstable();
            all.dedup();
            all
        };
        let new = match afters.as_slice() {
            [one] if *one == after.snap => after.clone(),
            [one] if *one == old.snap => old.clone(),
            [] => old.clone(),
            several => {
                let mut states = Vec::with_capacity(several.len());
                for snap in several {
                    states.push(store.snapshot(*snap).await?);
                }
                let map = state.resolve(self.head.version, &states, &self.head.fresh).await?;
                if map == old.map {
                    old.clone()
                } else if map == after.map {
                    after.clone()
                } else {
                    let (new, row) = old.near(store.new_snap_nid().await?, map);
                    self.keep(store, &new, row);
                    new
                }
            }
        };
        let mut reopen = false;
        for (key, was, is) in changes(&old.map, &new.map) {
            if event.key == Some(key) && is == Some(event.nid) {
                event.sets_state = true;
                event.replaces = self.unnote(key).unwrap_or(was);
                reopen |= opens(&event.pdu);
            } else {
                let change = self.change(cx, key, was, is).await?;
                reopen |= change.new.as_ref().is_some_and(|e| opens(&e.pdu)) || change.new.is_none();
                self.note(change);
            }
        }
        // Those who follow memberships by events must hear when one does not count.
        if let Some(key) = event.key
            && !event.sets_state
            && *event.pdu.event_type() == TimelineEventType::RoomMember
        {
            let is = new.map.get(&key).copied();
            if !self.is_noted(key) {
                let change = self.change(cx, key, is, is).await?;
                self.note(change);
            }
        }
        self.head.state = new;
        self.head.room.head.snap = self.head.state.snap;
        if reopen {
            self.head.reopen(store).await?;
        }
        Ok(())
    }

    pub(super) async fn change(
        &self,
        cx: &Builder<'_>,
        key: KeyNid,
        old: Option<EventNid>,
        new: Option<EventNid>,
    ) -> Result<StateChange> {
        let store = cx.store;
        let new = match new {
            Some(nid) => Some(self.stored(store, nid).await?),
            None => None,
        };
        let name = store.keys(&[key]).await?.pop().ok_or_else(|| Error::broken("a state key without a name"))?;
        let member = match <&UserId>::try_from(name.state_key.as_str()) {
            Ok(user) if name.event_type == "m.room.member" => {
                Some((store.intern_user(user).await?, user.server_name() == cx.server_name))
            }
            _ => None,
        };
        Ok(StateChange { key, old, new, member })
    }

    /// An event as it is on disk, or will be.
    async fn stored(&self, store: &Store, nid: EventNid) -> Result<Arc<StoredEvent>> {
        if let Some(event) = store.event(nid).await? {
            return Ok(event);
        }
        let fresh = self.head.fresh.get(&nid).ok_or_else(|| Error::broken(format!("{nid:?} is not stored")))?;
        Ok(Arc::new(StoredEvent {
            nid,
            room: self.head.room.nid,
            pos: None,
            depth: i64::try_from(fresh.pdu.depth()).unwrap_or(i64::MAX),
            standing: Standing::Live,
            sender: store.intern_user(fresh.pdu.sender()).await?,
            key: None,
            snap: None,
            after: None,
            counter: 0,
            replaces: None,
            redacted_by: None,
            device: None,
            txn_id: None,
            relay: false,
            told: false,
            pdu: fresh.pdu.clone(),
        }))
    }
}

/// In which entries two states differ: key, old, new.
pub(super) fn changes(old: &StateMap, new: &StateMap) -> Vec<(KeyNid, Option<EventNid>, Option<EventNid>)> {
    use imbl::ordmap::DiffItem;
    old.diff(new)
        .map(|change| match change {
            DiffItem::Add(key, is) => (*key, None, Some(*is)),
            DiffItem::Remove(key, was) => (*key, Some(*was), None),
            DiffItem::Update { old: (_, was), new: (key, is) } => (*key, Some(*was), Some(*is)),
        })
        .collect()
}
