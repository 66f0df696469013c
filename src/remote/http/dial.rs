//! Opens connections: finds the addresses of an authority, leaves out those that may not be dialled, tries the rest one
//! shortly after the other, and shakes hands.
//!
//! Addresses are judged here and nowhere else, on what is about to be dialled, so no name, redirect or change of DNS
//! between two looks leads to an address that is forbidden.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use hearth_base::Result as Done;
use http::{Uri, uri::Scheme};
use ipnet::IpNet;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    tls::Tls,
    wire::{Opened, Wire},
};
use crate::{
    Failure, Settings,
    discovery::{Authority, Host, Lookup, Place, dns::Dns},
};

/// How long a connection to one host may take to stand.
const CONNECT: Duration = Duration::from_secs(10);
/// How long it may take to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// When the next address is tried while an earlier one has not answered (RFC 8305).
const STAGGER: Duration = Duration::from_millis(250);
/// Where a web server without TLS listens.
const HTTP_PORT: u16 = 80;

/// A proxy that opens tunnels (`CONNECT`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// `host:port`.
    pub address: String,
    /// What goes into `Proxy-Authorization`.
    pub authorization: Option<String>,
    /// Hosts, domains (`.example.org`) and ranges that are reached without it.
    pub not_for: Vec<String>,
}

/// Opens connections. Clones are the same. As a [`tower::Service`] it is what the clients pool.
#[derive(Clone)]
pub struct Dialer(Arc<Inner>);

struct Inner {
    dns: Dns,
    lookup: Lookup,
    tls: Tls,
    deny: Vec<IpNet>,
    allow: Vec<IpNet>,
    proxy: Option<Proxy>,
    /// The proxy for what goes without TLS.
    plain_proxy: Option<Proxy>,
    opened: Opened,
}

impl Dialer {
    pub(crate) fn new(settings: &Settings, plain_proxy: Option<Proxy>, dns: Dns, lookup: Lookup) -> Done<Self> {
        Ok(Self(Arc::new(Inner {
            dns,
            lookup,
            tls: Tls::new(settings)?,
            deny: settings.deny.clone(),
            allow: settings.allow.clone(),
            proxy: settings.proxy.clone(),
            plain_proxy,
            opened: Opened::default(),
        })))
    }

    /// A connection for requests to an address: with TLS, but for `http`. One alone speaks HTTP/1.1, which is less work for
    /// both sides when one thing is asked after the other; who asks several at once has them share a second one, by HTTP/2
    /// where that is spoken.
    async fn wire(&self, uri: &Uri) -> Result<Wire, Failure> {
        let authority = uri.authority().map_or("", |a| a.as_str());
        if uri.scheme() != Some(&Scheme::HTTP) {
            let (open, others) = self.0.opened.one_more(authority);
            let stream = self.open(&Authority::parse(authority)?, others).await?;
            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            return Ok(Wire::new(stream, is_http2, false).counted(open));
        }
        let authority = match uri.port() {
            Some(_) => Authority::parse(authority)?,
            None => Authority::parse(&format!("{authority}:{HTTP_PORT}"))?,
        };
        let proxy = self.plain_proxy(&authority);
        let stream = self.open_plain(&authority, proxy).await?;
        Ok(Wire::new(stream, false, proxy.is_some()))
    }

    /// The proxy by which an authority is reached without TLS.
    pub(crate) fn plain_proxy(&self, authority: &Authority) -> Option<&Proxy> {
        self.0.plain_proxy.as_ref().filter(|proxy| !proxy.is_bypassed(authority))
    }

    /// Where an authority listens.
    ///
    /// # Errors
    /// If DNS does not say.
    pub async fn places(&self, authority: &Authority) -> Result<Vec<Place>, Failure> {
        Place::find(authority, self.0.lookup, &self.0.dns).await
    }

    /// Whether an address may be dialled.
    #[must_use]
    pub fn may_dial(&self, address: IpAddr) -> bool {
        let within = |nets: &[IpNet]| {
            let plain = address.to_canonical();
            nets.iter().any(|net| net.contains(&address) || net.contains(&plain))
        };
        within(&self.0.allow) || !within(&self.0.deny)
    }

    /// A connection in the name of an authority, by the first place that has one; `many` as [`Tls::for_host`].
    pub(crate) async fn open(&self, authority: &Authority, many: bool) -> Result<TlsStream<TcpStream>, Failure> {
        if let Some(proxy) = self.0.proxy.as_ref().filter(|p| !p.is_bypassed(authority)) {
            // Names are looked up by the proxy; an address that is forbidden is so behind it, too.
            self.check_literal(authority)?;
            let port = authority.port().unwrap_or(match self.0.lookup {
                Lookup::Server => crate::discovery::PORT,
                Lookup::Web(port) => port,
            });
            let tcp =
                timeout(CONNECT, proxy.tunnel(authority, port)).await.map_err(|_| Failure::TimedOut(CONNECT))??;
            return self.shake(authority, tcp, many).await;
        }
        let mut failure = Failure::Unreachable(format!("{authority} has no address"));
        for place in self.places(authority).await? {
            match self.open_at(authority, &place.addresses, many).await {
                Ok(stream) => return Ok(stream),
                Err(e) => failure = e,
            }
        }
        Err(failure)
    }

    /// A connection to a web server that speaks without TLS, or to the proxy that stands before it.
    async fn open_plain(&self, authority: &Authority, proxy: Option<&Proxy>) -> Result<TcpStream, Failure> {
        if let Some(proxy) = proxy {
            self.check_literal(authority)?;
            let tcp =
                timeout(CONNECT, TcpStream::connect(&proxy.address)).await.map_err(|_| Failure::TimedOut(CONNECT))?;
            return tcp.map_err(|e| Failure::Unreachable(format!("the proxy {} failed: {e}", proxy.address)));
        }
        let addresses: Vec<SocketAddr> =
            self.places(authority).await?.into_iter().flat_map(|place| place.addresses).collect();
        let tcp = self.reach(authority, &addresses).await?;
        let _ = tcp.set_nodelay(true);
        Ok(tcp)
    }

    fn check_literal(&self, authority: &Authority) -> Result<(), Failure> {
        match authority.host() {
            Host::Ip(address) if !self.may_dial(*address) => Err(forbidden(authority)),
            _ => Ok(()),
        }
    }

    /// A connection to the first of a host's addresses that answers.
    ///
    /// # Errors
    /// [`Failure::Forbidden`] if none of them may be dialled.
    async fn open_at(
        &self,
        authority: &Authority,
        addresses: &[SocketAddr],
        many: bool,
    ) -> Result<TlsStream<TcpStream>, Failure> {
        let tcp = self.reach(authority, addresses).await?;
        self.shake(authority, tcp, many).await
    }

    /// The first of a host's addresses that may be dialled and answers.
    async fn reach(&self, authority: &Authority, addresses: &[SocketAddr]) -> Result<TcpStream, Failure> {
        let allowed: Vec<SocketAddr> = addresses.iter().copied().filter(|a| self.may_dial(a.ip())).collect();
        if allowed.is_empty() {
            return Err(forbidden(authority));
        }
        let tcp = timeout(CONNECT, first_of(&allowed)).await.map_err(|_| Failure::TimedOut(CONNECT))?;
        tcp.map_err(|e| Failure::Unreachable(format!("{authority} ({}) does not listen: {e}", list(&allowed))))
    }

    pub(super) fn tls(&self) -> &Tls {
        &self.0.tls
    }

    /// A TCP connection to one address, if it may be dialled.
    pub(super) async fn dial(&self, address: SocketAddr) -> Result<TcpStream, Failure> {
        if !self.may_dial(address.ip()) {
            return Err(Failure::Forbidden(format!("{address} may not be dialled from here")));
        }
        let tcp = timeout(CONNECT, TcpStream::connect(address)).await.map_err(|_| Failure::TimedOut(CONNECT))?;
        tcp.map_err(|e| Failure::Unreachable(format!("nobody listens at {address}: {e}")))
    }

    async fn shake(&self, authority: &Authority, tcp: TcpStream, many: bool) -> Result<TlsStream<TcpStream>, Failure> {
        let _ = tcp.set_nodelay(true);
        let connector = TlsConnector::from(self.0.tls.for_host(authority.host(), many));
        let shaken = timeout(HANDSHAKE, connector.connect(authority.certificate_name()?, tcp)).await;
        let shaken = shaken.map_err(|_| Failure::TimedOut(HANDSHAKE))?;
        shaken.map_err(|e| Failure::Unreachable(format!("TLS with {authority} failed: {e}")))
    }
}

fn forbidden(authority: &Authority) -> Failure {
    Failure::Forbidden(format!("{authority} has no address that may be dialled"))
}

fn list(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ")
}

/// Dials addresses one [`STAGGER`] after the other, or at once when the one before has failed; the first that answers.
async fn first_of(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut waiting = addresses.iter();
    let mut dialled = FuturesUnordered::new();
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        if let Some(address) = waiting.next() {
            dialled.push(TcpStream::connect(*address));
        }
        if dialled.is_empty() {
            return Err(failure);
        }
        let next = if waiting.len() == 0 {
            dialled.next().await
        } else {
            futures_util::select_biased! {
                ended = dialled.next().fuse() => ended,
                () = tokio::time::sleep(STAGGER).fuse() => None,
            }
        };
        match next {
            Some(Ok(stream)) => return Ok(stream),
            Some(Err(e)) => failure = e,
            None => {}
        }
    }
}

/// Bytes of a proxy's answer to `CONNECT`.
const MAX_PROXY_ANSWER: usize = 8 << 10;

impl Proxy {
    /// Reads `[http://][user:password@]host[:port]`; `None` for what is no such address.
    #[must_use]
    pub fn parse(address: &str, not_for: &[String]) -> Option<Self> {
        let address = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
        let url = url::Url::parse(&address).ok().filter(|u| u.scheme() == "http")?;
        let authorization = (!url.username().is_empty()).then(|| {
            let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
            let pair = format!("{}:{}", decode(url.username()), decode(url.password().unwrap_or_default()));
            format!("Basic {}", STANDARD.encode(pair))
        });
        let address = format!("{}:{}", url.host_str()?, url.port().unwrap_or(1080));
        Some(Self { address, authorization, not_for: not_for.to_vec() })
    }

    pub(crate) fn is_bypassed(&self, authority: &Authority) -> bool {
        self.not_for.iter().any(|rule| match authority.host() {
            Host::Ip(ip) => {
                rule == "*"
                    || rule.parse::<IpAddr>().is_ok_and(|r| r == *ip)
                    || rule.parse::<IpNet>().is_ok_and(|net| net.contains(ip))
            }
            Host::Name(name) => {
                let domain = rule.trim_start_matches("*.").trim_start_matches('.').to_ascii_lowercase();
                rule == "*" || *name == domain || name.strip_suffix(&domain).is_some_and(|rest| rest.ends_with('.'))
            }
        })
    }

    /// A tunnel through the proxy, which looks up the name itself.
    async fn tunnel(&self, authority: &Authority, port: u16) -> Result<TcpStream, Failure> {
        let broken = |what: String| Failure::Unreachable(format!("the proxy {} failed: {what}", self.address));
        let mut stream = TcpStream::connect(&self.address).await.map_err(|e| broken(e.to_string()))?;
        let host = match authority.port() {
            Some(_) => authority.to_string(),
            None => format!("{authority}:{port}"),
        };
        let mut request = format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n");
        if let Some(authorization) = &self.authorization {
            request.push_str(&format!("Proxy-Authorization: {authorization}\r\n"));
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await.map_err(|e| broken(e.to_string()))?;
        // Byte by byte: what follows the empty line is TLS already.
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() >= MAX_PROXY_ANSWER {
                return Err(broken("its answer does not end".to_owned()));
            }
            answer.push(stream.read_u8().await.map_err(|e| broken(e.to_string()))?);
        }
        let status = std::str::from_utf8(&answer).ok().and_then(|a| a.split(' ').nth(1)).unwrap_or_default().to_owned();
        if status == "200" { Ok(stream) } else { Err(broken(format!("it answered {status}"))) }
    }
}

impl tower::Service<Uri> for Dialer {
    type Response = Wire;
    type Error = Arc<Failure>;
    type Future = Pin<Box<dyn Future<Output = Result<Wire, Arc<Failure>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Arc<Failure>>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dialer = self.clone();
        Box::pin(async move { dialer.wire(&uri).await.map_err(Arc::new) })
    }
}
