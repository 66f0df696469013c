//! A user as /sync looks at them first: their rooms, how far their own things are, and the bell.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64, Ordering},
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
    pub(super) last_own: AtomicI64,
    pub(super) last_to_device: AtomicI64,
    pub(super) rooms: Mutex<Option<Arc<UserRooms>>>,
    pub(super) room_changes: AtomicU64,
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
    /// What happened before the slot was there is not known to it: it begins as if all up to `head` had just happened.
    pub(super) fn new(nid: UserNid, head: i64) -> Self {
        Self {
            nid,
            bell: Notify::new(),
            last_own: AtomicI64::new(head),
            last_to_device: AtomicI64::new(head),
            rooms: Mutex::new(None),
            room_changes: AtomicU64::new(0),
        }
    }

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

    pub(super) fn ring_bell(&self) {
        self.bell.notify_waiters();
    }

    pub(super) fn forget_rooms(&self) {
        self.room_changes.fetch_add(1, Ordering::AcqRel);
        *self.rooms.lock() = None;
    }
}
