//! What is done now and then so that nothing grows for ever: old rows of the log, what push rules made of events that are
//! read and old, what redactions took away, bytes without a row; and what closing an account leaves to be done.
//!
//! Each is idempotent, works in pieces so that nobody waits behind it, and may be dropped anywhere. When each is done is
//! said by `app/tasks.rs`.

use std::{sync::Arc, time::Duration};

use hearth_base::{
    Requester, Result,
    clock::Clock,
    ids::{RoomNid, UserNid},
};
use hearth_store::{Store, keys::backups::Chosen};

use crate::{Services, membership::Membership};

/// How long things are kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Rows of the log, and what push rules made of events that were read.
    pub log: Duration,
    /// The content of redacted events (`redaction_retention_period`); `None` is for ever.
    pub redacted: Option<Duration>,
    /// Bytes to which no row refers: they may be on their way to one.
    pub orphans: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let days = |n: u64| Duration::from_secs(n * 86_400);
        Self { log: days(30), redacted: Some(days(7)), orphans: days(1) }
    }
}

/// Rows of one transaction.
const BATCH: u32 = 2_000;
/// Users and rooms whose push actions one transaction looks at.
const PAIRS: u32 = 100;
/// Closed accounts looked at at once.
const CLOSED: u32 = 50;

/// Keeps house. Owns no memory.
#[derive(Debug)]
pub struct Upkeep {
    store: Store,
    clock: Clock,
    membership: Arc<Membership>,
    settings: Settings,
}

impl Upkeep {
    /// Over a server whose services are all made.
    #[must_use]
    pub fn new(services: &Services, settings: Settings) -> Self {
        let (store, clock) = (services.store.clone(), services.clock.clone());
        Self { store, clock, membership: services.membership.clone(), settings }
    }

    /// Notes how far the log has come, and forgets what is old of it and of push actions.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn log(&self) -> Result<()> {
        let Some(old) = self.store.mark_log(self.ago(Duration::ZERO), self.ago(self.settings.log)).await? else {
            return Ok(());
        };
        while self.store.prune_log(old, BATCH).await? == u64::from(BATCH) {}
        let mut behind = (UserNid(-1), RoomNid(0));
        while let Some(last) = self.store.prune_push_actions(behind, old, PAIRS).await? {
            behind = last;
        }
        Ok(())
    }

    /// Forgets for good what was redacted long ago.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn redactions(&self) -> Result<()> {
        let Some(kept) = self.settings.redacted else { return Ok(()) };
        while self.store.prune_redacted(self.ago(kept), BATCH).await? == u64::from(BATCH) {}
        Ok(())
    }

    /// Removes bytes without a row from one of the 256 folders.
    ///
    /// # Errors
    /// If the database or the disk fails.
    pub async fn blobs(&self, folder: u8) -> Result<()> {
        let gone = self.store.sweep_blobs(folder, self.ago(self.settings.orphans)).await?;
        if gone > 0 {
            tracing::info!(blobs = gone, "removed media bytes that belonged to nothing");
        }
        Ok(())
    }

    /// Deletes the key backups of closed accounts, and has these leave the rooms they are still in.
    ///
    /// # Errors
    /// If the database fails; a room that refuses is passed over until the next time.
    pub async fn closed_accounts(&self) -> Result<()> {
        while let Some((user, version)) = self.store.backup_of_closed().await? {
            while self.store.delete_backup_sessions(user, version, Chosen::default()).await? > 0 {}
            self.store.delete_backup(user, version).await?;
        }
        let mut after = UserNid(0);
        loop {
            let some = self.store.closed_in_rooms(after, CLOSED).await?;
            let Some((last, _)) = some.last() else { return Ok(()) };
            after = *last;
            for (nid, id) in some {
                self.membership.leave_all(&Requester::internal(id, nid)).await?;
            }
        }
    }

    /// That long ago, ms.
    fn ago(&self, time: Duration) -> i64 {
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        i64::try_from(self.clock.now_ms().saturating_sub(time)).unwrap_or(i64::MAX)
    }
}
