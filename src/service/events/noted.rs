//! Changes of the current state that no event of a write makes by itself.

use std::collections::btree_map::Entry;

use hearth_base::ids::{EventNid, KeyNid};
use hearth_store::events::StateChange;

use super::lane::Staged;

impl Staged {
    /// Notes that an entry of the current state changes by no event of its own. A write tells what it was before and what it
    /// is after all of its events: of several changes of an entry only the first beginning and the last end.
    pub(super) fn note(&mut self, change: StateChange) {
        match self.changes.entry(change.key) {
            Entry::Vacant(free) => drop(free.insert(change)),
            Entry::Occupied(mut noted) => {
                let old = noted.get().old;
                noted.insert(StateChange { old, ..change });
            }
        }
    }

    /// Whether a change of an entry is noted.
    pub(super) fn is_noted(&self, key: KeyNid) -> bool {
        self.changes.contains_key(&key)
    }

    /// Forgets the change of an entry that an event now sets; gives what the entry was before, if a change was noted.
    pub(super) fn unnote(&mut self, key: KeyNid) -> Option<Option<EventNid>> {
        self.changes.remove(&key).map(|noted| noted.old)
    }
}
