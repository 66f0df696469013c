//! Pages of history and missing events, for other servers.

use hearth_base::Result;
use hearth_service::federation::answers::Missing;
use ruma::api::federation::backfill::get_backfill;

use crate::{Cx, client::history::size, extract::Federation, respond::RawJson, routes::Routes};

/// Their routes.
#[must_use]
pub fn routes() -> Routes {
    Routes::new().also(backfill, &["/_matrix/federation/v1/backfill/{room_id}/"]).on(missing)
}

/// Events and those before them.
async fn backfill(cx: Cx, req: Federation<get_backfill::v1::Request>) -> Result<RawJson> {
    let body = &req.body;
    Ok(RawJson(cx.answers.backfill(&req.server, &body.room_id, &body.v, size(body.limit)).await?.into()))
}

mod between {
    //! `POST /get_missing_events/{roomId}`, where no events named are none, and no error: what lies between them is nothing.
    use ruma::{
        OwnedEventId, OwnedRoomId, UInt,
        api::{federation::authentication::ServerSignatures, request, response},
        metadata, uint,
    };

    metadata! {
        method: POST,
        rate_limited: false,
        authentication: ServerSignatures,
        path: "/_matrix/federation/v1/get_missing_events/{room_id}",
    }

    /// What lies between which events.
    #[request]
    pub struct Request {
        /// Of this room.
        #[ruma_api(path)]
        pub room_id: OwnedRoomId,
        /// How many.
        #[serde(default = "ten")]
        pub limit: UInt,
        /// How deep at least.
        #[serde(default)]
        pub min_depth: UInt,
        /// Those that the server has.
        #[serde(default)]
        pub earliest_events: Vec<OwnedEventId>,
        /// Those that it knows of.
        #[serde(default)]
        pub latest_events: Vec<OwnedEventId>,
    }

    /// The answer is made by the handler.
    #[response]
    #[derive(Default)]
    pub struct Response {}

    fn ten() -> UInt {
        uint!(10)
    }
}

/// Events between those the server has and those it knows of.
async fn missing(cx: Cx, req: Federation<between::Request>) -> Result<RawJson> {
    let body = &req.body;
    let ask = Missing {
        earliest: &body.earliest_events,
        latest: &body.latest_events,
        min_depth: body.min_depth.into(),
        limit: size(body.limit),
    };
    Ok(RawJson(cx.answers.missing(&req.server, &body.room_id, ask).await?.into()))
}
