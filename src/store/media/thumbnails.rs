//! Thumbnails of media: made once for each box they are to fit into, and gone with their medium.

use hearth_base::Result;
use ruma::{OwnedServerName, ServerName};

use super::{MEDIA_GET, Row, bytes};
use crate::{Store, blobs::BlobName, execute, fetch_optional};

/// Which thumbnail of a medium.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ThumbnailKey {
    /// Of this server's
    pub server_name: OwnedServerName,
    /// medium.
    pub media_id: String,
    /// The box it is made for, pixels.
    pub width: u32,
    /// The box it is made for, pixels.
    pub height: u32,
    /// `crop` or `scale`.
    pub method: &'static str,
    /// Whether it may move.
    pub animated: bool,
}

/// A thumbnail that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thumbnail {
    /// Its bytes; the medium's own if that is small enough.
    pub blob: BlobName,
    /// What they are.
    pub content_type: String,
    /// How many.
    pub size: u64,
}

const THUMBNAIL_GET: &str = "SELECT blob, content_type, size FROM thumbnails \
    WHERE server_name = $1 AND media_id = $2 AND width = $3 AND height = $4 AND method = $5 AND animated = $6";
const THUMBNAIL_COUNT: &str = "SELECT COUNT(*) FROM thumbnails WHERE server_name = $1 AND media_id = $2";
const THUMBNAIL_INSERT: &str = "INSERT INTO thumbnails (server_name, media_id, width, height, method, animated, blob, content_type, size) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING";

impl Store {
    /// A thumbnail made earlier.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn thumbnail(&self, key: &ThumbnailKey) -> Result<Option<Thumbnail>> {
        let row: Option<(String, String, i64)> = fetch_optional!(
            &mut self.read().await?,
            (String, String, i64),
            THUMBNAIL_GET,
            key.server_name.as_str(),
            &key.media_id,
            i64::from(key.width),
            i64::from(key.height),
            key.method,
            key.animated
        )?;
        row.map(|(blob, content_type, size)| {
            Ok(Thumbnail { blob: blob.parse()?, content_type, size: u64::try_from(size).unwrap_or(0) })
        })
        .transpose()
    }

    /// How many thumbnails of a medium are kept.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn count_thumbnails(&self, server_name: &ServerName, media_id: &str) -> Result<u64> {
        let row: Option<(i64,)> =
            fetch_optional!(&mut self.read().await?, (i64,), THUMBNAIL_COUNT, server_name.as_str(), media_id)?;
        Ok(row.map_or(0, |(n,)| u64::try_from(n).unwrap_or(0)))
    }

    /// Keeps a thumbnail; gives `false` if its medium is gone.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn insert_thumbnail(&self, key: ThumbnailKey, thumbnail: Thumbnail) -> Result<bool> {
        self.write(move |tx| {
            Box::pin(async move {
                let of: Option<Row> = fetch_optional!(tx, Row, MEDIA_GET, key.server_name.as_str(), &key.media_id)?;
                if of.is_none() {
                    return Ok(false);
                }
                execute!(
                    tx,
                    THUMBNAIL_INSERT,
                    key.server_name.as_str(),
                    &key.media_id,
                    i64::from(key.width),
                    i64::from(key.height),
                    key.method,
                    key.animated,
                    thumbnail.blob.to_string(),
                    &thumbnail.content_type,
                    bytes(thumbnail.size)
                )?;
                Ok(true)
            })
        })
        .await
    }
}
