//! The end of an HTTP/1 connection whose last request was answered before its body was read.
//!
//! Closed at once, what still arrives would be answered by the kernel with a reset, and that takes away the answer too,
//! if the client has not read it yet; many send all they have first. So our side is closed, and what comes is read and
//! thrown away: for a while, and no more than so much.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, ReadBuf},
    time::{Instant, Sleep, sleep},
};
use tokio_util::sync::CancellationToken;

/// Whether the newest request of a connection was dropped with a part of its body unread.
pub(crate) type Unread = Arc<AtomicBool>;

/// So much is thrown away of what still comes, bytes.
const MOST: usize = 128 << 20;
/// For so long in all, and for so long while nothing comes.
const WHOLE: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_secs(5);
/// What is read at once, bytes.
const PIECE: usize = 8 << 10;

pub(super) struct Lingering {
    unread: Unread,
    stopping: CancellationToken,
    begun: Option<Begun>,
}

struct Begun {
    left: usize,
    /// The time is over, or the server stops.
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
    silence: Pin<Box<Sleep>>,
}

impl Lingering {
    pub fn new(unread: Unread, stopping: CancellationToken) -> Self {
        Self { unread, stopping, begun: None }
    }

    pub fn has_begun(&self) -> bool {
        self.begun.is_some()
    }

    /// Ready when the stream may be dropped; at once if all was read.
    pub fn poll<S: AsyncRead + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<()> {
        if !self.has_begun() && !self.unread.load(Ordering::Relaxed) {
            return Poll::Ready(());
        }
        let begun = self.begun.get_or_insert_with(|| {
            let stopping = self.stopping.clone();
            let over = async move {
                tokio::select! {
                    () = sleep(WHOLE) => {}
                    () = stopping.cancelled() => {}
                }
            };
            Begun { left: MOST, over: Box::pin(over), silence: Box::pin(sleep(SILENCE)) }
        });
        if begun.over.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let mut room = [0; PIECE];
        loop {
            let mut piece = ReadBuf::new(&mut room);
            match Pin::new(&mut *stream).poll_read(cx, &mut piece) {
                Poll::Pending => {
                    ready!(begun.silence.as_mut().poll(cx));
                    return Poll::Ready(());
                }
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) => {
                    let came = piece.filled().len();
                    if came == 0 || came > begun.left {
                        return Poll::Ready(());
                    }
                    begun.left -= came;
                    begun.silence.as_mut().reset(Instant::now() + SILENCE);
                }
            }
        }
    }
}
