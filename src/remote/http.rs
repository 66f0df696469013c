//! The one HTTP client for other servers: connections pooled by authority, HTTP/2 where it is of use, addresses checked
//! at the moment they are dialled ([`dial`]), certificates by the rules of discovery ([`tls`]).
//!
//! Follows no redirects and keeps no cookies. Deadlines are the caller's; sizes are the caller's too, but an answer that
//! nobody bounds cannot be read: [`read`] asks for the limit.

use std::{error::Error as _, fmt, io, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use hearth_base::{Doing, Result as Done};
use http::{HeaderValue, Method, Request, Response, Uri, header, uri::PathAndQuery};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};

use crate::{
    Failure, Settings,
    discovery::{Authority, Lookup, dns::Dns},
};

pub mod dial;
pub mod inspect;
pub mod tls;
mod wire;

pub use dial::{Dialer, Proxy};

/// How long a connection stays open that nobody uses.
const IDLE: Duration = Duration::from_secs(120);
/// Idle connections to one authority, where HTTP/2 is not spoken.
const IDLE_EACH: usize = 4;
/// Bytes that may be under way of one answer, where HTTP/2 is spoken.
const H2_STREAM_WINDOW: u32 = 2 << 20;
/// And of all answers on one connection.
const H2_CONNECTION_WINDOW: u32 = 4 << 20;
/// Bytes of an answer's headers.
const MAX_HEADERS: u32 = 64 << 10;

/// The client. Clones share their connections.
#[derive(Clone)]
pub struct Http {
    client: Client<Dialer, Full<Bytes>>,
    dialer: Dialer,
    user_agent: HeaderValue,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Http")
    }
}

impl Http {
    /// A client that finds authorities without a port by `lookup`.
    ///
    /// # Errors
    /// If the authorities of this machine or those configured cannot be read.
    pub fn new(settings: &Settings, dns: Dns, lookup: Lookup) -> Done<Self> {
        let dialer = Dialer::new(settings, None, dns, lookup)?;
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_EACH)
            .http1_max_headers(100)
            // Not by what the way takes (`http2_adaptive_window`): that asks by a ping, and another turn of both sides, at
            // every answer, and begins with 64 KiB.
            .http2_initial_stream_window_size(H2_STREAM_WINDOW)
            .http2_initial_connection_window_size(H2_CONNECTION_WINDOW)
            .http2_max_header_list_size(MAX_HEADERS)
            .http2_keep_alive_interval(Duration::from_secs(30))
            .http2_keep_alive_timeout(Duration::from_secs(15))
            .build(dialer.clone());
        let user_agent = HeaderValue::from_str(&settings.user_agent).doing("making the user agent")?;
        Ok(Self { client, dialer, user_agent })
    }

    /// What opens the connections; for looking at a server's certificate.
    #[must_use]
    pub fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// Sends a request and gives the answer as soon as its headers are there.
    ///
    /// # Errors
    /// Whatever keeps an answer from coming. Statuses are no errors here.
    pub async fn start(&self, to: &Authority, request: Request<Bytes>) -> Result<Response<Incoming>, Failure> {
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let uri = Uri::builder().scheme("https").authority(to.as_str()).path_and_query(path);
        parts.uri = uri.build().map_err(|e| Failure::Ours(e.to_string()))?;
        // Said in words, since a port that is the scheme's own would be left out.
        let host = HeaderValue::from_str(to.as_str()).map_err(|_| Failure::Name(to.to_string()))?;
        parts.headers.insert(header::HOST, host);
        parts.headers.insert(header::USER_AGENT, self.user_agent.clone());
        let request = Request::from_parts(parts, Full::new(body));
        let again = matches!(*request.method(), Method::GET | Method::PUT).then(|| request.clone());
        let answered = match (self.client.request(request).await, again) {
            // Closed for want of use, just now: what may be asked twice is asked anew (RFC 9110, 9.2.2).
            (Err(e), Some(again)) if is_closed(&e) => self.client.request(again).await,
            (answered, _) => answered,
        };
        answered.map_err(|e| failure(&e))
    }

    /// Sends a request and reads the answer up to `limit` bytes.
    ///
    /// # Errors
    /// As [`Self::start`] and [`read`].
    pub async fn send(
        &self,
        to: &Authority,
        request: Request<Bytes>,
        limit: usize,
    ) -> Result<Response<Bytes>, Failure> {
        let (parts, body) = self.start(to, request).await?.into_parts();
        Ok(Response::from_parts(parts, read(body, limit).await?))
    }
}

/// A body that is read piece by piece, for what is too large for memory. Nothing bounds it but its reader.
#[derive(Debug)]
pub struct Chunks(Incoming);

impl Chunks {
    pub(crate) fn of(answer: Response<Incoming>) -> Response<Self> {
        answer.map(Self)
    }

    /// Bytes there are at least, if that was said.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.0.size_hint().lower()
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// [`Failure::Unreachable`] if it is cut off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        while let Some(frame) = self.0.frame().await {
            let frame = frame.map_err(|e| Failure::Unreachable(format!("the answer was cut off: {e}")))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

/// Reads a body of `limit` bytes at most.
///
/// # Errors
/// [`Failure::TooLarge`]; [`Failure::Unreachable`] if it is cut off.
pub async fn read(mut body: Incoming, limit: usize) -> Result<Bytes, Failure> {
    if body.size_hint().lower() > limit as u64 {
        return Err(Failure::TooLarge(limit));
    }
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Failure::Unreachable(format!("the answer was cut off: {e}")))?;
        if let Ok(data) = frame.into_data() {
            if all.len() + data.len() > limit {
                return Err(Failure::TooLarge(limit));
            }
            all.extend_from_slice(&data);
        }
    }
    Ok(all.freeze())
}

/// Whether a connection that stood was closed before an answer came.
fn is_closed(e: &hyper_util::client::legacy::Error) -> bool {
    // TLS that was not ended as it should be is an unexpected end.
    const CLOSED: [io::ErrorKind; 3] =
        [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe, io::ErrorKind::UnexpectedEof];
    let mut cause = (!e.is_connect()).then(|| e.source()).flatten();
    while let Some(c) = cause {
        let incomplete = c.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_incomplete_message);
        if incomplete || c.downcast_ref::<io::Error>().is_some_and(|e| CLOSED.contains(&e.kind())) {
            return true;
        }
        cause = c.source();
    }
    false
}

/// What kept an answer from coming: what the dialer said if it was the dialer, else the innermost reason.
pub(crate) fn failure(e: &hyper_util::client::legacy::Error) -> Failure {
    let (mut cause, mut last) = (e.source(), e.to_string());
    while let Some(c) = cause {
        if let Some(failure) = c.downcast_ref::<Failure>() {
            return failure.clone();
        }
        if let Some(failure) = c.downcast_ref::<Arc<Failure>>() {
            return Failure::clone(failure);
        }
        last = c.to_string();
        cause = c.source();
    }
    Failure::Unreachable(format!("the connection broke: {last}"))
}
