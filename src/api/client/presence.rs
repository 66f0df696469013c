//! Presence.

use hearth_base::Result;
use ruma::api::client::presence::{get_presence, set_presence};
use serde_json::Value;

use crate::{Cx, extract::Client, limits::Limit, respond::Json, routes::Routes};

/// Its routes.
#[must_use]
pub fn routes() -> Routes {
    Routes::new().on(status).on(set_status)
}

async fn status(cx: Cx, req: Client<get_presence::v3::Request>) -> Result<Json<Value>> {
    cx.presence.get(&req.requester, &req.body.user_id).await.map(Json)
}

async fn set_status(cx: Cx, req: Client<set_presence::v3::Request>) -> Result<set_presence::v3::Response> {
    cx.limits().user(Limit::Presence, &req.requester)?;
    let body = req.body;
    cx.presence.set(&req.requester, &body.user_id, body.presence, body.status_msg).await?;
    Ok(set_presence::v3::Response::new())
}
