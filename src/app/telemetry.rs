//! What the operator sees while the server runs: log lines as `log_config` wants them, and the metrics router.
//!
//! The log is one layer ([`layer`]) whose routes are replaced whole when `log_config` is read again. A record finds its
//! loggers by name ([`names`]), gets its form ([`form`]), and goes to its sinks ([`sink`], [`file`]).

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{Router, http::header::CONTENT_TYPE, routing::get};
use hearth_base::{Error, Result, tasks::Supervisor};
use hearth_config::telemetry::LogConfig;
use metrics_exporter_prometheus::PrometheusBuilder;
use tracing::warn;
use tracing_subscriber::{filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _};

mod file;
mod form;
mod layer;
mod names;
mod process;
mod sink;

use layer::{Layer, Routes};
use sink::Sink;

/// The routes of this process's log.
static LOG: OnceLock<Arc<layer::Live>> = OnceLock::new();

/// Sets up the log, or replaces it: files are opened anew. `HEARTH_LOG`, as `info,hearth_store=debug`, is stronger than
/// the file's levels.
///
/// # Errors
/// One sentence if a log file cannot be opened; then all stays as it was.
pub(super) fn log(config: &LogConfig) -> Result<()> {
    let forced: Option<Targets> = std::env::var("HEARTH_LOG").ok().and_then(|text| text.parse().ok());
    let routes = Routes::new(config, forced)?;
    match LOG.get() {
        Some(live) => live.replace(routes),
        None => {
            let live = Arc::new(layer::Live::new(routes));
            // A log that is there already is another's (a test's), and stays.
            if tracing_subscriber::registry().with(Layer(live.clone())).try_init().is_ok() {
                let _ = LOG.set(live);
            }
        }
    }
    for name in config.loggers.iter().map(|l| &l.name).filter(|name| !names::is_known(name)) {
        warn!("log_config: no part of this server is called {name}; what is said of it has no effect");
    }
    Ok(())
}

/// What keeps the log from being set up so: files and sockets that cannot be opened. Makes none.
pub(super) fn examine(config: &LogConfig) -> Vec<String> {
    config.handlers.iter().filter_map(|handler| Sink::look(&handler.target).err()).collect()
}

/// Whether errors of the log are seen on standard error.
pub(super) fn on_terminal() -> bool {
    LOG.get().is_some_and(|live| live.on_terminal())
}

/// How often what was measured is summed up, if nobody asks for it meanwhile.
const SUMMED_UP: Duration = Duration::from_secs(10);

/// The metrics in Prometheus' form, at `/metrics` and at Synapse's path; nothing where they are off.
///
/// # Errors
/// If something else collects metrics in this process already.
pub(super) fn metrics(enabled: bool, supervisor: &Supervisor) -> Result<Router> {
    if !enabled {
        return Ok(Router::new());
    }
    let handle = PrometheusBuilder::new().install_recorder().map_err(|e| Error::fault("metrics", e))?;
    metrics::gauge!("hearth_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    // Each duration is kept by itself until it is summed up: for ever, where nobody asks.
    let kept = handle.clone();
    supervisor.every("metrics", SUMMED_UP, move || {
        kept.run_upkeep();
        std::future::ready(Ok(()))
    });
    let show = move || {
        let handle = handle.clone();
        async move {
            let counted = process::measure();
            ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], handle.render() + &counted)
        }
    };
    Ok(Router::new().route("/metrics", get(show.clone())).route("/_synapse/metrics", get(show)))
}
