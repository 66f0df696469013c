//! Hearth's own front door: listeners, TLS with certificates that renew themselves, limits, and who answers what.
//!
//! [`Edge::new`] reads what [`Settings`] name, [`Edge::bind`] opens the sockets, [`Edge::serve`] starts answering by
//! [`Routers`], [`Edge::reload`] takes new settings and certificates, [`Edge::stop`] drains. Connections are accepted and secured
//! by Pingora and spoken to by hyper (measured in `tests/baseline/edge-gate.md`); the homeserver is an axum router
//! called in-process, whose requests carry a [`hearth_base::peer::Peer`].

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use axum::Router;
use hearth_base::tasks::Supervisor;
use parking_lot::Mutex;
use pingora_core::{
    listeners::tls::Acceptor,
    server::{Fds, ListenFds},
    services::Service as _,
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

mod acme;
mod answer;
mod apps;
mod client_ip;
mod dispatch;
mod error;
mod examine;
mod limits;
mod listener;
mod proxy;
pub mod settings;
mod static_files;
mod tls;
mod well_known;

pub use error::Error;
pub use examine::{examine, out_of_time};
pub use listener::Trial;
pub use settings::Settings;

use acme::challenges::Challenges;
use dispatch::{Live, counted::Counted, live};
use limits::Gate;
use listener::{
    Opened,
    bind::{self, Bound},
};
pub use tls::{CertificateInfo, Source, local_ca::local_authority};
use tls::{Certificates, files::Files, own};

/// The routers that the edge calls in-process.
#[derive(Clone, Debug, Default)]
pub struct Routers {
    /// The homeserver: `/_matrix`, `/_synapse`, `/_hearth`, `/health`, and `/` when no web client stands there.
    pub app: Router,
    /// What listeners of `type: metrics` answer, and `/_synapse/metrics` where the resource is listed.
    pub metrics: Router,
}

/// The front door.
pub struct Edge {
    shared: Arc<Shared>,
    settings: Arc<Mutex<Settings>>,
    opened: Opened,
    files: Arc<Files>,
    supervisor: Supervisor,
    bound: Mutex<Vec<Bound>>,
    acme: Mutex<Option<acme::Running>>,
    serving: AtomicBool,
    stop_accepting: watch::Sender<bool>,
    /// Sockets that are being accepted on.
    listening: TaskTracker,
    addresses: Mutex<Vec<Address>>,
}

/// An open listener.
#[derive(Clone, Debug)]
pub struct Address {
    /// Its name.
    pub listener: Arc<str>,
    /// Where it listens in fact; none for a Unix socket.
    pub socket: Option<SocketAddr>,
    /// The same as text, or the Unix socket's path.
    pub label: String,
    /// Whether TLS is spoken there.
    pub tls: bool,
}

/// What connections share.
pub(crate) struct Shared {
    pub live: ArcSwap<Live>,
    /// Empty until [`Edge::serve`].
    routers: OnceLock<Routers>,
    pub gate: Gate,
    pub counted: Counted,
    pub certificates: Arc<Certificates>,
    pub acceptor: Acceptor,
    pub challenges: Challenges,
    /// Open connections.
    pub open: TaskTracker,
    pub supervisor: Supervisor,
    /// Cancelled when the stop begins: finish what runs, begin nothing.
    pub stopping: CancellationToken,
    /// Cancelled when the stop's deadline has passed.
    pub abort: CancellationToken,
}

impl Shared {
    /// The routers that are called in-process.
    pub fn routers(&self) -> &Routers {
        self.routers.get_or_init(Routers::default)
    }
}

/// How often files of certificates are looked at, and self-made certificates for their age.
const WATCH_PERIOD: Duration = Duration::from_secs(10);

impl Edge {
    /// Builds everything that can be built without a socket and without writing: routes, certificates from files.
    ///
    /// # Errors
    /// A sentence on the setting or file that is wrong.
    pub fn new(settings: Settings, supervisor: Supervisor) -> Result<Self, Error> {
        // For the libraries that ask the process for a provider (the ACME client); it may have one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // Pingora's own timers have a thread that wakes a hundred times a second from the first request on, for ever. They
        // pay where timeouts are many more than connections; ours are tokio's, all but those below a second.
        pingora_timeout::fast_timeout::set_fast_timeout_to_tokio_threshold(Some(Duration::ZERO));
        live::check(&settings)?;
        let live = Live::new(&settings)?;
        acme::check(&settings)?;
        let certificates = Certificates::new(principal(&settings));
        let files = Files::load(certificate_files(&settings)?, &certificates)?;
        acme::load_kept(&settings, &certificates)?;
        let shared = Shared {
            live: ArcSwap::new(live),
            routers: OnceLock::new(),
            gate: Gate::default(),
            counted: Counted::default(),
            acceptor: certificates.acceptor()?,
            certificates,
            challenges: Challenges::default(),
            open: TaskTracker::new(),
            supervisor: supervisor.clone(),
            stopping: CancellationToken::new(),
            abort: CancellationToken::new(),
        };
        Ok(Self {
            shared: Arc::new(shared),
            opened: Opened::of(&settings),
            settings: Arc::new(Mutex::new(settings)),
            files: Arc::new(files),
            supervisor,
            bound: Mutex::default(),
            acme: Mutex::default(),
            serving: AtomicBool::new(false),
            stop_accepting: watch::Sender::new(false),
            listening: TaskTracker::new(),
            addresses: Mutex::default(),
        })
    }

    /// Opens the sockets; connections wait in the kernel until [`Self::serve`]. Only then the local authority and
    /// certificates for names that have none are made: a port in use leaves nothing behind.
    ///
    /// # Errors
    /// A sentence naming the address and the way out, for the first that cannot be opened.
    pub fn bind(&self) -> Result<Vec<Address>, Error> {
        let settings = self.settings.lock().clone();
        let mut bound = Vec::new();
        for planned in listener::plan(&settings) {
            bound.extend(bind::open(&planned)?);
        }
        own::refresh(&settings, &self.shared.certificates)?;
        let addresses: Vec<Address> = bound
            .iter()
            .map(|b| Address {
                listener: b.door.name.clone(),
                socket: b.address,
                label: b.label.clone(),
                tls: b.door.tls,
            })
            .collect();
        *self.bound.lock() = bound;
        self.addresses.lock().clone_from(&addresses);
        Ok(addresses)
    }

    /// Opens each socket that [`Self::bind`] would and closes it again.
    pub fn try_bind(&self) -> Vec<Trial> {
        listener::try_all(&self.settings.lock().clone())
    }

    /// Starts to answer by these routers and to look after certificates; returns at once. Ends with [`Self::stop`], or
    /// drops everything when the supervisor stops first.
    ///
    /// # Errors
    /// If there is an ACME authority that cannot be ordered from as configured.
    pub fn serve(&self, routers: Routers) -> Result<(), Error> {
        if self.shared.routers.set(routers).is_err() {
            return Err(Error::State("the edge serves already"));
        }
        let bound = std::mem::take(&mut *self.bound.lock());
        let mut sockets = Fds::new();
        let services: Vec<_> = bound.into_iter().map(|b| bind::service(b, &self.shared, &mut sockets)).collect();
        let sockets: ListenFds = Arc::new(Mutex::new(sockets));
        for mut service in services {
            let (sockets, stop) = (sockets.clone(), self.stop_accepting.subscribe());
            let open = self.listening.token();
            self.supervisor.detach(async move {
                service.start_service(Some(sockets), stop, 1).await;
                drop((service, open));
            });
        }
        let (accepting, stopping) = (self.stop_accepting.clone(), self.shared.stopping.clone());
        let server_stops = self.supervisor.stopping();
        self.supervisor.detach(async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = server_stops.cancelled() => {
                    accepting.send_replace(true);
                    stopping.cancel();
                }
            }
        });
        self.watch_certificates();
        let running = acme::start(&self.settings.lock(), &self.shared)?;
        *self.acme.lock() = running;
        self.serving.store(true, Ordering::Release);
        Ok(())
    }

    fn watch_certificates(&self) {
        let (files, shared, settings) = (self.files.clone(), self.shared.clone(), self.settings.clone());
        self.supervisor.task("certificates", move || {
            let (files, shared, settings) = (files.clone(), shared.clone(), settings.clone());
            async move {
                tls::report(&shared.certificates);
                let stopping = shared.stopping.clone();
                while stopping.run_until_cancelled(tokio::time::sleep(WATCH_PERIOD)).await.is_some() {
                    let settings = settings.lock().clone();
                    files.refresh(&shared.certificates);
                    let renewed = own::refresh(&settings, &shared.certificates);
                    renewed.map_err(|e| hearth_base::Error::fault("renewing our own certificates", e))?;
                    tls::report(&shared.certificates);
                }
                Ok(())
            }
        });
    }

    /// Takes other settings: certificates, routes, limits. Listeners stay as they are until the next start; that some were
    /// to be others is said.
    ///
    /// # Errors
    /// A sentence on what is wrong; then everything stays as it was.
    pub fn reload(&self, settings: Settings) -> Result<(), Error> {
        live::check(&settings)?;
        let otherwise = self.opened.wanted_otherwise(&settings);
        let settings = self.opened.within(settings);
        let live = Live::new(&settings)?;
        acme::check(&settings)?;
        self.files.replace(certificate_files(&settings)?, &self.shared.certificates)?;
        acme::load_kept(&settings, &self.shared.certificates)?;
        own::refresh(&settings, &self.shared.certificates)?;
        self.shared.live.store(live);
        if self.serving.load(Ordering::Acquire) {
            let running = acme::start(&settings, &self.shared)?;
            *self.acme.lock() = running;
        }
        *self.settings.lock() = settings;
        info!("certificates and static configuration read again");
        if !otherwise.is_empty() {
            warn!(
                "{}: changed, which takes a restart; until then the sockets are those of before",
                otherwise.join(", ")
            );
        }
        Ok(())
    }

    /// Orders all ACME certificates anew, whether due or not.
    pub fn renew_now(&self) {
        if let Some(acme) = &*self.acme.lock() {
            acme.order_now();
        }
    }

    /// The certificates in use.
    #[must_use]
    pub fn certificates(&self) -> Vec<CertificateInfo> {
        self.shared.certificates.list()
    }

    /// Where we listen, in the order of the configuration; empty before [`Self::bind`].
    #[must_use]
    pub fn addresses(&self) -> Vec<Address> {
        self.addresses.lock().clone()
    }

    /// The certificate of our local authority, for people to import; none if there is no such authority.
    #[must_use]
    pub fn local_ca(&self) -> Option<PathBuf> {
        local_authority(&self.settings.lock().data_dir)
    }

    /// Stops: accepts nothing more, lets running requests end, and closes what is left when the deadline has passed.
    /// Returns whether all ended by themselves.
    pub async fn stop(&self, deadline: Duration) -> bool {
        self.stop_accepting.send_replace(true);
        self.shared.stopping.cancel();
        self.shared.open.close();
        self.listening.close();
        let all = async {
            // Ports are free again when this returns.
            self.listening.wait().await;
            self.shared.open.wait().await;
        };
        let drained = tokio::time::timeout(deadline, all).await.is_ok();
        self.shared.abort.cancel();
        if !drained {
            // Connections end as soon as they are polled again.
            let _ = tokio::time::timeout(Duration::from_secs(2), self.shared.open.wait()).await;
        }
        for address in self.addresses.lock().iter().filter(|a| a.socket.is_none()) {
            let _ = std::fs::remove_file(&address.label);
        }
        drained
    }
}

/// Where certificates and ACME accounts are kept.
pub(crate) fn folder(settings: &Settings) -> PathBuf {
    settings.data_dir.join("edge")
}

/// The name whose certificate answers clients that name none.
fn principal(settings: &Settings) -> String {
    names(settings).into_iter().next().unwrap_or_default()
}

/// The names we answer for: the host of `public_baseurl`, the server name, and every host that an app names.
pub(crate) fn names(settings: &Settings) -> Vec<String> {
    let public = settings.public_baseurl.as_ref().and_then(|u| url::Url::parse(u).ok());
    let mut all: Vec<String> = public.and_then(|u| u.host_str().map(str::to_owned)).into_iter().collect();
    all.push(well_known::host_of(&settings.server_name).to_owned());
    if let Some(edge) = &settings.edge {
        let apps = edge.apps.iter().chain(&edge.admin_ui).map(|app| &app.at);
        let places = apps.chain(edge.element.iter().map(|e| &e.at)).chain(edge.upstreams.iter().map(|u| &u.at));
        all.extend(places.filter_map(|at| at.host.clone()));
    }
    let mut seen = Vec::new();
    for name in all {
        let name = name.trim_matches(['[', ']']).to_ascii_lowercase();
        if !name.is_empty() && !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen
}

/// `edge.certificates`, and the pair of homeserver.yaml when a listener of its speaks TLS: files from the time before a
/// proxy brought TLS are often named still, and long gone.
fn certificate_files(settings: &Settings) -> Result<Vec<hearth_config::edge::CertificateFiles>, Error> {
    let mut all = settings.edge.as_ref().map(|e| e.certificates.clone()).unwrap_or_default();
    if !settings.listeners.iter().any(|l| l.tls) {
        return Ok(all);
    }
    match (&settings.tls_certificate_path, &settings.tls_private_key_path) {
        (Some(cert), Some(key)) => {
            all.push(hearth_config::edge::CertificateFiles { cert: cert.clone(), key: key.clone() });
        }
        _ if settings.edge.is_none() => {
            let what = "needs `tls_certificate_path` and `tls_private_key_path`, or an `edge:` section".to_owned();
            return Err(Error::Setting("listeners: tls".to_owned(), what));
        }
        _ => {}
    }
    Ok(all)
}
