//! Who waits for what: the memory between the log and /sync.
//!
//! Per room a [`RoomHub`]: how far it is, its newest events, our members. Per user a [`UserSlot`]: the rooms, how far the
//! user's own things are, and the bell. The store's writer calls [`Notifier::publish`] after each commit, before the
//! writers are answered. A waiter arms its bell BEFORE it looks, so nothing falls between; and who becomes known here by
//! looking (a user who was away, rooms nobody was in, one who listens to a room from outside) looks again once what was
//! being published meanwhile can be read ([`Notifier::published_after`]).
//!
//! Both are held weakly by the maps and strongly by whoever uses them, with a while of keeping: what nobody has asked for
//! in that while costs no memory, and a publication that finds nobody has nobody to tell.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use dashmap::DashMap;
use hearth_base::{
    Result,
    ids::{RoomNid, StreamPos, UserNid},
    tasks::Supervisor,
};
use hearth_store::{Store, log::Logged};
use moka::sync::Cache;
use parking_lot::Mutex;
use ruma::{OwnedServerName, events::room::member::MembershipState};
use tokio_util::sync::CancellationToken;

mod hub;
mod publish;
mod slot;
#[cfg(test)]
mod tests;

pub use hub::{Listening, RoomHub};
use publish::Bells;
pub use slot::{UserRooms, UserSlot};

/// How long a user's slot outlives its last use.
const KEEP: Duration = Duration::from_secs(15 * 60);
/// Slots kept beyond their use at most.
const KEPT: u64 = 20_000;

/// A service that keeps something in memory that commits change.
pub type Listener = Box<dyn Fn(&Logged) + Send + Sync>;

/// The switchboard. One a server.
pub struct Notifier {
    store: Store,
    server_name: OwnedServerName,
    supervisor: Supervisor,
    /// Tells this run's ephemeral counters from those of others.
    rooms: DashMap<RoomNid, Weak<RoomHub>>,
    users: DashMap<UserNid, Weak<UserSlot>>,
    kept: Cache<UserNid, Arc<UserSlot>>,
    ephemeral: AtomicU64,
    /// One counts at a time.
    counting: Mutex<()>,
    /// Head of the batch being published: a hub made meanwhile may lack events up to here.
    publishing: AtomicI64,
    /// Position below which slots made later know nothing.
    last_device_list: AtomicI64,
    listeners: OnceLock<Vec<Listener>>,
}

impl std::fmt::Debug for Notifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Notifier({} users, {} rooms)", self.users.len(), self.rooms.len())
    }
}

/// A listener that does not keep alive whom it calls: whoever writes holds the notifier, and a circle would keep the
/// store, with its connections, for ever.
pub(crate) fn weakly<T: Send + Sync + 'static>(whom: &Arc<T>, tell: fn(&T, &Logged)) -> Listener {
    let whom = Arc::downgrade(whom);
    Box::new(move |logged| {
        if let Some(whom) = whom.upgrade() {
            tell(&whom, logged);
        }
    })
}

impl Notifier {
    /// Starts listening to the store's commits.
    #[must_use]
    pub fn new(store: Store, server_name: OwnedServerName, supervisor: Supervisor) -> Arc<Self> {
        let head = store.head().0;
        let this = Arc::new(Self {
            store: store.clone(),
            server_name,
            supervisor: supervisor.clone(),
            rooms: DashMap::new(),
            users: DashMap::new(),
            kept: Cache::builder().time_to_idle(KEEP).max_capacity(KEPT).build(),
            ephemeral: AtomicU64::new(1),
            counting: Mutex::new(()),
            publishing: AtomicI64::new(head),
            last_device_list: AtomicI64::new(head),
            listeners: OnceLock::new(),
        });
        let weak = Arc::downgrade(&this);
        store.subscribe(Box::new(move |changes| {
            let bells = weak.upgrade().map(|notifier| notifier.publish(changes));
            Box::new(move || bells.into_iter().for_each(Bells::ring))
        }));
        let (weak, stopping) = (Arc::downgrade(&this), supervisor.stopping());
        supervisor.task("notifier-sweep", move || {
            let (weak, stopping) = (weak.clone(), stopping.clone());
            async move {
                while stopping.run_until_cancelled(tokio::time::sleep(KEEP / 3)).await.is_some() {
                    let Some(notifier) = weak.upgrade() else { break };
                    notifier.kept.run_pending_tasks();
                    notifier.users.retain(|_, slot| slot.strong_count() > 0);
                    notifier.rooms.retain(|_, hub| hub.strong_count() > 0);
                }
                Ok(())
            }
        });
        this
    }

    /// Says which services hear of each change, before any waiter does. Once, when all services are made.
    pub fn listen(&self, listeners: Vec<Listener>) {
        let _ = self.listeners.set(listeners);
    }

    /// This run, for sync tokens.
    #[must_use]
    pub fn boot(&self) -> u32 {
        self.store.boot()
    }

    /// The newest ephemeral change.
    #[must_use]
    pub fn ephemeral(&self) -> u64 {
        self.ephemeral.load(Ordering::Acquire)
    }

    /// Position of the newest change of anybody's devices or keys; at least what it was when the server started.
    #[must_use]
    pub fn last_device_list(&self) -> StreamPos {
        StreamPos(self.last_device_list.load(Ordering::Acquire))
    }

    /// The slot of a user, made if need be.
    #[must_use]
    pub fn user(&self, nid: UserNid) -> Arc<UserSlot> {
        if let Some(slot) = self.kept.get(&nid) {
            return slot;
        }
        let mut made = None;
        let mut entry = self.users.entry(nid).or_insert_with(|| {
            let slot = self.new_slot(nid);
            let weak = Arc::downgrade(&slot);
            made = Some(slot);
            weak
        });
        let slot = match made {
            Some(slot) => slot,
            None => match entry.upgrade() {
                Some(slot) => slot,
                None => {
                    let slot = self.new_slot(nid);
                    *entry = Arc::downgrade(&slot);
                    slot
                }
            },
        };
        drop(entry);
        self.kept.insert(nid, slot.clone());
        slot
    }

    fn new_slot(&self, nid: UserNid) -> Arc<UserSlot> {
        Arc::new(UserSlot::new(nid, self.publishing.load(Ordering::Acquire)))
    }

    /// Says when the server stops, for those who wait.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.supervisor.stopping()
    }

    /// Whether anything was published, or is about to be, that stands after this position; by then it can be read. Who
    /// became known to rooms and bells before asking this has missed nothing that follows.
    pub async fn published_after(&self, pos: StreamPos) -> bool {
        let upto = StreamPos(self.publishing.load(Ordering::Acquire));
        while self.store.head() < upto {
            // The writer is telling others, which takes no longer than a turn of this task.
            tokio::task::yield_now().await;
        }
        upto > pos
    }

    /// The rooms of a user, as of now.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn rooms_of(&self, slot: &UserSlot) -> Result<Arc<UserRooms>> {
        loop {
            if let Some(rooms) = slot.rooms() {
                return Ok(rooms);
            }
            let before = slot.room_changes();
            let (joined, others): (Vec<_>, Vec<_>) = self
                .store
                .memberships_of(slot.nid)
                .await?
                .into_iter()
                .partition(|m| m.membership == MembershipState::Join);
            let hubs = self.hubs(&joined.iter().map(|m| m.room).collect::<Vec<_>>()).await?;
            let rooms = Arc::new(UserRooms::new(joined.into_iter().zip(hubs).collect(), others));
            if slot.keep_rooms(&rooms, before) {
                return Ok(rooms);
            }
        }
    }

    /// The hub of a room.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn hub(&self, room: RoomNid) -> Result<Arc<RoomHub>> {
        let mut hubs = self.hubs(&[room]).await?;
        Ok(hubs.pop().unwrap_or_else(|| Arc::new(RoomHub::new(room))))
    }

    /// The hubs of rooms, in the order asked for; what is not in memory is loaded together.
    async fn hubs(&self, rooms: &[RoomNid]) -> Result<Vec<Arc<RoomHub>>> {
        let mut fresh = Vec::new();
        let hubs: Vec<Arc<RoomHub>> = rooms
            .iter()
            .map(|nid| {
                let mut entry = self.rooms.entry(*nid).or_default();
                let hub = entry.upgrade().unwrap_or_else(|| {
                    let hub = Arc::new(RoomHub::new(*nid));
                    *entry = Arc::downgrade(&hub);
                    hub
                });
                // Made just now, or by somebody who went away before it was loaded.
                if !hub.has_begun() {
                    fresh.push(hub.clone());
                }
                hub
            })
            .collect();
        if !fresh.is_empty() {
            // The hubs stand in the map now: whatever is published from here on reaches their rings.
            let floor = StreamPos(self.publishing.load(Ordering::Acquire));
            let nids: Vec<RoomNid> = fresh.iter().map(|h| h.nid).collect();
            let heads: HashMap<RoomNid, StreamPos> =
                self.store.rooms(&nids).await?.into_iter().map(|r| (r.nid, r.head.pos.max(r.head.whole))).collect();
            for hub in &fresh {
                hub.reaches(heads.get(&hub.nid).copied().unwrap_or(StreamPos::ZERO));
                hub.begin(floor);
            }
        }
        loop {
            let unknown: Vec<(&Arc<RoomHub>, u64)> =
                hubs.iter().filter(|h| !h.knows_members()).map(|h| (h, h.membership_changes())).collect();
            if unknown.is_empty() {
                break;
            }
            let nids: Vec<RoomNid> = unknown.iter().map(|(hub, _)| hub.nid).collect();
            let mut members: HashMap<RoomNid, HashSet<UserNid>> = HashMap::with_capacity(nids.len());
            for (room, user) in self.store.local_members(&nids).await? {
                members.entry(room).or_default().insert(user);
            }
            for (hub, before) in unknown {
                hub.set_members(members.remove(&hub.nid).unwrap_or_default(), before);
            }
        }
        Ok(hubs)
    }

    /// Notes a change of who types in a room.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn typing_changed(&self, room: RoomNid) -> Result<()> {
        let hub = self.hub(room).await?;
        {
            // The room says so before the counter does: who sees the counter has seen the room.
            let _one = self.counting.lock();
            let counter = self.ephemeral.load(Ordering::Acquire) + 1;
            hub.last_typing.fetch_max(counter, Ordering::AcqRel);
            self.ephemeral.store(counter, Ordering::Release);
        }
        let members = hub.local_members();
        for nid in members {
            if let Some(slot) = self.slot(nid) {
                slot.ring_bell();
            }
        }
        Ok(())
    }

    /// Counts an ephemeral change that is not of one room (presence) and wakes these users.
    pub fn ephemeral_changed(&self, users: impl IntoIterator<Item = UserNid>) -> u64 {
        let counter = {
            let _one = self.counting.lock();
            self.ephemeral.fetch_add(1, Ordering::AcqRel) + 1
        };
        for nid in users {
            if let Some(slot) = self.slot(nid) {
                slot.ring_bell();
            }
        }
        counter
    }

    fn slot(&self, nid: UserNid) -> Option<Arc<UserSlot>> {
        self.users.get(&nid).and_then(|weak| weak.upgrade())
    }

    fn live_hub(&self, nid: RoomNid) -> Option<Arc<RoomHub>> {
        self.rooms.get(&nid).and_then(|weak| weak.upgrade())
    }
}
