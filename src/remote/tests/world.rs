//! A small internet on loopback: a name server, a web server for well-known documents, and homeservers that answer with
//! what they saw.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use hearth_base::{clock::Clock, tasks::Supervisor};
use hearth_rules::Signer;
use hickory_resolver::proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata},
};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::{ServerConfig, crypto::ring};
use rustls_pki_types::PrivateKeyDer;
use tokio::net::{TcpListener, UdpSocket};
use tokio_rustls::TlsAcceptor;

use crate::{Settings, federation::Federation};

/// Where the web server is.
pub const WEB: &str = "127.0.0.20";

/// Names below `.test` that its certificate is for. (`*.test` would be a wildcard right below the root.)
const NAMED: [&str; 22] = [
    "a", "b", "to-ip", "to-port", "to-name", "own", "old", "none", "large", "good", "moved", "plain", "loop", "bad0",
    "bad1", "bad2", "bad3", "bad4", "bad5", "bad6", "bad7", "bad8",
];

/// What a server saw of a request.
#[derive(Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Saw {
    /// `Host`, or `:authority`.
    pub host: String,
    /// The name in the handshake.
    pub sni: Option<String>,
}

/// How a server answers.
#[derive(Clone)]
pub enum Answer {
    /// With what it saw.
    Seen,
    /// With this.
    Body(StatusCode, Vec<(String, String)>, String),
    /// Not at all.
    Never,
    /// By closing the connection.
    HangUp,
}

#[derive(Default)]
struct Zone {
    records: HashMap<(String, RecordType), Vec<RData>>,
    documents: HashMap<String, Answer>,
    asked: HashMap<String, usize>,
}

/// The small internet; it ends when this is dropped.
pub struct World {
    zone: Arc<Mutex<Zone>>,
    dns: SocketAddr,
    web: u16,
    issuer: Issuer<'static, KeyPair>,
    ca: tempfile::NamedTempFile,
    supervisor: Supervisor,
}

impl Drop for World {
    fn drop(&mut self) {
        self.supervisor.begin_stop();
    }
}

/// A homeserver.
pub struct Served {
    /// Its port.
    pub port: u16,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    connections: AtomicUsize,
    requests: AtomicUsize,
}

impl Served {
    /// Requests so far.
    pub fn asked(&self) -> usize {
        self.counts.requests.load(Ordering::SeqCst)
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::SeqCst)
    }
}

impl World {
    /// An internet without names.
    pub async fn start() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let ca = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(ca.path(), params.self_signed(&key).unwrap().pem()).unwrap();
        let issuer = Issuer::new(params, key);
        let supervisor = Supervisor::new();
        let zone = Arc::<Mutex<Zone>>::default();

        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let dns = socket.local_addr().unwrap();
        let (answering, stop) = (zone.clone(), supervisor.stopping());
        supervisor.detach(async move {
            let mut buffer = [0; 1500];
            loop {
                let (size, from) = tokio::select! {
                    () = stop.cancelled() => return,
                    received = socket.recv_from(&mut buffer) => received.unwrap(),
                };
                let answer = answering.lock().answer(&Message::from_vec(&buffer[..size]).unwrap());
                socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
            }
        });
        let mut world = Self { zone, dns, web: 0, issuer, ca, supervisor };
        let zone = world.zone.clone();
        let names: Vec<String> = NAMED.iter().map(|name| format!("{name}.test")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let web = world.serve(WEB, world.certified(&names), move |saw, _| {
            let host = saw.host.split(':').next().unwrap_or_default().to_owned();
            let mut zone = zone.lock();
            *zone.asked.entry(host.clone()).or_default() += 1;
            zone.documents.get(&host).cloned().unwrap_or(Answer::Body(StatusCode::NOT_FOUND, Vec::new(), String::new()))
        });
        world.web = web.await.port;
        world
    }

    /// Where names are asked for.
    pub fn name_server(&self) -> SocketAddr {
        self.dns
    }

    /// The port of the web server.
    pub fn web_port(&self) -> u16 {
        self.web
    }

    /// Gives a name an address.
    pub fn address(&self, name: &str, address: &str) {
        let data = match address.parse().unwrap() {
            IpAddr::V4(v4) => (RecordType::A, RData::A(rdata::A(v4))),
            IpAddr::V6(v6) => (RecordType::AAAA, RData::AAAA(rdata::AAAA(v6))),
        };
        self.zone.lock().records.entry((name.to_owned(), data.0)).or_default().push(data.1);
    }

    /// Gives a name an SRV record.
    pub fn service(&self, name: &str, target: &str, port: u16) {
        let srv = rdata::SRV::new(0, 0, port, format!("{target}.").parse().unwrap());
        self.zone.lock().records.entry((name.to_owned(), RecordType::SRV)).or_default().push(RData::SRV(srv));
    }

    /// Gives a name to the web server, which answers like this.
    pub fn web(&self, name: &str, answer: Answer) {
        if self.zone.lock().documents.insert(name.to_owned(), answer).is_none() {
            self.address(name, WEB);
        }
    }

    /// Gives a name a well-known document.
    pub fn delegates(&self, name: &str, document: &str) {
        self.web(name, Answer::Body(StatusCode::OK, Vec::new(), document.to_owned()));
    }

    /// How often the web server was asked in that name.
    pub fn asked_web(&self, name: &str) -> usize {
        self.zone.lock().asked.get(name).copied().unwrap_or_default()
    }

    /// A homeserver at an address, with a certificate for these names.
    pub async fn server(&self, address: &str, names: &[&str], answer: Answer) -> Served {
        self.serve(address, self.certified(names), move |_, _| answer.clone()).await
    }

    /// One that answers each request as it is told.
    pub async fn answering(
        &self,
        address: &str,
        answer: impl Fn(&Request<Incoming>) -> Answer + Clone + Send + Sync + 'static,
    ) -> Served {
        self.serve(address, self.certified(&[address]), move |_, request| answer(request)).await
    }

    /// One that signed its certificate itself, as one of an authority; and that in a file.
    pub async fn own_authority(&self, address: &str, names: &[&str]) -> (Served, tempfile::NamedTempFile) {
        let mut params = named(names);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), certificate.pem()).unwrap();
        (self.serve(address, shown(&certificate, &key), |_, _| Answer::Seen).await, file)
    }

    async fn serve(
        &self,
        address: &str,
        certificate: Arc<ServerConfig>,
        answer: impl Fn(&Saw, &Request<Incoming>) -> Answer + Clone + Send + Sync + 'static,
    ) -> Served {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let counts = Arc::<Counts>::default();
        let (acceptor, counting) = (TlsAcceptor::from(certificate), counts.clone());
        let (supervisor, stop) = (self.supervisor.clone(), self.supervisor.stopping());
        self.supervisor.detach(async move {
            loop {
                let stream = tokio::select! {
                    () = stop.cancelled() => return,
                    accepted = listener.accept() => accepted.unwrap().0,
                };
                let (acceptor, counts, answer, stop) =
                    (acceptor.clone(), counting.clone(), answer.clone(), stop.clone());
                let connection = async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    counts.connections.fetch_add(1, Ordering::SeqCst);
                    let sni = stream.get_ref().1.server_name().map(str::to_owned);
                    let service = service_fn(move |request: Request<Incoming>| {
                        counts.requests.fetch_add(1, Ordering::SeqCst);
                        let host = request.uri().authority().map(|a| a.to_string());
                        let header = request.headers().get("host").map(|h| h.to_str().unwrap().to_owned());
                        let saw = Saw { host: host.or(header).unwrap(), sni: sni.clone() };
                        respond(answer(&saw, &request), saw)
                    });
                    let _ =
                        auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
                };
                supervisor.detach(async move {
                    tokio::select! {
                        () = connection => {}
                        () = stop.cancelled() => {}
                    }
                });
            }
        });
        Served { port, counts }
    }

    fn certified(&self, names: &[&str]) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        shown(&named(names).signed_by(&key, &self.issuer).unwrap(), &key)
    }

    /// What asks in this internet.
    pub fn federation(&self, change: impl FnOnce(&mut Settings)) -> Federation {
        self.federation_at(&Clock::new(), change)
    }

    /// The same with hands on its clock.
    pub fn federation_at(&self, clock: &Clock, change: impl FnOnce(&mut Settings)) -> Federation {
        let ca: PathBuf = self.ca.path().to_owned();
        let mut settings = Settings {
            custom_ca: vec![ca],
            well_known_port: self.web,
            name_server: Some(self.dns),
            ..Settings::default()
        };
        change(&mut settings);
        let signer = Signer::new("here.test".try_into().unwrap(), &[1; 32], "a").unwrap();
        Federation::new(settings, Arc::new(signer), clock.clone()).unwrap()
    }
}

fn named(names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    let san = |name: &&str| match name.parse::<IpAddr>() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName((*name).try_into().unwrap()),
    };
    params.subject_alt_names = names.iter().map(san).collect();
    params
}

fn shown(certificate: &rcgen::Certificate, key: &KeyPair) -> Arc<ServerConfig> {
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

async fn respond(answer: Answer, saw: Saw) -> io::Result<Response<Full<Bytes>>> {
    let (status, headers, body) = match answer {
        Answer::Seen => (StatusCode::OK, Vec::new(), serde_json::to_string(&saw).unwrap()),
        Answer::Body(status, headers, body) => (status, headers, body),
        Answer::Never => std::future::pending().await,
        Answer::HangUp => return Err(io::ErrorKind::ConnectionAborted.into()),
    };
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    Ok(response.body(Full::new(body.into())).unwrap())
}

impl Zone {
    fn answer(&self, question: &Message) -> Message {
        let query = question.queries[0].clone();
        let name = query.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
        let mut answer = Message::response(question.metadata.id, OpCode::Query);
        answer.metadata.recursion_desired = true;
        answer.metadata.recursion_available = true;
        let records = self.records.get(&(name.clone(), query.query_type()));
        let is_known = self.records.keys().any(|(known, _)| *known == name);
        if !is_known {
            answer.metadata.response_code = ResponseCode::NXDomain;
        }
        let owner: Name = query.name().clone();
        answer.add_query(query);
        for data in records.into_iter().flatten() {
            answer.add_answer(Record::from_rdata(owner.clone(), 60, data.clone()));
        }
        answer
    }
}
