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
use http::Request;
use http_body_util::BodyExt;
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
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

#[path = "edge/bridge.rs"]
mod bridge;
#[path = "edge/client.rs"]
mod client;
#[path = "edge/nginx.rs"]
mod nginx;

use client::{cpu_us, drive};
use nginx::Nginx;

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
    let edge = hearth_edge::Edge::new(settings, supervisor).unwrap();
    println!("{}", edge.bind().unwrap()[0].socket.unwrap().port());
    edge.serve(routers).unwrap();
    std::future::pending::<()>().await;
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

/// The edge and nginx in turns; of each the least of four measurements, since other work on the machine only adds.
fn against_nginx(runtime: &tokio::runtime::Runtime) {
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("small.js"), "x".repeat(10 * 1024)).unwrap();
    std::fs::write(files.path().join("large.bin"), vec![7; 5 << 20]).unwrap();
    println!("{:>8} {:>10} {:>12} {:>12} {:>12} {:>7}", "proto", "what", "nginx us", "with axum", "edge us", "ratio");
    let (mut axum, backend) = spawn("axum-plain", files.path());
    let nginx = Nginx::start(backend, files.path());
    let (mut edge, port) = spawn("edge-tls", files.path());
    for (proto, what, path, clients, requests) in [
        ("h1-tls", "tiny", "/_matrix/client/versions", 16, 1500),
        ("h2-tls", "tiny", "/_matrix/client/versions", 16, 1500),
        ("h1-tls", "10 KB", "/files/small.js", 16, 1000),
        ("h2-tls", "10 KB", "/files/small.js", 16, 1000),
        ("h1-tls", "5 MB", "/files/large.bin", 4, 40),
        ("h2-tls", "5 MB", "/files/large.bin", 4, 40),
    ] {
        let count = f64::from(clients * requests);
        let spent = |port: u16, pids: &[u32]| {
            let before: Vec<u64> = pids.iter().map(|pid| cpu_us(&[*pid])).collect();
            runtime.block_on(drive(port, proto, clients as usize, requests as usize, path));
            pids.iter().zip(before).map(|(pid, b)| (cpu_us(&[*pid]) - b) as f64 / count).collect::<Vec<_>>()
        };
        let (mut alone, mut whole, mut ours) = (f64::MAX, f64::MAX, f64::MAX);
        for _ in 0..4 {
            let theirs = spent(nginx.port, &[nginx.pids.clone(), vec![axum.id()]].concat());
            if theirs.iter().sum::<f64>() < whole {
                (alone, whole) = (theirs[..theirs.len() - 1].iter().sum(), theirs.iter().sum());
            }
            ours = ours.min(spent(port, &[edge.id()])[0]);
        }
        println!("{proto:>8} {what:>10} {alone:>12.1} {whole:>12.1} {ours:>12.1} {:>7.2}", ours / whole);
    }
    for child in [&mut axum, &mut edge] {
        child.kill().unwrap();
        child.wait().unwrap();
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
