//! Thumbnails: found, or made on the blocking pool, each once.
//!
//! An image comes from a stranger: its format is told by its bytes and not by what was said of it, its pixels are
//! counted before any is decoded, decoders have a budget of memory, and few images are worked on at once. What came
//! out is kept as a blob; that an image cannot be scaled is remembered, too.

use std::{
    io::{BufRead, BufReader, Cursor, Seek},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hearth_base::{Error, Result};
use hearth_store::{
    blobs::BlobName,
    media::{Media as Row, Thumbnail, ThumbnailKey},
};
use image::{
    AnimationDecoder, DynamicImage, Frame, Frames, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits,
    codecs::{
        gif::{GifDecoder, GifEncoder, Repeat},
        jpeg::{JpegDecoder, JpegEncoder},
        png::PngDecoder,
        webp::WebPDecoder,
    },
    error::LimitErrorKind,
    imageops::FilterType,
    metadata::Orientation,
};

use super::{
    Media,
    sizes::{Fit, Size, Wish, fit},
};

/// Outcomes remembered.
pub(super) const REMEMBERED: u64 = 5_000;
/// Requests that may wait for their turn to scale.
const QUEUE: usize = 64;
/// Thumbnails kept of one medium, before wishes are answered from the list only.
const FEW: u64 = 32;
/// Pictures of an animation, and their pixels as multiples of those of the largest image; beyond, it stands still.
const MAX_FRAMES: usize = 512;
const MAX_MOTION: u64 = 4;
/// Of JPEG.
const QUALITY: u8 = 85;

/// What became of a wish.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Made(Arc<Thumbnail>),
    /// No image, or none that we read.
    Unreadable,
    /// Too many pixels.
    TooLarge,
}

impl Media {
    /// The thumbnail for a wish, made if it was not before.
    pub(super) async fn thumbnail_of(&self, row: &Row, blob: BlobName, wish: Wish) -> Result<Thumbnail> {
        let mut key = key(row, self.settings.sizes.choose(wish.size, false), wish.animated);
        if !self.is_known(&key).await? && self.store.count_thumbnails(&row.server_name, &row.media_id).await? >= FEW {
            key = self::key(row, self.settings.sizes.choose(wish.size, true), wish.animated);
        }
        let size = Size { width: key.width, height: key.height, method: method(&key) };
        let outcome = self
            .thumbnails
            .try_get_with(key.clone(), self.find_or_make(key, row, blob, size))
            .await
            .map_err(|e| shared(&e))?;
        match outcome {
            Outcome::Made(thumbnail) => Ok((*thumbnail).clone()),
            Outcome::Unreadable => Err(Error::unknown("Cannot generate thumbnails for the requested content")),
            Outcome::TooLarge => Err(Error::too_large("Content is too large to thumbnail")),
        }
    }

    async fn is_known(&self, key: &ThumbnailKey) -> Result<bool> {
        Ok(self.thumbnails.contains_key(key) || self.store.thumbnail(key).await?.is_some())
    }

    async fn find_or_make(&self, key: ThumbnailKey, row: &Row, blob: BlobName, size: Size) -> Result<Outcome> {
        if let Some(thumbnail) = self.store.thumbnail(&key).await? {
            return Ok(Outcome::Made(Arc::new(thumbnail)));
        }
        let made = self.make(blob, size, key.animated).await?;
        let (thumbnail, kept) = match made {
            Ok(Made::Original(content_type)) => {
                (Thumbnail { blob, content_type: content_type.to_owned(), size: row.size }, None)
            }
            Ok(Made::Scaled(bytes, content_type)) => {
                let kept = self.blobs()?.keep(bytes.into()).await?;
                (Thumbnail { blob: kept.name, content_type: content_type.to_owned(), size: kept.size }, Some(kept))
            }
            Err(Refused::Unreadable) => return Ok(Outcome::Unreadable),
            Err(Refused::TooLarge) => return Ok(Outcome::TooLarge),
        };
        let there = self.store.insert_thumbnail(key, thumbnail.clone()).await?;
        if let Some(kept) = kept
            && !there
        {
            drop(kept);
            self.remove_blobs(vec![thumbnail.blob]).await?;
        }
        if there { Ok(Outcome::Made(Arc::new(thumbnail))) } else { Err(super::unavailable()) }
    }

    /// Waits for a turn and scales.
    async fn make(&self, blob: BlobName, size: Size, animated: bool) -> Result<Result<Made, Refused>> {
        let queued = Queued::enter(self).ok_or_else(|| Error::limit_exceeded(Duration::from_secs(2)))?;
        let turn = self.scaling.clone().acquire_owned().await.map_err(|e| Error::fault("scaling of images", e))?;
        drop(queued);
        let (blobs, max_pixels) = (self.blobs()?.clone(), self.settings.max_image_pixels);
        let work = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let file = blobs.open_blocking(blob).map_err(|e| Error::fault("media folder", e))?;
            Ok(make(BufReader::with_capacity(64 << 10, file), size, animated, max_pixels))
        });
        match work.await {
            Ok(made) => made,
            Err(e) => {
                // A decoder that panics is a fault of the image as much as of the decoder; once is enough.
                tracing::warn!(blob = %blob, error = %e, "an image could not be scaled");
                Ok(Err(Refused::Unreadable))
            }
        }
    }
}

fn key(row: &Row, size: Size, animated: bool) -> ThumbnailKey {
    ThumbnailKey {
        server_name: row.server_name.clone(),
        media_id: row.media_id.clone(),
        width: size.width,
        height: size.height,
        method: size.method.as_str(),
        animated,
    }
}

fn method(key: &ThumbnailKey) -> super::sizes::Method {
    if key.method == "crop" { super::sizes::Method::Crop } else { super::sizes::Method::Scale }
}

/// The error that several callers get, who waited for the same thing.
fn shared(e: &Error) -> Error {
    match e {
        Error::Told(told) => Error::Told(told.clone()),
        Error::Fault(fault) if fault.retry => Error::unavailable("thumbnail", e.to_string()),
        Error::Fault(_) => Error::fault("thumbnail", e.to_string()),
    }
}

/// A place in the queue for scaling.
struct Queued<'a>(&'a Media);

impl<'a> Queued<'a> {
    fn enter(media: &'a Media) -> Option<Self> {
        let enter = |n: usize| (n < QUEUE).then_some(n + 1);
        media.scaling_queue.fetch_update(Ordering::AcqRel, Ordering::Acquire, enter).ok().map(|_| Self(media))
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.scaling_queue.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What came of an image.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Made {
    /// It is small enough as it is; its media type.
    Original(&'static str),
    /// Bytes and their media type.
    Scaled(Vec<u8>, &'static str),
}

/// Why nothing came of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Unreadable,
    TooLarge,
}

impl From<ImageError> for Refused {
    fn from(e: ImageError) -> Self {
        match e {
            ImageError::Limits(e) if !matches!(e.kind(), LimitErrorKind::Unsupported { .. }) => Self::TooLarge,
            _ => Self::Unreadable,
        }
    }
}

impl From<std::io::Error> for Refused {
    fn from(_: std::io::Error) -> Self {
        Self::Unreadable
    }
}

/// Brings an image to a size.
pub(super) fn make<R: BufRead + Seek>(
    mut source: R,
    size: Size,
    animated: bool,
    max_pixels: u64,
) -> Result<Made, Refused> {
    let format = ImageReader::new(&mut source).with_guessed_format()?.format().ok_or(Refused::Unreadable)?;
    let look = look(&mut source, format, max_pixels)?;
    let Some(fit) = fit(look.width, look.height, look.turned(size)) else {
        if animated || !moves(&mut source, format, max_pixels)? {
            return Ok(Made::Original(format.to_mime_type()));
        }
        // It would move although it must not: its first picture, as large as it is.
        let (width, height) = (look.width, look.height);
        let whole = Fit { x: 0, y: 0, from_width: width, from_height: height, width, height };
        return still(&mut source, format, &look, whole, max_pixels);
    };
    if animated
        && moves(&mut source, format, max_pixels)?
        && let Some(bytes) = moving(&mut source, format, fit, max_pixels)?
    {
        return Ok(Made::Scaled(bytes, "image/gif"));
    }
    still(&mut source, format, &look, fit, max_pixels)
}

/// What is known of an image before it is decoded.
struct Look {
    width: u32,
    height: u32,
    orientation: Orientation,
}

impl Look {
    /// The size wished for, as the image lies on disk: cameras turn the picture by a note beside it.
    fn turned(&self, size: Size) -> Size {
        use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
        match self.orientation {
            Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH => {
                Size { width: size.height, height: size.width, ..size }
            }
            _ => size,
        }
    }
}

fn look<R: BufRead + Seek>(source: &mut R, format: ImageFormat, max_pixels: u64) -> Result<Look, Refused> {
    let mut decoder = decoder(source, format, max_pixels)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width).saturating_mul(u64::from(height)) > max_pixels {
        return Err(Refused::TooLarge);
    }
    if width == 0 || height == 0 {
        return Err(Refused::Unreadable);
    }
    // A broken note is no reason to show nothing.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    Ok(Look { width, height, orientation })
}

/// Memory for a decoder: eight bytes a pixel hold any image we read, and a margin its tables.
fn limits(max_pixels: u64) -> Limits {
    let mut limits = Limits::default();
    limits.max_alloc = Some(max_pixels.saturating_mul(8).saturating_add(16 << 20));
    limits
}

fn decoder<'a, R: BufRead + Seek>(
    source: &'a mut R,
    format: ImageFormat,
    max_pixels: u64,
) -> Result<Box<dyn ImageDecoder + 'a>, Refused> {
    source.rewind()?;
    let limits = limits(max_pixels);
    let mut decoder: Box<dyn ImageDecoder + 'a> = match format {
        ImageFormat::Png => Box::new(PngDecoder::with_limits(source, limits.clone())?),
        ImageFormat::Jpeg => Box::new(JpegDecoder::new(source)?),
        ImageFormat::Gif => Box::new(GifDecoder::new(source)?),
        ImageFormat::WebP => Box::new(WebPDecoder::new(source)?),
        _ => return Err(Refused::Unreadable),
    };
    decoder.set_limits(limits)?;
    Ok(decoder)
}

/// The pictures of an image of a kind that may have several.
fn pictures<'a, R: BufRead + Seek + 'a>(
    source: &'a mut R,
    format: ImageFormat,
    max_pixels: u64,
) -> Result<Option<Frames<'a>>, Refused> {
    source.rewind()?;
    let limits = limits(max_pixels);
    Ok(match format {
        ImageFormat::Png => {
            let decoder = PngDecoder::with_limits(source, limits)?;
            if decoder.is_apng()? { Some(decoder.apng()?.into_frames()) } else { None }
        }
        ImageFormat::Gif => {
            let mut decoder = GifDecoder::new(source)?;
            decoder.set_limits(limits)?;
            Some(decoder.into_frames())
        }
        ImageFormat::WebP => {
            let mut decoder = WebPDecoder::new(source)?;
            decoder.set_limits(limits)?;
            decoder.has_animation().then(|| decoder.into_frames())
        }
        _ => None,
    })
}

/// Whether an image has more than one picture.
fn moves<R: BufRead + Seek>(source: &mut R, format: ImageFormat, max_pixels: u64) -> Result<bool, Refused> {
    Ok(pictures(source, format, max_pixels)?.is_some_and(|p| p.take(2).filter(Result::is_ok).count() == 2))
}

/// The first picture, scaled.
fn still<R: BufRead + Seek>(
    source: &mut R,
    format: ImageFormat,
    look: &Look,
    fit: Fit,
    max_pixels: u64,
) -> Result<Made, Refused> {
    let image = DynamicImage::from_decoder(decoder(source, format, max_pixels)?)?;
    let mut image = shrink(image, fit);
    image.apply_orientation(look.orientation);
    let mut bytes = Vec::new();
    let image = match is_opaque(&image) {
        true => DynamicImage::ImageRgb8(image.into_rgb8()),
        false => DynamicImage::ImageRgba8(image.into_rgba8()),
    };
    // What was a PNG is mostly drawn or written, which JPEG blurs; its thumbnail is one with all servers.
    if image.color().has_alpha() || format == ImageFormat::Png {
        image.write_to(Cursor::new(&mut bytes), ImageFormat::Png)?;
        return Ok(Made::Scaled(bytes, "image/png"));
    }
    image.write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, QUALITY))?;
    Ok(Made::Scaled(bytes, "image/jpeg"))
}

/// All pictures, scaled; `None` if they are too many to be worth it, or broken.
fn moving<R: BufRead + Seek>(
    source: &mut R,
    format: ImageFormat,
    fit: Fit,
    max_pixels: u64,
) -> Result<Option<Vec<u8>>, Refused> {
    let mut bytes = Vec::new();
    let Some(pictures) = pictures(source, format, max_pixels)? else { return Ok(None) };
    let mut encoder = GifEncoder::new_with_speed(&mut bytes, 20);
    encoder.set_repeat(Repeat::Infinite)?;
    let mut budget = max_pixels.saturating_mul(MAX_MOTION);
    for (n, picture) in pictures.enumerate() {
        let Ok(picture) = picture else { return Ok(None) };
        let delay = picture.delay();
        let picture = picture.into_buffer();
        let pixels = u64::from(picture.width()) * u64::from(picture.height());
        if pixels > budget || n >= MAX_FRAMES {
            return Ok(None);
        }
        budget -= pixels;
        let picture = shrink(DynamicImage::ImageRgba8(picture), fit).into_rgba8();
        encoder.encode_frame(Frame::from_parts(picture, 0, 0, delay))?;
    }
    drop(encoder);
    Ok(Some(bytes))
}

/// Cuts and scales. Large images are first brought near their size by plain averaging, which is several times cheaper
/// and is not seen in what a finer filter makes of it.
fn shrink(mut image: DynamicImage, fit: Fit) -> DynamicImage {
    if (fit.from_width, fit.from_height) != (image.width(), image.height()) {
        image = image.crop_imm(fit.x, fit.y, fit.from_width, fit.from_height);
    }
    if (fit.width, fit.height) == (image.width(), image.height()) {
        return image;
    }
    let (near_width, near_height) = (fit.width.saturating_mul(2), fit.height.saturating_mul(2));
    if image.width() / 2 >= near_width && image.height() / 2 >= near_height {
        image = image.thumbnail_exact(near_width, near_height);
    }
    image.resize_exact(fit.width, fit.height, FilterType::CatmullRom)
}

fn is_opaque(image: &DynamicImage) -> bool {
    !image.color().has_alpha() || image.to_rgba8().pixels().all(|p| p.0.get(3).is_none_or(|a| *a == u8::MAX))
}

#[cfg(test)]
mod tests;
