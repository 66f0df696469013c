//! Uploads: at once, or for an id that was given before.
//!
//! A body is refused as early as it can be: by its length, by its first byte too many, and at last by the limits as
//! they are when its row is written. From its last byte on, an upload is finished even if the uploader hangs up.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use hearth_base::{Error, Result, requester::Requester};
use hearth_store::{blobs::Draft, log::Tx, media::Media as Row};
use rand::{Rng as _, distr::Alphanumeric};
use ruma::OwnedMxcUri;

use super::{Announced, Media, Settings, UploadHead, UploadLimit, parse_id};

/// Letters of a media id: 143 bits, not to be guessed.
const ID_LENGTH: usize = 24;
/// Letters of a file name or media type that are kept.
const MAX_NAME: usize = 1024;

impl Media {
    /// Takes a file and gives its id. Once answered, the file is durable.
    ///
    /// # Errors
    /// 403 for guests, suspended users and over a limit; 413 if it is too large; the body's own.
    pub async fn upload<B>(&self, requester: &Requester, head: UploadHead, body: B) -> Result<OwnedMxcUri>
    where
        B: Stream<Item = Result<Bytes>> + Send,
    {
        self.admit(requester, head.length).await?;
        let draft = self.receive(head.length, body).await?;
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
        let draft = self.receive(head.length, body).await?;
        let media = self.describe(requester, media_id.to_owned(), head);
        self.settle(draft, media, true).await
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

    /// Takes a body in, which may have been said to be so many bytes.
    async fn receive(&self, length: Option<u64>, body: impl Stream<Item = Result<Bytes>> + Send) -> Result<Draft> {
        let mut draft = self.blobs()?.draft();
        draft.expect(length.unwrap_or(0));
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

    fn too_large(&self) -> Error {
        Error::too_large(format!("Cannot upload files larger than {} bytes", self.settings.max_upload_size))
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

/// What is kept of a text that a stranger sends: no control characters, and not all too much.
pub(super) fn printable(text: String) -> Option<String> {
    let text: String = text.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
    (!text.is_empty()).then_some(text)
}

pub(super) fn new_id() -> String {
    rand::rng().sample_iter(Alphanumeric).take(ID_LENGTH).map(char::from).collect()
}

fn uri(media: &Row) -> OwnedMxcUri {
    format!("mxc://{}/{}", media.server_name, media.media_id).into()
}

fn overwrite() -> Error {
    Error::told(http::StatusCode::CONFLICT, "M_CANNOT_OVERWRITE_MEDIA", "Media already uploaded")
}
