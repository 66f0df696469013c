//! Answers of the homeserver in gzip, where a listener wants it (`compress` of its resources, `edge.compress`) and the client
//! takes it. A first /sync shrinks to a tenth; media are compressed already, and small answers gain nothing.

use std::{
    io::Write,
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, VARY},
};
use http_body::{Body as _, Frame, SizeHint};

/// Less than this is sent as it is, bytes.
const LEAST: u64 = 1024;
/// So much is compressed before others have their turn, bytes.
const PIECE: usize = 64 * 1024;
/// Most of what there is to win, for little of the time.
const LEVEL: Compression = Compression::new(3);

/// Whether a client takes gzip (RFC 9110, "Accept-Encoding").
pub(super) fn takes(asked: &HeaderMap) -> bool {
    let lines = asked.get_all(ACCEPT_ENCODING).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|one| {
        let mut parts = one.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let weight = parts.find_map(|part| part.strip_prefix("q=")).and_then(|q| q.parse::<f32>().ok());
        named && weight != Some(0.0)
    })
}

/// The same answer, compressed if that is worth it. Whether it is or not, it depends on what the client takes.
pub(super) fn compress(mut response: Response<Body>) -> Response<Body> {
    let kind = response.headers().get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let size = response.body().size_hint();
    let is_plain = response.status() == StatusCode::OK && !response.headers().contains_key(CONTENT_ENCODING);
    if !is_plain || !kind.starts_with(b"application/json") || size.upper().is_some_and(|size| size < LEAST) {
        return response;
    }
    let headers = response.headers_mut();
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    response.map(|body| {
        let encoder = GzEncoder::new(Vec::new(), LEVEL);
        Body::new(Gzip { body, encoder: Some(encoder), rest: Bytes::new(), unsent: false })
    })
}

struct Gzip {
    body: Body,
    /// None once all has been said.
    encoder: Option<GzEncoder<Vec<u8>>>,
    /// Of the body, and not compressed yet.
    rest: Bytes,
    /// Whether the encoder holds something back that the client could have.
    unsent: bool,
}

impl http_body::Body for Gzip {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        loop {
            let Some(encoder) = &mut this.encoder else { return Poll::Ready(None) };
            let piece = this.rest.split_to(this.rest.len().min(PIECE));
            if !piece.is_empty() {
                this.unsent = true;
                if let Err(e) = encoder.write_all(&piece) {
                    return Poll::Ready(Some(Err(axum::Error::new(e))));
                }
            } else {
                match Pin::new(&mut this.body).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        // Trailers have no place in what is written anew.
                        this.rest = frame.into_data().unwrap_or_default();
                        continue;
                    }
                    Poll::Ready(Some(Err(e))) => return Poll::Ready(Some(Err(e))),
                    Poll::Ready(None) => {
                        let end = this.encoder.take().map_or(Ok(Vec::new()), GzEncoder::finish);
                        return Poll::Ready(Some(end.map(|end| Frame::data(end.into())).map_err(axum::Error::new)));
                    }
                    Poll::Pending if !this.unsent => return Poll::Pending,
                    // More will come, nobody knows when: what there is goes out now.
                    Poll::Pending => {
                        this.unsent = false;
                        if let Err(e) = encoder.flush() {
                            return Poll::Ready(Some(Err(axum::Error::new(e))));
                        }
                    }
                }
            }
            let made = std::mem::take(encoder.get_mut());
            if !made.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(made.into()))));
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Read;

    use http_body_util::BodyExt;

    use super::*;

    fn answer(kind: &'static str, body: impl Into<Body>) -> Response<Body> {
        Response::builder().header(CONTENT_TYPE, kind).body(body.into()).unwrap()
    }

    #[tokio::test]
    async fn what_comes_out_is_what_went_in() {
        let text: String = (0..40_000).map(|n| format!("{{\"event\": {n}}},")).collect();
        let small = compress(answer("application/json", text.clone()));
        assert_eq!(small.headers()[CONTENT_ENCODING], "gzip");
        assert_eq!(small.headers()[VARY], "Accept-Encoding");
        let mut frames = small.into_body();
        let (mut bytes, mut count) = (Vec::new(), 0);
        while let Some(frame) = frames.frame().await {
            bytes.extend_from_slice(&frame.unwrap().into_data().unwrap());
            count += 1;
        }
        assert!(bytes.len() < text.len() / 4 && count > 2, "{} in {count}", bytes.len());
        let mut again = String::new();
        flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut again).unwrap();
        assert!(again == text);
    }

    #[tokio::test]
    async fn what_gains_nothing_is_left_as_it_is() {
        let long = "x".repeat(10_000);
        let mut refused = answer("application/json", long.clone());
        *refused.status_mut() = StatusCode::NOT_FOUND;
        for left in [answer("application/json", "{}"), answer("image/png", long), refused] {
            assert!(!compress(left).headers().contains_key(CONTENT_ENCODING));
        }
    }

    #[test]
    fn clients_say_what_they_take() {
        let of =
            |value: &'static str| takes(&HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(value))]));
        assert!(of("gzip") && of("br, GZIP;q=0.5") && of("deflate,gzip"));
        assert!(!of("br") && !of("gzip;q=0") && !of("gzip; q=0.0, br") && !of("x-gzip") && !takes(&HeaderMap::new()));
    }
}
