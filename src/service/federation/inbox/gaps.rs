//! What lies between the events we have and those that arrive: fetched from whoever sent them, or from others of the room
//! if they cannot tell (server-server API, "Backfilling and retrieving missing events", "Retrieving events").
//!
//! Up to a bound the missing events themselves are fetched; before what is missing then, the state is, and the history is
//! left to [`super::Inbox::take_in_history`]. Where nobody can tell the state either, the present one stands in for it: the room goes
//! on, and the event is judged by it.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use futures_util::{StreamExt, future::BoxFuture, stream};
use hearth_base::Result;
use hearth_remote::federation::Patience;
use hearth_rules::{event::Pdu, versions::RoomVersion};
use hearth_store::{events::Standing, rooms::Room, state::StateMap};
use ruma::{
    EventId, OwnedEventId, OwnedServerName, ServerName, UInt,
    api::federation::{
        authorization::get_event_authorization,
        event::{get_event, get_missing_events, get_room_state, get_room_state_ids},
    },
    events::room::member::MembershipState,
};
use serde_json::value::RawValue;

use super::{Inbox, Ready};

/// Rounds of asking for what lies between.
const ROUNDS: usize = 10;
/// Events asked for in a round.
const A_ROUND: u32 = 20;
/// Events of a gap fetched at most.
const MOST: usize = 200;
/// Servers asked for a state.
const SERVERS: usize = 5;
/// Events fetched one by one at most; beyond that the whole state is asked for.
const ONE_BY_ONE: usize = 50;
/// Events fetched at the same time.
const AT_ONCE: usize = 8;
/// The longest wait for one answer.
const WAIT: Duration = Duration::from_secs(20);
/// Ends of a piece of history at which the state is asked for.
const EDGES: usize = 20;
/// Bytes of a whole state.
const MAX_STATE: usize = 256 << 20;

impl Inbox {
    /// The events and what lies before them as far as it is fetched, each after those it follows, with the states that
    /// stand in for what is missing.
    pub(super) async fn fill_gaps(
        &self,
        origin: &ServerName,
        room: &Room,
        version: &'static RoomVersion,
        events: Vec<Pdu>,
        history: bool,
    ) -> Result<Vec<Ready>> {
        let mut all: HashMap<OwnedEventId, Pdu> = events.into_iter().map(|e| (e.event_id().to_owned(), e)).collect();
        let mut missing = self.missing(room, &all).await?;
        // History is asked for from its newest end anyway.
        for _ in 0..if history { 0 } else { ROUNDS } {
            if missing.is_empty() || all.len() > MOST {
                break;
            }
            let latest: Vec<OwnedEventId> = all
                .values()
                .filter(|e| e.prev_events().iter().any(|p| missing.contains(p)))
                .map(|e| e.event_id().to_owned())
                .take(A_ROUND as usize)
                .collect();
            let Some(found) = self.fetch_missing(origin, room, latest).await else { break };
            let before = all.len();
            for pdu in self.verified(room, version, found).await? {
                all.entry(pdu.event_id().to_owned()).or_insert(pdu);
            }
            missing = self.missing(room, &all).await?;
            if all.len() == before {
                break;
            }
        }
        let mut states: HashMap<OwnedEventId, StateMap> = HashMap::new();
        for id in missing.iter().take(if history { EDGES } else { usize::MAX }) {
            let state = match history {
                // Old events are not to be judged by what holds today: who gives history gives the state before it.
                true => self.state_by(origin, room, id).await?,
                false => Some(self.state_after(origin, room, id).await?),
            };
            states.extend(state.map(|state| (id.clone(), state)));
        }
        let mut ready = Vec::with_capacity(all.len());
        for pdu in in_order(all) {
            let gone: Vec<OwnedEventId> =
                pdu.prev_events().iter().filter(|id| missing.contains(*id)).cloned().collect();
            let states: Vec<StateMap> = gone.iter().filter_map(|id| states.get(id).cloned()).collect();
            if states.is_empty() && !gone.is_empty() && gone.len() == pdu.prev_events().len() {
                // Nothing tells the state before it, nor before what follows it alone.
                missing.insert(pdu.event_id().to_owned());
            } else {
                ready.push(Ready { states, missing: gone, pdu });
            }
        }
        Ok(ready)
    }

    /// Predecessors of these events that are neither among them nor here with a state.
    async fn missing(&self, room: &Room, events: &HashMap<OwnedEventId, Pdu>) -> Result<HashSet<OwnedEventId>> {
        let named: HashSet<OwnedEventId> = events
            .values()
            .flat_map(|e| e.prev_events().iter().cloned())
            .filter(|id| !events.contains_key(id) && !room.head.extremities.iter().any(|e| e.event_id() == id))
            .collect();
        let ids: Vec<OwnedEventId> = named.iter().cloned().collect();
        let mut missing = named;
        for event in self.store.events_by_id(&ids).await? {
            if event.room == room.nid && event.after.is_some() {
                missing.remove(event.event_id());
            }
        }
        Ok(missing)
    }

    async fn fetch_missing(
        &self,
        origin: &ServerName,
        room: &Room,
        latest: Vec<OwnedEventId>,
    ) -> Option<Vec<Box<RawValue>>> {
        // The head as it is now, not as it was when the transaction began.
        let head = self.store.room(room.nid).await.ok().flatten()?;
        let earliest = head.head.extremities.iter().map(|e| e.event_id().to_owned()).collect();
        let mut request = get_missing_events::v1::Request::new(room.room_id.clone(), earliest, latest);
        request.limit = UInt::from(A_ROUND);
        match self.federation.send(origin, request, self.patience()).await {
            Ok(answer) => Some(answer.events),
            Err(e) => {
                tracing::debug!(server = %origin, room.id = %room.room_id, error = %e, "missing events were not told");
                None
            }
        }
    }

    /// The state after an event that we do not have.
    async fn state_after(&self, origin: &ServerName, room: &Room, id: &EventId) -> Result<StateMap> {
        for server in self.servers(origin, room).await? {
            match self.state_by(&server, room, id).await? {
                Some(state) => return Ok(state),
                None => tracing::debug!(%server, room.id = %room.room_id, event.id = %id, "the state was not told"),
            }
        }
        tracing::info!(room.id = %room.room_id, event.id = %id, "nobody tells the state at an event; the present one stands in");
        let head = self.store.room(room.nid).await?;
        self.store.snapshot(head.map_or(room.head.snap, |r| r.head.snap)).await
    }

    async fn state_by(&self, server: &ServerName, room: &Room, id: &EventId) -> Result<Option<StateMap>> {
        let request = get_room_state_ids::v1::Request::new(id.to_owned(), room.room_id.clone());
        let Ok(ids) = self.federation.send(server, request, self.patience().up_to(MAX_STATE)).await else {
            return Ok(None);
        };
        let mut unknown = self.unknown(room, ids.pdu_ids.iter().chain(&ids.auth_chain_ids)).await?;
        if unknown.len() > ONE_BY_ONE {
            let request = get_room_state::v1::Request::new(id.to_owned(), room.room_id.clone());
            if let Ok(state) = self.federation.send(server, request, self.patience().up_to(MAX_STATE)).await {
                self.outliers.take_in(room.nid, state.pdus.into_iter().chain(state.auth_chain)).await?;
            }
        } else {
            unknown.push(id.to_owned());
            self.fetch_events(server, room, &unknown).await?;
        }
        if !self.unknown(room, std::iter::once(&id.to_owned())).await?.is_empty() {
            self.fetch_events(server, room, &[id.to_owned()]).await?;
        }
        let (mut state, mut count) = (StateMap::new(), 0);
        for part in ids.pdu_ids.chunks(1_000) {
            for event in self.store.events_by_id(part).await? {
                if let (Some(key), true) = (event.key, event.room == room.nid) {
                    count += 1;
                    if event.standing != Standing::Rejected {
                        state.insert(key, event.nid);
                    }
                }
            }
        }
        // Half a state would have us judge wrongly.
        if count < ids.pdu_ids.len() {
            return Ok(None);
        }
        let Some(event) = self.store.event_by_id(id).await?.filter(|e| e.room == room.nid) else { return Ok(None) };
        if let Some(key) = event.key
            && event.standing != Standing::Rejected
        {
            state.insert(key, event.nid);
        }
        Ok(Some(state))
    }

    /// Which of these events we do not have.
    async fn unknown<'a>(
        &self,
        room: &Room,
        ids: impl IntoIterator<Item = &'a OwnedEventId>,
    ) -> Result<Vec<OwnedEventId>> {
        let mut ids: Vec<OwnedEventId> = ids.into_iter().cloned().collect();
        ids.sort_unstable();
        ids.dedup();
        let mut unknown = Vec::new();
        for part in ids.chunks(1_000) {
            let known = self.store.known_events(part).await?;
            unknown.extend(part.iter().filter(|id| known.get(*id).is_none_or(|k| k.room != room.nid)).cloned());
        }
        Ok(unknown)
    }

    /// Fetches events one by one and keeps them as outliers.
    async fn fetch_events(&self, server: &ServerName, room: &Room, ids: &[OwnedEventId]) -> Result<()> {
        let patience = self.patience();
        // Boxed: the compiler cannot see by itself that such a future may be sent to another thread.
        let fetched = |id: OwnedEventId| -> BoxFuture<'_, Option<Box<RawValue>>> {
            Box::pin(async move {
                let request = get_event::v1::Request::new(id);
                self.federation.send(server, request, patience).await.ok().map(|answer| answer.pdu)
            })
        };
        let found: Vec<Option<Box<RawValue>>> =
            stream::iter(ids.to_vec()).map(fetched).buffer_unordered(AT_ONCE).collect().await;
        self.outliers.take_in(room.nid, found.into_iter().flatten()).await.map(drop)
    }

    /// Fetches what allows an event.
    pub(super) async fn fetch_auth(&self, origin: &ServerName, room: &Room, pdu: &Pdu) -> Result<()> {
        for server in self.servers(origin, room).await? {
            let request = get_event_authorization::v1::Request::new(room.room_id.clone(), pdu.event_id().to_owned());
            if let Ok(answer) = self.federation.send(&server, request, self.patience()).await {
                self.outliers.take_in(room.nid, answer.auth_chain).await?;
            }
            let left = self.unknown(room, pdu.auth_events()).await?;
            if left.is_empty() {
                return Ok(());
            }
            self.fetch_events(&server, room, &left).await?;
            if self.unknown(room, pdu.auth_events()).await?.is_empty() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whom to ask about a room: who told us of it, then others that are in it.
    async fn servers(&self, first: &ServerName, room: &Room) -> Result<Vec<OwnedServerName>> {
        let mut servers = vec![first.to_owned()];
        let members: Vec<_> = self.store.members(room.nid, &MembershipState::Join).await?;
        let remote: Vec<_> = members.iter().filter(|m| !m.local).map(|m| m.user).take(200).collect();
        for user in self.store.user_ids(&remote).await? {
            if servers.len() >= SERVERS {
                break;
            }
            if !servers.iter().any(|s| s == user.server_name()) {
                servers.push(user.server_name().to_owned());
            }
        }
        servers.retain(|s| s != self.federation.name());
        Ok(servers)
    }

    fn patience(&self) -> Patience {
        self.federation.once().within(WAIT)
    }
}

/// Each event after those of them that it follows. Events that follow each other in a circle, which cannot be made,
/// are left out.
fn in_order(events: HashMap<OwnedEventId, Pdu>) -> Vec<Pdu> {
    let mut events = events;
    let mut waits: HashMap<OwnedEventId, usize> = HashMap::new();
    let mut next: HashMap<OwnedEventId, Vec<OwnedEventId>> = HashMap::new();
    let mut first = Vec::new();
    for (id, pdu) in &events {
        let prevs: HashSet<&OwnedEventId> = pdu.prev_events().iter().filter(|p| events.contains_key(*p)).collect();
        if prevs.is_empty() {
            first.push((pdu.depth(), pdu.origin_server_ts(), id.clone()));
        } else {
            waits.insert(id.clone(), prevs.len());
        }
        for prev in prevs {
            next.entry(prev.clone()).or_default().push(id.clone());
        }
    }
    first.sort_unstable();
    let mut ready: VecDeque<OwnedEventId> = first.into_iter().map(|(.., id)| id).collect();
    let mut ordered = Vec::with_capacity(events.len());
    while let Some(id) = ready.pop_front() {
        for after in next.remove(&id).unwrap_or_default() {
            if let Some(left) = waits.get_mut(&after) {
                *left -= 1;
                if *left == 0 {
                    ready.push_back(after);
                }
            }
        }
        ordered.extend(events.remove(&id));
    }
    ordered
}
