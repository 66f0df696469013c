//! Folders of files: Element Web, the admin interface, any other app.
//!
//! A file is opened so that its path cannot leave the folder, whatever links and dots it holds (`open`); answered with
//! ETag, ranges and a precompressed form beside it (`answer`, `range`); small ones are kept in memory for a moment.
//! Generated files (`config.json`) lie over the folder.

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use hearth_base::cache::Lasting;
use hearth_config::edge::WebApp;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use percent_encoding::percent_decode_str;
use tokio::sync::Semaphore;

use crate::{Error, answer};

mod kinds;
mod open;
mod range;
mod respond;
mod stream;

use open::Opened;

/// A folder with how it is served.
pub(crate) struct Site {
    root: PathBuf,
    /// The path the site begins at, for redirects to `folder/`.
    at: String,
    spa: bool,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Generated files, by their path below the root.
    generated: HashMap<String, Arc<Opened>>,
    cache: Lasting<String, Option<Arc<Opened>>>,
    /// How many files may be opened at once on the blocking pool.
    opening: Semaphore,
}

/// How long a file, or the lack of one, is believed to be as it was.
const FRESH: Duration = Duration::from_secs(2);
/// What the files in memory may weigh, for each site.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;

impl Site {
    /// A site; the folder must be there.
    ///
    /// # Errors
    /// If it is not, or cannot be read.
    pub fn new(app: &WebApp) -> Result<Self, Error> {
        let is_folder = std::fs::metadata(&app.folder).map(|m| m.is_dir());
        match is_folder {
            Ok(true) => {}
            Ok(false) => return Err(Error::Content(app.folder.clone(), "is not a folder".to_owned())),
            Err(e) => return Err(Error::File("open", app.folder.clone(), e)),
        }
        let headers = app.headers.iter().filter_map(|(name, value)| {
            Some((HeaderName::try_from(name.as_str()).ok()?, HeaderValue::try_from(value.as_str()).ok()?))
        });
        let cache = Lasting::weighed(CACHE_BYTES, FRESH, |path: &String, file: &Option<Arc<Opened>>| {
            let size = file.as_ref().map_or(0, |f| f.weight()) + path.len() + 256;
            u32::try_from(size).unwrap_or(u32::MAX)
        });
        Ok(Self {
            root: app.folder.clone(),
            at: app.at.path.clone(),
            spa: app.spa,
            headers: headers.collect(),
            generated: HashMap::new(),
            cache,
            opening: Semaphore::new(32),
        })
    }

    /// Lays a generated JSON document over the folder.
    #[must_use]
    pub fn with(mut self, path: &str, document: &serde_json::Value) -> Self {
        let text = serde_json::to_vec_pretty(document).unwrap_or_default();
        self.generated.insert(path.to_owned(), Arc::new(Opened::made("application/json", Bytes::from(text))));
        self
    }

    /// A file of the folder, read now; for making generated files from it.
    pub fn read(&self, path: &str) -> Option<Vec<u8>> {
        std::fs::read(self.root.join(path)).ok()
    }

    /// Answers a request for the path below the site's place (empty or beginning with a slash); none when there is no
    /// such file.
    pub async fn answer<B>(&self, request: &Request<B>, below: &str) -> Option<Response<Body>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refused = answer::empty(StatusCode::METHOD_NOT_ALLOWED);
            refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return Some(refused);
        }
        let path = plain_path(below)?;
        if below.is_empty() && !self.at.is_empty() {
            return Some(self.to_folder(request, below));
        }
        let is_folder = path.is_empty() || path.ends_with('/');
        let wanted = if is_folder { format!("{path}index.html") } else { path.clone() };
        let found = match self.find(&wanted).await {
            Some(file) => Some((wanted, file)),
            None if !is_folder && self.find(&format!("{path}/index.html")).await.is_some() => {
                return Some(self.to_folder(request, below));
            }
            None if self.spa && !kinds::names_a_file(&path) => {
                self.find("index.html").await.map(|file| ("index.html".to_owned(), file))
            }
            None => None,
        };
        let (path, file) = found?;
        let mut response = respond::respond(&path, &file, request);
        for (name, value) in &self.headers {
            response.headers_mut().insert(name.clone(), value.clone());
        }
        Some(response)
    }

    /// To the same with a slash at its end, so that what is relative in a folder's page is found.
    fn to_folder<B>(&self, request: &Request<B>, below: &str) -> Response<Body> {
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        answer::redirect(StatusCode::MOVED_PERMANENTLY, &format!("{}{below}/{query}", self.at))
    }

    async fn find(&self, path: &str) -> Option<Arc<Opened>> {
        if let Some(made) = self.generated.get(path) {
            return Some(made.clone());
        }
        if let Some(known) = self.cache.get(path) {
            return known;
        }
        let _turn = self.opening.acquire().await.ok()?;
        let (root, name) = (self.root.clone(), path.to_owned());
        let found = tokio::task::spawn_blocking(move || open::open(&root, &name)).await.ok()?.map(Arc::new);
        self.cache.insert(path.to_owned(), found.clone());
        found
    }
}

/// A request's path decoded and without its first slash; none for whatever no file of an app is called: dots at the
/// beginning of a part (`..`, hidden files; `.well-known` excepted), empty parts, zero bytes, backslashes.
fn plain_path(below: &str) -> Option<String> {
    let decoded = percent_decode_str(below).decode_utf8().ok()?;
    let path = decoded.strip_prefix('/').unwrap_or(&decoded);
    if path.contains(['\0', '\\']) {
        return None;
    }
    let mut parts = path.split('/').peekable();
    while let Some(part) = parts.next() {
        let is_last = parts.peek().is_none();
        if (part.is_empty() && !is_last) || (part.starts_with('.') && part != ".well-known") {
            return None;
        }
    }
    Some(path.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn paths_that_could_lead_out_are_none() {
        for bad in ["/../x", "/a/%2e%2e/x", "/a//b", "/.git/config", "/a/.env", "/%00", "/a\\b", "/..", "/%ff", "/./a"]
        {
            assert_eq!(plain_path(bad), None, "{bad}");
        }
        for (given, plain) in
            [("", ""), ("/", ""), ("/a/b%20c.js", "a/b c.js"), ("/a/", "a/"), ("/.well-known/x", ".well-known/x")]
        {
            assert_eq!(plain_path(given).as_deref(), Some(plain), "{given}");
        }
    }
}
