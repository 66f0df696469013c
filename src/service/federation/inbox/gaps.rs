//! What lies between the events we have and those that arrive: fetched from whoever sent them, or from others of the room
//! if they cannot tell (server-server API, "Backfilling and retrieving missing events", "Retrieving events").
//!
//! Up to a bound the missing events themselves are fetched; for what is missing then, the state is, and the history is
//! left to [`super::Inbox::take_in_history`]. A sender who cannot be asked at present is not believed for now, nor one who
//! does not give what its event follows directly: such events are held ([`super::held`]), and their gaps searched again.
//! Where the sender then answers and nobody can tell a state, the present one stands in for it, so that the room goes on.
//!
//! All this is done before the room's lane is taken, within a time and a number of calls: who answers slowly or sends
//! us on endless ways keeps nobody waiting but itself.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use hearth_base::Result;
use hearth_rules::{event::Pdu, versions::RoomVersion};
use hearth_store::{rooms::Room, state::StateMap};
use ruma::{OwnedEventId, OwnedServerName, ServerName};

use super::{
    Inbox, Sort,
    asking::{A_ROUND, Search, Told},
};
use crate::federation::outliers::auth_ids;

/// Rounds of asking for what lies between.
const ROUNDS: usize = 10;
/// Events of a gap fetched at most.
const MOST: usize = 200;
/// Servers asked for a state.
const SERVERS: usize = 5;
/// The longest wait for one answer, and for all of a search.
const WAIT: Duration = Duration::from_secs(20);
const WAIT_IN_ALL: Duration = Duration::from_secs(120);
/// Ends of a piece of history at which the state is asked for.
const EDGES: usize = 20;

/// Events that are to be placed, with all that was found about them.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) events: HashMap<OwnedEventId, Pdu>,
    /// States after predecessors that we do not have.
    pub(super) after: HashMap<OwnedEventId, StateMap>,
    /// States before events, where those after predecessors could not be told.
    pub(super) before: HashMap<OwnedEventId, StateMap>,
    /// Events for which the present state stands in, as nobody tells another.
    pub(super) unsure: HashSet<OwnedEventId>,
    /// States before events of whose senders the room's state says nothing, as others told them.
    pub(super) beside: HashMap<OwnedEventId, StateMap>,
    /// Such events for which a state was told.
    pub(super) strangers: HashSet<OwnedEventId>,
    /// Those that the room's policy server does not sign.
    pub(super) refused: HashSet<OwnedEventId>,
    /// Those that cannot be placed now, as what they follow or what allows them cannot be had.
    pub(super) lacking: Vec<Pdu>,
    /// Somebody could not be asked who may answer later.
    pub(super) hindered: bool,
    /// Others were asked, so that more may be here than before.
    pub(super) asked: bool,
}

impl Found {
    /// Leaves events, and all that follow them, for another time.
    fn leave(&mut self, mut lost: Vec<OwnedEventId>) {
        while let Some(id) = lost.pop() {
            self.lacking.extend(self.events.remove(&id));
            let follows = |e: &&Pdu| e.prev_events().contains(&id);
            lost.extend(self.events.values().filter(follows).map(|e| e.event_id().to_owned()));
        }
    }
}

impl Inbox {
    /// Finds what lies before events as far as it can be had.
    pub(super) async fn search(
        &self,
        origin: &ServerName,
        room: &Room,
        version: &'static RoomVersion,
        events: Vec<Pdu>,
        sort: Sort,
    ) -> Result<Found> {
        let search = Search::new(self, origin, (room, version), sort, [WAIT, WAIT_IN_ALL]);
        let events: HashMap<OwnedEventId, Pdu> = events.into_iter().map(|e| (e.event_id().to_owned(), e)).collect();
        let told: Vec<OwnedEventId> = events.keys().cloned().collect();
        let mut found = Found { events, ..Found::default() };
        // History is asked for from its newest end anyway.
        if sort != Sort::History {
            Box::pin(search.events_between(&mut found)).await?;
        }
        let put_off = sort == Sort::News && search.put_off(&mut found, &told).await?;
        Box::pin(search.states(&mut found)).await?;
        Box::pin(search.auth_events(&found)).await?;
        search.strangers(&mut found).await?;
        (found.hindered, found.asked) = (search.hindered() || put_off, search.asked());
        Ok(found)
    }

    /// Predecessors of these events that are neither among them nor here with a state.
    pub(super) async fn missing(
        &self,
        room: &Room,
        events: &HashMap<OwnedEventId, Pdu>,
    ) -> Result<HashSet<OwnedEventId>> {
        let named: HashSet<OwnedEventId> = events
            .values()
            .flat_map(|e| e.prev_events().iter().cloned())
            .filter(|id| !events.contains_key(id))
            .collect();
        let ids: Vec<OwnedEventId> = named.iter().cloned().collect();
        let mut missing = named;
        for part in ids.chunks(1_000) {
            for event in self.store.events_by_id(part).await? {
                if event.room == room.nid && event.after.is_some() {
                    missing.remove(event.event_id());
                }
            }
        }
        Ok(missing)
    }

    /// Which of these events we do not have. What we have in another room nobody can give us in this one.
    pub(super) async fn unknown<'a>(
        &self,
        ids: impl IntoIterator<Item = &'a OwnedEventId>,
    ) -> Result<Vec<OwnedEventId>> {
        let mut ids: Vec<OwnedEventId> = ids.into_iter().cloned().collect();
        ids.sort_unstable();
        ids.dedup();
        let mut unknown = Vec::new();
        for part in ids.chunks(1_000) {
            let known = self.store.known_events(part).await?;
            unknown.extend(part.iter().filter(|id| !known.contains_key(*id)).cloned());
        }
        Ok(unknown)
    }

    /// Whom to ask about a room: who told us of it, then others that are in it.
    pub(super) async fn servers(&self, first: &ServerName, room: &Room) -> Result<Vec<OwnedServerName>> {
        let mut servers = vec![first.to_owned()];
        let others = self.servers.by_members(room.nid).await?;
        servers.extend(others.into_iter().filter(|server| server != first).take(SERVERS - 1));
        servers.retain(|s| s != self.federation.name());
        Ok(servers)
    }
}

impl Search<'_> {
    /// Fetches events that lie between: from whoever sent them, from others if that one cannot be asked.
    async fn events_between(&self, found: &mut Found) -> Result<()> {
        if self.inbox.missing(self.room, &found.events).await?.is_empty() {
            return Ok(());
        }
        for server in self.servers().await? {
            if self.events_between_by(server, found).await? {
                break;
            }
        }
        Ok(())
    }

    /// Fetches events that lie between from a server; whether it told what it knows.
    async fn events_between_by(&self, server: &ServerName, found: &mut Found) -> Result<bool> {
        let mut missing = self.inbox.missing(self.room, &found.events).await?;
        for _ in 0..ROUNDS {
            if missing.is_empty() || found.events.len() > MOST {
                break;
            }
            let latest: Vec<OwnedEventId> = found
                .events
                .values()
                .filter(|e| e.prev_events().iter().any(|p| missing.contains(p)))
                .map(|e| e.event_id().to_owned())
                .take(A_ROUND as usize)
                .collect();
            let Some(told) = self.fetch_missing(server, latest).await else { return Ok(false) };
            let (before, all) = (found.events.len(), told.len() < A_ROUND as usize);
            for pdu in self.inbox.verified(self.room, self.version, told).await?.0 {
                if self.inbox.is_before_us(self.room, &pdu).await? {
                    continue;
                }
                found.events.entry(pdu.event_id().to_owned()).or_insert(pdu);
            }
            missing = self.inbox.missing(self.room, &found.events).await?;
            // Who gives less than may be asked for has no more to give.
            if all || found.events.len() == before {
                break;
            }
        }
        Ok(true)
    }

    /// Leaves those of the events we were told that follow directly what nobody gives for another time; whether any did.
    async fn put_off(&self, found: &mut Found, told: &[OwnedEventId]) -> Result<bool> {
        let missing = self.inbox.missing(self.room, &found.events).await?;
        let follows = |id: &&OwnedEventId| {
            found.events.get(*id).is_some_and(|e| e.prev_events().iter().any(|p| missing.contains(p)))
        };
        let early: Vec<OwnedEventId> = told.iter().filter(follows).cloned().collect();
        let any = !early.is_empty();
        found.leave(early);
        Ok(any)
    }

    /// Fetches states for what is still missing. What can neither be had nor stood in for goes, with all that follows it.
    async fn states(&self, found: &mut Found) -> Result<()> {
        let missing = self.inbox.missing(self.room, &found.events).await?;
        let (mut unsure, mut incomplete) = (HashSet::new(), HashSet::new());
        let history = self.sort == Sort::History;
        for (n, id) in missing.iter().enumerate() {
            if history && n >= EDGES {
                unsure.insert(id.clone());
                continue;
            }
            match self.state(id, true).await? {
                Told::State(state) => drop(found.after.insert(id.clone(), state)),
                Told::Incomplete => drop(incomplete.insert(id.clone())),
                Told::Nothing | Told::NoAnswer => drop(unsure.insert(id.clone())),
            }
        }
        if unsure.is_empty() && incomplete.is_empty() {
            return Ok(());
        }
        let leaning = |e: &&Pdu| e.prev_events().iter().any(|p| unsure.contains(p) || incomplete.contains(p));
        let leaning: Vec<OwnedEventId> =
            found.events.values().filter(leaning).map(|e| e.event_id().to_owned()).collect();
        let mut present: Option<StateMap> = None;
        let mut lost: Vec<OwnedEventId> = Vec::new();
        for (n, id) in leaning.into_iter().enumerate() {
            if history && n >= EDGES {
                lost.push(id);
                continue;
            }
            // Of what was not whole one event earlier no more can be had now.
            let broken = found.events.get(&id).is_some_and(|e| e.prev_events().iter().any(|p| incomplete.contains(p)));
            let told = if broken { Told::Incomplete } else { self.state(&id, false).await? };
            match told {
                Told::State(state) => drop(found.before.insert(id, state)),
                Told::NoAnswer => lost.push(id),
                // What is old is not judged by what holds today.
                Told::Nothing | Told::Incomplete if history => lost.push(id),
                Told::Nothing | Told::Incomplete => {
                    tracing::info!(room.id = %self.room.room_id, event.id = %id, "nobody tells the state at an event; the present one stands in");
                    let state = match &present {
                        Some(state) => state.clone(),
                        None => {
                            let head = self.inbox.store.room(self.room.nid).await?;
                            let snap = head.map_or(self.room.head.snap, |r| r.head.snap);
                            present.insert(self.inbox.store.snapshot(snap).await?).clone()
                        }
                    };
                    found.unsure.insert(id.clone());
                    found.before.insert(id, state);
                }
            }
        }
        found.leave(lost);
        Ok(())
    }

    /// Fetches what allows events.
    async fn auth_events(&self, found: &Found) -> Result<()> {
        let named = found.events.values().flat_map(|e| auth_ids(self.version, e));
        let named: Vec<OwnedEventId> = named.filter(|id| !found.events.contains_key(id)).collect();
        let mut unknown: HashSet<OwnedEventId> = self.inbox.unknown(&named).await?.into_iter().collect();
        for pdu in found.events.values() {
            if auth_ids(self.version, pdu).iter().any(|id| unknown.contains(id)) {
                self.fetch_auth(pdu).await?;
                let left = self.inbox.unknown(&unknown).await?;
                unknown = left.into_iter().collect();
            }
        }
        Ok(())
    }
}
