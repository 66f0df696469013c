//! Reading rooms backwards and forwards.

use hearth_base::{Error, Result};
use hearth_service::{
    history::{Direction, Messages},
    sync::filter,
};

use ruma::{MilliSecondsSinceUnixEpoch, UInt, api::client::room::get_event_by_timestamp};

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

mod paging {
    //! `GET /rooms/{roomId}/messages`. Ruma's type demands the `dir` that was not always told, and reads a filter into less
    //! than what clients put into it.
    use ruma::{
        OwnedRoomId, UInt,
        api::{Direction, auth_scheme::AccessToken, request, response},
        metadata, uint,
    };

    metadata! {
        method: GET,
        rate_limited: false,
        authentication: AccessToken,
        history: {
            1.0 => "/_matrix/client/r0/rooms/{room_id}/messages",
            1.1 => "/_matrix/client/v3/rooms/{room_id}/messages",
        }
    }

    /// Which page.
    #[request]
    pub struct Request {
        /// Of which room.
        #[ruma_api(path)]
        pub room_id: OwnedRoomId,
        /// Where it begins.
        #[ruma_api(query)]
        #[serde(skip_serializing_if = "Option::is_none")]
        pub from: Option<String>,
        /// Where it ends at the latest.
        #[ruma_api(query)]
        #[serde(skip_serializing_if = "Option::is_none")]
        pub to: Option<String>,
        /// Which way; forwards, if that is not said.
        #[ruma_api(query)]
        #[serde(default = "forward")]
        pub dir: Direction,
        /// Events at most.
        #[ruma_api(query)]
        #[serde(default = "ten")]
        pub limit: UInt,
        /// Which events, as JSON.
        #[ruma_api(query)]
        #[serde(skip_serializing_if = "Option::is_none")]
        pub filter: Option<String>,
    }

    fn forward() -> Direction {
        Direction::Forward
    }

    fn ten() -> UInt {
        uint!(10)
    }

    /// The answer is made by the handler.
    #[response]
    pub struct Response {}
}

mod surrounding {
    //! `GET /rooms/{roomId}/context/{eventId}`, with the filter as text.
    use ruma::{
        OwnedEventId, OwnedRoomId, UInt,
        api::{auth_scheme::AccessToken, request, response},
        metadata, uint,
    };

    metadata! {
        method: GET,
        rate_limited: false,
        authentication: AccessToken,
        history: {
            1.0 => "/_matrix/client/r0/rooms/{room_id}/context/{event_id}",
            1.1 => "/_matrix/client/v3/rooms/{room_id}/context/{event_id}",
        }
    }

    /// Around what.
    #[request]
    pub struct Request {
        /// In which room.
        #[ruma_api(path)]
        pub room_id: OwnedRoomId,
        /// The event.
        #[ruma_api(path)]
        pub event_id: OwnedEventId,
        /// Events before and after it together, at most.
        #[ruma_api(query)]
        #[serde(default = "ten")]
        pub limit: UInt,
        /// Which events, as JSON.
        #[ruma_api(query)]
        #[serde(skip_serializing_if = "Option::is_none")]
        pub filter: Option<String>,
    }

    fn ten() -> UInt {
        uint!(10)
    }

    /// The answer is made by the handler.
    #[response]
    pub struct Response {}
}

/// A page of history.
async fn messages(cx: Cx, req: Client<paging::Request, Guests>) -> Result<RawJson> {
    let body = req.body;
    let ask = Messages {
        direction: towards(body.dir),
        from: token(body.from.as_deref()),
        to: token(body.to.as_deref()),
        limit: size(body.limit),
        filter: &filter::Events::read(body.filter.as_deref())?,
    };
    Ok(RawJson(cx.history.messages_json(&req.requester, &body.room_id, &ask).await?.into()))
}

/// An event with its neighbours.
async fn context(cx: Cx, req: Client<surrounding::Request, Guests>) -> Result<RawJson> {
    let body = req.body;
    let filter = filter::Events::read(body.filter.as_deref())?;
    let context =
        cx.history.context_json(&req.requester, &body.room_id, &body.event_id, size(body.limit), &filter).await?;
    Ok(RawJson(context.into()))
}

/// Some clients send an empty token, or `END`, for none.
fn token(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty() && *text != "END")
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
