//! Makes a preview: fetches the page, or what answers for it by oEmbed, reads it, and fetches its image.

use std::{sync::atomic::AtomicU64, time::Duration};

use hearth_base::{Error, Result, clock::Clock, error::Told};
use hearth_remote::{
    Failure,
    preview::{Browser, Page},
};
use hearth_store::{Store, blobs::Blobs};
use http::StatusCode;
use ruma::OwnedServerName;
use url::Url;

use super::{Settings, essence, graph::Graph, image::Image, oembed, page};

/// How long a page may take, and what is fetched beside it.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of an answer by oEmbed.
const OEMBED: u64 = 1 << 20;

const PAGES: &str = "text/html, application/xhtml+xml, image/*;q=0.9, */*;q=0.1";
const IMAGES: &str = "image/*, */*;q=0.1";
const ANSWERS: &str = "application/json, text/xml;q=0.9, */*;q=0.1";

/// Makes previews. Remembers nothing.
#[derive(Debug)]
pub(super) struct Maker {
    pub(super) browser: Browser,
    pub(super) settings: Settings,
    /// Our name, the authority of images.
    pub(super) server_name: OwnedServerName,
    /// Images are only given to those who authenticate.
    pub(super) authenticated: bool,
    pub(super) store: Store,
    pub(super) clock: Clock,
    /// Bytes of images, as far as is known since the last sweep.
    pub(super) images: AtomicU64,
}

/// A preview.
#[derive(Debug)]
pub(super) struct Made {
    /// What clients are answered.
    pub(super) json: String,
    /// How long it is good, if that was said.
    pub(super) lifetime: Option<Duration>,
}

/// What keeps a preview from being made.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Its server does.
    Theirs(Failure),
    /// We do.
    Ours(Error),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Theirs(failure)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Ours(error)
    }
}

impl Maker {
    /// Whether an address may be fetched, as far as that can be told from it.
    pub(super) fn may_try(&self, url: &Url) -> bool {
        !self.settings.deny_urls.iter().any(|pattern| pattern.matches(url)) && self.browser.may_try(url)
    }

    pub(super) fn now(&self) -> i64 {
        i64::try_from(self.clock.now_ms()).unwrap_or(i64::MAX)
    }

    pub(super) fn blobs(&self) -> Result<&Blobs> {
        self.store.blobs().ok_or_else(|| Error::unrecognized("This server keeps no media"))
    }

    /// Makes the preview of an address.
    pub(super) async fn make(&self, url: &Url) -> Result<Made, Trouble> {
        let provider = self.settings.oembed.iter().find(|endpoint| endpoint.answers_for(url));
        let mut graph = match provider.and_then(|endpoint| oembed::question(endpoint, url)) {
            Some(question) => match self.ask(&question, url).await {
                Some(graph) => self.with_image(graph, url).await?,
                None => self.look(url).await?,
            },
            None => self.look(url).await?,
        };
        if let Some(author) = graph.author.take()
            && !graph.properties.contains_key("og:title")
        {
            graph.set("og:title", &author);
        }
        let json = serde_json::to_string(&graph.properties).map_err(|e| Error::fault("writing a preview", e))?;
        Ok(Made { json, lifetime: graph.lifetime })
    }

    /// What the page itself says.
    async fn look(&self, url: &Url) -> Result<Graph, Trouble> {
        let patience = tokio::time::Instant::now() + PATIENCE;
        let page = within(patience, self.get(url, PAGES, self.settings.max_size)).await?;
        let content_type = page.content_type.clone().unwrap_or_default();
        match essence(&content_type).as_str() {
            image if image.starts_with("image/") => {
                let image = self.take(page, patience).await?;
                let mut graph = Graph::default();
                graph.set("og:description", image.name.as_deref().unwrap_or_default());
                image.describe(self, &mut graph);
                Ok(graph)
            }
            "text/html" | "application/xhtml+xml" => {
                let found_at = page.url.clone();
                let bytes = within(patience, page.body.whole()).await?;
                self.read(bytes, content_type, url, found_at).await
            }
            // It is there, and says nothing that could be shown.
            "application/json" => Ok(Graph::default()),
            _ => Err(Failure::Nonsense("it is neither a page nor an image".to_owned()).into()),
        }
    }

    /// Reads a page, and what it says elsewhere of itself.
    async fn read(&self, bytes: Vec<u8>, content_type: String, url: &Url, at: Url) -> Result<Graph, Trouble> {
        let read = tokio::task::spawn_blocking(move || {
            let found = page::read(&bytes, Some(&content_type));
            (Graph::of_page(&found), found.base, found.oembed)
        });
        let (mut graph, base, elsewhere) =
            read.await.map_err(|_| Failure::Nonsense("its page cannot be read".to_owned()))?;
        let base = base.and_then(|base| at.join(&base).ok()).unwrap_or(at);
        let question = elsewhere.into_iter().flatten().find_map(|link| base.join(&link).ok());
        if let Some(question) = question.filter(|question| self.may_try(question))
            && let Some(answer) = self.ask(&question, url).await
        {
            graph = graph.with(answer);
        }
        self.with_image(graph, &base).await
    }

    /// What is answered by oEmbed; that nothing is leaves us with the page.
    async fn ask(&self, question: &Url, about: &Url) -> Option<Graph> {
        let patience = tokio::time::Instant::now() + PATIENCE;
        let asked = within(patience, async {
            let page = self.get(question, ANSWERS, OEMBED).await?;
            let content_type = page.content_type;
            Ok::<_, Failure>((page.body.whole().await?, content_type))
        });
        let (bytes, content_type) = match asked.await {
            Ok(answer) => answer,
            Err(failure) => {
                tracing::debug!(url.host = question.host_str(), error = %failure, "no answer by oEmbed");
                return None;
            }
        };
        let about = about.clone();
        let read = tokio::task::spawn_blocking(move || oembed::read(&bytes, content_type.as_deref(), &about));
        read.await.ok().flatten()
    }

    /// The same with its image, if that can be had.
    async fn with_image(&self, mut graph: Graph, base: &Url) -> Result<Graph, Trouble> {
        let Some(image) = graph.image.take() else { return Ok(graph) };
        match self.image(&image, base).await {
            Ok(image) => image.describe(self, &mut graph),
            Err(Trouble::Theirs(failure)) => {
                tracing::debug!(url.host = base.host_str(), error = %failure, "no image of a preview");
                graph.properties.remove("og:image:alt");
            }
            Err(ours) => return Err(ours),
        }
        Ok(graph)
    }

    async fn image(&self, image: &str, base: &Url) -> Result<Image, Trouble> {
        if image.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:")) {
            return self.take_written_out(image).await;
        }
        let url = base.join(image).map_err(|_| Failure::Nonsense("it is at no address".to_owned()))?;
        let patience = tokio::time::Instant::now() + PATIENCE;
        let page = within(patience, self.get(&url, IMAGES, self.settings.max_size)).await?;
        self.take(page, patience).await
    }

    async fn get(&self, url: &Url, accept: &'static str, limit: u64) -> Result<Page, Failure> {
        self.browser.get(url, accept, limit, &|url| self.may_try(url)).await
    }
}

pub(super) async fn within<T, E: From<Failure>>(
    deadline: tokio::time::Instant,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    tokio::time::timeout_at(deadline, work).await.unwrap_or_else(|_| Err(Failure::TimedOut(PATIENCE).into()))
}

/// What whoever asked is told. A name that leads to a forbidden address is told as one that leads nowhere: what there is in
/// the network around us is nobody's business.
pub(super) fn told(failure: &Failure, url: &Url) -> Told {
    let host = url.host_str().unwrap_or_default();
    let (errcode, error) = match failure {
        Failure::Refused(refusal) => ("M_UNKNOWN", format!("{host} answered {}", refusal.status.as_u16())),
        Failure::TooLarge(limit) => ("M_TOO_LARGE", format!("What {host} sends is larger than {limit} bytes")),
        Failure::TimedOut(_) => ("M_UNKNOWN", format!("{host} did not answer in time")),
        Failure::Nonsense(why) => ("M_UNKNOWN", format!("{host} cannot be shown: {why}")),
        _ => ("M_UNKNOWN", format!("{host} could not be reached")),
    };
    Told {
        status: StatusCode::BAD_GATEWAY,
        errcode: errcode.into(),
        error: error.into(),
        extra: serde_json::Map::new(),
    }
}
