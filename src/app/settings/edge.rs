//! `listeners`, `public_baseurl`, `tls_*` and the section `edge:`: the front door.

use std::{net::SocketAddr, path::PathBuf};

use hearth_config::{
    Config,
    server::{ListenerKind, Resource, Socket},
};
use hearth_edge::settings::{Listener, Place, Resources, Serves};

/// What the front door is built from; `data_dir` is where certificates are kept.
#[must_use]
pub fn edge(config: &Config, data_dir: PathBuf) -> hearth_edge::Settings {
    let server = &config.server;
    hearth_edge::Settings {
        server_name: server.name.to_string(),
        public_baseurl: server.has_public_baseurl.then(|| server.public_baseurl.to_string()),
        listeners: server.listeners.iter().map(listener).collect(),
        tls_certificate_path: server.tls_certificate_path.clone(),
        tls_private_key_path: server.tls_private_key_path.clone(),
        serve_server_wellknown: server.serve_server_wellknown,
        extra_well_known_client_content: server.extra_well_known_client.clone(),
        default_identity_server: config.accounts.registration.default_identity_server.as_ref().map(ToString::to_string),
        web_client_location: server.web_client_location.as_ref().map(ToString::to_string),
        data_dir,
        max_upload_size: config.media.max_upload_size,
        edge: config.edge.clone(),
    }
}

fn listener(from: &hearth_config::server::Listener) -> Listener {
    let (place, name) = match &from.socket {
        Socket::Tcp { port, addresses } => {
            (Place::Tcp(addresses.iter().map(|ip| SocketAddr::new(*ip, *port)).collect()), port.to_string())
        }
        Socket::Unix { path, mode } => (Place::Unix(path.clone(), *mode), path.display().to_string()),
    };
    let names: Vec<&str> = from.resources.iter().flat_map(|r| &r.names).map(|r| resource(*r)).collect();
    Listener {
        key: from.key.clone(),
        name: from.tag.clone().unwrap_or(name),
        place,
        tls: from.tls,
        x_forwarded: from.x_forwarded,
        compress: from.resources.iter().any(|r| r.compress),
        serves: match from.kind {
            ListenerKind::Metrics => Serves::Metrics,
            // The names come from the configuration's own list, so none is unknown.
            ListenerKind::Http => Serves::Http(Resources::from_names(names).unwrap_or(Resources::NONE)),
        },
    }
}

fn resource(resource: Resource) -> &'static str {
    match resource {
        Resource::Client => "client",
        Resource::Consent => "consent",
        Resource::Federation => "federation",
        Resource::Keys => "keys",
        Resource::Media => "media",
        Resource::Metrics => "metrics",
        Resource::OpenId => "openid",
        Resource::Static => "static",
        Resource::Health => "health",
    }
}
