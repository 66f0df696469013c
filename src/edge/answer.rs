//! Answers the edge gives itself: Matrix errors, documents, redirects and a page for people.

use axum::body::Body;
use bytes::Bytes;
use hearth_base::Error;
use http::{
    HeaderName, HeaderValue, Response, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL,
        CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY, RETRY_AFTER,
        X_CONTENT_TYPE_OPTIONS,
    },
};
use http_body::Body as _;

/// A body of a type.
pub(crate) fn with_type(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::from(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// No body.
pub(crate) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// A JSON document that any web page may read (spec: "Web Browser Clients").
pub(crate) fn open_json(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = with_type(status, "application/json", body);
    let headers: [(HeaderName, &'static str); 3] = [
        (ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, PUT, DELETE, OPTIONS"),
        (ACCESS_CONTROL_ALLOW_HEADERS, "X-Requested-With, Content-Type, Authorization"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// A Matrix error.
pub(crate) fn matrix(error: &Error) -> Response<Body> {
    let mut response = open_json(error.status(), error.body().to_string());
    if let Some(ms) = error.body().get("retry_after_ms").and_then(serde_json::Value::as_u64) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000)));
    }
    response
}

/// The same for HEAD: no body, and the length that it has for GET (RFC 9110, 9.3.2). By HTTP/2 nobody behind us takes
/// the body away, and to clients it breaks the protocol.
pub(crate) fn without_body(response: Response<Body>) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    if let Some(length) = body.size_hint().exact().filter(|_| !body.is_end_stream()) {
        head.headers.entry(CONTENT_LENGTH).or_insert(HeaderValue::from(length));
    }
    Response::from_parts(head, Body::empty())
}

/// Elsewhere; a location that cannot be a header is a bad request.
pub(crate) fn redirect(status: StatusCode, to: &str) -> Response<Body> {
    match HeaderValue::try_from(to) {
        Ok(to) => {
            let mut response = empty(status);
            response.headers_mut().insert(LOCATION, to);
            response
        }
        Err(_) => empty(StatusCode::BAD_REQUEST),
    }
}

/// A page for people: a heading and a paragraph.
pub(crate) fn page(status: StatusCode, heading: &str, text: &str) -> Response<Body> {
    let (heading, text) = (escape(heading), escape(text));
    let html = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>{heading}</title><style>body{{font:1.1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:18vh auto;\
         padding:0 1rem;color:#222;background:#fafaf8}}@media(prefers-color-scheme:dark){{body{{color:#ddd;\
         background:#181818}}}}h1{{font-size:1.4rem}}</style><h1>{heading}</h1><p>{text}</p></html>\n"
    );
    let mut response = with_type(status, "text/html; charset=utf-8", html);
    let headers: [(HeaderName, &'static str); 4] = [
        (CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-cache"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
