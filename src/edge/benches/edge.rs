//! CPU a request at the edge, one way of serving against another, in one run on one machine.
//!
//! `cargo bench -p hearth-edge` starts each way as a child process, drives it over loopback with the same client and
//! reads the child's CPU time from /proc. Only ratios within one run mean anything. An argument picks the table:
//! `gate` (plain axum, Pingora's HTTP bridged, hyper on Pingora's stream), `nginx` (the whole edge against nginx).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Instant,
};

use axum::{Router, routing::get};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use pingora_core::{
    apps::ServerApp,
    listeners::{ListenerConfig, tls::Acceptor},
    protocols::{
        Stream,
        l4::stream::{L4BufferSettings, Stream as L4Stream},
    },
    server::{ListenFds, ShutdownWatch},
    services::{Service as _, listening::Service},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tower::ServiceExt;

fn app() -> Router {
    Router::new().route(
        "/_matrix/client/versions",
        get(|| async {
            ([("content-type", "application/json")], r#"{"versions":["v1.11","v1.12"],"unstable_features":{}}"#)
        }),
    )
}

fn tls_config() -> rustls::ServerConfig {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let chain = vec![CertificateDer::from(key.cert.der().to_vec())];
    let secret = PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let mut config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, secret).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

/// Plain axum: tokio's listener, rustls, hyper.
async fn serve_axum(tls: bool) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap().port());
    let acceptor = TlsAcceptor::from(Arc::new(tls_config()));
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let http = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let service = TowerToHyperService::new(app());
            if tls {
                let io = TokioIo::new(acceptor.accept(tcp).await.unwrap());
                let _ = http.serve_connection_with_upgrades(io, service).await;
            } else {
                let _ = http.serve_connection_with_upgrades(TokioIo::new(tcp), service).await;
            }
        });
    }
}

/// Way (b): hyper on Pingora's stream.
struct HyperApp {
    tls: Option<Acceptor>,
    router: Router,
}

#[async_trait::async_trait]
impl ServerApp for HyperApp {
    async fn process_new(self: &Arc<Self>, io: Stream, _shutdown: &ShutdownWatch) -> Option<Stream> {
        let http = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        let service = TowerToHyperService::new(self.router.clone());
        let l4 = *io.into_any().downcast::<L4Stream>().unwrap();
        if let Some(tls) = &self.tls {
            let io = TokioIo::new(tls.tls_handshake(l4).await.unwrap());
            let _ = http.serve_connection_with_upgrades(io, service).await;
        } else {
            let _ = http.serve_connection_with_upgrades(TokioIo::new(l4), service).await;
        }
        None
    }
}

/// Way (a): Pingora's HTTP and proxy phases, bridged in `request_filter`.
mod bridge {
    use axum::body::Body;
    use pingora_core::{apps::HttpServerApp, upstreams::peer::HttpPeer};
    use pingora_http::ResponseHeader;
    use pingora_proxy::{HttpProxy, ProxyHttp, Session};

    use super::{Acceptor, Arc, BodyExt, L4Stream, Request, Router, ServerApp, ServiceExt, ShutdownWatch, Stream};

    pub struct Bridge {
        pub router: Router,
    }

    #[async_trait::async_trait]
    impl ProxyHttp for Bridge {
        type CTX = ();

        fn new_ctx(&self) {}

        async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> pingora_core::Result<Box<HttpPeer>> {
            Err(pingora_core::Error::new_str("no upstream"))
        }

        async fn request_filter(&self, session: &mut Session, (): &mut ()) -> pingora_core::Result<bool> {
            session.as_downstream_mut().set_pipelining_enabled(true);
            let head = session.req_header();
            let mut request = Request::new(Body::empty());
            *request.method_mut() = head.method.clone();
            *request.uri_mut() = head.uri.clone();
            *request.headers_mut() = head.headers.clone();
            let mut answer = std::pin::pin!(self.router.clone().oneshot(request));
            let response = tokio::select! {
                biased;
                response = &mut answer => response,
                _ = session.as_downstream_mut().read_body_or_idle(true) => return Ok(true),
            };
            let (parts, mut body) = response.unwrap().into_parts();
            session.write_response_header(Box::new(ResponseHeader::from(parts)), false).await?;
            while let Some(frame) = body.frame().await {
                if let Ok(data) = frame.unwrap().into_data() {
                    session.write_response_body(Some(data), false).await?;
                }
            }
            session.write_response_body(None, true).await?;
            Ok(true)
        }
    }

    pub struct BridgeApp {
        pub tls: Option<Acceptor>,
        pub proxy: Arc<HttpProxy<Bridge>>,
    }

    #[async_trait::async_trait]
    impl ServerApp for BridgeApp {
        async fn process_new(self: &Arc<Self>, io: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
            let io: Stream = if let Some(tls) = &self.tls {
                let l4 = *io.into_any().downcast::<L4Stream>().unwrap();
                Box::new(tls.tls_handshake(l4).await.unwrap())
            } else {
                io
            };
            self.proxy.process_new(io, shutdown).await
        }

        async fn cleanup(&self) {
            self.proxy.http_cleanup().await;
        }
    }
}

async fn serve_pingora<A: ServerApp + Send + Sync + 'static>(app: A, buffers: L4BufferSettings) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    println!("{}", address.port());
    let mut fds = pingora_core::server::Fds::new();
    fds.add(address.to_string(), std::os::fd::IntoRawFd::into_raw_fd(listener));
    let fds: ListenFds = Arc::new(parking_lot::Mutex::new(fds));
    let mut service = Service::new("edge".to_owned(), app);
    service.add_listener(ListenerConfig::tcp(address.to_string()).l4_buffer(buffers));
    let (_stop, watch) = tokio::sync::watch::channel(false);
    service.start_service(Some(fds), watch, 1).await;
}

fn serve(mode: &str) {
    let (way, tls) = mode.split_once('-').unwrap();
    let tls = tls == "tls";
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let acceptor = tls.then(|| Acceptor::from_server_config(Arc::new(tls_config())));
    match way {
        "axum" => runtime.block_on(serve_axum(tls)),
        "hyper" => {
            let buffers = L4BufferSettings::new(if tls { 16 * 1024 } else { 0 }, 0);
            runtime.block_on(serve_pingora(HyperApp { tls: acceptor, router: app() }, buffers));
        }
        "bridge" => {
            let conf = Arc::new(pingora_core::server::configuration::ServerConf::default());
            let mut proxy = pingora_proxy::HttpProxy::new(bridge::Bridge { router: app() }, conf);
            proxy.handle_init_modules();
            let app = bridge::BridgeApp { tls: acceptor, proxy: Arc::new(proxy) };
            runtime.block_on(serve_pingora(app, L4BufferSettings::new(16 * 1024, 16 * 1024)));
        }
        "edge" => runtime.block_on(serve_edge()),
        other => panic!("unknown way {other}"),
    }
}

/// The whole edge: a homeserver's stand-in, and the folder named by the environment at `/files`.
async fn serve_edge() {
    use hearth_config::edge::{EdgeConfig, Ports, WebApp};
    let mut edge = EdgeConfig::default();
    edge.listen.addresses = vec!["127.0.0.1".parse().unwrap()];
    (edge.listen.http, edge.listen.https, edge.listen.federation) = (Ports::none(), Ports::one(0), Ports::none());
    let folder = std::env::var_os("BENCH_FILES").unwrap().into();
    edge.apps = vec![WebApp { folder, at: "/files".parse().unwrap(), spa: false, headers: Default::default() }];
    let settings = hearth_edge::Settings {
        server_name: "localhost".to_owned(),
        data_dir: "/nonexistent".into(),
        edge: Some(edge),
        ..Default::default()
    };
    let routers = hearth_edge::Routers { app: app(), metrics: Router::new() };
    let supervisor = hearth_base::tasks::Supervisor::new();
    let edge = hearth_edge::Edge::new(settings, routers, supervisor).unwrap();
    println!("{}", edge.bind().unwrap()[0].socket.unwrap().port());
    edge.serve().unwrap();
    std::future::pending::<()>().await;
}

/// nginx as the tutorial has it: TLS, HTTP/2, a proxy to a plain axum, a folder.
struct Nginx {
    master: Child,
    pids: Vec<u32>,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Nginx {
    fn start(backend: u16, files: &std::path::Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(path("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(path("key.pem"), made.signing_key.serialize_pem()).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let conf = format!(
            "user root; worker_processes 2; daemon off; pid {pid}; error_log stderr crit;
             events {{ worker_connections 1024; }}
             http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000;
               client_body_temp_path {tmp}; proxy_temp_path {tmp}; fastcgi_temp_path {tmp}; uwsgi_temp_path {tmp};
               scgi_temp_path {tmp};
               upstream app {{ server 127.0.0.1:{backend}; keepalive 64; keepalive_requests 100000000; }}
               server {{ listen 127.0.0.1:{port} ssl http2; ssl_certificate {cert}; ssl_certificate_key {key};
                 location /files/ {{ alias {files}/; }}
                 location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection \"\";
                   proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;
                   proxy_set_header X-Forwarded-Proto $scheme; }} }} }}",
            pid = path("pid"),
            tmp = path("tmp"),
            cert = path("cert.pem"),
            key = path("key.pem"),
            files = files.display(),
        );
        std::fs::write(path("nginx.conf"), conf).unwrap();
        let master = Command::new("nginx").args(["-c", &path("nginx.conf")]).spawn().unwrap();
        let children = format!("/proc/{0}/task/{0}/children", master.id());
        let pids = loop {
            let text = std::fs::read_to_string(&children).unwrap();
            let pids: Vec<u32> = text.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
            if pids.len() == 2 && std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                break pids;
            }
            std::thread::yield_now();
        };
        Self { master, pids, port, _folder: folder }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.master.id().to_string()).status();
        let _ = self.master.wait();
    }
}

#[derive(Debug)]
struct AnyCertificate;

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// CPU time of a process so far, user and system, in microseconds.
fn cpu_us(pids: &[u32]) -> u64 {
    pids.iter()
        .map(|pid| {
            // Sum over threads: schedstat counts nanoseconds where stat counts 10 ms ticks.
            std::fs::read_dir(format!("/proc/{pid}/task"))
                .unwrap()
                .filter_map(|task| {
                    let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
                    text.split_whitespace().next()?.parse::<u64>().ok()
                })
                .sum::<u64>()
                / 1000
        })
        .sum()
}

async fn one_h1<I>(io: I, requests: usize, path: &str)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut send, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..requests {
        let request = Request::get(path).header("host", "localhost").body(Empty::<Bytes>::new()).unwrap();
        send.ready().await.unwrap();
        let response = send.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.unwrap();
    }
}

/// Drives `clients` at once, `requests` each, and returns when all are done.
async fn drive(port: u16, proto: &str, clients: usize, requests: usize, path: &'static str) {
    let mut config = rustls::ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    config.alpn_protocols = vec![if proto == "h2-tls" { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("localhost").unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    if proto == "h2-tls" {
        for _ in 0..2 {
            let tcp = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            tcp.set_nodelay(true).unwrap();
            let io = TokioIo::new(connector.connect(name.clone(), tcp).await.unwrap());
            let (send, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            for _ in 0..clients / 2 {
                let mut send = send.clone();
                tasks.spawn(async move {
                    let uri = format!("https://localhost{path}");
                    for _ in 0..requests {
                        let request = Request::get(&uri).body(Empty::<Bytes>::new()).unwrap();
                        send.ready().await.unwrap();
                        let response = send.send_request(request).await.unwrap();
                        assert_eq!(response.status(), 200);
                        response.into_body().collect().await.unwrap();
                    }
                });
            }
        }
    } else {
        for _ in 0..clients {
            let (connector, name, tls) = (connector.clone(), name.clone(), proto == "h1-tls");
            tasks.spawn(async move {
                let tcp = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                tcp.set_nodelay(true).unwrap();
                if tls {
                    one_h1(TokioIo::new(connector.connect(name, tcp).await.unwrap()), requests, path).await;
                } else {
                    one_h1(TokioIo::new(tcp), requests, path).await;
                }
            });
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

fn spawn(mode: &str, files: &std::path::Path) -> (Child, u16) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["serve", mode])
        .env("BENCH_FILES", files)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (child, line.trim().parse().unwrap())
}

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|a| a == "serve") {
        serve(&args[1]);
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if args.iter().any(|a| a == "gate") { gate(&runtime) } else { against_nginx(&runtime) }
}

/// The edge and nginx side by side, two rounds.
fn against_nginx(runtime: &tokio::runtime::Runtime) {
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("small.js"), "x".repeat(10 * 1024)).unwrap();
    std::fs::write(files.path().join("large.bin"), vec![7; 5 << 20]).unwrap();
    println!("{:>8} {:>10} {:>12} {:>12} {:>12} {:>7}", "proto", "what", "nginx us", "with axum", "edge us", "ratio");
    for _round in 0..2 {
        for (proto, what, path, clients, requests) in [
            ("h1-tls", "tiny", "/_matrix/client/versions", 16, 3000),
            ("h2-tls", "tiny", "/_matrix/client/versions", 16, 3000),
            ("h1-tls", "10 KB", "/files/small.js", 16, 2000),
            ("h2-tls", "10 KB", "/files/small.js", 16, 2000),
            ("h1-tls", "5 MB", "/files/large.bin", 4, 60),
            ("h2-tls", "5 MB", "/files/large.bin", 4, 60),
        ] {
            let count = f64::from(clients * requests);
            let mut spent = |port: u16, pids: &[u32]| {
                let (clients, requests) = (clients as usize, requests as usize);
                runtime.block_on(drive(port, proto, clients, requests / 10, path));
                let before: Vec<u64> = pids.iter().map(|pid| cpu_us(&[*pid])).collect();
                runtime.block_on(drive(port, proto, clients, requests, path));
                pids.iter().zip(before).map(|(pid, b)| (cpu_us(&[*pid]) - b) as f64 / count).collect::<Vec<_>>()
            };
            let (mut axum, backend) = spawn("axum-plain", files.path());
            let nginx = Nginx::start(backend, files.path());
            let theirs = spent(nginx.port, &[nginx.pids.clone(), vec![axum.id()]].concat());
            let (alone, whole) = (theirs[..theirs.len() - 1].iter().sum::<f64>(), theirs.iter().sum::<f64>());
            drop(nginx);
            axum.kill().unwrap();
            axum.wait().unwrap();
            let (mut edge, port) = spawn("edge-tls", files.path());
            let ours = spent(port, &[edge.id()])[0];
            edge.kill().unwrap();
            edge.wait().unwrap();
            println!("{proto:>8} {what:>10} {alone:>12.1} {whole:>12.1} {ours:>12.1} {:>7.2}", ours / whole);
        }
    }
}

/// The ways among which the gate decided.
fn gate(runtime: &tokio::runtime::Runtime) {
    println!("{:>8} {:>8} {:>12} {:>10}", "proto", "way", "us/request", "req/s");
    for _round in 0..2 {
        for proto in ["h1", "h1-tls", "h2-tls"] {
            for way in ["axum", "bridge", "hyper"] {
                let tls = if proto == "h1" { "plain" } else { "tls" };
                let (mut child, port) = spawn(&format!("{way}-{tls}"), std::path::Path::new("/"));
                let path = "/_matrix/client/versions";
                runtime.block_on(drive(port, proto, 16, 500, path));
                let (before, start) = (cpu_us(&[child.id()]), Instant::now());
                let (clients, requests) = (16, 4000);
                runtime.block_on(drive(port, proto, clients, requests, path));
                let count = (clients * requests) as f64;
                let spent = (cpu_us(&[child.id()]) - before) as f64;
                println!("{proto:>8} {way:>8} {:>12.1} {:>10.0}", spent / count, count / start.elapsed().as_secs_f64());
                child.kill().unwrap();
                child.wait().unwrap();
            }
        }
    }
}
