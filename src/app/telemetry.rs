//! What the operator sees while the server runs: log lines as `log_config` wants them, and the metrics router.
//!
//! Levels and formats of the log file are followed, and its targets except syslog; files are appended to, and rotating
//! them is left to logrotate. The log is set up once, at the start.

use std::{fs::OpenOptions, sync::Mutex};

use axum::{Router, routing::get};
use hearth_base::{Error, Result};
use hearth_config::telemetry::{Level, LogConfig, LogFormat, LogHandler, LogTarget};
use metrics_exporter_prometheus::PrometheusBuilder;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::LevelFilter,
    fmt::{MakeWriter, layer},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// A log target of any sort.
type Lines = Box<dyn Layer<Registry> + Send + Sync>;

/// Sets up the log. `HEARTH_LOG`, in the form of tracing's `EnvFilter`, is stronger than the file's levels.
///
/// # Errors
/// One sentence if a log file cannot be opened.
pub(super) fn log(config: &LogConfig) -> Result<()> {
    let mut targets: Vec<Lines> = Vec::new();
    for handler in &config.handlers {
        targets.push(target(handler)?);
    }
    let filter = EnvFilter::try_from_env("HEARTH_LOG").unwrap_or_else(|_| EnvFilter::new(name(config.root)));
    // A log that is there already is another's (a test's), and stays.
    let _ = tracing_subscriber::registry().with(targets.with_filter(filter)).try_init();
    Ok(())
}

fn target(handler: &LogHandler) -> Result<Lines> {
    match &handler.target {
        LogTarget::Stdout => Ok(lines(handler, std::io::stdout, true)),
        LogTarget::Stderr | LogTarget::Syslog(_) => Ok(lines(handler, std::io::stderr, true)),
        LogTarget::File { path, .. } => {
            let file = OpenOptions::new().create(true).append(true).open(path).map_err(|e| {
                Error::fault(
                    format!("the log file {} cannot be written: check its folder and owner", path.display()),
                    e,
                )
            })?;
            Ok(lines(handler, Mutex::new(file), false))
        }
    }
}

fn lines<W>(handler: &LogHandler, writer: W, terminal: bool) -> Lines
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let level = match handler.level {
        Level::Debug => LevelFilter::TRACE,
        Level::Info => LevelFilter::INFO,
        Level::Warning => LevelFilter::WARN,
        Level::Error | Level::Critical => LevelFilter::ERROR,
    };
    let colours = terminal && std::io::IsTerminal::is_terminal(&std::io::stderr());
    match handler.format {
        LogFormat::Json { .. } => layer().json().with_writer(writer).with_filter(level).boxed(),
        LogFormat::Text(_) => layer().with_ansi(colours).with_writer(writer).with_filter(level).boxed(),
    }
}

fn name(level: Level) -> &'static str {
    match level {
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warning => "warn",
        Level::Error | Level::Critical => "error",
    }
}

/// The metrics in Prometheus' form, at `/metrics` and at Synapse's path; nothing where they are off.
///
/// # Errors
/// If something else collects metrics in this process already.
pub(super) fn metrics(enabled: bool) -> Result<Router> {
    if !enabled {
        return Ok(Router::new());
    }
    let handle = PrometheusBuilder::new().install_recorder().map_err(|e| Error::fault("metrics", e))?;
    let show = move || {
        let handle = handle.clone();
        async move { handle.render() }
    };
    Ok(Router::new().route("/metrics", get(show.clone())).route("/_synapse/metrics", get(show)))
}

pub(super) fn on_terminal() -> bool {
    true
}
