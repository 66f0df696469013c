//! What a browser sees of the server itself: the page at `/`, and the page that makes the first account.
//!
//! The first account is an administrator's, so its page wants a token that only the operator is told, in a link printed
//! at the start. The token is derived from `macaroon_secret_key`, or without it from the signing key: the link outlives a restart, and nothing of it is stored. It
//! is good until there is an account, and never again. No page needs JavaScript.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::Response,
    routing::get,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hearth_api::limits::{Limit, Limits, Rate, Settings};
use hearth_base::{Error, Result, peer::Peer};
use hearth_config::Config;
use hearth_service::Services;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use tracing::{info, warn};

mod html;

use html::{Form, Front};

/// Where the first account is made.
const FIRST: &str = "/_hearth/first";
/// Bytes of the form at most.
const LONGEST_FORM: usize = 16 * 1024;

/// The pages and what they know.
pub(super) struct Welcome {
    name: String,
    /// `public_baseurl`, if configured.
    public: Option<String>,
    registration: bool,
    services: Arc<Services>,
    token: String,
    /// Wrong tokens, by address. Not configurable: a configuration without limits must not open this door.
    limits: Limits,
}

impl Welcome {
    /// The pages of this server.
    pub(super) fn new(config: &Config, services: Arc<Services>) -> Result<Self> {
        let seed = services.settings.server_keys.seed;
        let macaroon = config.accounts.macaroon_secret.as_ref().map(|secret| secret.expose().as_bytes());
        let key = macaroon.filter(|secret| !secret.is_empty()).unwrap_or(&seed);
        let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|e| Error::fault("the secret of links", e))?;
        mac.update(b"hearth: link of the first account\0");
        mac.update(config.server.name.as_bytes());
        let limits = Settings { login_failed: Rate::new(0.2, 5.0), keys: 1000, ..Settings::default() };
        Ok(Self {
            name: config.server.name.to_string(),
            public: config.server.has_public_baseurl.then(|| config.server.public_baseurl.to_string()),
            registration: services.accounts.settings().registration,
            token: URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()),
            limits: Limits::new(&limits, services.clock.clone()),
            services,
        })
    }

    /// The routes of the pages.
    pub(super) fn routes(self: Arc<Self>) -> Router {
        Router::new()
            .route("/", get(front))
            .route(FIRST, get(first).post(make_first))
            .layer(DefaultBodyLimit::max(LONGEST_FORM))
            .with_state(self)
    }

    /// Path and query of the first account's page; none once there is an account.
    pub(super) async fn first_account(&self) -> Result<Option<String>> {
        let open = !self.services.accounts.any().await?;
        Ok(open.then(|| format!("{FIRST}?token={}", self.token)))
    }

    /// Lets those in who know the token, as long as there is no account.
    async fn admit(&self, given: &str, from: IpAddr) -> Result<(), Response> {
        if self.services.accounts.any().await.map_err(|e| failed(&e))? {
            return Err(page(StatusCode::GONE, html::done_before(&self.name)));
        }
        if self.limits.would_address(Limit::LoginFailed, from).is_err() {
            return Err(page(StatusCode::TOO_MANY_REQUESTS, html::too_often(&self.name)));
        }
        if bool::from(given.as_bytes().ct_eq(self.token.as_bytes())) {
            return Ok(());
        }
        let _ = self.limits.address(Limit::LoginFailed, from);
        if !given.is_empty() {
            warn!(%from, "somebody asked for the first account with a wrong token");
        }
        Err(page(StatusCode::FORBIDDEN, html::no_token(&self.name)))
    }

    /// What to enter in a client: the configured address, or the one that this page was asked for by.
    fn address(&self, peer: Option<&Peer>, uri: &Uri, headers: &HeaderMap) -> String {
        if let Some(public) = &self.public {
            return public.trim_end_matches('/').to_owned();
        }
        let host = uri.authority().map(|a| a.as_str()).or_else(|| headers.get(header::HOST)?.to_str().ok());
        let plain = |host: &&str| host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b));
        let scheme = if peer.is_some_and(|p| p.tls) { "https" } else { "http" };
        format!("{scheme}://{}", host.filter(plain).unwrap_or(&self.name))
    }
}

async fn front(State(this): State<Arc<Welcome>>, request: Request) -> Response {
    let any = match this.services.accounts.any().await {
        Ok(any) => any,
        Err(e) => return failed(&e),
    };
    let peer = request.extensions().get::<Peer>();
    let address = this.address(peer, request.uri(), request.headers());
    let front = Front { name: &this.name, address: &address, has_accounts: any, registration: this.registration };
    page(StatusCode::OK, html::front(&front))
}

async fn first(State(this): State<Arc<Welcome>>, request: Request) -> Response {
    let given = field(request.uri().query().unwrap_or_default().as_bytes(), "token");
    if let Err(refused) = this.admit(&given, ip(request.extensions().get())).await {
        return refused;
    }
    page(StatusCode::OK, html::form(&Form { name: &this.name, token: &given, username: "", wrong: None }))
}

async fn make_first(
    State(this): State<Arc<Welcome>>,
    peer: Option<axum::Extension<Peer>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let peer = peer.as_deref();
    let text = |name: &str| field(&body, name);
    let (token, username, password) = (text("token"), text("username"), text("password"));
    // The token is what a page of somebody else's cannot know, so no other site can send this form.
    if let Err(refused) = this.admit(&token, ip(peer)).await {
        return refused;
    }
    let again = |status, wrong: &str| {
        page(status, html::form(&Form { name: &this.name, token: &token, username: &username, wrong: Some(wrong) }))
    };
    if password != text("repeat") {
        return again(StatusCode::BAD_REQUEST, "The two passwords are not the same");
    }
    match this.services.accounts.register_first(username.trim(), password).await {
        Ok(user_id) => {
            info!(%user_id, "the first account was made, an administrator's");
            page(StatusCode::OK, html::made(&this.name, user_id.as_str(), &this.address(peer, &uri, &headers)))
        }
        Err(Error::Told(told)) => again(told.status, &told.error),
        Err(e) => failed(&e),
    }
}

fn ip(peer: Option<&Peer>) -> IpAddr {
    peer.map_or(IpAddr::from([127, 0, 0, 1]), |p| p.ip)
}

/// A field of a form; empty where there is none.
fn field(form: &[u8], name: &str) -> String {
    url::form_urlencoded::parse(form)
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}

fn failed(e: &Error) -> Response {
    tracing::error!("a page cannot be shown: {e}");
    page(e.status(), html::failed())
}

/// A page with the headers that keep it to itself: no script, no frame, no cache, and no address told to others, since
/// the address holds the token.
fn page(status: StatusCode, html: String) -> Response {
    let mut response = Response::new(html.into());
    *response.status_mut() = status;
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
