//! An answer's body on its way by HTTP/2, in pieces that are counted until they have left us.
//!
//! A client holds back what it is sent by HTTP/2 for as long as it likes, and all of it stays in memory meanwhile: it need
//! only answer pings, and never says how much it takes. To the socket that looks alive, and hyper has no limit for it.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::activity::{Running, Untaken};

/// A frame with its head of nine bytes fills a TLS record exactly; a byte more would cost a second record.
pub(crate) const PIECE: usize = 16 * 1024 - 9;

/// A body that counts as running until it is read, and each piece of it as not taken until it is written.
pub(crate) struct Sending {
    inner: Body,
    /// Read and not handed on yet.
    rest: Bytes,
    running: Running,
}

impl Sending {
    /// Counts a body; an empty one costs nothing.
    pub fn body(inner: Body, running: Running) -> Body {
        if http_body::Body::is_end_stream(&inner) {
            return inner;
        }
        Body::new(Self { inner, rest: Bytes::new(), running })
    }
}

/// A piece; dropped once it is written, or its stream has gone.
struct Piece {
    bytes: Bytes,
    _untaken: Untaken,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl http_body::Body for Sending {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_frame(cx)).map(|said| said.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.rest = data,
                Some(Ok(Err(trailers))) => return Poll::Ready(Some(Ok(trailers))),
                Some(Err(e)) => return Poll::Ready(Some(Err(e))),
                None => return Poll::Ready(None),
            }
        }
        let length = self.rest.len().min(PIECE);
        let piece = Piece { bytes: self.rest.split_to(length), _untaken: Untaken::new(&self.running.0) };
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (of_inner, rest) = (self.inner.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(of_inner.lower() + rest);
        if let Some(upper) = of_inner.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}
