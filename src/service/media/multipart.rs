//! Takes apart the answer that servers give with media (server-server API, "Content Repository"): `multipart/mixed` of two
//! parts, metadata and then a file or where it is. Bytes go in as they come and come out as soon as they are known to be
//! the file's; at most [`MAX_HEAD`] bytes are held back.
//!
//! Own code: the crate that is known for this reads as much ahead as a server sends.

use bytes::{Bytes, BytesMut};
use memchr::memmem;

/// Bytes of what comes before the file: preamble, metadata, headers; and of a boundary with what surrounds it.
pub(super) const MAX_HEAD: usize = 32 << 10;
/// Bytes of a boundary (RFC 2046, 5.1.1), and some more.
const MAX_BOUNDARY: usize = 200;

/// What is said of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) content_type: Option<String>,
    pub(super) disposition: Option<String>,
    /// Where the file is, if it does not follow.
    pub(super) location: Option<String>,
}

/// What came out.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Head(Head),
    File(Bytes),
    /// The file is whole.
    End,
}

/// What no such answer looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Malformed(&'static str);

/// An answer on its way.
#[derive(Debug)]
pub(super) struct Multipart {
    /// Line break, two hyphens, boundary.
    delimiter: Vec<u8>,
    held: BytesMut,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Preamble,
    Metadata,
    Head,
    Begin,
    File,
    End,
}

impl Multipart {
    /// By the `Content-Type` of the answer.
    pub(super) fn new(content_type: &str) -> Result<Self, Malformed> {
        let (essence, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
        if !essence.trim().eq_ignore_ascii_case("multipart/mixed") {
            return Err(Malformed("it is no multipart/mixed"));
        }
        let parameter = |p: &str| {
            let (name, value) = p.split_once('=')?;
            name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim().trim_matches('"').to_owned())
        };
        let boundary = parameters.split(';').find_map(parameter).filter(|b| !b.is_empty() && b.len() <= MAX_BOUNDARY);
        let boundary = boundary.ok_or(Malformed("it names no boundary"))?;
        // The first boundary may be the very beginning, without the line break that belongs to it.
        Ok(Self {
            delimiter: format!("\r\n--{boundary}").into_bytes(),
            held: BytesMut::from(&b"\r\n"[..]),
            stage: Stage::Preamble,
        })
    }

    /// Puts in what came.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.stage != Stage::End {
            self.held.extend_from_slice(bytes);
        }
    }

    /// Takes out what is there; `None` if more must come first.
    pub(super) fn take(&mut self) -> Result<Option<Piece>, Malformed> {
        loop {
            let found = memmem::find(&self.held, &self.delimiter);
            match self.stage {
                Stage::Preamble | Stage::Metadata => {
                    let Some(at) = found else { return self.wait() };
                    let _ = self.held.split_to(at + self.delimiter.len());
                    self.stage = if self.stage == Stage::Preamble { Stage::Metadata } else { Stage::Head };
                }
                Stage::Head => {
                    // The rest of the boundary's line, then headers, then an empty line.
                    let Some((at, len)) = empty_line(&self.held) else { return self.wait() };
                    let head = self.held.split_to(at + len);
                    let head = head.get(..at).unwrap_or_default();
                    if head.starts_with(b"--") {
                        return Err(Malformed("it has one part only"));
                    }
                    self.stage = Stage::Begin;
                    return Ok(Some(Piece::Head(read(head)?)));
                }
                Stage::Begin => {
                    // Of an empty file the line break before the boundary may be the one that ended the headers.
                    let boundary = self.delimiter.get(2..).unwrap_or_default();
                    if self.held.len() < boundary.len() {
                        return Ok(None);
                    }
                    if self.held.starts_with(boundary) {
                        self.stage = Stage::End;
                        return Ok(Some(Piece::End));
                    }
                    self.stage = Stage::File;
                }
                Stage::File => {
                    let sure = found.unwrap_or_else(|| self.held.len().saturating_sub(self.delimiter.len() - 1));
                    if sure > 0 {
                        return Ok(Some(Piece::File(self.held.split_to(sure).freeze())));
                    }
                    if found.is_none() {
                        return Ok(None);
                    }
                    self.stage = Stage::End;
                    self.held.clear();
                    return Ok(Some(Piece::End));
                }
                Stage::End => return Ok(None),
            }
        }
    }

    fn wait(&self) -> Result<Option<Piece>, Malformed> {
        if self.held.len() > MAX_HEAD { Err(Malformed("the file does not begin")) } else { Ok(None) }
    }
}

/// Where an empty line begins, counted from the line break before it, and its length; some end their lines by LF alone.
fn empty_line(bytes: &[u8]) -> Option<(usize, usize)> {
    let strict = memmem::find(bytes, b"\r\n\r\n").map(|at| (at, 4));
    let loose = memmem::find(bytes, b"\n\n").map(|at| (at, 2));
    [strict, loose].into_iter().flatten().min()
}

fn read(head: &[u8]) -> Result<Head, Malformed> {
    let text = std::str::from_utf8(head).map_err(|_| Malformed("its headers are no text"))?;
    let mut head = Head::default();
    for (name, value) in text.lines().skip(1).filter_map(|line| line.split_once(':')) {
        let value = Some(value.trim().to_owned());
        match name.trim().to_ascii_lowercase().as_str() {
            "content-type" => head.content_type = value,
            "content-disposition" => head.disposition = value,
            "location" => head.location = value,
            _ => {}
        }
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What comes out if it comes in pieces of that size.
    fn parse(body: &[u8], size: usize) -> Result<(Option<Head>, Vec<u8>, bool), Malformed> {
        let mut parts = Multipart::new("multipart/mixed; boundary=\"abc\"")?;
        let (mut head, mut file, mut whole) = (None, Vec::new(), false);
        for chunk in body.chunks(size) {
            parts.push(chunk);
            while let Some(piece) = parts.take()? {
                match piece {
                    Piece::Head(h) => head = Some(h),
                    Piece::File(bytes) => file.extend_from_slice(&bytes),
                    Piece::End => whole = true,
                }
            }
        }
        Ok((head, file, whole))
    }

    #[test]
    fn a_file_is_the_same_however_it_comes() {
        let file = b"\r\n--ab\r\n-\r\n\r\n--a\0\xff--abc";
        let metadata = "content-type: application/json\r\n\r\n{}";
        for begin in ["--abc\r\n", "\r\n--abc\r\n", "preamble --abc\r\n--abc  \r\n"] {
            for end in ["\r\n--abc--", "\r\n--abc", "\r\n--abc--\r\nepilogue"] {
                let mut body = format!("{begin}{metadata}\r\n--abc\r\nCONTENT-type:  image/png \r\n").into_bytes();
                body.extend(b"Content-Disposition: inline; filename=a.png\r\n\r\n");
                body.extend(file);
                body.extend(end.as_bytes());
                for size in 1..body.len() {
                    let (head, found, whole) = parse(&body, size).unwrap();
                    let head = head.unwrap();
                    assert_eq!(head.content_type.as_deref(), Some("image/png"));
                    assert_eq!(head.disposition.as_deref(), Some("inline; filename=a.png"));
                    assert!(found == file && whole, "{size}");
                }
            }
        }
    }

    #[test]
    fn a_file_may_be_empty_nameless_or_elsewhere() {
        for empty in [&b"--abc\r\n\r\n{}\r\n--abc\r\n\r\n\r\n--abc--"[..], b"--abc\r\n\r\n{}\r\n--abc\r\n\r\n--abc--"] {
            for size in 1..empty.len() {
                let (head, file, whole) = parse(empty, size).unwrap();
                assert_eq!((head, file.len(), whole), (Some(Head::default()), 0, true), "{size}");
            }
        }
        let elsewhere = b"--abc\n\n{}\r\n--abc\nLocation: https://cdn.test/x\n\n\r\n--abc--";
        let (head, _, whole) = parse(elsewhere, 3).unwrap();
        assert_eq!((head.unwrap().location.as_deref(), whole), (Some("https://cdn.test/x"), true));
    }

    #[test]
    fn what_is_cut_off_is_not_whole_and_what_is_none_is_refused() {
        let whole = b"--abc\r\n\r\n{}\r\n--abc\r\n\r\nfile\r\n--abc";
        for end in 0..whole.len() {
            assert!(!parse(&whole[..end], 5).unwrap().2, "{end}");
        }
        assert!(parse(&vec![b'x'; 2 * MAX_HEAD], 1000).is_err());
        assert!(parse(b"--abc\r\n\r\n{}\r\n--abc--\r\n\r\n", 5).is_err());
        for wrong in ["text/html", "multipart/mixed", "multipart/mixed; boundary=", "multipart/form-data; boundary=x"] {
            assert!(Multipart::new(wrong).is_err(), "{wrong}");
        }
    }
}
