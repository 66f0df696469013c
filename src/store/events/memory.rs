//! What the tables of a room's holes and changes would say, in memory where they nearly always say nothing: whether an
//! event is waited for by others, and when a room last changed in a way that its timeline does not show.

use std::{
    collections::HashSet,
    hash::{BuildHasher, Hash, RandomState},
    sync::atomic::{AtomicBool, Ordering},
};

use hearth_base::{
    Result,
    cache::Cache,
    ids::{RoomNid, StreamPos},
};
use parking_lot::RwLock;

use crate::{Store, db::Session, fetch_all, fetch_optional};

/// Names remembered of a table, 8 bytes each; beyond that the table is asked.
const MOST: i64 = 200_000;
/// Rooms whose last changes are remembered.
const ROOMS: u64 = 20_000;

/// The names in a table, as numbers: what is not among them is not in the table. Kept by the writer, the only one to
/// write the table.
pub(crate) struct Names {
    /// Whether all of them are here.
    all: AtomicBool,
    numbers: RwLock<HashSet<u64>>,
    hasher: RandomState,
}

impl Names {
    fn of<N: Hash>(names: impl ExactSizeIterator<Item = N>) -> Self {
        let all = AtomicBool::new(names.len() <= usize::try_from(MOST).unwrap_or(usize::MAX));
        let hasher = RandomState::new();
        let numbers = RwLock::new(names.map(|name| hasher.hash_one(name)).collect());
        Self { all, numbers, hasher }
    }

    /// Whether the table may have this name.
    pub(crate) fn may_have(&self, name: impl Hash) -> bool {
        !self.all.load(Ordering::Relaxed) || self.numbers.read().contains(&self.hasher.hash_one(name))
    }

    /// To be called before the name is written: one too many costs a look at the table, one too few would hide it.
    pub(crate) fn add(&self, name: impl Hash) {
        let mut numbers = self.numbers.write();
        if i64::try_from(numbers.len()).is_ok_and(|len| len < MOST) {
            numbers.insert(self.hasher.hash_one(name));
        } else {
            self.all.store(false, Ordering::Relaxed);
        }
    }

    /// To be called once it is committed that the table has the name no longer.
    pub(crate) fn remove(&self, name: impl Hash) {
        self.numbers.write().remove(&self.hasher.hash_one(name));
    }
}

/// See the module.
pub(crate) struct Memory {
    /// Room and event id of what others of a room name and we do not have (table `missing_events`).
    pub(crate) missing: Names,
    /// Event ids of what is redacted before it comes (table `redactions_ahead`).
    pub(crate) ahead: Names,
    /// Where a room's current state last changed (table `state_changes`).
    changes: Cache<RoomNid, StreamPos>,
    /// The newest hole in a room's timeline (table `gaps`).
    gaps: Cache<RoomNid, StreamPos>,
}

impl Memory {
    /// Reads the names.
    pub(crate) async fn load(session: &mut Session) -> Result<Self> {
        const MISSING: &str = "SELECT room_nid, event_id FROM missing_events LIMIT $1";
        const AHEAD: &str = "SELECT target_id FROM redactions_ahead LIMIT $1";
        let missing: Vec<(i64, String)> = fetch_all!(session, (i64, String), MISSING, MOST + 1)?;
        let ahead: Vec<(String,)> = fetch_all!(session, (String,), AHEAD, MOST + 1)?;
        Ok(Self {
            missing: Names::of(missing.iter().map(|(room, id)| (RoomNid(*room), id.as_str()))),
            ahead: Names::of(ahead.iter().map(|(id,)| id.as_str())),
            changes: Cache::new(ROOMS),
            gaps: Cache::new(ROOMS),
        })
    }

    /// Forgets, after a commit, where a room's state last changed.
    pub(crate) fn changed(&self, room: RoomNid) {
        self.changes.invalidate(&room);
    }

    /// Forgets, after a commit, where a room's newest hole is.
    pub(crate) fn torn(&self, room: RoomNid) {
        self.gaps.invalidate(&room);
    }
}

impl Store {
    /// Whether a room's current state changed after that position.
    pub(super) async fn changed_since(&self, room: RoomNid, after: StreamPos) -> Result<bool> {
        const CHANGED: &str = "SELECT MAX(pos) FROM state_changes WHERE room_nid = $1";
        Ok(self.inner.event_memory.changes.get_or(room, || self.highest(CHANGED, room)).await? > after)
    }

    /// Whether there is a hole in a room's timeline after that position.
    pub(super) async fn torn_since(&self, room: RoomNid, after: StreamPos) -> Result<bool> {
        const TORN: &str = "SELECT MAX(pos) FROM gaps WHERE room_nid = $1";
        Ok(self.inner.event_memory.gaps.get_or(room, || self.highest(TORN, room)).await? > after)
    }

    async fn highest(&self, sql: &'static str, room: RoomNid) -> Result<StreamPos> {
        let row: Option<(Option<i64>,)> = fetch_optional!(&mut self.read().await?, (Option<i64>,), sql, room.0)?;
        Ok(row.and_then(|(pos,)| pos).map_or(StreamPos::ZERO, StreamPos))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_was_never_named_is_known_not_to_be_there() {
        let names = Names::of(["$a", "$b"].iter());
        assert!(names.may_have("$a") && !names.may_have("$c"));
        names.add("$c");
        names.remove("$a");
        assert!(names.may_have("$c") && !names.may_have("$a"));
    }

    #[test]
    fn beyond_its_bound_anything_may_be_there() {
        let names = Names::of(0..MOST.unsigned_abs().try_into().unwrap_or(usize::MAX));
        assert!(!names.may_have(usize::MAX));
        names.add(usize::MAX);
        assert!(names.may_have(usize::MAX) && names.may_have(usize::MAX - 1));
    }
}
