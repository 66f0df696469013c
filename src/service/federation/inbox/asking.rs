//! What a search asks other servers: missing events, states, what allows an event. Each call has its time, the search has
//! one in all and a number of calls.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::{StreamExt, future::BoxFuture, stream};
use hearth_base::Result;
use hearth_remote::{Failure, federation::Patience};
use hearth_rules::{event::Pdu, versions::RoomVersion};
use hearth_store::{events::Standing, rooms::Room, state::StateMap};
use parking_lot::Mutex;
use ruma::{
    EventId, OwnedEventId, OwnedServerName, ServerName, UInt,
    api::federation::{
        authorization::get_event_authorization,
        event::{get_event, get_missing_events, get_room_state, get_room_state_ids},
    },
};
use serde_json::value::RawValue;
use tokio::{sync::OnceCell, time::Instant};

use super::{Inbox, Sort, vain::Asked};

/// Events asked for in a round.
pub(super) const A_ROUND: u32 = 20;
/// Events fetched one by one at most; beyond that the whole state is asked for.
const ONE_BY_ONE: usize = 50;
/// Events fetched one by one though they are most of a state.
const FEW: usize = 3;
/// Events fetched at the same time.
const AT_ONCE: usize = 8;
/// Calls of a search.
const CALLS: usize = 400;
/// Bytes of the ids of a state, and of a whole state.
const MAX_IDS: usize = 16 << 20;
const MAX_STATE: usize = 96 << 20;

/// What a server said of a state.
pub(super) enum Told {
    State(StateMap),
    /// It answered, and does not know.
    Nothing,
    /// It answered, but what it names cannot be had.
    Incomplete,
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
    servers: OnceCell<Vec<OwnedServerName>>,
    /// For one answer, and for all of it.
    wait: Duration,
    until: Instant,
    calls: AtomicUsize,
    /// Somebody could not be asked: what is missing may be had later.
    hindered: AtomicBool,
    /// Servers of whose keys none was to be had, so that what they signed was left out.
    lacking: Mutex<BTreeSet<OwnedServerName>>,
    /// A state counts though what those signed is not in it.
    leaves_out: bool,
}

impl<'a> Search<'a> {
    /// One with `wait` for each answer and `in_all` for all of them.
    pub(super) fn new(
        inbox: &'a Inbox,
        origin: &'a ServerName,
        (room, version): (&'a Room, &'static RoomVersion),
        sort: Sort,
        [wait, in_all]: [Duration; 2],
    ) -> Self {
        let (calls, hindered) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (servers, until) = (OnceCell::new(), Instant::now() + in_all);
        let (lacking, leaves_out) = (Mutex::default(), false);
        Self { inbox, origin, room, version, sort, servers, wait, until, calls, hindered, lacking, leaves_out }
    }

    /// The same where a state counts though part of it cannot be proved for lack of keys.
    pub(super) fn leaving_out(self) -> Self {
        Self { leaves_out: true, ..self }
    }

    /// Servers of whose keys none was to be had.
    pub(super) fn lacking(&self) -> BTreeSet<OwnedServerName> {
        self.lacking.lock().clone()
    }

    /// Takes in events without a place; gives how many.
    async fn take_in(&self, events: impl IntoIterator<Item = Box<RawValue>>) -> Result<usize> {
        let taken = self.inbox.outliers.take_in(self.room.nid, events).await?;
        if !taken.lacking.is_empty() {
            self.lacking.lock().extend(taken.lacking);
        }
        Ok(taken.found.len())
    }

    /// One that asks a single server.
    pub(super) fn only(
        inbox: &'a Inbox,
        server: &'a ServerName,
        of: (&'a Room, &'static RoomVersion),
        waits: [Duration; 2],
    ) -> Self {
        Self {
            servers: OnceCell::new_with(Some(vec![server.to_owned()])),
            ..Self::new(inbox, server, of, Sort::News, waits)
        }
    }

    /// Whether somebody could not be asked who may answer later.
    pub(super) fn hindered(&self) -> bool {
        self.hindered.load(Ordering::Relaxed)
    }

    /// Whether anybody was asked.
    pub(super) fn asked(&self) -> bool {
        self.calls.load(Ordering::Relaxed) > 0
    }

    /// Notes a call that failed; whether it may succeed later.
    fn failed(&self, server: &ServerName, failure: &Failure) -> bool {
        let may_pass = may_pass(failure);
        if !may_pass {
            self.inbox.vain.note(server, false);
        }
        self.hindered.fetch_or(may_pass, Ordering::Relaxed);
        may_pass
    }

    /// Whom to ask.
    pub(super) async fn servers(&self) -> Result<&[OwnedServerName]> {
        let read = async || match self.sort {
            // Who gives history gives the state before it.
            Sort::History => Ok(vec![self.origin.to_owned()]),
            Sort::News | Sort::Held | Sort::ToldToUs => self.inbox.servers(self.origin, self.room).await,
        };
        self.servers.get_or_try_init(read).await.map(Vec::as_slice)
    }

    /// For one more call of a server; `None` if there were enough.
    fn patience(&self, server: &ServerName) -> Option<Patience> {
        let asked = self.inbox.vain.about(server);
        if asked == Asked::Never {
            self.hindered.store(true, Ordering::Relaxed);
            return None;
        }
        self.patience_if(asked)
    }

    fn patience_if(&self, asked: Asked) -> Option<Patience> {
        let Some(left) = self.until.checked_duration_since(Instant::now()) else {
            self.hindered.store(true, Ordering::Relaxed);
            return None;
        };
        let more = self.calls.fetch_add(1, Ordering::Relaxed) < CALLS;
        let federation = &self.inbox.federation;
        let patience = if asked == Asked::Well { federation.twice() } else { federation.once() };
        more.then(|| patience.within(self.wait.min(left)))
    }

    /// Events between those at the room's ends and these; `None` if the server does not tell.
    pub(super) async fn fetch_missing(
        &self,
        server: &ServerName,
        latest: Vec<OwnedEventId>,
    ) -> Option<Vec<Box<RawValue>>> {
        // The head as it is now, not as it was when the transaction began.
        let head = self.inbox.store.room(self.room.nid).await.ok().flatten()?;
        let earliest = head.head.extremities.iter().map(|e| e.event_id().to_owned()).collect();
        let mut request = get_missing_events::v1::Request::new(self.room.room_id.clone(), earliest, latest);
        request.limit = UInt::from(A_ROUND);
        request.min_depth = UInt::try_from(self.room.head.entered).unwrap_or_default();
        // A few calls a search, and what lies before the newest events must not wait for what lies before old ones.
        let patience = self.patience_if(self.inbox.vain.about(server))?;
        match self.inbox.federation.send(server, request, patience).await {
            Ok(mut answer) => {
                answer.events.truncate(A_ROUND as usize);
                Some(answer.events)
            }
            Err(e) => {
                self.failed(server, &e);
                tracing::debug!(%server, room.id = %self.room.room_id, error = %e, "missing events were not told");
                None
            }
        }
    }

    /// The state after or before an event, by the first who knows it. No answer is one if the origin gives none.
    pub(super) async fn state(&self, id: &EventId, after: bool) -> Result<Told> {
        let mut ended = Told::Nothing;
        for server in self.servers().await? {
            let told = self.state_by(server, id, after).await?;
            match &told {
                Told::State(_) => self.inbox.vain.note(server, true),
                // That it does not know counted when it said so.
                Told::Incomplete => self.inbox.vain.note(server, false),
                Told::Nothing | Told::NoAnswer => {}
            }
            match told {
                Told::State(state) => return Ok(Told::State(state)),
                Told::NoAnswer if *server == *self.origin => ended = Told::NoAnswer,
                Told::Incomplete if matches!(ended, Told::Nothing) => ended = Told::Incomplete,
                _ => tracing::debug!(%server, room.id = %self.room.room_id, event.id = %id, "the state was not told"),
            }
        }
        Ok(ended)
    }

    async fn state_by(&self, server: &ServerName, id: &EventId, after: bool) -> Result<Told> {
        let (inbox, room) = (self.inbox, self.room);
        let Some(patience) = self.patience(server) else { return Ok(Told::NoAnswer) };
        let Ok(_permit) = inbox.heavy.acquire().await else { return Ok(Told::NoAnswer) };
        let request = get_room_state_ids::v1::Request::new(id.to_owned(), room.room_id.clone());
        let ids = match inbox.federation.send(server, request, patience.up_to(MAX_IDS)).await {
            Ok(ids) => ids,
            Err(failure) if self.failed(server, &failure) => return Ok(Told::NoAnswer),
            Err(_) => return Ok(Told::Nothing),
        };
        let mut unknown = inbox.unknown(ids.pdu_ids.iter().chain(&ids.auth_chain_ids)).await?;
        let mut asked = true;
        let many = unknown.len() > FEW && unknown.len() * 10 > ids.pdu_ids.len() + ids.auth_chain_ids.len();
        if unknown.len() > ONE_BY_ONE || many {
            let Some(patience) = self.patience(server) else { return Ok(Told::NoAnswer) };
            let request = get_room_state::v1::Request::new(id.to_owned(), room.room_id.clone());
            match inbox.federation.send(server, request, patience.up_to(MAX_STATE)).await {
                Ok(state) => {
                    self.take_in(state.pdus.into_iter().chain(state.auth_chain)).await?;
                }
                Err(failure) => asked = !self.failed(server, &failure),
            }
            unknown.clear();
        }
        if after {
            unknown.extend(inbox.unknown(std::iter::once(&id.to_owned())).await?);
        }
        asked &= self.fetch_events(server, &unknown).await?;
        let (mut state, mut count) = (StateMap::new(), 0);
        for part in ids.pdu_ids.chunks(1_000) {
            for (key, nid, standing) in inbox.store.state_entries(room.nid, part).await? {
                count += 1;
                if standing != Standing::Rejected {
                    state.insert(key, nid);
                }
            }
        }
        // Half a state would have us judge wrongly.
        if !asked && count < ids.pdu_ids.len() {
            return Ok(Told::NoAnswer);
        }
        // A few entries may be of servers whose keys cannot be had any more.
        let enough = count + ids.pdu_ids.len() / 10 >= ids.pdu_ids.len();
        if count == 0 || !(enough || self.leaves_out && !self.lacking.lock().is_empty()) {
            return Ok(Told::Incomplete);
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

    /// Fetches events one by one and keeps them as outliers; whether the server could be asked for each.
    async fn fetch_events(&self, server: &ServerName, ids: &[OwnedEventId]) -> Result<bool> {
        // Boxed: the compiler cannot see by itself that such a future may be sent to another thread.
        let asked = AtomicBool::new(true);
        let asked = &asked;
        let fetched = |id: OwnedEventId| -> BoxFuture<'_, Option<Box<RawValue>>> {
            Box::pin(async move {
                let Some(patience) = self.patience(server) else {
                    asked.store(false, Ordering::Relaxed);
                    return None;
                };
                match self.inbox.federation.send(server, get_event::v1::Request::new(id), patience).await {
                    Ok(answer) => Some(answer.pdu),
                    Err(failure) => {
                        asked.fetch_and(!self.failed(server, &failure), Ordering::Relaxed);
                        None
                    }
                }
            })
        };
        let found: Vec<Option<Box<RawValue>>> =
            stream::iter(ids.to_vec()).map(fetched).buffer_unordered(AT_ONCE).collect().await;
        let told = found.iter().flatten().count();
        let taken = self.take_in(found.into_iter().flatten()).await?;
        (0..told).for_each(|n| self.inbox.vain.note(server, n < taken));
        Ok(asked.load(Ordering::Relaxed))
    }

    /// Fetches what allows an event.
    pub(super) async fn fetch_auth(&self, pdu: &Pdu) -> Result<()> {
        let (inbox, room) = (self.inbox, self.room);
        for server in self.servers().await? {
            let Some(patience) = self.patience(server) else { return Ok(()) };
            let request = get_event_authorization::v1::Request::new(room.room_id.clone(), pdu.event_id().to_owned());
            match inbox.federation.send(server, request, patience).await {
                Ok(answer) => drop(self.take_in(answer.auth_chain).await?),
                Err(failure) => drop(self.failed(server, &failure)),
            }
            let left = inbox.unknown(pdu.auth_events()).await?;
            if left.is_empty() {
                return Ok(());
            }
            self.fetch_events(server, &left).await?;
            if inbox.unknown(pdu.auth_events()).await?.is_empty() {
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
