//! Older history of rooms, fetched from servers that have it when somebody reads so far back (server-server API,
//! "Backfilling and retrieving missing events").
//!
//! Where history is missing is known: events that others name and that are not here ([`Gap`]). Whoever reads past one
//! has it filled and waits for it a moment; all who read there share the question, which goes on when they have gone.
//! What nobody could tell is left alone for a while, longer each time. The events themselves are checked and placed by
//! the [`Inbox`].

use std::{sync::Arc, time::Duration};

use hearth_base::{Result, cache::Lasting, clock::Clock, ids::RoomNid, tasks::Supervisor};
use hearth_store::{
    Store,
    events::{Direction, Gap, StoredEvent},
    rooms::Room,
};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedServerName, ServerName, UInt,
    api::federation::{backfill::get_backfill, event::get_event_by_timestamp},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Federation, inbox::Inbox, servers::Servers};
use crate::state::State;

/// How history is fetched.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long a reader waits for it.
    pub wait: Duration,
    /// How long a gap that nobody could fill is left alone first; doubled each time.
    pub first: Duration,
    /// The longest that it is left alone.
    pub longest: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { wait: Duration::from_secs(5), first: Duration::from_secs(30), longest: Duration::from_secs(86_400) }
    }
}

/// Events asked for at once.
const PAGE: u32 = 100;
/// Gaps asked for at once.
const GAPS: usize = 10;
/// Servers asked in turn.
const SERVERS: usize = 6;
/// How long one of them may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Events around one that was found by its time.
const AROUND: u32 = 20;
/// Doublings of a pause.
const DOUBLINGS: u32 = 20;

/// Fetches history.
#[derive(Debug)]
pub struct Backfill {
    store: Store,
    state: Arc<State>,
    inbox: Arc<Inbox>,
    federation: Arc<Federation>,
    servers: Arc<Servers>,
    clock: Clock,
    supervisor: Supervisor,
    settings: Settings,
    /// One question at a time in a room.
    lanes: Lasting<RoomNid, Arc<tokio::sync::Mutex<()>>>,
}

/// What it depends on.
pub struct Parts {
    /// Reads state.
    pub state: Arc<State>,
    /// Places events.
    pub inbox: Arc<Inbox>,
    /// Calls servers.
    pub federation: Arc<Federation>,
    /// Knows which are in a room.
    pub servers: Arc<Servers>,
}

impl Backfill {
    /// Made once.
    #[must_use]
    pub fn new(store: Store, parts: Parts, clock: Clock, supervisor: Supervisor, settings: Settings) -> Arc<Self> {
        let Parts { state, inbox, federation, servers } = parts;
        let lanes = Lasting::idle(10_000, Duration::from_secs(600));
        Arc::new(Self { store, state, inbox, federation, servers, clock, supervisor, settings, lanes })
    }

    /// Fills gaps below events whose depth is in `(above, upto]`, deepest first, waiting no longer than a reader may.
    /// Gives whether it is worth to read there again.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn fill(self: &Arc<Self>, room: &Room, above: i64, upto: i64) -> Result<bool> {
        if !room.head.forked || self.due(room.nid, above, upto).await?.is_empty() {
            return Ok(false);
        }
        // Nobody tells a room's history to a server that is not in it.
        if !self.store.is_resident(room.nid).await? {
            return Ok(false);
        }
        let (this, nid) = (self.clone(), room.nid);
        let work = async move {
            let supervisor = this.supervisor.clone();
            supervisor.job(async move { this.fill_now(nid, above, upto).await }).await
        };
        match tokio::time::timeout(self.settings.wait, work).await {
            Ok(filled) => filled,
            Err(_) => Ok(false),
        }
    }

    /// The gaps there that others may be asked about now.
    async fn due(&self, room: RoomNid, above: i64, upto: i64) -> Result<Vec<Gap>> {
        let now = self.now();
        let mut gaps = self.store.gaps(room, above, upto, 10 * GAPS).await?;
        gaps.retain(|gap| gap.retry_ms <= now);
        gaps.truncate(GAPS);
        Ok(gaps)
    }

    async fn fill_now(&self, nid: RoomNid, above: i64, upto: i64) -> Result<bool> {
        let lane = self.lanes.get_with(nid, Arc::default);
        let _one = lane.lock().await;
        let gaps = self.due(nid, above, upto).await?;
        if gaps.is_empty() {
            // Somebody else's question has answered this one.
            return Ok(true);
        }
        let room = self.state.room_by_nid(nid).await?;
        let ids: Vec<OwnedEventId> = gaps.iter().map(|gap| gap.event_id.clone()).collect();
        let mut answered = false;
        for server in self.whom_to_ask(&room).await? {
            let Some(pdus) = self.page(&server, &room, &ids, PAGE).await else { continue };
            answered = true;
            self.inbox.take_in_history(&server, nid, &ids, pdus).await?;
            if self.store.missing_among(nid, &ids).await?.len() < ids.len() {
                return Ok(true);
            }
            tracing::debug!(%server, room.id = %room.room_id, "a server gave no history that could be used");
        }
        let gaps = gaps.into_iter().map(|gap| self.later(gap, answered)).collect();
        self.store.defer_gaps(nid, gaps).await?;
        Ok(false)
    }

    /// A gap that could not be filled: the pause grows if somebody was there to tell, and could not.
    fn later(&self, gap: Gap, answered: bool) -> Gap {
        let ms = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX / 4);
        let doublings = u32::try_from(gap.tries).unwrap_or(DOUBLINGS).min(DOUBLINGS);
        let pause = ms(self.settings.first).saturating_mul(1 << doublings).min(ms(self.settings.longest));
        Gap { tries: gap.tries + i64::from(answered), retry_ms: self.now().saturating_add(pause), ..gap }
    }

    /// A page of history that ends with these events.
    async fn page(
        &self,
        server: &ServerName,
        room: &Room,
        from: &[OwnedEventId],
        limit: u32,
    ) -> Option<Vec<Box<RawValue>>> {
        let request = get_backfill::v1::Request::new(room.room_id.clone(), from.to_vec(), UInt::from(limit));
        match self.federation.send(server, request, self.federation.once().within(PATIENCE)).await {
            Ok(answer) => {
                let mut pdus = answer.pdus;
                // Some give a few more than they are asked for.
                pdus.truncate(2 * PAGE as usize);
                Some(pdus)
            }
            Err(e) => {
                tracing::debug!(%server, room.id = %room.room_id, error = %e, "history was not told");
                None
            }
        }
    }

    /// The event of a room nearest to a time, ms, as others have it, if it is nearer than `than`: fetched and placed.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn by_time(
        self: &Arc<Self>,
        room: &Room,
        direction: Direction,
        origin_ms: u64,
        than: Option<u64>,
    ) -> Result<Option<Arc<StoredEvent>>> {
        if !room.head.forked || !self.store.is_resident(room.nid).await? {
            return Ok(None);
        }
        let (this, room) = (self.clone(), room.clone());
        let work = async move {
            let supervisor = this.supervisor.clone();
            supervisor.job(async move { this.by_time_now(&room, direction, origin_ms, than).await }).await
        };
        tokio::time::timeout(self.settings.wait, work).await.unwrap_or(Ok(None))
    }

    async fn by_time_now(
        &self,
        room: &Room,
        direction: Direction,
        origin_ms: u64,
        than: Option<u64>,
    ) -> Result<Option<Arc<StoredEvent>>> {
        let (Some(ts), dir) = (UInt::new(origin_ms), towards(direction)) else { return Ok(None) };
        for server in self.whom_to_ask(room).await? {
            let request =
                get_event_by_timestamp::v1::Request::new(room.room_id.clone(), MilliSecondsSinceUnixEpoch(ts), dir);
            let patience = self.federation.once().within(PATIENCE);
            let Ok(found) = self.federation.send(&server, request, patience).await else { continue };
            let at = u64::from(found.origin_server_ts.0);
            let fits = match direction {
                Direction::Backward => at <= origin_ms && than.is_none_or(|than| at > than),
                Direction::Forward => at >= origin_ms && than.is_none_or(|than| at < than),
            };
            if !fits {
                continue;
            }
            let event_id = found.event_id;
            let from = std::slice::from_ref(&event_id);
            if let Some(pdus) = self.page(&server, room, from, AROUND).await {
                self.inbox.take_in_history(&server, room.nid, from, pdus).await?;
            }
            let event = self.store.event_by_id(&event_id).await?;
            if let Some(event) = event.filter(|e| e.room == room.nid && e.pos.is_some()) {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// The servers of a room by whom its history is most likely kept: those of its powerful users, then those with the
    /// most members.
    async fn whom_to_ask(&self, room: &Room) -> Result<Vec<OwnedServerName>> {
        let here = self.servers.by_members(room.nid).await?;
        let mut servers: Vec<OwnedServerName> = Vec::new();
        for server in self.powerful(room).await? {
            if here.contains(&server) && !servers.contains(&server) {
                servers.push(server);
            }
        }
        servers.truncate(SERVERS / 2);
        for server in here {
            if servers.len() >= SERVERS {
                break;
            }
            // Those that cannot be reached are not counted among those asked.
            if !servers.contains(&server) && self.federation.health().left_alone_until(&server).await?.is_none() {
                servers.push(server);
            }
        }
        servers.retain(|server| self.federation.admits(server));
        Ok(servers)
    }

    /// The servers of those who made the room and of those who hold power in it, the most powerful first.
    async fn powerful(&self, room: &Room) -> Result<Vec<OwnedServerName>> {
        #[derive(Deserialize)]
        struct Content {
            users: std::collections::BTreeMap<ruma::OwnedUserId, serde_json::Value>,
        }
        let state = self.state.current(room).await?;
        let create = self.state.entry(&state, "m.room.create", "").await?;
        let levels = self.state.entry(&state, "m.room.power_levels", "").await?;
        let mut users: Vec<(i64, OwnedServerName)> = levels
            .and_then(|e| e.pdu.content_as::<Content>())
            .into_iter()
            .flat_map(|content| content.users)
            .map(|(user, level)| (level.as_i64().unwrap_or_default(), user.server_name().to_owned()))
            .collect();
        users.sort_by_key(|(level, _)| std::cmp::Reverse(*level));
        let creator = create.map(|e| e.pdu.sender().server_name().to_owned());
        // The creator's server has been there from the beginning.
        let mut servers: Vec<OwnedServerName> = creator.into_iter().collect();
        servers.extend(users.into_iter().filter(|(level, _)| *level > 0).map(|(_, server)| server));
        Ok(servers)
    }

    fn now(&self) -> i64 {
        i64::try_from(self.clock.now_ms()).unwrap_or(i64::MAX)
    }
}

fn towards(direction: Direction) -> ruma::api::Direction {
    match direction {
        Direction::Backward => ruma::api::Direction::Backward,
        Direction::Forward => ruma::api::Direction::Forward,
    }
}
