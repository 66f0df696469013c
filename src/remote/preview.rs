//! Pages of anybody on the web, for previews of links: `http` and `https`, redirects followed a few times.
//!
//! What is asked for is chosen by strangers, so nothing goes out that says who asks (no cookies, no credentials, no
//! referrer), every address is held against what the caller refuses before it is asked and against the forbidden ranges at
//! the moment it is dialled ([`Dialer`]), and a body is counted as it comes, after it has been unpacked ([`Body`]). The
//! deadline is the caller's.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use hearth_base::{Doing, Result as Done};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use http_body_util::Empty;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use url::Url;

use crate::{
    Failure, Refusal,
    discovery::{Authority, Lookup, dns::Dns},
    http::{Dialer, Proxy, failure},
};

mod body;
#[cfg(test)]
mod tests;

pub use body::Body;

/// Redirects that are followed.
const MAX_REDIRECTS: usize = 8;
/// How long a connection stays open that nobody uses: for the redirect or the image that is asked for next.
const IDLE: Duration = Duration::from_secs(10);
/// Headers of an answer, and their bytes.
const MAX_HEADERS: usize = 200;
const MAX_HEADER_BYTES: u32 = 64 << 10;

/// How pages are fetched.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Addresses that may be dialled, the proxy for `https`, and what we call ourselves. What else is there concerns
    /// homeservers alone.
    pub remote: crate::Settings,
    /// The proxy for `http`, if there is one.
    pub http_proxy: Option<Proxy>,
    /// Languages to ask for (`url_preview_accept_language`), with their weights.
    pub languages: Vec<String>,
}

/// Fetches pages. Clones share their connections.
#[derive(Clone)]
pub struct Browser(Arc<Inner>);

struct Inner {
    client: Client<Dialer, Empty<Bytes>>,
    dialer: Dialer,
    user_agent: HeaderValue,
    languages: Option<HeaderValue>,
}

impl fmt::Debug for Browser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Browser")
    }
}

/// A page on its way.
#[derive(Debug)]
pub struct Page {
    /// Where it was found, after redirects.
    pub url: Url,
    /// Its media type as it was said.
    pub content_type: Option<String>,
    /// Its disposition as it was said.
    pub disposition: Option<String>,
    /// Its bytes.
    pub body: Body,
}

impl Browser {
    /// # Errors
    /// If the resolver or the authorities of this machine cannot be read.
    pub fn new(settings: &Settings) -> Done<Self> {
        let remote = &settings.remote;
        let dns = match remote.name_server {
            Some(address) => Dns::at(address)?,
            None => Dns::system()?,
        };
        let dialer = Dialer::new(remote, settings.http_proxy.clone(), dns, Lookup::Web(443))?;
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(1)
            .http1_max_headers(MAX_HEADERS)
            .http2_max_header_list_size(MAX_HEADER_BYTES)
            .build(dialer.clone());
        let languages = settings.languages.join(", ");
        Ok(Self(Arc::new(Inner {
            client,
            dialer,
            user_agent: HeaderValue::from_str(&remote.user_agent).doing("making the user agent")?,
            languages: HeaderValue::from_str(&languages).ok().filter(|l| !l.is_empty()),
        })))
    }

    /// Whether nothing keeps us from trying: an address that is written out and forbidden will not do. Names are looked
    /// up when they are dialled.
    #[must_use]
    pub fn may_try(&self, url: &Url) -> bool {
        let address = match url.host() {
            Some(url::Host::Ipv4(ip)) => ip.into(),
            Some(url::Host::Ipv6(ip)) => ip.into(),
            Some(url::Host::Domain(_)) => return true,
            None => return false,
        };
        self.0.dialer.may_dial(address)
    }

    /// Fetches a page, or what it redirects to, up to `limit` bytes. Each address is asked only if `may` allows it.
    ///
    /// # Errors
    /// Whatever keeps a page from coming; a status that is no success is [`Failure::Refused`].
    pub async fn get(
        &self,
        url: &Url,
        accept: &'static str,
        limit: u64,
        may: &(dyn Fn(&Url) -> bool + Sync),
    ) -> Result<Page, Failure> {
        let mut url = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            if !matches!(url.scheme(), "http" | "https") || !may(&url) {
                return Err(Failure::Forbidden(format!("{} is not asked", url.host_str().unwrap_or_default())));
            }
            let answer = self.0.client.request(self.request(&mut url, accept)?).await.map_err(|e| failure(&e))?;
            let (parts, body) = answer.into_parts();
            if let Some(location) = location(parts.status, &parts.headers) {
                url = url.join(location).map_err(|_| Failure::Nonsense("it redirects to no address".to_owned()))?;
                continue;
            }
            if !parts.status.is_success() {
                return Err(Failure::Refused(Box::new(Refusal {
                    status: parts.status,
                    errcode: String::new(),
                    error: String::new(),
                    retry_after: None,
                    body: Bytes::new(),
                })));
            }
            let encoding = text(&parts.headers, header::CONTENT_ENCODING);
            return Ok(Page {
                url,
                content_type: text(&parts.headers, header::CONTENT_TYPE),
                disposition: text(&parts.headers, header::CONTENT_DISPOSITION),
                body: Body::new(body, encoding.as_deref(), limit)?,
            });
        }
        Err(Failure::Nonsense(format!("it redirects more than {MAX_REDIRECTS} times")))
    }

    fn request(&self, url: &mut Url, accept: &'static str) -> Result<Request<Empty<Bytes>>, Failure> {
        url.set_fragment(None);
        // What stands there is not ours to send to anybody, and a host without a name takes none.
        let _ = (url.set_username(""), url.set_password(None));
        let mut request = Request::get(url.as_str())
            .header(header::ACCEPT, accept)
            .header(header::ACCEPT_ENCODING, "gzip")
            .header(header::USER_AGENT, self.0.user_agent.clone());
        if let Some(languages) = &self.0.languages {
            request = request.header(header::ACCEPT_LANGUAGE, languages.clone());
        }
        if url.scheme() == "http"
            && let Some(proxy) = self.0.dialer.plain_proxy(&authority(url)?)
            && let Some(authorization) = &proxy.authorization
        {
            request = request.header(header::PROXY_AUTHORIZATION, authorization.as_str());
        }
        request.body(Empty::new()).map_err(|e| Failure::Nonsense(format!("no request can be made of it: {e}")))
    }
}

/// Host and port of an address.
fn authority(url: &Url) -> Result<Authority, Failure> {
    let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default());
    Authority::parse(&format!("{host}:{port}"))
}

/// Whither an answer redirects.
fn location(status: StatusCode, headers: &HeaderMap) -> Option<&str> {
    let redirects = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
    headers.get(header::LOCATION).filter(|_| redirects).and_then(|v| std::str::from_utf8(v.as_bytes()).ok())
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers.get(name).and_then(|v| std::str::from_utf8(v.as_bytes()).ok()).map(str::to_owned)
}
