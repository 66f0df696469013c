//! The whole server on one page: store, services, api, edge, in this order.
//!
//! [`main`] reads the arguments; [`Server::start`] assembles a server from a configuration and is what tests use as
//! well; `lifecycle` waits for signals.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use axum::Router;
use hearth_base::{Error, Result, clock::Clock, tasks::Supervisor};
use hearth_config::Config;
use hearth_edge::{Address, Edge, Routers};
use hearth_service::Services;
use hearth_store::Store;

mod cli;
mod lifecycle;
mod register;
pub mod settings;
mod tasks;
mod telemetry;
mod welcome;

/// How long requests and work under way may take to end after a signal.
pub const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// The program: arguments in, exit code out.
#[must_use]
pub fn main() -> ExitCode {
    cli::run()
}

/// A running server.
pub struct Server {
    /// Its services.
    pub services: Arc<Services>,
    supervisor: Supervisor,
    edge: Edge,
    addresses: Vec<Address>,
}

impl Server {
    /// Opens the database, makes the services, binds the sockets and begins to answer.
    ///
    /// # Errors
    /// One sentence for the operator: what is wrong, and the way out.
    pub async fn start(config: &Config, data_dir: PathBuf, metrics: Router) -> Result<Self> {
        let supervisor = Supervisor::new();
        // Sockets first: a port in use must not leave a database half made.
        let store_settings = settings::store(config)?;
        let service_settings = settings::services(config)?;
        let bound = Bound::new(config, data_dir, metrics, supervisor.clone())?;
        let store = Store::open(&store_settings, &supervisor).await?;
        let services = Services::start(service_settings, store, Clock::new(), supervisor.clone()).await?;
        tasks::start(&services, config, &supervisor);
        let app = hearth_api::router(services.clone(), settings::api(config));
        let app = welcome::with_page(app, &config.server.name);
        let (edge, addresses) = bound.open(app)?;
        edge.serve().map_err(|e| Error::broken(e.to_string()))?;
        Ok(Self { services, supervisor, edge, addresses })
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

    /// Takes new settings of the front door, with certificates read again.
    ///
    /// # Errors
    /// What is wrong with them; the old ones stay in force.
    pub fn reload(&self, config: &Config, data_dir: PathBuf) -> Result<()> {
        self.edge.reload(settings::edge(config, data_dir)).map_err(|e| Error::broken(e.to_string()))
    }

    /// Refuses new requests, lets those under way end within the deadline, writes what is queued, closes the database.
    /// Returns whether all ended by itself.
    pub async fn stop(self, deadline: Duration) -> bool {
        self.supervisor.begin_stop();
        let drained = self.edge.stop(deadline).await;
        self.services.store.close().await;
        let ended = self.supervisor.stop(Duration::from_secs(5)).await;
        drained && ended
    }
}

/// What is known before there is an application to answer.
struct Bound {
    settings: hearth_edge::settings::Settings,
    metrics: Router,
    supervisor: Supervisor,
}

impl Bound {
    fn new(config: &Config, data_dir: PathBuf, metrics: Router, supervisor: Supervisor) -> Result<Self> {
        Ok(Self { settings: settings::edge(config, data_dir), metrics, supervisor })
    }

    fn open(self, app: Router) -> Result<(Edge, Vec<Address>)> {
        let operator = |e: hearth_edge::Error| Error::broken(e.to_string());
        let routers = Routers { app, metrics: self.metrics };
        let edge = Edge::new(self.settings, routers, self.supervisor).map_err(operator)?;
        let addresses = edge.bind().map_err(operator)?;
        Ok((edge, addresses))
    }
}
