//! What is remembered of keys: caches that never keep what a commit has made old, filled by readers and emptied by
//! the writer between the commit and the answer to whoever wrote.

use std::{hash::Hash, sync::Arc};

use hearth_base::ids::UserNid;
use moka::sync::Cache;
use parking_lot::Mutex;

use super::{
    UserKeys,
    lists::Recent,
    one_time::{DeviceName, KeyCounts},
};
use crate::{
    Inner,
    log::{Change, Logged},
};

/// A cache beside a table. Who fills it takes a ticket before reading the database; a value read before a commit that
/// concerns the cache is not kept.
#[derive(Debug)]
pub(crate) struct Fresh<K: Hash + Eq + Send + Sync + 'static, V: Clone + Send + Sync + 'static> {
    cache: Cache<K, V>,
    /// Counts commits that made something forget.
    commits: Mutex<u64>,
}

/// When a reader began to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket(u64);

impl<K: Hash + Eq + Send + Sync + 'static, V: Clone + Send + Sync + 'static> Fresh<K, V> {
    pub(crate) fn new(cache: Cache<K, V>) -> Self {
        Self { cache, commits: Mutex::new(0) }
    }

    pub(crate) fn ticket(&self) -> Ticket {
        Ticket(*self.commits.lock())
    }

    pub(crate) fn get(&self, key: &K) -> Option<V> {
        self.cache.get(key)
    }

    /// Keeps what was read since the ticket was taken, unless something was forgotten meanwhile.
    pub(crate) fn fill(&self, ticket: Ticket, key: K, value: V) {
        let commits = self.commits.lock();
        if *commits == ticket.0 {
            self.cache.insert(key, value);
        }
    }

    pub(crate) fn forget<'a>(&self, keys: impl IntoIterator<Item = &'a K>) {
        let mut commits = self.commits.lock();
        *commits += 1;
        for key in keys {
            self.cache.invalidate(key);
        }
    }
}

/// Bytes of memory for users' keys.
const KEYS_BYTES: u64 = 8 << 20;
/// Devices whose counts are remembered.
const COUNTS: u64 = 20_000;

/// All that is remembered of keys.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(super) users: Fresh<UserNid, Arc<UserKeys>>,
    pub(super) counts: Fresh<DeviceName, Arc<KeyCounts>>,
    pub(super) recent: Recent,
}

impl Memory {
    pub(crate) fn new(head: i64) -> Self {
        let weigh = |_: &UserNid, keys: &Arc<UserKeys>| u32::try_from(keys.weight()).unwrap_or(u32::MAX);
        Self {
            users: Fresh::new(Cache::builder().weigher(weigh).max_capacity(KEYS_BYTES).build()),
            counts: Fresh::new(Cache::new(COUNTS)),
            recent: Recent::new(head),
        }
    }

    /// Hears of a commit before anybody who waits for it.
    pub(crate) fn published(&self, inner: &Inner, changes: &[Logged]) {
        let changed = |logged: &Logged| match &logged.change {
            Change::DeviceList { user } => Some(*user),
            _ => None,
        };
        let users: Vec<UserNid> = changes.iter().filter_map(changed).collect();
        if !users.is_empty() {
            self.users.forget(&users);
        }
        self.recent.note(inner, changes);
    }
}
