//! Reports of events, rooms and users.

use hearth_base::Result;
use ruma::api::client::{
    reporting::report_user,
    room::{report_content, report_room},
};
use serde::Deserialize;

use crate::{Cx, extract::Client, limits::Limit, routes::Routes};

/// Their routes.
#[must_use]
pub fn routes() -> Routes {
    Routes::new().on(event).on(room).on(user)
}

async fn event(cx: Cx, req: Client<report_content::v3::Request>) -> Result<report_content::v3::Response> {
    /// How bad it is, -100 to 0: gone from the specification with v1.18, still sent.
    #[derive(Default, Deserialize)]
    struct Scored {
        score: Option<i64>,
    }
    cx.limits().user(Limit::Reports, &req.requester)?;
    let scored: Scored = serde_json::from_slice(&req.json).unwrap_or_default();
    let body = req.body;
    cx.reports.event(&req.requester, &body.room_id, &body.event_id, body.reason, scored.score).await?;
    Ok(report_content::v3::Response::new())
}

async fn room(cx: Cx, req: Client<report_room::v3::Request>) -> Result<report_room::v3::Response> {
    cx.limits().user(Limit::Reports, &req.requester)?;
    cx.reports.room(&req.requester, &req.body.room_id, Some(req.body.reason)).await?;
    Ok(report_room::v3::Response::new())
}

async fn user(cx: Cx, req: Client<report_user::v3::Request>) -> Result<report_user::v3::Response> {
    cx.limits().user(Limit::Reports, &req.requester)?;
    cx.reports.user(&req.requester, &req.body.user_id, Some(req.body.reason)).await?;
    Ok(report_user::v3::Response::new())
}
