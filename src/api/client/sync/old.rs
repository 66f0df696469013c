//! Syncing as it was before /sync.

use std::time::Duration;

use hearth_base::Result;
use ruma::{
    OwnedRoomId,
    api::{auth_scheme::AccessToken, request, response},
    metadata,
};

use crate::{
    Cx,
    client::history::size,
    extract::{Client, Guests},
    respond::RawJson,
    routes::Routes,
};

/// Their routes.
#[must_use]
pub fn routes() -> Routes {
    // Programs of before the first release of the specification still ask by its paths.
    Routes::new()
        .also(events, &["/_matrix/client/api/v1/events"])
        .also(initial, &["/_matrix/client/api/v1/initialSync"])
        .on(initial_of_room)
}

mod streaming {
    //! `GET /events`, in both forms: the user's own stream, and that of a room (spec: "Room Previews").
    use super::{AccessToken, OwnedRoomId, metadata, request, response};

    metadata! {
        method: GET,
        rate_limited: false,
        authentication: AccessToken,
        history: {
            1.0 => "/_matrix/client/r0/events",
            1.1 => "/_matrix/client/v3/events",
        }
    }

    /// Since when.
    #[request]
    pub struct Request {
        /// The `end` of the last answer, or of an initial sync.
        #[ruma_api(query)]
        #[serde(skip_serializing_if = "Option::is_none")]
        pub from: Option<String>,
        /// How long to wait for news, ms.
        #[ruma_api(query)]
        #[serde(default = "half_a_minute")]
        pub timeout: u64,
        /// One room only.
        #[ruma_api(query)]
        #[serde(skip_serializing_if = "Option::is_none")]
        pub room_id: Option<OwnedRoomId>,
    }

    fn half_a_minute() -> u64 {
        30_000
    }

    /// The answer is made by the handler.
    #[response]
    pub struct Response {}
}

mod everything {
    //! `GET /initialSync`.
    use ruma::UInt;

    use super::{AccessToken, metadata, request, response};

    metadata! {
        method: GET,
        rate_limited: false,
        authentication: AccessToken,
        history: {
            1.0 => "/_matrix/client/r0/initialSync",
            1.1 => "/_matrix/client/v3/initialSync",
        }
    }

    /// How much.
    #[request]
    pub struct Request {
        /// Messages of a room at most.
        #[ruma_api(query)]
        #[serde(skip_serializing_if = "Option::is_none")]
        pub limit: Option<UInt>,
        /// Rooms that the user has left, too.
        #[ruma_api(query)]
        #[serde(default)]
        pub archived: bool,
    }

    /// The answer is made by the handler.
    #[response]
    pub struct Response {}
}

mod one_room {
    //! `GET /rooms/{roomId}/initialSync`; the specification speaks of a `limit`, and clients send one.
    use ruma::UInt;

    use super::{AccessToken, OwnedRoomId, metadata, request, response};

    metadata! {
        method: GET,
        rate_limited: false,
        authentication: AccessToken,
        history: {
            1.0 => "/_matrix/client/r0/rooms/{room_id}/initialSync",
            1.1 => "/_matrix/client/v3/rooms/{room_id}/initialSync",
        }
    }

    /// Of what.
    #[request]
    pub struct Request {
        /// The room.
        #[ruma_api(path)]
        pub room_id: OwnedRoomId,
        /// Messages at most.
        #[ruma_api(query)]
        #[serde(skip_serializing_if = "Option::is_none")]
        pub limit: Option<UInt>,
    }

    /// The answer is made by the handler.
    #[response]
    pub struct Response {}
}

/// What is new, of all or of one room.
async fn events(cx: Cx, req: Client<streaming::Request, Guests>) -> Result<RawJson> {
    let body = req.body;
    let from = body.from.as_deref().filter(|from| !from.is_empty());
    let timeout = Duration::from_millis(body.timeout);
    Ok(RawJson(cx.sync.events_json(&req.requester, body.room_id.as_deref(), from, timeout).await?.into()))
}

/// All there is.
async fn initial(cx: Cx, req: Client<everything::Request>) -> Result<RawJson> {
    let body = req.body;
    Ok(RawJson(cx.sync.initial_json(&req.requester, body.limit.map(size), body.archived).await?.into()))
}

/// All there is of a room, seen from within or from outside.
async fn initial_of_room(cx: Cx, req: Client<one_room::Request, Guests>) -> Result<RawJson> {
    let body = req.body;
    Ok(RawJson(cx.sync.room_initial_json(&req.requester, &body.room_id, body.limit.map(size)).await?.into()))
}
