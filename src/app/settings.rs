//! From the configuration as administrators write it to the settings that each part of the server takes.
//!
//! An option that gets its place here becomes `Now` in `hearth_config`'s table; until then the start names it.

mod api;
mod edge;
mod federation;
mod services;
mod store;

#[cfg(test)]
mod tests;

pub use self::{api::api, edge::edge, federation::federation, services::services, store::store};
