//! What follows when another server has let us in: whether its answer holds, and the room made of it, with all of its
//! state or (MSC3902) with part of it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use hearth_base::{
    Error, Result,
    ids::{EventNid, RoomNid},
};
use hearth_rules::{auth, event::Pdu, versions::RoomVersion};
use hearth_store::{
    events::{Part, Standing},
    state::StateMap,
};
use ruma::{
    EventId, OwnedEventId, OwnedServerName, RoomId, ServerName,
    events::{StateEventType, TimelineEventType},
};
use serde_json::value::RawValue;

use super::{Joins, template::nonsense};
use crate::{
    events::{Arrival, Arrived, Entry},
    federation::outliers::{Outlier, auth_ids},
};

/// Servers in a room that are kept at most, as another server names them.
const MAX_SERVERS: usize = 20_000;

/// An answer to a join whose events were checked.
pub(super) struct Answer<'a> {
    pub(super) server: &'a ServerName,
    pub(super) room: RoomNid,
    /// Whether we were in the room when it was asked for; nobody else of ours gets in meanwhile.
    pub(super) was_here: bool,
    pub(super) version: &'static RoomVersion,
    pub(super) chain: HashMap<OwnedEventId, Outlier>,
    pub(super) state: HashMap<OwnedEventId, Outlier>,
    /// Servers of whose keys none was to be had, so that what they signed of it was left out.
    pub(super) lacking: BTreeSet<OwnedServerName>,
    /// What came with part of the state; `None` if all of it came.
    pub(super) part: Option<Part>,
}

impl Joins {
    /// The room's row, made or corrected by its create event: the one thing of an answer that decides all else, and that
    /// nobody but the room's own server can have made.
    pub(super) async fn known_room(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        version: &'static RoomVersion,
        state: &[Box<RawValue>],
    ) -> Result<RoomNid> {
        let create = state
            .iter()
            .filter(|raw| raw.get().contains("m.room.create"))
            .filter_map(|raw| Pdu::parse_remote(raw.get(), version).ok())
            .find(|e| e.claimed().is(&TimelineEventType::RoomCreate, "") && e.claimed().room_id() == room_id)
            .ok_or_else(|| nonsense(server, "the room's state has no create event"))?;
        let create = self.verified(create, version).await.map_err(|e| nonsense(server, e))?;
        // No other server could tell a better one: there is no such room.
        auth::check_independent(version, &create, |_| None)
            .map_err(|e| Error::unknown(format!("The room's create event is against the rules: {e}")))?;
        let creator = self.store.intern_user(create.sender()).await?;
        let nid = self.store.make_stub_room(room_id.to_owned(), version.id.clone(), creator, self.now_ms()).await?;
        let room = self.state.room_by_nid(nid).await?;
        if room.version != version.id {
            if !room.head.extremities.is_empty() {
                return Err(nonsense(server, "the room is of another version"));
            }
            self.store.revise_stub_room(room, version.id.clone(), creator).await?;
        }
        Ok(nid)
    }

    /// What came with part of a state.
    pub(super) fn part(&self, server: &ServerName, named: Vec<String>) -> Part {
        let mut servers: Vec<OwnedServerName> = named
            .into_iter()
            .filter_map(|name| OwnedServerName::try_from(name).ok())
            .filter(|name| self.federation.admits(name))
            .take(MAX_SERVERS)
            .collect();
        servers.push(server.to_owned());
        servers.sort_unstable();
        servers.dedup();
        Part { via: server.to_owned(), servers }
    }

    /// Goes into the room with the state before the join, or with part of it, if that holds.
    pub(super) async fn go_in(&self, answer: Answer<'_>, join: Pdu) -> Result<()> {
        let Answer { server, room, was_here, version, chain, state, lacking, part } = answer;
        let ids = auth_ids(version, &join);
        // Who comes back may lean on how they left, which a state without members does not show, and we know.
        let missing = ids.iter().filter(|id| !state.contains_key(*id) && !chain.contains_key(*id)).cloned().collect();
        let here = self.outliers.known(room, missing).await?;
        let find = |id: &EventId| state.get(id).or_else(|| chain.get(id)).or_else(|| here.get(id));
        let mut entries: HashMap<(StateEventType, &str), &Outlier> = HashMap::with_capacity(state.len());
        let mut map = StateMap::new();
        for outlier in state.values().filter(|o| o.standing != Standing::Rejected) {
            let Some(state_key) = outlier.pdu.state_key() else { continue };
            let event_type = outlier.pdu.event_type().to_string();
            let key = self.store.intern_key(&event_type, state_key).await?;
            if entries.insert((event_type.into(), state_key), outlier).is_some() {
                return Err(nonsense(server, "the room's state has an entry twice"));
            }
            map.insert(key, outlier.nid);
        }
        if !entries.contains_key(&(StateEventType::RoomCreate, "")) {
            return Err(nonsense(server, "the room's state has no create event that holds"));
        }
        let mut auth = Vec::new();
        let mut members: Vec<&Outlier> = Vec::new();
        for id in &ids {
            let event = find(id).ok_or_else(|| nonsense(server, "the join leans on events that are not there"))?;
            auth.push(event.nid);
            // Of members that were left out the join's own word is taken, until all of the state is there.
            if part.is_some() && *event.pdu.event_type() == TimelineEventType::RoomMember {
                members.push(event);
            }
        }
        let entry = |event_type: &StateEventType, state_key: &str| {
            let told = || {
                members
                    .iter()
                    .find(|o| *event_type == StateEventType::RoomMember && o.pdu.state_key() == Some(state_key))
            };
            let known = entries.get(&(event_type.clone(), state_key));
            known.or_else(told).map(|o| o.pdu.clone())
        };
        let allowed = auth::check_auth_events(version, &join, |id| find(id).map(|o| o.pdu.clone()))
            .and_then(|()| auth::check_against(version, &join, entry));
        allowed.map_err(|e| nonsense(server, format!("the room's state does not allow the join: {e}")))?;
        let prev: Vec<OwnedEventId> = join.prev_events().to_vec();
        let known = self.store.events_by_id(&prev).await?;
        let mut missing = prev;
        missing.retain(|id| !known.iter().any(|e| e.room == room && e.after.is_some() && e.event_id() == id));
        let arrival = Arrival::placed(self.store.new_event_nid().await?, Arc::new(join), auth);
        // The server that let us in tells the others (server-server API, "Joining Rooms").
        let arrival = Arrival { missing, relay: false, told: true, ..arrival };
        if was_here && self.store.is_resident(room).await? {
            return self.place_among(room, arrival, map, part.is_some()).await;
        }
        // Before, so that no stop in between forgets it. Nothing is to be forgotten where we never were.
        if !lacking.is_empty() || !self.state.room_by_nid(room).await?.head.extremities.is_empty() {
            let lacking = lacking.into_iter().collect();
            self.store.set_lacking_keys((room, arrival.nid), server, lacking, self.now_ms()).await?;
        }
        let state: Vec<EventNid> = map.values().copied().collect();
        self.events.enter(room, Entry { state, join: arrival, part }).await
    }

    /// Places a join that another server let in, in a room we are in. `in_part` says that the state before it is not whole.
    async fn place_among(&self, room: RoomNid, arrival: Arrival, before: StateMap, in_part: bool) -> Result<()> {
        let arrival = match (arrival.missing.is_empty(), in_part) {
            (true, _) => arrival,
            (false, in_part) => Arrival { states: vec![before], whole: in_part, in_part, ..arrival },
        };
        match self.events.receive(room, vec![arrival]).await?.pop() {
            Some(Arrived::Placed) => Ok(()),
            Some(Arrived::SoftFailed(why) | Arrived::Rejected(why)) => Err(Error::forbidden(why)),
            None => Err(Error::broken("nothing became of a join")),
        }
    }
}
