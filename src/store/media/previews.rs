//! Previews of links as they were answered, and which media of ours are images of such.
//!
//! The service remembers what it has just made; these rows serve a server that was started anew, and those who ask for a
//! preview as it was at an earlier time.

use hearth_base::Result;

use crate::{Store, execute, fetch_all, fetch_optional, log::Tx};

/// A preview.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Preview {
    /// When the page was fetched, ms.
    pub fetched_ms: i64,
    /// Until when it is as good as a new one, ms.
    pub expires_ms: i64,
    /// What clients are answered.
    pub json: String,
}

const PREVIEW_AT: &str = "SELECT fetched_ms, expires_ms, json FROM url_previews \
    WHERE key = $1 AND fetched_ms <= $2 AND expires_ms > $2 ORDER BY fetched_ms DESC LIMIT 1";
const PREVIEW_PUT: &str = "INSERT INTO url_previews (key, fetched_ms, expires_ms, json) VALUES ($1, $2, $3, $4) \
    ON CONFLICT (key, fetched_ms) DO UPDATE SET expires_ms = excluded.expires_ms, json = excluded.json";
const PREVIEWS_EXPIRED: &str = "SELECT key, fetched_ms FROM url_previews WHERE expires_ms <= $1 LIMIT $2";
const PREVIEW_DELETE: &str = "DELETE FROM url_previews WHERE key = $1 AND fetched_ms = $2";
const IMAGE_PUT: &str = "INSERT INTO preview_media (media_id, size, expires_ms) VALUES ($1, $2, $3)";
const IMAGES_EXPIRED: &str =
    "SELECT media_id, size FROM preview_media WHERE expires_ms <= $1 ORDER BY expires_ms LIMIT $2";
const IMAGE_BYTES: &str = "SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM preview_media";
const IMAGE_DELETE: &str = "DELETE FROM preview_media WHERE media_id = $1";

impl Store {
    /// The preview of an address that was good at that time.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn preview(&self, url: &str, at_ms: i64) -> Result<Option<Preview>> {
        fetch_optional!(&mut self.read().await?, Preview, PREVIEW_AT, key(url), at_ms)
    }

    /// Keeps a preview.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn keep_preview(&self, url: &str, preview: Preview) -> Result<()> {
        let key = key(url);
        self.write(move |tx| {
            Box::pin(async move {
                execute!(tx, PREVIEW_PUT, &key, preview.fetched_ms, preview.expires_ms, &preview.json).map(drop)
            })
        })
        .await
    }

    /// Forgets previews whose time is over, so many at most; gives how many.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn expire_previews(&self, now_ms: i64, limit: i64) -> Result<usize> {
        self.write(move |tx| {
            Box::pin(async move {
                let rows: Vec<(String, i64)> = fetch_all!(tx, (String, i64), PREVIEWS_EXPIRED, now_ms, limit)?;
                for (key, fetched_ms) in &rows {
                    execute!(tx, PREVIEW_DELETE, key, *fetched_ms)?;
                }
                Ok(rows.len())
            })
        })
        .await
    }

    /// Images of previews whose time is over by then, the oldest first, so many at most; and their bytes.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn expired_preview_images(&self, by_ms: i64, limit: i64) -> Result<Vec<(String, u64)>> {
        let rows: Vec<(String, i64)> =
            fetch_all!(&mut self.read().await?, (String, i64), IMAGES_EXPIRED, by_ms, limit)?;
        Ok(rows.into_iter().map(|(id, size)| (id, u64::try_from(size).unwrap_or(0))).collect())
    }

    /// Bytes of all images of previews.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn preview_image_bytes(&self) -> Result<u64> {
        let row: Option<(i64,)> = fetch_optional!(&mut self.read().await?, (i64,), IMAGE_BYTES)?;
        Ok(row.map_or(0, |(n,)| u64::try_from(n).unwrap_or(0)))
    }

    /// Forgets that these media were images of previews, after they are gone.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn forget_preview_images(&self, media_ids: Vec<String>) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                for id in &media_ids {
                    execute!(tx, IMAGE_DELETE, id)?;
                }
                Ok(())
            })
        })
        .await
    }
}

impl Tx {
    /// Notes that a medium of ours is the image of a preview, and until when it is kept.
    ///
    /// # Errors
    /// If the database fails, or it is noted already.
    pub async fn note_preview_image(&mut self, media_id: &str, size: u64, expires_ms: i64) -> Result<()> {
        execute!(self, IMAGE_PUT, media_id, super::bytes(size), expires_ms).map(drop)
    }
}

/// What an address is found by: of one size, whatever a stranger sends.
fn key(url: &str) -> String {
    blake3::hash(url.as_bytes()).to_string()
}
