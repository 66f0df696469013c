//! An open connection as hyper's client wants it, whatever it goes over.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// An open connection.
pub struct Wire {
    io: TokioIo<Box<dyn Stream>>,
    is_http2: bool,
    /// Requests name the whole address, not its path alone (RFC 9112, 3.2.2).
    is_proxied: bool,
    _open: Option<Open>,
}

/// How many connections to each authority are open or being opened.
#[derive(Clone, Debug, Default)]
pub(super) struct Opened(Arc<Mutex<HashMap<String, usize>>>);

impl Opened {
    /// One more to an authority; and whether there are others.
    pub(super) fn one_more(&self, authority: &str) -> (Open, bool) {
        let mut opened = self.0.lock();
        let count = opened.entry(authority.to_owned()).or_default();
        *count += 1;
        (Open { opened: self.clone(), authority: authority.to_owned() }, *count > 1)
    }
}

/// A connection that is open or being opened.
#[derive(Debug)]
pub(super) struct Open {
    opened: Opened,
    authority: String,
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut opened = self.opened.0.lock();
        if let Some(count) = opened.get_mut(&self.authority) {
            *count -= 1;
            if *count == 0 {
                opened.remove(&self.authority);
            }
        }
    }
}

impl Wire {
    pub(super) fn new(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        is_http2: bool,
        is_proxied: bool,
    ) -> Self {
        Self { io: TokioIo::new(Box::new(stream)), is_http2, is_proxied, _open: None }
    }

    /// Counted as open for as long as it is.
    pub(super) fn counted(self, open: Open) -> Self {
        Self { _open: Some(open), ..self }
    }
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

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
}
