//! Memory of what is on disk: a bounded cache that a slow reader cannot fill with what a writer has meanwhile changed.
//!
//! A reader draws a [`Ticket`] before it asks the disk and fills the cache with it; a ticket drawn before an
//! invalidation of the same shard is worthless. Caches are owned by the file of their table, which invalidates them.

use std::{
    fmt,
    hash::{BuildHasher, Hash, RandomState},
};

use moka::sync::Cache as Moka;
use parking_lot::RwLock;

use crate::Result;

/// Invalidations are counted for this many groups of keys, so that a busy key does not spoil the tickets of all.
const SHARDS: usize = 64;

/// A bounded map from key to value. Values are cloned out, so make them cheap to clone.
pub struct Cache<K, V> {
    entries: Moka<K, V>,
    epochs: Box<[RwLock<u64>]>,
    hasher: RandomState,
}

/// When a reader began to read.
#[derive(Debug, Clone, Copy)]
pub struct Ticket {
    shard: usize,
    epoch: u64,
}

impl<K, V> Cache<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// A cache of at most that many entries.
    #[must_use]
    pub fn new(entries: u64) -> Self {
        Self::of(Moka::new(entries))
    }

    /// A cache of at most that many units, as `weigh` counts them.
    #[must_use]
    pub fn weighed(units: u64, weigh: impl Fn(&K, &V) -> u32 + Send + Sync + 'static) -> Self {
        Self::of(Moka::builder().weigher(weigh).max_capacity(units).build())
    }

    fn of(entries: Moka<K, V>) -> Self {
        Self { entries, epochs: (0..SHARDS).map(|_| RwLock::new(0)).collect(), hasher: RandomState::new() }
    }

    /// What is remembered.
    pub fn get(&self, key: &K) -> Option<V> {
        self.entries.get(key)
    }

    /// To be drawn before the value is read from disk.
    pub fn ticket(&self, key: &K) -> Ticket {
        let shard = self.shard(key);
        Ticket { shard, epoch: self.epochs.get(shard).map_or(0, |e| *e.read()) }
    }

    /// Remembers what was read, unless it may have changed since the ticket was drawn.
    pub fn fill(&self, key: K, value: V, ticket: Ticket) {
        if let Some(epoch) = self.epochs.get(ticket.shard) {
            // Held while inserting, so that an invalidation comes before the look or after the insertion.
            let epoch = epoch.read();
            if *epoch == ticket.epoch {
                self.entries.insert(key, value);
            }
        }
    }

    /// Remembers what a commit has just written, instead of what readers are about to say of it.
    pub fn put(&self, key: K, value: V) {
        if let Some(epoch) = self.epochs.get(self.shard(&key)) {
            let mut epoch = epoch.write();
            *epoch += 1;
            self.entries.insert(key, value);
        }
    }

    /// Forgets a value, and what readers are about to say of it.
    pub fn invalidate(&self, key: &K) {
        if let Some(epoch) = self.epochs.get(self.shard(key)) {
            let mut epoch = epoch.write();
            *epoch += 1;
            self.entries.invalidate(key);
        }
    }

    /// What is remembered, or what `load` gives.
    ///
    /// # Errors
    /// Those of `load`.
    pub async fn get_or<F>(&self, key: K, load: impl FnOnce() -> F) -> Result<V>
    where
        F: Future<Output = Result<V>>,
    {
        if let Some(value) = self.get(&key) {
            return Ok(value);
        }
        let ticket = self.ticket(&key);
        let value = load().await?;
        self.fill(key, value.clone(), ticket);
        Ok(value)
    }

    /// How many entries there are, about.
    pub fn len(&self) -> u64 {
        self.entries.entry_count()
    }

    /// Whether there are none, about.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, key: &K) -> usize {
        (self.hasher.hash_one(key) % SHARDS as u64) as usize
    }
}

impl<K, V> fmt::Debug for Cache<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn what_changed_while_it_was_read_is_not_kept() {
        let cache: Cache<u8, &str> = Cache::new(10);
        let read = cache
            .get_or(1, || async {
                cache.invalidate(&1);
                Ok("old")
            })
            .await
            .unwrap();
        assert_eq!(read, "old");
        assert_eq!(cache.get(&1), None);
        assert_eq!(cache.get_or(1, || async { Ok("new") }).await.unwrap(), "new");
        assert_eq!(cache.get(&1), Some("new"));
        cache.invalidate(&1);
        assert_eq!(cache.get(&1), None);
        let ticket = cache.ticket(&1);
        cache.put(1, "newest");
        cache.fill(1, "older", ticket);
        assert_eq!(cache.get(&1), Some("newest"));
    }
}
