//! Media: uploads, announced uploads, downloads, thumbnails (spec: client-server API, "Content repository").
//!
//! Owns the policy: who may upload how much, what is served to whom, which sizes thumbnails have. Bytes stream
//! through [`Blobs`] in both directions; rows are the [`Store`]'s. Scaling of images is done by `thumbnail.rs` on a
//! bounded part of the blocking pool. Media of other servers are served if a row is there; fetching them is
//! [`Media::fetch_remote`].

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use hearth_base::{Error, Result, clock::Clock, requester::Requester, tasks::Supervisor};
use hearth_store::{
    Store,
    blobs::{BlobName, Blobs, Draft},
    log::Tx,
    media::{Media as Row, ThumbnailKey},
};
use parking_lot::Mutex;
use rand::{Rng as _, distr::Alphanumeric};
use ruma::{OwnedMxcUri, OwnedServerName, ServerName};
use tokio::sync::{Notify, Semaphore};

pub mod sizes;
#[cfg(test)]
mod tests;
mod thumbnail;
mod upkeep;

pub use hearth_store::blobs::Reader;
use sizes::{Sizes, Wish};

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
}

impl std::fmt::Debug for Media {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Media").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Letters of a media id: 143 bits, not to be guessed.
const ID_LENGTH: usize = 24;
/// Letters of a file name or media type that are kept.
const MAX_NAME: usize = 1024;

impl Media {
    /// The service over a store and its blobs.
    #[must_use]
    pub fn new(
        server_name: OwnedServerName,
        settings: Settings,
        store: Store,
        clock: Clock,
        supervisor: Supervisor,
    ) -> Self {
        Self {
            server_name,
            store,
            clock,
            supervisor,
            scaling: Arc::new(Semaphore::new(settings.scaling_threads.max(1))),
            settings: Arc::new(settings),
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

    /// Takes a file and gives its id. Once answered, the file is durable.
    ///
    /// # Errors
    /// 403 for guests, suspended users and over a limit; 413 if it is too large; the body's own.
    pub async fn upload<B>(&self, requester: &Requester, head: UploadHead, body: B) -> Result<OwnedMxcUri>
    where
        B: Stream<Item = Result<Bytes>> + Send,
    {
        self.admit(requester, head.length).await?;
        let draft = self.receive(body).await?;
        let media = self.describe(requester, new_id(), head);
        let uri = uri(&media);
        self.settle(draft, media, false).await?;
        Ok(uri)
    }

    /// Gives an id for a file that comes later (spec: `POST /media/v1/create`).
    ///
    /// # Errors
    /// 403 for guests and suspended users; 429 if too many are pending.
    pub async fn create(&self, requester: &Requester) -> Result<Announced> {
        self.blobs()?;
        may_upload(requester)?;
        let mut media = self.describe(requester, new_id(), UploadHead::default());
        let lifetime = i64::try_from(self.settings.pending_lifetime.as_millis()).unwrap_or(i64::MAX);
        let expires = media.created_ms.saturating_add(lifetime);
        media.expires_ms = Some(expires);
        let announced = Announced { uri: uri(&media), expires_ms: u64::try_from(expires).unwrap_or(0) };
        let (user, allowed, now) = (requester.user_nid, self.settings.max_pending_uploads, media.created_ms);
        self.store
            .write(move |tx| {
                Box::pin(async move {
                    if tx.count_announced_media(user, now).await? >= allowed {
                        // When one of them expires or is uploaded nobody knows; a minute is polite.
                        return Err(Error::limit_exceeded(Duration::from_secs(60)));
                    }
                    tx.insert_media(&media).await
                })
            })
            .await?;
        Ok(announced)
    }

    /// Takes the file for an id that was given by [`Media::create`].
    ///
    /// # Errors
    /// 404 if the id is not known or expired, 403 if somebody else announced it, 409 if it has a file; else as
    /// [`Media::upload`].
    pub async fn upload_to<B>(
        &self,
        requester: &Requester,
        server_name: &str,
        media_id: &str,
        head: UploadHead,
        body: B,
    ) -> Result<()>
    where
        B: Stream<Item = Result<Bytes>> + Send,
    {
        self.admit(requester, head.length).await?;
        let (server_name, media_id) = parse_id(server_name, media_id)?;
        let unknown = || Error::not_found("Unknown media ID");
        let announced = self.store.media(&server_name, media_id).await?.ok_or_else(unknown)?;
        if announced.uploader != Some(requester.user_nid) {
            return Err(Error::forbidden("Somebody else announced this upload"));
        }
        if announced.blob.is_some() {
            return Err(overwrite());
        }
        let now = self.now();
        if announced.expires_ms.is_some_and(|expires| expires <= now) {
            return Err(unknown());
        }
        let draft = self.receive(body).await?;
        let media = self.describe(requester, media_id.to_owned(), head);
        self.settle(draft, media, true).await
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

    /// A medium of another server that we do not hold.
    ///
    /// # Errors
    /// 404 always: there is no way to ask other servers here.
    pub async fn fetch_remote(&self, server_name: &ServerName, media_id: &str) -> Result<Arc<Row>> {
        tracing::debug!(server.name = %server_name, media.id = media_id, "remote medium is not held");
        Err(Error::not_found("Remote media not available"))
    }

    /// The row behind an id that may be served, waiting for it if it was announced.
    async fn find(&self, server_name: &str, media_id: &str, access: Access) -> Result<Arc<Row>> {
        self.blobs()?;
        let (server_name, media_id) = parse_id(server_name, media_id)?;
        if self.settings.blocked_servers.contains(&server_name) {
            return Err(unavailable());
        }
        let deadline = tokio::time::Instant::now() + access.wait.min(MAX_WAIT);
        let mut arrival = None;
        loop {
            let row = match self.store.media(&server_name, media_id).await? {
                Some(row) => row,
                None if server_name != self.server_name && access.allow_remote => {
                    self.fetch_remote(&server_name, media_id).await?
                }
                None => return Err(unavailable()),
            };
            if row.quarantined_by.is_some() || (row.authenticated && !access.authenticated) {
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
                    tokio::time::timeout_at(deadline, listening.came()).await.map_err(|_| not_yet())?;
                    None
                }
            };
        }
    }

    /// Says before the first byte what can be said.
    async fn admit(&self, requester: &Requester, length: Option<u64>) -> Result<()> {
        self.blobs()?;
        may_upload(requester)?;
        let Some(length) = length else { return Ok(()) };
        if length > self.settings.max_upload_size {
            return Err(self.too_large());
        }
        let now = self.now();
        for limit in &self.settings.upload_limits {
            let used = self.store.media_bytes_since(requester.user_nid, since(limit, now)).await?;
            within(limit, used, length)?;
        }
        Ok(())
    }

    async fn receive(&self, body: impl Stream<Item = Result<Bytes>> + Send) -> Result<Draft> {
        let mut draft = self.blobs()?.draft();
        let mut body = std::pin::pin!(body);
        while let Some(bytes) = body.next().await {
            let bytes = bytes?;
            if draft.size().saturating_add(bytes.len() as u64) > self.settings.max_upload_size {
                return Err(self.too_large());
            }
            draft.push(bytes).await?;
        }
        Ok(draft)
    }

    /// Makes blob and row durable, even if the uploader hangs up now.
    async fn settle(&self, draft: Draft, mut media: Row, announced: bool) -> Result<()> {
        let (store, blobs, settings) = (self.store.clone(), self.blobs()?.clone(), self.settings.clone());
        let arrivals = self.arrivals.clone();
        self.supervisor
            .job(async move {
                let kept = draft.finish().await?;
                let name = kept.name;
                media.blob = Some(name);
                media.size = kept.size;
                let media_id = media.media_id.clone();
                let written = store
                    .write(move |tx| Box::pin(async move { insert(tx, &settings, &media, announced).await }))
                    .await;
                drop(kept);
                match &written {
                    Ok(()) => arrivals.tell(&media_id),
                    Err(_) => drop(blobs.remove_unless(name, || store.blob_is_referred(name)).await?),
                }
                written
            })
            .await
    }

    fn describe(&self, requester: &Requester, media_id: String, head: UploadHead) -> Row {
        let now = self.now();
        Row {
            server_name: self.server_name.clone(),
            media_id,
            uploader: Some(requester.user_nid),
            blob: None,
            content_type: head.content_type.and_then(printable),
            file_name: head.file_name.and_then(printable),
            size: 0,
            created_ms: now,
            accessed_ms: now,
            quarantined_by: None,
            protected: false,
            authenticated: self.settings.authenticated_media,
            expires_ms: None,
        }
    }

    fn blobs(&self) -> Result<&Blobs> {
        self.store.blobs().ok_or_else(|| Error::unrecognized("This server keeps no media"))
    }

    fn too_large(&self) -> Error {
        Error::too_large(format!("Cannot upload files larger than {} bytes", self.settings.max_upload_size))
    }

    fn now(&self) -> i64 {
        i64::try_from(self.clock.now_ms()).unwrap_or(i64::MAX)
    }
}

/// Writes the row of an upload, within the limits as they are at its turn.
async fn insert(tx: &mut Tx, settings: &Settings, media: &Row, announced: bool) -> Result<()> {
    if let Some(user) = media.uploader {
        for limit in &settings.upload_limits {
            let used = tx.media_bytes_since(user, since(limit, media.created_ms)).await?;
            within(limit, used, media.size)?;
        }
    }
    if !announced {
        tx.insert_media(media).await
    } else if tx.complete_media(media).await? {
        Ok(())
    } else {
        Err(overwrite())
    }
}

fn since(limit: &UploadLimit, now: i64) -> i64 {
    now.saturating_sub(i64::try_from(limit.period.as_millis()).unwrap_or(i64::MAX))
}

/// Spec: client-server API, `M_USER_LIMIT_EXCEEDED`.
fn within(limit: &UploadLimit, used: u64, more: u64) -> Result<()> {
    if used.saturating_add(more) <= limit.max_bytes {
        return Ok(());
    }
    let error = Error::told(http::StatusCode::FORBIDDEN, "M_USER_LIMIT_EXCEEDED", "You have uploaded too much lately")
        .with("info_uri", limit.info_uri.clone().into());
    Err(if limit.can_upgrade { error.with("can_upgrade", true.into()) } else { error })
}

/// Guests may look only (spec: "Guest access"), suspended users too.
fn may_upload(requester: &Requester) -> Result<()> {
    let refused =
        |errcode: &'static str, error: &'static str| Err(Error::told(http::StatusCode::FORBIDDEN, errcode, error));
    if requester.is_guest {
        return refused("M_GUEST_ACCESS_FORBIDDEN", "Guests cannot upload");
    }
    if requester.is_suspended {
        return refused("M_USER_SUSPENDED", "Your account is suspended");
    }
    Ok(())
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

/// What is kept of a text that a stranger sends: no control characters, and not all too much.
fn printable(text: String) -> Option<String> {
    let text: String = text.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
    (!text.is_empty()).then_some(text)
}

fn new_id() -> String {
    rand::rng().sample_iter(Alphanumeric).take(ID_LENGTH).map(char::from).collect()
}

fn uri(media: &Row) -> OwnedMxcUri {
    format!("mxc://{}/{}", media.server_name, media.media_id).into()
}

fn unavailable() -> Error {
    Error::not_found("Media not found")
}

fn not_yet() -> Error {
    Error::told(http::StatusCode::GATEWAY_TIMEOUT, "M_NOT_YET_UPLOADED", "Content has not yet been uploaded")
}

fn overwrite() -> Error {
    Error::told(http::StatusCode::CONFLICT, "M_CANNOT_OVERWRITE_MEDIA", "Media already uploaded")
}

/// Who waits for announced uploads, by media id.
#[derive(Default)]
struct Arrivals {
    waiting: Mutex<HashMap<String, (usize, Arc<Notify>)>>,
}

/// Requests that may wait at once; those beyond are told at once that it is not there yet.
const MAX_WAITING: usize = 1024;

impl Arrivals {
    /// Begins to listen; what comes from now on is heard. `None` if too many listen already.
    fn listen(self: &Arc<Self>, media_id: &str) -> Option<Arrival> {
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

    fn tell(&self, media_id: &str) {
        if let Some((_, notify)) = self.waiting.lock().get(media_id) {
            notify.notify_waiters();
        }
    }
}

/// One who listens.
struct Arrival {
    of: Arc<Arrivals>,
    media_id: String,
    heard: std::pin::Pin<Box<tokio::sync::futures::OwnedNotified>>,
}

impl Arrival {
    async fn came(mut self) {
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
