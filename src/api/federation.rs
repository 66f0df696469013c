//! The server-server API: joins the `routes()` of its capabilities.

use crate::routes::Routes;

pub mod directory;
pub mod events;
pub mod history;
pub mod keys;
pub mod media;
pub mod profile;
pub mod rooms;
pub mod server_keys;
pub mod transactions;

/// All routes of other servers.
#[must_use]
pub fn routes() -> Routes {
    Routes::new()
        .merge(server_keys::routes())
        .merge(profile::routes())
        .merge(directory::routes())
        .merge(keys::routes())
        .merge(events::routes())
        .merge(history::routes())
        .merge(media::routes())
        .merge(rooms::routes())
        .merge(transactions::routes())
}
