//! Logs and metrics. The log has a file of its own, read by [`LogConfig`], because it is read again while running.

mod log_config;

use std::path::PathBuf;

pub use self::log_config::{Level, LogConfig, LogFormat, LogHandler, LogTarget, Logger, Rotation, When};
use crate::{
    mistakes::{Mistakes, Notice},
    read::At,
};

/// Logs and metrics.
#[derive(Clone, Debug)]
pub struct Telemetry {
    /// The file that says what is logged whither; none means INFO to stderr.
    pub log_config: Option<PathBuf>,
    /// Whether metrics are collected.
    pub metrics: bool,
    /// Whether statistics of rooms and users are kept; they are anyway.
    pub stats: bool,
}

impl Telemetry {
    pub(crate) fn read(root: &At<'_>) -> Self {
        Self {
            log_config: root.get("log_config").opt_path(),
            metrics: root.get("enable_metrics").bool(),
            stats: root.get("stats.enabled").bool(),
        }
    }

    /// Reads the log file, at start and again on SIGHUP.
    pub fn log(&self) -> Result<(LogConfig, Vec<Notice>), Mistakes> {
        match &self.log_config {
            Some(path) => LogConfig::read(path),
            None => Ok((LogConfig::default(), Vec::new())),
        }
    }
}
