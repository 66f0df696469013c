//! A server in this process behind a real socket, and users as actors.
//!
//! ```ignore
//! on_both! { async fn a_name_is_taken_once(server) {
//!     let alice = server.user("alice").await;
//!     alice.get("/_matrix/client/v3/account/whoami").await.good();
//! } }
//! ```
//! [`on_both`] runs a test on SQLite and on PostgreSQL ([`postgres`]). A server is private to its test: an own database,
//! an own port, an own clock that tests may turn. Limits are off and password hashes cheap unless a test says so
//! ([`Plan`]). Stories of an installation as a whole run the real program instead ([`program`]).

use std::{fmt, net::SocketAddr, sync::Arc, sync::Once, time::Duration};

use hearth_base::{clock::Clock, tasks::Supervisor};
use hearth_service::Services;
use hearth_store::{Store, db::Engine};
use reqwest::{Method, StatusCode, header::HeaderMap};
use ruma::{OwnedServerName, OwnedUserId, ServerName};
use serde_json::{Value, json};

#[path = "../../src/edge/tests/it/pebble.rs"]
pub mod pebble;
pub mod postgres;
pub mod program;
pub mod rooms;

/// The name of every test server.
pub const NAME: &str = "localhost";
/// The secret of the registration by shared secret.
pub const SECRET: &str = "shared-secret";

/// Runs a test on both engines, as `name::sqlite` and `name::postgres`.
#[macro_export]
macro_rules! on_both {
    ($($(#[$meta:meta])* async fn $name:ident($server:ident) $body:block)+) => {$(
        $(#[$meta])*
        mod $name {
            #[allow(unused_imports, reason = "not every story needs what stands around it")]
            use super::*;

            async fn story($server: $crate::support::TestServer) {
                $body
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                story($crate::support::Plan::default().sqlite().await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                if let Some(server) = $crate::support::Plan::default().postgres().await {
                    story(server).await;
                }
            }
        }
    )+};
}

/// Says in one line why something is not tested on this machine; under `CI=true` that is a failure.
pub fn missing(what: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{what}");
    println!("skipped: {what}");
}

/// Serves a server's router somewhere else as well.
type Door = Box<dyn FnOnce(axum::Router, &Supervisor) + Send>;
type Change<T> = Box<dyn FnOnce(&mut T) + Send>;

/// How a test server is to differ from the usual one.
#[derive(Default)]
pub struct Plan {
    name: Option<OwnedServerName>,
    door: Option<Door>,
    ahead_ms: u64,
    services: Vec<Change<hearth_service::Settings>>,
    api: Vec<Change<hearth_api::Settings>>,
}

impl Plan {
    /// Gives it another name than [`NAME`].
    pub fn named(mut self, name: OwnedServerName) -> Self {
        self.name = Some(name);
        self
    }

    /// Has its clock stand that far ahead.
    pub fn ahead(mut self, ms: u64) -> Self {
        self.ahead_ms = ms;
        self
    }

    /// Has something else serve the same router as well.
    pub fn behind(mut self, door: impl FnOnce(axum::Router, &Supervisor) + Send + 'static) -> Self {
        self.door = Some(Box::new(door));
        self
    }

    /// Changes the settings of services.
    pub fn services(mut self, change: impl FnOnce(&mut hearth_service::Settings) + Send + 'static) -> Self {
        self.services.push(Box::new(change));
        self
    }

    /// Changes the settings of the API.
    pub fn api(mut self, change: impl FnOnce(&mut hearth_api::Settings) + Send + 'static) -> Self {
        self.api.push(Box::new(change));
        self
    }

    /// Starts it on a SQLite file of its own.
    pub async fn sqlite(self) -> TestServer {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::Sqlite { path: dir.path().join("hearth.db") };
        self.on(engine, Arc::new(dir)).await
    }

    /// Starts it on a PostgreSQL database of its own; `None`, said once, where there is no PostgreSQL.
    pub async fn postgres(self) -> Option<TestServer> {
        let engine = postgres::database().await?;
        Some(self.on(engine, Arc::new(tempfile::tempdir().unwrap())).await)
    }

    /// Starts it on the engine that `HEARTH_TEST_DB` names, SQLite by default.
    pub async fn start(self) -> TestServer {
        if std::env::var("HEARTH_TEST_DB").is_ok_and(|db| db == "postgres")
            && let Some(engine) = postgres::database().await
        {
            return self.on(engine, Arc::new(tempfile::tempdir().unwrap())).await;
        }
        self.sqlite().await
    }

    /// Stops a server and starts this one on what it leaves behind.
    pub async fn after(self, old: TestServer) -> TestServer {
        let (engine, dir) = (old.inner.engine.clone(), old.inner.dir.clone());
        old.inner.supervisor.begin_stop();
        old.inner.services.store.close().await;
        old.inner.supervisor.stop(Duration::from_secs(5)).await;
        drop(old);
        self.on(engine, dir).await
    }

    async fn on(self, engine: Engine, dir: Arc<tempfile::TempDir>) -> TestServer {
        static RING: Once = Once::new();
        RING.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let (supervisor, clock) = (Supervisor::new(), Clock::new());
        clock.advance_ms(self.ahead_ms);
        let mut storage = hearth_store::Settings::new(engine.clone());
        storage.media = Some(dir.path().join("media"));
        let store = Store::open(&storage, &supervisor).await.unwrap();
        let name = self.name.unwrap_or_else(|| ServerName::parse(NAME).unwrap());
        let mut settings = hearth_service::Settings::new(name);
        let nameless = nameless(&supervisor).await;
        settings.federation.remote.name_server = Some(nameless);
        settings.membership.identity.remote.name_server = Some(nameless);
        settings.accounts.registration = true;
        settings.accounts.shared_secret = Some(SECRET.to_owned());
        settings.accounts.passwords.memory_kib = 8;
        settings.accounts.passwords.passes = 1;
        self.services.into_iter().for_each(|change| change(&mut settings));
        let mut api = hearth_api::Settings::default();
        api.limits.enabled = false;
        self.api.into_iter().for_each(|change| change(&mut api));
        // As every start does: what was prepared so is what is asked.
        store.rehearse(|| false).await.unwrap();
        let services = Services::start(settings, store, clock.clone(), supervisor.clone()).await.unwrap();
        let router = hearth_api::router(services.clone(), api);
        if let Some(door) = self.door {
            door(router.clone(), &supervisor);
        }
        let served = router.clone();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let stopping = supervisor.stopping();
        supervisor.detach(async move {
            axum::serve(listener, served).with_graceful_shutdown(stopping.cancelled_owned()).await.unwrap();
        });
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap();
        TestServer { inner: Arc::new(Inner { base, router, services, clock, supervisor, http, engine, dir }) }
    }
}

/// A name server that knows no names: tests ask nobody on the network, and other servers have addresses for names.
async fn nameless(supervisor: &Supervisor) -> SocketAddr {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (address, stopping) = (socket.local_addr().unwrap(), supervisor.stopping());
    supervisor.detach(async move {
        let mut packet = [0; 1500];
        loop {
            let received = tokio::select! {
                () = stopping.cancelled() => return,
                received = socket.recv_from(&mut packet) => received,
            };
            let Ok((size, from)) = received else { continue };
            // The question ends with the empty label, type and class; an answer, NXDOMAIN, with nothing behind it.
            let Some(end) = packet[12..size].iter().position(|b| *b == 0).map(|at| 12 + at + 5) else { continue };
            packet[2..4].copy_from_slice(&[0x81, 0x83]);
            packet[6..12].fill(0);
            let _ = socket.send_to(&packet[..end], from).await;
        }
    });
    address
}

/// A running server. Clones are the same one; it stops with the last.
#[derive(Clone)]
pub struct TestServer {
    inner: Arc<Inner>,
}

struct Inner {
    base: String,
    router: axum::Router,
    services: Arc<Services>,
    clock: Clock,
    supervisor: Supervisor,
    http: reqwest::Client,
    engine: Engine,
    dir: Arc<tempfile::TempDir>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.supervisor.begin_stop();
    }
}

impl TestServer {
    /// The usual server, on the engine that `HEARTH_TEST_DB` names.
    pub async fn start() -> Self {
        Plan::default().start().await
    }

    /// Its services, for what no endpoint gives.
    pub fn services(&self) -> &Arc<Services> {
        &self.inner.services
    }

    /// Its clock.
    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    /// Its name, the part after the colon.
    pub fn name(&self) -> &ServerName {
        &self.inner.services.settings.server_name
    }

    /// What answers, without a socket.
    pub fn router(&self) -> &axum::Router {
        &self.inner.router
    }

    /// `http://127.0.0.1:<port>`.
    pub fn base(&self) -> &str {
        &self.inner.base
    }

    /// A client of anybody.
    pub fn nobody(&self) -> Caller {
        Caller { server: self.clone(), token: None }
    }

    /// A client with a token.
    pub fn with_token(&self, token: &str) -> Caller {
        Caller { server: self.clone(), token: Some(token.to_owned()) }
    }

    /// Registers a user, whose password is `password of <name>`, and logs them in.
    pub async fn user(&self, name: &str) -> User {
        let body = json!({
            "username": name,
            "password": format!("password of {name}"),
            "auth": {"type": "m.login.dummy"},
        });
        User::from_session(self, &self.nobody().post("/_matrix/client/v3/register", body).await.good())
    }

    /// Registers a user who is a server administrator.
    pub async fn admin(&self, name: &str) -> User {
        let user = self.user(name).await;
        let nid = self.inner.services.store.user_nid(&user.id).await.unwrap().unwrap();
        let flag = hearth_store::accounts::Flag::Admin;
        assert!(self.inner.services.store.set_flag(nid, flag, true).await.unwrap());
        user
    }
}

/// Somebody who makes requests.
#[derive(Clone)]
pub struct Caller {
    server: TestServer,
    /// Their access token.
    pub token: Option<String>,
}

impl Caller {
    /// GET.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None).await
    }

    /// POST of JSON.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, Some(body.to_string())).await
    }

    /// PUT of JSON.
    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(Method::PUT, path, Some(body.to_string())).await
    }

    /// DELETE with JSON.
    pub async fn delete(&self, path: &str, body: Value) -> Answer {
        self.send(Method::DELETE, path, Some(body.to_string())).await
    }

    /// Any method, any body.
    pub async fn send(&self, method: Method, path: &str, body: Option<String>) -> Answer {
        let (name, url) = (format!("{method} {path}"), format!("{}{path}", self.server.base()));
        let mut request = self.server.inner.http.request(method, url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status(), answer.headers().clone());
        let text = answer.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Answer { name, status, headers, body, text }
    }
}

/// A registered user with a session.
#[derive(Clone)]
pub struct User {
    /// Their client.
    pub caller: Caller,
    /// Their id.
    pub id: OwnedUserId,
    /// Their device.
    pub device: String,
}

impl User {
    /// The user of an answer of /login or /register.
    pub fn from_session(server: &TestServer, session: &Value) -> Self {
        let text = |key: &str| session[key].as_str().unwrap_or_else(|| panic!("no {key} in {session}")).to_owned();
        Self {
            caller: server.with_token(&text("access_token")),
            id: text("user_id").try_into().unwrap(),
            device: text("device_id"),
        }
    }

    /// The same session on the server that came after.
    pub fn on(&self, server: &TestServer) -> Self {
        Self { caller: server.with_token(self.token()), id: self.id.clone(), device: self.device.clone() }
    }

    /// Their access token.
    pub fn token(&self) -> &str {
        self.caller.token.as_deref().unwrap()
    }

    /// The password they registered with.
    pub fn password(&self) -> String {
        format!("password of {}", self.id.localpart())
    }

    /// Logs the same user in on another device.
    pub async fn another_device(&self) -> User {
        let body = json!({
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": self.id},
            "password": self.password(),
        });
        let server = &self.caller.server;
        User::from_session(server, &server.nobody().post("/_matrix/client/v3/login", body).await.good())
    }

    /// A body with user-interactive authentication by password.
    pub fn confirmed(&self, mut body: Value) -> Value {
        body["auth"] = json!({
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": self.id},
            "password": self.password(),
        });
        body
    }
}

impl std::ops::Deref for User {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.caller
    }
}

/// What the server answered.
pub struct Answer {
    /// The request, for messages.
    name: String,
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, `null` if that is not JSON.
    pub body: Value,
    /// Its body as it came.
    pub text: String,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.name, self.status, self.text)
    }
}

impl Answer {
    /// The body of a success.
    #[track_caller]
    pub fn good(self) -> Value {
        assert!(self.status.is_success(), "{self:?}");
        self.body
    }

    /// The body of a refusal with this status and errcode.
    #[track_caller]
    pub fn refused(self, status: u16, errcode: &str) -> Value {
        assert_eq!((self.status.as_u16(), self.body["errcode"].as_str()), (status, Some(errcode)), "{self:?}");
        assert!(self.body["error"].is_string(), "{self:?}");
        self.body
    }

    /// The session of a user-interactive authentication that asks for more, and its body.
    #[track_caller]
    pub fn asked(self) -> (String, Value) {
        assert_eq!(self.status.as_u16(), 401, "{self:?}");
        assert!(self.body["flows"].is_array(), "{self:?}");
        (self.body["session"].as_str().unwrap().to_owned(), self.body)
    }
}
