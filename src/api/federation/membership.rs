//! Joins, leaves, knocks and invites of users of other servers (server-server API, "Joining Rooms" to "Leaving Rooms").

use hearth_base::{Error, Result};
use hearth_service::federation::{
    answers::Pieces,
    joins::{Invitation, Reply, Template},
};
use ruma::{
    OwnedEventId, OwnedRoomId, ServerName,
    api::federation::membership::{
        create_invite, create_join_event, create_knock_event, create_leave_event, prepare_join_event,
        prepare_knock_event, prepare_leave_event,
    },
    events::room::member::MembershipState,
};
use serde::Serialize;
use serde_json::{json, value::RawValue};

use super::events::streamed;
use crate::{
    Cx,
    extract::{As, Federation},
    limits::Limit,
    respond::{Json, Plain},
    routes::Routes,
};

mod third_party;

/// Bytes of an event, or of an invite with what is told of its room.
const MAX_EVENT: usize = 512 << 10;
const MAX_INVITE: usize = 2 << 20;

/// Their routes.
#[must_use]
pub fn routes() -> Routes {
    Routes::new()
        .on(make_join)
        .sized(send_join, MAX_EVENT)
        .sized(send_join_v1, MAX_EVENT)
        .on(make_leave)
        .sized(send_leave, MAX_EVENT)
        .sized(send_leave_v1, MAX_EVENT)
        .on(make_knock)
        .sized(send_knock, MAX_EVENT)
        .sized(invite, MAX_INVITE)
        .sized(invite_v1, MAX_INVITE)
        .merge(third_party::routes())
}

async fn make_join(cx: Cx, req: Federation<prepare_join_event::v1::Request>) -> Result<Json<Template>> {
    let b = &req.body;
    let template = cx.joins.make(&req.server, &b.room_id, &b.user_id, MembershipState::Join, Some(&b.ver)).await?;
    Ok(Json(template))
}

async fn make_leave(cx: Cx, req: Federation<prepare_leave_event::v1::Request>) -> Result<Json<Template>> {
    let b = &req.body;
    cx.joins.make(&req.server, &b.room_id, &b.user_id, MembershipState::Leave, None).await.map(Json)
}

async fn make_knock(cx: Cx, req: Federation<prepare_knock_event::v1::Request>) -> Result<Json<Template>> {
    let b = &req.body;
    let template = cx.joins.make(&req.server, &b.room_id, &b.user_id, MembershipState::Knock, Some(&b.ver)).await?;
    Ok(Json(template))
}

async fn send_join(cx: Cx, req: Federation<create_join_event::v2::Request>) -> Result<Plain> {
    let b = &req.body;
    let reply = Reply { origin: &req.server, room_id: &b.room_id, event_id: &b.event_id, json: b.pdu.get() };
    let answer = admitted(&cx, reply, b.omit_members).await?;
    Ok(streamed(answer, req.pass))
}

/// Only joins that happen are counted: a stranger's rubbish would keep everybody out.
async fn admitted(cx: &Cx, reply: Reply<'_>, omit_members: bool) -> Result<Pieces> {
    let room_id = reply.room_id;
    cx.limits().would(Limit::JoinsPerRoom, room_id)?;
    let (answer, is_news) = cx.joins.send_join(reply, omit_members).await?;
    if is_news {
        // Too many at once are not put out again.
        let _ = cx.limits().check(Limit::JoinsPerRoom, room_id);
    }
    Ok(answer)
}

mod v1 {
    //! The first forms of `send_join` and `send_leave`, which ruma has no types for: their answers stand in a list behind
    //! their status.

    /// `PUT /v1/send_join`.
    pub mod join {
        use ruma::{
            OwnedEventId, OwnedRoomId,
            api::{federation::authentication::ServerSignatures, request, response},
            metadata,
        };
        use serde_json::value::RawValue;

        metadata! {
            method: PUT,
            rate_limited: false,
            authentication: ServerSignatures,
            path: "/_matrix/federation/v1/send_join/{room_id}/{event_id}",
        }

        /// The event.
        #[request]
        pub struct Request {
            /// The room.
            #[ruma_api(path)]
            pub room_id: OwnedRoomId,
            /// The event's id.
            #[ruma_api(path)]
            pub event_id: OwnedEventId,
            /// The event.
            #[ruma_api(body)]
            pub pdu: Box<RawValue>,
        }

        /// Made by the handler.
        #[response]
        pub struct Response {}
    }

    /// `PUT /v1/send_leave`.
    pub mod leave {
        use ruma::{
            OwnedEventId, OwnedRoomId,
            api::{federation::authentication::ServerSignatures, request, response},
            metadata,
        };
        use serde_json::value::RawValue;

        metadata! {
            method: PUT,
            rate_limited: false,
            authentication: ServerSignatures,
            path: "/_matrix/federation/v1/send_leave/{room_id}/{event_id}",
        }

        /// The event.
        #[request]
        pub struct Request {
            /// The room.
            #[ruma_api(path)]
            pub room_id: OwnedRoomId,
            /// The event's id.
            #[ruma_api(path)]
            pub event_id: OwnedEventId,
            /// The event.
            #[ruma_api(body)]
            pub pdu: Box<RawValue>,
        }

        /// Made by the handler.
        #[response]
        pub struct Response {}
    }
}

async fn send_join_v1(cx: Cx, req: Federation<v1::join::Request>) -> Result<Plain> {
    let b = &req.body;
    let reply = Reply { origin: &req.server, room_id: &b.room_id, event_id: &b.event_id, json: b.pdu.get() };
    let answer = admitted(&cx, reply, false).await?;
    Ok(streamed(answer.within("[200,", "]"), req.pass))
}

async fn send_leave(
    cx: Cx,
    req: Federation<create_leave_event::v2::Request>,
) -> Result<create_leave_event::v2::Response> {
    let b = &req.body;
    let reply = Reply { origin: &req.server, room_id: &b.room_id, event_id: &b.event_id, json: b.pdu.get() };
    cx.joins.send_leave(reply).await?;
    Ok(create_leave_event::v2::Response::new())
}

async fn send_leave_v1(cx: Cx, req: Federation<v1::leave::Request>) -> Result<Json<serde_json::Value>> {
    let b = &req.body;
    let reply = Reply { origin: &req.server, room_id: &b.room_id, event_id: &b.event_id, json: b.pdu.get() };
    cx.joins.send_leave(reply).await?;
    Ok(Json(json!([200, {}])))
}

/// What a knocker may know of the room.
#[derive(Serialize)]
struct Knocked {
    knock_room_state: Vec<Box<RawValue>>,
}

async fn send_knock(cx: Cx, req: Federation<create_knock_event::v1::Request>) -> Result<Json<Knocked>> {
    let b = &req.body;
    let reply = Reply { origin: &req.server, room_id: &b.room_id, event_id: &b.event_id, json: b.pdu.get() };
    let knock_room_state = cx.joins.send_knock(reply).await?;
    Ok(Json(Knocked { knock_room_state }))
}

/// An invite with both servers' signatures.
#[derive(Serialize)]
struct Signed {
    event: Box<RawValue>,
}

async fn invite(cx: Cx, req: Federation<As<create_invite::v2::Request, Invitation>>) -> Result<Json<Signed>> {
    let As { args, body, .. } = &req.body;
    invited(&cx, &req.server, args, body).await.map(Json)
}

/// The form for rooms of versions 1 and 2, whose answer stands in a list behind its status (`PUT /v1/invite`).
async fn invite_v1(
    cx: Cx,
    req: Federation<As<create_invite::v1::Request, Box<RawValue>>>,
) -> Result<Json<(u16, Signed)>> {
    let As { args, body, .. } = req.body;
    let signed = invited(&cx, &req.server, &args, &Invitation::of_old_room(body)).await?;
    Ok(Json((200, signed)))
}

async fn invited(cx: &Cx, origin: &ServerName, args: &[String], invitation: &Invitation) -> Result<Signed> {
    #[derive(serde::Deserialize)]
    struct Invitee<'a> {
        #[serde(borrow)]
        state_key: Option<std::borrow::Cow<'a, str>>,
    }
    let path = |n: usize| args.get(n).map(String::as_str).unwrap_or_default();
    let invalid = |e: ruma::IdParseError| Error::invalid_param(e.to_string());
    let room_id = OwnedRoomId::try_from(path(0)).map_err(invalid)?;
    let event_id = OwnedEventId::try_from(path(1)).map_err(invalid)?;
    let invitee = serde_json::from_str(invitation.event.get()).ok().and_then(|i: Invitee<'_>| i.state_key);
    if let Some(user) = &invitee {
        cx.limits().would(Limit::InvitesPerUser, user)?;
    }
    cx.limits().would(Limit::InvitesPerRoom, &room_id)?;
    let event = cx.joins.invited(origin, &room_id, &event_id, invitation).await?;
    // Only what is an invite is counted: a stranger's rubbish would keep all others away from the user.
    if let Some(user) = &invitee {
        let _ = cx.limits().check(Limit::InvitesPerUser, user);
    }
    let _ = cx.limits().check(Limit::InvitesPerRoom, &room_id);
    Ok(Signed { event })
}
