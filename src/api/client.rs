//! The client-server API: joins the `routes()` of its capabilities.

use crate::routes::Routes;

pub mod accounts;
pub mod devices;
pub mod directory;
pub mod events;
pub mod history;
pub mod login;
pub mod media;
pub mod membership;
pub mod reports;
pub mod rooms;
pub mod server;
pub mod sync;

/// All routes of clients.
#[must_use]
pub fn routes() -> Routes {
    Routes::new()
        .merge(accounts::routes())
        .merge(devices::routes())
        .merge(directory::routes())
        .merge(events::routes())
        .merge(history::routes())
        .merge(login::routes())
        .merge(media::routes())
        .merge(membership::routes())
        .merge(reports::routes())
        .merge(rooms::routes())
        .merge(server::routes())
        .merge(sync::routes())
}
