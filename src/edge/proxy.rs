//! Named upstreams: what still runs elsewhere and is reached through us, by HTTP and WebSocket.
//!
//! Hyper speaks to the upstream as it does to the client, so bodies stream both ways and connections are kept; who
//! the caller is goes along in `X-Forwarded-*`, written by us and never believed from strangers.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use hearth_base::Error as Told;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, COOKIE, FORWARDED, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
        TRANSFER_ENCODING, UPGRADE,
    },
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body::Body as _;
use http_body_util::LengthLimitError;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use tracing::warn;

use crate::{answer, client_ip, limits::body, listener::connection::Caller};

mod connect;
mod turn;
mod upgrade;

use connect::{Connect, Target};
use turn::Turn;

/// One upstream, with the connections kept to it.
pub(crate) struct Upstream {
    name: String,
    client: Client<Connect, Body>,
    scheme: Scheme,
    authority: Authority,
    strip: bool,
    preserve_host: bool,
    patience: Duration,
}

/// Idle connections kept to one upstream.
const KEPT: usize = 64;
/// How long an idle connection is kept; shorter than what servers commonly wait.
const KEPT_FOR: Duration = Duration::from_secs(30);

impl Upstream {
    /// # Errors
    /// If its address cannot be one, or there are no roots to check a certificate against.
    pub fn new(config: &hearth_config::edge::Upstream) -> Result<Self, String> {
        let (target, scheme, authority) = if let Some(path) = config.to.strip_prefix("unix:") {
            (Target::Unix(path.into()), Scheme::HTTP, Authority::from_static("localhost"))
        } else {
            let uri: Uri = config.to.parse().map_err(|e: http::uri::InvalidUri| e.to_string())?;
            let authority = uri.authority().cloned().ok_or_else(|| "names no host".to_owned())?;
            let scheme = uri.scheme().cloned().unwrap_or(Scheme::HTTP);
            (Target::new(&scheme, &authority)?, scheme, authority)
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(KEPT)
            .pool_idle_timeout(KEPT_FOR)
            .pool_timer(TokioTimer::new())
            .build(Connect(Arc::new(target)));
        Ok(Self {
            name: config.name.clone().unwrap_or_else(|| config.at.to_string()),
            client,
            scheme,
            authority,
            strip: config.strip,
            preserve_host: config.preserve_host,
            patience: Duration::from_secs(config.timeout.unwrap_or(120)),
        })
    }

    /// Passes a request on and its answer back. `below`: the path below the upstream's place.
    pub async fn pass(
        &self,
        caller: &Caller,
        told: client_ip::Told,
        trusted: bool,
        below: &str,
        mut request: Request<Body>,
    ) -> Response<Body> {
        let client_side = upgrade::wanted(&request).then(|| hyper::upgrade::on(&mut request));
        let tls = told.tls.unwrap_or(caller.door.tls);
        let Some(request) = self.rewrite(caller, trusted, tls, below, request, client_side.is_some()) else {
            return answer::empty(StatusCode::BAD_REQUEST);
        };
        let turn = Turn::of_upstream();
        let request = request.map(|body| turn.during(body));
        let mut response = match turn.within(self.patience, self.client.request(request)).await {
            Some(Ok(response)) => response,
            Some(Err(e)) => {
                if let Some(refused) = fault_of_caller(&e) {
                    return answer::matrix(&refused);
                }
                let cause = std::error::Error::source(&e).map(ToString::to_string).unwrap_or_default();
                warn!(upstream = %self.name, error = %e, cause, "upstream cannot be reached");
                return answer::matrix(&Told::told(
                    StatusCode::BAD_GATEWAY,
                    "M_UNKNOWN",
                    "The server behind this address is away",
                ));
            }
            None => {
                warn!(upstream = %self.name, "upstream did not answer in time");
                let said = "The server behind this address did not answer";
                return answer::matrix(&Told::told(StatusCode::GATEWAY_TIMEOUT, "M_UNKNOWN", said));
            }
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let Some(client_side) = client_side else { return answer::empty(StatusCode::BAD_GATEWAY) };
            let upstream_side = hyper::upgrade::on(&mut response);
            upgrade::join(caller, client_side, upstream_side);
        } else {
            end_of_hop(response.headers_mut(), false);
        }
        let (mut head, body) = response.into_parts();
        head.version = Version::HTTP_11;
        Response::from_parts(head, body::patient(body, self.patience))
    }

    fn rewrite(
        &self,
        caller: &Caller,
        trusted: bool,
        tls: bool,
        below: &str,
        request: Request<Body>,
        upgrading: bool,
    ) -> Option<Request<Body>> {
        let (mut head, body) = request.into_parts();
        let asked = head.uri.authority().map(|a| a.as_str().to_owned());
        let path = if self.strip {
            let path = if below.starts_with('/') { below.to_owned() } else { format!("/{below}") };
            match head.uri.query() {
                Some(query) => format!("{path}?{query}").parse::<PathAndQuery>().ok()?,
                None => path.parse().ok()?,
            }
        } else {
            head.uri.path_and_query().cloned()?
        };
        let host = match asked.and_then(|a| HeaderValue::try_from(a).ok()) {
            Some(host) => Some(host),
            None => head.headers.get(HOST).cloned(),
        };
        head.uri = Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(path)
            .build()
            .ok()?;
        head.version = Version::HTTP_11;
        end_of_hop(&mut head.headers, upgrading);
        join_cookies(&mut head.headers);
        // hyper would leave a body of unknown length out of a GET or HEAD, unless it is told that there is one.
        let is_open = !body.is_end_stream() && body.size_hint().exact().is_none();
        if is_open && !head.headers.contains_key(CONTENT_LENGTH) {
            head.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        forwarded(&mut head.headers, caller, trusted, tls, host.as_ref());
        match host {
            Some(host) if self.preserve_host => head.headers.insert(HOST, host),
            _ => head.headers.insert(HOST, HeaderValue::try_from(self.authority.as_str()).ok()?),
        };
        Some(Request::from_parts(head, body))
    }
}

/// What to tell the caller whose own body is why a request could not be passed on.
fn fault_of_caller(e: &(dyn std::error::Error + 'static)) -> Option<Told> {
    let mut causes = std::iter::successors(Some(e), |e| e.source());
    causes.find_map(|cause| {
        if cause.is::<LengthLimitError>() {
            Some(Told::too_large("The body is larger than this server takes"))
        } else if cause.is::<body::Silent>() {
            Some(Told::told(StatusCode::REQUEST_TIMEOUT, "M_UNKNOWN", "The body did not come"))
        } else {
            None
        }
    })
}

/// Takes away what is meant for one connection only (RFC 9110, "Message Forwarding"); an upgrade keeps what makes it.
fn end_of_hop(headers: &mut HeaderMap, upgrading: bool) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .collect();
    let upgrade = headers.get(UPGRADE).cloned();
    let fixed = [CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION];
    let more = ["keep-alive", "proxy-connection"].map(HeaderName::from_static);
    for name in named.into_iter().chain(fixed).chain(more) {
        headers.remove(name);
    }
    if let Some(upgrade) = upgrade.filter(|_| upgrading) {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, upgrade);
    }
}

/// By HTTP/2 each cookie may have a line of its own; by HTTP/1 there is one for all (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let lines: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if lines.len() > 1
        && let Ok(line) = HeaderValue::from_bytes(&lines.join(&b"; "[..]))
    {
        headers.insert(COOKIE, line);
    }
}

/// Says who the caller is. What was there is kept only from a proxy that is believed.
fn forwarded(headers: &mut HeaderMap, caller: &Caller, trusted: bool, tls: bool, host: Option<&HeaderValue>) {
    const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
    let before = headers.get_all(FOR).iter().filter_map(|v| v.to_str().ok()).collect::<Vec<_>>().join(", ");
    let chain = if trusted && !before.is_empty() { format!("{before}, {}", caller.ip) } else { caller.ip.to_string() };
    // Some programs read `_` as `-` in a name, so those are never passed on.
    let says_so = |name: &&HeaderName| {
        let folded = name.as_str().replace('_', "-");
        let ours = folded.starts_with("x-forwarded-") || matches!(folded.as_str(), "x-real-ip" | "forwarded");
        ours && !(trusted && folded == name.as_str())
    };
    for name in headers.keys().filter(says_so).cloned().collect::<Vec<_>>() {
        headers.remove(name);
    }
    let mut set = |name: &'static str, value: Option<HeaderValue>| {
        headers.remove(name);
        headers.extend(value.map(|v| (HeaderName::from_static(name), v)));
    };
    set("x-forwarded-for", HeaderValue::try_from(chain).ok());
    set("x-real-ip", None);
    set("x-forwarded-proto", Some(HeaderValue::from_static(if tls { "https" } else { "http" })));
    set("x-forwarded-host", host.cloned());
    headers.remove(FORWARDED);
}
