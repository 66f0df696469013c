//! The client-server API: joins the `routes()` of its capabilities.

use crate::routes::Routes;

pub mod accounts;
pub mod keys;
pub mod media;
pub mod to_device;

/// All routes of clients.
#[must_use]
pub fn routes() -> Routes {
    Routes::new()
        .merge(accounts::routes())
        .merge(keys::routes())
        .merge(media::routes())
        .merge(to_device::routes())
}
