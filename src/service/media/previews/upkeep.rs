//! What becomes of previews and their images: they go with their time, images before it if there are too many.

use std::{sync::atomic::Ordering, time::Duration};

use hearth_base::{Result, tasks::Supervisor};

use super::{Inner, Previews};

/// The pause between two sweeps, and what one takes at once.
const SWEEP_EVERY: Duration = Duration::from_secs(300);
const SWEPT: i64 = 500;

impl Previews {
    /// Starts the periodic work.
    pub fn start(&self, supervisor: &Supervisor) {
        let Some(inner) = self.0.clone() else { return };
        supervisor.every("previews", SWEEP_EVERY, move || {
            let inner = inner.clone();
            async move { inner.sweep().await }
        });
    }

    /// The periodic work: forgets previews whose time is over, and deletes their images. May be dropped anywhere and made
    /// again.
    ///
    /// # Errors
    /// If the database or the disk fails.
    pub async fn sweep(&self) -> Result<()> {
        match &self.0 {
            Some(inner) => inner.sweep().await,
            None => Ok(()),
        }
    }
}

impl Inner {
    async fn sweep(&self) -> Result<()> {
        let now = self.maker.now();
        while self.store.expire_previews(now, SWEPT).await? > 0 {}
        while self.drop_images(now, u64::MAX).await? > 0 {}
        self.maker.images.store(self.store.preview_image_bytes().await?, Ordering::Relaxed);
        self.make_room().await
    }

    /// Deletes the oldest images while there are too many, and some more, so that it need not be done each time.
    pub(super) async fn make_room(&self) -> Result<()> {
        let most = self.maker.settings.max_images;
        if self.maker.images.load(Ordering::Relaxed) <= most {
            return Ok(());
        }
        loop {
            let excess = self.maker.images.load(Ordering::Relaxed).saturating_sub(most - most / 4);
            let gone = if excess > 0 { self.drop_images(i64::MAX, excess).await? } else { 0 };
            if gone == 0 {
                return Ok(());
            }
            let less = |bytes: u64| Some(bytes.saturating_sub(gone));
            let _ = self.maker.images.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }

    /// Deletes images whose time is over by then, until that many bytes are gone; gives how many went now.
    async fn drop_images(&self, by_ms: i64, bytes: u64) -> Result<u64> {
        let (mut gone, mut dropped) = (0_u64, Vec::new());
        for (id, size) in self.store.expired_preview_images(by_ms, SWEPT).await? {
            if gone >= bytes {
                break;
            }
            // Rows first, then bytes: a crash leaves bytes that nobody can ask for.
            let blobs = self.store.delete_media(&self.maker.server_name, &id).await?.unwrap_or_default();
            for name in blobs {
                self.maker.blobs()?.remove_unless(name, || self.store.blob_is_referred(name)).await?;
            }
            gone = gone.saturating_add(size);
            dropped.push(id);
        }
        self.store.forget_preview_images(dropped).await?;
        Ok(gone)
    }
}
