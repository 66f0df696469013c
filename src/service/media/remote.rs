//! Media of other servers: fetched once however many ask, to our disk as it comes, and kept like our own.
//!
//! A server is asked by its federation API, and by the older open one if it does not know that (server-server API, "Content
//! Repository"). It may point elsewhere, once, to an `https` address that may be dialled. Nothing it says is trusted: the
//! size is counted, the hash is ours, type and name are handed on as they would be of an upload.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use hearth_base::{Error, Result, cache::Lasting, clock::Clock, error::Told, tasks::Supervisor};
use hearth_remote::{Failure, http::Chunks};
use hearth_store::{Store, blobs::Draft, media::Media as Row};
use http::{HeaderMap, Request, StatusCode, header};
use parking_lot::Mutex;
use ruma::{OwnedServerName, api::federation::authenticated_media::get_content, http_headers::ContentDisposition};
use tokio::{sync::watch, time::Instant};

use super::{
    Settings,
    multipart::{Malformed, Multipart, Piece},
    not_yet, unavailable,
    uploads::printable,
};
use crate::federation::Federation;

/// Media fetched at once; who asks for more comes again.
const MAX_FETCHES: usize = 100;
/// How long a server may take to begin, beyond what it waits for an upload; and to go on.
const PATIENCE: Duration = Duration::from_secs(15);
const STALL: Duration = Duration::from_secs(30);
/// How long one medium may take to come. What has come is kept without looking at the clock: a write that is dropped
/// half-way may leave a row that nobody hears of.
const IN_ALL: Duration = Duration::from_secs(600);
/// Refusals remembered, and how long: who asks for what is not there does not make us ask each time.
const REFUSALS: u64 = 10_000;
const REFUSED_FOR: Duration = Duration::from_secs(60);

type Key = (OwnedServerName, String);
type Outcome = Result<Arc<Row>, Told>;

/// Fetches media of other servers.
pub(super) struct Remote {
    federation: Arc<Federation>,
    store: Store,
    clock: Clock,
    supervisor: Supervisor,
    settings: Arc<Settings>,
    running: Mutex<HashMap<Key, watch::Receiver<Option<Outcome>>>>,
    refused: Lasting<Key, Told>,
}

/// A file on its way.
struct Arriving {
    head: Said,
    body: Body,
}

/// What is said of it.
#[derive(Default)]
struct Said {
    content_type: Option<String>,
    disposition: Option<String>,
}

/// Where its bytes come from.
enum Body {
    Plain(Chunks),
    Parts(Chunks, Multipart),
}

impl Remote {
    pub(super) fn new(
        federation: Arc<Federation>,
        store: Store,
        clock: Clock,
        supervisor: Supervisor,
        settings: Arc<Settings>,
    ) -> Arc<Self> {
        Arc::new(Self {
            federation,
            store,
            clock,
            supervisor,
            settings,
            running: Mutex::default(),
            refused: Lasting::new(REFUSALS, REFUSED_FOR),
        })
    }

    /// The row of a medium, after it has been fetched. `wait` is for a file that is announced there and not uploaded yet.
    ///
    /// # Errors
    /// 404 if it is not to be had, 502 `M_TOO_LARGE`, 504 `M_NOT_YET_UPLOADED`; 429 if too many are being fetched.
    pub(super) async fn fetch(self: &Arc<Self>, server: OwnedServerName, id: &str, wait: Duration) -> Result<Arc<Row>> {
        let key = (server, id.to_owned());
        if let Some(told) = self.refused.get(&key) {
            return Err(Error::Told(Box::new(told)));
        }
        let mut outcome = self.join(key, wait)?;
        // An error is a job that ended without a word.
        let done = outcome.wait_for(Option::is_some).await.map_err(|e| Error::fault("fetching a medium", e))?.clone();
        match done {
            Some(Ok(row)) => Ok(row),
            Some(Err(told)) => Err(Error::Told(Box::new(told))),
            None => Err(unavailable()),
        }
    }

    /// Joins those who wait for a medium, or is the first: then it is fetched, even if all of them go.
    fn join(self: &Arc<Self>, key: Key, wait: Duration) -> Result<watch::Receiver<Option<Outcome>>> {
        let mut running = self.running.lock();
        if let Some(outcome) = running.get(&key) {
            return Ok(outcome.clone());
        }
        if running.len() >= MAX_FETCHES {
            return Err(Error::limit_exceeded(Duration::from_secs(5)));
        }
        let (tell, outcome) = watch::channel(None);
        running.insert(key.clone(), outcome.clone());
        drop(running);
        let (this, leave) = (self.clone(), Leave(self.clone(), key.clone()));
        self.supervisor.detach(async move {
            let done = this.take(&key, wait).await.map_err(|e| match e {
                Error::Told(told) => *told,
                Error::Fault(fault) => {
                    tracing::error!(server.name = %key.0, media.id = %key.1, error = %Error::Fault(fault), "a medium could not be kept");
                    Told {
                        status: StatusCode::INTERNAL_SERVER_ERROR,
                        errcode: "M_UNKNOWN".into(),
                        error: "Internal server error".into(),
                        extra: serde_json::Map::new(),
                    }
                }
            });
            if let Err(told) = &done
                && (told.status == StatusCode::NOT_FOUND || told.errcode == "M_TOO_LARGE")
            {
                this.refused.insert(key, told.clone());
            }
            // Whoever comes now finds the row, or asks anew.
            drop(leave);
            let _ = tell.send(Some(done));
        });
        Ok(outcome)
    }

    /// Fetches and keeps.
    async fn take(&self, key: &Key, wait: Duration) -> Result<Arc<Row>> {
        // It may have come while whoever asks was on the way here.
        if let Some(row) = self.store.media(&key.0, &key.1).await? {
            return Ok(row);
        }
        let until = Instant::now() + IN_ALL;
        let asked = tokio::time::timeout_at(until, self.ask(key, wait)).await;
        let asked = asked.unwrap_or(Err(Failure::TimedOut(IN_ALL)));
        let arriving = asked.map_err(|failure| self.told(key, &failure))?;
        let content_type = arriving.head.content_type.and_then(printable);
        let disposition = arriving.head.disposition.and_then(|d| d.parse::<ContentDisposition>().ok());
        let file_name = disposition.and_then(|d| d.filename).and_then(printable);
        let draft = self.receive(key, arriving.body, until).await?;
        let kept = draft.finish().await?;
        let now = i64::try_from(self.clock.now_ms()).unwrap_or(i64::MAX);
        let row = Row {
            server_name: key.0.clone(),
            media_id: key.1.clone(),
            uploader: None,
            blob: Some(kept.name),
            content_type,
            file_name,
            size: kept.size,
            created_ms: now,
            accessed_ms: now,
            quarantined_by: None,
            protected: false,
            authenticated: self.settings.authenticated_media,
            expires_ms: None,
        };
        let stored = row.clone();
        let written = self.store.write(move |tx| Box::pin(async move { tx.insert_media(&stored).await })).await;
        let name = kept.name;
        drop(kept);
        if let (Err(e), Some(blobs)) = (written, self.store.blobs()) {
            blobs.remove_unless(name, || self.store.blob_is_referred(name)).await?;
            return Err(e);
        }
        Ok(Arc::new(row))
    }

    /// Bytes to the disk, up to the limit and as long as there is time.
    async fn receive(&self, key: &Key, mut body: Body, until: Instant) -> Result<Draft> {
        let blobs = self.store.blobs().ok_or_else(unavailable)?;
        let mut draft = blobs.draft();
        loop {
            let (at, patience) = match Instant::now() + STALL {
                stalled if stalled < until => (stalled, STALL),
                _ => (until, IN_ALL),
            };
            let next = tokio::time::timeout_at(at, body.next()).await.unwrap_or(Err(Failure::TimedOut(patience)));
            let Some(bytes) = next.map_err(|failure| self.told(key, &failure))? else { return Ok(draft) };
            if draft.size().saturating_add(bytes.len() as u64) > self.settings.max_upload_size {
                return Err(too_large());
            }
            draft.push(bytes).await?;
        }
    }

    async fn ask(&self, key: &Key, wait: Duration) -> Result<Arriving, Failure> {
        let (server, id) = key;
        let mut request = get_content::v1::Request::new(id.clone());
        request.timeout_ms = wait;
        let signed = self.federation.remote().signed(server, request)?;
        let answer = match self.federation.stream(server, signed, wait + PATIENCE).await {
            Err(failure) if is_unknown(&failure) => return self.ask_openly(key, wait).await,
            answer => answer?,
        };
        let content_type = text(answer.headers(), header::CONTENT_TYPE).unwrap_or_default();
        // Whatever that server answers there, it is not what was asked for.
        let Ok(mut multipart) = Multipart::new(&content_type) else { return self.ask_openly(key, wait).await };
        let (parts, body) = answer.into_parts();
        let mut body = Body::checked(body, self.settings.max_upload_size + 2 * super::multipart::MAX_HEAD as u64)?;
        let head = loop {
            match multipart.take()? {
                Some(Piece::Head(head)) => break head,
                Some(_) => return Err(Failure::Nonsense("a file before its headers".to_owned())),
                None => {}
            }
            let next = tokio::time::timeout(PATIENCE, body.next()).await.unwrap_or(Err(Failure::TimedOut(PATIENCE)))?;
            multipart.push(&next.ok_or_else(|| Failure::Nonsense("the file does not begin".to_owned()))?);
        };
        if let Some(location) = head.location {
            let fetched = tokio::time::timeout(PATIENCE, self.federation.remote().fetch(&location, &[])).await;
            return self.plain(fetched.unwrap_or(Err(Failure::TimedOut(PATIENCE)))?);
        }
        // Dendrite names the file in the headers of the whole answer.
        let disposition = head.disposition.or_else(|| text(&parts.headers, header::CONTENT_DISPOSITION));
        let head = Said { content_type: head.content_type, disposition };
        Ok(Arriving { head, body: Body::Parts(body, multipart) })
    }

    /// As everybody may ask, without its asking others on our behalf.
    async fn ask_openly(&self, key: &Key, wait: Duration) -> Result<Arriving, Failure> {
        let (server, id) = key;
        let mut last = Failure::Ours("no path was tried".to_owned());
        for version in ["v3", "r0"] {
            let path = format!(
                "/_matrix/media/{version}/download/{server}/{id}?allow_remote=false&timeout_ms={}",
                wait.as_millis()
            );
            let request = Request::get(path).body(Bytes::new()).map_err(|e| Failure::Ours(e.to_string()))?;
            match self.federation.stream(server, request, wait + PATIENCE).await {
                Err(failure) if is_unknown(&failure) => last = failure,
                answer => return self.plain(answer?),
            }
        }
        Err(last)
    }

    fn plain(&self, answer: http::Response<Chunks>) -> Result<Arriving, Failure> {
        let (parts, body) = answer.into_parts();
        let head = Said {
            content_type: text(&parts.headers, header::CONTENT_TYPE),
            disposition: text(&parts.headers, header::CONTENT_DISPOSITION),
        };
        Ok(Arriving { head, body: Body::Plain(Body::checked(body, self.settings.max_upload_size)?) })
    }

    /// What the user is told. That it is not there is 404 whoever says so: a client cannot do anything about the rest.
    fn told(&self, key: &Key, failure: &Failure) -> Error {
        tracing::debug!(server.name = %key.0, media.id = %key.1, error = %failure, "a medium could not be fetched");
        match failure {
            Failure::TooLarge(_) => too_large(),
            Failure::Refused(r) if r.errcode == "M_NOT_YET_UPLOADED" => not_yet(),
            Failure::Refused(r) if r.errcode == "M_TOO_LARGE" => too_large(),
            // It has no time for us now, which is no word about the file.
            Failure::Refused(r) if r.status == StatusCode::TOO_MANY_REQUESTS => self.federation.told(&key.0, failure),
            Failure::Refused(r) if r.status.is_client_error() => unavailable(),
            failure => self.federation.told(&key.0, failure),
        }
    }
}

/// Ends the membership of a fetch in the list, however it ends.
struct Leave(Arc<Remote>, Key);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.running.lock().remove(&self.1);
    }
}

impl Body {
    /// A body that does not say beforehand that it is too large.
    fn checked(body: Chunks, limit: u64) -> Result<Chunks, Failure> {
        if body.length() > limit {
            return Err(Failure::TooLarge(usize::try_from(limit).unwrap_or(usize::MAX)));
        }
        Ok(body)
    }

    /// The next bytes of the file; `None` once it is whole.
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let (body, multipart) = match self {
            Self::Plain(body) => return body.next().await,
            Self::Parts(body, multipart) => (body, multipart),
        };
        loop {
            match multipart.take()? {
                Some(Piece::File(bytes)) => return Ok(Some(bytes)),
                Some(_) => return Ok(None),
                None => {}
            }
            let more = body.next().await?.ok_or_else(|| Failure::Nonsense("the file is cut off".to_owned()))?;
            multipart.push(&more);
        }
    }
}

impl From<Malformed> for Failure {
    fn from(malformed: Malformed) -> Self {
        Self::Nonsense(malformed.to_string())
    }
}

/// Whether a server does not know the endpoint; what says no errcode is no homeserver's word on a medium.
fn is_unknown(failure: &Failure) -> bool {
    failure.refusal().is_some_and(|r| {
        r.errcode == "M_UNRECOGNIZED"
            || (r.errcode.is_empty() && matches!(r.status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED))
    })
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<String> {
    // File names come in any encoding; what is not UTF-8 is not kept.
    headers.get(name).and_then(|v| std::str::from_utf8(v.as_bytes()).ok()).map(str::to_owned)
}

fn too_large() -> Error {
    Error::told(StatusCode::BAD_GATEWAY, "M_TOO_LARGE", "Content is too large to serve")
}
