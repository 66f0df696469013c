//! Accounts: who one is.

use hearth_base::Result;
use ruma::api::client::account::whoami;

use crate::{
    Cx,
    extract::{Client, Guests},
    routes::Routes,
};

/// Its routes.
#[must_use]
pub fn routes() -> Routes {
    Routes::new().on(who_am_i)
}

/// Whose token this is.
pub(crate) async fn who_am_i(_: Cx, req: Client<whoami::v3::Request, Guests>) -> Result<whoami::v3::Response> {
    let mut answer = whoami::v3::Response::new(req.requester.user_id.clone(), req.requester.is_guest);
    answer.device_id.clone_from(&req.requester.device_id);
    Ok(answer)
}
