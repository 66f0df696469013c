//! One queue a server: events, device changes, to-device messages and what may be lost (typing, receipts, presence).
//!
//! What happens is heard from commits and handed to each server's queue in the order of the log. While a server keeps
//! up its queue is in memory and nothing is written for it; a server that does not is *behind*: its cursor is written
//! down, and what it is owed is read from the log when it is there again. To-device messages are rows until
//! acknowledged. One transaction at a time is on its way to a server, a bounded number to all.
//!
//! [`peer`] is what waits for a server, [`load`] makes transactions of it, [`carrier`] takes them there.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use dashmap::DashMap;
use hearth_base::{
    Result,
    clock::Clock,
    ids::{RoomNid, StreamPos, UserNid},
    tasks::Supervisor,
};
use hearth_store::{
    Store,
    events::StoredEvent,
    log::{Change, Logged},
    outbox::{Cursor, Owed},
};
use parking_lot::Mutex;
use ruma::OwnedServerName;
use tokio::sync::{Notify, Semaphore};

use super::servers::Servers;
use crate::{keys::Keys, presence::Presence, typing::Typing};

pub mod carrier;
mod load;
mod peer;
#[cfg(test)]
mod tests;

pub use carrier::{Carrier, Outcomes, Transaction};
use load::{Load, target};
use peer::{Behind, News, Peer};

/// How much goes out at once.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Transactions on their way, to all servers together.
    pub at_once: usize,
    /// Receipts go to so many servers a second and room (`federation_rr_transactions_per_room_per_second`).
    pub receipts_per_second: u32,
    /// How often cursors are written down, at most.
    pub save_every: Duration,
    /// The first pause after a server refused a transaction; doubles.
    pub refused_pause: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            at_once: 200,
            receipts_per_second: 50,
            save_every: Duration::from_secs(5),
            refused_pause: Duration::from_secs(60),
        }
    }
}

/// Changes that wait to be handed out; beyond, they are read from the log.
const NEWS: usize = 4096;
/// How far the log may be ahead of what is noted while no other server is known.
const UNSAVED: i64 = 1000;
/// Rows of the log read at a time.
const PAGE: usize = 500;
/// Servers remembered that wait for nothing.
const IDLE: usize = 5_000;
/// The longest pause after refusals.
const LONGEST_PAUSE: Duration = Duration::from_secs(6 * 3600);
/// The pause after a failure of our own.
const OWN_PAUSE_MS: u64 = 5_000;

/// The queues of all servers.
pub struct Outbox {
    store: Store,
    name: OwnedServerName,
    servers: Arc<Servers>,
    keys: Arc<Keys>,
    typing: Arc<Typing>,
    presence: Arc<Presence>,
    carrier: Arc<dyn Carrier>,
    clock: Clock,
    supervisor: Supervisor,
    settings: Settings,
    heard: Mutex<Heard>,
    bell: Notify,
    /// Everything up to here was handed out.
    dispatched: AtomicI64,
    peers: DashMap<OwnedServerName, Arc<Peer>>,
    /// When to look at whom again, ms.
    due: Mutex<BinaryHeap<Reverse<(u64, OwnedServerName)>>>,
    permits: Semaphore,
    /// Tells this run's transactions without durable content from those of others.
    run: String,
    count: AtomicU64,
    /// What is on disk for all that are not behind.
    saved: AtomicI64,
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Outbox({} servers)", self.peers.len())
    }
}

/// What was heard of and not yet handed out.
#[derive(Debug)]
struct Heard {
    news: VecDeque<(StreamPos, Item)>,
    /// Everything up to here was heard of.
    seen: StreamPos,
    /// More happened than was kept: the log has it.
    missed: bool,
}

#[derive(Clone, Debug)]
enum Item {
    Event(Arc<StoredEvent>),
    Devices(UserNid),
    Receipt(RoomNid, UserNid),
}

/// What the outbox is made of.
#[derive(Debug)]
pub struct Parts {
    /// Which servers are where.
    pub servers: Arc<Servers>,
    /// What devices look like from outside.
    pub keys: Arc<Keys>,
    /// Who types.
    pub typing: Arc<Typing>,
    /// Who is here.
    pub presence: Arc<Presence>,
}

impl Outbox {
    /// Made once. [`Self::on_change`] is to hear of every commit, and [`Self::start`] begins to send.
    #[must_use]
    pub fn new(
        store: Store,
        name: OwnedServerName,
        parts: Parts,
        carrier: Arc<dyn Carrier>,
        clock: Clock,
        supervisor: Supervisor,
        settings: Settings,
    ) -> Arc<Self> {
        let head = store.head();
        let Parts { servers, keys, typing, presence } = parts;
        Arc::new(Self {
            store,
            name,
            servers,
            keys,
            typing,
            presence,
            carrier,
            clock,
            supervisor,
            settings,
            // What happened before is read from the log.
            heard: Mutex::new(Heard { news: VecDeque::new(), seen: head, missed: true }),
            bell: Notify::new(),
            dispatched: AtomicI64::new(0),
            peers: DashMap::new(),
            due: Mutex::default(),
            permits: Semaphore::new(settings.at_once.max(1)),
            run: crate::login::random_text(10),
            count: AtomicU64::new(0),
            saved: AtomicI64::new(-1),
        })
    }

    /// Reads how far everybody is, and sends what is owed from now on.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn start(self: &Arc<Self>) -> Result<()> {
        let head = self.store.head();
        let mut all = None;
        for Cursor { server, pos, since_ms } in self.store.outbox_cursors().await? {
            if server.is_empty() {
                all = Some(StreamPos(pos));
                continue;
            }
            let Ok(name) = OwnedServerName::try_from(server) else { continue };
            let peer = self.peer(&name);
            // A database that was restored may stand before what was noted.
            let pos = StreamPos(pos).min(head);
            peer.pending.lock().behind = Some(Behind { pos, since_ms, newest: head });
        }
        for server in self.store.outgoing_servers().await? {
            if let Ok(name) = OwnedServerName::try_from(server) {
                self.peer(&name).pending.lock().to_device = true;
            }
        }
        let from = match all {
            Some(pos) => pos.min(head),
            None => {
                // From here on all is owed, even if nothing else is ever written down.
                let since_ms = self.now_ms();
                let first = Cursor { server: String::new(), pos: head.0, since_ms };
                self.store.move_outbox_cursors(vec![first], Vec::new()).await?;
                head
            }
        };
        self.dispatched.store(from.0, Ordering::Release);
        let names: Vec<OwnedServerName> = self.peers.iter().map(|peer| peer.key().clone()).collect();
        self.due.lock().extend(names.into_iter().map(|name| Reverse((0, name))));
        let this = self.clone();
        self.supervisor.task("outbox", move || {
            let this = this.clone();
            async move { this.run().await }
        });
        let this = self.clone();
        self.supervisor.task("outbox-soft", move || {
            let this = this.clone();
            async move { this.hear_soft().await }
        });
        Ok(())
    }

    /// Hears of a commit. Never waits.
    pub fn on_change(&self, logged: &Logged) {
        let item = match &logged.change {
            Change::Event(event) => self.concerns_others(event).then(|| Item::Event(event.clone())),
            Change::DeviceList { user } => Some(Item::Devices(*user)),
            Change::Receipt { room, user } => {
                (!self.servers.is_ours_alone(*room)).then_some(Item::Receipt(*room, *user))
            }
            _ => None,
        };
        let mut heard = self.heard.lock();
        heard.seen = logged.pos;
        let Some(item) = item else { return };
        if heard.missed {
            return;
        }
        if heard.news.len() >= NEWS {
            heard.news.clear();
            heard.missed = true;
        } else {
            heard.news.push_back((logged.pos, item));
        }
        drop(heard);
        self.bell.notify_one();
    }

    fn concerns_others(&self, event: &StoredEvent) -> bool {
        if *event.pdu.sender().server_name() != self.name && !event.relay {
            return false;
        }
        let foreign = target(event).is_some_and(|user| *user.server_name() != self.name);
        foreign || !self.servers.is_ours_alone(event.room)
    }

    fn now(&self) -> u64 {
        self.clock.now_ms()
    }

    fn now_ms(&self) -> i64 {
        i64::try_from(self.now()).unwrap_or(i64::MAX)
    }

    fn unique(&self) -> String {
        format!("{}{}", self.run, self.count.fetch_add(1, Ordering::Relaxed))
    }

    async fn is_ours(&self, user: UserNid) -> Result<bool> {
        Ok(*self.store.user_id(user).await?.server_name() == self.name)
    }

    fn peer(&self, name: &OwnedServerName) -> Arc<Peer> {
        if let Some(peer) = self.peers.get(name) {
            return peer.clone();
        }
        self.peers.entry(name.clone()).or_insert_with(|| Arc::new(Peer::new(name.clone()))).clone()
    }

    /// Hands out what happened, looks at servers whose time has come, writes cursors down.
    async fn run(self: &Arc<Self>) -> Result<()> {
        let stopping = self.supervisor.stopping();
        // Whatever ended the run before may have taken something with it: the log has it.
        self.heard.lock().missed = true;
        self.bell.notify_one();
        let mut save = tokio::time::interval(self.settings.save_every);
        save.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut recovered = self.carrier.recovered();
        loop {
            let wait = self.wake_due();
            tokio::select! {
                () = stopping.cancelled() => return self.save(true).await,
                () = self.bell.notified() => self.dispatch().await?,
                () = self.store.outgoing_bell().notified() => self.to_device_news(),
                () = &mut recovered => {
                    // Armed before the look, so that nothing falls between.
                    recovered = self.carrier.recovered();
                    self.look_at_resting().await;
                }
                _ = save.tick() => self.save(false).await?,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Hands out everything heard of.
    async fn dispatch(self: &Arc<Self>) -> Result<()> {
        loop {
            let (items, seen, missed) = {
                let mut heard = self.heard.lock();
                let missed = std::mem::take(&mut heard.missed);
                (std::mem::take(&mut heard.news), heard.seen, missed)
            };
            let mut items: VecDeque<(StreamPos, Item)> = items;
            if missed {
                items.clear();
            }
            let done = self.hand_out(items, seen, missed).await;
            if done.is_err() {
                self.heard.lock().missed = true;
            }
            done?;
            let heard = self.heard.lock();
            if heard.news.is_empty() && !heard.missed {
                return Ok(());
            }
        }
    }

    async fn hand_out(
        self: &Arc<Self>,
        items: VecDeque<(StreamPos, Item)>,
        seen: StreamPos,
        missed: bool,
    ) -> Result<()> {
        if missed {
            loop {
                let from = StreamPos(self.dispatched.load(Ordering::Acquire));
                let rows = self.store.owed(from, seen, PAGE).await?;
                let more = rows.len() == PAGE;
                for (pos, owed) in rows {
                    self.hand_out_logged(pos, owed).await?;
                    self.dispatched.store(pos.0, Ordering::Release);
                }
                if !more {
                    break;
                }
            }
        }
        for (pos, item) in items {
            match item {
                Item::Event(event) => self.event(pos, &event).await?,
                Item::Devices(user) => self.devices(pos, user).await?,
                Item::Receipt(room, user) => self.receipt(pos, room, user).await?,
            }
        }
        self.dispatched.fetch_max(seen.0, Ordering::AcqRel);
        Ok(())
    }

    async fn hand_out_logged(self: &Arc<Self>, pos: StreamPos, owed: Owed) -> Result<()> {
        match owed {
            Owed::Event { event, sender, relay, .. } => {
                if (relay || self.is_ours(sender).await?)
                    && let Some(event) = self.store.event(event).await?
                {
                    self.event(pos, &event).await?;
                }
                Ok(())
            }
            Owed::Devices { user } => self.devices(pos, user).await,
        }
    }

    async fn event(self: &Arc<Self>, pos: StreamPos, event: &StoredEvent) -> Result<()> {
        let servers = self.servers.of_room(event.room).await?;
        let now = self.now_ms();
        let target = target(event);
        for server in servers.iter() {
            // Who sent it has it.
            if *server != *event.pdu.sender().server_name() {
                self.push(server, pos, News::Event(event.nid), now);
            }
        }
        let Some(target) = target else { return Ok(()) };
        if *target.server_name() == self.name {
            if event.pdu.membership() == "join" && event.pdu.sender() == target {
                // Servers that meet one of our users for the first time are told to look at their devices.
                for server in servers.iter() {
                    self.push(server, pos, News::Newest(event.sender), now);
                }
            }
        } else if servers.binary_search_by(|name| (**name).cmp(target.server_name())).is_err()
            && event.pdu.sender().server_name() != target.server_name()
        {
            self.push(&target.server_name().to_owned(), pos, News::Event(event.nid), now);
        }
        Ok(())
    }

    async fn devices(self: &Arc<Self>, pos: StreamPos, user: UserNid) -> Result<()> {
        if self.is_ours(user).await? {
            for server in self.servers.of_user(user).await? {
                self.push(&server, pos, News::Device, self.now_ms());
            }
        }
        Ok(())
    }

    async fn receipt(self: &Arc<Self>, pos: StreamPos, room: RoomNid, user: UserNid) -> Result<()> {
        if !self.is_ours(user).await? {
            return Ok(());
        }
        let servers = self.servers.of_room(room).await?;
        let now = self.now();
        // In a room of many servers receipts wait for each other.
        let wait = servers.len() as u64 * 1000 / u64::from(self.settings.receipts_per_second.max(1));
        let from = if wait < 1000 { 0 } else { now + wait };
        for server in servers.iter() {
            let peer = self.peer(server);
            peer.pending.lock().receipt(room, user, pos, from, now);
            if from == 0 {
                self.wake(&peer);
            } else {
                self.due.lock().push(Reverse((from, server.clone())));
            }
        }
        Ok(())
    }

    fn push(self: &Arc<Self>, server: &OwnedServerName, pos: StreamPos, news: News, now_ms: i64) {
        let peer = self.peer(server);
        {
            let mut pending = peer.pending.lock();
            pending.push(pos, news, now_ms);
            if pending.rests_until > self.now() {
                pending.fall_behind(now_ms);
            }
        }
        self.wake(&peer);
    }

    fn to_device_news(self: &Arc<Self>) {
        for server in self.store.take_outgoing_news() {
            if let Ok(name) = OwnedServerName::try_from(server) {
                let peer = self.peer(&name);
                peer.pending.lock().to_device = true;
                self.wake(&peer);
            }
        }
    }

    /// Hears who types and whose presence changed.
    async fn hear_soft(self: &Arc<Self>) -> Result<()> {
        let stopping = self.supervisor.stopping();
        let (mut typing, mut presence) = (self.typing.watch(), self.presence.watch());
        loop {
            // Who lags has lost something that may be lost.
            tokio::select! {
                () = stopping.cancelled() => return Ok(()),
                news = typing.recv() => if let Ok(news) = news {
                    let servers = self.servers.of_room(news.room).await?;
                    for server in servers.iter() {
                        let peer = self.peer(server);
                        peer.pending.lock().typing(news.room, &news.user, news.types, self.now());
                        self.wake(&peer);
                    }
                },
                user = presence.recv() => if let Ok(user) = user {
                    for server in self.servers.of_user(user).await? {
                        let peer = self.peer(&server);
                        peer.pending.lock().presence(user, self.now());
                        self.wake(&peer);
                    }
                },
            }
        }
    }

    /// Starts sending to a server, if there is something to send and nothing on its way.
    fn wake(self: &Arc<Self>, peer: &Arc<Peer>) {
        let now = self.now();
        {
            let mut pending = peer.pending.lock();
            if pending.sending || pending.rests_until > now || !pending.has_work(now) {
                return;
            }
            pending.sending = true;
            pending.rests_until = 0;
        }
        let (this, peer) = (self.clone(), peer.clone());
        self.supervisor.detach(async move { this.send_all(&peer).await });
    }

    /// Looks at servers whose time has come; gives the time until the next one's has.
    fn wake_due(self: &Arc<Self>) -> Duration {
        let now = self.now();
        loop {
            let next = self.due.lock().peek().map(|Reverse((at, _))| *at);
            match next {
                Some(at) if at <= now => {
                    let popped = self.due.lock().pop();
                    if let Some(peer) = popped.and_then(|Reverse((_, name))| self.peers.get(&name).map(|p| p.clone())) {
                        self.wake(&peer);
                    }
                }
                Some(at) => return Duration::from_millis(at - now).min(Duration::from_secs(60)),
                None => return Duration::from_secs(60),
            }
        }
    }

    /// Some server is there again: looks at those that rest.
    async fn look_at_resting(self: &Arc<Self>) {
        let now = self.now();
        let resting: Vec<Arc<Peer>> = self
            .peers
            .iter()
            .filter(|peer| {
                let pending = peer.pending.lock();
                pending.rests_until > now && pending.refusals == 0
            })
            .map(|peer| peer.value().clone())
            .collect();
        for peer in resting {
            if self.carrier.left_alone_until(&peer.name).await.is_none() {
                peer.pending.lock().rests_until = 0;
                self.wake(&peer);
            }
        }
    }

    /// Sends to one server until nothing waits for it or it fails.
    async fn send_all(self: &Arc<Self>, peer: &Arc<Peer>) {
        let stopping = self.supervisor.stopping();
        loop {
            // Asked first: putting a transaction together costs more than knowing that it cannot be sent.
            if let Some(until) = self.carrier.left_alone_until(&peer.name).await {
                self.rest(peer, until);
                return;
            }
            let load = match self.load(peer).await {
                Ok(Some(load)) => load,
                Ok(None) => {
                    let mut pending = peer.pending.lock();
                    if pending.has_work(self.now()) {
                        continue;
                    }
                    pending.sending = false;
                    return;
                }
                Err(e) => {
                    tracing::warn!(server = %peer.name, error = %e, "what is owed to a server could not be read");
                    self.rest(peer, self.now() + OWN_PAUSE_MS);
                    return;
                }
            };
            let carried = async {
                let Ok(_permit) = self.permits.acquire().await else { return None };
                if load.transaction.pdus.is_empty() && load.transaction.edus.is_empty() {
                    // Only passed over in the log.
                    return Some(Ok(Outcomes::new()));
                }
                Some(self.carrier.carry(&peer.name, load.transaction.clone()).await)
            };
            let carried = tokio::select! {
                () = stopping.cancelled() => None,
                carried = carried => carried,
            };
            match carried {
                None => {
                    peer.pending.lock().sending = false;
                    return;
                }
                Some(Ok(outcomes)) => {
                    for (event, outcome) in outcomes {
                        if let Err(why) = outcome {
                            tracing::debug!(server = %peer.name, event.id = %event, why, "an event was not taken");
                        }
                    }
                    if let Err(e) = self.settle(peer, load).await {
                        tracing::warn!(server = %peer.name, error = %e, "an acknowledgement could not be noted");
                        self.rest(peer, self.now() + OWN_PAUSE_MS);
                        return;
                    }
                }
                Some(Err(failure)) => {
                    let away = self.carrier.left_alone_until(&peer.name).await;
                    if away.is_some() {
                        peer.pending.lock().refusals = 0;
                    }
                    let until = away.unwrap_or_else(|| {
                        // It answers, but not as it should: a pause of our own.
                        let mut pending = peer.pending.lock();
                        pending.refusals += 1;
                        let factor = 1u32 << (pending.refusals - 1).min(16);
                        let pause = self.settings.refused_pause.saturating_mul(factor).min(LONGEST_PAUSE);
                        tracing::info!(server = %peer.name, error = %failure, pause_s = pause.as_secs(), "a server refused a transaction");
                        self.now() + u64::try_from(pause.as_millis()).unwrap_or(u64::MAX / 2)
                    });
                    self.rest(peer, until);
                    return;
                }
            }
        }
    }

    /// Notes what a server has acknowledged.
    async fn settle(&self, peer: &Peer, load: Load) -> Result<()> {
        if !load.to_device.is_empty() {
            self.store.delete_outgoing(peer.name.to_string(), load.to_device).await?;
        }
        let mut pending = peer.pending.lock();
        pending.refusals = 0;
        // The queue may have been given up for the log meanwhile; then the cursor stands before what is sent again.
        if pending.behind.is_none() {
            let settled = pending.news.len().min(load.news);
            pending.news.drain(..settled);
        } else if let (Some(upto), Some(behind)) = (load.upto, &mut pending.behind) {
            behind.pos = behind.pos.max(upto);
            pending.unsaved = true;
        }
        Ok(())
    }

    /// Leaves a server alone until then, ms. What may be lost is.
    fn rest(self: &Arc<Self>, peer: &Peer, until: u64) {
        let mut pending = peer.pending.lock();
        pending.sending = false;
        pending.rests_until = until;
        pending.fall_behind(self.now_ms());
        pending.soft = peer::Soft::default();
        drop(pending);
        self.due.lock().push(Reverse((until, peer.name.clone())));
        self.bell.notify_one();
    }

    /// Writes down how far servers are.
    async fn save(&self, at_once: bool) -> Result<()> {
        {
            let heard = self.heard.lock();
            if heard.news.is_empty() && !heard.missed {
                self.dispatched.fetch_max(heard.seen.0, Ordering::AcqRel);
            }
        }
        let now = self.now();
        let mut all = StreamPos(self.dispatched.load(Ordering::Acquire));
        let (mut moved, mut caught_up, mut saved) = (Vec::new(), Vec::new(), Vec::new());
        let mut idle = HashSet::new();
        for peer in &self.peers {
            let mut pending = peer.pending.lock();
            match (pending.behind, pending.acknowledged()) {
                (Some(Behind { pos, since_ms, .. }), _) if pending.unsaved => {
                    moved.push(Cursor { server: peer.name.to_string(), pos: pos.0, since_ms });
                }
                (None, acknowledged) => {
                    all = acknowledged.map_or(all, |pos| all.min(pos));
                    if pending.unsaved {
                        caught_up.push(peer.name.to_string());
                    }
                }
                _ => {}
            }
            if std::mem::take(&mut pending.unsaved) {
                saved.push(peer.value().clone());
            }
            if pending.is_idle(now) {
                idle.insert(peer.key().clone());
            }
        }
        let ahead = all.0 - self.saved.load(Ordering::Relaxed);
        // Where nobody else is, a restart may read some of the log again.
        let due = ahead > 0 && (at_once || !self.peers.is_empty() || ahead >= UNSAVED);
        if !due && moved.is_empty() && caught_up.is_empty() {
            return Ok(());
        }
        moved.push(Cursor { server: String::new(), pos: all.0, since_ms: self.now_ms() });
        if let Err(e) = self.store.move_outbox_cursors(moved, caught_up).await {
            saved.iter().for_each(|peer| peer.pending.lock().unsaved = true);
            return Err(e);
        }
        self.saved.store(all.0, Ordering::Relaxed);
        if self.peers.len() > IDLE {
            self.peers.retain(|name, peer| !(idle.contains(name) && peer.pending.lock().is_idle(now)));
        }
        Ok(())
    }
}
