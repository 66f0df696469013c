//! `.well-known/matrix/server`: who answers for a name (server-server API, "Resolving server names", step 3).
//!
//! What was found is kept as long as its headers say, within bounds; a name without a document is asked again after a
//! pause that grows. One question for a name is under way at a time. A document that was good stays so while its host
//! cannot be reached, for two days at most: a web server that falls over must not take the homeserver with it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use hearth_base::clock::Clock;
use http::{HeaderMap, Method, Request, StatusCode, Uri, header};
use moka::{future::Cache, ops::compute::Op};

use super::Authority;
use crate::{Failure, http::Http};

/// Names that are remembered.
const CACHE: u64 = 20_000;
/// Bytes of a document.
const MAX_BODY: usize = 50 << 10;
/// Redirects that are followed.
const MAX_REDIRECTS: usize = 10;
/// How long a host may take: less than whoever waits for an answer, so that the name's own port is still tried.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long a document holds without headers that say so.
const USUAL: u64 = 24 * 3600 * 1000;
/// How long it holds at least and at most.
const SHORTEST: u64 = 5 * 60 * 1000;
const LONGEST: u64 = 48 * 3600 * 1000;
/// How long it is remembered that there is none: at first, and at most.
const FIRST_PAUSE: u64 = 2 * 60 * 1000;
const LONGEST_PAUSE: u64 = 3600 * 1000;

/// What a host says.
#[derive(Clone, Debug)]
pub enum Delegation {
    /// Somebody else answers for it.
    To(Authority),
    /// There is no document that can be used, and why.
    None(Arc<Failure>),
}

#[derive(Clone, Debug)]
struct Entry {
    says: Delegation,
    /// When it is to be asked for again, ms.
    until: u64,
    /// When a good document was read last, ms.
    read: u64,
    /// Failures one after the other.
    failures: u32,
}

/// Reads and remembers the documents.
#[derive(Debug)]
pub struct WellKnown {
    web: Http,
    clock: Clock,
    cache: Cache<String, Entry>,
}

impl WellKnown {
    pub(super) fn new(web: Http, clock: Clock) -> Self {
        Self { web, clock, cache: Cache::new(CACHE) }
    }

    /// What a host says.
    pub async fn of(&self, host: &str) -> Delegation {
        let now = self.clock.steady_ms();
        if let Some(entry) = self.cache.get(host).await
            && now < entry.until
        {
            return entry.says;
        }
        // Others who ask for the same name wait here, and find what the first one has brought.
        let computed = self.cache.entry_by_ref(host).and_compute_with(|old| async move {
            let old = old.map(moka::Entry::into_value);
            match old {
                Some(entry) if self.clock.steady_ms() < entry.until => Op::Nop,
                old => Op::Put(self.read(host, old).await),
            }
        });
        match computed.await.into_entry() {
            Some(entry) => entry.into_value().says,
            None => Delegation::None(Arc::new(Failure::Ours("nothing was remembered".to_owned()))),
        }
    }

    async fn read(&self, host: &str, old: Option<Entry>) -> Entry {
        let read = tokio::time::timeout(PATIENCE, self.fetch(host)).await.unwrap_or(Err(Failure::TimedOut(PATIENCE)));
        let now = self.clock.steady_ms();
        match read {
            Ok((authority, lifetime)) => {
                tracing::debug!(host, %authority, "delegated");
                Entry { says: Delegation::To(authority), until: now + lifetime, read: now, failures: 0 }
            }
            Err(failure) => {
                tracing::debug!(host, error = %failure, "no well-known document");
                let failures = old.as_ref().map_or(0, |o| o.failures).saturating_add(1);
                let pause = FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(16)).min(LONGEST_PAUSE);
                let kept = old.filter(|o| {
                    matches!(o.says, Delegation::To(_)) && failure.is_away() && now < o.read.saturating_add(LONGEST)
                });
                match kept {
                    Some(old) => Entry { until: now + pause, failures, ..old },
                    None => Entry { says: Delegation::None(Arc::new(failure)), until: now + pause, read: 0, failures },
                }
            }
        }
    }

    /// The document of a host, and how long it holds, ms.
    async fn fetch(&self, host: &str) -> Result<(Authority, u64), Failure> {
        let mut uri: Uri =
            format!("https://{host}/.well-known/matrix/server").parse().map_err(|_| Failure::Name(host.to_owned()))?;
        for _ in 0..=MAX_REDIRECTS {
            let authority = uri.authority().ok_or_else(|| Failure::Nonsense("a redirect to nowhere".to_owned()))?;
            let authority = Authority::parse(authority.as_str())?;
            let mut request = Request::new(Bytes::new());
            *request.method_mut() = Method::GET;
            *request.uri_mut() = uri.clone();
            let answer = self.web.start(&authority, request).await?;
            if answer.status().is_redirection() {
                let to = answer.headers().get(header::LOCATION).and_then(|v| v.to_str().ok());
                uri = redirected(&uri, to.ok_or_else(|| Failure::Nonsense("a redirect without address".to_owned()))?)?;
                continue;
            }
            let (status, headers) = (answer.status(), answer.headers().clone());
            let body = crate::http::read(answer.into_body(), MAX_BODY).await?;
            if status != StatusCode::OK {
                return Err(Failure::Refused(Box::new(crate::Refusal::read(status, &headers, body))));
            }
            return Ok((document(&body)?, lifetime(&headers, self.clock.now_ms())));
        }
        Err(Failure::Nonsense("too many redirects".to_owned()))
    }
}

/// Whither a redirect leads; only by TLS, and never with a user's name in it.
fn redirected(from: &Uri, to: &str) -> Result<Uri, Failure> {
    let wrong = || Failure::Nonsense("a redirect to what is no https address".to_owned());
    let base = url::Url::parse(&from.to_string()).map_err(|_| wrong())?;
    let mut url = base.join(to).map_err(|_| wrong())?;
    if url.scheme() != "https" || !url.username().is_empty() || url.password().is_some() {
        return Err(wrong());
    }
    url.set_fragment(None);
    url.as_str().parse().map_err(|_| wrong())
}

fn document(body: &[u8]) -> Result<Authority, Failure> {
    // A structure would be read from a list too.
    let document: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(body).map_err(|e| Failure::Nonsense(e.to_string()))?;
    let server = document.get("m.server").and_then(|server| server.as_str());
    Authority::parse(server.ok_or_else(|| Failure::Nonsense("no text `m.server`".to_owned()))?)
}

/// How long an answer may be kept, ms.
fn lifetime(headers: &HeaderMap, now: u64) -> u64 {
    let text = |name| headers.get_all(name).into_iter().filter_map(|v| v.to_str().ok());
    let (mut max_age, mut none) = (None, false);
    for directive in text(header::CACHE_CONTROL).flat_map(|v| v.split(',')) {
        let directive = directive.trim().to_ascii_lowercase();
        match directive.split_once('=').map_or((directive.as_str(), ""), |(k, v)| (k.trim(), v.trim())) {
            ("no-store" | "no-cache", _) => none = true,
            ("max-age", seconds) => max_age = seconds.trim_matches('"').parse::<u64>().ok(),
            _ => {}
        }
    }
    let said = match (none, max_age) {
        (true, _) => Some(0),
        (false, Some(seconds)) => Some(seconds.saturating_mul(1000)),
        (false, None) => text(header::EXPIRES).next().map(|expires| {
            // What is no date has expired already (RFC 9111, 5.3).
            let at = httpdate::parse_http_date(expires).ok();
            let at = at.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
            at.map_or(0, |at| u64::try_from(at.as_millis()).unwrap_or(u64::MAX).saturating_sub(now))
        }),
    };
    said.unwrap_or(USUAL).clamp(SHORTEST, LONGEST)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lifetimes_have_bounds() {
        let of = |pairs: &[(header::HeaderName, &str)]| {
            let headers = pairs.iter().map(|(k, v)| (k.clone(), v.parse().unwrap())).collect();
            lifetime(&headers, 784_111_777_000) / 1000
        };
        assert_eq!(of(&[]), 86_400);
        assert_eq!(of(&[(header::CACHE_CONTROL, "public, max-age=7200")]), 7200);
        assert_eq!(of(&[(header::CACHE_CONTROL, "max-age=1")]), 300);
        assert_eq!(of(&[(header::CACHE_CONTROL, "max-age=99999999999999")]), 172_800);
        assert_eq!(of(&[(header::CACHE_CONTROL, "no-store, max-age=7200")]), 300);
        assert_eq!(of(&[(header::EXPIRES, "Sun, 06 Nov 1994 09:49:37 GMT")]), 3600);
        assert_eq!(of(&[(header::EXPIRES, "0")]), 300);
    }

    #[test]
    fn redirects_stay_within_tls() {
        let from: Uri = "https://a.test/.well-known/matrix/server".parse().unwrap();
        assert_eq!(redirected(&from, "/x?y#z").unwrap().to_string(), "https://a.test/x?y");
        assert_eq!(redirected(&from, "https://b.test/").unwrap().to_string(), "https://b.test/");
        for bad in ["http://b.test/", "https://u:p@b.test/", "file:///etc/passwd", "https://"] {
            assert!(redirected(&from, bad).is_err(), "{bad}");
        }
    }
}
