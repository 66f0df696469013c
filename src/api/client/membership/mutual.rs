//! `GET /mutual_rooms`, and what it was before it was stable (MSC2666), whose names for the place in the list differ.

use hearth_base::Result;
use hearth_service::membership::MutualRooms;
use ruma::api::client::membership::get_mutual_rooms::v1;

use crate::{Cx, extract::Client, limits::Limit};

pub(super) mod unstable {
    //! `GET /unstable/uk.half-shot.msc2666/user/mutual_rooms`. Clients say `batch_token`, and read `next_batch_token`.
    use ruma::{
        OwnedRoomId, OwnedUserId,
        api::{auth_scheme::AccessToken, request, response},
        metadata,
    };

    metadata! {
        method: GET,
        rate_limited: true,
        authentication: AccessToken,
        history: {
            unstable => "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms",
        }
    }

    /// With whom.
    #[request]
    pub struct Request {
        /// The other user.
        #[ruma_api(query)]
        pub user_id: OwnedUserId,
        /// Where an earlier answer ended.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[ruma_api(query)]
        pub batch_token: Option<String>,
    }

    /// Which rooms.
    #[response]
    pub struct Response {
        /// The rooms.
        pub joined: Vec<OwnedRoomId>,
        /// Where to go on.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub next_batch_token: Option<String>,
    }
}

pub(super) async fn list_mutual_rooms(cx: Cx, req: Client<v1::Request>) -> Result<v1::Response> {
    cx.limits().user(Limit::UserDirectory, &req.requester)?;
    let found = cx.membership.mutual_rooms(&req.requester, &req.body.user_id, req.body.from.as_deref()).await?;
    let MutualRooms { joined, count, next_batch } = found;
    let mut answer = v1::Response::new(count.try_into().unwrap_or(ruma::UInt::MAX), joined);
    answer.next_batch = next_batch;
    Ok(answer)
}

pub(super) async fn list_mutual_rooms_unstable(cx: Cx, req: Client<unstable::Request>) -> Result<unstable::Response> {
    cx.limits().user(Limit::UserDirectory, &req.requester)?;
    let found = cx.membership.mutual_rooms(&req.requester, &req.body.user_id, req.body.batch_token.as_deref()).await?;
    Ok(unstable::Response { joined: found.joined, next_batch_token: found.next_batch })
}
