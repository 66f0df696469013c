//! What lies between the events we have and those that arrive: fetched from whoever sent them, or from others of the room
//! if they cannot tell (server-server API, "Backfilling and retrieving missing events", "Retrieving events").
//!
//! Up to a bound the missing events themselves are fetched; for what is missing then, the state is, and the history is
//! left to [`super::Inbox::take_in_history`]. A sender who cannot be asked at present is not believed for now: the event
//! comes again, or is missed by the next. Where the sender answers and nobody can tell a state, the present one stands
//! in for it, so that the room goes on.
//!
//! All this is done before the room's lane is taken, within a time and a number of calls: who answers slowly or sends
//! us on endless ways keeps nobody waiting but itself.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::{StreamExt, future::BoxFuture, stream};
use hearth_base::Result;
use hearth_remote::{Failure, federation::Patience};
use hearth_rules::{event::Pdu, versions::RoomVersion};
use hearth_store::{events::Standing, rooms::Room, state::StateMap};
use ruma::{
    EventId, OwnedEventId, OwnedServerName, ServerName, UInt,
    api::federation::{
        authorization::get_event_authorization,
        event::{get_event, get_missing_events, get_room_state, get_room_state_ids},
    },
};
use serde_json::value::RawValue;
use tokio::{sync::OnceCell, time::Instant};

use super::{Inbox, Sort};
use crate::federation::outliers::auth_ids;

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
/// Events fetched one by one though they are most of a state.
const FEW: usize = 3;
/// Events fetched at the same time.
const AT_ONCE: usize = 8;
/// The longest wait for one answer, and for all of a search.
const WAIT: Duration = Duration::from_secs(20);
const WAIT_IN_ALL: Duration = Duration::from_secs(120);
/// Ends of a piece of history at which the state is asked for.
const EDGES: usize = 20;
/// Calls of a search.
const CALLS: usize = 400;
/// Bytes of the ids of a state, and of a whole state.
const MAX_IDS: usize = 16 << 20;
const MAX_STATE: usize = 96 << 20;

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
    /// Those that the room's policy server does not sign.
    pub(super) refused: HashSet<OwnedEventId>,
}

/// What a server said of a state.
pub(super) enum Told {
    State(StateMap),
    /// It answered, and does not know.
    Nothing,
    /// It could not be asked.
    NoAnswer,
}

/// One search, in one room.
pub(super) struct Search<'a> {
    pub(super) inbox: &'a Inbox,
    pub(super) origin: &'a ServerName,
    pub(super) room: &'a Room,
    pub(super) version: &'static RoomVersion,
    pub(super) sort: Sort,
    /// The origin first; read when something is to be asked, which is seldom.
    pub(super) servers: OnceCell<Vec<OwnedServerName>>,
    /// For one answer, and for all of it.
    pub(super) wait: Duration,
    pub(super) until: Instant,
    pub(super) calls: AtomicUsize,
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
        let servers = OnceCell::new();
        let (until, calls) = (Instant::now() + WAIT_IN_ALL, AtomicUsize::new(0));
        let search = Search { inbox: self, origin, room, version, sort, servers, wait: WAIT, until, calls };
        let events = events.into_iter().map(|e| (e.event_id().to_owned(), e)).collect();
        let mut found = Found { events, ..Found::default() };
        // History is asked for from its newest end anyway.
        if sort != Sort::History {
            search.events_between(&mut found).await?;
        }
        search.states(&mut found).await?;
        search.auth_events(&found).await?;
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

    /// Whom to ask about a room: who told us of it, then others that are in it.
    async fn servers(&self, first: &ServerName, room: &Room) -> Result<Vec<OwnedServerName>> {
        let mut servers = vec![first.to_owned()];
        let others = self.servers.by_members(room.nid).await?;
        servers.extend(others.into_iter().filter(|server| server != first).take(SERVERS - 1));
        servers.retain(|s| s != self.federation.name());
        Ok(servers)
    }
}

impl Search<'_> {
    /// Whom to ask.
    async fn servers(&self) -> Result<&[OwnedServerName]> {
        let read = async || match self.sort {
            // Who gives history gives the state before it.
            Sort::History => Ok(vec![self.origin.to_owned()]),
            Sort::News | Sort::ToldToUs => self.inbox.servers(self.origin, self.room).await,
        };
        self.servers.get_or_try_init(read).await.map(Vec::as_slice)
    }

    /// For one more call; `None` if there were enough.
    fn patience(&self) -> Option<Patience> {
        let left = self.until.checked_duration_since(Instant::now())?;
        let more = self.calls.fetch_add(1, Ordering::Relaxed) < CALLS;
        more.then(|| self.inbox.federation.twice().within(self.wait.min(left)))
    }

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
            for pdu in self.inbox.verified(self.room, self.version, told).await? {
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

    async fn fetch_missing(&self, server: &ServerName, latest: Vec<OwnedEventId>) -> Option<Vec<Box<RawValue>>> {
        // The head as it is now, not as it was when the transaction began.
        let head = self.inbox.store.room(self.room.nid).await.ok().flatten()?;
        let earliest = head.head.extremities.iter().map(|e| e.event_id().to_owned()).collect();
        let mut request = get_missing_events::v1::Request::new(self.room.room_id.clone(), earliest, latest);
        request.limit = UInt::from(A_ROUND);
        match self.inbox.federation.send(server, request, self.patience()?).await {
            Ok(mut answer) => {
                answer.events.truncate(A_ROUND as usize);
                Some(answer.events)
            }
            Err(e) => {
                tracing::debug!(%server, room.id = %self.room.room_id, error = %e, "missing events were not told");
                None
            }
        }
    }

    /// Fetches states for what is still missing. What can neither be had nor stood in for goes, with all that follows it.
    async fn states(&self, found: &mut Found) -> Result<()> {
        let missing = self.inbox.missing(self.room, &found.events).await?;
        let mut unsure = HashSet::new();
        let history = self.sort == Sort::History;
        for (n, id) in missing.iter().enumerate() {
            if history && n >= EDGES {
                unsure.insert(id.clone());
                continue;
            }
            match self.state(id, true).await? {
                Told::State(state) => drop(found.after.insert(id.clone(), state)),
                Told::Nothing | Told::NoAnswer => drop(unsure.insert(id.clone())),
            }
        }
        if unsure.is_empty() {
            return Ok(());
        }
        let leaning = |e: &&Pdu| e.prev_events().iter().any(|p| unsure.contains(p));
        let leaning: Vec<OwnedEventId> =
            found.events.values().filter(leaning).map(|e| e.event_id().to_owned()).collect();
        let mut present: Option<StateMap> = None;
        let mut lost: Vec<OwnedEventId> = Vec::new();
        for (n, id) in leaning.into_iter().enumerate() {
            if history && n >= EDGES {
                lost.push(id);
                continue;
            }
            match self.state(&id, false).await? {
                Told::State(state) => drop(found.before.insert(id, state)),
                Told::NoAnswer => lost.push(id),
                // What is old is not judged by what holds today.
                Told::Nothing if history => lost.push(id),
                Told::Nothing => {
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
        while let Some(id) = lost.pop() {
            found.events.remove(&id);
            let follows = |e: &&Pdu| e.prev_events().contains(&id);
            lost.extend(found.events.values().filter(follows).map(|e| e.event_id().to_owned()));
        }
        Ok(())
    }

    /// The state after or before an event, by the first who knows it. No answer is one if the origin gives none.
    pub(super) async fn state(&self, id: &EventId, after: bool) -> Result<Told> {
        let mut ended = Told::Nothing;
        for server in self.servers().await? {
            match self.state_by(server, id, after).await? {
                Told::State(state) => return Ok(Told::State(state)),
                Told::NoAnswer if *server == *self.origin => ended = Told::NoAnswer,
                _ => tracing::debug!(%server, room.id = %self.room.room_id, event.id = %id, "the state was not told"),
            }
        }
        Ok(ended)
    }

    async fn state_by(&self, server: &ServerName, id: &EventId, after: bool) -> Result<Told> {
        let (inbox, room) = (self.inbox, self.room);
        let Some(patience) = self.patience() else { return Ok(Told::NoAnswer) };
        let Ok(_permit) = inbox.heavy.acquire().await else { return Ok(Told::NoAnswer) };
        let request = get_room_state_ids::v1::Request::new(id.to_owned(), room.room_id.clone());
        let ids = match inbox.federation.send(server, request, patience.up_to(MAX_IDS)).await {
            Ok(ids) => ids,
            Err(failure) if may_pass(&failure) => return Ok(Told::NoAnswer),
            Err(_) => return Ok(Told::Nothing),
        };
        let mut unknown = inbox.unknown(room, ids.pdu_ids.iter().chain(&ids.auth_chain_ids)).await?;
        let many = unknown.len() > FEW && unknown.len() * 10 > ids.pdu_ids.len() + ids.auth_chain_ids.len();
        if unknown.len() > ONE_BY_ONE || many {
            let Some(patience) = self.patience() else { return Ok(Told::NoAnswer) };
            let request = get_room_state::v1::Request::new(id.to_owned(), room.room_id.clone());
            if let Ok(state) = inbox.federation.send(server, request, patience.up_to(MAX_STATE)).await {
                inbox.outliers.take_in(room.nid, state.pdus.into_iter().chain(state.auth_chain)).await?;
            }
            unknown.clear();
        }
        if after {
            unknown.extend(inbox.unknown(room, std::iter::once(&id.to_owned())).await?);
        }
        self.fetch_events(server, &unknown).await?;
        let (mut state, mut count) = (StateMap::new(), 0);
        for part in ids.pdu_ids.chunks(1_000) {
            for (key, nid, standing) in inbox.store.state_entries(room.nid, part).await? {
                count += 1;
                if standing != Standing::Rejected {
                    state.insert(key, nid);
                }
            }
        }
        // Half a state would have us judge wrongly. A few entries may be of servers whose keys cannot be had any more.
        if count == 0 || count + ids.pdu_ids.len() / 10 < ids.pdu_ids.len() {
            return Ok(Told::Nothing);
        }
        if after {
            let event = inbox.store.event_by_id(id).await?;
            let Some(event) = event.filter(|e| e.room == room.nid) else { return Ok(Told::Nothing) };
            if let Some(key) = event.key
                && event.standing != Standing::Rejected
            {
                state.insert(key, event.nid);
            }
        }
        Ok(Told::State(state))
    }

    /// Fetches events one by one and keeps them as outliers.
    async fn fetch_events(&self, server: &ServerName, ids: &[OwnedEventId]) -> Result<()> {
        // Boxed: the compiler cannot see by itself that such a future may be sent to another thread.
        let fetched = |id: OwnedEventId| -> BoxFuture<'_, Option<Box<RawValue>>> {
            Box::pin(async move {
                let request = get_event::v1::Request::new(id);
                self.inbox.federation.send(server, request, self.patience()?).await.ok().map(|answer| answer.pdu)
            })
        };
        let found: Vec<Option<Box<RawValue>>> =
            stream::iter(ids.to_vec()).map(fetched).buffer_unordered(AT_ONCE).collect().await;
        self.inbox.outliers.take_in(self.room.nid, found.into_iter().flatten()).await.map(drop)
    }

    /// Fetches what allows events.
    async fn auth_events(&self, found: &Found) -> Result<()> {
        let named = found.events.values().flat_map(|e| auth_ids(self.version, e));
        let named: Vec<OwnedEventId> = named.filter(|id| !found.events.contains_key(id)).collect();
        let mut unknown: HashSet<OwnedEventId> = self.inbox.unknown(self.room, &named).await?.into_iter().collect();
        for pdu in found.events.values() {
            if auth_ids(self.version, pdu).iter().any(|id| unknown.contains(id)) {
                self.fetch_auth(pdu).await?;
                let left = self.inbox.unknown(self.room, &unknown).await?;
                unknown = left.into_iter().collect();
            }
        }
        Ok(())
    }

    /// Fetches what allows an event.
    async fn fetch_auth(&self, pdu: &Pdu) -> Result<()> {
        let (inbox, room) = (self.inbox, self.room);
        for server in self.servers().await? {
            let Some(patience) = self.patience() else { return Ok(()) };
            let request = get_event_authorization::v1::Request::new(room.room_id.clone(), pdu.event_id().to_owned());
            if let Ok(answer) = inbox.federation.send(server, request, patience).await {
                inbox.outliers.take_in(room.nid, answer.auth_chain).await?;
            }
            let left = inbox.unknown(room, pdu.auth_events()).await?;
            if left.is_empty() {
                return Ok(());
            }
            self.fetch_events(server, &left).await?;
            if inbox.unknown(room, pdu.auth_events()).await?.is_empty() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Whether the same question may be answered later.
fn may_pass(failure: &Failure) -> bool {
    match failure {
        Failure::Refused(refusal) => refusal.status.is_server_error() || refusal.status.as_u16() == 429,
        failure => failure.is_away() || matches!(failure, Failure::LeftAlone(_) | Failure::Ours(_)),
    }
}
