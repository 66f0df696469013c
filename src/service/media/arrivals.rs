//! Who waits for announced uploads. Nothing here is kept: one who waits and is not told looks again or gives up.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Who waits for announced uploads, by media id.
#[derive(Default)]
pub(super) struct Arrivals {
    pub(super) waiting: Mutex<HashMap<String, (usize, Arc<Notify>)>>,
}

/// Requests that may wait at once; those beyond are told at once that it is not there yet.
const MAX_WAITING: usize = 1024;

impl Arrivals {
    /// Begins to listen; what comes from now on is heard. `None` if too many listen already.
    pub(super) fn listen(self: &Arc<Self>, media_id: &str) -> Option<Arrival> {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= MAX_WAITING && !waiting.contains_key(media_id) {
            return None;
        }
        let (count, notify) = waiting.entry(media_id.to_owned()).or_default();
        *count += 1;
        let mut heard = Box::pin(notify.clone().notified_owned());
        heard.as_mut().enable();
        Some(Arrival { of: self.clone(), media_id: media_id.to_owned(), heard })
    }

    /// Tells those who listen that it came.
    pub(super) fn tell(&self, media_id: &str) {
        if let Some((_, notify)) = self.waiting.lock().get(media_id) {
            notify.notify_waiters();
        }
    }
}

/// One who listens.
pub(super) struct Arrival {
    of: Arc<Arrivals>,
    media_id: String,
    heard: std::pin::Pin<Box<tokio::sync::futures::OwnedNotified>>,
}

impl Arrival {
    /// Once it came.
    pub(super) async fn came(mut self) {
        self.heard.as_mut().await;
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let mut waiting = self.of.waiting.lock();
        if let Some((count, _)) = waiting.get_mut(&self.media_id) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.media_id);
            }
        }
    }
}
