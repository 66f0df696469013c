//! The client-server API: joins the `routes()` of its capabilities.

use crate::routes::Routes;

pub mod accounts;
pub mod keys;
pub mod to_device;
pub mod media;

/// All routes of clients.
#[must_use]
pub fn routes() -> Routes {
    Routes::new().merge(accounts::routes()).merge(keys::routes()).merge(to_device::routes())
    Routes::new().merge(accounts::routes()).merge(media::routes())
}
