//! A running edge for a test, and clients for it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::Body,
    extract::Request,
    routing::{any, get, post},
};
use hearth_base::{peer::Peer, tasks::Supervisor};
use hearth_config::edge::EdgeConfig;
use hearth_edge::{
    Edge, Routers, Settings,
    settings::{Listener, Place, Resources, Serves},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Notify, mpsc},
};

/// What the stand-in for the homeserver tells the test.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    /// A long-poll began.
    Polling,
    /// A long-poll was dropped before its answer.
    Dropped,
}

pub struct Front {
    pub edge: Arc<Edge>,
    pub supervisor: Supervisor,
    routers: Routers,
    pub seen: mpsc::UnboundedReceiver<Seen>,
    /// Ends all long-polls.
    pub news: Arc<Notify>,
    pub data: tempfile::TempDir,
    pub settings: Settings,
}

/// Settings for example.com served by chat.example.com, on free ports of loopback with a local authority.
pub fn settings(edge: &str) -> Settings {
    let mut edge: EdgeConfig = serde_yaml::from_str(edge).unwrap();
    edge.listen.addresses = vec!["127.0.0.1".parse().unwrap()];
    for ports in [&mut edge.listen.http, &mut edge.listen.https, &mut edge.listen.federation] {
        for bind in &mut ports.0 {
            bind.port = 0;
        }
    }
    Settings {
        server_name: "example.com".to_owned(),
        public_baseurl: Some("https://chat.example.com/".to_owned()),
        max_upload_size: 1024 * 1024,
        edge: Some(edge),
        ..Settings::default()
    }
}

pub fn listener(name: &str, x_forwarded: bool, resources: &[&str]) -> Listener {
    Listener {
        key: "listeners[0]".to_owned(),
        name: name.to_owned(),
        place: Place::Tcp(vec!["127.0.0.1:0".parse().unwrap()]),
        tls: false,
        x_forwarded,
        compress: false,
        serves: Serves::Http(Resources::from_names(resources.iter().copied()).unwrap()),
    }
}

fn json(body: Value) -> ([(&'static str, &'static str); 1], String) {
    ([("content-type", "application/json")], body.to_string())
}

struct TellDropped(mpsc::UnboundedSender<Seen>, bool);

impl Drop for TellDropped {
    fn drop(&mut self) {
        if !self.1 {
            let _ = self.0.send(Seen::Dropped);
        }
    }
}

fn stand_in(tell: mpsc::UnboundedSender<Seen>, news: Arc<Notify>) -> Router {
    let sync = move || {
        let (tell, news) = (tell.clone(), news.clone());
        async move {
            let mut told = TellDropped(tell.clone(), false);
            let wake = news.notified();
            let _ = tell.send(Seen::Polling);
            wake.await;
            told.1 = true;
            json(json!({"next_batch": "s1"}))
        }
    };
    Router::new()
        .route("/", get(|| async { "status page" }))
        .route("/health", get(|| async { "OK" }))
        .route("/_matrix/client/versions", get(|| async { json(json!({"versions": ["v1.12"]})) }))
        .route(
            "/_matrix/client/whoami",
            get(|Extension(peer): Extension<Peer>| async move {
                json(json!({"ip": peer.ip.to_string(), "tls": peer.tls, "listener": &*peer.listener}))
            }),
        )
        .route("/_matrix/client/sync", get(sync))
        .route("/_matrix/federation/v1/version", get(|| async { json(json!({})) }))
        .route("/_synapse/admin/v1/server_version", get(|| async { json(json!({"server_version": "x"})) }))
        .route("/_matrix/client/echo", any(|request: Request| async { Body::new(request.into_body()) }))
        .route("/_matrix/client/long", get(|| async { json(json!(vec!["the same"; 1000])) }))
        .route("/_matrix/client/length", post(|body: bytes::Bytes| async move { body.len().to_string() }))
        .route("/_matrix/media/v3/download/evil", get(|| async { ([("content-type", "text/html")], "<script>") }))
        .layer(axum::extract::DefaultBodyLimit::disable())
}

impl Front {
    /// Starts an edge with these settings in a data directory of its own.
    pub fn open(settings: Settings) -> Self {
        Self::open_in(settings, tempfile::tempdir().unwrap())
    }

    pub fn open_in(settings: Settings, data: tempfile::TempDir) -> Self {
        let front = Self::bound(settings, data);
        front.serve();
        front
    }

    /// An edge that has its ports and does not answer yet.
    pub fn bound(mut settings: Settings, data: tempfile::TempDir) -> Self {
        settings.data_dir = data.path().to_owned();
        let (tell, seen) = mpsc::unbounded_channel();
        let news = Arc::new(Notify::new());
        let metrics = Router::new().route("/_synapse/metrics", get(|| async { "metric 1" }));
        let routers = Routers { app: stand_in(tell, news.clone()), metrics };
        let supervisor = Supervisor::new();
        let edge = Edge::new(settings.clone(), supervisor.clone()).unwrap();
        edge.bind().unwrap();
        Self { edge: Arc::new(edge), supervisor, routers, seen, news, data, settings }
    }

    /// Begins to answer.
    pub fn serve(&self) {
        self.edge.serve(self.routers.clone()).unwrap();
    }

    /// The socket of a listener.
    pub fn at(&self, listener: &str) -> SocketAddr {
        let found = self.edge.addresses().into_iter().find(|a| &*a.listener == listener);
        found.unwrap_or_else(|| panic!("no listener {listener}")).socket.unwrap()
    }

    /// Sends bytes as they are and gives back all that is answered until the other side closes.
    pub async fn raw(&self, listener: &str, request: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(self.at(listener)).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// The local authority, for those who speak TLS themselves.
    pub fn roots(&self) -> rustls::RootCertStore {
        use rustls_pki_types::{CertificateDer, pem::PemObject};
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.edge.local_ca().unwrap()).unwrap()).unwrap();
        roots
    }

    /// A client that trusts the local authority and finds all names at a listener.
    pub fn client(&self, listener: &str, http2: bool) -> reqwest::Client {
        let ca = std::fs::read(self.edge.local_ca().unwrap()).unwrap();
        let ca = reqwest::Certificate::from_pem(&ca).unwrap();
        let builder = client_builder(&[self.at(listener)], http2).tls_certs_only([ca]);
        builder.build().unwrap()
    }
}

/// A client that resolves every test name to this address and follows no redirects.
pub fn client_builder(at: &[SocketAddr], http2: bool) -> reqwest::ClientBuilder {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(20));
    for name in [
        "example.com",
        "chat.example.com",
        "element.example.com",
        "admin.example.com",
        "my-example.com",
        "chat.my-example.com",
    ] {
        builder = builder.resolve_to_addrs(name, at);
    }
    if http2 { builder } else { builder.http1_only() }
}

/// A client without TLS roots of its own, for plain listeners.
pub fn plain() -> reqwest::Client {
    client_builder(&[], false).build().unwrap()
}
