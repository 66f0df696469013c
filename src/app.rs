//! The whole server on one page: sockets, store, services, api, edge, in this order.
//!
//! [`main`] reads the arguments; [`Bound::open`] and [`Bound::start`] assemble a server from a configuration, and tests
//! use them as well; `lifecycle` goes from there to the end of the process.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use axum::{Router, routing::get};
use hearth_base::{Error, Result, clock::Clock, tasks::Supervisor};
use hearth_config::Config;
use hearth_edge::{Address, Edge, Routers};
use hearth_service::Services;
use hearth_store::Store;

mod cli;
mod doctor;
mod greeting;
mod lifecycle;
mod register;
pub mod settings;
mod tasks;
mod telemetry;
mod welcome;

use welcome::Welcome;

/// How long requests and work under way may take to end after a signal: a container is given ten seconds in all.
pub const STOP_DEADLINE: Duration = Duration::from_secs(7);

/// The program: arguments in, exit code out.
#[must_use]
pub fn main() -> ExitCode {
    cli::run()
}

/// A server whose sockets are open, and that has touched nothing else: a port in use leaves no database behind.
pub struct Bound {
    edge: Edge,
    addresses: Vec<Address>,
    supervisor: Supervisor,
}

impl Bound {
    /// Opens the sockets. Callers wait in the kernel until [`Bound::start`]. `data_dir` is where certificates are kept.
    ///
    /// # Errors
    /// One sentence for the operator: what is wrong, and the way out.
    pub fn open(config: &Config, data_dir: PathBuf) -> Result<Self> {
        let supervisor = Supervisor::new();
        let edge = Edge::new(settings::edge(config, data_dir), supervisor.clone()).map_err(operator)?;
        let addresses = edge.bind().map_err(operator)?;
        Ok(Self { edge, addresses, supervisor })
    }

    /// Opens the database, makes the services and begins to answer.
    ///
    /// # Errors
    /// One sentence for the operator.
    pub async fn start(self, config: &Config, metrics: Router) -> Result<Server> {
        let Self { edge, addresses, supervisor } = self;
        let store_settings = settings::store(config)?;
        let service_settings = settings::services(config)?;
        let api_settings = settings::api(config);
        let store = Store::open(&store_settings, &supervisor).await?;
        let services = Services::start(service_settings, store, Clock::new(), supervisor.clone()).await?;
        tasks::start(&services, config, &supervisor);
        let welcome = Arc::new(Welcome::new(config, services.clone())?);
        // Says that the process answers and no more: whoever restarts it when the database is away wins nothing.
        let health = Router::new().route("/health", get(async || "OK"));
        let app =
            hearth_api::router(services.clone(), api_settings).merge(welcome.clone().routes()).merge(health.clone());
        edge.serve(Routers { app, metrics: metrics.merge(health) }).map_err(operator)?;
        Ok(Server { services, supervisor, edge, addresses, welcome })
    }
}

/// A running server.
pub struct Server {
    /// Its services.
    pub services: Arc<Services>,
    supervisor: Supervisor,
    edge: Edge,
    addresses: Vec<Address>,
    welcome: Arc<Welcome>,
}

impl Server {
    /// Both steps of the start at once.
    ///
    /// # Errors
    /// One sentence for the operator: what is wrong, and the way out.
    pub async fn start(config: &Config, data_dir: PathBuf, metrics: Router) -> Result<Self> {
        Bound::open(config, data_dir)?.start(config, metrics).await
    }

    /// Where the server listens.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The front door.
    #[must_use]
    pub fn edge(&self) -> &Edge {
        &self.edge
    }

    /// Path and query of the page that makes the first account, an administrator's; none once there is an account.
    /// Whoever knows it may make that account.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn first_account(&self) -> Result<Option<String>> {
        self.welcome.first_account().await
    }

    /// Takes new settings of the front door, with certificates read again.
    ///
    /// # Errors
    /// What is wrong with them; the old ones stay in force.
    pub fn reload(&self, config: &Config, data_dir: PathBuf) -> Result<()> {
        self.edge.reload(settings::edge(config, data_dir)).map_err(operator)
    }

    /// Refuses new requests, lets those under way end within the deadline, writes what is queued, closes the database.
    /// Returns whether all ended by itself.
    pub async fn stop(self, deadline: Duration) -> bool {
        self.supervisor.begin_stop();
        let drained = self.edge.stop(deadline).await;
        self.services.store.close().await;
        let ended = self.supervisor.stop(Duration::from_secs(2)).await;
        drained && ended
    }
}

/// The edge's sentences are the operator's already.
fn operator(e: hearth_edge::Error) -> Error {
    Error::broken(e.to_string())
}
