//! When the database is not the one whose contents we remember.

use std::sync::Arc;

use crate::Store;

impl Store {
    /// Comes back, with the reason, when the database is no longer the one whose contents we remember. Nothing is
    /// written from then on: the process is to end, and to begin anew on what is there.
    pub async fn lost(&self) -> Arc<str> {
        loop {
            let told = self.inner.losing.notified();
            tokio::pin!(told);
            told.as_mut().enable();
            if let Some(why) = self.inner.lost.get() {
                return why.clone();
            }
            told.await;
        }
    }

    pub(super) fn is_lost(&self) -> bool {
        self.inner.lost.get().is_some()
    }

    pub(super) fn lose(&self, why: String) {
        tracing::error!("{why}");
        let _ = self.inner.lost.set(why.into());
        self.inner.losing.notify_waiters();
        metrics::counter!("hearth_store_lost_total").increment(1);
    }
}
