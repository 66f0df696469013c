//! One connection: admitted, shaken hands with, and served by hyper until it ends, idles or the server stops.

use std::{
    convert::Infallible,
    future::Future,
    net::{IpAddr, Ipv4Addr},
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use axum::body::Body;
use http::{Request, Response, Version};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use pingora_core::{
    apps::ServerApp,
    protocols::{ALPN, GetSocketDigest, Ssl, Stream, l4::stream::Stream as L4Stream},
    server::ShutdownWatch,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    time::timeout,
};
use tracing::{debug, trace};

use super::{
    Door,
    activity::{Activity, Running},
    io::Guarded,
    proxied,
    sending::Sending,
};
use crate::{Shared, dispatch, limits::body::Arriving};

/// What Pingora calls for each connection of a listener.
pub(crate) struct DoorApp {
    pub shared: Arc<Shared>,
    pub door: Arc<Door>,
}

/// What a request knows of its connection.
#[derive(Clone)]
pub(crate) struct Caller {
    pub shared: Arc<Shared>,
    pub door: Arc<Door>,
    /// The other end of the connection: a client, or a proxy.
    pub ip: IpAddr,
    /// Whether there is an address at all (a Unix socket has none).
    pub unix: bool,
    pub activity: Arc<Activity>,
}

/// The first bytes of HTTP/2 with prior knowledge; no HTTP/1 request begins so.
const H2_START: &[u8; 3] = b"PRI";

#[async_trait]
impl ServerApp for DoorApp {
    async fn process_new(self: &Arc<Self>, stream: Stream, _stop: &ShutdownWatch) -> Option<Stream> {
        // Our services have no TLS of Pingora's, so its stream is always the bare one.
        let stream = stream.into_any().downcast::<L4Stream>().ok()?;
        tokio::select! {
            () = self.shared.abort.cancelled() => {}
            () = self.connection(*stream) => {}
        }
        None
    }
}

impl DoorApp {
    async fn connection(&self, mut stream: L4Stream) {
        let live = self.shared.live.load_full();
        let address = stream.get_socket_digest().and_then(|d| d.peer_addr().and_then(|a| a.as_inet().copied()));
        let mut ip = address.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |a| a.ip().to_canonical());
        // A trusted proxy, and a balancer, stand for many callers.
        let is_balancer = self.door.own && live.balancers.believes(ip);
        let uncounted = is_balancer || (self.door.x_forwarded && (address.is_none() || live.trust.believes(ip)));
        let refused = |ip: IpAddr| trace!(listener = %self.door.name, %ip, "connection refused, too many");
        let Some(mut pass) = self.shared.gate.admit(&live.limits, ip, uncounted) else { return refused(ip) };
        if is_balancer {
            let named = tokio::select! {
                named = timeout(live.limits.handshake_timeout, proxied::read(&mut stream)) => named,
                () = self.shared.stopping.cancelled() => return,
            };
            match named {
                Ok(Ok((caller, begun))) => {
                    stream.rewind(&begun);
                    if let Some(caller) = caller {
                        ip = caller;
                        if !pass.count(&live.limits, ip) {
                            return refused(ip);
                        }
                    }
                }
                Ok(Err(_)) | Err(_) => {
                    metrics::counter!("hearth_edge_refused_total", "why" => "proxy_protocol").increment(1);
                    return debug!(listener = %self.door.name, %ip, "connection refused, it names no caller by the PROXY protocol");
                }
            }
        }
        let activity = Arc::new(Activity::new(pass, self.shared.open.token()));
        let caller =
            Caller { shared: self.shared.clone(), door: self.door.clone(), ip, unix: address.is_none(), activity };
        if self.door.tls { self.secure(caller, stream).await } else { self.plain(caller, stream).await }
    }

    async fn secure(&self, caller: Caller, stream: L4Stream) {
        let patience = self.shared.live.load().limits.handshake_timeout;
        // Nothing was asked yet that a stop would have to wait for.
        let handshake = tokio::select! {
            done = timeout(patience, Box::pin(self.shared.acceptor.tls_handshake(stream))) => done,
            () = self.shared.stopping.cancelled() => return,
        };
        let stream = match handshake {
            Ok(Ok(stream)) => stream,
            Ok(Err(e)) => {
                metrics::counter!("hearth_edge_handshakes_failed_total").increment(1);
                return debug!(ip = %caller.ip, error = %e, "TLS handshake failed");
            }
            Err(_) => {
                metrics::counter!("hearth_edge_handshakes_failed_total").increment(1);
                return debug!(ip = %caller.ip, "TLS handshake took too long");
            }
        };
        match stream.selected_alpn_proto() {
            Some(ALPN::H2) => Box::pin(self.http2(caller, stream)).await,
            // An ACME authority has seen its certificate and wants nothing more.
            Some(ALPN::Custom(_)) => {}
            _ => Box::pin(self.http1(caller, stream)).await,
        }
    }

    async fn plain(&self, caller: Caller, mut stream: L4Stream) {
        let patience = self.shared.live.load().limits.header_timeout;
        let mut start = [0; H2_START.len()];
        let stopping = self.shared.stopping.cancelled();
        tokio::select! {
            read = timeout(patience, stream.read_exact(&mut start)) => {
                let Ok(Ok(_)) = read else { return };
            }
            () = stopping => return,
        }
        stream.rewind(&start);
        if &start == H2_START {
            Box::pin(self.http2(caller, stream)).await;
        } else {
            Box::pin(self.http1(caller, stream)).await;
        }
    }

    async fn http1<S>(&self, caller: Caller, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limits = self.shared.live.load().limits.clone();
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_headers(limits.headers)
            .max_header_size(limits.header_size)
            .max_buf_size(BUFFER.max(limits.header_size));
        let activity = caller.activity.clone();
        let stopping = self.shared.stopping.clone();
        let stream = Guarded::new(stream, limits.body_timeout).lingering(activity.unread.clone(), stopping);
        let io = TokioIo::new(stream);
        let mut connection = pin!(http.serve_connection(io, caller).with_upgrades());
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            // Half a head is no request: hyper would wait for the rest of it.
            () = self.shared.stopping.cancelled() => if activity.is_unused() { return } else {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(e) = ended {
            debug!(listener = %self.door.name, error = %e, "connection ended badly");
        }
    }

    async fn http2<S>(&self, caller: Caller, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limits = self.shared.live.load().limits.clone();
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .max_concurrent_streams(limits.h2_streams)
            .max_header_list_size(u32::try_from(limits.header_size).unwrap_or(u32::MAX))
            .max_pending_accept_reset_streams(H2_RESETS)
            .max_local_error_reset_streams(H2_LOCAL_RESETS)
            .max_send_buf_size(BUFFER)
            .keep_alive_interval(limits.header_timeout)
            .keep_alive_timeout(H2_PING_TIMEOUT);
        let (activity, ip) = (caller.activity.clone(), caller.ip);
        let io = TokioIo::new(Guarded::new(stream, limits.body_timeout));
        let mut connection = pin!(http.serve_connection(io, caller));
        let mut idle = pin!(activity.idle(limits.header_timeout));
        let mut stalled = pin!(activity.stalled(limits.body_timeout));
        let mut stop = pin!(self.shared.stopping.cancelled());
        let mut leaving = false;
        let ended = loop {
            tokio::select! {
                ended = connection.as_mut() => break ended,
                () = stalled.as_mut() => {
                    return debug!(listener = %self.door.name, %ip, "connection closed, its client takes nothing");
                }
                () = idle.as_mut() => {
                    // hyper would wait for ever for whoever has not even begun, or does not leave when told to.
                    if leaving || activity.is_unused() {
                        return;
                    }
                    idle.set(activity.idle(limits.header_timeout));
                }
                () = stop.as_mut(), if !leaving => if activity.is_unused() { return },
            }
            leaving = true;
            connection.as_mut().graceful_shutdown();
        };
        if let Err(e) = ended {
            debug!(listener = %self.door.name, error = %e, "connection ended badly");
        }
    }
}

/// What hyper may hold of a message on its way in or out.
const BUFFER: usize = 128 * 1024;
/// Streams that a client may open and reset before we have looked at them (CVE-2023-44487).
const H2_RESETS: usize = 20;
/// Streams that we may have to reset because of a client's errors before it is thrown out.
const H2_LOCAL_RESETS: usize = 128;
/// How long a client may take to answer a ping.
const H2_PING_TIMEOUT: Duration = Duration::from_secs(20);

impl hyper::service::Service<Request<Incoming>> for Caller {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let caller = self.clone();
        Box::pin(async move {
            let running = Running::new(&caller.activity);
            let version = request.version();
            let unread = &caller.activity.unread;
            unread.store(false, Ordering::Relaxed);
            let request = request.map(|body| Arriving::new(body, version, &caller.shared.supervisor, unread));
            let response = dispatch::answer(&caller, request).await;
            // What stalls by HTTP/1 stalls the socket, and is seen there.
            Ok(if version == Version::HTTP_2 { response.map(|body| Sending::body(body, running)) } else { response })
        })
    }
}
