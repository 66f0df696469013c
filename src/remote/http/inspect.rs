//! A look at one address of a server, for reports to administrators: its certificate, whether it is trusted, and what it
//! answers. Nothing here is pooled or tried again.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use super::{Dialer, read};
use crate::{Failure, discovery::Authority};

/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of an answer.
const MAX_ANSWER: usize = 128 << 10;

/// A certificate as it was shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    /// Names and addresses it is for.
    pub names: Vec<String>,
    /// Who signed it.
    pub issuer: String,
    /// From when and until when it holds, seconds since 1970.
    pub holds: (i64, i64),
}

/// What one address has.
#[derive(Debug)]
pub struct Inspection {
    /// The version of TLS.
    pub tls: String,
    /// Its certificate.
    pub certificate: Certificate,
    /// Why the certificate is not trusted, if it is not.
    pub distrust: Option<String>,
    /// What it answered to each of the paths that were asked for.
    pub answers: Vec<Result<(StatusCode, Bytes), Failure>>,
}

impl Dialer {
    /// Looks at one address of an authority, and asks it for `paths`.
    ///
    /// # Errors
    /// If there is nobody who speaks TLS.
    pub async fn inspect(
        &self,
        authority: &Authority,
        address: SocketAddr,
        paths: &[&str],
    ) -> Result<Inspection, Failure> {
        let (strict, lax) = self.tls().for_inspection(authority.host());
        let (stream, distrust) = match self.hands(authority, address, strict).await {
            Ok(stream) => (stream, None),
            Err(Failure::Unreachable(why)) if why.starts_with(TLS) => {
                (self.hands(authority, address, lax).await?, Some(why.trim_start_matches(TLS).to_owned()))
            }
            Err(e) => return Err(e),
        };
        let connection = stream.get_ref().1;
        let tls = connection.protocol_version().map(|v| format!("{v:?}")).unwrap_or_default();
        let shown = connection.peer_certificates().and_then(|chain| chain.first());
        let certificate = shown.map(|der| certificate(der)).unwrap_or_default();
        let answers = ask(authority, stream, paths).await;
        Ok(Inspection { tls, certificate, distrust, answers })
    }

    async fn hands(
        &self,
        authority: &Authority,
        address: SocketAddr,
        config: Arc<ClientConfig>,
    ) -> Result<TlsStream<TcpStream>, Failure> {
        let tcp = self.dial(address).await?;
        let shaken = timeout(PATIENCE, TlsConnector::from(config).connect(authority.certificate_name()?, tcp)).await;
        shaken.map_err(|_| Failure::TimedOut(PATIENCE))?.map_err(|e| Failure::Unreachable(format!("{TLS}{e}")))
    }
}

/// How a failed handshake begins.
const TLS: &str = "TLS failed: ";

async fn ask(
    authority: &Authority,
    stream: TlsStream<TcpStream>,
    paths: &[&str],
) -> Vec<Result<(StatusCode, Bytes), Failure>> {
    let broken = |e: hyper::Error| Failure::Unreachable(format!("the connection broke: {e}"));
    let (mut sender, connection) = match http1::handshake(TokioIo::new(stream)).await {
        Ok(both) => both,
        Err(e) => return vec![Err(broken(e))],
    };
    let asking = async move {
        let mut answers = Vec::new();
        for path in paths {
            let one = async {
                let request = Request::builder().uri(*path).header(header::HOST, authority.as_str());
                let request = request.body(Empty::<Bytes>::new()).map_err(|e| Failure::Ours(e.to_string()))?;
                sender.ready().await.map_err(broken)?;
                let answer = sender.send_request(request).await.map_err(broken)?;
                Ok((answer.status(), read(answer.into_body(), MAX_ANSWER).await?))
            };
            answers.push(timeout(PATIENCE, one).await.unwrap_or(Err(Failure::TimedOut(PATIENCE))));
        }
        answers
    };
    futures_util::pin_mut!(asking, connection);
    match futures_util::future::select(asking, connection).await {
        futures_util::future::Either::Left((answers, _)) => answers,
        // It was closed before all was asked: what is left fails by itself.
        futures_util::future::Either::Right((_, asking)) => asking.await,
    }
}

fn certificate(der: &[u8]) -> Certificate {
    let Ok((_, parsed)) = X509Certificate::from_der(der) else { return Certificate::default() };
    let names = parsed.subject_alternative_name().ok().flatten();
    let names = names.map(|san| san.value.general_names.iter().filter_map(name_of).collect());
    let holds = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
    Certificate { names: names.unwrap_or_default(), issuer: parsed.issuer().to_string(), holds }
}

fn name_of(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match *bytes {
            [a, b, c, d] => Some(std::net::Ipv4Addr::new(*a, *b, *c, *d).to_string()),
            bytes => Some(std::net::Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_string()),
        },
        _ => None,
    }
}
