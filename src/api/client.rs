//! The client-server API: joins the `routes()` of its capabilities.

use crate::routes::Routes;

pub mod account_data;
pub mod accounts;
pub mod media;
pub mod presence;
pub mod profile;
pub mod push;
pub mod receipts;
pub mod typing;

/// All routes of clients.
#[must_use]
pub fn routes() -> Routes {
    Routes::new()
        .merge(accounts::routes())
        .merge(account_data::routes())
        .merge(presence::routes())
        .merge(profile::routes())
        .merge(push::routes())
        .merge(receipts::routes())
        .merge(typing::routes())
        .merge(media::routes())
}
