//! Requests of other servers, proved by the signature over method, path, body and whom they are meant for.

use axum::extract::Request;
use bytes::Bytes;
use hearth_base::{Error, Result};
use hearth_rules::request::Signed;
use hearth_service::federation::gate::{Errand, Pass};
use http::{Method, Uri, request::Parts};
use http_body::Body as _;
use ruma::{OwnedServerName, api::IncomingRequest};

use super::{Extract, Origin, check_object, decode, is_json, not_json, read};
use crate::{
    Cx,
    auth::x_matrix::{self, Claim},
    routes::Route,
};

/// A request of another server that proved who it is (server-server API, "Request Authentication").
#[derive(Debug)]
pub struct Federation<R> {
    /// Which server asks.
    pub server: OwnedServerName,
    /// What is asked.
    pub body: R,
    /// The JSON it was decoded from; empty for a request without body.
    pub json: Bytes,
    /// Whence it came.
    pub origin: Origin,
    /// Path and query as sent.
    pub uri: Uri,
    /// Its place among those we answer at present.
    pub pass: Pass,
}

impl<R: IncomingRequest + Send> Extract for Federation<R> {
    type Request = R;

    async fn extract(cx: &Cx, route: &Route, request: Request) -> Result<Self> {
        let Proved { server, parts, origin, json, pass } = Proved::of(cx, route, request).await?;
        let body = decode(route, &parts, &json)?;
        Ok(Self { server, body, json, origin, uri: parts.uri, pass })
    }

    fn pass(&self) -> Option<Pass> {
        Some(self.pass.clone())
    }
}

/// A server's request before it is decoded.
struct Proved {
    server: OwnedServerName,
    parts: Parts,
    origin: Origin,
    json: Bytes,
    pass: Pass,
}

impl Proved {
    /// Proves which server asks. Knows nothing of the endpoint's type, so that it is compiled once and not for each.
    async fn of(cx: &Cx, route: &Route, request: Request) -> Result<Self> {
        let (parts, body) = request.into_parts();
        let origin = Origin::of(&parts);
        let own = cx.federation.name();
        // Before the body is read: who claims nothing, or may not speak to us, is not worth waiting for.
        let claim = x_matrix::claim(&parts.headers, own)?;
        if !cx.federation.admits(&claim.origin) {
            return Err(Error::forbidden(format!("This server does not speak to {}", claim.origin)));
        }
        cx.gate.check(&claim.origin)?;
        let told = body.size_hint().lower();
        cx.gate.weigh(origin.ip, told).await?;
        let json = read(body, route.max_body.unwrap_or(cx.settings().max_body_bytes)).await?;
        cx.gate.weigh(origin.ip, (json.len() as u64).saturating_sub(told)).await?;
        let json = if matches!(parts.method, Method::GET | Method::HEAD) { Bytes::new() } else { json };
        check_object(&json)?;
        let signed = signed_text(&claim, own.as_str(), &parts.method, &parts.uri, &json)?;
        cx.server_keys.check_request(&claim.origin, &claim.signatures, &signed).await?;
        cx.federation.heard_from(&claim.origin).await?;
        let errand = if parts.method == Method::PUT { Errand::Tells } else { Errand::Asks };
        let pass = cx.gate.enter(&claim.origin, errand).await?;
        Ok(Self { server: claim.origin, parts, origin, json, pass })
    }
}

/// What the signature is about.
fn signed_text(claim: &Claim, own: &str, method: &Method, uri: &Uri, json: &[u8]) -> Result<String> {
    let body = std::str::from_utf8(json).map_err(|_| not_json())?;
    let uri = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let signed = Signed { origin: claim.origin.as_str(), destination: own, method: method.as_str(), uri, body };
    signed.text().map_err(|e| {
        if is_json(json) { Error::bad_json(format!("This is no canonical JSON: {e}")) } else { not_json() }
    })
}
