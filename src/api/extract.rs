//! Requests, decoded by ruma and proved: [`Public`], [`Client`], [`OptionalClient`], [`Admin`], [`Federation`].
//!
//! Whoever is authenticated is in the type, and each type holds just what its check has proved. Bodies are read up
//! to a limit; what does not decode is told as the errcode the specification has for it.

use std::{future::Future, marker::PhantomData, net::IpAddr, sync::Arc};

use axum::{body::Body, extract::Request};
use bytes::Bytes;
use hearth_base::{Error, Result, peer::Peer, requester::Requester};
use hearth_service::federation::gate::Pass;
use http::{HeaderMap, HeaderValue, Method, Uri, request::Parts};
use http_body::Body as _;
use ruma::api::{
    IncomingRequest, IncomingRequestExt, Metadata,
    error::{DeserializationError, FromHttpRequestError},
};

use serde::de::DeserializeOwned;

use crate::{Cx, auth, routes::Route};

mod body;
mod federation;

use body::{check_depth, check_object, is_json, not_json, read};
pub use federation::Federation;

/// What a handler may take as its second argument.
pub trait Extract: Sized {
    /// The ruma type that says path and method.
    type Request: IncomingRequest;

    /// Reads, proves and decodes a request.
    fn extract(cx: &Cx, route: &Route, request: Request) -> impl Future<Output = Result<Self>> + Send;

    /// The place that the request has, if what its answer costs is counted.
    fn pass(&self) -> Option<Pass> {
        None
    }
}

/// Whence a request came.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The caller's address, as the edge established it.
    pub ip: IpAddr,
    /// Whether the caller came by TLS.
    pub tls: bool,
    /// The caller's `User-Agent`.
    pub user_agent: Option<HeaderValue>,
}

impl Origin {
    fn of(parts: &Parts) -> Self {
        let peer = parts.extensions.get::<Peer>();
        Self {
            // Without an edge (tests) everything is local.
            ip: peer.map_or(IpAddr::from([127, 0, 0, 1]), |p| p.ip),
            tls: peer.is_some_and(|p| p.tls),
            user_agent: parts.headers.get(http::header::USER_AGENT).cloned(),
        }
    }

    /// The same for the services.
    #[must_use]
    pub fn from(&self) -> hearth_service::login::From {
        hearth_service::login::From { ip: self.ip, user_agent: self.user_agent().map(str::to_owned) }
    }

    /// The `User-Agent` as text, cut to a size fit for keeping.
    #[must_use]
    pub fn user_agent(&self) -> Option<&str> {
        let text = self.user_agent.as_ref()?.to_str().ok()?;
        text.get(..text.len().min(256))
    }
}

/// A request of anybody.
#[derive(Debug)]
pub struct Public<R> {
    /// What is asked.
    pub body: R,
    /// The JSON it was decoded from.
    pub json: Bytes,
    /// Whence it came.
    pub origin: Origin,
    /// Path and query as sent.
    pub uri: Uri,
    /// Headers as sent.
    pub headers: HeaderMap,
}

impl<R: IncomingRequest + Send> Extract for Public<R> {
    type Request = R;

    async fn extract(cx: &Cx, route: &Route, request: Request) -> Result<Self> {
        let (parts, body) = request.into_parts();
        let json = json(cx, route, &parts, body).await?;
        let body = decode(route, &parts, &json)?;
        Ok(Self { body, json, origin: Origin::of(&parts), uri: parts.uri, headers: parts.headers })
    }
}

/// A user's request before it is decoded.
struct Proved {
    requester: Arc<Requester>,
    parts: Parts,
    origin: Origin,
    json: Bytes,
}

impl Proved {
    /// Proves who asks, then reads the body: a stranger's bytes are not worth waiting for. This knows nothing of the
    /// endpoint's type, so that it is compiled once and not for each.
    async fn by<A: Admit>(cx: &Cx, route: &Route, request: Request) -> Result<Self> {
        let (parts, body) = request.into_parts();
        let origin = Origin::of(&parts);
        let token = auth::token(&parts)?.ok_or_else(Error::missing_token)?;
        let requester = auth::requester::<A>(cx, &token, &parts, &origin).await?;
        let json = json(cx, route, &parts, body).await?;
        Ok(Self { requester, parts, origin, json })
    }
}

/// Which accounts an endpoint is open to.
pub trait Admit: Send + Sync + 'static {
    /// Guests may call it (client-server API, "Guest access").
    const GUESTS: bool;
    /// Locked accounts may call it ("Account locking").
    const LOCKED: bool;
}

/// Ordinary accounts only.
#[derive(Debug)]
pub struct Members;
impl Admit for Members {
    const GUESTS: bool = false;
    const LOCKED: bool = false;
}

/// Guests too.
#[derive(Debug)]
pub struct Guests;
impl Admit for Guests {
    const GUESTS: bool = true;
    const LOCKED: bool = false;
}

/// Guests and locked accounts too: logging out.
#[derive(Debug)]
pub struct Everyone;
impl Admit for Everyone {
    const GUESTS: bool = true;
    const LOCKED: bool = true;
}

/// A request of a user who proved who they are by an access token.
#[derive(Debug)]
pub struct Client<R, A = Members> {
    /// Who asks.
    pub requester: Arc<Requester>,
    /// What is asked.
    pub body: R,
    /// The JSON it was decoded from; empty for a request without body.
    pub json: Bytes,
    /// Whence it came.
    pub origin: Origin,
    /// Path and query as sent.
    pub uri: Uri,
    /// Headers as sent.
    pub headers: HeaderMap,
    admitted: PhantomData<A>,
}

impl<R: IncomingRequest + Send, A: Admit> Extract for Client<R, A> {
    type Request = R;

    async fn extract(cx: &Cx, route: &Route, request: Request) -> Result<Self> {
        let Proved { requester, parts, origin, json } = Proved::by::<A>(cx, route, request).await?;
        let body = decode(route, &parts, &json)?;
        Ok(Self { requester, body, json, origin, uri: parts.uri, headers: parts.headers, admitted: PhantomData })
    }
}

/// A request that may or may not carry an access token; one that does must be valid.
#[derive(Debug)]
pub struct OptionalClient<R, A = Guests> {
    /// Who asks, if they say so.
    pub requester: Option<Arc<Requester>>,
    /// What is asked.
    pub body: R,
    /// The JSON it was decoded from.
    pub json: Bytes,
    /// Whence it came.
    pub origin: Origin,
    /// Path and query as sent.
    pub uri: Uri,
    /// Headers as sent.
    pub headers: HeaderMap,
    admitted: PhantomData<A>,
}

impl<R: IncomingRequest + Send, A: Admit> Extract for OptionalClient<R, A> {
    type Request = R;

    async fn extract(cx: &Cx, route: &Route, request: Request) -> Result<Self> {
        let (parts, body) = request.into_parts();
        let origin = Origin::of(&parts);
        let requester = match auth::token(&parts)? {
            Some(token) => Some(auth::requester::<A>(cx, &token, &parts, &origin).await?),
            None => None,
        };
        let json = json(cx, route, &parts, body).await?;
        let body = decode(route, &parts, &json)?;
        Ok(Self { requester, body, json, origin, uri: parts.uri, headers: parts.headers, admitted: PhantomData })
    }
}

/// A request of a server administrator.
#[derive(Debug)]
pub struct Admin<R> {
    /// Who asks.
    pub requester: Arc<Requester>,
    /// What is asked.
    pub body: R,
    /// The JSON it was decoded from.
    pub json: Bytes,
    /// Whence it came.
    pub origin: Origin,
    /// Path and query as sent.
    pub uri: Uri,
}

impl<R: IncomingRequest + Send> Extract for Admin<R> {
    type Request = R;

    async fn extract(cx: &Cx, route: &Route, request: Request) -> Result<Self> {
        let (parts, body) = request.into_parts();
        let origin = Origin::of(&parts);
        let token = auth::token(&parts)?.ok_or_else(Error::missing_token)?;
        let requester = auth::requester::<Members>(cx, &token, &parts, &origin).await?;
        if !requester.is_admin {
            return Err(Error::forbidden("You are not a server admin"));
        }
        let json = json(cx, route, &parts, body).await?;
        let body = decode(route, &parts, &json)?;
        Ok(Self { requester, body, json, origin, uri: parts.uri })
    }
}

/// A user's request whose body is bytes to be streamed (uploads). `body` is decoded as if they were none.
#[derive(Debug)]
pub struct Upload<R> {
    /// Who asks.
    pub requester: Arc<Requester>,
    /// What is asked, without the bytes.
    pub body: R,
    /// The bytes. Nobody has limited them yet.
    pub stream: Body,
    /// `Content-Length`, if told.
    pub length: Option<u64>,
    /// Whence it came.
    pub origin: Origin,
    /// Headers as sent.
    pub headers: HeaderMap,
}

impl<R: IncomingRequest + Send> Extract for Upload<R> {
    type Request = R;

    async fn extract(cx: &Cx, route: &Route, request: Request) -> Result<Self> {
        let (parts, stream) = request.into_parts();
        let origin = Origin::of(&parts);
        let token = auth::token(&parts)?.ok_or_else(Error::missing_token)?;
        let requester = auth::requester::<Members>(cx, &token, &parts, &origin).await?;
        let length = stream.size_hint().exact();
        let headers = parts.headers.clone();
        let body = decode(route, &parts, &[])?;
        Ok(Self { requester, body, stream, length, origin, headers })
    }
}

/// A form of anybody's, sent by a page of ours.
#[derive(Debug)]
pub struct Form<R> {
    /// What is asked.
    pub body: R,
    /// Fields and values.
    pub fields: Vec<(String, String)>,
    /// Whence it came.
    pub origin: Origin,
}

/// Bytes of a form at most.
const FORM: usize = 64 * 1024;

impl<R: IncomingRequest + Send> Extract for Form<R> {
    type Request = R;

    async fn extract(_: &Cx, route: &Route, request: Request) -> Result<Self> {
        let (parts, body) = request.into_parts();
        let bytes = read(body, FORM).await?;
        let origin = Origin::of(&parts);
        let body = decode(route, &parts, &[])?;
        Ok(Self { body, fields: url::form_urlencoded::parse(&bytes).into_owned().collect(), origin })
    }
}

/// The path and method of `R` with a body of our own, `B`: where ruma's type would refuse, or worse, what clients send.
#[derive(Debug)]
pub struct As<R, B> {
    /// Arguments of the path, decoded.
    pub args: Vec<String>,
    /// The body.
    pub body: B,
    form: PhantomData<fn() -> R>,
}

impl<R: IncomingRequest, B> Metadata for As<R, B> {
    const METHOD: Method = R::METHOD;
    const RATE_LIMITED: bool = R::RATE_LIMITED;
    type Authentication = R::Authentication;
    type PathBuilder = R::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = R::PATH_BUILDER;
}

impl<R: IncomingRequest, B: DeserializeOwned> IncomingRequest for As<R, B> {
    type EndpointError = R::EndpointError;
    type OutgoingResponse = R::OutgoingResponse;

    fn try_from_http_request_inner(
        request: http::Request<&[u8]>,
        args: &[&str],
    ) -> std::result::Result<Self, DeserializationError> {
        let json = if request.body().is_empty() { b"{}".as_slice() } else { request.body() };
        let args = args.iter().map(|a| (*a).to_owned()).collect();
        Ok(Self { args, body: serde_json::from_slice(json)?, form: PhantomData })
    }
}

/// The body of a request, as far as it can be judged without its type.
async fn json(cx: &Cx, route: &Route, parts: &Parts, body: Body) -> Result<Bytes> {
    let limit = route.max_body.unwrap_or(cx.settings().max_body_bytes);
    let json = read(body, limit).await?;
    // GET and HEAD have no meaning for a body (RFC 9110, 9.3.1).
    let json = if matches!(parts.method, Method::GET | Method::HEAD) { Bytes::new() } else { json };
    check_object(&json)?;
    check_depth(&json)?;
    Ok(json)
}

fn decode<R: IncomingRequest>(route: &Route, parts: &Parts, json: &[u8]) -> Result<R> {
    let args = route.arguments(parts.uri.path())?;
    let args: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
    R::try_from_http_request(lent(parts, json), &args).map_err(|e| refused(e, json))
}

/// Ruma decodes a request of borrowed bytes.
fn lent<'j>(parts: &Parts, json: &'j [u8]) -> http::Request<&'j [u8]> {
    let mut request = http::Request::new(json);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = parts.uri.clone();
    *request.headers_mut() = parts.headers.clone();
    request
}

/// What a request that does not decode is told (client-server API, "Common error codes").
fn refused(e: FromHttpRequestError, json: &[u8]) -> Error {
    let FromHttpRequestError::Deserialization(e) = e else {
        return Error::unrecognized("Unrecognized request");
    };
    match e {
        // A wrong type may be met before the place where it stops being JSON.
        DeserializationError::Json(e) if json.is_empty() => Error::bad_json(format!("A body is needed: {e}")),
        DeserializationError::Json(e) if e.is_data() && is_json(json) => Error::bad_json(e.to_string()),
        DeserializationError::Json(_) => not_json(),
        // Path arguments come under this name too.
        DeserializationError::Query(e) => {
            let text = e.to_string();
            if text.starts_with("missing field") { Error::missing_param(text) } else { Error::invalid_param(text) }
        }
        DeserializationError::Ident(e) => Error::invalid_param(e.to_string()),
        DeserializationError::Utf8(_) => not_json(),
        e => Error::invalid_param(e.to_string()),
    }
}
