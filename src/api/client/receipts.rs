//! Read receipts and markers.

use hearth_base::{Error, Result};
use hearth_service::receipts::Markers;
use ruma::api::client::read_marker::set_read_marker;
use serde_json::Value;

use crate::{Cx, extract::Client, routes::Routes};

/// Its routes.
#[must_use]
pub fn routes() -> Routes {
    Routes::new().on(send_receipt).on(set_markers)
}

mod sending {
    //! `POST /rooms/{roomId}/receipt/{receiptType}/{eventId}`. Ruma's type refuses a `thread_id` that is wrong with an
    //! errcode other than the specification's.
    use ruma::{
        OwnedEventId, OwnedRoomId,
        api::{auth_scheme::AccessToken, request, response},
        metadata,
    };
    use serde_json::Value;

    metadata! {
        method: POST,
        rate_limited: true,
        authentication: AccessToken,
        history: {
            1.0 => "/_matrix/client/r0/rooms/{room_id}/receipt/{receipt_type}/{event_id}",
            1.1 => "/_matrix/client/v3/rooms/{room_id}/receipt/{receipt_type}/{event_id}",
        }
    }

    /// Up to which event a user has read.
    #[request]
    pub struct Request {
        /// Where.
        #[ruma_api(path)]
        pub room_id: OwnedRoomId,
        /// What kind of receipt.
        #[ruma_api(path)]
        pub receipt_type: String,
        /// The event.
        #[ruma_api(path)]
        pub event_id: OwnedEventId,
        /// The thread, if it is to count for one only.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub thread_id: Option<Value>,
    }

    /// Done.
    #[response]
    #[derive(Default)]
    pub struct Response {}
}

async fn send_receipt(cx: Cx, req: Client<sending::Request>) -> Result<sending::Response> {
    let body = &req.body;
    let thread = match &body.thread_id {
        None => None,
        Some(Value::String(thread)) => Some(thread.as_str()),
        Some(_) => return Err(Error::invalid_param("thread_id field must be a non-empty string")),
    };
    cx.receipts.send(&req.requester, &body.room_id, &body.receipt_type, &body.event_id, thread).await?;
    Ok(sending::Response {})
}

async fn set_markers(cx: Cx, req: Client<set_read_marker::v3::Request>) -> Result<set_read_marker::v3::Response> {
    let body = req.body;
    let markers = Markers { fully_read: body.fully_read, read: body.read_receipt, private: body.private_read_receipt };
    cx.receipts.mark(&req.requester, &body.room_id, markers).await?;
    Ok(set_read_marker::v3::Response::new())
}
