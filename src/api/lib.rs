//! What the protocol says: HTTP requests of clients, servers and administrators, decoded by ruma's types, proved by
//! [`auth`], answered by one call to a service.
//!
//! [`router`] is all that others need. A handler is `async fn(cx: Cx, req: Client<R>) -> Result<Answer>`; its path,
//! method and form come from the ruma type `R` ([`routes`]), so no path is written twice. The edge puts a
//! [`hearth_base::peer::Peer`] into the request's extensions.

use std::{ops::Deref, sync::Arc};

use hearth_service::Services;

pub mod admin;
pub mod auth;
pub mod client;
pub mod extract;
pub mod federation;
pub mod limits;
pub mod respond;
pub mod routes;
pub mod uiaa;

#[cfg(test)]
mod tests;

/// How the API is to behave.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes of a JSON body at most, unless a route asks for more.
    pub max_body_bytes: usize,
    /// Requests a user or address may make.
    pub limits: limits::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Self { max_body_bytes: 1 << 20, limits: limits::Settings::default() }
    }
}

/// What handlers are given: all services (by deref), and what belongs to the API itself.
#[derive(Clone)]
pub struct Cx(Arc<Inner>);

struct Inner {
    services: Arc<Services>,
    settings: Settings,
    limits: limits::Limits,
}

impl Cx {
    /// A context over these services.
    #[must_use]
    pub fn new(services: Arc<Services>, settings: Settings) -> Self {
        let limits = limits::Limits::new(&settings.limits, services.clock.clone());
        Self(Arc::new(Inner { services, settings, limits }))
    }

    /// The rate limiters.
    #[must_use]
    pub fn limits(&self) -> &limits::Limits {
        &self.0.limits
    }

    /// How the API is to behave.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }
}

impl Deref for Cx {
    type Target = Services;

    fn deref(&self) -> &Services {
        &self.0.services
    }
}

/// Every route there is, for the router and for the test that walks them.
#[must_use]
pub fn routes() -> routes::Routes {
    client::routes().merge(federation::routes()).merge(admin::routes())
}

/// The router of `/_matrix` and `/_synapse`. Answers everything: unknown paths 404 `M_UNRECOGNIZED`, known paths under
/// another method 405, `OPTIONS` as a CORS preflight.
pub fn router(services: Arc<Services>, settings: Settings) -> axum::Router {
    routes().into_router(Cx::new(services, settings))
}
