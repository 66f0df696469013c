//! The client-server API: joins the `routes()` of its capabilities.

use crate::routes::Routes;

pub mod accounts;
pub mod directory;
pub mod events;
pub mod history;
pub mod media;
pub mod devices;
pub mod login;
pub mod server;
pub mod membership;
pub mod reports;
pub mod rooms;
pub mod sync;
pub mod keys;
pub mod media;
pub mod to_device;

/// All routes of clients.
#[must_use]
pub fn routes() -> Routes {
    Routes::new().merge(accounts::routes()).merge(media::routes())
    Routes::new().merge(accounts::routes()).merge(devices::routes()).merge(login::routes()).merge(server::routes())
    Routes::new()
        .merge(accounts::routes())
        .merge(directory::routes())
        .merge(events::routes())
        .merge(history::routes())
        .merge(media::routes())
        .merge(membership::routes())
        .merge(reports::routes())
        .merge(rooms::routes())
        .merge(sync::routes())
    Routes::new()
        .merge(accounts::routes())
        .merge(keys::routes())
        .merge(media::routes())
        .merge(to_device::routes())
}
