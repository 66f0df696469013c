//! What names a table has, in memory: most of what is asked for in some tables is not there.

use std::{
    collections::HashSet,
    hash::{BuildHasher, Hash, RandomState},
    sync::atomic::{AtomicBool, Ordering},
};

use parking_lot::RwLock;

/// Names remembered of a table, 8 bytes each; beyond that the table is asked.
pub(crate) const MOST_NAMES: i64 = 200_000;

/// The names in a table, as numbers: what is not among them is not in the table. Kept by the writer, the only one to
/// write the table.
#[derive(Debug)]
pub(crate) struct Names {
    /// Whether all of them are here.
    all: AtomicBool,
    numbers: RwLock<HashSet<u64>>,
    hasher: RandomState,
}

impl Names {
    pub(crate) fn of<N: Hash>(names: impl ExactSizeIterator<Item = N>) -> Self {
        let all = AtomicBool::new(names.len() <= usize::try_from(MOST_NAMES).unwrap_or(usize::MAX));
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
        if i64::try_from(numbers.len()).is_ok_and(|len| len < MOST_NAMES) {
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
        let names = Names::of(0..MOST_NAMES.unsigned_abs().try_into().unwrap_or(usize::MAX));
        assert!(!names.may_have(usize::MAX));
        names.add(usize::MAX);
        assert!(names.may_have(usize::MAX) && names.may_have(usize::MAX - 1));
    }
}
