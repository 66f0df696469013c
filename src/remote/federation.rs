//! Typed calls to other homeservers (server-server API): ruma's requests, signed with the key that app hands in.
//!
//! One call is one deadline, some tries and a bound on the answer ([`Patience`]). Whether a server is to be called at
//! all is the business of services.

use std::{
    borrow::Cow,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use hearth_base::{Result as Done, clock::Clock};
use hearth_rules::{Signer, request::Signed};
use http::{Request, Response, header};
use hyper::body::Incoming;
use rand::Rng;
use ruma::api::federation::authentication::{XMatrix, XMatrixSigningInput};
use ruma::{
    ServerName,
    api::{
        IncomingResponseExt, MatrixVersion, OutgoingBody, OutgoingRequest, OutgoingRequestExt, SupportedVersions,
        auth_scheme::AuthScheme,
        path_builder::{PathBuilder, SinglePath, VersionHistory},
    },
    serde::Base64,
};

use crate::{
    Failure, Refusal, Settings,
    discovery::{Authority, Discovery, Lookup, dns::Dns},
    http::{Chunks, Http, read},
};

/// How long, how often and for how much a caller waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// One try.
    pub timeout: Duration,
    /// All tries together.
    pub in_all: Duration,
    /// Further tries while the failure may pass, and the longest pause between them.
    pub tries: (u32, Duration),
    /// Bytes of the answer at most.
    pub max_body: usize,
}

/// Bytes of an answer unless a caller expects more: what Synapse sends at most is 50 MB (`send_join`).
const MAX_BODY: usize = 8 << 20;
/// No deadline of a caller's own.
const FOREVER: Duration = Duration::from_secs(24 * 3600);
/// Bytes of a refusal.
const MAX_REFUSAL: usize = 64 << 10;

impl Patience {
    /// The same with a deadline for all tries together.
    #[must_use]
    pub fn within(self, in_all: Duration) -> Self {
        Self { timeout: in_all.min(self.timeout), in_all: in_all.min(self.in_all), ..self }
    }

    /// The same for an answer of that many bytes.
    #[must_use]
    pub fn up_to(self, max_body: usize) -> Self {
        Self { max_body, ..self }
    }
}

/// Calls other servers. Clones are the same.
#[derive(Clone)]
pub struct Federation(Arc<Inner>);

struct Inner {
    signer: Arc<Signer>,
    discovery: Discovery,
    http: Http,
    /// For addresses on the web that servers point to.
    web: Http,
    settings: Settings,
}

impl fmt::Debug for Federation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Federation({:?})", self.0.signer)
    }
}

/// How ruma's types choose among their paths.
pub trait Paths: PathBuilder {
    /// What the choice needs: we speak the newest versions of all.
    fn input<'a>() -> Self::Input<'a>;
}

impl Paths for SinglePath {
    fn input<'a>() -> Self::Input<'a> {}
}

impl Paths for VersionHistory {
    fn input<'a>() -> Self::Input<'a> {
        let versions = [MatrixVersion::V1_1, MatrixVersion::V1_11].into();
        Cow::Owned(SupportedVersions { versions, features: [].into() })
    }
}

impl Federation {
    /// Calls in the name and with the key of `signer`.
    ///
    /// # Errors
    /// If resolver or TLS cannot be set up.
    pub fn new(settings: Settings, signer: Arc<Signer>, clock: Clock) -> Done<Self> {
        let dns = match settings.name_server {
            Some(address) => Dns::at(address)?,
            None => Dns::system()?,
        };
        let discovery = Discovery::new(&settings, dns.clone(), clock)?;
        let http = Http::new(&settings, dns.clone(), Lookup::Server)?;
        let web = Http::new(&settings, dns, Lookup::Web(443))?;
        Ok(Self(Arc::new(Inner { signer, discovery, http, web, settings })))
    }

    /// Finds servers.
    #[must_use]
    pub fn discovery(&self) -> &Discovery {
        &self.0.discovery
    }

    /// The HTTP client beneath.
    #[must_use]
    pub fn http(&self) -> &Http {
        &self.0.http
    }

    /// For what a user waits for: a few quick tries.
    #[must_use]
    pub fn short(&self) -> Patience {
        let Settings { timeout, short, .. } = self.0.settings;
        Patience { timeout, in_all: FOREVER, tries: short, max_body: MAX_BODY }
    }

    /// For what nobody waits for: many slow tries.
    #[must_use]
    pub fn long(&self) -> Patience {
        Patience { tries: self.0.settings.long, ..self.short() }
    }

    /// One try: for those who ask somebody else next, or come again by themselves.
    #[must_use]
    pub fn once(&self) -> Patience {
        Patience { tries: (0, Duration::ZERO), ..self.short() }
    }

    /// One try, and a second soon after if the first may pass: where a broken connection costs more than the wait.
    #[must_use]
    pub fn twice(&self) -> Patience {
        Patience { tries: (1, Duration::from_millis(500)), ..self.short() }
    }

    /// A signed request, and its answer.
    ///
    /// # Errors
    /// Whatever keeps a sensible answer from coming.
    pub async fn send<R>(&self, to: &ServerName, request: R, patience: Patience) -> Result<R::IncomingResponse, Failure>
    where
        R: OutgoingRequest,
        R::PathBuilder: Paths,
        for<'a> R::Authentication: AuthScheme<Input<'a> = XMatrixSigningInput<'a>>,
    {
        decode::<R>(&self.exchange(to, self.signed(to, request)?, patience).await?)
    }

    /// A request that needs no signature (keys, version), and its answer.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn ask<R>(&self, to: &ServerName, request: R, patience: Patience) -> Result<R::IncomingResponse, Failure>
    where
        R: OutgoingRequest,
        R::PathBuilder: Paths,
        for<'a> R::Authentication: AuthScheme<Input<'a> = ()>,
    {
        let made = request.try_into_http_request::<BytesMut>("", (), R::PathBuilder::input());
        let made = made.map_err(|e| Failure::Ours(e.to_string()))?.map(BytesMut::freeze);
        decode::<R>(&self.exchange(to, made, patience).await?)
    }

    /// A request with our signature in its `Authorization` header ("Request Authentication").
    ///
    /// # Errors
    /// [`Failure::Ours`] for what is no canonical JSON.
    pub fn signed<R>(&self, to: &ServerName, request: R) -> Result<Request<Bytes>, Failure>
    where
        R: OutgoingRequest,
        R::PathBuilder: Paths,
        for<'a> R::Authentication: AuthScheme<Input<'a> = XMatrixSigningInput<'a>>,
    {
        let ours = |e: &dyn fmt::Display| Failure::Ours(e.to_string());
        let made = request.try_into_http_request_inner("", R::PathBuilder::input()).map_err(|e| ours(&e))?;
        let (mut parts, body) = made.into_parts();
        if let Some(content_type) = body.content_type() {
            parts.headers.entry(header::CONTENT_TYPE).or_insert(content_type);
        }
        let body: BytesMut = body.try_into_buf().map_err(|e| ours(&e.into()))?;
        self.sign(to, Request::from_parts(parts, body.freeze()))
    }

    /// The same for a request that no type of ruma's describes: path and query, and a body that is JSON.
    ///
    /// # Errors
    /// As [`Self::signed`].
    pub fn sign(&self, to: &ServerName, request: Request<Bytes>) -> Result<Request<Bytes>, Failure> {
        let ours = |e: &dyn fmt::Display| Failure::Ours(e.to_string());
        let (mut parts, body) = request.into_parts();
        let signer = &self.0.signer;
        let signed = Signed {
            origin: signer.server_name().as_str(),
            destination: to.as_str(),
            method: parts.method.as_str(),
            uri: parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str),
            body: std::str::from_utf8(&body).map_err(|e| ours(&e))?,
        };
        let signature = Base64::parse(signer.sign_text(&signed.text().map_err(|e| ours(&e))?)).map_err(|e| ours(&e))?;
        let key = signer.key_id().try_into().map_err(|e: ruma::IdParseError| ours(&e))?;
        let proof = XMatrix::new(signer.server_name().to_owned(), to.to_owned(), key, signature);
        parts.headers.insert(header::AUTHORIZATION, http::HeaderValue::from(&proof));
        Ok(Request::from_parts(parts, body))
    }

    /// Sends a finished request and reads the answer; tries again while that is sane.
    ///
    /// # Errors
    /// A status of 300 and above is [`Failure::Refused`].
    pub async fn exchange(
        &self,
        to: &ServerName,
        request: Request<Bytes>,
        patience: Patience,
    ) -> Result<Response<Bytes>, Failure> {
        let began = Instant::now();
        let (mut left, mut pause) = (patience.tries.0, Duration::from_millis(250));
        loop {
            // Everybody who asks another server would carry it about.
            let once = Box::pin(async {
                let (parts, body) = self.start(to, request.clone()).await?.into_parts();
                Ok(Response::from_parts(parts, read(body, patience.max_body).await?))
            });
            let patience_left = patience.in_all.saturating_sub(began.elapsed()).min(patience.timeout);
            let ended = tokio::time::timeout(patience_left, once).await;
            let failure = match ended.unwrap_or(Err(Failure::TimedOut(patience_left))) {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let wish = failure.refusal().and_then(|r| r.retry_after).unwrap_or_default();
            // Apart from each other, so that a server that comes back is not met by all at once.
            let jitter = rand::rng().random_range(0.8..1.4);
            let wait = pause.max(wish).mul_f64(jitter).min(patience.tries.1);
            if left == 0 || !failure.may_pass() || began.elapsed() + wait >= patience.in_all {
                tracing::debug!(server = %to, path = request.uri().path(), error = %failure, "a call failed");
                return Err(failure);
            }
            left -= 1;
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(patience.tries.1);
        }
    }

    /// Sends a finished request once; gives the answer when its headers are there, for bodies that are to be streamed.
    /// The deadline is the caller's.
    ///
    /// # Errors
    /// A status of 300 and above is [`Failure::Refused`].
    pub async fn start(&self, to: &ServerName, mut request: Request<Bytes>) -> Result<Response<Incoming>, Failure> {
        let authority = self.0.discovery.authority(to).await?;
        let headers = request.headers_mut();
        headers.entry(header::ACCEPT).or_insert(http::HeaderValue::from_static("*/*"));
        successful(self.0.http.start(&authority, request).await?).await
    }

    /// The same, for a body that is to be read piece by piece.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn stream(&self, to: &ServerName, request: Request<Bytes>) -> Result<Response<Chunks>, Failure> {
        self.start(to, request).await.map(Chunks::of)
    }

    /// GET of an address on the web that another server pointed to, with more in its query: `https` alone, no redirects, and
    /// no addresses that are forbidden. The deadline is the caller's.
    ///
    /// # Errors
    /// [`Failure::Nonsense`] for any other kind of address, else as [`Self::start`].
    pub async fn fetch(&self, url: &str, query: &[(&str, &str)]) -> Result<Response<Chunks>, Failure> {
        let nonsense = || Failure::Nonsense("it points to no https address".to_owned());
        let mut url = url::Url::parse(url).map_err(|_| nonsense())?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let has_user = !url.username().is_empty() || url.password().is_some();
        let host = url.host_str().filter(|_| url.scheme() == "https" && !has_user).ok_or_else(nonsense)?;
        let authority = match url.port() {
            Some(port) => Authority::parse(&format!("{host}:{port}"))?,
            None => Authority::parse(host)?,
        };
        let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
        let request = Request::get(path).header(header::ACCEPT, "*/*").body(Bytes::new());
        let request = request.map_err(|_| nonsense())?;
        successful(self.0.web.start(&authority, request).await?).await.map(Chunks::of)
    }
}

/// An answer that is no refusal: a status of 300 and above is [`Failure::Refused`].
pub(crate) async fn successful(answer: Response<Incoming>) -> Result<Response<Incoming>, Failure> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let (parts, body) = answer.into_parts();
    let body = read(body, MAX_REFUSAL).await.unwrap_or_default();
    Err(Failure::Refused(Box::new(Refusal::read(status, &parts.headers, body))))
}

fn decode<R: OutgoingRequest>(answer: &Response<Bytes>) -> Result<R::IncomingResponse, Failure> {
    let mut lent = Response::new(&answer.body()[..]);
    *lent.status_mut() = answer.status();
    *lent.headers_mut() = answer.headers().clone();
    <R::IncomingResponse as IncomingResponseExt>::try_from_http_response(lent)
        .map_err(|e| Failure::Nonsense(e.to_string().chars().take(300).collect()))
}
