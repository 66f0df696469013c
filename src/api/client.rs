//! The client-server API: joins the `routes()` of its capabilities.

use crate::routes::Routes;

pub mod account_data;
pub mod accounts;
pub mod devices;
pub mod directory;
pub mod events;
pub mod history;
pub mod keys;
pub mod login;
pub mod media;
pub mod membership;
pub mod presence;
pub mod profile;
pub mod push;
pub mod receipts;
pub mod relations;
pub mod reports;
pub mod rooms;
pub mod server;
pub mod sync;
pub mod typing;

/// All routes of clients.
#[must_use]
pub fn routes() -> Routes {
    Routes::new()
        .merge(account_data::routes())
        .merge(accounts::routes())
        .merge(devices::routes())
        .merge(directory::routes())
        .merge(events::routes())
        .merge(history::routes())
        .merge(keys::routes())
        .merge(login::routes())
        .merge(media::routes())
        .merge(membership::routes())
        .merge(presence::routes())
        .merge(profile::routes())
        .merge(push::routes())
        .merge(receipts::routes())
        .merge(relations::routes())
        .merge(reports::routes())
        .merge(rooms::routes())
        .merge(server::routes())
        .merge(sync::routes())
        .merge(typing::routes())
}
