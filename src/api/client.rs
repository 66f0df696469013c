//! The client-server API: joins the `routes()` of its capabilities.

use crate::routes::Routes;

pub mod accounts;

/// All routes of clients.
#[must_use]
pub fn routes() -> Routes {
    Routes::new().merge(accounts::routes())
}
