//! Answers: ruma's response types, pre-rendered JSON, Matrix error bodies, CORS and limit headers.
//!
//! Every answer of the API is finished here, so that every one carries the CORS headers (client-server API, "Web
//! Browser Clients"). Faults are logged here and nowhere else, once, with their cause.

use axum::{body::Body, response::Response};
use bytes::{Bytes, BytesMut};
use hearth_base::{Doing, Error, Result};
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_EXPOSE_HEADERS, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER,
    },
};
use ruma::api::{OutgoingResponse, OutgoingResponseExt};

/// What a handler may answer with.
pub trait Answer: Send {
    /// The whole response, without CORS headers.
    ///
    /// # Errors
    /// A fault if it cannot be rendered.
    fn into_answer(self) -> Result<Response>;
}

impl<R: OutgoingResponse + Send> Answer for R {
    fn into_answer(self) -> Result<Response> {
        let rendered = self.try_into_http_response::<BytesMut>().doing("rendering an answer")?;
        let (parts, body) = rendered.into_parts();
        Ok(Response::from_parts(parts, Body::from(body.freeze())))
    }
}

/// An answer that is JSON already; for hot paths that splice stored events together.
#[derive(Clone, Debug)]
pub struct RawJson(pub Bytes);

impl Answer for RawJson {
    fn into_answer(self) -> Result<Response> {
        Ok(json(StatusCode::OK, self.0))
    }
}

/// Any JSON value; for answers that ruma has no type for.
#[derive(Clone, Debug)]
pub struct Json<T>(pub T);

impl<T: serde::Serialize + Send> Answer for Json<T> {
    fn into_answer(self) -> Result<Response> {
        let body = serde_json::to_vec(&self.0).doing("rendering an answer")?;
        Ok(json(StatusCode::OK, body.into()))
    }
}

/// A page for humans.
#[derive(Clone, Debug)]
pub struct Html(pub StatusCode, pub String);

impl Answer for Html {
    fn into_answer(self) -> Result<Response> {
        let mut response = Response::new(Body::from(self.1));
        *response.status_mut() = self.0;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        headers.insert(
            http::header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(
                "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; form-action 'self'; frame-ancestors 'self'",
            ),
        );
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }
}

/// A response as it stands (streams, redirects).
#[derive(Debug)]
pub struct Plain(pub Response);

impl Answer for Plain {
    fn into_answer(self) -> Result<Response> {
        Ok(self.0)
    }
}

/// The answer to a request: what the handler gave, or the error's body, with CORS headers.
pub fn finish(result: Result<Response>) -> Response {
    let mut response = result.unwrap_or_else(|e| error(&e));
    allow_origins(response.headers_mut());
    response
}

/// An error as the caller sees it (client-server API, "Standard error response").
#[must_use]
pub fn error(e: &Error) -> Response {
    if let Error::Fault(_) = e {
        tracing::error!(error = %e, "a request failed");
    }
    let mut body = e.body();
    if let (true, Some(keys)) = (e.errcode().is_empty(), body.as_object_mut()) {
        // User-interactive authentication asks for more; that is no error (`uiaa`).
        keys.remove("errcode");
        keys.remove("error");
    }
    let mut response = json(e.status(), body.to_string().into());
    if e.status() == StatusCode::TOO_MANY_REQUESTS
        && let Some(ms) = body.get("retry_after_ms").and_then(serde_json::Value::as_u64)
    {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000).max(1)));
    }
    response
}

/// The answer to a preflight: no body, no logic of the endpoint.
#[must_use]
pub fn preflight() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    allow_origins(response.headers_mut());
    response.headers_mut().insert(http::header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    response
}

fn json(status: StatusCode, body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The recommended headers of "Web Browser Clients", and those that newer endpoints need (Range of media, ETag of
/// rendezvous).
fn allow_origins(headers: &mut HeaderMap) {
    const ALLOW: [(HeaderName, HeaderValue); 4] = [
        (ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
        (ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")),
        (
            ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static(
                "X-Requested-With, Content-Type, Authorization, Date, Range, If-Match, If-None-Match",
            ),
        ),
        (ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("ETag, Retry-After, Content-Range, Accept-Ranges")),
    ];
    headers.extend(ALLOW);
}
