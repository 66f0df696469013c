//! Invites to e-mail addresses and phone numbers that have found their user (server-server API, "Third-party invites").

use hearth_base::{Error, Result};
use hearth_service::federation::joins::third_party::{Bound, Exchange};
use ruma::{
    OwnedRoomId,
    api::federation::thirdparty::{bind_callback, exchange_invite},
};
use serde_json::{Value, json};

use crate::{
    Cx,
    extract::{As, Federation, Public},
    limits::Limit,
    respond::Json,
    routes::Routes,
};

pub(super) fn routes() -> Routes {
    Routes::new().on(exchange).on(bound).on(bound_by_post)
}

/// Another server's user has shown that an invite is for them.
async fn exchange(cx: Cx, req: Federation<As<exchange_invite::v1::Request, Exchange>>) -> Result<Json<Value>> {
    let As { args, body, .. } = &req.body;
    let room_id = args.first().map(String::as_str).unwrap_or_default();
    let room_id = OwnedRoomId::try_from(room_id).map_err(|e| Error::invalid_param(e.to_string()))?;
    cx.limits().would(Limit::InvitesPerUser, body.state_key.as_str())?;
    cx.limits().would(Limit::InvitesPerRoom, &room_id)?;
    cx.joins.exchange(&req.server, &room_id, body).await?;
    // Only what becomes an invite is counted.
    let _ = cx.limits().check(Limit::InvitesPerUser, body.state_key.as_str());
    let _ = cx.limits().check(Limit::InvitesPerRoom, &room_id);
    Ok(Json(json!({})))
}

mod posted {
    //! `POST /_matrix/federation/v1/3pid/onbind`: how identity servers have always called it.
    use ruma::{
        api::{auth_scheme::NoAuthentication, request, response},
        metadata,
    };

    metadata! {
        method: POST,
        rate_limited: false,
        authentication: NoAuthentication,
        path: "/_matrix/federation/v1/3pid/onbind",
    }

    /// Read by the handler.
    #[request]
    pub struct Request {}

    /// Nothing.
    #[response]
    #[derive(Default)]
    pub struct Response {}
}

/// An identity server has bound an address to a user of ours, for whom invites wait.
async fn bound(cx: Cx, req: Public<As<bind_callback::v1::Request, Bound>>) -> Result<Json<Value>> {
    cx.limits().address(Limit::Bindings, req.origin.ip)?;
    cx.joins.bound(&req.body.body).await?;
    Ok(Json(json!({})))
}

async fn bound_by_post(cx: Cx, req: Public<As<posted::Request, Bound>>) -> Result<Json<Value>> {
    cx.limits().address(Limit::Bindings, req.origin.ip)?;
    cx.joins.bound(&req.body.body).await?;
    Ok(Json(json!({})))
}
