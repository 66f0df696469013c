//! A body on its way: a request's is bounded in size, and any is cut off when its sender falls silent.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{BoxError, body::Body};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::Limited;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};

/// Wraps what hyper reads; an empty body costs nothing.
pub(crate) fn guard(body: Incoming, size: u64, patience: Duration) -> Body {
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
