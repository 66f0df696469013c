//! Media: what an `mxc://` id stands for. The bytes are in `blobs.rs`.
//!
//! A row without a blob is announced and not uploaded yet (spec: `POST /media/v1/create`). Rows with one never change
//! but for quarantine, protection and the time of last access, so they are cached, and forgotten here when they change.

use std::{collections::HashSet, sync::Arc};

use hearth_base::{Error, Result, cache::Cache, ids::UserNid};
use ruma::{OwnedServerName, ServerName};

use crate::{Store, blobs::BlobName, db::Texts, execute, fetch_all, fetch_optional, later, log::Tx, sql};

pub mod previews;
mod thumbnails;

pub use thumbnails::{Thumbnail, ThumbnailKey};

/// What an `mxc://` id stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Media {
    /// The server it was uploaded to.
    pub server_name: OwnedServerName,
    /// Its id there.
    pub media_id: String,
    /// Who uploaded it, if one of ours.
    pub uploader: Option<UserNid>,
    /// The bytes; `None` while announced only.
    pub blob: Option<BlobName>,
    /// As the uploader said.
    pub content_type: Option<String>,
    /// As the uploader said.
    pub file_name: Option<String>,
    /// Bytes.
    pub size: u64,
    /// When it was uploaded here, or announced as long as it is not, ms.
    pub created_ms: i64,
    /// When it was last asked for, ms; late by up to the pause between two sweeps.
    pub accessed_ms: i64,
    /// The moderator who withdrew it.
    pub quarantined_by: Option<String>,
    /// Quarantine of all media of a user or room passes it by.
    pub protected: bool,
    /// Only given to those who authenticate.
    pub authenticated: bool,
    /// Until when an announced upload may come, ms.
    pub expires_ms: Option<i64>,
}

#[derive(sqlx::FromRow)]
struct Row {
    server_name: String,
    media_id: String,
    user_nid: Option<i64>,
    blob: Option<String>,
    content_type: Option<String>,
    file_name: Option<String>,
    size: i64,
    created_ms: i64,
    accessed_ms: i64,
    quarantined_by: Option<String>,
    protected: bool,
    authenticated: bool,
    expires_ms: Option<i64>,
}

impl TryFrom<Row> for Media {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            server_name: row.server_name.try_into().map_err(|e: ruma::IdParseError| Error::fault("media table", e))?,
            media_id: row.media_id,
            uploader: row.user_nid.map(UserNid),
            blob: row.blob.map(|name| name.parse()).transpose()?,
            content_type: row.content_type,
            file_name: row.file_name,
            size: u64::try_from(row.size).unwrap_or(0),
            created_ms: row.created_ms,
            accessed_ms: row.accessed_ms,
            quarantined_by: row.quarantined_by,
            protected: row.protected,
            authenticated: row.authenticated,
            expires_ms: row.expires_ms,
        })
    }
}

/// Blobs asked about at once.
const BLOBS: usize = 500;
/// Media rows remembered.
const CACHED: u64 = 5_000;

/// The rows asked for lately, only those that have a blob.
pub(crate) struct MediaCache(Cache<(String, String), Arc<Media>>);

impl Default for MediaCache {
    fn default() -> Self {
        Self(Cache::new(CACHED))
    }
}

const MEDIA_GET: &str = "SELECT server_name, media_id, user_nid, blob, content_type, file_name, size, created_ms, accessed_ms, quarantined_by, protected, authenticated, expires_ms \
    FROM media WHERE server_name = $1 AND media_id = $2";
const MEDIA_INSERT: &str = "INSERT INTO media (server_name, media_id, user_nid, blob, content_type, file_name, size, created_ms, accessed_ms, quarantined_by, protected, authenticated, expires_ms) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";
const MEDIA_COMPLETE: &str = "UPDATE media SET blob = $3, content_type = $4, file_name = $5, size = $6, created_ms = $7, accessed_ms = $7, authenticated = $8, expires_ms = NULL \
    WHERE server_name = $1 AND media_id = $2 AND blob IS NULL";
const MEDIA_BYTES_SINCE: &str = "SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM media WHERE user_nid = $1 AND created_ms >= $2 AND blob IS NOT NULL";
const MEDIA_ANNOUNCED: &str = "SELECT COUNT(*) FROM media WHERE user_nid = $1 AND blob IS NULL AND expires_ms > $2";
const MEDIA_QUARANTINE: &str = "UPDATE media SET quarantined_by = $3 WHERE server_name = $1 AND media_id = $2 AND (NOT protected OR CAST($3 AS TEXT) IS NULL)";
const MEDIA_PROTECT: &str = "UPDATE media SET protected = $3 WHERE server_name = $1 AND media_id = $2";
const MEDIA_TOUCH: &str =
    "UPDATE media SET accessed_ms = $3 WHERE server_name = $1 AND media_id = $2 AND accessed_ms < $3";
const MEDIA_DELETE: &str = "DELETE FROM media WHERE server_name = $1 AND media_id = $2 RETURNING blob";
const MEDIA_EXPIRE: &str = "DELETE FROM media WHERE blob IS NULL AND expires_ms <= $1";
const MEDIA_UNUSED: &str = "SELECT server_name, media_id FROM media \
    WHERE accessed_ms < $1 AND (server_name = $2) = $3 AND blob IS NOT NULL AND NOT protected AND quarantined_by IS NULL \
    ORDER BY accessed_ms LIMIT $4";
const BLOB_REFERRED: &str =
    "SELECT blob FROM media WHERE blob = $1 UNION ALL SELECT blob FROM thumbnails WHERE blob = $1 LIMIT 1";
const THUMBNAILS_DELETE: &str = "DELETE FROM thumbnails WHERE server_name = $1 AND media_id = $2 RETURNING blob";

impl Store {
    /// What an id stands for.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn media(&self, server_name: &ServerName, media_id: &str) -> Result<Option<Arc<Media>>> {
        let cache = &self.inner.media.0;
        let key = (server_name.to_string(), media_id.to_owned());
        if let Some(media) = cache.get(&key) {
            return Ok(Some(media));
        }
        let ticket = cache.ticket(&key);
        let row: Option<Row> =
            fetch_optional!(&mut self.read().await?, Row, MEDIA_GET, server_name.as_str(), media_id)?;
        let Some(media) = row.map(Media::try_from).transpose()?.map(Arc::new) else { return Ok(None) };
        if media.blob.is_some() {
            cache.fill(key, media.clone(), ticket);
        }
        Ok(Some(media))
    }

    /// Bytes that a user has uploaded since then and that are still there.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn media_bytes_since(&self, user: UserNid, since_ms: i64) -> Result<u64> {
        let row: Option<(i64,)> =
            fetch_optional!(&mut self.read().await?, (i64,), MEDIA_BYTES_SINCE, user.0, since_ms)?;
        Ok(row.map_or(0, |(n,)| u64::try_from(n).unwrap_or(0)))
    }

    /// Withdraws a medium in the name of a moderator, or gives it back (`None`). Gives whether there was one to
    /// withdraw: not if it is protected.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn quarantine_media(&self, server_name: &ServerName, media_id: &str, by: Option<String>) -> Result<bool> {
        let (server, id) = (server_name.to_string(), media_id.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                let done = execute!(tx, MEDIA_QUARANTINE, &server, &id, by)?;
                tx.forget_media(server, id);
                Ok(done > 0)
            })
        })
        .await
    }

    /// Protects a medium from quarantine, or no longer. Gives whether there is one.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn protect_media(&self, server_name: &ServerName, media_id: &str, protected: bool) -> Result<bool> {
        let (server, id) = (server_name.to_string(), media_id.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                let done = execute!(tx, MEDIA_PROTECT, &server, &id, protected)?;
                tx.forget_media(server, id);
                Ok(done > 0)
            })
        })
        .await
    }

    /// Deletes a medium and its thumbnails. Gives the blobs they referred to, for
    /// [`Blobs::remove_unless`](crate::blobs::Blobs::remove_unless); `None` if there is no such medium.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn delete_media(&self, server_name: &ServerName, media_id: &str) -> Result<Option<Vec<BlobName>>> {
        let (server, id) = (server_name.to_string(), media_id.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                let row: Option<(Option<String>,)> =
                    fetch_optional!(tx, (Option<String>,), MEDIA_DELETE, &server, &id)?;
                let Some((blob,)) = row else { return Ok(None) };
                let thumbnails: Vec<(String,)> = fetch_all!(tx, (String,), THUMBNAILS_DELETE, &server, &id)?;
                let mut blobs = blob
                    .into_iter()
                    .chain(thumbnails.into_iter().map(|(blob,)| blob))
                    .map(|name| name.parse())
                    .collect::<Result<Vec<BlobName>>>()?;
                blobs.sort_unstable();
                blobs.dedup();
                tx.forget_media(server, id);
                Ok(Some(blobs))
            })
        })
        .await
    }

    /// Whether any row refers to a blob.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn blob_is_referred(&self, name: BlobName) -> Result<bool> {
        let row: Option<(String,)> =
            fetch_optional!(&mut self.read().await?, (String,), BLOB_REFERRED, name.to_string())?;
        Ok(row.is_some())
    }

    /// Removes bytes to which no row refers and that were there before that time, ms: what a crash left between a blob
    /// and its row. One of the 256 folders at a time; gives how many were removed.
    ///
    /// # Errors
    /// If the database or the disk fails.
    pub async fn sweep_blobs(&self, folder: u8, before_ms: i64) -> Result<u64> {
        let Some(blobs) = self.blobs() else { return Ok(0) };
        let referred = sql!(
            "SELECT blob FROM media WHERE blob " [in 1] " UNION SELECT blob FROM thumbnails WHERE blob " [in 1]
        );
        let mut gone = 0;
        for names in blobs.older(folder, before_ms).await?.chunks(BLOBS) {
            let texts = Texts(names.iter().map(ToString::to_string).collect());
            let kept: Vec<(String,)> = fetch_all!(&mut self.read().await?, (String,), referred, texts)?;
            let kept: HashSet<BlobName> = kept.into_iter().map(|(name,)| name.parse()).collect::<Result<_>>()?;
            for name in names.iter().filter(|name| !kept.contains(name)) {
                gone += u64::from(blobs.remove_unless(*name, || self.blob_is_referred(*name)).await?);
            }
        }
        Ok(gone)
    }

    /// Notes when media were last asked for.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn touch_media(&self, media: Vec<(OwnedServerName, String)>, now_ms: i64) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                for (server, id) in &media {
                    execute!(tx, MEDIA_TOUCH, server.as_str(), id, now_ms)?;
                }
                Ok(())
            })
        })
        .await
    }

    /// Forgets uploads that were announced and did not come in time. Gives how many.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn expire_media(&self, now_ms: i64) -> Result<u64> {
        self.write(move |tx| Box::pin(async move { execute!(tx, MEDIA_EXPIRE, now_ms) })).await
    }

    /// Media that nobody asked for since then, longest unused first: our own, or those of other servers. Protected
    /// and quarantined ones are not among them.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn unused_media(
        &self,
        own: &ServerName,
        ours: bool,
        before_ms: i64,
        limit: i64,
    ) -> Result<Vec<(OwnedServerName, String)>> {
        let rows: Vec<(String, String)> =
            fetch_all!(&mut self.read().await?, (String, String), MEDIA_UNUSED, before_ms, own.as_str(), ours, limit)?;
        rows.into_iter()
            .map(|(server, id)| {
                let server = server.try_into().map_err(|e: ruma::IdParseError| Error::fault("media table", e))?;
                Ok((server, id))
            })
            .collect()
    }
}

impl Tx {
    fn forget_media(&mut self, server_name: String, media_id: String) {
        self.after_commit(move |store| store.inner.media.0.invalidate(&(server_name, media_id)));
    }

    /// Bytes that a user has uploaded since then, those written by this transaction included.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn media_bytes_since(&mut self, user: UserNid, since_ms: i64) -> Result<u64> {
        let row: Option<(i64,)> = fetch_optional!(self, (i64,), MEDIA_BYTES_SINCE, user.0, since_ms)?;
        Ok(row.map_or(0, |(n,)| u64::try_from(n).unwrap_or(0)))
    }

    /// Uploads that a user has announced, that have not come and still may.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn count_announced_media(&mut self, user: UserNid, now_ms: i64) -> Result<u64> {
        let row: Option<(i64,)> = fetch_optional!(self, (i64,), MEDIA_ANNOUNCED, user.0, now_ms)?;
        Ok(row.map_or(0, |(n,)| u64::try_from(n).unwrap_or(0)))
    }

    /// Adds a medium.
    ///
    /// # Errors
    /// If the database fails, or the id is taken.
    pub async fn insert_media(&mut self, media: &Media) -> Result<()> {
        later!(
            self,
            MEDIA_INSERT,
            media.server_name.as_str(),
            &media.media_id,
            media.uploader.map(|u| u.0),
            media.blob.map(|b| b.to_string()),
            &media.content_type,
            &media.file_name,
            bytes(media.size),
            media.created_ms,
            media.accessed_ms,
            &media.quarantined_by,
            media.protected,
            media.authenticated,
            media.expires_ms
        )
    }

    /// Gives an announced medium its content; `false` if it has some already or is not announced.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn complete_media(&mut self, media: &Media) -> Result<bool> {
        let done = execute!(
            self,
            MEDIA_COMPLETE,
            media.server_name.as_str(),
            &media.media_id,
            media.blob.map(|b| b.to_string()),
            &media.content_type,
            &media.file_name,
            bytes(media.size),
            media.created_ms,
            media.authenticated
        )?;
        Ok(done > 0)
    }
}

fn bytes(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
