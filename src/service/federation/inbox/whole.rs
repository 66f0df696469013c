//! What other servers say of the state before an event of which we know part only (MSC3902): all of it, from one of them.

use std::{collections::BTreeSet, time::Duration};

use hearth_base::{OrNotFound, Result};
use hearth_store::{events::StoredEvent, rooms::Room, state::StateMap};
use ruma::{OwnedEventId, OwnedServerName, ServerName};

use super::{
    Inbox,
    asking::{Search, Told},
};
use crate::{events, state::version_of};

/// The longest wait for one answer, which may be large, and for all of them.
const WAIT: Duration = Duration::from_secs(180);
const WAIT_IN_ALL: Duration = Duration::from_secs(600);

/// What one server said.
#[derive(Debug)]
pub enum Telling {
    /// A state, and the servers of whose keys none was to be had, so that what they signed is not in it.
    State(events::Told, BTreeSet<OwnedServerName>),
    /// It answered, and does not know, or what it said cannot be.
    Nothing,
    /// It could not be asked.
    NoAnswer,
}

impl Inbox {
    /// Asks a server what stood before an event some of whose predecessors are not here. Before the event by which we came
    /// in (`is_join`) a state that does not allow it is none, and one is taken of which part cannot be proved, as when we came.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn ask_whole(
        &self,
        server: &ServerName,
        room: &Room,
        event: &StoredEvent,
        is_join: bool,
    ) -> Result<Telling> {
        let (version, must_allow) = (version_of(room)?, is_join);
        let search = Search::only(self, server, (room, version), [WAIT, WAIT_IN_ALL]);
        let search = if is_join { search.leaving_out() } else { search };
        let prevs = event.pdu.prev_events();
        let placed = self.store.events_by_id(prevs).await?;
        let placed =
            |id: &OwnedEventId| placed.iter().any(|e| e.room == room.nid && e.after.is_some() && e.event_id() == id);
        let missing: Vec<&OwnedEventId> = prevs.iter().filter(|id| !placed(id)).collect();
        let mut answered = false;
        // What came before is known to more servers than the event, if that is new.
        if let [prev] = missing.as_slice() {
            match search.state(prev, true).await? {
                Told::State(state) if prevs.len() > 1 && !must_allow => {
                    return Ok(Telling::State(events::Told::After(vec![state]), search.lacking()));
                }
                Told::State(state) if prevs.len() == 1 && self.fits(room, event, &state, must_allow).await? => {
                    return Ok(Telling::State(events::Told::Before(state), search.lacking()));
                }
                Told::NoAnswer => return Ok(Telling::NoAnswer),
                Told::State(_) | Told::Nothing | Told::Incomplete => answered = true,
            }
        }
        match search.state(event.event_id(), false).await? {
            Told::State(state) if self.fits(room, event, &state, must_allow).await? => {
                Ok(Telling::State(events::Told::Before(state), search.lacking()))
            }
            Told::NoAnswer if !answered => Ok(Telling::NoAnswer),
            _ => Ok(Telling::Nothing),
        }
    }

    /// What a server says of the state before the event by which we came in, beside what is known of that: it fills holes,
    /// and changes nothing else.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn ask_beside(&self, server: &ServerName, room: &Room, join: &StoredEvent) -> Result<Telling> {
        let told = self.ask_whole(server, room, join, true).await?;
        let (Telling::State(events::Told::Before(told), lacking), Some(snap)) = (&told, join.snap) else {
            return Ok(told);
        };
        let known = self.store.snapshot(snap).await?;
        let beside = known.union(told.clone());
        if !self.fits(room, join, &beside, true).await? {
            return Ok(Telling::Nothing);
        }
        Ok(Telling::State(events::Told::Before(beside), lacking.clone()))
    }

    /// Whether a state can be one of that room, and if so asked for, allows the event.
    async fn fits(&self, room: &Room, event: &StoredEvent, state: &StateMap, must_allow: bool) -> Result<bool> {
        let create = self.store.key_nid("m.room.create", "").await?.or_not_found("State")?;
        let known = self.store.snapshot(room.head.snap).await?.get(&create).copied();
        if state.get(&create).copied() != known {
            return Ok(false);
        }
        Ok(!must_allow || self.events.check_by(room.nid, &event.pdu, state).await?)
    }
}
