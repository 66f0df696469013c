//! The answer for an opened file: which form, whether it has changed, which part (RFC 9110).

use std::time::{Duration, SystemTime};

use axum::body::Body;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{
        ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
        CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
        IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE, VARY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
    },
};

use super::{
    kinds,
    open::{Content, Form, Opened},
    range::{self, Asked},
    stream::FileBody,
};

pub(super) fn respond<B>(path: &str, file: &Opened, request: &Request<B>) -> Response<Body> {
    let asked = request.headers();
    let (form, encoding) = choose(file, asked);
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    let fixed: [(HeaderName, &'static str); 5] = [
        (CACHE_CONTROL, kinds::cache_control(path)),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // The apps hold users' keys: nobody else's page may put them into a frame.
        (X_FRAME_OPTIONS, "SAMEORIGIN"),
        (CONTENT_SECURITY_POLICY, "frame-ancestors 'self'"),
        (ACCEPT_RANGES, "bytes"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let etag = HeaderValue::try_from(&form.etag).ok();
    let modified = HeaderValue::try_from(httpdate::fmt_http_date(form.modified)).ok();
    headers.extend([(ETAG, etag), (LAST_MODIFIED, modified)].into_iter().filter_map(|(n, v)| Some((n, v?))));
    if file.brotli.is_some() || file.gzip.is_some() {
        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    if is_another(form, asked) {
        *response.status_mut() = StatusCode::PRECONDITION_FAILED;
        return response;
    }
    if unchanged(form, asked) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(file.kind));
    if let Some(encoding) = encoding {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    let range = match part(form, asked) {
        Asked::Whole => 0..form.length,
        Asked::Part(range) => {
            let told = format!("bytes {}-{}/{}", range.start, range.end - 1, form.length);
            headers.extend(HeaderValue::try_from(told).ok().map(|v| (CONTENT_RANGE, v)));
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            range
        }
        Asked::Outside => {
            let told = format!("bytes */{}", form.length);
            headers.extend(HeaderValue::try_from(told).ok().map(|v| (CONTENT_RANGE, v)));
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            return response;
        }
    };
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
    if request.method() != Method::HEAD {
        *response.body_mut() = match &form.content {
            Content::Held(bytes) => {
                let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(bytes.len());
                Body::from(bytes.slice(at(range.start)..at(range.end)))
            }
            Content::File(file) => Body::new(FileBody::new(file.clone(), range)),
        };
    }
    response
}

/// The form the client takes, the smallest first.
fn choose<'f>(file: &'f Opened, asked: &HeaderMap) -> (&'f Form, Option<&'static str>) {
    let accepts = |wanted: &str| {
        asked.get_all(ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).any(|one| {
            let mut parts = one.split(';').map(str::trim);
            let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(wanted));
            let refused =
                parts.any(|p| p.strip_prefix("q=").and_then(|q| q.parse::<f32>().ok()).is_some_and(|q| q == 0.0));
            named && !refused
        })
    };
    match (&file.brotli, &file.gzip) {
        (Some(form), _) if accepts("br") => (form, Some("br")),
        (_, Some(form)) if accepts("gzip") => (form, Some("gzip")),
        _ => (&file.plain, None),
    }
}

/// Whether the client wants another form than there is (RFC 9110, "If-Match", "If-Unmodified-Since"): it has begun one that
/// is gone. An ETag, if the client names one, decides alone.
fn is_another(form: &Form, asked: &HeaderMap) -> bool {
    if let Some(wanted) = asked.get(IF_MATCH).and_then(|v| v.to_str().ok()) {
        return wanted.trim() != "*" && !wanted.split(',').any(|tag| tag.trim() == form.etag);
    }
    let said = asked.get(IF_UNMODIFIED_SINCE).and_then(|v| v.to_str().ok());
    // What is no date is as if it were not there.
    let told = said.and_then(|v| httpdate::parse_http_date(v).ok());
    told.is_some_and(|told| form.modified >= told + Duration::from_secs(1))
}

/// Whether the client has this form already. An ETag, if the client names one, decides alone.
fn unchanged(form: &Form, asked: &HeaderMap) -> bool {
    if let Some(known) = asked.get(IF_NONE_MATCH).and_then(|v| v.to_str().ok()) {
        let weak = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
        return known.trim() == "*" || known.split(',').any(|tag| weak(tag) == form.etag);
    }
    asked.get(IF_MODIFIED_SINCE).is_some_and(|v| !later(form.modified, v))
}

/// Whether a time is later than a header says; also if the header says nothing sensible. Headers count in seconds.
fn later(modified: SystemTime, than: &HeaderValue) -> bool {
    let told = than.to_str().ok().and_then(|v| httpdate::parse_http_date(v).ok());
    told.is_none_or(|told| modified >= told + Duration::from_secs(1))
}

/// The part asked for, if the client's copy of the rest is of the same form.
fn part(form: &Form, asked: &HeaderMap) -> Asked {
    let Some(value) = asked.get(RANGE).and_then(|v| v.to_str().ok()) else { return Asked::Whole };
    let same = match asked.get(IF_RANGE) {
        None => true,
        Some(v) if v.as_bytes().starts_with(b"\"") => v.as_bytes() == form.etag.as_bytes(),
        Some(v) if v.as_bytes().starts_with(b"W/") => false,
        Some(v) => !later(form.modified, v),
    };
    if same { range::read(value, form.length) } else { Asked::Whole }
}
