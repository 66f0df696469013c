//! Reading rooms backwards and forwards.

use hearth_base::{Error, Result};
use hearth_service::{
    history::{Direction, Messages},
    sync::filter,
};

use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::client::{context::get_context, message::get_message_events, room::get_event_by_timestamp},
};

use crate::{
    Cx,
    extract::{Client, Guests},
    respond::RawJson,
    routes::Routes,
};

/// Its routes.
#[must_use]
pub fn routes() -> Routes {
    Routes::new().on(messages).on(context).on(event_by_time)
}

/// A page of history.
async fn messages(cx: Cx, req: Client<get_message_events::v3::Request, Guests>) -> Result<RawJson> {
    let body = req.body;
    let ask = Messages {
        direction: towards(body.dir),
        from: body.from.as_deref(),
        to: body.to.as_deref(),
        limit: size(body.limit),
        filter: &filter::Events::of(body.filter),
    };
    Ok(RawJson(cx.history.messages_json(&req.requester, &body.room_id, &ask).await?.into()))
}

/// An event with its neighbours.
async fn context(cx: Cx, req: Client<get_context::v3::Request, Guests>) -> Result<RawJson> {
    let body = req.body;
    let filter = filter::Events::of(body.filter);
    let context =
        cx.history.context_json(&req.requester, &body.room_id, &body.event_id, size(body.limit), &filter).await?;
    Ok(RawJson(context.into()))
}

/// The event sent nearest to a time.
async fn event_by_time(
    cx: Cx,
    req: Client<get_event_by_timestamp::v1::Request>,
) -> Result<get_event_by_timestamp::v1::Response> {
    let body = &req.body;
    let event = cx.history.event_by_time(&req.requester, &body.room_id, towards(body.dir), body.ts.0.into()).await?;
    let at = UInt::new(event.pdu.origin_server_ts()).ok_or_else(|| Error::broken("a time beyond all numbers"))?;
    Ok(get_event_by_timestamp::v1::Response::new(event.event_id().to_owned(), MilliSecondsSinceUnixEpoch(at)))
}

pub(crate) fn towards(direction: ruma::api::Direction) -> Direction {
    match direction {
        ruma::api::Direction::Backward => Direction::Backward,
        ruma::api::Direction::Forward => Direction::Forward,
    }
}

pub(crate) fn size(limit: UInt) -> usize {
    usize::try_from(u64::from(limit)).unwrap_or(usize::MAX)
}
