//! What our users did last in a room before nobody of ours was left in it, when whoever lets the next of ours in has not
//! heard of that yet: the state they tell has what stood there before. Ours is one more end of the room then, and
//! resolution says what holds; of a room whose members are not told it is what is known of them.

use std::sync::Arc;

use hearth_base::{
    Result,
    ids::{EventNid, KeyNid, RoomNid},
};
use hearth_rules::event::Pdu;
use hearth_store::{
    Store,
    events::{Standing, StoredEvent},
    rooms::Extremity,
    state::{RoomState, StateMap},
};
use ruma::{ServerName, events::room::member::MembershipState};

use super::lane::{Builder, Staged};

/// Events before ours that are looked at for the one told.
const LINKS: usize = 50;
/// Users of ours of whom it is asked.
const USERS: usize = 100;

impl Staged {
    /// Member events of our users which those who told these entries have not heard of, the newest first: what they tell
    /// stands before ours in our history.
    pub(super) async fn unheard(
        &self,
        store: &Store,
        ours: &ServerName,
        told: &[(KeyNid, EventNid)],
    ) -> Result<Vec<Arc<StoredEvent>>> {
        let mut unheard = Vec::new();
        for (key, old) in told.iter().take(USERS) {
            let Some(nid) = self.head.state.map.get(key).filter(|nid| *nid != old) else { continue };
            let Some(event) = store.event(*nid).await? else { continue };
            let is_ours = event.standing == Standing::Live && event.pdu.sender().server_name() == ours;
            if is_ours && follows(store, &event, *old).await? {
                unheard.push(event);
            }
        }
        unheard.sort_by_key(|event| std::cmp::Reverse(event.depth));
        Ok(unheard)
    }

    /// Ends of the room at these events, and the state that holds at all ends then: `told` is the one without them. `None`
    /// if they change nothing.
    pub(super) async fn beside(
        &mut self,
        cx: &Builder<'_>,
        unheard: &[Arc<StoredEvent>],
        told: &[StateMap],
        without: &RoomState,
    ) -> Result<Option<(Vec<Extremity>, RoomState)>> {
        let (mut ends, mut states): (Vec<Extremity>, Vec<StateMap>) = (Vec::new(), Vec::new());
        for event in unheard {
            let (Some(after), Some(key)) = (event.after, event.key) else { continue };
            // One that a newer one follows is no end.
            if states.iter().any(|state| state.get(&key) == Some(&event.nid)) {
                continue;
            }
            states.push(cx.store.snapshot(after).await?);
            let reference = event.pdu.reference(self.head.version);
            ends.push(Extremity { nid: event.nid, event: reference, depth: event.depth, after });
        }
        if ends.is_empty() {
            return Ok(None);
        }
        states.extend(told.iter().cloned());
        let map = cx.state.resolve(self.head.version, &states, &self.head.fresh).await?;
        if map == without.map {
            return Ok(None);
        }
        let (state, row) = without.near(cx.store.new_snap_nid().await?, map);
        self.keep(cx.store, &state, row);
        Ok(Some((ends, state)))
    }
}

/// Whether an event comes after another in what stood at its place.
async fn follows(store: &Store, event: &StoredEvent, old: EventNid) -> Result<bool> {
    let mut before = event.replaces;
    for _ in 0..LINKS {
        match before {
            Some(nid) if nid == old => return Ok(true),
            Some(nid) => before = store.event(nid).await?.and_then(|event| event.replaces),
            None => break,
        }
    }
    Ok(false)
}

/// How those of ours left who left a room: the entry of its state, and the event.
pub(super) async fn ours_who_left(store: &Store, room: RoomNid) -> Result<Vec<(KeyNid, Arc<StoredEvent>)>> {
    let mut left = Vec::new();
    for member in store.ours_who_left(room).await? {
        if let Some(event) = store.event(member.event).await?
            && let (Some(key), true) = (event.key, event.pos.is_some() && says(&event.pdu, &member.membership))
        {
            left.push((key, event));
        }
    }
    Ok(left)
}

fn says(event: &Pdu, membership: &MembershipState) -> bool {
    event.membership() == membership.as_str()
}
