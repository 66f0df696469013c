//! What is remembered of keys, and how it hears of commits.

use std::sync::Arc;

use hearth_base::{cache::Cache, ids::UserNid};

use super::{
    UserKeys,
    news::Recent,
    one_time::{DeviceName, KeyCounts},
};
use crate::{
    Inner,
    log::{Change, Logged},
};

/// Bytes of memory for users' keys.
const KEYS_BYTES: u64 = 8 << 20;
/// Devices whose counts are remembered.
const COUNTS: u64 = 20_000;

/// All that is remembered of keys.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(super) users: Cache<UserNid, Arc<UserKeys>>,
    pub(super) counts: Cache<DeviceName, Arc<KeyCounts>>,
    pub(super) recent: Recent,
}

impl Memory {
    pub(crate) fn new(head: i64) -> Self {
        let weigh = |_: &UserNid, keys: &Arc<UserKeys>| u32::try_from(keys.weight()).unwrap_or(u32::MAX);
        Self { users: Cache::weighed(KEYS_BYTES, weigh), counts: Cache::new(COUNTS), recent: Recent::new(head) }
    }

    /// Hears of a commit before anybody who waits for it.
    pub(crate) fn published(&self, inner: &Inner, changes: &[Logged]) {
        for logged in changes {
            if let Change::DeviceList { user, .. } | Change::OwnKeys { user } = &logged.change {
                self.users.invalidate(user);
            }
        }
        self.recent.note(inner, changes);
    }
}
