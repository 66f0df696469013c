//! The client-server API: joins the `routes()` of its capabilities.

use crate::routes::Routes;

pub mod accounts;
pub mod media;
pub mod devices;
pub mod login;
pub mod server;

/// All routes of clients.
#[must_use]
pub fn routes() -> Routes {
    Routes::new().merge(accounts::routes()).merge(media::routes())
    Routes::new().merge(accounts::routes()).merge(devices::routes()).merge(login::routes()).merge(server::routes())
}
