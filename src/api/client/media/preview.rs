//! Previews of links (spec: client-server API, `GET /_matrix/client/v1/media/preview_url`).

#![expect(deprecated, reason = "the older endpoint is deprecated in the specification, and served")]

use std::sync::Arc;

use hearth_base::{Result, requester::Requester};
use ruma::{
    MilliSecondsSinceUnixEpoch,
    api::client::{authenticated_media::get_media_preview, media::get_media_preview as legacy},
};

use crate::{Cx, extract::Client, limits::Limit, respond::RawJson};

/// Says what a link leads to.
pub(super) async fn preview(cx: Cx, req: Client<get_media_preview::v1::Request>) -> Result<RawJson> {
    get(&cx, &req.requester, &req.body.url, req.body.ts).await
}

/// The same under its older path.
pub(super) async fn legacy_preview(cx: Cx, req: Client<legacy::v3::Request>) -> Result<RawJson> {
    get(&cx, &req.requester, &req.body.url, req.body.ts).await
}

async fn get(
    cx: &Cx,
    requester: &Arc<Requester>,
    url: &str,
    at: Option<MilliSecondsSinceUnixEpoch>,
) -> Result<RawJson> {
    cx.limits().user(Limit::Preview, requester)?;
    Ok(RawJson(cx.previews.get(requester, url, at.map(|at| at.get().into())).await?))
}
