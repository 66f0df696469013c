//! Media: upload, download, thumbnail, configuration (spec: client-server API, "Content repository").
//!
//! Bytes are streamed both ways. The endpoints under `/_matrix/media` are the older ones, open to everybody: they show
//! only what was uploaded before authentication was asked for. How bytes are served is in `serve.rs`.

#![expect(deprecated, reason = "the older endpoints are deprecated in the specification, and served")]

use axum::body::Body;
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt as _};
use hearth_base::{Error, Result};
use hearth_service::media::{
    Access, UploadHead,
    sizes::{Method, Size, Wish},
};
use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::client::{
        authenticated_media::{get_content, get_content_as_filename, get_content_thumbnail, get_media_config},
        media::{self as legacy, create_content, create_content_async, create_mxc_uri},
    },
    media::Method as RumaMethod,
};

use crate::{
    Cx,
    extract::{Client, Guests, Public, Upload},
    limits::Limit,
    respond::{Plain, RawJson},
    routes::Routes,
};

mod preview;
pub(crate) mod serve;
#[cfg(test)]
mod tests;

use serve::{Audience, serve};

/// Its routes.
#[must_use]
pub fn routes() -> Routes {
    Routes::new()
        .also(upload, &["/_matrix/media/v1/upload"])
        .on(create)
        .on(upload_to)
        .on(config)
        .also(legacy_config, &["/_matrix/media/v1/config"])
        .on(download)
        .on(download_as)
        .on(thumbnail)
        .also(legacy_download, &["/_matrix/media/v1/download/{server_name}/{media_id}"])
        .also(legacy_download_as, &["/_matrix/media/v1/download/{server_name}/{media_id}/{filename}"])
        .also(legacy_thumbnail, &["/_matrix/media/v1/thumbnail/{server_name}/{media_id}"])
        .on(preview::preview)
        .also(preview::legacy_preview, &["/_matrix/media/v1/preview_url"])
}

/// The bytes of an upload, as they come.
fn bytes(body: Body) -> impl Stream<Item = Result<Bytes>> + Send {
    body.into_data_stream().map_err(|_| Error::unknown("The body of the request was cut off"))
}

/// Takes a file.
async fn upload(cx: Cx, req: Upload<create_content::v3::Request>) -> Result<create_content::v3::Response> {
    let head = UploadHead { content_type: req.body.content_type, file_name: req.body.filename, length: req.length };
    let uri = cx.media.upload(&req.requester, head, bytes(req.stream)).await?;
    Ok(create_content::v3::Response::new(uri))
}

/// Gives an id for a file that comes later.
async fn create(cx: Cx, req: Client<create_mxc_uri::v1::Request>) -> Result<create_mxc_uri::v1::Response> {
    cx.limits().user(Limit::MediaCreate, &req.requester)?;
    let announced = cx.media.create(&req.requester).await?;
    let mut response = create_mxc_uri::v1::Response::new(announced.uri);
    response.unused_expires_at = UInt::new(announced.expires_ms).map(MilliSecondsSinceUnixEpoch);
    Ok(response)
}

/// Takes the file for such an id.
async fn upload_to(cx: Cx, req: Upload<create_content_async::v3::Request>) -> Result<RawJson> {
    let head = UploadHead { content_type: req.body.content_type, file_name: req.body.filename, length: req.length };
    let (server_name, media_id) = (req.body.server_name, req.body.media_id);
    cx.media.upload_to(&req.requester, server_name.as_str(), &media_id, head, bytes(req.stream)).await?;
    // Ruma's answer cannot be made outside of it.
    Ok(RawJson(Bytes::from_static(b"{}")))
}

/// How large a file may be.
async fn config(cx: Cx, _: Client<get_media_config::v1::Request, Guests>) -> Result<get_media_config::v1::Response> {
    Ok(get_media_config::v1::Response::new(max_upload_size(&cx)))
}

async fn legacy_config(
    cx: Cx,
    _: Client<legacy::get_media_config::v3::Request, Guests>,
) -> Result<legacy::get_media_config::v3::Response> {
    Ok(legacy::get_media_config::v3::Response::new(max_upload_size(&cx)))
}

fn max_upload_size(cx: &Cx) -> UInt {
    UInt::new_saturating(cx.media.max_upload_size())
}

/// Gives a file.
async fn download(cx: Cx, req: Client<get_content::v1::Request, Guests>) -> Result<Plain> {
    let access = Access { authenticated: true, allow_remote: true, wait: req.body.timeout_ms };
    let content = cx.media.download(req.body.server_name.as_str(), &req.body.media_id, access).await?;
    serve(&cx, content, &req.headers, Audience::Authenticated).await
}

/// Gives a file under a name that the client chooses.
async fn download_as(cx: Cx, req: Client<get_content_as_filename::v1::Request, Guests>) -> Result<Plain> {
    let access = Access { authenticated: true, allow_remote: true, wait: req.body.timeout_ms };
    let mut content = cx.media.download(req.body.server_name.as_str(), &req.body.media_id, access).await?;
    content.file_name = Some(req.body.filename);
    serve(&cx, content, &req.headers, Audience::Authenticated).await
}

/// Gives an image, made small.
async fn thumbnail(cx: Cx, req: Client<get_content_thumbnail::v1::Request, Guests>) -> Result<Plain> {
    let access = Access { authenticated: true, allow_remote: true, wait: req.body.timeout_ms };
    let wish = wish(req.body.width, req.body.height, req.body.method.as_ref(), req.body.animated)?;
    let content = cx.media.thumbnail(req.body.server_name.as_str(), &req.body.media_id, wish, access).await?;
    serve(&cx, content, &req.headers, Audience::Authenticated).await
}

async fn legacy_download(cx: Cx, req: Public<legacy::get_content::v3::Request>) -> Result<Plain> {
    let access = Access { authenticated: false, allow_remote: req.body.allow_remote, wait: req.body.timeout_ms };
    let content = cx.media.download(req.body.server_name.as_str(), &req.body.media_id, access).await?;
    serve(&cx, content, &req.headers, Audience::Everybody).await
}

async fn legacy_download_as(cx: Cx, req: Public<legacy::get_content_as_filename::v3::Request>) -> Result<Plain> {
    let access = Access { authenticated: false, allow_remote: req.body.allow_remote, wait: req.body.timeout_ms };
    let mut content = cx.media.download(req.body.server_name.as_str(), &req.body.media_id, access).await?;
    content.file_name = Some(req.body.filename);
    serve(&cx, content, &req.headers, Audience::Everybody).await
}

async fn legacy_thumbnail(cx: Cx, req: Public<legacy::get_content_thumbnail::v3::Request>) -> Result<Plain> {
    let access = Access { authenticated: false, allow_remote: req.body.allow_remote, wait: req.body.timeout_ms };
    let wish = wish(req.body.width, req.body.height, req.body.method.as_ref(), req.body.animated)?;
    let content = cx.media.thumbnail(req.body.server_name.as_str(), &req.body.media_id, wish, access).await?;
    serve(&cx, content, &req.headers, Audience::Everybody).await
}

pub(crate) fn wish(width: UInt, height: UInt, method: Option<&RumaMethod>, animated: Option<bool>) -> Result<Wish> {
    let pixels = |n: UInt| u32::try_from(u64::from(n)).unwrap_or(u32::MAX);
    let (width, height) = (pixels(width), pixels(height));
    if width == 0 || height == 0 {
        return Err(Error::unknown("A thumbnail has at least one pixel"));
    }
    let method = match method {
        Some(RumaMethod::Crop) => Method::Crop,
        Some(RumaMethod::Scale) | None => Method::Scale,
        Some(_) => return Err(Error::unknown("Thumbnails are made by `crop` or `scale`")),
    };
    Ok(Wish { size: Size { width, height, method }, animated: animated.unwrap_or(false) })
}
