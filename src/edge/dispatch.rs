//! Who answers a request, by listener, host and path; and the refusals that come before anybody does.
//!
//! In this order: metrics listeners, the rate of requests, ACME challenges, the redirect to HTTPS, `.well-known`,
//! configured places (the longest path wins, a named host before any host), the homeserver, the landing page, a page
//! for the rest. The homeserver's paths count among the configured places, so that an upstream may take over one part
//! of `/_matrix` and nothing else can by accident.

use std::{convert::Infallible, sync::Arc, time::Instant};

use axum::{Router, body::Body};
use hearth_base::{Error, peer::Peer};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use ipnet::IpNet;
use percent_encoding::percent_decode_str;
use tower::Service;
use tracing::debug;

use crate::{
    answer,
    client_ip::{Told, Trust},
    limits::{
        Limits,
        body::{self, Arriving},
    },
    listener::{Door, connection::Caller},
    proxy::Upstream,
    settings::{Resources, Serves},
    well_known::WellKnown,
};

mod compress;
pub(crate) mod counted;
pub(crate) mod live;
mod media;
mod routes;

use counted::Target;
use routes::{Place, Routes};

/// All that requests are answered by and that a reload replaces whole.
pub(crate) struct Live {
    pub limits: Arc<Limits>,
    pub trust: Trust,
    /// Whose connections begin with the PROXY protocol.
    pub balancers: Trust,
    pub server_name: String,
    /// Whether the edge's own listeners compress.
    compress: bool,
    well_known: WellKnown,
    routes: Routes,
    admin: AdminRule,
    https_port: Option<u16>,
    redirect: bool,
    web_client_location: Option<String>,
}

/// Where `/_synapse/admin` answers.
#[derive(Clone, Debug, Default)]
struct AdminRule {
    allow: Option<Vec<IpNet>>,
    listeners: Option<Vec<String>>,
}

impl AdminRule {
    /// Whether a path is the admin API's, whoever answers it, and closed to the caller. Another program may read as the
    /// same path what is written otherwise.
    fn closes(&self, path: &str, door: &Door, told: Told) -> bool {
        percent_decode_str(path).decode_utf8_lossy().starts_with("/_synapse/admin") && !self.allows(door, told)
    }

    fn allows(&self, door: &Door, told: Told) -> bool {
        self.listeners.as_ref().is_none_or(|names| names.iter().any(|n| **n == *door.name))
            && self.allow.as_ref().is_none_or(|nets| nets.iter().any(|net| net.contains(&told.ip)))
    }
}

fn no_admin() -> Response<Body> {
    answer::matrix(&Error::forbidden("The admin API does not answer here"))
}

impl Live {
    fn compresses(&self, door: &Door) -> bool {
        if door.own { self.compress } else { door.compress }
    }
}

/// Answers a request, whatever it is.
pub(crate) async fn answer(caller: &Caller, mut request: Request<Arriving>) -> Response<Body> {
    let began = Instant::now();
    let live = caller.shared.live.load_full();
    let told = if caller.door.x_forwarded {
        live.trust.caller(caller.ip, caller.unix, request.headers())
    } else {
        Told { ip: caller.ip, tls: None }
    };
    let (method, uri) = (request.method().clone(), request.uri().clone());
    if method == Method::HEAD {
        // Says nothing but to GET (RFC 9110, 14.2).
        request.headers_mut().remove(header::RANGE);
    }
    let (target, mut response) = route(caller, &live, told, request).await;
    if method == Method::HEAD {
        response = answer::without_body(response);
    }
    caller.shared.counted.count(&caller.door.name, target, response.status());
    debug!(
        target: "hearth_edge::access",
        listener = %caller.door.name, ip = %told.ip, %method, path = uri.path(), status = response.status().as_u16(),
        duration_ms = began.elapsed().as_millis() as u64, "answered"
    );
    response
}

async fn route(caller: &Caller, live: &Arc<Live>, told: Told, request: Request<Arriving>) -> (Target, Response<Body>) {
    let door = &caller.door;
    let resources = match door.serves {
        Serves::Http(resources) => resources,
        Serves::Metrics => {
            return (Target::Metrics, app(caller, live, told, &caller.shared.routers().metrics, request).await);
        }
    };
    let path = request.uri().path();
    if let Some(wait) = caller.shared.gate.request(&live.limits, told.ip) {
        return (Target::Refused, answer::matrix(&Error::limit_exceeded(wait)));
    }
    let Ok(host) = host(&request).map(|host| host.map(str::to_owned)) else {
        return (Target::Refused, answer::empty(StatusCode::BAD_REQUEST));
    };
    // We are no way to anywhere else.
    if request.method() == Method::CONNECT {
        return (Target::Refused, answer::empty(StatusCode::NOT_IMPLEMENTED));
    }
    // By HTTP/1 hyper has refused them already.
    if request.headers().len() > live.limits.headers {
        return (Target::Refused, answer::empty(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
    }
    if too_large(&request, live.limits.body_size) {
        return (Target::Refused, answer::matrix(&Error::too_large("The body is larger than this server takes")));
    }
    if let Some(token) = path.strip_prefix("/.well-known/acme-challenge/") {
        return (Target::Challenge, challenge(caller, token));
    }
    // Whoever asks how we are may know no other port.
    if door.redirect && live.redirect && path != "/health" {
        return (Target::Redirect, to_https(live, host.as_deref(), &request));
    }
    if let Some(document) = path.strip_prefix("/.well-known/matrix/") {
        return (Target::WellKnown, live.well_known.answer(request.method(), document));
    }
    let own = own_path(path);
    if let Some((place, below)) = live.routes.find(host.as_deref(), path, own.map_or(0, str::len)) {
        match place {
            Place::Files(site) => {
                if let Some(response) = site.answer(&request, below).await {
                    return (Target::Files, response);
                }
                if path != "/" {
                    return (Target::Files, nothing(live));
                }
            }
            Place::Upstream(upstream) => {
                if live.admin.closes(path, door, told) {
                    return (Target::Refused, no_admin());
                }
                let (upstream, below) = (upstream.clone(), below.to_owned());
                return (Target::Upstream, pass(caller, live, told, &upstream, &below, request).await);
            }
        }
    }
    if own.is_some() {
        return homeserver(caller, live, told, resources, request).await;
    }
    if path == "/" {
        if let Some(to) = &live.web_client_location {
            return (Target::Redirect, answer::redirect(StatusCode::FOUND, to));
        }
        return homeserver(caller, live, told, resources, request).await;
    }
    (Target::Nothing, nothing(live))
}

fn nothing(live: &Live) -> Response<Body> {
    let text = format!("{} is a Matrix server. There is nothing at this address.", live.server_name);
    answer::page(StatusCode::NOT_FOUND, "Nothing here", &text)
}

/// Passes a request on to an upstream. What another program may read as another path than we do is refused.
async fn pass(
    caller: &Caller,
    live: &Live,
    told: Told,
    upstream: &Upstream,
    below: &str,
    request: Request<Arriving>,
) -> Response<Body> {
    let dots = |part: &str| matches!(part.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..");
    if request.uri().path().split(['/', '\\']).any(dots) {
        return answer::empty(StatusCode::BAD_REQUEST);
    }
    // Bodies are passed on as they are sent, and no other coding is undone on the way (RFC 9112, 6.1).
    let is_coded = |coding: &HeaderValue| !coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    if request.headers().get_all(header::TRANSFER_ENCODING).iter().any(is_coded) {
        return answer::empty(StatusCode::NOT_IMPLEMENTED);
    }
    let trusted = caller.door.x_forwarded && (caller.unix || live.trust.believes(caller.ip));
    let (head, incoming) = request.into_parts();
    let body = body::guard(incoming, live.limits.body_size, live.limits.body_timeout);
    upstream.pass(caller, told, trusted, below, Request::from_parts(head, body)).await
}

/// The beginning of a path by which it is the homeserver's, if it is.
fn own_path(path: &str) -> Option<&'static str> {
    ["/_matrix", "/_synapse", "/_hearth", "/health"]
        .into_iter()
        .find(|own| path.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

async fn homeserver(
    caller: &Caller,
    live: &Arc<Live>,
    told: Told,
    resources: Resources,
    request: Request<Arriving>,
) -> (Target, Response<Body>) {
    let path = request.uri().path();
    if !resources.has(Resources::of(path)) {
        return (Target::Refused, answer::matrix(&Error::unrecognized("This listener does not answer this")));
    }
    let door = &caller.door;
    if live.admin.closes(path, door, told) {
        return (Target::Refused, no_admin());
    }
    if path == "/_synapse/metrics" {
        return (Target::Metrics, app(caller, live, told, &caller.shared.routers().metrics, request).await);
    }
    let is_media = media::is_media(path);
    let shrink = live.compresses(door) && request.method() != Method::HEAD && compress::takes(request.headers());
    let mut response = app(caller, live, told, &caller.shared.routers().app, request).await;
    if is_media {
        media::guard(response.headers_mut());
    } else if shrink {
        response = compress::compress(response);
    }
    (Target::App, response)
}

/// Calls a router in-process.
async fn app(caller: &Caller, live: &Live, told: Told, router: &Router, request: Request<Arriving>) -> Response<Body> {
    let (mut head, incoming) = request.into_parts();
    head.extensions.insert(Peer {
        ip: told.ip,
        tls: told.tls.unwrap_or(caller.door.tls),
        listener: caller.door.name.clone(),
    });
    let request = Request::from_parts(head, body::guard(incoming, live.limits.body_size, live.limits.body_timeout));
    match router.clone().call(request).await {
        Ok(response) => response,
        Err(never) => match never as Infallible {},
    }
}

fn too_large(request: &Request<Arriving>, most: u64) -> bool {
    http_body::Body::size_hint(request.body()).lower() > most
}

fn challenge(caller: &Caller, token: &str) -> Response<Body> {
    match caller.shared.challenges.get(token) {
        Some(authorization) => answer::with_type(StatusCode::OK, "application/octet-stream", authorization),
        None => answer::with_type(StatusCode::NOT_FOUND, "text/plain", "no such challenge\n"),
    }
}

/// A request that names no host where it has to, or several, or something that is none.
#[derive(Debug, PartialEq, Eq)]
struct NoHost;

/// The host asked for, without its port and without the dot of a whole name (RFC 9112, "Host and :authority").
///
/// # Errors
/// If that cannot be told for certain: what stands behind us, or before us, may take it otherwise than we do.
fn host<B>(request: &Request<B>) -> Result<Option<&str>, NoHost> {
    let mut lines = request.headers().get_all(header::HOST).iter();
    let line = lines.next();
    if lines.next().is_some() {
        return Err(NoHost);
    }
    let named = match (request.uri().authority(), line) {
        (Some(authority), _) => authority.as_str(),
        (None, Some(line)) => line.to_str().map_err(|_| NoHost)?,
        (None, None) if request.version() == Version::HTTP_11 => return Err(NoHost),
        (None, None) => "",
    };
    let named = crate::well_known::host_of(named);
    let literal = named.starts_with('[') && named.ends_with(']');
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b) || (literal && b"[]:".contains(&b));
    if !named.bytes().all(plain) {
        return Err(NoHost);
    }
    let named = named.strip_suffix('.').unwrap_or(named);
    Ok((!named.is_empty()).then_some(named))
}

fn to_https<B>(live: &Live, host: Option<&str>, request: &Request<B>) -> Response<Body> {
    let Some(host) = host else { return answer::empty(StatusCode::BAD_REQUEST) };
    // `OPTIONS *` and `CONNECT` have none.
    let path = request.uri().path_and_query().map(http::uri::PathAndQuery::as_str);
    let path = path.filter(|path| path.starts_with('/')).unwrap_or("/");
    let port = match live.https_port {
        None | Some(443) => String::new(),
        Some(port) => format!(":{port}"),
    };
    let again = matches!(*request.method(), Method::GET | Method::HEAD);
    let status = if again { StatusCode::MOVED_PERMANENTLY } else { StatusCode::PERMANENT_REDIRECT };
    answer::redirect(status, &format!("https://{host}{port}{path}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http::Uri;

    use super::*;

    #[test]
    fn the_homeserver_has_its_paths_and_no_lookalikes() {
        for own in ["/_matrix", "/_matrix/client/versions", "/_synapse/admin/v1/x", "/health", "/_hearth/first"] {
            assert!(own_path(own).is_some(), "{own}");
        }
        for other in ["/", "/_matrixx", "/healthy", "//_matrix/x", "/%5fmatrix/x"] {
            assert!(own_path(other).is_none(), "{other}");
        }
    }

    #[test]
    fn a_host_is_read_from_either_place_or_not_at_all() {
        let named = |uri: &str, lines: &[&str]| {
            let mut request = Request::builder().uri(uri.parse::<Uri>().unwrap());
            for line in lines {
                request = request.header("host", *line);
            }
            host(&request.body(()).unwrap()).map(|host| host.map(str::to_owned))
        };
        let is = |host: &str| Ok(Some(host.to_owned()));
        assert_eq!(named("/x", &["a.test:80"]), is("a.test"));
        assert_eq!(named("/x", &["a.test."]), is("a.test"));
        assert_eq!(named("/x", &["[::1]:80"]), is("[::1]"));
        assert_eq!(named("https://b.test:1/x", &["a.test"]), is("b.test"));
        assert_eq!(named("/x", &[""]), Ok(None));
        for wrong in [&["a.test/evil"][..], &["a.test", "b.test"], &["a.test:80:81"], &["a@b.test"], &["a b"], &[]] {
            assert_eq!(named("/x", wrong), Err(NoHost), "{wrong:?}");
        }
        let old = Request::builder().version(Version::HTTP_10).body(()).unwrap();
        assert_eq!(host(&old), Ok(None));
    }
}
