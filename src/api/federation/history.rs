//! Pages of history and missing events, for other servers.

use hearth_base::Result;
use hearth_service::federation::answers::Missing;
use ruma::api::federation::{backfill::get_backfill, event::get_missing_events};

use crate::{Cx, client::history::size, extract::Federation, respond::RawJson, routes::Routes};

/// Their routes.
#[must_use]
pub fn routes() -> Routes {
    Routes::new().on(backfill).on(missing)
}

/// Events and those before them.
async fn backfill(cx: Cx, req: Federation<get_backfill::v1::Request>) -> Result<RawJson> {
    let body = &req.body;
    Ok(RawJson(cx.answers.backfill(&req.server, &body.room_id, &body.v, size(body.limit)).await?.into()))
}

/// Events between those the server has and those it knows of.
async fn missing(cx: Cx, req: Federation<get_missing_events::v1::Request>) -> Result<RawJson> {
    let body = &req.body;
    let ask = Missing {
        earliest: &body.earliest_events,
        latest: &body.latest_events,
        min_depth: body.min_depth.into(),
        limit: size(body.limit),
    };
    Ok(RawJson(cx.answers.missing(&req.server, &body.room_id, ask).await?.into()))
}
