//! Fetches the rest of the state of rooms that came in part (MSC3902), in the background: a room is usable meanwhile.
//!
//! The servers of a room are asked in turn for the state before our join, first the one that let us in; then the events that
//! came since get their states ([`Events::restate`]). All that is needed to go on is on the disk, so a restart costs what was
//! being fetched. If all who can be asked know nothing, or tell what cannot be, others are asked after a pause, longer each
//! time.
//!
//! Rooms whose state at our join has a hole, as a server that had signed part of it was away, come here once that server's
//! keys are had ([`lacking`]).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use hearth_base::{
    OrNotFound, Result,
    clock::Clock,
    ids::{EventNid, RoomNid},
    tasks::Supervisor,
};
use hearth_store::{
    Store,
    events::{PartialRoom, StoredEvent},
    rooms::Room,
};
use ruma::OwnedServerName;

use super::{
    Federation,
    inbox::{Inbox, Telling},
    servers::Servers,
};
use crate::{
    events::{Events, Restating, Told},
    server_keys::ServerKeys,
    state::State,
};

mod lacking;

/// How rooms are completed.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Rooms are entered without their members, which come later.
    pub enter_in_part: bool,
    /// Members whom an answer to a join leaves out at least; if it were fewer, it leaves out nobody.
    pub worth_omitting: usize,
    /// The pause after all servers that were asked knew nothing; doubled each time.
    pub first: Duration,
    /// The longest.
    pub longest: Duration,
    /// How long a server is waited for whose keys lacked when we came into a room.
    pub lacking_for: Duration,
    /// After so many times in vain its part of the state is given up: it has other keys now, or never had a part.
    pub lacking_tries: i64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            enter_in_part: true,
            worth_omitting: 100,
            first: Duration::from_secs(15),
            longest: Duration::from_secs(3600),
            lacking_for: Duration::from_secs(30 * 86_400),
            lacking_tries: 10,
        }
    }
}

/// Rooms completed at the same time: a state may be large.
const AT_ONCE: usize = 4;
/// Servers asked before a pause.
const SERVERS: usize = 10;
/// Events looked at for those that need others' help, and how many of these are helped at a time.
const LOOKED_AT: usize = 20_000;
const HELPED: usize = 20;
/// After so many rounds in vain an event stands on what we know.
const IN_VAIN: i64 = 3;
/// Doublings of a pause.
const DOUBLINGS: u32 = 20;

/// What it depends on.
#[derive(Debug)]
pub struct Parts {
    /// Reads rooms.
    pub state: Arc<State>,
    /// Gives events their states.
    pub events: Arc<Events>,
    /// Asks servers for states.
    pub inbox: Arc<Inbox>,
    /// Knows which are in a room.
    pub servers: Arc<Servers>,
    /// Knows which can be reached.
    pub federation: Arc<Federation>,
    /// Knows whose keys are had.
    pub server_keys: Arc<ServerKeys>,
}

/// Completes rooms.
#[derive(Debug)]
pub struct Completion {
    store: Store,
    state: Arc<State>,
    events: Arc<Events>,
    inbox: Arc<Inbox>,
    servers: Arc<Servers>,
    federation: Arc<Federation>,
    server_keys: Arc<ServerKeys>,
    clock: Clock,
    settings: Settings,
}

/// How an attempt at a room ended.
enum Ended {
    Whole,
    /// To be tried again after a pause, longer if those that were asked knew nothing.
    Later {
        in_vain: bool,
    },
}

impl Completion {
    /// Made once.
    #[must_use]
    pub fn new(store: Store, parts: Parts, clock: Clock, settings: Settings) -> Arc<Self> {
        let Parts { state, events, inbox, servers, federation, server_keys } = parts;
        Arc::new(Self { store, state, events, inbox, servers, federation, server_keys, clock, settings })
    }

    /// Starts the tasks; rooms that were left in the middle go on at once.
    pub fn start(self: &Arc<Self>, supervisor: &Supervisor) {
        let this = self.clone();
        super::until_stopping(supervisor, "completion", move || this.clone().run());
        let this = self.clone();
        super::until_stopping(supervisor, "lacking keys", move || this.clone().fill_holes());
    }

    async fn run(self: Arc<Self>) -> Result<()> {
        let mut busy: HashSet<RoomNid> = HashSet::new();
        let mut running: FuturesUnordered<BoxFuture<'static, RoomNid>> = FuturesUnordered::new();
        let health = self.federation.health();
        let mut recovered = Box::pin(health.recovered().notified());
        loop {
            // Armed before the look, so that nothing falls between.
            recovered.as_mut().enable();
            let mut wait = self.settings.longest;
            for partial in self.store.partial_rooms().await? {
                let room = partial.room;
                let left = partial.retry_ms.saturating_sub(self.now());
                if busy.contains(&room) || running.len() >= AT_ONCE {
                    continue;
                }
                if left > 0 {
                    wait = wait.min(Duration::from_millis(left.unsigned_abs()));
                    continue;
                }
                busy.insert(room);
                let this = self.clone();
                running.push(Box::pin(async move {
                    this.work_on(partial).await;
                    room
                }));
            }
            tokio::select! {
                Some(room) = running.next(), if !running.is_empty() => drop(busy.remove(&room)),
                () = self.store.partial_bell().notified() => {}
                () = &mut recovered => recovered = Box::pin(health.recovered().notified()),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Works on a room, and notes when to try again if it could not be completed.
    async fn work_on(&self, partial: PartialRoom) {
        let (room, tries) = (partial.room, partial.tries);
        let ended = self.complete(&partial).await;
        let in_vain = match ended {
            Ok(Ended::Whole) => return,
            Ok(Ended::Later { in_vain }) => in_vain,
            Err(e) => {
                tracing::warn!(room.nid = room.0, error = %e, "the rest of a room's state could not be taken in");
                true
            }
        };
        let retry_ms = self.again_ms(tries);
        if let Err(e) = self.store.defer_partial_room(room, tries + i64::from(in_vain), retry_ms).await {
            tracing::warn!(room.nid = room.0, error = %e, "a pause could not be noted");
            tokio::time::sleep(self.settings.first).await;
        }
    }

    async fn complete(&self, partial: &PartialRoom) -> Result<Ended> {
        // Nobody tells a room's state to a server that is not in it; whoever of ours comes back begins anew.
        if !self.store.is_resident(partial.room).await? {
            return Ok(Ended::Later { in_vain: true });
        }
        // What others told, of [`HELPED`] events at most: each is a state of its own.
        let mut told: Arc<HashMap<EventNid, Told>> = Arc::default();
        loop {
            match self.events.restate(partial.room, told.clone()).await? {
                Restating::Whole => {
                    let room = self.state.room_by_nid(partial.room).await?;
                    tracing::info!(room.id = %room.room_id, "all of a room's state is there");
                    return Ok(Ended::Whole);
                }
                Restating::Some(0) => {
                    let more = self.ask(partial, &told).await?;
                    if more.is_empty() {
                        return Ok(Ended::Later { in_vain: true });
                    }
                    Arc::make_mut(&mut told).extend(more);
                }
                Restating::Some(_) => {
                    // Who has their state needs no help any more.
                    let left = self.store.partial_among(&told.keys().copied().collect::<Vec<_>>()).await?;
                    Arc::make_mut(&mut told).retain(|nid, _| left.contains(nid));
                }
            }
        }
    }

    /// Asks for the states before those events that need it and can make use of it.
    async fn ask(&self, partial: &PartialRoom, told: &HashMap<EventNid, Told>) -> Result<HashMap<EventNid, Told>> {
        let room = self.state.room_by_nid(partial.room).await?;
        let mut more = HashMap::new();
        for nid in self.store.partial_events(room.nid, LOOKED_AT).await? {
            if told.len() + more.len() >= HELPED {
                break;
            }
            let is_join = nid == partial.join;
            // What lacks in the others is what lacked at our beginning.
            if told.contains_key(&nid) || partial.again && !is_join {
                continue;
            }
            let Some(event) = self.store.event(nid).await? else { continue };
            let prevs = self.store.events_by_id(event.pdu.prev_events()).await?;
            let placed = prevs.iter().filter(|e| e.room == room.nid && e.after.is_some()).count();
            if placed == event.pdu.prev_events().len() && !partial.again {
                continue;
            }
            // Before those it follows have theirs nothing that is told helps it; they are helped first.
            let prevs: Vec<EventNid> = prevs.iter().map(|e| e.nid).collect();
            if !partial.again && !self.store.partial_among(&prevs).await?.is_empty() {
                continue;
            }
            match self.ask_all(partial, &room, &event, is_join).await? {
                Some(state) => drop(more.insert(nid, state)),
                // It is known as well as before.
                None if partial.again && partial.tries >= IN_VAIN => {
                    let known = self.store.snapshot(event.snap.or_not_found("State")?).await?;
                    more.insert(nid, Told::Before(known));
                }
                // Without our beginning there is nothing to go on with.
                None if is_join => return Ok(more),
                None if partial.tries >= IN_VAIN => drop(more.insert(nid, Told::Nothing)),
                None => {}
            }
        }
        Ok(more)
    }

    /// Asks one server after the other for the state before an event.
    async fn ask_all(
        &self,
        partial: &PartialRoom,
        room: &Room,
        event: &StoredEvent,
        is_join: bool,
    ) -> Result<Option<Told>> {
        let mut answered = false;
        for server in self.whom_to_ask(partial).await? {
            let told = match partial.again {
                true => self.inbox.ask_beside(&server, room, event).await?,
                false => self.inbox.ask_whole(&server, room, event, is_join).await?,
            };
            match told {
                Telling::State(state, lacking) => {
                    if is_join {
                        let lacking = lacking.into_iter().collect();
                        self.store.set_lacking_keys((room.nid, event.nid), &server, lacking, self.now()).await?;
                    }
                    return Ok(Some(state));
                }
                Telling::Nothing => {
                    answered = true;
                    tracing::info!(%server, room.id = %room.room_id, event.id = %event.event_id(), "a server does not tell the state before an event");
                }
                Telling::NoAnswer => {
                    tracing::info!(%server, room.id = %room.room_id, "a server could not be asked for the rest of a room's state");
                }
            }
        }
        Ok((answered && !is_join).then_some(Told::Nothing))
    }

    /// Who let us in, then others of the room: the better known first, and each time others of the rest.
    async fn whom_to_ask(&self, partial: &PartialRoom) -> Result<Vec<OwnedServerName>> {
        let via = &partial.part.via;
        let mut servers = vec![via.clone()];
        let mut others = self.servers.by_members(partial.room).await?;
        others.retain(|server| server != via);
        let turn = usize::try_from(partial.tries).unwrap_or(0).saturating_mul(SERVERS - 1);
        if let Some(turn) = turn.checked_rem(others.len()) {
            others.rotate_left(turn);
        }
        for server in others {
            if servers.len() >= SERVERS {
                break;
            }
            // Those that cannot be reached are not counted among those asked.
            if self.federation.health().left_alone_until(&server).await?.is_none() {
                servers.push(server);
            }
        }
        servers.retain(|server| self.federation.admits(server));
        Ok(servers)
    }

    /// When to ask again after so many tries in vain, ms.
    fn again_ms(&self, tries: i64) -> i64 {
        let doublings = u32::try_from(tries).unwrap_or(DOUBLINGS).min(DOUBLINGS);
        let pause = ms(self.settings.first).saturating_mul(1 << doublings).min(ms(self.settings.longest));
        self.now().saturating_add(pause)
    }

    fn now(&self) -> i64 {
        i64::try_from(self.clock.now_ms()).unwrap_or(i64::MAX)
    }
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}
