//! Connections to web servers, with TLS and without, straight or through a proxy.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    Failure,
    discovery::Authority,
    http::{Dialer, Proxy},
};

/// Opens them.
#[derive(Clone)]
pub(super) struct Connector {
    dialer: Dialer,
    http_proxy: Option<Arc<Proxy>>,
}

impl Connector {
    pub(super) fn new(dialer: Dialer, http_proxy: Option<Proxy>) -> Self {
        Self { dialer, http_proxy: http_proxy.map(Arc::new) }
    }

    async fn open(self, uri: Uri) -> Result<Wire, Failure> {
        let is_tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let authority = Authority::parse(&format!("{}:{port}", uri.host().unwrap_or_default()))?;
        if is_tls {
            let stream = self.dialer.open(&authority).await?;
            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            return Ok(Wire { io: TokioIo::new(Box::new(stream)), is_http2, is_proxied: false });
        }
        let proxy = self.http_proxy.as_deref().filter(|proxy| !proxy.is_bypassed(&authority));
        let stream = self.dialer.open_plain(&authority, proxy).await?;
        Ok(Wire { io: TokioIo::new(Box::new(stream)), is_http2: false, is_proxied: proxy.is_some() })
    }
}

impl tower::Service<Uri> for Connector {
    type Response = Wire;
    type Error = Arc<Failure>;
    type Future = Pin<Box<dyn Future<Output = Result<Wire, Arc<Failure>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Arc<Failure>>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let opened = self.clone().open(uri);
        Box::pin(async move { opened.await.map_err(Arc::new) })
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// An open connection.
pub(super) struct Wire {
    io: TokioIo<Box<dyn Stream>>,
    is_http2: bool,
    /// Requests name the whole address, not its path alone (RFC 9112, 3.2.2).
    is_proxied: bool,
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        let connected = Connected::new().proxy(self.is_proxied);
        if self.is_http2 { connected.negotiated_h2() } else { connected }
    }
}

impl Read for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl Write for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
