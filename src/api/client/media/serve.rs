//! Bytes as an answer: ranges, validators, and the headers that keep a stranger's file from acting in our origin.
//!
//! An id stands for the same bytes for ever, so their hash is a strong validator and caches may keep them. Nothing is
//! shown inline that a browser could run (spec: client-server API, "Serving inline content").

use std::{
    ops::Range,
    pin::Pin,
    task::{Context, Poll},
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::{Stream as _, ready};
use hearth_base::{Doing as _, Error, Result};
use hearth_service::media::{Content, Reader};
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{
        ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_SECURITY_POLICY,
        CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE, RANGE, X_CONTENT_TYPE_OPTIONS,
    },
};
use http_body::{Frame, SizeHint};
use ruma::http_headers::{ContentDisposition, ContentDispositionType};

use crate::{
    Cx,
    respond::{self, Plain},
};

/// Who may keep the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    /// The client that authenticated.
    Authenticated,
    /// Caches between, too.
    Everybody,
}

impl Audience {
    fn cache_control(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Authenticated => "private, max-age=31536000, immutable",
            // What is withdrawn leaves the caches that others share within a day.
            Self::Everybody => "public, max-age=86400, s-maxage=86400, immutable",
        })
    }
}

/// What may be shown inline: the list of the specification.
const INLINE: [&str; 26] = [
    "text/css",
    "text/plain",
    "text/csv",
    "application/json",
    "application/ld+json",
    "image/jpeg",
    "image/gif",
    "image/png",
    "image/apng",
    "image/webp",
    "image/avif",
    "video/mp4",
    "video/webm",
    "video/ogg",
    "video/quicktime",
    "audio/mp4",
    "audio/webm",
    "audio/aac",
    "audio/mpeg",
    "audio/ogg",
    "audio/wave",
    "audio/wav",
    "audio/x-wav",
    "audio/x-pn-wav",
    "audio/flac",
    "audio/x-flac",
];

/// The headers of all media: the policy that the specification recommends, no guessing of types, and leave for
/// isolated pages to show it.
const GUARDS: [(HeaderName, HeaderValue); 3] = [
    (
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; style-src 'unsafe-inline'; object-src 'self';",
        ),
    ),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("cross-origin")),
];

/// Answers with a content, or with the part of it that was asked for, or with nothing if the client has it.
pub(super) async fn serve(cx: &Cx, content: Content, asked: &HeaderMap, audience: Audience) -> Result<Plain> {
    let etag = format!("\"{}\"", content.blob);
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(ETAG, HeaderValue::try_from(&etag).doing("the tag of a content")?);
    headers.insert(CACHE_CONTROL, audience.cache_control());
    if has_it(asked, &etag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(Plain(response));
    }
    let part = match part(asked, &etag, content.size) {
        Part::Whole => None,
        Part::Range(range) => Some(range),
        Part::None => return Ok(Plain(out_of_range(content.size)?)),
    };
    let reader = cx.media.read(&content, part.clone()).await?;
    headers.extend(GUARDS);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(reader.left()));
    describe(headers, &content)?;
    if let Some(Range { start, end }) = part {
        let range = format!("bytes {start}-{}/{}", end - 1, content.size);
        headers.insert(CONTENT_RANGE, HeaderValue::try_from(range).doing("the range of a content")?);
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    *response.body_mut() = Body::new(Served(reader));
    Ok(Plain(response))
}

/// Type and disposition. Of the type only a well-formed one is believed.
pub(crate) fn describe(headers: &mut HeaderMap, content: &Content) -> Result<()> {
    let content_type = content
        .content_type
        .as_deref()
        .filter(|t| t.contains('/'))
        .and_then(|t| HeaderValue::from_str(t).ok())
        .unwrap_or_else(|| HeaderValue::from_static("application/octet-stream"));
    let disposition = ContentDisposition::new(disposition(content_type.to_str().unwrap_or_default()))
        .with_filename(content.file_name.clone())
        .to_string();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CONTENT_DISPOSITION, HeaderValue::try_from(disposition).doing("the disposition of a content")?);
    Ok(())
}

fn disposition(content_type: &str) -> ContentDispositionType {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if INLINE.iter().any(|t| t.eq_ignore_ascii_case(essence)) {
        ContentDispositionType::Inline
    } else {
        ContentDispositionType::Attachment
    }
}

/// Whether the client says to have it (RFC 9110, 13.1.2: weak comparison).
fn has_it(asked: &HeaderMap, etag: &str) -> bool {
    asked.get_all(IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).any(|tag| {
        let tag = tag.trim();
        tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag
    })
}

/// Which part a request asks for.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Whole,
    Range(Range<u64>),
    /// One that is not there.
    None,
}

/// One range of bytes is honoured; several, other units and rubbish are answered with the whole, as they may be
/// (RFC 9110, 14.2), and so is a range of another version (13.1.5).
fn part(asked: &HeaderMap, etag: &str, size: u64) -> Part {
    if asked.get(IF_RANGE).is_some_and(|v| v.as_bytes() != etag.as_bytes()) {
        return Part::Whole;
    }
    let spec = asked.get(RANGE).and_then(|v| v.to_str().ok()).and_then(|v| v.trim().strip_prefix("bytes="));
    let Some((first, last)) = spec.and_then(|s| s.split_once('-')) else { return Part::Whole };
    let number = |s: &str| {
        let s = s.trim();
        (!s.is_empty() && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse().unwrap_or(u64::MAX))
    };
    let range = match (first.trim(), last.trim()) {
        ("", suffix) => number(suffix).map(|n| (size.saturating_sub(n), if n == 0 { 0 } else { size })),
        (start, "") => number(start).map(|start| (start, size)),
        (start, last) => match (number(start), number(last)) {
            (Some(start), Some(last)) if start <= last => Some((start, last.saturating_add(1).min(size))),
            _ => None,
        },
    };
    match range {
        None => Part::Whole,
        Some((start, end)) if start < end => Part::Range(start..end),
        Some(_) => Part::None,
    }
}

fn out_of_range(size: u64) -> Result<Response> {
    let error = Error::told(StatusCode::RANGE_NOT_SATISFIABLE, "M_INVALID_PARAM", "The file is shorter than that");
    let mut response = respond::error(&error);
    let range = HeaderValue::try_from(format!("bytes */{size}")).doing("the range of a content")?;
    response.headers_mut().insert(CONTENT_RANGE, range);
    Ok(response)
}

/// The bytes as a body of known length.
struct Served(Reader);

impl http_body::Body for Served {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>>>> {
        let bytes = ready!(Pin::new(&mut self.0).poll_next(cx));
        if let Some(Err(e)) = &bytes {
            // The answer has begun; all that is left is to break it off.
            tracing::error!(error = %e, "a medium could not be read to its end");
        }
        Poll::Ready(bytes.map(|b| b.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.left() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.left())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::single_range_in_vec_init)]
    use super::*;

    fn asking(range: &str) -> HeaderMap {
        HeaderMap::from_iter([(RANGE, range.parse().unwrap())])
    }

    #[test]
    fn one_range_is_honoured_and_rubbish_is_not() {
        for (range, want) in [
            ("bytes=0-0", Part::Range(0..1)),
            ("bytes=0-", Part::Range(0..100)),
            ("bytes=10-19", Part::Range(10..20)),
            ("bytes= 10 - 19 ", Part::Range(10..20)),
            ("bytes=90-1000", Part::Range(90..100)),
            ("bytes=-1", Part::Range(99..100)),
            ("bytes=-1000", Part::Range(0..100)),
            ("bytes=5-99999999999999999999999", Part::Range(5..100)),
            ("bytes=100-", Part::None),
            ("bytes=100-200", Part::None),
            ("bytes=99999999999999999999999-", Part::None),
            ("bytes=-0", Part::None),
            ("bytes=9-3", Part::Whole),
            ("bytes=0-1,5-6", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=", Part::Whole),
            ("bytes=a-b", Part::Whole),
            ("bytes=+1-2", Part::Whole),
            ("lines=1-2", Part::Whole),
            ("", Part::Whole),
        ] {
            assert_eq!(part(&asking(range), "\"t\"", 100), want, "{range}");
        }
        assert_eq!(part(&asking("bytes=0-"), "\"t\"", 0), Part::None);
        assert_eq!(part(&HeaderMap::new(), "\"t\"", 0), Part::Whole);
    }

    #[test]
    fn a_range_of_another_version_is_not_given() {
        let mut asked = asking("bytes=1-2");
        asked.insert(IF_RANGE, HeaderValue::from_static("\"t\""));
        assert_eq!(part(&asked, "\"t\"", 100), Part::Range(1..3));
        assert_eq!(part(&asked, "\"u\"", 100), Part::Whole);
        asked.insert(IF_RANGE, HeaderValue::from_static("Wed, 21 Oct 2015 07:28:00 GMT"));
        assert_eq!(part(&asked, "\"t\"", 100), Part::Whole);
    }

    #[test]
    fn what_a_browser_could_run_is_an_attachment() {
        for inline in ["image/png", "IMAGE/PNG", "text/plain; charset=utf-8", "application/json ;x=y"] {
            assert_eq!(disposition(inline), ContentDispositionType::Inline, "{inline}");
        }
        for attachment in [
            "text/html",
            "image/svg+xml",
            "application/xhtml+xml",
            "text/javascript",
            "application/pdf",
            "",
            "image/png,text/html",
        ] {
            assert_eq!(disposition(attachment), ContentDispositionType::Attachment, "{attachment}");
        }
    }
}
