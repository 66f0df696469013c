//! A part of a large file as a body: read in large pieces on the blocking pool, one piece at a time.

use std::{
    fs::File,
    io,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use rustix::io::pread;
use tokio::task::{JoinHandle, spawn_blocking};

/// Large pieces are what makes large files cheap: one hop to the blocking pool each.
const PIECE: usize = 256 * 1024;

pub(super) struct FileBody {
    file: Arc<File>,
    range: Range<u64>,
    reading: Option<JoinHandle<io::Result<Vec<u8>>>>,
}

impl FileBody {
    pub fn new(file: Arc<File>, range: Range<u64>) -> Self {
        Self { file, range, reading: None }
    }
}

fn read_piece(file: &File, at: u64, most: usize) -> io::Result<Vec<u8>> {
    let mut piece = Vec::with_capacity(most);
    pread(file, rustix::buffer::spare_capacity(&mut piece), at)?;
    if piece.is_empty() {
        // The file was cut short meanwhile; the length that was promised cannot be kept.
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(piece)
}

impl http_body::Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.range.is_empty() {
            return Poll::Ready(None);
        }
        let (at, left) = (self.range.start, self.range.end - self.range.start);
        let file = self.file.clone();
        let reading = self.reading.get_or_insert_with(|| {
            let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            spawn_blocking(move || read_piece(&file, at, most))
        });
        let read = ready!(Pin::new(reading).poll(cx)).unwrap_or_else(|e| Err(io::Error::other(e)));
        self.reading = None;
        let piece = match read {
            Ok(piece) => piece,
            Err(e) => return Poll::Ready(Some(Err(e))),
        };
        self.range.start += piece.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(piece.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.range.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.range.end - self.range.start)
    }
}
