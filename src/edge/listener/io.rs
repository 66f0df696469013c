//! A stream whose writes may not stall: a client that takes nothing for too long loses its connection. And one that is
//! not closed on whoever still sends: see [`linger`].

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

mod linger;

pub(crate) use linger::Unread;

use linger::Lingering;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};
use tokio_util::sync::CancellationToken;

/// A stream with a deadline on writes that make no progress. The timer is made at the first stall only.
pub(crate) struct Guarded<S> {
    stream: S,
    patience: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    stalled: bool,
    lingering: Option<Lingering>,
}

impl<S> Guarded<S> {
    pub fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, timer: None, stalled: false, lingering: None }
    }

    /// The same, closed only after what is on its way of a body that nobody read, until the server stops.
    pub fn lingering(self, unread: Unread, stopping: CancellationToken) -> Self {
        Self { lingering: Some(Lingering::new(unread, stopping)), ..self }
    }

    /// Passes on what a write said; a stall that outlasts our patience becomes an error.
    fn watch<T>(&mut self, cx: &mut Context<'_>, said: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if said.is_ready() {
            self.stalled = false;
            return said;
        }
        let patience = self.patience;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(patience)));
        if !self.stalled {
            self.stalled = true;
            timer.as_mut().reset(Instant::now() + patience);
        }
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let said = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch(cx, said)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let said = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch(cx, said)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let said = Pin::new(&mut self.stream).poll_flush(cx);
        self.watch(cx, said)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.as_ref().is_none_or(|lingering| !lingering.has_begun()) {
            let said = Pin::new(&mut self.stream).poll_shutdown(cx);
            ready!(self.watch(cx, said))?;
        }
        let this = &mut *self;
        match &mut this.lingering {
            Some(lingering) => lingering.poll(&mut this.stream, cx).map(Ok),
            None => Poll::Ready(Ok(())),
        }
    }
}
