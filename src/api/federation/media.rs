//! Our media, for other servers: `multipart/mixed` of metadata, of which there is none, and the file, streamed from disk
//! (server-server API, "Content Repository").

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use hearth_base::{Doing as _, Result};
use hearth_service::media::{Access, Content};
use http::{
    HeaderMap, HeaderValue,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use rand::{Rng as _, distr::Alphanumeric};
use ruma::api::federation::authenticated_media::{get_content, get_content_thumbnail};

use crate::{
    Cx,
    client::media::{serve::describe, wish},
    extract::Federation,
    respond::Plain,
    routes::Routes,
};

/// Letters of a boundary: 178 bits, so that no file has it in it.
const BOUNDARY: usize = 30;

/// Their routes.
#[must_use]
pub fn routes() -> Routes {
    Routes::new().on(download).on(thumbnail)
}

async fn download(cx: Cx, req: Federation<get_content::v1::Request>) -> Result<Plain> {
    let access = Access { authenticated: true, allow_remote: false, wait: req.body.timeout_ms };
    let content = cx.media.download(cx.federation.name().as_str(), &req.body.media_id, access).await?;
    serve(&cx, content).await
}

async fn thumbnail(cx: Cx, req: Federation<get_content_thumbnail::v1::Request>) -> Result<Plain> {
    let body = &req.body;
    let access = Access { authenticated: true, allow_remote: false, wait: body.timeout_ms };
    let wish = wish(body.width, body.height, body.method.as_ref(), body.animated)?;
    let content = cx.media.thumbnail(cx.federation.name().as_str(), &body.media_id, wish, access).await?;
    serve(&cx, content).await
}

async fn serve(cx: &Cx, content: Content) -> Result<Plain> {
    let boundary: String = rand::rng().sample_iter(Alphanumeric).take(BOUNDARY).map(char::from).collect();
    let mut headers = HeaderMap::new();
    describe(&mut headers, &content)?;
    let mut begin =
        format!("\r\n--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--{boundary}\r\n").into_bytes();
    for (name, value) in &headers {
        begin.extend_from_slice(name.as_str().as_bytes());
        begin.extend_from_slice(b": ");
        begin.extend_from_slice(value.as_bytes());
        begin.extend_from_slice(b"\r\n");
    }
    begin.extend_from_slice(b"\r\n");
    let end = format!("\r\n--{boundary}--\r\n");
    let reader = cx.media.read(&content, None).await?;
    let length = begin.len() as u64 + reader.left() + end.len() as u64;
    let once = |bytes: Bytes| stream::once(std::future::ready(Ok(bytes)));
    let mut response = Response::new(Body::from_stream(once(begin.into()).chain(reader).chain(once(end.into()))));
    let content_type = HeaderValue::try_from(format!("multipart/mixed; boundary={boundary}"));
    response.headers_mut().insert(CONTENT_TYPE, content_type.doing("the type of an answer")?);
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    Ok(Plain(response))
}
