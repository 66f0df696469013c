//! `POST /rooms/{roomId}/send/{eventType}` and `POST /rooms/{roomId}/redact/{eventId}`: an event without a transaction id, so
//! that each request is another one. Of the API before its first specification; test suites and simple scripts use them.

use hearth_base::{Error, Result};
use hearth_service::events::Outgoing;
use ruma::events::TimelineEventType;
use serde_json::value::RawValue;

use crate::{
    Cx,
    extract::{Client, Guests},
};

pub(super) mod sending {
    //! An event of a type.
    use ruma::{
        MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId,
        api::{auth_scheme::AccessToken, request, response},
        metadata,
    };

    metadata! {
        method: POST,
        rate_limited: true,
        authentication: AccessToken,
        history: {
            1.0 => "/_matrix/client/r0/rooms/{room_id}/send/{event_type}",
            1.1 => "/_matrix/client/v3/rooms/{room_id}/send/{event_type}",
        }
    }

    /// What kind of event, and where; the body is its content.
    #[request]
    pub struct Request {
        /// Where.
        #[ruma_api(path)]
        pub room_id: OwnedRoomId,
        /// Of which type.
        #[ruma_api(path)]
        pub event_type: String,
        /// When it was sent, of application services.
        #[ruma_api(query)]
        #[serde(skip_serializing_if = "Option::is_none", rename = "ts")]
        pub timestamp: Option<MilliSecondsSinceUnixEpoch>,
    }

    /// Sent.
    #[response]
    pub struct Response {
        /// The event's id.
        pub event_id: OwnedEventId,
    }
}

pub(super) mod redacting {
    //! A redaction of an event.
    use ruma::{
        OwnedEventId, OwnedRoomId,
        api::{auth_scheme::AccessToken, request, response},
        metadata,
    };

    metadata! {
        method: POST,
        rate_limited: true,
        authentication: AccessToken,
        history: {
            1.0 => "/_matrix/client/r0/rooms/{room_id}/redact/{event_id}",
            1.1 => "/_matrix/client/v3/rooms/{room_id}/redact/{event_id}",
        }
    }

    /// Which event; the body is the content of the redaction.
    #[request]
    pub struct Request {
        /// Where.
        #[ruma_api(path)]
        pub room_id: OwnedRoomId,
        /// What is redacted.
        #[ruma_api(path)]
        pub event_id: OwnedEventId,
    }

    /// Sent.
    #[response]
    pub struct Response {
        /// The redaction's id.
        pub event_id: OwnedEventId,
    }
}

/// Sends a message event.
pub(super) async fn send(cx: Cx, req: Client<sending::Request, Guests>) -> Result<sending::Response> {
    let body = req.body;
    let redacted = super::redacted_by(&body.event_type, &req.json);
    super::count(&cx, &req.requester, redacted.as_deref()).await?;
    let out = Outgoing {
        event_type: TimelineEventType::from(body.event_type),
        state_key: None,
        content: content(&req.json)?.ok_or_else(|| Error::not_json("The content of an event is needed"))?,
        txn_id: None,
        timestamp: super::said_time(&req.requester, body.timestamp),
    };
    let event_id = cx.events.send(&req.requester, &body.room_id, out).await?;
    Ok(sending::Response { event_id })
}

/// Takes the content of an event away.
pub(super) async fn redact(cx: Cx, req: Client<redacting::Request>) -> Result<redacting::Response> {
    super::count(&cx, &req.requester, Some(&req.body.event_id)).await?;
    let body = req.body;
    let content = content(&req.json)?;
    let event_id = cx.events.redact(&req.requester, &body.room_id, &body.event_id, None, content).await?;
    Ok(redacting::Response { event_id })
}

/// The body as the content of an event; `None` if there is no body.
pub(super) fn content(json: &[u8]) -> Result<Option<&RawValue>> {
    if json.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(json).map(Some).map_err(|e| Error::not_json(e.to_string()))
}
