//! The documents under `/.well-known/matrix` (spec: "Server Discovery"; server-server API, "Resolving server names"),
//! made once from the configuration.
//!
//! With an `edge:` section we stand before all names ourselves, so the server document says where `public_baseurl`
//! points; without one it is served as Synapse would, when `serve_server_wellknown` asks for it.

use axum::body::Body;
use bytes::Bytes;
use hearth_base::Error;
use http::{HeaderValue, Method, Response, StatusCode, header::CACHE_CONTROL};
use serde_json::{Map, Value, json};
use url::Url;

use crate::{answer, settings::Settings};

/// The three documents; none where there is nothing to say.
#[derive(Clone, Debug, Default)]
pub(crate) struct WellKnown {
    client: Option<Bytes>,
    server: Option<Bytes>,
    support: Option<Bytes>,
}

impl WellKnown {
    pub fn new(settings: &Settings, https_port: Option<u16>) -> Self {
        Self {
            client: client(settings, https_port).map(bytes),
            server: server(settings, https_port).map(bytes),
            support: settings.edge.as_ref().and_then(|e| e.well_known.support.clone()).map(Value::Object).map(bytes),
        }
    }

    /// The answer for what follows `/.well-known/matrix/`.
    pub fn answer(&self, method: &Method, document: &str) -> Response<Body> {
        let body = match document {
            "client" => &self.client,
            "server" => &self.server,
            "support" => &self.support,
            _ => &None,
        };
        if method == Method::OPTIONS {
            return answer::open_json(StatusCode::OK, "{}");
        }
        if !matches!(*method, Method::GET | Method::HEAD) {
            let told = Error::told(StatusCode::METHOD_NOT_ALLOWED, "M_UNRECOGNIZED", "Only GET is answered here");
            return answer::matrix(&told);
        }
        let Some(body) = body else {
            return answer::matrix(&Error::not_found("No such document is configured"));
        };
        let mut response = answer::open_json(StatusCode::OK, body.clone());
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
        response
    }
}

/// The host a server name stands for, without its port.
pub(crate) fn host_of(server_name: &str) -> &str {
    match server_name.rsplit_once(':') {
        // An IPv6 literal ends with its bracket, so digits after the last colon are a port.
        Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => server_name,
    }
}

/// The address clients use: `public_baseurl`, or the server name on our HTTPS port.
pub(crate) fn base_url(settings: &Settings, https_port: Option<u16>) -> Option<String> {
    if let Some(base) = &settings.public_baseurl {
        return Some(base.clone());
    }
    let host = host_of(&settings.server_name);
    match https_port {
        Some(443) => Some(format!("https://{host}/")),
        Some(port) => Some(format!("https://{host}:{port}/")),
        None => None,
    }
}

fn client(settings: &Settings, https_port: Option<u16>) -> Option<Value> {
    let mut document = Map::new();
    document.insert("m.homeserver".to_owned(), json!({"base_url": base_url(settings, https_port)?}));
    if let Some(identity) = &settings.default_identity_server {
        document.insert("m.identity_server".to_owned(), json!({"base_url": identity}));
    }
    // As in Synapse, the extra content adds and does not replace; the edge's own may replace.
    for (key, value) in &settings.extra_well_known_client_content {
        document.entry(key.clone()).or_insert_with(|| value.clone());
    }
    if let Some(edge) = &settings.edge {
        document.extend(edge.well_known.client.clone());
    }
    Some(Value::Object(document))
}

fn server(settings: &Settings, https_port: Option<u16>) -> Option<Value> {
    let at = if let Some(edge) = &settings.edge {
        match &edge.well_known.server {
            Some(at) => at.clone(),
            None => {
                let base = Url::parse(&base_url(settings, https_port)?).ok()?;
                format!("{}:{}", base.host_str()?, base.port_or_known_default()?)
            }
        }
    } else if settings.serve_server_wellknown {
        format!("{}:443", host_of(&settings.server_name))
    } else {
        return None;
    };
    Some(json!({"m.server": at}))
}

fn bytes(value: Value) -> Bytes {
    Bytes::from(value.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use hearth_config::edge::EdgeConfig;

    use super::*;

    fn text(document: &Option<Bytes>) -> Value {
        serde_json::from_slice(document.as_ref().unwrap()).unwrap()
    }

    #[test]
    fn delegation_points_at_the_public_address() {
        let mut settings = Settings {
            server_name: "example.com".to_owned(),
            public_baseurl: Some("https://chat.example.com/".to_owned()),
            edge: Some(EdgeConfig::default()),
            default_identity_server: Some("https://id.example.com".to_owned()),
            ..Settings::default()
        };
        settings.extra_well_known_client_content.insert("org.x".to_owned(), json!(1));
        settings.extra_well_known_client_content.insert("m.homeserver".to_owned(), json!("no"));
        let docs = WellKnown::new(&settings, Some(443));
        assert_eq!(text(&docs.server), json!({"m.server": "chat.example.com:443"}));
        let client = text(&docs.client);
        assert_eq!(client["m.homeserver"]["base_url"], "https://chat.example.com/");
        assert_eq!(client["m.identity_server"]["base_url"], "https://id.example.com");
        assert_eq!(client["org.x"], 1);
        assert!(docs.support.is_none());
    }

    #[test]
    fn without_an_edge_it_is_as_in_synapse() {
        let mut settings = Settings { server_name: "example.com:8448".to_owned(), ..Settings::default() };
        let docs = WellKnown::new(&settings, None);
        assert!(docs.client.is_none() && docs.server.is_none());
        settings.serve_server_wellknown = true;
        assert_eq!(text(&WellKnown::new(&settings, None).server), json!({"m.server": "example.com:443"}));
    }

    #[test]
    fn a_host_loses_its_port_only() {
        for (name, host) in [("a.b", "a.b"), ("a.b:8448", "a.b"), ("[::1]", "[::1]"), ("[::1]:1", "[::1]")] {
            assert_eq!(host_of(name), host);
        }
    }
}
