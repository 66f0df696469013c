//! Previews of links (spec: client-server API, `GET /media/preview_url`): what a page says of itself, and its image as a
//! medium of ours.
//!
//! A preview is made once however many ask, by a job that ends though they go ([`maker`]), when it is its turn ([`line`]), and
//! is remembered here and in the database for as long as it is good. That a page could not be had is remembered too, for
//! a shorter time. What goes out and comes in is in the hands of [`hearth_remote::preview`].

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use bytes::Bytes;
use hearth_base::{Error, Result, cache::Lasting, clock::Clock, error::Told, requester::Requester, tasks::Supervisor};
use hearth_config::media::previews::{OembedEndpoint, UrlPattern};
use hearth_remote::preview::Browser;
use hearth_store::{Store, media::previews::Preview};
use http::StatusCode;
use parking_lot::Mutex;
use ruma::OwnedServerName;
use tokio::sync::watch;
use url::Url;

mod charset;
mod graph;
mod image;
mod line;
mod maker;
mod oembed;
mod page;
mod summary;
mod tags;
mod upkeep;

use line::{Line, Ticket};
use maker::{Maker, Trouble};

/// What the operator decides.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where pages may be fetched from, and how.
    pub remote: hearth_remote::preview::Settings,
    /// Addresses that are not fetched (`url_preview_url_blacklist`).
    pub deny_urls: Vec<UrlPattern>,
    /// Bytes of the largest page or image (`max_spider_size`).
    pub max_size: u64,
    /// Who is asked by oEmbed.
    pub oembed: Vec<OembedEndpoint>,
    /// Previews made at once.
    pub at_once: usize,
    /// Bytes of all images; beyond, the oldest go before their time.
    pub max_images: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            remote: hearth_remote::preview::Settings::default(),
            deny_urls: Vec::new(),
            max_size: 10 << 20,
            oembed: Vec::new(),
            at_once: 16,
            max_images: 4 << 30,
        }
    }
}

/// How long a preview is good, unless its page says otherwise; and at least and at most.
const LIFETIME: Duration = Duration::from_secs(3600);
const SHORTEST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// How long it is remembered that there is none.
const FAILED_FOR: Duration = Duration::from_secs(300);
/// How long an image is kept: clients show previews for longer than these are good.
const IMAGE_LIFETIME: Duration = Duration::from_secs(2 * 24 * 3600);
/// Letters of an address.
const MAX_ADDRESS: usize = 8 << 10;
/// Bytes of memory for previews.
const REMEMBERED: u64 = 8 << 20;

/// What clients are answered, or told.
type Outcome = Result<Bytes, Told>;

/// What is remembered of an address.
#[derive(Clone, Debug)]
struct Known {
    outcome: Outcome,
    fetched_ms: i64,
    expires_ms: i64,
}

/// Makes previews of links. Remembers those it has made.
#[derive(Debug)]
pub struct Previews(Option<Arc<Inner>>);

struct Inner {
    maker: Maker,
    store: Store,
    supervisor: Supervisor,
    line: Arc<Line>,
    running: Mutex<HashMap<String, watch::Receiver<Option<Known>>>>,
    remembered: Lasting<String, Known>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Previews").field("maker", &self.maker).finish_non_exhaustive()
    }
}

impl Previews {
    /// The service over a store; without settings there are no previews.
    ///
    /// # Errors
    /// If the resolver or the authorities of this machine cannot be read.
    pub fn new(
        server_name: OwnedServerName,
        settings: Option<Settings>,
        authenticated_media: bool,
        store: Store,
        clock: Clock,
        supervisor: Supervisor,
    ) -> Result<Self> {
        let Some(settings) = settings.filter(|_| store.blobs().is_some()) else { return Ok(Self(None)) };
        let weigh = |url: &String, known: &Known| {
            u32::try_from(url.len() + known.outcome.as_ref().map_or(200, Bytes::len) + 200).unwrap_or(u32::MAX)
        };
        Ok(Self(Some(Arc::new(Inner {
            line: Line::new(settings.at_once),
            maker: Maker {
                browser: Browser::new(&settings.remote)?,
                server_name,
                settings,
                authenticated: authenticated_media,
                store: store.clone(),
                clock,
                images: AtomicU64::new(0),
            },
            store,
            supervisor,
            running: Mutex::default(),
            remembered: Lasting::weighed(REMEMBERED, LONGEST, weigh),
        }))))
    }

    /// Whether there are any.
    #[must_use]
    pub fn are_on(&self) -> bool {
        self.0.is_some()
    }

    /// The preview of an address as JSON, as it was at a time (ms since 1970) if we have that one, else as it is now.
    ///
    /// # Errors
    /// 403 if there are no previews here or none of that address, 400 if it is none, 502 if its page cannot be had, 429 if too
    /// many are being made.
    pub async fn get(&self, requester: &Requester, url: &str, at_ms: Option<u64>) -> Result<Bytes> {
        // MSC4452, whose capability says so beforehand.
        let inner = self.0.as_ref().ok_or_else(|| Error::forbidden("Previews of links are switched off here"))?;
        let mut url = address(url)?;
        if !inner.maker.may_try(&url) {
            return Err(Error::forbidden("This address is not fetched from here"));
        }
        // They are not sent, so they make no difference; a host takes none away.
        let _ = (url.set_username(""), url.set_password(None));
        let known = inner.find(requester, url, at_ms).await?;
        known.outcome.map_err(|told| Error::Told(Box::new(told)))
    }
}

impl Inner {
    async fn find(self: &Arc<Self>, requester: &Requester, url: Url, at_ms: Option<u64>) -> Result<Known> {
        let key = url.to_string();
        let now = self.maker.now();
        let at = at_ms.and_then(|at| i64::try_from(at).ok()).map_or(now, |at| at.min(now));
        let newest = self.remembered.get(&key).filter(|known| known.expires_ms > now);
        if let Some(known) = newest.as_ref().filter(|known| known.fetched_ms <= at || known.outcome.is_err()) {
            return Ok(known.clone());
        }
        if at < now
            && at.saturating_add(ms(LONGEST)) > now
            && let Some(then) = self.store.preview(&key, at).await?
        {
            return Ok(then.into());
        }
        if let Some(known) = newest {
            return Ok(known);
        }
        let mut made = self.join(requester, key, url)?;
        // An error is a job that ended without a word.
        let made = made.wait_for(Option::is_some).await.map_err(|e| Error::fault("making a preview", e))?.clone();
        made.ok_or_else(|| Error::broken("a preview that was made is not there"))
    }

    /// Joins those who wait for a preview, or is the first: then it is made, even if all of them go.
    fn join(self: &Arc<Self>, requester: &Requester, key: String, url: Url) -> Result<watch::Receiver<Option<Known>>> {
        let mut running = self.running.lock();
        if let Some(made) = running.get(&key) {
            return Ok(made.clone());
        }
        let ticket = self.line.join(requester.user_nid);
        let ticket = ticket.ok_or_else(|| Error::limit_exceeded(Duration::from_secs(5)))?;
        let (tell, made) = watch::channel(None);
        running.insert(key.clone(), made.clone());
        drop(running);
        let leave = Leave(self.clone(), key.clone());
        self.supervisor.detach(async move {
            let known = leave.0.answer(&key, url, ticket).await;
            // Whoever comes now finds it, or asks anew.
            drop(leave);
            let _ = tell.send(Some(known));
        });
        Ok(made)
    }

    /// The preview as it is now, from the database or made.
    async fn answer(&self, key: &str, url: Url, ticket: Ticket) -> Known {
        let made = async {
            if let Some(there) = self.store.preview(key, self.maker.now()).await? {
                return Ok(there.into());
            }
            let _turn = ticket.turn().await;
            let made = self.maker.make(&url).await?;
            self.make_room().await?;
            let fetched_ms = self.maker.now();
            let lifetime = made.lifetime.unwrap_or(LIFETIME).clamp(SHORTEST, LONGEST);
            let preview = Preview { fetched_ms, expires_ms: fetched_ms.saturating_add(ms(lifetime)), json: made.json };
            self.store.keep_preview(key, preview.clone()).await?;
            Ok::<Known, Trouble>(preview.into())
        };
        let known = match made.await {
            Ok(known) => known,
            Err(trouble) => {
                let now = self.maker.now();
                let expires_ms = now.saturating_add(ms(FAILED_FOR));
                match trouble {
                    Trouble::Theirs(failure) => {
                        tracing::debug!(url.host = url.host_str(), error = %failure, "no preview could be made");
                        Known { outcome: Err(maker::told(&failure, &url)), fetched_ms: now, expires_ms }
                    }
                    Trouble::Ours(Error::Told(told)) => Known { outcome: Err(*told), fetched_ms: now, expires_ms: now },
                    Trouble::Ours(Error::Fault(fault)) => {
                        let status = if fault.retry {
                            StatusCode::SERVICE_UNAVAILABLE
                        } else {
                            StatusCode::INTERNAL_SERVER_ERROR
                        };
                        tracing::error!(error = %Error::Fault(fault), "a preview could not be kept");
                        let told = Told {
                            status,
                            errcode: "M_UNKNOWN".into(),
                            error: "Internal server error".into(),
                            extra: serde_json::Map::new(),
                        };
                        Known { outcome: Err(told), fetched_ms: now, expires_ms: now }
                    }
                }
            }
        };
        if known.expires_ms > self.maker.now() {
            self.remembered.insert(key.to_owned(), known.clone());
        }
        known
    }
}

/// Ends the membership of a preview in the list, however it ends.
struct Leave(Arc<Inner>, String);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.running.lock().remove(&self.1);
    }
}

impl From<Preview> for Known {
    fn from(preview: Preview) -> Self {
        Self { outcome: Ok(preview.json.into()), fetched_ms: preview.fetched_ms, expires_ms: preview.expires_ms }
    }
}

/// An address on the web, without what is of no concern to its server.
fn address(text: &str) -> Result<Url> {
    let wrong = || Error::invalid_param("`url` must be an http or https address");
    let mut url = Url::parse(text).ok().filter(|_| text.len() <= MAX_ADDRESS).ok_or_else(wrong)?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(wrong());
    }
    url.set_fragment(None);
    Ok(url)
}

/// The type and subtype of a media type, in lower case.
fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
