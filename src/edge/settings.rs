//! What the edge needs to know of the configuration, as plain fields that `app` fills.
//!
//! The `edge:` section comes as `hearth_config::edge::EdgeConfig`; here stand only those parts of the rest of
//! homeserver.yaml that decide about listening and about who is answered by whom.

use std::{net::SocketAddr, path::PathBuf};

use hearth_config::edge::EdgeConfig;
use serde_json::{Map, Value};

/// Everything the edge is built from.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `server_name`, with its port if it has one.
    pub server_name: String,
    /// `public_baseurl`, if configured.
    pub public_baseurl: Option<String>,
    /// `listeners`, opened whether or not there is an `edge:` section.
    pub listeners: Vec<Listener>,
    /// `tls_certificate_path`: a PEM chain for listeners with `tls: true`.
    pub tls_certificate_path: Option<PathBuf>,
    /// `tls_private_key_path`.
    pub tls_private_key_path: Option<PathBuf>,
    /// `serve_server_wellknown`.
    pub serve_server_wellknown: bool,
    /// `extra_well_known_client_content`.
    pub extra_well_known_client_content: Map<String, Value>,
    /// `default_identity_server`.
    pub default_identity_server: Option<String>,
    /// `web_client_location`: where `/` leads.
    pub web_client_location: Option<String>,
    /// Where certificates, ACME accounts and the local authority are kept (in a folder `edge` of it).
    pub data_dir: PathBuf,
    /// Largest upload the homeserver takes, in bytes; bodies somewhat larger than this are cut off at the door.
    pub max_upload_size: u64,
    /// The `edge:` section, if there is one.
    pub edge: Option<EdgeConfig>,
}

/// One entry of `listeners`.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Where it stands in the configuration, as `listeners[0]`.
    pub key: String,
    /// Its `tag`, or its port or path: the name in logs, metrics and `admin_api.listeners`.
    pub name: String,
    /// Where it listens.
    pub place: Place,
    /// TLS with the certificates of the edge.
    pub tls: bool,
    /// Believe `X-Forwarded-For` and `X-Forwarded-Proto` of trusted proxies.
    pub x_forwarded: bool,
    /// Whether answers may be compressed (`compress` of its resources).
    pub compress: bool,
    /// What it answers.
    pub serves: Serves,
}

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// TCP sockets.
    Tcp(Vec<SocketAddr>),
    /// A Unix socket and its mode, e.g. `0o666`.
    Unix(PathBuf, u32),
}

/// What a listener answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    /// The homeserver, limited to these resources, and all else the edge serves.
    Http(Resources),
    /// The metrics router alone (`type: metrics`).
    Metrics,
}

/// Names of `resources` of a listener (Synapse's configuration manual, "listeners").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources(u16);

impl Resources {
    /// The client-server API, the admin API and Synapse's client pages; brings media.
    pub const CLIENT: Self = Self(1);
    /// The server-server API; brings media, keys and openid.
    pub const FEDERATION: Self = Self(2);
    /// `/_matrix/media` and the authenticated media endpoints.
    pub const MEDIA: Self = Self(4);
    /// `/_matrix/key`.
    pub const KEYS: Self = Self(8);
    /// `/_matrix/federation/v1/openid`.
    pub const OPENID: Self = Self(16);
    /// `/_synapse/metrics`.
    pub const METRICS: Self = Self(32);
    /// `/_matrix/consent`.
    pub const CONSENT: Self = Self(64);
    /// `/_matrix/static`.
    pub const STATIC: Self = Self(128);
    /// None but `/health`, which every listener answers.
    pub const NONE: Self = Self(0);
    /// What an edge of its own serves: everything but metrics.
    pub const EDGE: Self = Self(0xff & !32);

    /// Reads the names; a name that is none of them is given back.
    ///
    /// # Errors
    /// The first unknown name.
    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut all = Self::NONE;
        for name in names {
            all.0 |= match name {
                "client" => Self::CLIENT.0 | Self::MEDIA.0 | Self::STATIC.0,
                "federation" => Self::FEDERATION.0 | Self::MEDIA.0 | Self::KEYS.0 | Self::OPENID.0,
                "media" => Self::MEDIA.0,
                "keys" => Self::KEYS.0,
                "openid" => Self::OPENID.0,
                "metrics" => Self::METRICS.0,
                "consent" => Self::CONSENT.0,
                "static" => Self::STATIC.0,
                "health" | "replication" => 0,
                other => return Err(other.to_owned()),
            };
        }
        Ok(all)
    }

    /// Whether all of `other` is in here.
    #[must_use]
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The resource a path of the homeserver belongs to; none for paths that every listener answers.
    #[must_use]
    pub fn of(path: &str) -> Self {
        let Some(rest) = path.strip_prefix("/_matrix/") else {
            return match path {
                "/_synapse/metrics" => Self::METRICS,
                _ if path.starts_with("/_synapse/") => Self::CLIENT,
                _ => Self::NONE,
            };
        };
        match rest.split('/').next().unwrap_or_default() {
            "federation" if rest.starts_with("federation/v1/openid") => Self::OPENID,
            "federation" if rest.starts_with("federation/v1/media") => Self::MEDIA,
            "federation" => Self::FEDERATION,
            "media" => Self::MEDIA,
            "client" if rest.starts_with("client/v1/media") => Self::MEDIA,
            "key" => Self::KEYS,
            "consent" => Self::CONSENT,
            "static" => Self::STATIC,
            _ => Self::CLIENT,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn resources_open_their_paths_and_no_others() {
        let client = Resources::from_names(["client"]).unwrap();
        assert!(client.has(Resources::of("/_matrix/client/v3/sync")));
        assert!(client.has(Resources::of("/_synapse/admin/v1/server_version")));
        assert!(client.has(Resources::of("/_matrix/media/v3/upload")));
        assert!(!client.has(Resources::of("/_matrix/federation/v1/send/1")));
        assert!(!client.has(Resources::of("/_synapse/metrics")));
        let keys = Resources::from_names(["keys", "openid"]).unwrap();
        assert!(keys.has(Resources::of("/_matrix/key/v2/server")));
        assert!(keys.has(Resources::of("/_matrix/federation/v1/openid/userinfo")));
        assert!(!keys.has(Resources::of("/_matrix/federation/v1/version")));
        assert!(Resources::NONE.has(Resources::of("/health")));
        assert_eq!(Resources::from_names(["klient"]), Err("klient".to_owned()));
    }
}
