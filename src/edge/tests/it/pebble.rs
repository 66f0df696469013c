//! A private ACME authority for a test: pebble with a resolver that knows every name at 127.0.0.1. The stories of the
//! whole server (`tests/it`) use this file as well.

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::net::TcpStream;

pub struct Pebble {
    pub directory: String,
    /// The root that the directory's own certificate hangs on.
    pub ca_root: PathBuf,
    management: SocketAddr,
    children: Vec<Child>,
    _folder: tempfile::TempDir,
}

/// Where the two programs are. Without them the tests are skipped with one line, but not in CI.
pub fn found() -> bool {
    let here = |name: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
    };
    if here("pebble") && here("pebble-challtestsrv") {
        return true;
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "pebble and pebble-challtestsrv are needed in CI");
    #[expect(clippy::print_stderr, reason = "the one line that says the test was skipped")]
    {
        eprintln!("skipped: no pebble (go install github.com/letsencrypt/pebble/v2/cmd/...@v2.10.1)");
    }
    false
}

/// A port for a program that must be told its port beforehand: below those that the system hands out, never the same
/// twice in this process, and another range for each process.
pub fn free() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let base = std::process::id() % 100 * 100;
    loop {
        let n = u16::try_from(20_000 + (base + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000).unwrap();
        let at = SocketAddr::from(([127, 0, 0, 1], n));
        if TcpListener::bind(at).is_ok() && std::net::UdpSocket::bind(at).is_ok() {
            return at;
        }
    }
}

async fn until_open(at: SocketAddr) {
    let connecting = async {
        while TcpStream::connect(at).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), connecting).await.expect("pebble did not start");
}

fn localhost_certificate(folder: &Path) {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::default();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    std::fs::write(folder.join("ca.pem"), ca.self_signed(&ca_key).unwrap().pem()).unwrap();
    let issuer = rcgen::Issuer::from_params(&ca, &ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    std::fs::write(folder.join("cert.pem"), leaf.signed_by(&key, &issuer).unwrap().pem()).unwrap();
    std::fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
}

impl Pebble {
    /// Starts one that looks for HTTP-01 and TLS-ALPN-01 at these ports; `more` lies over its configuration.
    pub async fn start(http: u16, tls: u16, more: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        localhost_certificate(folder.path());
        let (listen, management, dns, dns_management) = (free(), free(), free(), free());
        let file = |name: &str| folder.path().join(name).display().to_string();
        let mut config = json!({
            "listenAddress": listen.to_string(), "managementListenAddress": management.to_string(),
            "certificate": file("cert.pem"), "privateKey": file("key.pem"), "httpPort": http, "tlsPort": tls,
            "ocspResponderURL": "", "externalAccountBindingRequired": false,
            "domainBlocklist": ["blocked.example"], "retryAfter": {"authz": 0, "order": 0},
            "profiles": {"default": {"description": "ninety days", "validityPeriod": 90 * 86400}},
        });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        std::fs::write(folder.path().join("pebble.json"), json!({"pebble": config}).to_string()).unwrap();
        let resolver = Command::new("pebble-challtestsrv")
            .args(["-dnsserver", &dns.to_string(), "-management", &dns_management.to_string()])
            .args(["-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""])
            .args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", ""])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pebble = Command::new("pebble")
            .args(["-config", &file("pebble.json"), "-dnsserver", &dns.to_string()])
            .env("PEBBLE_VA_NOSLEEP", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let started = Self {
            directory: format!("https://localhost:{}/dir", listen.port()),
            ca_root: folder.path().join("ca.pem"),
            management,
            children: vec![pebble, resolver],
            _folder: folder,
        };
        for at in [dns_management, management, listen] {
            until_open(at).await;
        }
        started
    }

    fn client(&self) -> reqwest::Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let ca = reqwest::Certificate::from_pem(&std::fs::read(&self.ca_root).unwrap()).unwrap();
        reqwest::Client::builder().user_agent("hearth-test").no_proxy().tls_certs_only([ca]).build().unwrap()
    }

    /// The root of the certificates that this authority signs.
    pub async fn issuing_root(&self) -> reqwest::Certificate {
        let url = format!("https://{}/roots/0", self.management);
        let pem = self.client().get(url).send().await.unwrap().bytes().await.unwrap();
        reqwest::Certificate::from_pem(&pem).unwrap()
    }

    /// Has the authority ask for the renewal of a certificate (RFC 9773) between two moments.
    pub async fn ask_renewal(&self, certificate: &str, start: &str, end: &str) {
        let window = json!({"suggestedWindow": {"start": start, "end": end}}).to_string();
        let body = json!({"Certificate": certificate, "ARIResponse": window}).to_string();
        let url = format!("https://{}/set-renewal-info/", self.management);
        let response = self.client().post(url).body(body).send().await.unwrap();
        assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
    }

    pub fn stop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.children.clear();
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        self.stop();
    }
}
