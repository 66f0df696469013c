//! Profiles of our users, for other servers.

use hearth_base::Result;
use ruma::api::federation::query::get_profile_information;

use crate::{Cx, extract::Federation, respond::RawJson, routes::Routes};

/// Their routes.
#[must_use]
pub fn routes() -> Routes {
    Routes::new().on(profile)
}

async fn profile(cx: Cx, req: Federation<get_profile_information::v1::Request>) -> Result<RawJson> {
    let field = req.body.field.as_ref().map(AsRef::as_ref);
    let found = cx.profile.for_server(&req.body.user_id, field).await?;
    Ok(RawJson(Box::<str>::from(found).into_string().into()))
}
