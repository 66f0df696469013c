//! Memory of what is on disk: a bounded cache that a slow reader cannot fill with what a writer has meanwhile changed.
//!
//! A reader draws a [`Ticket`] before it asks the disk and fills the cache with it; a ticket drawn before an
//! invalidation of the same shard is worthless. Caches are owned by the file of their table, which invalidates them.

use std::{
    convert::Infallible,
    fmt,
    hash::{BuildHasher, Hash, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::{Mutex, RwLock};
use quick_cache::{
    Equivalent, OptionsBuilder, Weighter,
    sync::{Cache as Entries, DefaultLifecycle},
};

use crate::Result;

/// Invalidations are counted for this many groups of keys, so that a busy key does not spoil the tickets of all.
const SHARDS: usize = 64;
/// Parts of a cache with locks of their own, each with its share of the room: few, so that a value of a tenth of the
/// whole still fits into one.
const PARTS: usize = 8;
/// Values are taken to be at least so large when the room for the names of those that went is measured out.
const USUAL_UNITS: u64 = 100;
/// Names of values that went, remembered at most.
const MOST_NAMES: usize = 20_000;

/// A bounded map from key to value. Values are cloned out, so make them cheap to clone.
pub struct Cache<K, V> {
    entries: Entries<K, V, Weigh<K, V>, RandomState>,
    epochs: Box<[RwLock<u64>]>,
    hasher: RandomState,
}

/// What a value weighs; 1 without a function.
type Scale<K, V> = Arc<dyn Fn(&K, &V) -> u32 + Send + Sync>;
struct Weigh<K, V>(Option<Scale<K, V>>);

impl<K, V> Clone for Weigh<K, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K, V> Weighter<K, V> for Weigh<K, V> {
    fn weight(&self, key: &K, value: &V) -> u64 {
        // What weighs nothing would never go.
        self.0.as_ref().map_or(1, |weigh| u64::from(weigh(key, value)).max(1))
    }
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
        Self::of(entries, entries, None)
    }

    /// A cache of at most that many units, as `weigh` counts them.
    #[must_use]
    pub fn weighed(units: u64, weigh: impl Fn(&K, &V) -> u32 + Send + Sync + 'static) -> Self {
        Self::of(units, units / USUAL_UNITS, Some(Arc::new(weigh)))
    }

    fn of(units: u64, entries: u64, weigh: Option<Scale<K, V>>) -> Self {
        let names = usize::try_from(entries).unwrap_or(MOST_NAMES).clamp(1, MOST_NAMES);
        let options =
            OptionsBuilder::new().shards(PARTS).estimated_items_capacity(names).weight_capacity(units).build();
        let weigh = Weigh(weigh);
        let entries = match options {
            Ok(options) => Entries::with_options(options, weigh, RandomState::new(), DefaultLifecycle::default()),
            Err(_) => Entries::with(names, units, weigh, RandomState::new(), DefaultLifecycle::default()),
        };
        Self { entries, epochs: (0..SHARDS).map(|_| RwLock::new(0)).collect(), hasher: RandomState::new() }
    }

    /// What is remembered.
    pub fn get<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> Option<V> {
        self.entries.get(key)
    }

    /// Whether something is remembered.
    pub fn contains_key<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> bool {
        self.entries.contains_key(key)
    }

    /// What is remembered, or what `init` makes; it is made once, however many ask for it.
    pub fn get_with(&self, key: K, init: impl FnOnce() -> V) -> V
    where
        K: Clone,
    {
        let made: std::result::Result<V, Infallible> = self.entries.get_or_insert_with(&key, || Ok(init()));
        match made {
            Ok(value) => value,
        }
    }

    /// Remembers what never changes, or what only the process knows.
    pub fn insert(&self, key: K, value: V) {
        self.entries.insert(key, value);
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
            self.entries.remove(key);
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
        self.entries.len() as u64
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

/// A bounded map whose values go some time after they came, or after they were last asked for.
pub struct Lasting<K, V> {
    entries: Cache<K, Aged<V>>,
    life: Duration,
    /// Who asks for a value prolongs its life.
    prolonged: bool,
    /// Ages are counted from here.
    began: Instant,
    swept: Mutex<Instant>,
}

/// A value, and when it came or was last asked for, in ms.
#[derive(Clone)]
struct Aged<V>(V, Arc<AtomicU64>);

impl<K, V> Lasting<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    fn of(entries: Cache<K, Aged<V>>, life: Duration, prolonged: bool) -> Self {
        let began = Instant::now();
        Self { entries, life, prolonged, began, swept: Mutex::new(began) }
    }

    /// At most that many entries, each for that long.
    #[must_use]
    pub fn new(entries: u64, life: Duration) -> Self {
        Self::of(Cache::new(entries), life, false)
    }

    /// At most that many units, as `weigh` counts them, each value for that long.
    #[must_use]
    pub fn weighed(units: u64, life: Duration, weigh: impl Fn(&K, &V) -> u32 + Send + Sync + 'static) -> Self {
        Self::of(Cache::weighed(units, move |key, aged: &Aged<V>| weigh(key, &aged.0)), life, false)
    }

    /// At most that many entries, each for that long after it was last asked for.
    #[must_use]
    pub fn idle(entries: u64, life: Duration) -> Self {
        Self::of(Cache::new(entries), life, true)
    }

    /// What is remembered.
    pub fn get<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> Option<V> {
        self.entries.get(key).filter(|aged| self.lives(aged)).map(|aged| self.given(aged))
    }

    /// What is remembered, or what `init` makes; it is made once, however many ask for it.
    pub fn get_with(&self, key: K, init: impl FnOnce() -> V) -> V
    where
        K: Clone,
    {
        if let Some(value) = self.get(&key) {
            return value;
        }
        self.entries.entries.remove_if(&key, |aged| !self.lives(aged));
        self.sweep();
        self.given(self.entries.get_with(key, || self.new_born(init())))
    }

    /// Remembers a value from now on.
    pub fn insert(&self, key: K, value: V) {
        self.sweep();
        self.entries.insert(key, self.new_born(value));
    }

    /// Forgets a value; gives it back if its time was not over.
    pub fn remove<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> Option<V> {
        let (_, aged) = self.entries.entries.remove(key)?;
        self.lives(&aged).then_some(aged.0)
    }

    /// How many there are, about.
    pub fn len(&self) -> u64 {
        self.entries.len()
    }

    /// Whether there are none, about.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn new_born(&self, value: V) -> Aged<V> {
        Aged(value, Arc::new(AtomicU64::new(self.now())))
    }

    fn lives(&self, aged: &Aged<V>) -> bool {
        u128::from(self.now().saturating_sub(aged.1.load(Ordering::Relaxed))) < self.life.as_millis()
    }

    fn given(&self, aged: Aged<V>) -> V {
        if self.prolonged {
            aged.1.store(self.now(), Ordering::Relaxed);
        }
        aged.0
    }

    /// Lets go, now and then, of those whose time is over.
    fn sweep(&self) {
        let due = {
            let mut swept = self.swept.lock();
            let due = swept.elapsed() >= self.life;
            if due {
                *swept = Instant::now();
            }
            due
        };
        if due {
            self.entries.entries.retain(|_, aged| self.lives(aged));
        }
    }
}

impl<K, V> fmt::Debug for Lasting<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lasting").field("life", &self.life).finish_non_exhaustive()
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

    #[test]
    fn it_holds_no_more_than_it_may_and_what_is_large_among_it() {
        let cache: Cache<u32, Vec<u8>> = Cache::weighed(100_000, |_, v: &Vec<u8>| u32::try_from(v.len()).unwrap());
        for n in 0..10_000 {
            cache.insert(n, vec![0; 50]);
        }
        let held = (0..10_000).filter(|n| cache.contains_key(n)).count();
        assert!((1_000..=2_000).contains(&held), "{held} of 2,000 that fit");
        cache.put(1, vec![1; 10_000]);
        assert_eq!(cache.get(&1), Some(vec![1; 10_000]));
        let cache: Cache<u32, ()> = Cache::new(500);
        (0..10_000).for_each(|n| cache.insert(n, ()));
        // Each part rounds its share up.
        assert!((250..=508).contains(&cache.len()), "{}", cache.len());
    }

    /// As if that time had gone by.
    fn wait(lasting: &mut Lasting<u8, &str>, time: Duration) {
        lasting.began -= time;
        *lasting.swept.lock() -= time;
    }

    #[test]
    fn what_lasts_for_a_time_is_gone_after_it() {
        let life = Duration::from_secs(20);
        let (mut fixed, mut prolonged) = (Lasting::new(100, life), Lasting::idle(100, life));
        fixed.insert(1, "a");
        prolonged.insert(1, "a");
        for n in 0..4 {
            assert_eq!((fixed.get(&1), prolonged.get(&1)), ((n < 2).then_some("a"), Some("a")));
            wait(&mut fixed, life / 2);
            wait(&mut prolonged, life / 2);
        }
        assert_eq!(fixed.remove(&1), None);
        assert_eq!(fixed.get_with(1, || "b"), "b");
        wait(&mut fixed, life);
        wait(&mut prolonged, life);
        fixed.insert(2, "c");
        assert_eq!(fixed.len(), 1, "what is over is swept out");
        assert_eq!(prolonged.get(&1), None);
    }
}
