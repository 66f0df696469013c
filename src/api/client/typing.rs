//! Who is typing.

use std::time::Duration;

use hearth_base::Result;

use crate::{Cx, extract::Client, routes::Routes};

/// Its routes.
#[must_use]
pub fn routes() -> Routes {
    Routes::new().on(set_typing)
}

mod setting {
    //! `PUT /rooms/{roomId}/typing/{userId}`. Ruma's type demands the `timeout` that the specification does not.
    use ruma::{
        OwnedRoomId, OwnedUserId,
        api::{auth_scheme::AccessToken, request, response},
        metadata,
    };

    metadata! {
        method: PUT,
        rate_limited: true,
        authentication: AccessToken,
        history: {
            1.0 => "/_matrix/client/r0/rooms/{room_id}/typing/{user_id}",
            1.1 => "/_matrix/client/v3/rooms/{room_id}/typing/{user_id}",
        }
    }

    /// Whether a user types.
    #[request]
    pub struct Request {
        /// Where.
        #[ruma_api(path)]
        pub room_id: OwnedRoomId,
        /// Who.
        #[ruma_api(path)]
        pub user_id: OwnedUserId,
        /// Whether they do.
        pub typing: bool,
        /// For how long without saying so again, ms.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub timeout: Option<u64>,
    }

    /// Done.
    #[response]
    #[derive(Default)]
    pub struct Response {}
}

async fn set_typing(cx: Cx, req: Client<setting::Request>) -> Result<setting::Response> {
    let body = &req.body;
    let timeout = body.timeout.map(Duration::from_millis);
    cx.typing.set(&req.requester, &body.room_id, &body.user_id, body.typing, timeout).await?;
    Ok(setting::Response {})
}
