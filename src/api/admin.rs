//! The administration API under `/_synapse/admin`: joins the `routes()` of its capabilities.

use crate::routes::Routes;

pub mod accounts;
pub mod server;

/// All routes of administrators.
#[must_use]
pub fn routes() -> Routes {
    Routes::new().merge(accounts::routes()).merge(server::routes())
}
