//! When users whom we meet are followed. Those of rooms without encryption are once their server begins to tell of their
//! devices, but not at once: devices come with all their keys one after the other, and nobody waits for them, since who asks is
//! answered by their server.

use std::{collections::HashSet, sync::Arc, time::Duration};

use hearth_base::{Result, ids::UserNid};
use hearth_store::keys::theirs::Met;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{DeviceLists, ROOMS};

/// How long their first change waits for others.
const PAUSE: Duration = Duration::from_secs(2);
/// Users who wait; more are followed when somebody asks for their keys.
const USERS: usize = 10_000;

/// Who is to be followed soon.
#[derive(Debug, Default)]
pub(super) struct Soon {
    users: Mutex<HashSet<UserNid>>,
    bell: Notify,
}

impl Soon {
    pub(super) fn follow(&self, user: UserNid) {
        let mut users = self.users.lock();
        if users.len() < USERS && users.insert(user) {
            self.bell.notify_one();
        }
    }
}

impl DeviceLists {
    /// Whether who is met in these rooms, [`ROOMS`] at most, is followed before anybody asks for their keys.
    pub(super) async fn is_to_be_followed(&self, rooms: &[Met]) -> Result<bool> {
        if rooms.len() == ROOMS {
            return Ok(true);
        }
        for met in rooms {
            if self.store.is_encrypted(met.room).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Follows those who wait, a moment after the first of them.
    pub(super) async fn follow_soon(self: Arc<Self>) -> Result<()> {
        loop {
            self.soon.bell.notified().await;
            tokio::time::sleep(PAUSE).await;
            let users = std::mem::take(&mut *self.soon.users.lock());
            let mut unknown = Vec::with_capacity(users.len());
            for user in users {
                if self.store.followed(user).await?.is_none() {
                    unknown.push(user);
                }
            }
            if !unknown.is_empty() {
                self.store.follow(unknown).await?;
            }
        }
    }
}
