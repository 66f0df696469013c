//! The end of it: the room's present state, found from those at its ends, and what of it is news.

use std::collections::BTreeSet;

use hearth_base::{
    Error, OrNotFound, Result,
    ids::{EventNid, KeyNid},
};
use hearth_store::{
    events::Wholeness,
    state::{RoomState, StateMap},
};
use ruma::OwnedServerName;

use super::Anew;
use crate::{
    events::{
        arrivals::changes,
        heads::{PART, member_row},
        lane::{Builder, Staged},
    },
    state::State,
};

impl Staged {
    /// Finds the present state, now that those at all ends are whole, and notes what of it is new.
    pub(super) async fn make_whole(&mut self, cx: &Builder<'_>, state: &State, anew: &Anew) -> Result<()> {
        let store = cx.store;
        let mut states: Vec<RoomState> = Vec::new();
        for end in &self.head.room.head.extremities {
            if !states.iter().any(|s| s.snap == end.after) {
                states.push(match anew.states.get(&end.after) {
                    Some(state) => state.clone(),
                    None => store.room_state(end.after).await?,
                });
            }
        }
        let maps: Vec<StateMap> = states.iter().map(|s| s.map.clone()).collect();
        let map = match maps.as_slice() {
            [one] => one.clone(),
            several => state.resolve(self.head.version, several, &self.head.fresh).await?,
        };
        let new = match (states.iter().find(|s| s.map == map), states.first()) {
            (Some(same), _) => same.clone(),
            (None, Some(first)) => {
                let (new, row) = first.near(store.new_snap_nid().await?, map);
                self.keep(store, &new, row);
                new
            }
            (None, None) => return Err(Error::broken("a room without ends")),
        };
        // Whoever told the state may not have heard yet how others of ours had left.
        let told = self.ours_otherwise(cx, &new.map).await?;
        let unheard = self.unheard(store, cx.server_name, &told).await?;
        let new = match self.beside(cx, &unheard, &maps, &new).await? {
            Some((ends, state)) => {
                self.head.room.head.extremities.extend(ends);
                state
            }
            None => new,
        };
        let mut servers = self.note_changes(cx, &new.map).await?;
        // Of a room that was whole but for a hole it was known who else is there.
        if !anew.partial.again {
            servers.extend(self.servers_before(cx, anew, &new.map).await?);
            let told = &anew.partial.part;
            servers.retain(|s| *s != told.via && !told.servers.contains(s));
        }
        servers.remove(cx.server_name);
        self.wholeness = Wholeness::Whole { met: servers.into_iter().collect() };
        let rh = &mut self.head.room.head;
        rh.snap = new.snap;
        rh.partial = false;
        self.head.state = new;
        self.head.reopen(store).await
    }

    /// The entries of a state that say of users of ours something else than what is known of them so far.
    async fn ours_otherwise(&self, cx: &Builder<'_>, new: &StateMap) -> Result<Vec<(KeyNid, EventNid)>> {
        let mut otherwise = Vec::new();
        for (key, was, is) in changes(&self.head.state.map, new) {
            let (Some(_), Some(is)) = (was, is) else { continue };
            let Some(event) = cx.store.event(is).await? else { continue };
            if member_row(cx.store, &event, cx.server_name).await?.is_some_and(|row| row.local) {
                otherwise.push((key, is));
            }
        }
        Ok(otherwise)
    }

    /// Notes what of the present state changes; of other servers' users of whom nothing was known what they are. Gives the
    /// servers of those who are joined by that.
    async fn note_changes(&mut self, cx: &Builder<'_>, new: &StateMap) -> Result<BTreeSet<OwnedServerName>> {
        let (mut servers, mut added) = (BTreeSet::new(), Vec::new());
        for (key, was, is) in changes(&self.head.state.map, new) {
            if let (None, Some(is)) = (was, is) {
                added.push((key, is));
                continue;
            }
            let change = self.change(cx, key, was, is).await?;
            if let Some(event) = change.new.as_ref().filter(|e| e.pdu.membership() == "join") {
                servers.insert(event.pdu.sender().server_name().to_owned());
            }
            self.note(change);
        }
        for part in added.chunks(PART) {
            let nids: Vec<EventNid> = part.iter().map(|(_, nid)| *nid).collect();
            for event in cx.store.events(&nids).await? {
                match member_row(cx.store, &event, cx.server_name).await? {
                    Some(row) if !row.local => {
                        if event.pdu.membership() == "join" {
                            servers.insert(event.pdu.sender().server_name().to_owned());
                        }
                        self.members.push(row);
                    }
                    _ => {
                        let Some((key, nid)) = part.iter().find(|(_, nid)| *nid == event.nid) else { continue };
                        let change = self.change(cx, *key, None, Some(*nid)).await?;
                        self.note(change);
                    }
                }
            }
        }
        Ok(servers)
    }

    /// The servers of those who were there when we came and are not now, and of those who spoke since.
    async fn servers_before(&self, cx: &Builder<'_>, anew: &Anew, now: &StateMap) -> Result<BTreeSet<OwnedServerName>> {
        let (store, mut servers) = (cx.store, BTreeSet::new());
        let join = store.event(anew.partial.join).await?.or_not_found("Event")?;
        let restated = self.restated.iter().find(|r| r.event == join.nid).map(|r| r.snap);
        if let Some(snap) = restated.or(join.snap) {
            let then = match anew.states.get(&snap) {
                Some(state) => state.map.clone(),
                None => store.snapshot(snap).await?,
            };
            let gone: Vec<EventNid> = changes(&then, now).into_iter().filter_map(|(_, was, _)| was).collect();
            for event in store.events(&gone).await?.iter().filter(|e| e.pdu.membership() == "join") {
                servers.insert(event.pdu.sender().server_name().to_owned());
            }
        }
        if let Some(pos) = join.pos {
            let speakers = store.speakers_since(self.head.room.nid, pos).await?;
            servers.extend(store.user_ids(&speakers).await?.iter().map(|u| u.server_name().to_owned()));
        }
        Ok(servers)
    }
}
