//! What the state of a room was at a place of its history.
//!
//! Where history forks the state after an event is that of its branch, and the room's may never have been it. What the room's
//! was is found from what it is now, by taking back what changed since: as long as this server was in the room all the
//! while, for what changes behind its back nobody notes.

use std::{collections::HashSet, sync::Arc};

use hearth_base::{
    Requester, Result,
    ids::{EventNid, KeyNid, StreamPos},
    stream::{HistoryToken, PageToken, SyncToken},
};
use hearth_store::{
    events::{Changed, Direction, StoredEvent},
    rooms::Room,
    state::StateMap,
};
use ruma::{ServerName, UserId};

use super::{History, Viewer};

impl History {
    /// The state of a room at a place in its history, as far as the user may see: no later than when they left.
    ///
    /// # Errors
    /// 400 for a token that is not ours.
    pub async fn state_at(&self, who: &Requester, viewer: &Viewer, token: &str) -> Result<StateMap> {
        let room = &viewer.room;
        let (mut place, mut upto) = match token.parse::<SyncToken>() {
            // The last place is not that of the newest event, where branches differ in length.
            Ok(token) => (self.newest_place(room, token.pos).await?, token.pos),
            Err(_) => {
                let PageToken { at: place, upto } = token.parse()?;
                (place, if upto == StreamPos(i64::MAX) { place.pos } else { upto })
            }
        };
        if let Some(left) = viewer.left_with().and_then(StoredEvent::place) {
            place = place.min(left);
            upto = upto.min(left.pos);
        }
        if room.head.forked
            && upto > StreamPos::ZERO
            && let Some(state) = self.taken_back(who.user_id.server_name(), room, upto).await?
        {
            return Ok(state);
        }
        let before = self.store.history(room.nid, Direction::Backward, place, HistoryToken::START, 1).await?;
        if let Some(event) = before.first() {
            return self.state_beside(viewer, event).await;
        }
        // Before its creation a room has no state; what is asked for is who made it (the create event, and their join).
        let made = self.store.history(room.nid, Direction::Forward, HistoryToken::START, HistoryToken::END, 2).await?;
        match made.last() {
            Some(event) => self.state_beside(viewer, event).await,
            None => Ok(StateMap::new()),
        }
    }

    /// The current state of a room as it was at a position; `None` if this server (`ours`) was not in the room since then.
    async fn taken_back(&self, ours: &ServerName, room: &Arc<Room>, upto: StreamPos) -> Result<Option<StateMap>> {
        let mut state = self.state.current(room).await?;
        let changes = self.store.later_changes(room.nid, upto).await?;
        for Changed { key, old, .. } in changes.iter().rev() {
            match old {
                Some(old) => drop(state.insert(*key, *old)),
                None => drop(state.remove(key)),
            }
        }
        Ok(self.stayed(ours, &state, &changes).await?.then_some(state))
    }

    /// Whether somebody of this server was joined all the while from a state on, through these changes of it.
    async fn stayed(&self, ours: &ServerName, state: &StateMap, changes: &[Changed]) -> Result<bool> {
        let changed: Vec<KeyNid> = changes.iter().map(|c| c.key).collect();
        let local = self.members_among(ours, &changed).await?;
        if local.is_empty() {
            return Ok(true);
        }
        let changes: Vec<&Changed> = changes.iter().filter(|c| local.contains(&c.key)).collect();
        let keys: Vec<KeyNid> = state.keys().copied().collect();
        let local = self.members_among(ours, &keys).await?;
        let first: Vec<EventNid> = local.iter().filter_map(|key| state.get(key).copied()).collect();
        let mut nids: Vec<EventNid> =
            changes.iter().flat_map(|c| [c.old, c.new]).flatten().chain(first.clone()).collect();
        nids.sort_unstable();
        nids.dedup();
        let events = self.store.events(&nids).await?;
        let joins: HashSet<EventNid> = events.iter().filter(|e| e.pdu.membership() == "join").map(|e| e.nid).collect();
        let is_join = |nid: &Option<EventNid>| nid.is_some_and(|nid| joins.contains(&nid));
        let mut joined = first.iter().filter(|nid| joins.contains(nid)).count();
        for change in changes {
            if joined == 0 && is_join(&change.new) {
                return Ok(false);
            }
            joined = (joined + usize::from(is_join(&change.new))).saturating_sub(usize::from(is_join(&change.old)));
        }
        Ok(true)
    }

    /// Which of these entries are about the membership of this server's users.
    async fn members_among(&self, ours: &ServerName, keys: &[KeyNid]) -> Result<HashSet<KeyNid>> {
        let names = self.store.keys(keys).await?;
        let is_ours = |user: &str| <&UserId>::try_from(user).is_ok_and(|user| user.server_name() == ours);
        let ours = keys.iter().zip(&names).filter(|(_, n)| n.event_type == "m.room.member" && is_ours(&n.state_key));
        Ok(ours.map(|(key, _)| *key).collect())
    }
}
