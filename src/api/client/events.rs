//! Single events: sent, set as state, redacted, read.

use std::sync::Arc;

use hearth_base::{Error, Requester, Result};
use hearth_service::events::Outgoing;
use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, UserId,
    api::client::{
        message::send_message_event,
        redact::redact_event,
        room::get_room_event,
        state::{get_state_event_for_key, get_state_events, send_state_event},
    },
    events::{StateEventType, TimelineEventType},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    Cx,
    extract::{Client, Guests},
    limits::Limit,
    respond::RawJson,
    routes::Routes,
};

mod without_txn;

/// Their routes.
#[must_use]
pub fn routes() -> Routes {
    Routes::new()
        .on(send_message)
        .also(send_state, &STATE_WITHOUT_KEY)
        .on(redact)
        .on(without_txn::send)
        .on(without_txn::redact)
        .on(get_event)
        .on(get_event_anywhere)
        .on(get_state)
        .also(get_state_entry, &STATE_WITHOUT_KEY)
}

/// The state key is empty here; the slash at the end may be left out (spec: `PUT /state/{eventType}/{stateKey}`).
const STATE_WITHOUT_KEY: [&str; 4] = [
    "/_matrix/client/r0/rooms/{room_id}/state/{event_type}",
    "/_matrix/client/r0/rooms/{room_id}/state/{event_type}/",
    "/_matrix/client/v3/rooms/{room_id}/state/{event_type}",
    "/_matrix/client/v3/rooms/{room_id}/state/{event_type}/",
];

/// Sends a message event; a repeated transaction id answers with the first event's id.
async fn send_message(
    cx: Cx,
    req: Client<send_message_event::v3::Request, Guests>,
) -> Result<send_message_event::v3::Response> {
    let body = req.body;
    let redacted = redacted_by(&body.event_type.to_string(), &req.json);
    count(&cx, &req.requester, redacted.as_deref()).await?;
    let out = Outgoing {
        event_type: TimelineEventType::from(body.event_type),
        state_key: None,
        content: sent(&req.json, body.body.json())?,
        txn_id: Some(body.txn_id.to_string()),
        timestamp: said_time(&req.requester, body.timestamp),
    };
    let event_id = cx.events.send(&req.requester, &body.room_id, out).await?;
    Ok(send_message_event::v3::Response::new(event_id))
}

/// Sets a piece of state.
async fn send_state(
    cx: Cx,
    req: Client<send_state_event::v3::Request, Guests>,
) -> Result<send_state_event::v3::Response> {
    cx.limits().user(Limit::Message, &req.requester)?;
    let (who, body) = (&req.requester, req.body);
    let content = sent(&req.json, body.body.json())?;
    let timestamp = said_time(who, body.timestamp);
    let event_id: OwnedEventId = match body.event_type {
        StateEventType::RoomMember => {
            let user = UserId::parse(&*body.state_key)
                .map_err(|_| Error::invalid_param("The state key of a membership is a user id"))?;
            // Joining and inviting are what they are, whichever way they are asked for.
            super::membership::may_set(&cx, who, &body.room_id, &user, content).await?;
            cx.membership.set(who, &body.room_id, &user, content.get()).await?
        }
        StateEventType::RoomCanonicalAlias if body.state_key.is_empty() => {
            cx.directory.set_canonical_alias(who, &body.room_id, content, timestamp).await?
        }
        StateEventType::RoomGuestAccess if body.state_key.is_empty() => {
            cx.membership.set_guest_access(who, &body.room_id, content, timestamp).await?
        }
        event_type => {
            let out = Outgoing {
                event_type: TimelineEventType::from(event_type),
                state_key: Some(body.state_key),
                content,
                txn_id: None,
                timestamp,
            };
            cx.events.send(who, &body.room_id, out).await?
        }
    };
    Ok(send_state_event::v3::Response::new(event_id))
}

/// Takes the content of an event away.
async fn redact(cx: Cx, req: Client<redact_event::v3::Request>) -> Result<redact_event::v3::Response> {
    count(&cx, &req.requester, Some(&req.body.event_id)).await?;
    let body = req.body;
    let content = without_txn::content(&req.json)?;
    let txn_id = Some(body.txn_id.to_string());
    let event_id = cx.events.redact(&req.requester, &body.room_id, &body.event_id, txn_id, content).await?;
    Ok(redact_event::v3::Response::new(event_id))
}

/// Counts a message; by themselves those that redact what others sent, if the operator wants that (`rc_admin_redaction`).
async fn count(cx: &Cx, who: &Arc<Requester>, redacted: Option<&EventId>) -> Result<()> {
    let is_apart = match redacted.filter(|_| cx.settings().limits.redactions_apart) {
        Some(event_id) => cx.events.is_of_another(who, event_id).await?,
        None => false,
    };
    cx.limits().user(if is_apart { Limit::AdminRedaction } else { Limit::Message }, who)
}

/// What is redacted by a redaction that is sent as an ordinary event.
fn redacted_by(event_type: &str, content: &[u8]) -> Option<OwnedEventId> {
    #[derive(Deserialize)]
    struct Redacts {
        redacts: OwnedEventId,
    }
    let is_redaction = event_type == "m.room.redaction";
    is_redaction.then(|| serde_json::from_slice(content).ok().map(|r: Redacts| r.redacts)).flatten()
}

async fn get_event(cx: Cx, req: Client<get_room_event::v3::Request, Guests>) -> Result<RawJson> {
    let event = cx.history.event_json(&req.requester, &req.body.room_id, &req.body.event_id).await?;
    Ok(RawJson(event.into()))
}

mod anywhere {
    //! `GET /events/{eventId}`: an event of whatever room (deprecated).
    use ruma::{
        OwnedEventId,
        api::{auth_scheme::AccessToken, request, response},
        metadata,
    };

    metadata! {
        method: GET,
        rate_limited: false,
        authentication: AccessToken,
        history: {
            1.0 => "/_matrix/client/r0/events/{event_id}",
            1.1 => "/_matrix/client/v3/events/{event_id}",
        }
    }

    /// Which event.
    #[request]
    pub struct Request {
        /// Its id.
        #[ruma_api(path)]
        pub event_id: OwnedEventId,
    }

    /// The answer is made by the handler.
    #[response]
    pub struct Response {}
}

async fn get_event_anywhere(cx: Cx, req: Client<anywhere::Request>) -> Result<RawJson> {
    Ok(RawJson(cx.history.event_anywhere_json(&req.requester, &req.body.event_id).await?.into()))
}

/// All state of a room.
async fn get_state(cx: Cx, req: Client<get_state_events::v3::Request, Guests>) -> Result<RawJson> {
    Ok(RawJson(cx.history.state_json(&req.requester, &req.body.room_id).await?.into()))
}

/// One piece of state, as content or as an event.
async fn get_state_entry(cx: Cx, req: Client<get_state_event_for_key::v3::Request, Guests>) -> Result<RawJson> {
    use get_state_event_for_key::v3::StateEventFormat as Format;
    let body = &req.body;
    let whole = match body.format {
        Format::Content => false,
        Format::Event => true,
        _ => return Err(Error::invalid_param("`format` is `content` or `event`")),
    };
    let event_type = body.event_type.to_string();
    let entry = cx.history.state_entry_json(&req.requester, &body.room_id, &event_type, &body.state_key, whole).await?;
    Ok(RawJson(entry.into()))
}

/// The content as sent; no body at all is no content, though ruma takes it for an empty object.
fn sent<'a>(json: &[u8], content: &'a RawValue) -> Result<&'a RawValue> {
    if json.is_empty() { Err(Error::not_json("The content of an event is needed")) } else { Ok(content) }
}

/// The time an appservice says an event was sent, ms; nobody else may (application service API, "Timestamp massaging").
fn said_time(who: &Requester, said: Option<MilliSecondsSinceUnixEpoch>) -> Option<u64> {
    said.filter(|_| who.appservice.is_some()).map(|t| t.0.into())
}
