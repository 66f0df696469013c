//! A body as it comes: unpacked piece by piece, and counted before and after that, so that a few bytes cannot become a disk
//! full, nor what unpacks to nothing come for ever.

use std::{fmt, io::Write as _};

use bytes::Bytes;
use flate2::write::GzDecoder;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};

use crate::Failure;

/// Bytes unpacked that are handed on at once.
const PIECE: usize = 64 << 10;

/// The bytes of a page.
pub struct Body {
    from: Incoming,
    limit: u64,
    /// Bytes that came, and those that were handed on.
    came: u64,
    taken: u64,
    packed: Option<Packed>,
}

/// What is packed.
struct Packed {
    unpack: GzDecoder<Vec<u8>>,
    /// What has come and is still packed.
    rest: Bytes,
    ended: bool,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} of {} bytes at most)", self.taken, self.limit)
    }
}

impl Body {
    pub(super) fn new(from: Incoming, encoding: Option<&str>, limit: u64) -> Result<Self, Failure> {
        let packed = match encoding.map(|e| e.trim().to_ascii_lowercase()).as_deref() {
            None | Some("" | "identity") => None,
            Some("gzip" | "x-gzip") => {
                Some(Packed { unpack: GzDecoder::new(Vec::new()), rest: Bytes::new(), ended: false })
            }
            Some(_) => return Err(Failure::Nonsense("it is packed in a way that was not asked for".to_owned())),
        };
        if packed.is_none() && from.size_hint().lower() > limit {
            return Err(too_large(limit));
        }
        Ok(Self { from, limit, came: 0, taken: 0, packed })
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// [`Failure::TooLarge`] beyond the limit; [`Failure::Unreachable`] if it is cut off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let piece = loop {
            if let Some(packed) = &mut self.packed
                && let Some(piece) = packed.next()?
            {
                break piece;
            }
            let Some(frame) = self.from.frame().await else {
                match self.packed.as_mut().map_or(Ok(None), Packed::finish)? {
                    Some(piece) => break piece,
                    None => return Ok(None),
                }
            };
            let frame = frame.map_err(|e| Failure::Unreachable(format!("the page was cut off: {e}")))?;
            let Ok(data) = frame.into_data() else { continue };
            self.came = self.came.saturating_add(data.len() as u64);
            // What cannot be made smaller is a little larger when it is packed.
            if self.came > self.limit.saturating_add(self.limit / 64).saturating_add(PIECE as u64) {
                return Err(too_large(self.limit));
            }
            match &mut self.packed {
                Some(packed) => packed.rest = data,
                None => break data,
            }
        };
        self.taken = self.taken.saturating_add(piece.len() as u64);
        if self.taken > self.limit { Err(too_large(self.limit)) } else { Ok(Some(piece)) }
    }

    /// All of it.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn whole(mut self) -> Result<Vec<u8>, Failure> {
        let mut all = Vec::new();
        while let Some(piece) = self.next().await? {
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }
}

impl Packed {
    /// Unpacks until there is a piece, or nothing is left to unpack. One call of the decoder makes a few kilobytes at most.
    fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        while !self.rest.is_empty() && !self.ended && self.unpack.get_ref().len() < PIECE {
            let taken = self.unpack.write(&self.rest).map_err(|_| broken())?;
            self.ended = taken == 0;
            drop(self.rest.split_to(taken));
        }
        if self.ended {
            // What follows the end of what was packed is not of the page.
            self.rest.clear();
        }
        let made = std::mem::take(self.unpack.get_mut());
        Ok((!made.is_empty()).then(|| made.into()))
    }

    /// What the decoder still held when all had come.
    fn finish(&mut self) -> Result<Option<Bytes>, Failure> {
        self.unpack.try_finish().map_err(|_| broken())?;
        let made = std::mem::take(self.unpack.get_mut());
        Ok((!made.is_empty()).then(|| made.into()))
    }
}

fn broken() -> Failure {
    Failure::Nonsense("it cannot be unpacked".to_owned())
}

fn too_large(limit: u64) -> Failure {
    Failure::TooLarge(usize::try_from(limit).unwrap_or(usize::MAX))
}
