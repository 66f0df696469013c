//! Events of senders of whom the room's state says nothing at all, though they lean on a join of theirs that is good: then
//! the state has a hole, as when it was told while their server was away and nobody gave its keys. It stays one as long as
//! nobody tells more, and none of what they say is allowed. So the state before such an event is asked for as before one
//! that follows what nobody gives.
//!
//! Nobody gains by that what they could not have by naming predecessors that nobody knows. What is told is one state more
//! to be resolved with those that we have, never one instead of them: it is checked event by event, it cannot take away who
//! was banned or left (of them the state does say something), and its sender's join counts only if it holds by what the
//! states have come to together. Where it does, the join by itself would have been allowed. It must be an event that is
//! known by name alone: one that was placed and does not count was judged, and is not asked about again.

use std::{collections::HashSet, time::Duration};

use hearth_base::{Result, cache::Lasting, ids::RoomNid};
use hearth_rules::event::Pdu;
use hearth_store::events::Standing;
use ruma::{OwnedEventId, OwnedServerName, ServerName, events::TimelineEventType};

use super::{
    Inbox, Sort,
    asking::{Search, Told},
    gaps::Found,
};

/// Rooms and servers remembered that were asked, and for how long none is asked again.
const REMEMBERED: u64 = 10_000;
const PAUSE: Duration = Duration::from_secs(60);

/// Who was asked of late, in which room.
#[derive(Debug)]
pub(super) struct Asked(Lasting<(RoomNid, OwnedServerName), ()>);

impl Default for Asked {
    fn default() -> Self {
        Self(Lasting::new(REMEMBERED, PAUSE))
    }
}

impl Asked {
    /// Whether a server may be asked about a room again; notes that it is.
    fn may(&self, room: RoomNid, server: &ServerName) -> bool {
        let key = (room, server.to_owned());
        let may = self.0.get(&key).is_none();
        if may {
            self.0.insert(key, ());
        }
        may
    }
}

impl Search<'_> {
    /// Fetches the state before the first event of a stranger.
    pub(super) async fn strangers(&self, found: &mut Found) -> Result<()> {
        let strangers = match self.sort {
            // What is old does not change what holds now.
            Sort::History => return Ok(()),
            Sort::News | Sort::Held | Sort::ToldToUs => self.inbox.strangers_among(self, found).await?,
        };
        let mut asked = false;
        for id in strangers {
            let Some(pdu) = found.events.get(&id) else { continue };
            let is_told = found.before.contains_key(&id) && !found.unsure.contains(&id)
                || pdu.prev_events().iter().any(|prev| found.after.contains_key(prev));
            if is_told {
                found.strangers.insert(id);
                continue;
            }
            // What follows the first stands on what is told of it.
            if std::mem::replace(&mut asked, true) || !self.inbox.strangers.may(self.room.nid, self.origin) {
                continue;
            }
            if let Told::State(state) = Box::pin(self.state(&id, false)).await? {
                tracing::info!(room.id = %self.room.room_id, event.id = %id, "a room's state says nothing of who sent an event; what others say of it is taken beside it");
                found.beside.insert(id.clone(), state);
                found.strangers.insert(id);
            }
        }
        Ok(())
    }
}

impl Inbox {
    /// Those of the events whose senders the present state does not know, though they joined by what the events name; the
    /// first comes first.
    async fn strangers_among(&self, search: &Search<'_>, found: &Found) -> Result<Vec<OwnedEventId>> {
        let Some(room) = self.store.room(search.room.nid).await?.filter(|room| !room.head.partial) else {
            return Ok(Vec::new());
        };
        let state = self.store.room_state(room.head.snap).await?;
        let mut events: Vec<&Pdu> = found.events.values().collect();
        events.sort_unstable_by_key(|pdu| pdu.depth());
        let (mut strangers, mut known) = (Vec::new(), HashSet::new());
        for pdu in events {
            if known.contains(pdu.sender()) {
                continue;
            }
            let key = self.store.key_nid("m.room.member", pdu.sender().as_str()).await?;
            if key.is_some_and(|key| state.map.contains_key(&key)) || !self.has_joined(search, found, pdu).await? {
                known.insert(pdu.sender());
                continue;
            }
            strangers.push(pdu.event_id().to_owned());
        }
        Ok(strangers)
    }

    /// Whether an event names a good join of its sender that has never been placed.
    async fn has_joined(&self, search: &Search<'_>, found: &Found, pdu: &Pdu) -> Result<bool> {
        let named = self.store.events_by_id(pdu.auth_events()).await?;
        Ok(named.iter().any(|e| {
            e.room == search.room.nid
                && e.standing == Standing::Outlier
                && *e.pdu.event_type() == TimelineEventType::RoomMember
                && e.pdu.state_key() == Some(pdu.sender().as_str())
                && e.pdu.membership() == "join"
                && !found.events.contains_key(e.event_id())
        }))
    }
}
