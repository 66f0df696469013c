//! Media: uploads, announced uploads, downloads, thumbnails (spec: client-server API, "Content repository").
//!
//! Owns the policy: who may upload how much, what is served to whom, which sizes thumbnails have. Bytes stream
//! through [`Blobs`] in both directions; rows are the [`Store`]'s. Scaling of images is done by `thumbnail.rs` on a
//! bounded part of the blocking pool. Media of other servers are served from here once they were fetched (`remote.rs`).
//! Previews of links are a service of their own ([`previews`]), whose images are media like others.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use hearth_base::{Error, Result, clock::Clock, tasks::Supervisor};
use hearth_store::{
    Store,
    blobs::{BlobName, Blobs},
    media::{Media as Row, ThumbnailKey},
};
use parking_lot::Mutex;
use ruma::{OwnedMxcUri, OwnedServerName, ServerName};
use tokio::sync::Semaphore;

mod arrivals;
mod multipart;
pub mod previews;
mod remote;
pub mod sizes;
#[cfg(test)]
mod tests;
mod thumbnail;
mod upkeep;
mod uploads;

use arrivals::Arrivals;
pub use hearth_store::blobs::Reader;
use remote::Remote;
use sizes::{Sizes, Wish};

use crate::federation::Federation;

/// What the operator decides.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes of the largest upload.
    pub max_upload_size: u64,
    /// Uploads that a user may have announced and not yet made.
    pub max_pending_uploads: u64,
    /// How long an announced upload may take to come.
    pub pending_lifetime: Duration,
    /// Bytes a user may upload within a time, each of them.
    pub upload_limits: Vec<UploadLimit>,
    /// What is uploaded while this is set is only given to those who authenticate.
    pub authenticated_media: bool,
    /// Servers whose media we do not give.
    pub blocked_servers: Vec<OwnedServerName>,
    /// Pixels of the largest image that is scaled.
    pub max_image_pixels: u64,
    /// Which thumbnails are made.
    pub sizes: Sizes,
    /// Images scaled at once.
    pub scaling_threads: usize,
    /// Our own media go after that long unused.
    pub local_lifetime: Option<Duration>,
    /// Other servers' media go after that long unused.
    pub remote_lifetime: Option<Duration>,
    /// Previews of links; without them there are none.
    pub previews: Option<previews::Settings>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_upload_size: 50 << 20,
            max_pending_uploads: 5,
            pending_lifetime: Duration::from_secs(24 * 3600),
            upload_limits: Vec::new(),
            authenticated_media: true,
            blocked_servers: Vec::new(),
            max_image_pixels: 32 << 20,
            sizes: Sizes::default(),
            scaling_threads: std::thread::available_parallelism().map_or(1, |n| n.get().div_ceil(2)),
            local_lifetime: None,
            remote_lifetime: None,
            previews: None,
        }
    }
}

/// How much a user may upload within a time.
#[derive(Clone, Debug)]
pub struct UploadLimit {
    /// The time, up to now.
    pub period: Duration,
    /// Bytes within it.
    pub max_bytes: u64,
    /// Where the user reads more about it.
    pub info_uri: String,
    /// Whether the user may get a higher one.
    pub can_upgrade: bool,
}

/// What an uploader says of a file.
#[derive(Clone, Debug, Default)]
pub struct UploadHead {
    /// Its media type.
    pub content_type: Option<String>,
    /// Its name.
    pub file_name: Option<String>,
    /// Its size in bytes, if said beforehand.
    pub length: Option<u64>,
}

/// An upload that may come later.
#[derive(Clone, Debug)]
pub struct Announced {
    /// What it will be called.
    pub uri: OwnedMxcUri,
    /// Until when it may come, ms.
    pub expires_ms: u64,
}

/// How a medium is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// By somebody who has authenticated; others see only what came before that was asked.
    pub authenticated: bool,
    /// Whether another server may be asked.
    pub allow_remote: bool,
    /// How long an announced upload is waited for; at most [`MAX_WAIT`] is.
    pub wait: Duration,
}

/// What is asked for when nothing is said (spec: `timeout_ms`).
pub const DEFAULT_WAIT: Duration = Duration::from_secs(20);
/// The longest that an announced upload is waited for.
pub const MAX_WAIT: Duration = Duration::from_secs(60);

/// Bytes to be served, and what is said of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Which bytes.
    pub blob: BlobName,
    /// How many.
    pub size: u64,
    /// As the uploader said, or what a thumbnail is.
    pub content_type: Option<String>,
    /// As the uploader said.
    pub file_name: Option<String>,
}

/// Uploads, serves and scales media. Remembers who waits for an announced upload and which media were asked for lately.
pub struct Media {
    /// Our name, the authority of `mxc://` ids.
    server_name: OwnedServerName,
    store: Store,
    clock: Clock,
    supervisor: Supervisor,
    settings: Arc<Settings>,
    arrivals: Arc<Arrivals>,
    scaling: Arc<Semaphore>,
    scaling_queue: AtomicUsize,
    thumbnails: moka::future::Cache<ThumbnailKey, thumbnail::Outcome>,
    asked_for: Mutex<HashSet<(OwnedServerName, String)>>,
    remote: Arc<Remote>,
}

impl std::fmt::Debug for Media {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Media").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Media {
    /// The service over a store and its blobs.
    #[must_use]
    pub fn new(
        server_name: OwnedServerName,
        settings: Settings,
        federation: Arc<Federation>,
        store: Store,
        clock: Clock,
        supervisor: Supervisor,
    ) -> Self {
        let settings = Arc::new(settings);
        let remote = Remote::new(federation, store.clone(), clock.clone(), supervisor.clone(), settings.clone());
        Self {
            server_name,
            remote,
            store,
            clock,
            supervisor,
            scaling: Arc::new(Semaphore::new(settings.scaling_threads.max(1))),
            settings,
            arrivals: Arc::default(),
            scaling_queue: AtomicUsize::new(0),
            thumbnails: moka::future::Cache::new(thumbnail::REMEMBERED),
            asked_for: Mutex::default(),
        }
    }

    /// Bytes of the largest upload (spec: `GET /media/config`).
    #[must_use]
    pub fn max_upload_size(&self) -> u64 {
        self.settings.max_upload_size
    }

    /// What an id stands for, ready to be read by [`Media::read`].
    ///
    /// # Errors
    /// 404 if there is no such medium for this access; 504 `M_NOT_YET_UPLOADED` if it does not come in time.
    pub async fn download(&self, server_name: &str, media_id: &str, access: Access) -> Result<Content> {
        let row = self.find(server_name, media_id, access).await?;
        let blob = row.blob.ok_or_else(unavailable)?;
        Ok(Content { blob, size: row.size, content_type: row.content_type.clone(), file_name: row.file_name.clone() })
    }

    /// A thumbnail of an image, or the image itself where that is no larger than what is wished for.
    ///
    /// # Errors
    /// As [`Media::download`]; 400 if it is no image we can read, 413 if it has too many pixels, 429 if too many are
    /// being made.
    pub async fn thumbnail(&self, server_name: &str, media_id: &str, wish: Wish, access: Access) -> Result<Content> {
        let row = self.find(server_name, media_id, access).await?;
        let blob = row.blob.ok_or_else(unavailable)?;
        let made = self.thumbnail_of(&row, blob, wish).await?;
        let extension = made.content_type.rsplit('/').next().unwrap_or_default();
        Ok(Content {
            blob: made.blob,
            size: made.size,
            file_name: Some(format!("thumbnail.{extension}")),
            content_type: Some(made.content_type),
        })
    }

    /// The bytes of a content or a range of them, end exclusive.
    ///
    /// # Errors
    /// 404 if the bytes went meanwhile; if the disk fails.
    pub async fn read(&self, content: &Content, range: Option<std::ops::Range<u64>>) -> Result<Reader> {
        self.blobs()?.read(content.blob, range).await?.ok_or_else(unavailable)
    }

    /// The row behind an id that may be served, waiting for it if it was announced.
    async fn find(&self, server_name: &str, media_id: &str, access: Access) -> Result<Arc<Row>> {
        self.blobs()?;
        let (server_name, media_id) = parse_id(server_name, media_id)?;
        if self.settings.blocked_servers.contains(&server_name) {
            return Err(unavailable());
        }
        let deadline = tokio::time::Instant::now() + access.wait.min(MAX_WAIT);
        let (mut arrival, stopping) = (None, self.supervisor.stopping());
        loop {
            let row = match self.store.media(&server_name, media_id).await? {
                Some(row) => row,
                None if server_name != self.server_name && access.allow_remote => {
                    // What is fetched now is only for those who authenticate.
                    if self.settings.authenticated_media && !access.authenticated {
                        return Err(unavailable());
                    }
                    self.remote.fetch(server_name.clone(), media_id, access.wait.min(MAX_WAIT)).await?
                }
                None => return Err(unavailable()),
            };
            // What has not come yet is not there for anybody, which is all that is told of it.
            let withheld = row.blob.is_some() && row.authenticated && !access.authenticated;
            if row.quarantined_by.is_some() || withheld {
                return Err(unavailable());
            }
            if row.blob.is_some() {
                self.note_access(&row);
                return Ok(row);
            }
            if row.expires_ms.is_some_and(|expires| expires <= self.now()) {
                return Err(unavailable());
            }
            arrival = match arrival {
                // Listens, and looks once more: it may have come in between.
                None => Some(self.arrivals.listen(media_id).ok_or_else(not_yet)?),
                Some(listening) => {
                    tokio::select! {
                        came = tokio::time::timeout_at(deadline, listening.came()) => came.map_err(|_| not_yet())?,
                        () = stopping.cancelled() => return Err(not_yet()),
                    }
                    None
                }
            };
        }
    }

    fn blobs(&self) -> Result<&Blobs> {
        self.store.blobs().ok_or_else(|| Error::unrecognized("This server keeps no media"))
    }

    fn now(&self) -> i64 {
        i64::try_from(self.clock.now_ms()).unwrap_or(i64::MAX)
    }
}

/// An id as the spec allows it, so that nothing else comes near a path or another server ("Security considerations").
fn parse_id<'a>(server_name: &str, media_id: &'a str) -> Result<(OwnedServerName, &'a str)> {
    let letters = media_id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if !letters || media_id.is_empty() || media_id.len() > 255 {
        return Err(Error::not_found("Not a media ID"));
    }
    let server_name = ServerName::parse(server_name).map_err(|_| Error::not_found("Not a server name"))?;
    Ok((server_name, media_id))
}

fn unavailable() -> Error {
    Error::not_found("Media not found")
}

fn not_yet() -> Error {
    Error::told(http::StatusCode::GATEWAY_TIMEOUT, "M_NOT_YET_UPLOADED", "Content has not yet been uploaded")
}
