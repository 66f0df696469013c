//! What is to be done about an event that notified a user who has no row for it: only the room's counter, or the row of
//! everybody, says that it did, and neither knows the sound. So the rules are asked again.

use hearth_base::{Result, ids::RoomNid};
use hearth_rules::{
    auth::PowerLevels,
    push::{self as rules, PushEvent},
};
use hearth_store::events::StoredEvent;

use super::{Push, row};
use crate::{history::Viewer, state::State};

/// Entries of a state whose members are counted. Who is in a room with more is counted as of now: two alone they are not.
const MOST_COUNTED: usize = 500;

/// The room around an event, at the event.
pub(super) struct Around {
    member_count: u64,
    levels: Option<PowerLevels>,
}

impl Push {
    /// The room around an event that counts.
    ///
    /// # Errors
    /// If the database fails.
    pub(super) async fn around(&self, state: &State, viewer: &Viewer, event: &StoredEvent) -> Result<Around> {
        let room = &viewer.room;
        let Some(snap) = event.snap.filter(|_| !room.head.partial) else {
            return Ok(Around { member_count: self.joined_now(room.nid).await?, levels: None });
        };
        let then = self.store.snapshot(snap).await?;
        let member_count = match then.len() <= MOST_COUNTED {
            true => state.joined_in(&then).await?,
            false => self.joined_now(room.nid).await?,
        };
        Ok(Around { member_count, levels: Some(state.power_levels_in(room, &then).await?) })
    }

    /// The actions, a JSON array, of the rule by which an event notifies a user; `None` if by their rules of today it does
    /// not, or not with that `highlight`.
    ///
    /// # Errors
    /// If the database fails.
    pub(super) async fn actions(
        &self,
        viewer: &Viewer,
        event: &StoredEvent,
        around: &Around,
        highlight: bool,
    ) -> Result<Option<String>> {
        let context = rules::Room { member_count: around.member_count, levels: around.levels.as_ref() };
        let said = PushEvent::new(&event.pdu);
        let done = match self.rules_of(viewer.user).await? {
            Some(own) => self.fired(event.room, viewer.user, &own, &said, &context).await?,
            None => row(viewer.user, rules::default_outcome(&said, &context).to(viewer.user_id())),
        };
        Ok((done.notify && done.highlight == highlight).then_some(done.actions))
    }

    async fn joined_now(&self, room: RoomNid) -> Result<u64> {
        self.joined(&self.rooms.get_with(room, Default::default), room).await
    }
}
