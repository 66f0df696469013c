//! Events that point at others: the children of an event, the threads of a room.

use hearth_base::{Error, Result};
use hearth_service::relations::Children;
use http::Uri;
use ruma::{
    UInt,
    api::client::{
        relations::{
            get_relating_events, get_relating_events_with_rel_type, get_relating_events_with_rel_type_and_event_type,
        },
        threads::get_threads::{self, v1::IncludeThreads},
    },
};

use super::history::{size, towards};
use crate::{
    Cx,
    extract::{Client, Guests},
    respond::RawJson,
    routes::Routes,
};

/// Events in a page when the client does not say.
const PAGE: usize = 50;
/// Threads in a page when the client does not say.
const THREADS: usize = 20;

/// Their routes.
#[must_use]
pub fn routes() -> Routes {
    Routes::new().on(children).on(children_by_relation).on(children_by_relation_and_type).on(threads)
}

fn page(limit: Option<UInt>, default: usize) -> usize {
    limit.map_or(default, size)
}

/// Whether the request came by the path that the endpoints had before they were stable.
fn is_old(uri: &Uri) -> bool {
    uri.path().starts_with("/_matrix/client/unstable/")
}

async fn children(cx: Cx, req: Client<get_relating_events::v1::Request, Guests>) -> Result<RawJson> {
    let body = &req.body;
    let ask = Children {
        parent: &body.event_id,
        rel_type: None,
        event_type: None,
        recurse: body.recurse,
        direction: towards(body.dir),
        from: body.from.as_deref(),
        to: body.to.as_deref(),
        limit: page(body.limit, PAGE),
        with_parent: is_old(&req.uri),
    };
    Ok(RawJson(cx.relations.children_json(&req.requester, &body.room_id, ask).await?.into()))
}

async fn children_by_relation(
    cx: Cx,
    req: Client<get_relating_events_with_rel_type::v1::Request, Guests>,
) -> Result<RawJson> {
    let body = &req.body;
    let rel_type = body.rel_type.to_string();
    let ask = Children {
        parent: &body.event_id,
        rel_type: Some(&rel_type),
        event_type: None,
        recurse: body.recurse,
        direction: towards(body.dir),
        from: body.from.as_deref(),
        to: body.to.as_deref(),
        limit: page(body.limit, PAGE),
        with_parent: is_old(&req.uri),
    };
    Ok(RawJson(cx.relations.children_json(&req.requester, &body.room_id, ask).await?.into()))
}

async fn children_by_relation_and_type(
    cx: Cx,
    req: Client<get_relating_events_with_rel_type_and_event_type::v1::Request, Guests>,
) -> Result<RawJson> {
    let body = &req.body;
    let (rel_type, event_type) = (body.rel_type.to_string(), body.event_type.to_string());
    let ask = Children {
        parent: &body.event_id,
        rel_type: Some(&rel_type),
        event_type: Some(&event_type),
        recurse: body.recurse,
        direction: towards(body.dir),
        from: body.from.as_deref(),
        to: body.to.as_deref(),
        limit: page(body.limit, PAGE),
        with_parent: is_old(&req.uri),
    };
    Ok(RawJson(cx.relations.children_json(&req.requester, &body.room_id, ask).await?.into()))
}

/// The threads of a room, the one with the newest event first.
async fn threads(cx: Cx, req: Client<get_threads::v1::Request, Guests>) -> Result<RawJson> {
    let body = &req.body;
    let participated = match body.include {
        IncludeThreads::All => false,
        IncludeThreads::Participated => true,
        _ => return Err(Error::invalid_param("`include` is `all` or `participated`")),
    };
    if body.limit.is_some_and(|l| l == UInt::MIN) {
        return Err(Error::invalid_param("`limit` must be greater than 0"));
    }
    let (from, limit) = (body.from.as_deref(), page(body.limit, THREADS));
    let threads = cx.relations.threads_json(&req.requester, &body.room_id, participated, from, limit).await?;
    Ok(RawJson(threads.into()))
}
