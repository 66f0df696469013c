//! Who is in a room: joining, knocking, leaving, inviting, kicking, banning; lists of members.

use hearth_base::{Error, Requester, Result};
use hearth_service::membership::Joining;
use ruma::{
    OwnedRoomId, OwnedServerName, RoomId, RoomOrAliasId, UserId,
    api::client::membership::{
        ban_user, forget_room, get_member_events, joined_members, joined_rooms, kick_user, leave_room, unban_user,
    },
    events::room::member::MembershipState,
};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};
use std::sync::Arc;

use crate::{
    Cx,
    extract::{Client, Guests},
    limits::Limit,
    respond::RawJson,
    routes::Routes,
};

mod inviting;
mod mutual;

use inviting::may_invite;
pub(super) use inviting::may_invite_address;

/// Their routes.
#[must_use]
pub fn routes() -> Routes {
    Routes::new()
        .on(join_by_id)
        .on(join)
        .on(knock)
        .on(leave)
        .on(forget)
        .on(inviting::invite)
        .on(kick)
        .on(ban)
        .on(unban)
        .on(list_joined_rooms)
        .on(list_members)
        .on(list_joined_members)
        .on(mutual::list_mutual_rooms)
        .on(mutual::list_mutual_rooms_unstable)
}

mod joining_by_id {
    //! `POST /rooms/{roomId}/join`, whose body is read by [`super::wish`].
    use ruma::{
        OwnedRoomId,
        api::{auth_scheme::AccessToken, request, response},
        metadata,
    };

    metadata! {
        method: POST,
        rate_limited: true,
        authentication: AccessToken,
        history: {
            1.0 => "/_matrix/client/r0/rooms/{room_id}/join",
            1.1 => "/_matrix/client/v3/rooms/{room_id}/join",
        }
    }

    /// Which room.
    #[request]
    pub struct Request {
        /// Its id.
        #[ruma_api(path)]
        pub room_id: OwnedRoomId,
    }

    /// Joined.
    #[response]
    pub struct Response {
        /// The room's id.
        pub room_id: OwnedRoomId,
    }
}

async fn join_by_id(cx: Cx, req: Client<joining_by_id::Request, Guests>) -> Result<joining_by_id::Response> {
    let wish = wish(&req.json)?;
    may_join(&cx, &req.requester, &req.body.room_id).await?;
    let room_id = cx.membership.join(&req.requester, &req.body.room_id, &[], wish).await?;
    Ok(joining_by_id::Response { room_id })
}

mod joining {
    //! `POST /join/{roomIdOrAlias}`, whose body is read by [`super::wish`].
    use ruma::{
        OwnedRoomId, OwnedRoomOrAliasId, OwnedServerName,
        api::{auth_scheme::AccessToken, request, response},
        metadata,
    };

    metadata! {
        method: POST,
        rate_limited: true,
        authentication: AccessToken,
        history: {
            1.0 => "/_matrix/client/r0/join/{room_id_or_alias}",
            1.1 => "/_matrix/client/v3/join/{room_id_or_alias}",
        }
    }

    /// Which room.
    #[request]
    pub struct Request {
        /// Its id or alias.
        #[ruma_api(path)]
        pub room_id_or_alias: OwnedRoomOrAliasId,
        /// Servers that may help.
        #[ruma_api(query)]
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub via: Vec<OwnedServerName>,
        /// The same by its older name.
        #[ruma_api(query)]
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub server_name: Vec<OwnedServerName>,
    }

    /// Joined.
    #[response]
    pub struct Response {
        /// The room's id.
        pub room_id: OwnedRoomId,
    }
}

async fn join(cx: Cx, req: Client<joining::Request, Guests>) -> Result<joining::Response> {
    let wish = wish(&req.json)?;
    let body = req.body;
    let (room_id, via) = resolved(&cx, &body.room_id_or_alias, body.via, body.server_name).await?;
    may_join(&cx, &req.requester, &room_id).await?;
    let room_id = cx.membership.join(&req.requester, &room_id, &via, wish).await?;
    Ok(joining::Response { room_id })
}

/// How somebody wants to join, by a body that need not be there: what is not of the specification is to stand in the
/// event.
fn wish(json: &[u8]) -> Result<Joining> {
    let mut body: Map<String, Value> = match json {
        [] => Map::new(),
        json => serde_json::from_slice(json).map_err(|e| Error::not_json(e.to_string()))?,
    };
    let reason = match body.remove("reason") {
        None | Some(Value::Null) => None,
        Some(Value::String(reason)) => Some(reason),
        Some(_) => return Err(Error::bad_json("`reason` is not a string")),
    };
    let third_party_signed = match body.remove("third_party_signed") {
        None | Some(Value::Null) => None,
        Some(signed) => Some(
            serde_json::from_value(signed)
                .map_err(|e| Error::bad_json(format!("`third_party_signed` is wrong: {e}")))?,
        ),
    };
    Ok(Joining { reason, third_party_signed, more: body })
}

mod knocking {
    //! `POST /knock/{roomIdOrAlias}`. Ruma's type demands a body, which the specification does not.
    use ruma::{
        OwnedRoomId, OwnedRoomOrAliasId, OwnedServerName,
        api::{auth_scheme::AccessToken, request, response},
        metadata,
    };

    metadata! {
        method: POST,
        rate_limited: true,
        authentication: AccessToken,
        history: {
            unstable => "/_matrix/client/unstable/xyz.amorgan.knock/knock/{room_id_or_alias}",
            1.1 => "/_matrix/client/v3/knock/{room_id_or_alias}",
        }
    }

    /// At which door.
    #[request]
    pub struct Request {
        /// The room's id or alias.
        #[ruma_api(path)]
        pub room_id_or_alias: OwnedRoomOrAliasId,
        /// Servers that may help.
        #[ruma_api(query)]
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub via: Vec<OwnedServerName>,
        /// The same by its older name.
        #[ruma_api(query)]
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub server_name: Vec<OwnedServerName>,
        /// Why.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub reason: Option<String>,
    }

    /// Knocked.
    #[response]
    pub struct Response {
        /// The room's id.
        pub room_id: OwnedRoomId,
    }
}

async fn knock(cx: Cx, req: Client<knocking::Request>) -> Result<knocking::Response> {
    cx.limits().user(Limit::Message, &req.requester)?;
    let body = req.body;
    let (room_id, via) = resolved(&cx, &body.room_id_or_alias, body.via, body.server_name).await?;
    let room_id = cx.membership.knock(&req.requester, &room_id, &via, body.reason).await?;
    Ok(knocking::Response { room_id })
}

async fn leave(cx: Cx, req: Client<leave_room::v3::Request, Guests>) -> Result<leave_room::v3::Response> {
    cx.membership.leave(&req.requester, &req.body.room_id, req.body.reason).await?;
    Ok(leave_room::v3::Response::new())
}

async fn forget(cx: Cx, req: Client<forget_room::v3::Request, Guests>) -> Result<forget_room::v3::Response> {
    cx.membership.forget(&req.requester, &req.body.room_id).await?;
    Ok(forget_room::v3::Response::new())
}

async fn kick(cx: Cx, req: Client<kick_user::v3::Request>) -> Result<kick_user::v3::Response> {
    let body = req.body;
    cx.membership.kick(&req.requester, &body.room_id, &body.user_id, body.reason).await?;
    Ok(kick_user::v3::Response::new())
}

async fn ban(cx: Cx, req: Client<ban_user::v3::Request>) -> Result<ban_user::v3::Response> {
    let body = req.body;
    cx.membership.ban(&req.requester, &body.room_id, &body.user_id, body.reason).await?;
    Ok(ban_user::v3::Response::new())
}

async fn unban(cx: Cx, req: Client<unban_user::v3::Request>) -> Result<unban_user::v3::Response> {
    let body = req.body;
    cx.membership.unban(&req.requester, &body.room_id, &body.user_id, body.reason).await?;
    Ok(unban_user::v3::Response::new())
}

async fn list_joined_rooms(
    cx: Cx,
    req: Client<joined_rooms::v3::Request, Guests>,
) -> Result<joined_rooms::v3::Response> {
    Ok(joined_rooms::v3::Response::new(cx.membership.joined_rooms(&req.requester).await?))
}

/// Member events, now or at a place in history.
async fn list_members(cx: Cx, req: Client<get_member_events::v3::Request, Guests>) -> Result<RawJson> {
    let b = &req.body;
    let (is, is_not) = (b.membership.as_ref(), b.not_membership.as_ref());
    let is_known = |m: &&MembershipState| matches!(m.as_str(), "join" | "leave" | "invite" | "ban" | "knock");
    if [is, is_not].into_iter().flatten().any(|m| !is_known(&m)) {
        return Err(Error::invalid_param("`membership` and `not_membership` are join, leave, invite, ban or knock"));
    }
    let members = cx.history.members_json(&req.requester, &b.room_id, b.at.as_deref(), is, is_not).await?;
    Ok(RawJson(members.into()))
}

async fn list_joined_members(cx: Cx, req: Client<joined_members::v3::Request, Guests>) -> Result<RawJson> {
    Ok(RawJson(cx.history.joined_members_json(&req.requester, &req.body.room_id).await?.into()))
}

/// Servers that a client may name.
const MAX_VIA: usize = 20;

/// The room, and servers that may be in it: those the client names, then those the alias' server knows.
async fn resolved(
    cx: &Cx,
    room: &RoomOrAliasId,
    via: Vec<OwnedServerName>,
    server_name: Vec<OwnedServerName>,
) -> Result<(OwnedRoomId, Vec<OwnedServerName>)> {
    let mut named = via;
    named.extend(server_name);
    named.truncate(MAX_VIA);
    match <&RoomId>::try_from(room) {
        Ok(room_id) => Ok((room_id.to_owned(), named)),
        Err(alias) => {
            let (room_id, servers) = cx.directory.resolve(alias).await?;
            named.extend(servers);
            Ok((room_id, named))
        }
    }
}

/// How often a user may join rooms, and how many may join one.
async fn may_join(cx: &Cx, who: &Arc<Requester>, room_id: &RoomId) -> Result<()> {
    let local = cx.membership.is_here(room_id).await?;
    cx.limits().user(if local { Limit::JoinsLocal } else { Limit::JoinsRemote }, who)?;
    cx.limits().check(Limit::JoinsPerRoom, room_id)
}

/// How often a user may join, invite and be invited by setting a membership as state.
pub(super) async fn may_set(
    cx: &Cx,
    who: &Arc<Requester>,
    room_id: &RoomId,
    user: &UserId,
    content: &RawValue,
) -> Result<()> {
    #[derive(Deserialize)]
    struct Wanted {
        membership: String,
    }
    let wanted: Option<Wanted> = serde_json::from_str(content.get()).ok();
    match wanted.as_ref().map(|w| w.membership.as_str()) {
        Some("invite") => may_invite(cx, who, room_id, user),
        Some("join") => may_join(cx, who, room_id).await,
        _ => Ok(()),
    }
}
