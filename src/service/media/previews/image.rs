//! Images of previews: kept as media of ours, for as long as previews are likely to be shown.
//!
//! What an image is is told by its bytes; only where they say nothing (drawings) the server is believed. Its size is read
//! from its head, no pixel is decoded.

use std::{
    io::{BufRead, BufReader, Seek},
    sync::atomic::Ordering,
};

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use hearth_base::{Error, Result};
use hearth_remote::{Failure, preview::Page};
use hearth_store::{
    blobs::{BlobName, Kept},
    media::Media as Row,
};
use image::{ImageDecoder as _, ImageReader, Limits, metadata::Orientation};
use ruma::http_headers::ContentDisposition;
use serde_json::Value;
use tokio::time::Instant;

use super::{Maker, Trouble, essence, graph::Graph, maker::within};
use crate::media::uploads::{new_id, printable};

/// Memory for the head of an image.
const HEAD: u64 = 16 << 20;
/// Letters of a subtype (RFC 6838, 4.2).
const MAX_TYPE: usize = 127;
/// Base64 as it stands in pages.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// An image that is here.
#[derive(Debug)]
pub(super) struct Image {
    id: String,
    content_type: String,
    bytes: u64,
    pixels: Option<(u32, u32)>,
    /// What its server calls it.
    pub(super) name: Option<String>,
}

impl Image {
    /// Says of it what the specification and OpenGraph do.
    pub(super) fn describe(&self, maker: &Maker, graph: &mut Graph) {
        let mut put = |name: &str, value: Value| _ = graph.properties.insert(name.to_owned(), value);
        put("og:image", format!("mxc://{}/{}", maker.server_name, self.id).into());
        put("og:image:type", self.content_type.clone().into());
        put("matrix:image:size", self.bytes.into());
        if let Some((width, height)) = self.pixels {
            put("og:image:width", width.into());
            put("og:image:height", height.into());
        }
    }
}

impl Maker {
    /// Takes an image that is on its way, if it comes in time. What has come is kept without looking at the clock: a write
    /// that is dropped half-way may leave a row whose bytes are gone.
    pub(super) async fn take(&self, mut page: Page, deadline: Instant) -> Result<Image, Trouble> {
        let said = page.content_type.as_deref().and_then(image_type);
        let said = said.ok_or_else(|| Failure::Nonsense("it is no image".to_owned()))?;
        let disposition = page.disposition.as_deref().and_then(|d| d.parse::<ContentDisposition>().ok());
        let name = disposition.and_then(|d| d.filename).and_then(printable);
        let mut draft = self.blobs()?.draft();
        while let Some(bytes) = within(deadline, page.body.next()).await? {
            draft.push(bytes).await?;
        }
        self.keep(draft.finish().await?, said, name).await
    }

    /// Takes an image that stands in its address (RFC 2397).
    pub(super) async fn take_written_out(&self, url: &str) -> Result<Image, Trouble> {
        let nonsense = || Failure::Nonsense("it is no image".to_owned());
        let (said, bytes) = written_out(url).ok_or_else(nonsense)?;
        let kept = self.blobs()?.keep(bytes).await?;
        self.keep(kept, said, None).await
    }

    async fn keep(&self, kept: Kept, said: String, name: Option<String>) -> Result<Image, Trouble> {
        let blob = kept.name;
        let done = self.write(&kept, said, name).await;
        drop(kept);
        if done.is_err() {
            self.blobs()?.remove_unless(blob, || self.store.blob_is_referred(blob)).await?;
        }
        done
    }

    async fn write(&self, kept: &Kept, said: String, name: Option<String>) -> Result<Image, Trouble> {
        if kept.size == 0 {
            return Err(Failure::Nonsense("it is empty".to_owned()).into());
        }
        let look = self.examine(kept.name).await?;
        let content_type = look.content_type.map_or(said, str::to_owned);
        let now = self.now();
        let row = Row {
            server_name: self.server_name.clone(),
            media_id: new_id(),
            // Whoever saw the link first has not uploaded it.
            uploader: None,
            blob: Some(kept.name),
            content_type: Some(content_type.clone()),
            file_name: name.clone(),
            size: kept.size,
            created_ms: now,
            accessed_ms: now,
            quarantined_by: None,
            protected: false,
            authenticated: self.authenticated,
            expires_ms: None,
        };
        let id = row.media_id.clone();
        let until = now.saturating_add(super::ms(super::IMAGE_LIFETIME));
        self.store
            .write(move |tx| {
                Box::pin(async move {
                    tx.insert_media(&row).await?;
                    tx.note_preview_image(&row.media_id, row.size, until).await
                })
            })
            .await?;
        self.images.fetch_add(kept.size, Ordering::Relaxed);
        Ok(Image { id, content_type, bytes: kept.size, pixels: look.pixels, name })
    }

    async fn examine(&self, blob: BlobName) -> Result<Look> {
        let blobs = self.blobs()?.clone();
        let work = tokio::task::spawn_blocking(move || {
            let file = blobs.open_blocking(blob).map_err(|e| Error::fault("media folder", e))?;
            Ok(look(BufReader::new(file)))
        });
        // A decoder that panics has seen no image.
        work.await.unwrap_or_else(|_| Ok(Look::default()))
    }
}

/// What the bytes of an image say.
#[derive(Debug, Default, PartialEq)]
struct Look {
    content_type: Option<&'static str>,
    /// As it is shown.
    pixels: Option<(u32, u32)>,
}

fn look<R: BufRead + Seek>(source: R) -> Look {
    let Ok(mut reader) = ImageReader::new(source).with_guessed_format() else { return Look::default() };
    let mut limits = Limits::default();
    limits.max_alloc = Some(HEAD);
    reader.limits(limits);
    let content_type = reader.format().map(|f| f.to_mime_type());
    let pixels = reader.into_decoder().ok().map(|mut decoder| {
        use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
        let (width, height) = decoder.dimensions();
        match decoder.orientation() {
            Ok(Rotate90 | Rotate90FlipH | Rotate270 | Rotate270FlipH) => (height, width),
            _ => (width, height),
        }
    });
    Look { content_type, pixels: pixels.filter(|(width, height)| *width > 0 && *height > 0) }
}

/// Type and bytes of an image in a `data:` address.
fn written_out(url: &str) -> Option<(String, Bytes)> {
    let (head, data) = url.get(5..)?.split_once(',')?;
    let said = image_type(head)?;
    let is_base64 = head.rsplit(';').next().is_some_and(|last| last.trim().eq_ignore_ascii_case("base64"));
    let mut bytes: Vec<u8> = percent_encoding::percent_decode_str(data).collect();
    if is_base64 {
        bytes.retain(|b| !b.is_ascii_whitespace());
        bytes = BASE64.decode(bytes).ok()?;
    }
    Some((said, bytes.into()))
}

/// The type of an image, as its server says it: in the letters that types have (RFC 6838), and no more of them.
fn image_type(content_type: &str) -> Option<String> {
    let said = essence(content_type);
    let fits = |name: &str| {
        (1..=MAX_TYPE).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
    };
    said.strip_prefix("image/").is_some_and(fits).then_some(said)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Cursor;

    use image::{DynamicImage, ImageFormat};

    use super::*;

    #[test]
    fn an_image_says_what_it_is() {
        for (format, content_type) in [
            (ImageFormat::Png, "image/png"),
            (ImageFormat::Jpeg, "image/jpeg"),
            (ImageFormat::Gif, "image/gif"),
            (ImageFormat::WebP, "image/webp"),
        ] {
            let mut bytes = Cursor::new(Vec::new());
            DynamicImage::new_rgb8(12, 34).write_to(&mut bytes, format).unwrap();
            let whole = look(Cursor::new(bytes.get_ref().as_slice()));
            assert_eq!(whole, Look { content_type: Some(content_type), pixels: Some((12, 34)) });
            let cut = look(Cursor::new(&bytes.get_ref()[..8]));
            assert_eq!((cut.pixels, cut.content_type.is_none_or(|t| t == content_type)), (None, true));
        }
        assert_eq!(look(Cursor::new(b"<svg/>")), Look::default());
        // A head that claims to be larger than anything.
        let mut huge = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\x7f\xff\xff\xff\x7f\xff\xff\xff\x08\x06\0\0\0".to_vec();
        huge.extend([0; 64]);
        let _ = look(Cursor::new(huge));
    }

    #[test]
    fn an_image_in_its_address() {
        let of = |url: &str| written_out(url).map(|(said, bytes)| (said, bytes.to_vec()));
        let gif = || Some(("image/gif".to_owned(), b"GIF89a".to_vec()));
        assert_eq!(of("data:image/gif;base64,R0lGODlh"), gif());
        assert_eq!(of("data:IMAGE/GIF;a=b;base64, R0lG\nODlh"), gif());
        assert_eq!(of("data:image/gif,GIF89a"), gif());
        assert_eq!(of("data:image/gif,%47IF89a"), gif());
        assert_eq!(of("data:image/png;base64,aQ").unwrap().1, b"i");
        for none in ["data:", "data:text/html,x", "data:image/gif", "data:image/gif;base64,!!", "data:,", "da", "data"]
        {
            assert_eq!(of(none), None, "{none}");
        }
    }
}
