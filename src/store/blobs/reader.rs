//! A blob that is being read, chunk by chunk: what the page cache has is taken at once, without a hop to the blocking pool
//! and back, which costs as much as the bytes; what has to come from the disk is read there, one chunk ahead.

use std::{
    fs::File,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{Stream, ready};
use hearth_base::{Error, Result};
use rustix::{
    buffer::spare_capacity,
    io::{pread, retry_on_intr},
};
use tokio::task::{JoinHandle, spawn_blocking};

use super::{CHUNK, disk};

/// The bytes of a blob, as a stream of chunks.
#[derive(Debug)]
pub struct Reader {
    pub(super) left: u64,
    pub(super) ready: Option<Bytes>,
    /// Bytes not yet asked of the disk.
    pub(super) behind: u64,
    /// Where in the file they are.
    pub(super) at: u64,
    pub(super) file: Option<File>,
    pub(super) reading: Option<JoinHandle<io::Result<(File, Bytes)>>>,
    /// Whether a chunk had to come from the disk, as the next will have to.
    pub(super) cold: bool,
}

impl Reader {
    /// Bytes still to come.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Has the next chunk read on the blocking pool.
    fn read_ahead(&mut self) {
        if self.behind > 0
            && let Some(file) = self.file.take()
        {
            let (at, want) = (self.at, self.behind);
            self.passed(CHUNK as u64);
            self.reading = Some(spawn_blocking(move || read_chunk(&file, at, want).map(|bytes| (file, bytes))));
        }
    }

    /// The next chunk, or the beginning of it, if the page cache has it.
    fn read_cached(&mut self) -> Option<Bytes> {
        let file = self.file.as_ref().filter(|_| self.behind > 0)?;
        let bytes = read_cached(file, self.at, self.behind)?;
        self.passed(bytes.len() as u64);
        Some(bytes)
    }

    fn passed(&mut self, bytes: u64) {
        let bytes = bytes.min(self.behind);
        self.behind -= bytes;
        self.at += bytes;
    }
}

impl Stream for Reader {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let mut ready = self.ready.take();
        if ready.is_none() && self.reading.is_none() {
            ready = self.read_cached();
            if ready.is_none() {
                self.cold = true;
                self.read_ahead();
            }
        }
        let bytes = match (ready, &mut self.reading) {
            (Some(bytes), _) => bytes,
            (None, Some(reading)) => {
                let read = ready!(Pin::new(reading).poll(cx)).map_err(io::Error::other).and_then(|r| r);
                self.reading = None;
                match read {
                    Ok((file, bytes)) => {
                        self.file = Some(file);
                        bytes
                    }
                    Err(e) => {
                        self.left = 0;
                        return Poll::Ready(Some(Err(disk(e))));
                    }
                }
            }
            (None, None) => {
                self.left = 0;
                return Poll::Ready(Some(Err(Error::broken("a blob ended early"))));
            }
        };
        self.left = self.left.saturating_sub(bytes.len() as u64);
        if self.cold {
            self.read_ahead();
        }
        Poll::Ready(Some(Ok(bytes)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, usize::try_from(self.left.div_ceil(CHUNK as u64)).ok())
    }
}

/// The chunk of a file that begins `at`, where `left` bytes are.
pub(super) fn read_chunk(file: &File, at: u64, left: u64) -> io::Result<Bytes> {
    let most = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
    // Into memory as it comes: filling it with zeros first would cost a quarter of reading it.
    let mut buf = Vec::with_capacity(most);
    while buf.len() < most {
        let from = at + buf.len() as u64;
        if retry_on_intr(|| pread(file, spare_capacity(&mut buf), from))? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    buf.truncate(most);
    Ok(buf.into())
}

/// The same, as far as the page cache has it; nothing if it has nothing or the file system cannot tell.
#[cfg(target_os = "linux")]
fn read_cached(file: &File, at: u64, left: u64) -> Option<Bytes> {
    use std::io::IoSliceMut;

    use rustix::io::{ReadWriteFlags, preadv2};

    let mut buf = vec![0; usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK))];
    // Errors are met again, and told, by who reads from the disk.
    let read = preadv2(file, &mut [IoSliceMut::new(&mut buf)], at, ReadWriteFlags::NOWAIT).ok()?;
    buf.truncate(read);
    (read > 0).then(|| buf.into())
}

#[cfg(not(target_os = "linux"))]
fn read_cached(_: &File, _: u64, _: u64) -> Option<Bytes> {
    None
}
