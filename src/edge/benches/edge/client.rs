//! The load: clients over loopback, each asking again as soon as it is answered; and what the server spent on it.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

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
pub fn cpu_us(pids: &[u32]) -> u64 {
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
pub async fn drive(port: u16, proto: &str, clients: usize, requests: usize, path: &'static str) {
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
