//! Three servers and what lies between them: a switch that cuts one off from another in the ways that networks do, and
//! servers that stop and start again over the same database.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Body};
use hearth_base::tasks::Supervisor;
use http::{Request, Response, header};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use ruma::OwnedServerName;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, watch},
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use super::super::support::authority;
use crate::support::{Plan, TestServer};

/// What becomes of requests from one server to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The connection ends before anything is done.
    Refused,
    /// The request is done and the connection ends before the answer.
    Unanswered,
    /// The request waits until the cut is healed, and is done then.
    Held,
}

/// Who cannot reach whom.
#[derive(Clone)]
pub struct Switch {
    cuts: watch::Sender<HashMap<(String, String), Cut>>,
}

impl Switch {
    pub fn new() -> Self {
        Self { cuts: watch::Sender::default() }
    }

    /// Cuts two servers off from each other.
    pub fn cut(&self, one: &str, other: &str, how: Cut) {
        self.cuts.send_modify(|cuts| {
            cuts.insert((one.to_owned(), other.to_owned()), how);
            cuts.insert((other.to_owned(), one.to_owned()), how);
        });
    }

    /// Ends the cut between two servers.
    pub fn heal(&self, one: &str, other: &str) {
        self.cuts.send_modify(|cuts| {
            cuts.remove(&(one.to_owned(), other.to_owned()));
            cuts.remove(&(other.to_owned(), one.to_owned()));
        });
    }

    /// Ends all cuts.
    pub fn heal_all(&self) {
        self.cuts.send_modify(HashMap::clear);
    }

    fn between(&self, from: &str, to: &str) -> Option<Cut> {
        self.cuts.borrow().get(&(from.to_owned(), to.to_owned())).copied()
    }

    async fn healed(&self, from: &str, to: &str) {
        let pair = (from.to_owned(), to.to_owned());
        let _ = self.cuts.subscribe().wait_for(|cuts| !cuts.contains_key(&pair)).await;
    }
}

/// A door that stays while the server behind it comes and goes.
#[derive(Clone)]
struct Gate {
    name: OwnedServerName,
    switch: Switch,
    behind: Arc<Mutex<Option<Router>>>,
}

impl Gate {
    fn serve(&self, listener: TcpListener, supervisor: &Supervisor) {
        let (gate, jobs, stopping) = (self.clone(), supervisor.clone(), supervisor.stopping());
        let acceptor = TlsAcceptor::from(authority().certifies(&[self.name.host()]));
        supervisor.detach(async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = stopping.cancelled() => return,
                };
                let Ok((stream, _)) = accepted else { continue };
                let (gate, acceptor, stop) = (gate.clone(), acceptor.clone(), stopping.clone());
                jobs.detach(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = gate.connection(stream, acceptor) => {}
                    }
                });
            }
        });
    }

    async fn connection(&self, stream: TcpStream, acceptor: TlsAcceptor) {
        let Ok(stream) = acceptor.accept(stream).await else { return };
        let (gate, torn) = (self.clone(), Arc::new(Notify::new()));
        let tear = torn.clone();
        let router = Router::new().fallback(move |request: Request<Body>| {
            let (gate, tear) = (gate.clone(), tear.clone());
            async move { gate.answer(request, &tear).await }
        });
        let builder = auto::Builder::new(TokioExecutor::new());
        let serving = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        tokio::select! {
            _ = serving => {}
            () = torn.notified() => {}
        }
    }

    async fn answer(&self, request: Request<Body>, tear: &Notify) -> Response<Body> {
        let from = origin(&request);
        let cut = from.as_deref().and_then(|from| self.switch.between(from, self.name.as_str()));
        match (cut, from) {
            (Some(Cut::Held), Some(from)) => self.switch.healed(&from, self.name.as_str()).await,
            (Some(Cut::Refused), _) => return torn(tear).await,
            _ => {}
        }
        let router = self.behind.lock().unwrap().clone();
        let Some(router) = router else { return torn(tear).await };
        let answer = router.oneshot(request).await.unwrap();
        if cut == Some(Cut::Unanswered) {
            return torn(tear).await;
        }
        answer
    }
}

/// Ends the connection.
async fn torn(tear: &Notify) -> Response<Body> {
    tear.notify_one();
    std::future::pending().await
}

/// The server that signed a request.
fn origin(request: &Request<Body>) -> Option<String> {
    let value = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    let (_, rest) = value.split_once("origin=")?;
    let rest = rest.strip_prefix('"').unwrap_or(rest);
    Some(rest.split(['"', ',']).next()?.to_owned())
}

/// One of the servers.
pub struct Node {
    pub name: OwnedServerName,
    gate: Gate,
    keys: hearth_service::server_keys::Settings,
    ahead_ms: u64,
    running: Option<TestServer>,
}

impl Node {
    /// Starts a server on `127.0.0.<last>`, on PostgreSQL if that is wanted and there is one.
    pub async fn start(last: u8, postgres: bool, switch: &Switch, supervisor: &Supervisor) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, last), 0)).await.unwrap();
        let name: OwnedServerName = listener.local_addr().unwrap().to_string().try_into().unwrap();
        let gate = Gate { name: name.clone(), switch: switch.clone(), behind: Arc::default() };
        gate.serve(listener, supervisor);
        let keys = hearth_service::server_keys::Settings::generate();
        let mut node = Self { name, gate, keys, ahead_ms: 0, running: None };
        let started = match postgres {
            true => node.plan().postgres().await,
            false => None,
        };
        node.running = Some(match started {
            Some(server) => server,
            None => node.plan().sqlite().await,
        });
        node
    }

    fn plan(&self) -> Plan {
        let (keys, behind) = (self.keys.clone(), self.gate.behind.clone());
        Plan::default()
            .named(self.name.clone())
            .ahead(self.ahead_ms)
            .services(move |s| {
                s.server_keys = keys;
                s.federation.remote.custom_ca = vec![authority().file.clone()];
                s.federation.remote.timeout = Duration::from_secs(10);
                s.federation.pauses.first = Duration::from_millis(100);
                s.federation.pauses.longest = Duration::from_millis(500);
                s.outbox.refused_pause = Duration::from_millis(100);
                s.outbox.save_every = Duration::from_millis(200);
                // Three in a hurry do more at once than servers do.
                s.gate.sleep_limit = 1_000;
            })
            .behind(move |router, _| *behind.lock().unwrap() = Some(router))
    }

    /// The server, which is there between [`Self::restart`]s.
    pub fn server(&self) -> &TestServer {
        self.running.as_ref().unwrap()
    }

    /// Stops the server and starts it over the same database.
    pub async fn restart(&mut self) {
        self.gate.behind.lock().unwrap().take();
        let old = self.running.take().unwrap();
        self.running = Some(self.plan().after(old).await);
    }

    /// Puts its clock forward.
    pub fn steps(&mut self, ms: u64) {
        self.ahead_ms += ms;
        self.server().clock().advance_ms(ms);
    }
}
