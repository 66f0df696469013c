//! The server-server API: joins the `routes()` of its capabilities.

use crate::routes::Routes;

pub mod server_keys;

/// All routes of other servers.
#[must_use]
pub fn routes() -> Routes {
    Routes::new().merge(server_keys::routes())
}
