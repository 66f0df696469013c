//! A part of a large file as a body, one piece at a time: taken from the page cache at once where it is there, read on
//! the blocking pool where it must come from the disk.

use std::{
    fs::File,
    io::{self, IoSliceMut},
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use rustix::io::{Errno, ReadWriteFlags, pread, preadv2};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::listener::sending::PIECE;

/// From the page cache: small enough to come from the allocator's own memory, and to be copied without being missed. By
/// HTTP/2 it goes in whole pieces.
const CACHED_PIECE: usize = 4 * PIECE;
/// From the disk: a hop to the blocking pool each, so larger.
const DISK_PIECE: usize = 256 * 1024;

pub(super) struct FileBody {
    file: Arc<File>,
    range: Range<u64>,
    /// Whether the file system can say that something is not in the page cache.
    direct: bool,
    buffer: BytesMut,
    reading: Option<JoinHandle<io::Result<Vec<u8>>>>,
}

impl FileBody {
    pub fn new(file: Arc<File>, range: Range<u64>) -> Self {
        Self { file, range, direct: true, buffer: BytesMut::new(), reading: None }
    }

    fn hand_on(&mut self, piece: Bytes) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.range.start += piece.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn most(&self, piece: usize) -> usize {
        usize::try_from(self.range.end - self.range.start).unwrap_or(piece).min(piece)
    }

    /// The next piece if it is in the page cache.
    fn cached(&mut self) -> io::Result<Option<Bytes>> {
        let most = self.most(CACHED_PIECE);
        // Takes the old memory again if hyper is done with the piece before.
        self.buffer.resize(most, 0);
        let into = &mut [IoSliceMut::new(&mut self.buffer)];
        match preadv2(&*self.file, into, self.range.start, ReadWriteFlags::NOWAIT) {
            Ok(0) => Err(cut_short()),
            Ok(n) => Ok(Some(self.buffer.split_to(n).freeze())),
            Err(Errno::AGAIN) => Ok(None),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                self.direct = false;
                Ok(None)
            }
            Err(e) => Err(e.into()),
        }
    }
}

/// The file was cut short meanwhile; the length that was promised cannot be kept.
fn cut_short() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}

fn read_piece(file: &File, at: u64, most: usize) -> io::Result<Vec<u8>> {
    let mut piece = Vec::with_capacity(most);
    pread(file, rustix::buffer::spare_capacity(&mut piece), at)?;
    if piece.is_empty() { Err(cut_short()) } else { Ok(piece) }
}

impl http_body::Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.range.is_empty() {
            return Poll::Ready(None);
        }
        if self.direct && self.reading.is_none() {
            match self.cached() {
                Ok(Some(piece)) => return self.hand_on(piece),
                Ok(None) => {}
                Err(e) => return Poll::Ready(Some(Err(e))),
            }
        }
        let (file, at, most) = (self.file.clone(), self.range.start, self.most(DISK_PIECE));
        let reading = self.reading.get_or_insert_with(|| spawn_blocking(move || read_piece(&file, at, most)));
        let read = ready!(Pin::new(reading).poll(cx)).unwrap_or_else(|e| Err(io::Error::other(e)));
        self.reading = None;
        match read {
            Ok(piece) => self.hand_on(piece.into()),
            Err(e) => Poll::Ready(Some(Err(e))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.range.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.range.end - self.range.start)
    }
}
