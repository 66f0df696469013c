//! One queue a server: events, device changes, to-device messages and what may be lost (typing, receipts, presence).
//!
//! What happens is heard from commits and handed to each server's queue in the order of the log. While a server keeps
//! up its queue is in memory and nothing is written for it; a server that does not is *behind*: its cursor is written
//! down, and what it is owed is read from the log when it is there again. To-device messages are rows until
//! acknowledged. One transaction at a time is on its way to a server, a bounded number to all.
//!
//! [`hear`] hands out what happens, [`peer`] is what waits for a server, [`load`] makes transactions of it, [`sending`]
//! sends one after the other through the [`carrier`], [`share`] makes them smaller for who refuses what they hold.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use dashmap::DashMap;
use hearth_base::{
    Result,
    cache::Lasting,
    clock::Clock,
    ids::{RoomNid, StreamPos, UserNid},
    tasks::Supervisor,
};
use hearth_store::{Store, events::StoredEvent, outbox::Cursor};
use parking_lot::Mutex;
use ruma::OwnedServerName;
use tokio::sync::{Notify, Semaphore};

use super::servers::Servers;
use crate::{keys::Keys, presence::Presence, typing::Typing};

pub mod carrier;
mod devices;
mod hear;
mod load;
mod peer;
mod sending;
mod share;
#[cfg(test)]
mod tests;

pub use carrier::{Carrier, Outcomes, Transaction};
use peer::{Behind, Peer};

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
            refused_pause: Duration::from_secs(5),
        }
    }
}

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
    /// Rooms with receipts of late: when those go out that wait, and when the next may, ms.
    receipts: Lasting<RoomNid, (u64, u64)>,
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
    Devices(devices::Changed),
    Receipt(RoomNid, UserNid),
    /// Servers in a room of which we did not know.
    Met(RoomNid, Arc<[OwnedServerName]>),
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
            receipts: Lasting::idle(10_000, Duration::from_secs(600)),
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
        // Whoever types once this has returned is heard, even before the task first runs.
        let ears = Mutex::new(Some((self.typing.watch(), self.presence.watch())));
        self.supervisor.task("outbox-soft", move || {
            let this = this.clone();
            let (typing, presence) = ears.lock().take().unwrap_or_else(|| (this.typing.watch(), this.presence.watch()));
            async move { this.hear_soft(typing, presence).await }
        });
        Ok(())
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
}
