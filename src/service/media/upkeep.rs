//! What happens to media that are there: moderation, deletion, and the sweep that a periodic task makes.
//!
//! Deletion takes the rows first and then the bytes, if no other row refers to them; a crash in between leaves bytes
//! that nobody can ask for.

use std::{sync::Arc, time::Duration};

use hearth_base::{OrNotFound as _, Result, requester::Requester, tasks::Supervisor};
use hearth_store::{blobs::BlobName, media::Media as Row};
use ruma::{OwnedServerName, ServerName};

use super::{Media, parse_id};

/// The pause between two sweeps.
const SWEEP_EVERY: Duration = Duration::from_secs(300);
/// Media remembered as asked for between two sweeps; those beyond are noted at a later request.
const ASKED_FOR: usize = 20_000;
/// Rows of one transaction.
const BATCH: usize = 256;
/// Media deleted for their age in one sweep.
const SWEPT: i64 = 500;

impl Media {
    /// Withdraws a medium: from now on there is no such thing for anybody. Gives whether it was withdrawn, which a
    /// protected one is not.
    ///
    /// # Errors
    /// 404 if there is no such medium.
    pub async fn quarantine(&self, requester: &Requester, server_name: &str, media_id: &str) -> Result<bool> {
        let (server_name, media_id) = parse_id(server_name, media_id)?;
        self.store.media(&server_name, media_id).await?.or_not_found("Media")?;
        self.store.quarantine_media(&server_name, media_id, Some(requester.user_id.to_string())).await
    }

    /// Gives a withdrawn medium back.
    ///
    /// # Errors
    /// 404 if there is no such medium.
    pub async fn unquarantine(&self, _requester: &Requester, server_name: &str, media_id: &str) -> Result<()> {
        let (server_name, media_id) = parse_id(server_name, media_id)?;
        self.store.quarantine_media(&server_name, media_id, None).await?.then_some(()).or_not_found("Media")
    }

    /// Protects a medium from quarantine and retention, or no longer.
    ///
    /// # Errors
    /// 404 if there is no such medium.
    pub async fn protect(&self, _requester: &Requester, server_name: &str, media_id: &str, on: bool) -> Result<()> {
        let (server_name, media_id) = parse_id(server_name, media_id)?;
        self.store.protect_media(&server_name, media_id, on).await?.then_some(()).or_not_found("Media")
    }

    /// Deletes a medium with its thumbnails.
    ///
    /// # Errors
    /// 404 if there is no such medium.
    pub async fn delete(&self, _requester: &Requester, server_name: &str, media_id: &str) -> Result<()> {
        let (server_name, media_id) = parse_id(server_name, media_id)?;
        self.remove(&server_name, media_id).await?.then_some(()).or_not_found("Media")
    }

    /// Starts the periodic work.
    pub fn start(self: &Arc<Self>, supervisor: &Supervisor) {
        let (this, stopping) = (self.clone(), supervisor.stopping());
        supervisor.task("media", move || {
            let (this, stopping) = (this.clone(), stopping.clone());
            async move {
                loop {
                    let stop = tokio::select! {
                        () = stopping.cancelled() => true,
                        () = tokio::time::sleep(SWEEP_EVERY) => false,
                    };
                    if stop {
                        return this.write_accesses().await;
                    }
                    this.sweep().await?;
                }
            }
        });
    }

    /// The periodic work: notes what was asked for, forgets announced uploads that never came, deletes what was not
    /// used for as long as the operator says. May be dropped anywhere and made again.
    ///
    /// # Errors
    /// If the database or the disk fails.
    pub async fn sweep(&self) -> Result<()> {
        self.write_accesses().await?;
        let now = self.now();
        self.store.expire_media(now).await?;
        for (lifetime, ours) in [(self.settings.local_lifetime, true), (self.settings.remote_lifetime, false)] {
            let Some(lifetime) = lifetime else { continue };
            for (server_name, media_id) in self.unused(now, lifetime, ours).await? {
                self.remove(&server_name, &media_id).await?;
            }
        }
        Ok(())
    }

    async fn write_accesses(&self) -> Result<()> {
        let asked_for: Vec<(OwnedServerName, String)> =
            std::mem::take(&mut *self.asked_for.lock()).into_iter().collect();
        for batch in asked_for.chunks(BATCH) {
            self.store.touch_media(batch.to_vec(), self.now()).await?;
        }
        Ok(())
    }

    async fn unused(&self, now: i64, lifetime: Duration, ours: bool) -> Result<Vec<(OwnedServerName, String)>> {
        let before = now.saturating_sub(i64::try_from(lifetime.as_millis()).unwrap_or(i64::MAX));
        self.store.unused_media(&self.server_name, ours, before, SWEPT).await
    }

    async fn remove(&self, server_name: &ServerName, media_id: &str) -> Result<bool> {
        let Some(blobs) = self.store.delete_media(server_name, media_id).await? else { return Ok(false) };
        self.remove_blobs(blobs).await?;
        Ok(true)
    }

    /// Removes those blobs that no row refers to.
    pub(super) async fn remove_blobs(&self, blobs: Vec<BlobName>) -> Result<()> {
        for name in blobs {
            self.blobs()?.remove_unless(name, || self.store.blob_is_referred(name)).await?;
        }
        Ok(())
    }

    /// Remembers that a medium was asked for, to be noted by the next sweep.
    pub(super) fn note_access(&self, row: &Row) {
        let mut asked_for = self.asked_for.lock();
        if asked_for.len() < ASKED_FOR {
            asked_for.insert((row.server_name.clone(), row.media_id.clone()));
        }
    }
}
