//! Events, states and auth chains, for other servers.

use axum::{body::Body, response::Response};
use futures_util::{StreamExt as _, stream};
use hearth_base::{Error, Result, bill::charged};
use hearth_service::federation::{answers::Pieces, gate::Pass};
use http::{HeaderValue, header::CONTENT_TYPE};
use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::federation::{
        authorization::get_event_authorization,
        event::{get_event, get_event_by_timestamp, get_room_state, get_room_state_ids},
    },
};

use crate::{
    Cx,
    client::history::towards,
    extract::Federation,
    respond::{Plain, RawJson},
    routes::Routes,
};

/// Their routes.
#[must_use]
pub fn routes() -> Routes {
    // With a slash at the end, as servers of the first years have them.
    Routes::new()
        .also(event, &["/_matrix/federation/v1/event/{event_id}/"])
        .also(state, &["/_matrix/federation/v1/state/{room_id}/"])
        .also(state_ids, &["/_matrix/federation/v1/state_ids/{room_id}/"])
        .on(event_auth)
        .on(event_by_time)
}

/// JSON that is made while it is sent; who asked for it keeps its place as long, and has it on the bill.
pub(super) fn streamed(pieces: Pieces, pass: Pass) -> Plain {
    let kept = stream::unfold((pieces.into_stream().boxed(), pass), async |(mut pieces, pass)| {
        let next = charged(pass.bill(), pieces.next()).await;
        next.map(|piece| (piece, (pieces, pass)))
    });
    let mut response = Response::new(Body::from_stream(kept));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Plain(response)
}

async fn event(cx: Cx, req: Federation<get_event::v1::Request>) -> Result<RawJson> {
    Ok(RawJson(cx.answers.event(&req.server, &req.body.event_id).await?.into()))
}

async fn state(cx: Cx, req: Federation<get_room_state::v1::Request>) -> Result<Plain> {
    let pieces = cx.answers.state(&req.server, &req.body.room_id, &req.body.event_id).await?;
    Ok(streamed(pieces, req.pass))
}

async fn state_ids(cx: Cx, req: Federation<get_room_state_ids::v1::Request>) -> Result<Plain> {
    let pieces = cx.answers.state_ids(&req.server, &req.body.room_id, &req.body.event_id).await?;
    Ok(streamed(pieces, req.pass))
}

async fn event_auth(cx: Cx, req: Federation<get_event_authorization::v1::Request>) -> Result<Plain> {
    let pieces = cx.answers.event_auth(&req.server, &req.body.room_id, &req.body.event_id).await?;
    Ok(streamed(pieces, req.pass))
}

/// The event sent nearest to a time.
async fn event_by_time(
    cx: Cx,
    req: Federation<get_event_by_timestamp::v1::Request>,
) -> Result<get_event_by_timestamp::v1::Response> {
    let body = &req.body;
    let event = cx.answers.event_by_time(&req.server, &body.room_id, towards(body.dir), body.ts.0.into()).await?;
    let at = UInt::new(event.pdu.origin_server_ts()).ok_or_else(|| Error::broken("a time beyond all numbers"))?;
    Ok(get_event_by_timestamp::v1::Response::new(event.event_id().to_owned(), MilliSecondsSinceUnixEpoch(at)))
}
