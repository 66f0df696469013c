//! Builds what requests are answered by from the settings; done at the start and at each reload.

use std::sync::Arc;

use hearth_config::edge::{EdgeConfig, Limits as LimitsConfig};

use super::{AdminRule, Live, routes::Routes};
use crate::{Error, client_ip::Trust, examine, limits::Limits, listener, settings::Settings, well_known::WellKnown};

/// The names of the edge's own listeners, open or not.
const OWN: [&str; 3] = ["http", "https", "federation"];

impl Live {
    /// Builds everything anew.
    ///
    /// # Errors
    /// What of the settings cannot be, e.g. a folder that is not there.
    pub fn new(settings: &Settings) -> Result<Arc<Self>, Error> {
        let edge = settings.edge.as_ref();
        let mistakes = |e: &EdgeConfig| e.check().into_iter().chain(examine(e)).next();
        if let Some((key, what)) = edge.and_then(mistakes) {
            return Err(Error::Setting(key, what));
        }
        let doors = listener::plan(settings);
        listener::check(&doors)?;
        let default_limits = LimitsConfig::default();
        let limits = Limits::new(edge.map_or(&default_limits, |e| &e.limits), settings.max_upload_size);
        let https_port = https_port(settings);
        let admin = edge.map(|e| e.admin_api.clone()).unwrap_or_default();
        let is_door = |name: &str| OWN.contains(&name) || doors.iter().any(|planned| *planned.door.name == *name);
        if let Some(name) = admin.listeners.iter().flatten().find(|name| !is_door(name)) {
            let what = format!("`{name}` is no listener; its names are {}", OWN.join(", "));
            let what = format!("{what}, and the tag, port or path of each under `listeners`");
            return Err(Error::Setting("edge.admin_api.listeners".to_owned(), what));
        }
        Ok(Arc::new(Self {
            trust: Trust::new(edge.and_then(|e| e.trusted_proxies.as_deref())),
            balancers: Trust::new(Some(edge.map_or(&[][..], |e| &e.proxy_protocol))),
            compress: edge.is_some_and(|e| e.compress),
            server_name: settings.server_name.clone(),
            well_known: WellKnown::new(settings, https_port),
            routes: Routes::new(settings, https_port)?,
            admin: AdminRule { allow: admin.allow, listeners: admin.listeners },
            https_port,
            web_client_location: settings.web_client_location.clone(),
            limits,
        }))
    }
}

/// The port that our own HTTPS address carries: 443 if that is open, else the first there is.
pub(crate) fn https_port(settings: &Settings) -> Option<u16> {
    let listen = &settings.edge.as_ref()?.listen;
    let ports: Vec<u16> = listen.https.0.iter().chain(&listen.federation.0).map(|b| b.port).collect();
    if ports.contains(&443) { Some(443) } else { ports.first().copied() }
}
