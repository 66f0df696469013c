//! In which encoding a page is: as HTML has it, the mark at its beginning, then what the server said, then what the page says
//! itself. What nobody says is UTF-8 if it can be, else what most old pages are in.

use std::io::{self, Read};

use encoding_rs::{Decoder, DecoderResult, Encoding, UTF_8, WINDOWS_1252};

/// How far a page is looked through for what it says of its encoding.
const PRESCAN: usize = 4096;
/// What stands for what is no character.
const MARK: &str = "\u{fffd}";

/// A page as UTF-8, decoded as it is read. What is wrong in it becomes U+FFFD.
pub(super) struct Utf8<'a> {
    decoder: Decoder,
    rest: &'a [u8],
    ended: bool,
    /// What came last was no character, and is to be marked so.
    wrong: bool,
}

impl<'a> Utf8<'a> {
    /// The encoding as it stands in `content_type` or in the page.
    pub(super) fn new(bytes: &'a [u8], content_type: Option<&str>) -> Self {
        Self { decoder: choose(bytes, content_type).new_decoder(), rest: bytes, ended: false, wrong: false }
    }
}

/// The same all at once, for what is short.
pub(super) fn text(bytes: &[u8], content_type: Option<&str>) -> String {
    choose(bytes, content_type).decode(bytes).0.into_owned()
}

impl Read for Utf8<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut written = 0;
        // Room for the longest character; a reader with less is a reader at the end.
        while written + 4 <= out.len() && (self.wrong || !self.ended) {
            let Some(room) = out.get_mut(written..) else { break };
            if std::mem::take(&mut self.wrong) {
                written += MARK.len();
                room.iter_mut().zip(MARK.bytes()).for_each(|(to, from)| *to = from);
                continue;
            }
            let (result, read, wrote) = self.decoder.decode_to_utf8_without_replacement(self.rest, room, true);
            self.rest = self.rest.get(read..).unwrap_or_default();
            written += wrote;
            match result {
                DecoderResult::InputEmpty => self.ended = true,
                DecoderResult::OutputFull => break,
                DecoderResult::Malformed(..) => self.wrong = true,
            }
        }
        Ok(written)
    }
}

fn choose(bytes: &[u8], content_type: Option<&str>) -> &'static Encoding {
    if let Some((encoding, _)) = Encoding::for_bom(bytes) {
        return encoding;
    }
    let said = content_type.and_then(parameter).and_then(|label| Encoding::for_label(label.as_bytes()));
    let head = bytes.get(..PRESCAN).unwrap_or(bytes);
    said.or_else(|| within(head))
        .unwrap_or_else(|| if Encoding::utf8_valid_up_to(bytes) == bytes.len() { UTF_8 } else { WINDOWS_1252 })
}

/// The `charset` of a media type.
fn parameter(content_type: &str) -> Option<&str> {
    content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches(['"', '\'']))
    })
}

/// What a page says of itself, in an XML declaration or in a `meta` element. One that could not be read as it was if it were
/// true (UTF-16) is taken for UTF-8.
fn within(head: &[u8]) -> Option<&'static Encoding> {
    let head = head.to_ascii_lowercase();
    let tags = ["<?xml", "<meta"].into_iter().zip(["encoding", "charset"]);
    let label = tags.flat_map(|(tag, name)| all(&head, tag).map(move |tag| (tag, name))).find_map(|(tag, name)| {
        let value = trimmed(tag.get(position(tag, name.as_bytes())? + name.len()..)?).strip_prefix(b"=")?;
        let value = trimmed(value);
        let value = value.strip_prefix(b"\"").or_else(|| value.strip_prefix(b"'")).unwrap_or(value);
        let end = value.iter().position(|b| b"\"'; \t\r\n\x0c/>?".contains(b)).unwrap_or(value.len());
        Encoding::for_label(value.get(..end)?)
    })?;
    Some(if label.is_ascii_compatible() { label } else { UTF_8 })
}

/// Every tag of a name, from behind it to its end.
fn all<'a>(head: &'a [u8], tag: &'static str) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = head;
    std::iter::from_fn(move || {
        let at = position(rest, tag.as_bytes())?;
        let behind = rest.get(at + tag.len()..)?;
        let end = behind.iter().position(|b| *b == b'>').unwrap_or(behind.len());
        rest = behind.get(end..)?;
        behind.get(..end)
    })
}

fn position(text: &[u8], part: &[u8]) -> Option<usize> {
    memchr::memmem::find(text, part)
}

fn trimmed(text: &[u8]) -> &[u8] {
    text.trim_ascii_start()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(bytes: &[u8], content_type: &str) -> String {
        let mut reader = Utf8::new(bytes, Some(content_type));
        let (mut all, mut piece) = (Vec::new(), [0; 1000]);
        loop {
            match reader.read(&mut piece).unwrap() {
                0 => break,
                n => all.extend_from_slice(&piece[..n]),
            }
        }
        let all = String::from_utf8(all).unwrap();
        assert!(all == text(bytes, Some(content_type)));
        all
    }

    #[test]
    fn the_mark_then_the_server_then_the_page() {
        assert_eq!(read(b"\xff\xfeh\0\xe4\0", "text/html; charset=utf-8"), "hä");
        assert_eq!(read(b"\xef\xbb\xbfh\xc3\xa4", "text/html; charset=windows-1251"), "hä");
        assert_eq!(read(b"\xcf\xf0", "text/html;Charset=\"Windows-1251\""), "Пр");
        let page = b"<meta charset=koi8-r>\xf0";
        assert_eq!(read(page, "text/html; charset=utf-8"), "<meta charset=koi8-r>\u{fffd}");
        assert_eq!(read(page, "text/html"), "<meta charset=koi8-r>П");
        for meta in [
            "<META http-equiv=content-type content='text/html; charset=KOI8-R'>",
            "<meta name=x><meta charset = 'koi8-r'/>",
            "<?xml version='1.0' encoding=\"koi8-r\"?>",
        ] {
            let page = [meta.as_bytes(), b"\xf0"].concat();
            assert_eq!(read(&page, "text/html"), format!("{meta}П"));
        }
    }

    #[test]
    fn what_nobody_says_is_utf_8_if_it_can_be() {
        assert_eq!(read("hä".as_bytes(), "text/html"), "hä");
        assert_eq!(read(b"h\xe4", "text/html"), "hä");
        assert_eq!(read(b"h\xe4", "text/html; charset=made-up"), "hä");
        assert_eq!(read(b"<meta charset=utf-16>\xc3\xa4", "text/html"), "<meta charset=utf-16>ä");
        assert_eq!(read(b"<meta charset", "text/html"), "<meta charset");
        assert_eq!(read(b"", "text/html"), "");
    }

    #[test]
    fn long_pages_come_in_pieces() {
        let page = "äöü€𝄞".repeat(10_000);
        assert!(read(page.as_bytes(), "text/html") == page);
        assert!(read(&vec![0xff; 100_000], "text/html; charset=utf-8") == "\u{fffd}".repeat(100_000));
    }
}
