//! A room as /sync looks at it first: how far it is, its newest events, our members. Positions are read without a lock.

use std::{
    collections::{HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
};

use hearth_base::ids::{EventNid, RoomNid, StreamPos, UserNid};
use parking_lot::{Mutex, RwLock};

/// Events a room's ring holds.
const RING: usize = 64;

/// A room as far as /sync looks at it first.
#[derive(Debug)]
pub struct RoomHub {
    /// The room.
    pub nid: RoomNid,
    last: AtomicI64,
    last_member: AtomicI64,
    pub(super) last_receipt: AtomicI64,
    pub(super) last_typing: AtomicU64,
    /// Whether the positions are known; until then the room counts as if all had just happened.
    begun: AtomicBool,
    ring: Mutex<Ring>,
    /// Our users who are joined, invited or knocking; `None` until first loaded.
    members: RwLock<Option<HashSet<UserNid>>>,
    /// Counts changes of membership, so that a load that raced with one is done again.
    membership_changes: AtomicU64,
    /// Who listens by a request that names the room, once for each such request.
    listeners: Mutex<Vec<UserNid>>,
}

/// A request that waits for news of a room, whose user need not be in it: as long as this is held, events ring their bell.
#[derive(Debug)]
pub struct Listening {
    /// The room.
    pub hub: Arc<RoomHub>,
    user: UserNid,
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut listeners = self.hub.listeners.lock();
        if let Some(at) = listeners.iter().position(|user| *user == self.user) {
            listeners.swap_remove(at);
        }
    }
}

#[derive(Debug)]
struct Ring {
    /// All events after this position have passed through here; beyond all positions until the hub is loaded.
    since: StreamPos,
    /// The newest of those that there was no place for any more.
    lost: StreamPos,
    events: VecDeque<(StreamPos, EventNid)>,
}

impl RoomHub {
    pub(super) fn new(nid: RoomNid) -> Self {
        Self {
            nid,
            last: AtomicI64::new(0),
            last_member: AtomicI64::new(0),
            last_receipt: AtomicI64::new(0),
            last_typing: AtomicU64::new(0),
            begun: AtomicBool::new(false),
            ring: Mutex::new(Ring { since: StreamPos(i64::MAX), lost: StreamPos(i64::MIN), events: VecDeque::new() }),
            members: RwLock::new(None),
            membership_changes: AtomicU64::new(0),
            listeners: Mutex::default(),
        }
    }

    /// Position of the newest event; beyond all positions while it is not known.
    #[must_use]
    pub fn last(&self) -> StreamPos {
        self.once_begun(&self.last)
    }

    /// Position of the newest event about a member, ours or not; at least what the log's was when the hub came to be.
    #[must_use]
    pub fn last_member(&self) -> StreamPos {
        self.once_begun(&self.last_member)
    }

    /// Position of the newest receipt, at least what the log's was when the hub came to be.
    #[must_use]
    pub fn last_receipt(&self) -> StreamPos {
        self.once_begun(&self.last_receipt)
    }

    /// Whether it has been loaded.
    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    fn once_begun(&self, pos: &AtomicI64) -> StreamPos {
        // Somebody else may have made the hub and be about to load it.
        if !self.has_begun() {
            return StreamPos(i64::MAX);
        }
        StreamPos(pos.load(Ordering::Acquire))
    }

    /// The room's newest event stands there, or later.
    pub(super) fn reaches(&self, pos: StreamPos) {
        self.last.fetch_max(pos.0, Ordering::AcqRel);
    }

    /// The newest event about a member stands there, or later.
    pub(super) fn members_reach(&self, pos: StreamPos) {
        self.last_member.fetch_max(pos.0, Ordering::AcqRel);
    }

    /// All that was published after `floor` has reached this hub, and [`Self::reaches`] has been told what came before.
    pub(super) fn begin(&self, floor: StreamPos) {
        self.last_receipt.fetch_max(floor.0, Ordering::AcqRel);
        self.members_reach(floor);
        {
            let mut ring = self.ring.lock();
            ring.since = ring.since.min(floor);
        }
        self.begun.store(true, Ordering::Release);
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
        (ring.since.max(ring.lost) <= after).then_some((found, false))
    }

    /// Takes in what was read from the disk: the newest events in `(after, upto]`, newest first, and whether there are more
    /// of them. The next look need not ask it.
    pub fn recall(&self, after: StreamPos, upto: StreamPos, found: &[(StreamPos, EventNid)], more: bool) {
        let mut ring = self.ring.lock();
        let reaches = ring.since.max(ring.lost);
        // What is here must be a continuation of what was read.
        if reaches == StreamPos(i64::MAX) || reaches > upto || reaches <= after {
            return;
        }
        let older: Vec<_> = found.iter().copied().filter(|(pos, _)| *pos <= reaches).collect();
        let room = RING - ring.events.len().min(RING);
        let all_fit = older.len() <= room;
        for one in older.iter().take(room) {
            ring.events.push_front(*one);
        }
        ring.since = match ring.events.front() {
            Some((oldest, _)) if more || !all_fit => StreamPos(oldest.0 - 1),
            None if more || !all_fit => return,
            _ => after,
        };
        ring.lost = StreamPos(i64::MIN);
    }

    /// Our users who would hear of an event of this room.
    #[must_use]
    pub fn local_members(&self) -> Vec<UserNid> {
        self.members.read().as_ref().map(|m| m.iter().copied().collect()).unwrap_or_default()
    }

    /// Whether our members are known.
    pub(super) fn knows_members(&self) -> bool {
        self.members.read().is_some()
    }

    /// How many changes of membership there were.
    pub(super) fn membership_changes(&self) -> u64 {
        self.membership_changes.load(Ordering::Acquire)
    }

    /// Our members, as read after there had been that many changes; forgotten again if there were more meanwhile.
    pub(super) fn set_members(&self, members: HashSet<UserNid>, before: u64) {
        let mut kept = self.members.write();
        if self.membership_changes() == before {
            *kept = Some(members);
        }
    }

    /// One of ours came or went.
    pub(super) fn member_moved(&self, user: UserNid, here: bool) {
        let mut members = self.members.write();
        self.membership_changes.fetch_add(1, Ordering::AcqRel);
        if let Some(members) = members.as_mut() {
            if here {
                members.insert(user);
            } else {
                members.remove(&user);
            }
        }
    }

    /// Has a user hear of the room's events, in it or not.
    #[must_use]
    pub fn listen(self: Arc<Self>, user: UserNid) -> Listening {
        self.listeners.lock().push(user);
        Listening { hub: self, user }
    }

    /// How many look into the room at this moment, in it or not ([`Self::listen`]).
    #[must_use]
    pub fn listeners(&self) -> usize {
        self.listeners.lock().len()
    }

    /// Adds our users who would hear of an event of this room.
    pub(super) fn tell(&self, bells: &mut HashSet<UserNid>) {
        bells.extend(self.members.read().iter().flatten());
        bells.extend(self.listeners.lock().iter());
    }

    /// Takes in an event that is news.
    pub(super) fn push(&self, pos: StreamPos, nid: EventNid) {
        let mut ring = self.ring.lock();
        if ring.events.len() == RING
            && let Some((old, _)) = ring.events.pop_front()
        {
            ring.lost = old;
        }
        ring.events.push_back((pos, nid));
        drop(ring);
        self.reaches(pos);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_that_is_not_loaded_yet_counts_as_news() {
        let hub = RoomHub::new(RoomNid(1));
        hub.push(StreamPos(9), EventNid(4));
        assert_eq!((hub.last(), hub.last_receipt()), (StreamPos(i64::MAX), StreamPos(i64::MAX)));
        assert_eq!(hub.last_member(), StreamPos(i64::MAX));
        assert_eq!(hub.news(StreamPos(3), StreamPos(9), 5), None, "nor is it known what came before");
        hub.reaches(StreamPos(7));
        hub.begin(StreamPos(8));
        assert_eq!((hub.last(), hub.last_receipt(), hub.last_member()), (StreamPos(9), StreamPos(8), StreamPos(8)));
        assert_eq!(hub.news(StreamPos(8), StreamPos(9), 5), Some((vec![EventNid(4)], false)));
        assert_eq!(hub.news(StreamPos(7), StreamPos(9), 5), None);
    }

    #[test]
    fn what_fell_out_of_the_ring_is_not_forgotten_by_loading() {
        let hub = RoomHub::new(RoomNid(1));
        for n in 1..=100 {
            hub.push(StreamPos(n), EventNid(n));
        }
        hub.begin(StreamPos(0));
        assert_eq!(hub.news(StreamPos(0), StreamPos(100), 200), None);
        assert_eq!(hub.news(StreamPos(36), StreamPos(100), 200).map(|n| n.0.len()), Some(64));
    }

    #[test]
    fn what_was_read_once_is_remembered() {
        let hub = RoomHub::new(RoomNid(1));
        let read = |range: std::ops::RangeInclusive<i64>| -> Vec<_> {
            range.rev().map(|n| (StreamPos(n), EventNid(n))).collect()
        };
        hub.recall(StreamPos(0), StreamPos(9), &read(1..=9), false);
        hub.begin(StreamPos(10));
        assert_eq!(hub.news(StreamPos(0), StreamPos(10), 20), None, "it was not loaded yet");
        hub.push(StreamPos(11), EventNid(11));
        hub.recall(StreamPos(0), StreamPos(8), &read(5..=8), true);
        assert_eq!(hub.news(StreamPos(5), StreamPos(11), 20), None, "nine and ten may be events");
        hub.recall(StreamPos(0), StreamPos(11), &read(5..=11), true);
        assert_eq!(hub.news(StreamPos(4), StreamPos(11), 20).map(|n| n.0.len()), Some(7));
        assert_eq!(hub.news(StreamPos(3), StreamPos(11), 20), None);
        assert_eq!(hub.news(StreamPos(3), StreamPos(11), 3).map(|n| n.1), Some(true));
        hub.recall(StreamPos(0), StreamPos(4), &read(1..=4), false);
        assert_eq!(hub.news(StreamPos(0), StreamPos(11), 20).map(|n| (n.0.len(), n.1)), Some((11, false)));
        for n in 12..=200 {
            hub.push(StreamPos(n), EventNid(n));
        }
        assert_eq!(hub.news(StreamPos(130), StreamPos(200), 100), None, "the ring has an end");
        hub.recall(StreamPos(0), StreamPos(200), &read(100..=200), true);
        assert_eq!(hub.news(StreamPos(136), StreamPos(200), 100).map(|n| n.0.len()), Some(64));
        assert_eq!(hub.news(StreamPos(135), StreamPos(200), 100), None);
    }
}
