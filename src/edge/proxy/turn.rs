//! Whose turn it is while a request is passed on: an upstream is not to blame for a caller who sends slowly.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

/// Since when the upstream is waited for; none while the caller is.
#[derive(Clone)]
pub(super) struct Turn(Arc<Mutex<Option<Instant>>>);

impl Turn {
    /// The upstream's, from now on.
    pub fn of_upstream() -> Self {
        Self(Arc::new(Mutex::new(Some(Instant::now()))))
    }

    /// A body of the caller's; whoever keeps it from going on has the turn.
    pub fn during(&self, body: Body) -> Body {
        if http_body::Body::is_end_stream(&body) {
            return body;
        }
        Body::new(Passing { inner: body, turn: self.clone() })
    }

    /// What `work` comes to; none once the upstream was waited for so long.
    pub async fn within<T>(&self, patience: Duration, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        loop {
            let since = self.since().unwrap_or_else(Instant::now);
            if let Ok(done) = timeout_at(since + patience, work.as_mut()).await {
                return Some(done);
            }
            if self.since().is_some_and(|since| since + patience <= Instant::now()) {
                return None;
            }
        }
    }

    fn since(&self) -> Option<Instant> {
        *self.0.lock()
    }
}

struct Passing {
    inner: Body,
    turn: Turn,
}

impl http_body::Body for Passing {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let said = Pin::new(&mut self.inner).poll_frame(cx);
        *self.turn.0.lock() = said.is_ready().then(Instant::now);
        said
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
