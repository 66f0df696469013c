//! A user as /sync looks at them first: their rooms, how far their own things are, and the bell.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering},
};

use hearth_base::ids::{StreamPos, UserNid};
use hearth_store::membership::Membership;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::RoomHub;

/// A user as far as /sync looks at them first.
#[derive(Debug)]
pub struct UserSlot {
    /// The user.
    pub nid: UserNid,
    bell: Notify,
    /// How many wait for the bell.
    waiting: AtomicUsize,
    pub(super) last_own: AtomicI64,
    pub(super) last_to_device: AtomicI64,
    rooms: Mutex<Rooms>,
    room_changes: AtomicU64,
}

/// The rooms of a user, with their hubs.
#[derive(Debug)]
pub struct UserRooms {
    /// Joined rooms.
    pub joined: Vec<(Membership, Arc<RoomHub>)>,
    /// All others, forgotten ones included.
    pub others: Vec<Membership>,
    /// Where the newest of them all began.
    pub newest: StreamPos,
}

impl UserRooms {
    pub(super) fn new(joined: Vec<(Membership, Arc<RoomHub>)>, others: Vec<Membership>) -> Self {
        let all = joined.iter().map(|(membership, _)| membership).chain(&others);
        let newest = all.map(|membership| membership.pos).max().unwrap_or(StreamPos::ZERO);
        Self { joined, others, newest }
    }
}

impl UserSlot {
    /// What happened before the slot was there is not known to it: it begins as if all up to `head` had just happened.
    pub(super) fn new(nid: UserNid, head: i64) -> Self {
        Self {
            nid,
            bell: Notify::new(),
            waiting: AtomicUsize::new(0),
            last_own: AtomicI64::new(head),
            last_to_device: AtomicI64::new(head),
            rooms: Mutex::default(),
            room_changes: AtomicU64::new(0),
        }
    }

    /// The bell; arm it (`enable`) before looking.
    #[must_use]
    pub fn bell(&self) -> &Notify {
        &self.bell
    }

    /// Says that somebody waits for the bell, until this is dropped.
    #[must_use]
    pub fn waits(&self) -> Waits<'_> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        Waits(self)
    }

    pub(super) fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
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

    pub(super) fn ring_bell(&self) {
        self.bell.notify_waiters();
    }

    /// How often the rooms have changed.
    #[must_use]
    pub fn room_changes(&self) -> u64 {
        self.room_changes.load(Ordering::Acquire)
    }

    /// The rooms, if they are known.
    pub(super) fn rooms(&self) -> Option<Arc<UserRooms>> {
        let kept = self.rooms.lock();
        kept.latest.clone().filter(|_| kept.is_right)
    }

    /// Keeps what was read when there had been that many changes; says whether there were none meanwhile.
    pub(super) fn keep_rooms(&self, rooms: &Arc<UserRooms>, before: u64) -> bool {
        let mut kept = self.rooms.lock();
        let is_right = self.room_changes() == before;
        let old = kept.latest.replace(rooms.clone());
        kept.is_right = is_right;
        drop(kept);
        // Outside of the lock: hubs may go with it.
        drop(old);
        is_right
    }

    /// The rooms are others now. The old ones are held until the new are read, since with the last who holds a hub goes
    /// what it remembers.
    pub(super) fn forget_rooms(&self) {
        self.room_changes.fetch_add(1, Ordering::AcqRel);
        self.rooms.lock().is_right = false;
    }
}

/// One who waits for a bell.
#[derive(Debug)]
pub struct Waits<'s>(&'s UserSlot);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What a slot knows of its user's rooms.
#[derive(Debug, Default)]
struct Rooms {
    latest: Option<Arc<UserRooms>>,
    /// Whether nothing has changed since they were read.
    is_right: bool,
}

#[cfg(test)]
mod tests {
    use hearth_base::ids::{EventNid, RoomNid};
    use ruma::events::room::member::MembershipState;

    use super::*;

    #[test]
    fn hubs_outlive_a_change_of_rooms() {
        let slot = UserSlot::new(UserNid(1), 0);
        assert!(slot.rooms().is_none());
        let weak = {
            let rooms = Arc::new(UserRooms::new(Vec::new(), Vec::new()));
            let hub = Arc::new(RoomHub::new(RoomNid(1)));
            let weak = Arc::downgrade(&hub);
            let membership = Membership {
                room: RoomNid(1),
                user: slot.nid,
                membership: MembershipState::Join,
                event: EventNid(1),
                pos: StreamPos(1),
                local: true,
                forgotten: false,
                stripped: None,
            };
            let full = Arc::new(UserRooms::new(vec![(membership, hub)], Vec::new()));
            assert!(slot.keep_rooms(&full, 0));
            assert!(slot.rooms().is_some());
            slot.forget_rooms();
            assert!(slot.rooms().is_none(), "what changed is read anew");
            assert!(!slot.keep_rooms(&full, 0), "and again, if it changed meanwhile");
            assert!(slot.rooms().is_none());
            drop(full);
            assert!(weak.upgrade().is_some(), "what the hub remembers is still there");
            assert!(slot.keep_rooms(&rooms, 1));
            weak
        };
        assert!(weak.upgrade().is_none(), "nobody holds what is not needed");
    }
}
