//! The route table: each handler stands under every path that its ruma request type has ever had.
//!
//! Path arguments are named by position (`{p0}`, `{p1}`), since types call the same argument by different names and
//! the router would take that for a contradiction. Cuts the arguments out of the raw path and decodes them once.

use std::{borrow::Cow, future::Future, panic::AssertUnwindSafe, sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{Request, State},
    response::Response,
    routing::{MethodFilter, any, on},
};
use futures_util::{FutureExt, future::BoxFuture};
use hearth_base::{Error, Result, bill::charged};
use http::{Method, StatusCode};
use percent_encoding::percent_decode_str;
use ruma::api::{IncomingRequest, Metadata, path_builder::PathBuilder};

use crate::{
    Cx,
    extract::Extract,
    respond::{self, Answer},
};

/// A function that can stand in the table: `async fn(Cx, E) -> Result<T>`.
pub trait Endpoint<A>: Clone + Send + Sync + 'static {
    /// Whence path and method come.
    type Request: IncomingRequest;

    /// Decodes, runs, encodes.
    fn call(self, cx: Cx, route: Arc<Route>, request: Request) -> impl Future<Output = Response> + Send + 'static;
}

impl<F, Fut, E, T> Endpoint<(E, T)> for F
where
    F: Fn(Cx, E) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<T>> + Send + 'static,
    E: Extract + Send + 'static,
    T: Answer + 'static,
{
    type Request = E::Request;

    async fn call(self, cx: Cx, route: Arc<Route>, request: Request) -> Response {
        let result = match E::extract(&cx, &route, request).await {
            Ok(decoded) => match decoded.pass() {
                None => self(cx, decoded).await,
                // The place is kept until all of it is on the bill.
                Some(pass) => charged(pass.bill(), self(cx, decoded).boxed()).await,
            },
            Err(e) => Err(e),
        };
        respond::finish(result.and_then(Answer::into_answer))
    }
}

/// One line of the table.
pub struct Route {
    /// The method it answers; GET answers HEAD too.
    pub method: Method,
    /// The path with `{p0}`, `{p1}` for its arguments.
    pub path: String,
    /// Bytes of body at most; `None` is the usual limit.
    pub max_body: Option<usize>,
    /// Which segments of the path are arguments.
    args: Vec<usize>,
    seconds: metrics::Histogram,
    failures: metrics::Counter,
}

impl Route {
    fn new(method: Method, path: &str, max_body: Option<usize>) -> Self {
        let (mut named, mut args) = (String::with_capacity(path.len()), Vec::new());
        for (n, segment) in path.split('/').enumerate().skip(1) {
            named.push('/');
            if segment.starts_with('{') {
                named.push_str(&format!("{{p{}}}", args.len()));
                args.push(n);
            } else {
                named.push_str(segment);
            }
        }
        let labels = [("method", method.to_string()), ("path", path.to_owned())];
        Self {
            seconds: metrics::histogram!("hearth_api_request_seconds", &labels),
            failures: metrics::counter!("hearth_api_failures_total", &labels),
            method,
            path: named,
            max_body,
            args,
        }
    }

    /// The decoded arguments of a path that matched.
    ///
    /// # Errors
    /// 400 `M_INVALID_PARAM` for what is not UTF-8 once decoded, or has NUL in it, which nothing here is named by.
    pub fn arguments<'p>(&self, path: &'p str) -> Result<Vec<Cow<'p, str>>> {
        let mut segments = path.split('/').enumerate();
        let mut out = Vec::with_capacity(self.args.len());
        for arg in &self.args {
            let segment = segments.find(|(n, _)| n == arg).map_or("", |(_, s)| s);
            let decoded = percent_decode_str(segment)
                .decode_utf8()
                .map_err(|_| Error::invalid_param("A part of the path is not UTF-8"))?;
            if decoded.contains('\0') {
                return Err(Error::invalid_param("A part of the path contains NUL"));
            }
            out.push(decoded);
        }
        Ok(out)
    }
}

/// An endpoint whose type is forgotten: what axum makes of a handler is made once then, and not for each of hundreds.
type Call = Arc<dyn Fn(Cx, Arc<Route>, Request) -> BoxFuture<'static, Response> + Send + Sync>;

/// A table of routes.
#[derive(Default)]
pub struct Routes {
    router: Router<Cx>,
    table: Vec<Arc<Route>>,
}

impl Routes {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A handler under all paths of its request type.
    #[must_use]
    pub fn on<H: Endpoint<A>, A: 'static>(self, handler: H) -> Self {
        self.add(handler, &[], None)
    }

    /// The same, and under further paths that ruma does not know.
    #[must_use]
    pub fn also<H: Endpoint<A>, A: 'static>(self, handler: H, further: &[&str]) -> Self {
        self.add(handler, further, None)
    }

    /// The same, with bodies up to that many bytes.
    #[must_use]
    pub fn sized<H: Endpoint<A>, A: 'static>(self, handler: H, max_body: usize) -> Self {
        self.add(handler, &[], Some(max_body))
    }

    /// The same, with bodies up to that many bytes, and under further paths.
    #[must_use]
    pub fn sized_also<H: Endpoint<A>, A: 'static>(self, handler: H, further: &[&str], max_body: usize) -> Self {
        self.add(handler, further, Some(max_body))
    }

    fn add<H: Endpoint<A>, A: 'static>(mut self, handler: H, further: &[&str], max_body: Option<usize>) -> Self {
        let mut paths: Vec<String> = H::Request::PATH_BUILDER.all_paths().map(str::to_owned).collect();
        paths.extend(further.iter().map(|p| (*p).to_owned()));
        paths.sort();
        paths.dedup();
        let filter = filter(&H::Request::METHOD);
        let call: Call = Arc::new(move |cx, route, request| handler.clone().call(cx, route, request).boxed());
        for path in paths {
            self = self.place(filter, Route::new(H::Request::METHOD, &path, max_body), call.clone());
        }
        self
    }

    fn place(mut self, filter: MethodFilter, route: Route, call: Call) -> Self {
        let route = Arc::new(route);
        let line = route.clone();
        let call = move |State(cx): State<Cx>, request: Request| serve(call, cx, line, request);
        self.router = self.router.route(&route.path, on(filter, call));
        self.table.push(route);
        self
    }

    /// Refuses what else comes to these paths (`{*rest}`: to all below one), in place of the usual 404 and 405.
    #[must_use]
    pub fn refuse(mut self, paths: &[&str], refusal: fn() -> Error) -> Self {
        for path in paths {
            let call = move |request: Request| async move {
                match *request.method() {
                    Method::OPTIONS => respond::preflight(),
                    _ => respond::finish(Err(refusal())),
                }
            };
            self.router = self.router.route(path, any(call));
        }
        self
    }

    /// Both tables.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.table.extend(other.table);
        self
    }

    /// The lines of the table.
    #[must_use]
    pub fn table(&self) -> &[Arc<Route>] {
        &self.table
    }

    /// The router that serves them.
    pub fn into_router(self, cx: Cx) -> Router {
        self.router.fallback(unknown_path).method_not_allowed_fallback(wrong_method).with_state(cx)
    }
}

/// Runs a handler. A panic is a defect, but one request's: it is logged and answered 500.
async fn serve(call: Call, cx: Cx, route: Arc<Route>, request: Request) -> Response {
    let started = Instant::now();
    // A handler may panic before it waits for anything.
    let answered = async { call(cx, route.clone(), request).await };
    let response = AssertUnwindSafe(answered)
        .catch_unwind()
        .await
        .unwrap_or_else(|_| respond::finish(Err(Error::broken("a handler panicked"))));
    route.seconds.record(started.elapsed().as_secs_f64());
    if response.status().is_server_error() {
        route.failures.increment(1);
    }
    response
}

fn filter(method: &Method) -> MethodFilter {
    match *method {
        Method::POST => MethodFilter::POST,
        Method::PUT => MethodFilter::PUT,
        Method::DELETE => MethodFilter::DELETE,
        Method::PATCH => MethodFilter::PATCH,
        _ => MethodFilter::GET,
    }
}

async fn unknown_path(request: Request) -> Response {
    if request.method() == Method::OPTIONS {
        return respond::preflight();
    }
    respond::finish(Err(Error::unrecognized("Unrecognized request")))
}

async fn wrong_method(request: Request) -> Response {
    if request.method() == Method::OPTIONS {
        return respond::preflight();
    }
    let e = Error::told(StatusCode::METHOD_NOT_ALLOWED, "M_UNRECOGNIZED", "This path does not know this method");
    respond::finish(Err(e))
}
