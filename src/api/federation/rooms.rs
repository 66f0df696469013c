//! Rooms as they are told of to those who are not in them, for other servers.

use hearth_base::Result;
use ruma::api::federation::space::get_hierarchy;

use crate::{Cx, extract::Federation, respond::RawJson, routes::Routes};

/// Their routes.
#[must_use]
pub fn routes() -> Routes {
    Routes::new().on(hierarchy)
}

/// A space and its children.
async fn hierarchy(cx: Cx, req: Federation<get_hierarchy::v1::Request>) -> Result<RawJson> {
    let body = &req.body;
    Ok(RawJson(cx.rooms.hierarchy_for_server(&req.server, &body.room_id, body.suggested_only).await?.into()))
}
