//! Who waits for what: the memory between the log and /sync.
//!
//! Per room a [`RoomHub`]: how far it is, its newest events, our members. Per user a [`UserSlot`]: the rooms, how far the
//! user's own things are, and the bell. The store's writer calls [`Notifier::publish`] after each commit, before the
//! writers are answered. A waiter arms its bell BEFORE it looks, so nothing falls between.
//!
//! Both are held weakly by the maps and strongly by whoever uses them, with a while of keeping: what nobody has asked for
//! in that while costs no memory, and a publication that finds nobody has nobody to tell.

use std::{
    collections::{HashSet, VecDeque},
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use dashmap::DashMap;
use hearth_base::{
    Result,
    ids::{EventNid, RoomNid, StreamPos, UserNid},
    tasks::Supervisor,
};
use hearth_store::{
    Store,
    events::StoredEvent,
    log::{Change, Logged},
    membership::Membership,
};
use moka::sync::Cache;
use parking_lot::{Mutex, RwLock};
use ruma::{
    OwnedServerName, UserId,
    events::{TimelineEventType, room::member::MembershipState},
};
use tokio::sync::Notify;

/// Events a room's ring holds.
const RING: usize = 64;
/// How long a user's slot outlives its last use.
const KEEP: Duration = Duration::from_secs(15 * 60);
/// Slots kept beyond their use at most.
const KEPT: u64 = 20_000;

/// A room as far as /sync looks at it first.
#[derive(Debug)]
pub struct RoomHub {
    /// The room.
    pub nid: RoomNid,
    last: AtomicI64,
    last_receipt: AtomicI64,
    last_typing: AtomicU64,
    ring: Mutex<Ring>,
    /// Our users who are joined, invited or knocking; `None` until first loaded.
    members: RwLock<Option<HashSet<UserNid>>>,
    /// Counts changes of membership, so that a load that raced with one is done again.
    membership_changes: AtomicU64,
}

#[derive(Debug)]
struct Ring {
    /// All events after this position are in `events`.
    floor: StreamPos,
    events: VecDeque<(StreamPos, EventNid)>,
}

impl RoomHub {
    fn new(nid: RoomNid) -> Self {
        Self {
            nid,
            last: AtomicI64::new(0),
            last_receipt: AtomicI64::new(0),
            last_typing: AtomicU64::new(0),
            ring: Mutex::new(Ring { floor: StreamPos(i64::MAX), events: VecDeque::new() }),
            members: RwLock::new(None),
            membership_changes: AtomicU64::new(0),
        }
    }

    /// Position of the newest event.
    #[must_use]
    pub fn last(&self) -> StreamPos {
        StreamPos(self.last.load(Ordering::Acquire))
    }

    /// Position of the newest receipt since the hub came to be; 0 if none.
    #[must_use]
    pub fn last_receipt(&self) -> StreamPos {
        StreamPos(self.last_receipt.load(Ordering::Acquire))
    }

    /// Ephemeral counter of the last change of who types.
    #[must_use]
    pub fn last_typing(&self) -> u64 {
        self.last_typing.load(Ordering::Acquire)
    }

    /// The newest events in `(after, upto]`, newest first, at most `limit`, and whether there were more; `None` if memory
    /// does not reach back that far.
    #[must_use]
    pub fn news(&self, after: StreamPos, upto: StreamPos, limit: usize) -> Option<(Vec<EventNid>, bool)> {
        let ring = self.ring.lock();
        let mut found = Vec::new();
        for (pos, nid) in ring.events.iter().rev() {
            if *pos <= after {
                return Some((found, false));
            }
            if *pos <= upto {
                if found.len() == limit {
                    return Some((found, true));
                }
                found.push(*nid);
            }
        }
        (ring.floor <= after).then_some((found, false))
    }

    /// Our users who would hear of an event of this room.
    #[must_use]
    pub fn local_members(&self) -> Vec<UserNid> {
        self.members.read().as_ref().map(|m| m.iter().copied().collect()).unwrap_or_default()
    }
}

/// A user as far as /sync looks at them first.
#[derive(Debug)]
pub struct UserSlot {
    /// The user.
    pub nid: UserNid,
    bell: Notify,
    last_own: AtomicI64,
    last_to_device: AtomicI64,
    rooms: Mutex<Option<Arc<UserRooms>>>,
    room_changes: AtomicU64,
}

/// The rooms of a user, with their hubs.
#[derive(Debug)]
pub struct UserRooms {
    /// Joined rooms.
    pub joined: Vec<(Membership, Arc<RoomHub>)>,
    /// All others, forgotten ones included.
    pub others: Vec<Membership>,
}

impl UserSlot {
    /// The bell; arm it (`enable`) before looking.
    #[must_use]
    pub fn bell(&self) -> &Notify {
        &self.bell
    }

    /// Position of the newest change that is the user's alone (account data, rooms), since the slot came to be.
    #[must_use]
    pub fn last_own(&self) -> StreamPos {
        StreamPos(self.last_own.load(Ordering::Acquire))
    }

    /// Position of the newest to-device message, since the slot came to be.
    #[must_use]
    pub fn last_to_device(&self) -> StreamPos {
        StreamPos(self.last_to_device.load(Ordering::Acquire))
    }

    fn ring_bell(&self) {
        self.bell.notify_waiters();
    }

    fn forget_rooms(&self) {
        self.room_changes.fetch_add(1, Ordering::AcqRel);
        *self.rooms.lock() = None;
    }
}

/// A service that keeps something in memory that commits change.
pub type Listener = Box<dyn Fn(&Logged) + Send + Sync>;

/// The switchboard. One a server.
pub struct Notifier {
    store: Store,
    server_name: OwnedServerName,
    supervisor: Supervisor,
    /// Tells this run's ephemeral counters from those of others.
    boot: u32,
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

impl Notifier {
    /// Starts listening to the store's commits.
    #[must_use]
    pub fn new(store: Store, server_name: OwnedServerName, supervisor: Supervisor) -> Arc<Self> {
        let head = store.head().0;
        let this = Arc::new(Self {
            store: store.clone(),
            server_name,
            supervisor: supervisor.clone(),
            boot: rand::random(),
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
            let slots = weak.upgrade().map(|notifier| notifier.publish(changes)).unwrap_or_default();
            Box::new(move || slots.iter().for_each(|slot| slot.ring_bell()))
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
        self.boot
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
        // What happened before the slot was there is not known to it: it begins as if all had just happened.
        let head = self.publishing.load(Ordering::Acquire);
        Arc::new(UserSlot {
            nid,
            bell: Notify::new(),
            last_own: AtomicI64::new(head),
            last_to_device: AtomicI64::new(head),
            rooms: Mutex::new(None),
            room_changes: AtomicU64::new(0),
        })
    }

    /// The rooms of a user, as of now.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn rooms_of(&self, slot: &UserSlot) -> Result<Arc<UserRooms>> {
        loop {
            if let Some(rooms) = slot.rooms.lock().clone() {
                return Ok(rooms);
            }
            let before = slot.room_changes.load(Ordering::Acquire);
            let (joined, others): (Vec<_>, Vec<_>) = self
                .store
                .memberships_of(slot.nid)
                .await?
                .into_iter()
                .partition(|m| m.membership == MembershipState::Join);
            let hubs = self.hubs(&joined.iter().map(|m| m.room).collect::<Vec<_>>()).await?;
            let rooms = Arc::new(UserRooms { joined: joined.into_iter().zip(hubs).collect(), others });
            let mut kept = slot.rooms.lock();
            if slot.room_changes.load(Ordering::Acquire) == before {
                *kept = Some(rooms.clone());
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
                if let Some(hub) = entry.upgrade() {
                    return hub;
                }
                let hub = Arc::new(RoomHub::new(*nid));
                *entry = Arc::downgrade(&hub);
                fresh.push(hub.clone());
                hub
            })
            .collect();
        if !fresh.is_empty() {
            // The hubs stand in the map now: whatever is published from here on reaches their rings.
            let floor = StreamPos(self.publishing.load(Ordering::Acquire));
            let nids: Vec<RoomNid> = fresh.iter().map(|h| h.nid).collect();
            for room in self.store.rooms(&nids).await? {
                if let Some(hub) = fresh.iter().find(|h| h.nid == room.nid) {
                    hub.last.fetch_max(room.head.pos.0, Ordering::AcqRel);
                }
            }
            for hub in &fresh {
                hub.last_receipt.fetch_max(floor.0, Ordering::AcqRel);
                let mut ring = hub.ring.lock();
                ring.floor = ring.floor.min(floor);
            }
        }
        for hub in &hubs {
            while hub.members.read().is_none() {
                let before = hub.membership_changes.load(Ordering::Acquire);
                let members = self.store.local_members(hub.nid).await?.into_iter().map(|m| m.0).collect();
                let mut kept = hub.members.write();
                if hub.membership_changes.load(Ordering::Acquire) == before {
                    *kept = Some(members);
                }
            }
        }
        Ok(hubs)
    }

    /// Hears of a commit; gives those whose bells are to be rung once the commit can be read. Never waits: the writer
    /// stands behind it.
    fn publish(&self, changes: &[Logged]) -> Vec<Arc<UserSlot>> {
        if let Some(last) = changes.last() {
            self.publishing.store(last.pos.0, Ordering::Release);
        }
        for logged in changes {
            for listener in self.listeners.get().into_iter().flatten() {
                listener(logged);
            }
        }
        let mut bells = HashSet::new();
        for logged in changes {
            self.take_in(logged, &mut bells);
        }
        bells.into_iter().filter_map(|nid| self.slot(nid)).collect()
    }

    fn take_in(&self, logged: &Logged, bells: &mut HashSet<UserNid>) {
        let pos = logged.pos.0;
        match &logged.change {
            Change::Event(event) => self.take_in_event(logged.pos, event, bells),
            Change::Receipt { room, .. } => {
                if let Some(hub) = self.live_hub(*room) {
                    hub.last_receipt.fetch_max(pos, Ordering::AcqRel);
                    bells.extend(hub.members.read().iter().flatten());
                }
            }
            Change::AccountData { user, .. } => {
                if let Some(slot) = self.slot(*user) {
                    slot.last_own.fetch_max(pos, Ordering::AcqRel);
                    bells.insert(*user);
                }
            }
            Change::Rooms { user, .. } => {
                if let Some(slot) = self.slot(*user) {
                    slot.forget_rooms();
                    slot.last_own.fetch_max(pos, Ordering::AcqRel);
                    bells.insert(*user);
                }
            }
            Change::ToDevice { recipients } => {
                for (user, _) in recipients.iter() {
                    if let Some(slot) = self.slot(*user) {
                        slot.last_to_device.fetch_max(pos, Ordering::AcqRel);
                        bells.insert(*user);
                    }
                }
            }
            Change::DeviceList { user } => {
                self.last_device_list.fetch_max(pos, Ordering::AcqRel);
                self.tell_sharers(*user);
            }
        }
    }

    fn take_in_event(&self, pos: StreamPos, event: &StoredEvent, bells: &mut HashSet<UserNid>) {
        let hub = self.live_hub(event.room);
        let member = self.member_target(event);
        if let Some(hub) = &hub {
            let mut ring = hub.ring.lock();
            if ring.events.len() == RING
                && let Some((old, _)) = ring.events.pop_front()
            {
                ring.floor = old;
            }
            ring.events.push_back((pos, event.nid));
            drop(ring);
            hub.last.fetch_max(pos.0, Ordering::AcqRel);
            let mut members = hub.members.write();
            bells.extend(members.iter().flatten());
            if let Some((user, _, here)) = &member {
                hub.membership_changes.fetch_add(1, Ordering::AcqRel);
                if let Some(members) = members.as_mut() {
                    if *here {
                        members.insert(*user);
                    } else {
                        members.remove(user);
                    }
                }
            }
        }
        if let Some((user, ..)) = member
            && let Some(slot) = self.slot(user)
        {
            slot.forget_rooms();
            slot.last_own.fetch_max(pos.0, Ordering::AcqRel);
            bells.insert(user);
        }
    }

    /// Our user whose membership an event changes, what it is now, and whether they hear of the room from now on.
    fn member_target(&self, event: &StoredEvent) -> Option<(UserNid, MembershipState, bool)> {
        if *event.pdu.event_type() != TimelineEventType::RoomMember {
            return None;
        }
        let user = <&UserId>::try_from(event.pdu.state_key()?).ok()?;
        if user.server_name() != self.server_name {
            return None;
        }
        let membership = MembershipState::from(event.pdu.membership().into_owned());
        let here = matches!(membership, MembershipState::Join | MembershipState::Invite | MembershipState::Knock);
        Some((self.store.known_user(user)?, membership, here))
    }

    /// Wakes everybody who shares a room with a user whose keys changed.
    fn tell_sharers(&self, user: UserNid) {
        let store = self.store.clone();
        let slots: Vec<Arc<UserSlot>> = self.users.iter().filter_map(|e| e.value().upgrade()).collect();
        if slots.is_empty() {
            return;
        }
        self.supervisor.detach(async move {
            match store.sharing_rooms_with(user).await {
                Ok(sharers) => {
                    let sharers: HashSet<UserNid> = sharers.into_iter().collect();
                    slots.iter().filter(|s| s.nid == user || sharers.contains(&s.nid)).for_each(|s| s.ring_bell());
                }
                Err(e) => tracing::warn!(error = %e, "cannot tell who shares a room"),
            }
        });
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
