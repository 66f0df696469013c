//! Builds what requests are answered by from the settings; done at the start and at each reload.

use std::sync::Arc;

use hearth_config::edge::{EdgeConfig, Limits as LimitsConfig};

use super::{AdminRule, Live, routes::Routes};
use crate::{Error, client_ip::Trust, examine, limits::Limits, settings::Settings, well_known::WellKnown};

impl Live {
    /// Builds everything anew.
    ///
    /// # Errors
    /// What of the settings cannot be, e.g. a folder that is not there.
    pub fn new(settings: &Settings) -> Result<Arc<Self>, Error> {
        let edge = settings.edge.as_ref();
        let default_limits = LimitsConfig::default();
        let limits = Limits::new(edge.map_or(&default_limits, |e| &e.limits), settings.max_upload_size);
        let https_port = https_port(settings);
        let admin = edge.map(|e| e.admin_api.clone()).unwrap_or_default();
        Ok(Arc::new(Self {
            trust: Trust::new(edge.and_then(|e| e.trusted_proxies.as_deref())),
            balancers: Trust::new(Some(edge.map_or(&[][..], |e| &e.proxy_protocol))),
            compress: edge.is_some_and(|e| e.compress),
            server_name: settings.server_name.clone(),
            well_known: WellKnown::new(settings, https_port),
            routes: Routes::new(settings, https_port)?,
            admin: AdminRule { allow: admin.allow, listeners: admin.listeners },
            https_port,
            redirect: edge.is_none_or(|e| e.redirect.unwrap_or(true)),
            web_client_location: settings.web_client_location.clone(),
            limits,
        }))
    }
}

/// Whether settings can be, with the listeners that they ask for.
///
/// # Errors
/// The first of what is wrong.
pub(crate) fn check(settings: &Settings) -> Result<(), Error> {
    let of_values = settings.edge.as_ref().map(EdgeConfig::check).unwrap_or_default();
    match of_values.into_iter().chain(examine(settings)).next() {
        Some((key, what)) => Err(Error::Setting(key, what)),
        None => Ok(()),
    }
}

/// The port that our own HTTPS address carries: 443 if that is open, else the first there is.
pub(crate) fn https_port(settings: &Settings) -> Option<u16> {
    let listen = &settings.edge.as_ref()?.listen;
    let ports: Vec<u16> = listen.https.0.iter().chain(&listen.federation.0).map(|b| b.port).collect();
    if ports.contains(&443) { Some(443) } else { ports.first().copied() }
}
