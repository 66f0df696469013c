//! `POST /rooms/{roomId}/invite` in its two forms: by user id, and by e-mail address or phone number. Ruma's type takes what
//! is neither for broken JSON, which the specification does not.

use std::sync::Arc;

use hearth_base::{Error, Requester, Result};
use hearth_service::membership::ByAddress;
use ruma::{
    OwnedRoomId, OwnedUserId, RoomId, UserId,
    api::{auth_scheme::AccessToken, request, response},
    metadata,
};

use crate::{Cx, extract::Client, limits::Limit};

metadata! {
    method: POST,
    rate_limited: true,
    authentication: AccessToken,
    history: {
        1.0 => "/_matrix/client/r0/rooms/{room_id}/invite",
        1.1 => "/_matrix/client/v3/rooms/{room_id}/invite",
    }
}

/// Whom to invite whither.
#[request]
pub struct Request {
    /// The room.
    #[ruma_api(path)]
    pub room_id: OwnedRoomId,
    /// The user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<OwnedUserId>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// In place of a user: the identity server that may know them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id_server: Option<String>,
    /// The requester's token for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id_access_token: Option<String>,
    /// `email` or `msisdn`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub medium: Option<String>,
    /// The address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// Invited.
#[response]
pub struct Response {}

pub(super) async fn invite(cx: Cx, req: Client<Request>) -> Result<Response> {
    let (who, body) = (&req.requester, req.body);
    match &body.user_id {
        Some(user) => {
            may_invite(&cx, who, &body.room_id, user)?;
            cx.membership.invite(who, &body.room_id, user, body.reason).await?;
        }
        None => {
            let missing = |name: &str| Error::missing_param(format!("`{name}` is missing"));
            let server = body.id_server.ok_or_else(|| missing("id_server"))?;
            let token = body.id_access_token.ok_or_else(|| missing("id_access_token"))?;
            let medium = body.medium.ok_or_else(|| missing("medium"))?;
            let address = body.address.ok_or_else(|| missing("address"))?;
            let to = ByAddress::new(&server, token, &medium, &address)?;
            may_invite_address(&cx, who, Some(&body.room_id), &to)?;
            cx.membership.invite_address(who, &body.room_id, &to).await?;
        }
    }
    Ok(Response {})
}

/// How often a user may invite, a user be invited, a room be invited to.
pub(super) fn may_invite(cx: &Cx, who: &Arc<Requester>, room_id: &RoomId, to: &UserId) -> Result<()> {
    cx.limits().user(Limit::InvitesPerIssuer, who)?;
    if !who.is_admin && who.appservice.is_none() {
        cx.limits().check(Limit::InvitesPerRoom, room_id)?;
        cx.limits().check(Limit::InvitesPerUser, to)?;
    }
    Ok(())
}

/// The same for an address, behind which may be whoever; a room that is about to be made is not counted.
pub(in crate::client) fn may_invite_address(
    cx: &Cx,
    who: &Arc<Requester>,
    room_id: Option<&RoomId>,
    to: &ByAddress,
) -> Result<()> {
    cx.limits().user(Limit::ThirdPartyInvite, who)?;
    cx.limits().user(Limit::InvitesPerIssuer, who)?;
    if !who.is_admin && who.appservice.is_none() {
        if let Some(room_id) = room_id {
            cx.limits().check(Limit::InvitesPerRoom, room_id)?;
        }
        cx.limits().check(Limit::InvitesPerUser, to.address())?;
    }
    Ok(())
}
