//! A body on its way: a request's is bounded in size, and any is cut off when its sender falls silent.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{BoxError, body::Body};
use bytes::Bytes;
use hearth_base::tasks::Supervisor;
use http::Version;
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep, timeout};

/// Of a request by HTTP/2 that is answered before its body was read, so much is taken in all the same, for so long.
const LEFT_OVER: usize = 8 << 20;
const LINGER: Duration = Duration::from_secs(2);

/// A request's body as hyper reads it. What nobody reads of one by HTTP/2 is taken in for a moment: hyper resets its stream
/// right behind the answer, which RFC 9113 (8.1) allows, but clients that still send (curl 7) take for a failure. By HTTP/1
/// the connection is told, which then does not close on whoever still sends.
pub(crate) struct Arriving {
    inner: Option<Incoming>,
    rest: Rest,
}

/// What becomes of a body that is dropped before its end.
enum Rest {
    TakenIn(Supervisor),
    Told(Arc<AtomicBool>),
}

impl Arriving {
    /// The body of a request of that version. `unread` belongs to its connection.
    pub fn new(body: Incoming, version: Version, supervisor: &Supervisor, unread: &Arc<AtomicBool>) -> Self {
        let rest =
            if version == Version::HTTP_2 { Rest::TakenIn(supervisor.clone()) } else { Rest::Told(unread.clone()) };
        Self { inner: Some(body), rest }
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        let Some(mut body) = self.inner.take().filter(|body| !http_body::Body::is_end_stream(body)) else { return };
        let supervisor = match &self.rest {
            Rest::TakenIn(supervisor) => supervisor.clone(),
            Rest::Told(unread) => return unread.store(true, Ordering::Relaxed),
        };
        let stopping = supervisor.stopping();
        supervisor.detach(async move {
            let rest = async {
                let mut left = LEFT_OVER;
                while let Some(Ok(frame)) = body.frame().await {
                    let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else { return };
                    left = rest;
                }
            };
            tokio::select! {
                _ = timeout(LINGER, rest) => {}
                () = stopping.cancelled() => {}
            }
        });
    }
}

impl http_body::Body for Arriving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.inner {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map(http_body::Body::size_hint).unwrap_or_default()
    }
}

/// Wraps what hyper reads; an empty body costs nothing.
pub(crate) fn guard(body: Arriving, size: u64, patience: Duration) -> Body {
    if http_body::Body::is_end_stream(&body) {
        return Body::empty();
    }
    patient(Limited::new(body, usize::try_from(size).unwrap_or(usize::MAX)), patience)
}

/// A body whose sender may not be silent for longer.
pub(crate) fn patient<B>(body: B, patience: Duration) -> Body
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    Body::new(Guarded { inner: body, patience, timer: None, waiting: false })
}

struct Guarded<B> {
    inner: B,
    patience: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

/// The sender fell silent.
#[derive(Debug, thiserror::Error)]
#[error("nothing of the body came for too long")]
pub(crate) struct Silent;

impl<B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Unpin> http_body::Body for Guarded<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Poll::Ready(said) = Pin::new(&mut self.inner).poll_frame(cx) {
            self.waiting = false;
            return Poll::Ready(said.map(|frame| frame.map_err(Into::into)));
        }
        let patience = self.patience;
        let begin = !std::mem::replace(&mut self.waiting, true);
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(patience)));
        if begin {
            timer.as_mut().reset(Instant::now() + patience);
        }
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Some(Err(Box::new(Silent))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
