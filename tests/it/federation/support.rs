//! Hearths that federate: in this process, over real TLS, each on a loopback address of its own, with certificates of an
//! authority that lives as long as the run.
//!
//! ```ignore
//! let [here, there] = Peers::two().await;
//! let (alice, bob) = (here.user("alice").await, there.user("bob").await);
//! there.goes_away();
//! ```
//! A [`Peer`] is a [`TestServer`] with a door for other servers. Its name is `127.0.0.n:port`, so nothing is looked up;
//! servers that cannot be reached are left alone for fractions of a second.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    ops::Deref,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use axum::{Router, middleware, response::IntoResponse};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use hearth_base::tasks::Supervisor;
use hearth_remote::Failure;
use hearth_rules::request::Signed;
use http::{Method, Request, header};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use ruma::{OwnedServerName, ServerName};
use rustls::{ServerConfig, crypto::ring};
use rustls_pki_types::PrivateKeyDer;
use serde_json::{Value, value::RawValue};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use crate::support::{Plan, TestServer};

/// The authority of this run.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate as a file, for `federation_custom_ca_list`.
    pub file: PathBuf,
}

/// The authority of this run.
pub fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let file = tempfile::Builder::new().suffix(".pem").tempfile().unwrap().into_temp_path().keep().unwrap();
        std::fs::write(&file, params.self_signed(&key).unwrap().pem()).unwrap();
        Authority { issuer: Issuer::new(params, key), file }
    })
}

impl Authority {
    /// Settings of a TLS server with a certificate for these names and addresses.
    pub fn certifies(&self, names: &[&str]) -> Arc<ServerConfig> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names
            .iter()
            .map(|name| match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName((*name).try_into().unwrap()),
            })
            .collect();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let secret = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], secret)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

/// A door for other servers that can be shut: connections end, and new ones are dropped. Counts who comes through.
#[derive(Clone)]
pub struct Door {
    is_open: watch::Sender<bool>,
    asked: Arc<Mutex<HashMap<String, usize>>>,
    lie: Arc<Mutex<Option<Lie>>>,
    trick: Arc<Mutex<Option<Trick>>>,
    gates: Arc<Mutex<Vec<Gate>>>,
    aside: Arc<Mutex<Option<Aside>>>,
}

/// Holds requests back until it is opened.
#[derive(Clone)]
pub struct Gate {
    part: &'static str,
    opened: watch::Sender<bool>,
    reached: watch::Sender<usize>,
}

impl Gate {
    /// Lets go on who waits, and whoever comes.
    pub fn opens(&self) {
        self.opened.send_replace(true);
    }

    /// Waits until so many requests have come to it.
    pub async fn is_reached(&self, count: usize) {
        let mut reached = self.reached.subscribe();
        let come = reached.wait_for(|n| *n >= count);
        tokio::time::timeout(Duration::from_secs(30), come).await.expect("nobody came").unwrap();
    }

    /// How many requests have come to it.
    pub fn count(&self) -> usize {
        *self.reached.borrow()
    }

    async fn passes(&self) {
        self.reached.send_modify(|n| *n += 1);
        let _ = self.opened.subscribe().wait_for(|open| *open).await;
    }
}

/// The beginning of paths that another router answers.
type Aside = (&'static str, Router);

/// Answers instead of the server: the path that was asked for, and the answer, which may be late or have no end.
pub type Trick = Arc<dyn Fn(&str) -> Option<BoxFuture<'static, axum::response::Response>> + Send + Sync>;

/// Changes an answer that is JSON: the path that was asked for, and the body.
pub type Lie = Arc<dyn Fn(&str, &mut Value) + Send + Sync>;

impl Door {
    /// An open door.
    pub fn open() -> Self {
        Self {
            is_open: watch::Sender::new(true),
            asked: Arc::default(),
            lie: Arc::default(),
            trick: Arc::default(),
            gates: Arc::default(),
            aside: Arc::default(),
        }
    }

    /// Shuts it or opens it.
    pub fn set(&self, open: bool) {
        self.is_open.send_replace(open);
    }

    fn counting(&self, router: Router) -> Router {
        let asked = self.asked.clone();
        router.layer(middleware::map_request(move |mut request: axum::extract::Request| {
            if let Some(ip) = caller(&request) {
                let peer = hearth_base::peer::Peer { ip, tls: true, listener: "federation".into() };
                request.extensions_mut().insert(peer);
            }
            *asked.lock().unwrap().entry(request.uri().path().to_owned()).or_default() += 1;
            std::future::ready(request)
        }))
    }

    fn lying(&self, router: Router) -> Router {
        let (lie, trick, gates) = (self.lie.clone(), self.trick.clone(), self.gates.clone());
        let aside = self.aside.clone();
        router.layer(middleware::from_fn(move |request: axum::extract::Request, next: middleware::Next| {
            let (lie, trick) = (lie.lock().unwrap().clone(), trick.lock().unwrap().clone());
            let aside = aside.lock().unwrap().clone();
            let path = request.uri().path().to_owned();
            let gate = gates.lock().unwrap().iter().find(|gate| path.contains(gate.part)).cloned();
            async move {
                if let Some(gate) = gate {
                    gate.passes().await;
                }
                if let Some((_, router)) = aside.filter(|(prefix, _)| path.starts_with(prefix)) {
                    return router.oneshot(request).await.unwrap().into_response();
                }
                if let Some(answer) = trick.and_then(|trick| trick(&path)) {
                    return answer.await;
                }
                let answer = next.run(request).await;
                let Some(lie) = lie else { return answer };
                let (mut parts, body) = answer.into_parts();
                let mut bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
                if let Ok(mut json) = serde_json::from_slice(&bytes) {
                    lie(&path, &mut json);
                    bytes = json.to_string().into();
                }
                parts.headers.remove(header::CONTENT_LENGTH);
                axum::response::Response::from_parts(parts, axum::body::Body::from(bytes))
            }
        }))
    }

    /// Serves a router by TLS until the stop.
    pub fn serve(&self, listener: TcpListener, tls: Arc<ServerConfig>, router: Router, supervisor: &Supervisor) {
        let (acceptor, door, stopping) = (TlsAcceptor::from(tls), self.clone(), supervisor.stopping());
        let (jobs, stop, router) = (supervisor.clone(), stopping.clone(), self.lying(self.counting(router)));
        supervisor.detach(async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = stop.cancelled() => return,
                };
                let Ok((stream, _)) = accepted else { continue };
                let mut state = door.is_open.subscribe();
                let (acceptor, router, stop) = (acceptor.clone(), router.clone(), stop.clone());
                jobs.detach(async move {
                    tokio::select! {
                        biased;
                        _ = state.wait_for(|open| !open) => {}
                        () = stop.cancelled() => {}
                        () = connection(stream, acceptor, router) => {}
                    }
                });
            }
        });
    }
}

/// The address in the name of the server that asks: on loopback all come from the same.
fn caller(request: &axum::extract::Request) -> Option<IpAddr> {
    let said = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    let name = said.split_once("origin=")?.1.trim_start_matches('"');
    name.split([':', '"', ',']).next()?.parse().ok()
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, router: Router) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let service = TowerToHyperService::new(router);
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

/// Somebody else on the web, at the address that is given: `router` by TLS until the stop of that server.
pub async fn on_the_web(last: u8, router: Router, until: &Peer) -> String {
    let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, last), 0)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let tls = authority().certifies(&[&Ipv4Addr::new(127, 0, 0, last).to_string()]);
    Door::open().serve(listener, tls, router, &until.services().supervisor);
    format!("https://{address}")
}

/// A server that federates.
#[derive(Clone)]
pub struct Peer {
    server: TestServer,
    door: Door,
    tls: Arc<ServerConfig>,
}

impl Deref for Peer {
    type Target = TestServer;

    fn deref(&self) -> &TestServer {
        &self.server
    }
}

/// Makes peers.
pub struct Peers;

impl Peers {
    /// Two servers that know nothing of each other yet.
    pub async fn two() -> [Peer; 2] {
        [Self::one(2, |plan| plan).await, Self::one(3, |plan| plan).await]
    }

    /// Three of them.
    pub async fn three() -> [Peer; 3] {
        let [one, two] = Self::two().await;
        [one, two, Self::one(4, |plan| plan).await]
    }

    /// A server on `127.0.0.<last>` that differs from the usual one.
    pub async fn one(last: u8, change: impl FnOnce(Plan) -> Plan) -> Peer {
        Self::certified(last, &Ipv4Addr::new(127, 0, 0, last).to_string(), change).await
    }

    /// A server whose certificate is for somebody else.
    pub async fn misnamed(last: u8, named: &str) -> Peer {
        Self::certified(last, named, |plan| plan).await
    }

    /// The usual server on PostgreSQL; `None`, said once, where there is none.
    pub async fn on_postgres(last: u8) -> Option<Peer> {
        let (door, tls, plan) = Self::planned(last, &Ipv4Addr::new(127, 0, 0, last).to_string()).await;
        Some(Peer { server: plan.postgres().await?, door, tls })
    }

    async fn certified(last: u8, named: &str, change: impl FnOnce(Plan) -> Plan) -> Peer {
        let (door, tls, plan) = Self::planned(last, named).await;
        Peer { server: change(plan).start().await, door, tls }
    }

    async fn planned(last: u8, named: &str) -> (Door, Arc<ServerConfig>, Plan) {
        let address = Ipv4Addr::new(127, 0, 0, last);
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let name: OwnedServerName = listener.local_addr().unwrap().to_string().try_into().unwrap();
        let (door, tls) = (Door::open(), authority().certifies(&[named]));
        let (behind, with) = (door.clone(), tls.clone());
        let plan = plan(name).behind(move |router, supervisor| behind.serve(listener, with, router, supervisor));
        (door, tls, plan)
    }
}

fn plan(name: OwnedServerName) -> Plan {
    Plan::default().named(name).services(|s| {
        s.federation.remote.custom_ca = vec![authority().file.clone()];
        s.membership.identity.remote.custom_ca = vec![authority().file.clone()];
        s.federation.remote.timeout = Duration::from_secs(20);
        s.federation.pauses.first = Duration::from_millis(200);
        s.federation.pauses.longest = Duration::from_secs(1);
        // Rooms of tests are small.
        s.federation.completion.worth_omitting = 0;
        s.federation.completion.first = Duration::from_millis(200);
        s.federation.completion.longest = Duration::from_secs(1);
        s.federation.completion.lacking_tries = 1_000;
        s.federation.held.first = Duration::from_millis(200);
        s.federation.public_rooms = true;
        // Tests ask more at once than servers do.
        s.gate.sleep_limit = 1_000;
        s.gate.concurrent = 50;
        // And what is built for tests is slow.
        s.gate.budget.burst = Duration::from_secs(600);
    })
}

/// What another server answered.
#[derive(Debug)]
pub struct Told {
    /// Its status.
    pub status: u16,
    /// Its body, `null` if that is not JSON.
    pub body: Value,
}

impl Told {
    /// The body of a success.
    #[track_caller]
    pub fn good(self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.body
    }

    /// The body of a refusal with this status and errcode.
    #[track_caller]
    pub fn refused(self, status: u16, errcode: &str) -> Value {
        assert_eq!((self.status, self.body["errcode"].as_str()), (status, Some(errcode)), "{self:?}");
        self.body
    }
}

impl Peer {
    /// Other servers find nobody here until [`Self::comes_back`]; what this server asks still goes out.
    pub fn goes_away(&self) {
        self.door.set(false);
    }

    /// The end of [`Self::goes_away`].
    pub fn comes_back(&self) {
        self.door.set(true);
    }

    /// Stops it and starts it again, under the same name and on what it left behind.
    pub async fn restarts(self) -> Self {
        let Self { server, door, tls } = self;
        let (name, keys) = (server.name().to_owned(), server.services().settings.server_keys.clone());
        let (behind, with, at) = (door.clone(), tls.clone(), name.to_string());
        let again = plan(name).services(|s| s.server_keys = keys).behind(move |router, supervisor| {
            let listener = std::net::TcpListener::bind(at).unwrap();
            listener.set_nonblocking(true).unwrap();
            behind.serve(TcpListener::from_std(listener).unwrap(), with, router, supervisor);
        });
        Self { server: again.after(server).await, door, tls }
    }

    /// Holds back requests of other servers for paths with this in them.
    pub fn holds(&self, part: &'static str) -> Gate {
        let gate = Gate { part, opened: watch::Sender::new(false), reached: watch::Sender::new(0) };
        self.door.gates.lock().unwrap().push(gate.clone());
        gate
    }

    /// Changes what other servers are answered, or with `None` tells the truth again.
    pub fn lies(&self, lie: Option<Lie>) {
        *self.door.lie.lock().unwrap() = lie;
    }

    /// Answers other servers in another way than a server does, or with `None` as one again.
    pub fn tricks(&self, trick: Option<Trick>) {
        *self.door.trick.lock().unwrap() = trick;
    }

    /// Has another router answer paths that begin so.
    pub fn also_serves(&self, prefix: &'static str, router: Router) {
        *self.door.aside.lock().unwrap() = Some((prefix, router));
    }

    /// Takes no transactions any more: gives what was in them.
    pub fn keeps_transactions(&self) -> impl Fn() -> Value + Clone + Send + use<> {
        let got: Arc<Mutex<Vec<Value>>> = Arc::default();
        let keep = got.clone();
        let keeps = Router::new().fallback(move |body: String| {
            keep.lock().unwrap().push(serde_json::from_str(&body).unwrap());
            std::future::ready(([(header::CONTENT_TYPE, "application/json")], r#"{"pdus":{}}"#))
        });
        self.also_serves("/_matrix/federation/v1/send/", keeps);
        move || Value::Array(got.lock().unwrap().clone())
    }

    /// How often other servers asked for a path.
    pub fn was_asked(&self, path: &str) -> usize {
        self.door.asked.lock().unwrap().get(path).copied().unwrap_or_default()
    }

    /// How often other servers asked for paths with this in them.
    pub fn was_asked_for(&self, part: &str) -> usize {
        self.door.asked.lock().unwrap().iter().filter(|(path, _)| path.contains(part)).map(|(_, n)| n).sum()
    }

    /// GET from another server, signed.
    pub async fn asks(&self, other: &Peer, path: &str) -> Told {
        self.calls(other, Method::GET, path, None).await
    }

    /// POST to another server, signed.
    pub async fn posts(&self, other: &Peer, path: &str, body: Value) -> Told {
        self.calls(other, Method::POST, path, Some(body)).await
    }

    /// Any request to another server, signed properly.
    pub async fn calls(&self, other: &Peer, method: Method, path: &str, body: Option<Value>) -> Told {
        let authorization = self.signature(other.name(), &method, path, body.as_ref());
        self.sends(other, method, path, body, Some(authorization)).await
    }

    /// The same with a body that is sent as it is spelled.
    pub async fn calls_with(&self, other: &Peer, method: Method, path: &str, body: Box<RawValue>) -> Told {
        let authorization = self.signature_over(other.name(), &method, path, body.get());
        self.sends_text(other, method, path, body.get().to_owned(), Some(authorization)).await
    }

    /// What stands in the `Authorization` header of a request to `destination`.
    pub fn signature(&self, destination: &ServerName, method: &Method, path: &str, body: Option<&Value>) -> String {
        self.signature_over(destination, method, path, &body.map(ToString::to_string).unwrap_or_default())
    }

    fn signature_over(&self, destination: &ServerName, method: &Method, path: &str, body: &str) -> String {
        let signer = self.services().server_keys.signer();
        let (origin, key_id) = (self.name().as_str(), signer.key_id());
        let signed = Signed { origin, destination: destination.as_str(), method: method.as_str(), uri: path, body };
        let sig = signer.sign_text(&signed.text().unwrap());
        format!(r#"X-Matrix origin="{origin}",destination="{destination}",key="{key_id}",sig="{sig}""#)
    }

    /// Any request to another server with any `Authorization`.
    pub async fn sends(
        &self,
        other: &Peer,
        method: Method,
        path: &str,
        body: Option<Value>,
        authorization: Option<String>,
    ) -> Told {
        let body = body.map(|b| b.to_string()).unwrap_or_default();
        self.sends_text(other, method, path, body, authorization).await
    }

    async fn sends_text(
        &self,
        other: &Peer,
        method: Method,
        path: &str,
        body: String,
        authorization: Option<String>,
    ) -> Told {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let remote = self.services().federation.remote();
        let ended = remote.exchange(other.name(), request.body(Bytes::from(body)).unwrap(), remote.once()).await;
        match ended {
            Ok(answer) => Told {
                status: answer.status().as_u16(),
                body: serde_json::from_slice(answer.body()).unwrap_or(Value::Null),
            },
            Err(Failure::Refused(refusal)) => Told {
                status: refusal.status.as_u16(),
                body: serde_json::from_slice(&refusal.body).unwrap_or(Value::Null),
            },
            Err(e) => panic!("{} did not answer: {e}", other.name()),
        }
    }
}
