//! Logs and metrics. The log has a file of its own, read by [`LogConfig`], because it is read again while running.

mod log_config;

use std::path::{Path, PathBuf};

pub use self::log_config::{Level, LogConfig, LogFormat, LogHandler, LogTarget, Logger, Rotation, When};
use crate::{
    mistakes::{Mistakes, Notice, NoticeSort},
    read::At,
};

/// Logs and metrics.
#[derive(Clone, Debug)]
pub struct Telemetry {
    /// The file that says what is logged whither; none means INFO to stderr.
    pub log_config: Option<PathBuf>,
    /// Whether that file is missing and is to be made by [`crate::Config::make_missing`], as `generate` makes it.
    pub log_config_to_make: bool,
    /// Whether metrics are collected.
    pub metrics: bool,
    /// Whether statistics of rooms and users are kept; they are anyway.
    pub stats: bool,
}

impl Telemetry {
    pub(crate) fn read(root: &At<'_>) -> Self {
        let log = root.get("log_config");
        let log_config = log.opt_path();
        let log_config_to_make = log_config.as_ref().is_some_and(|path| {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            matches!(path.try_exists(), Ok(false)) && folder.is_dir()
        });
        if let Some(path) = log_config.as_ref().filter(|_| log_config_to_make) {
            let text = format!("log_config names {}, which is missing and is made at the start.", path.display());
            log.notice(NoticeSort::Other, text);
        }
        Self {
            log_config,
            log_config_to_make,
            metrics: root.get("enable_metrics").bool(),
            stats: root.get("stats.enabled").bool(),
        }
    }

    /// Reads the log file, at start and again on SIGHUP.
    pub fn log(&self) -> Result<(LogConfig, Vec<Notice>), Mistakes> {
        match &self.log_config {
            Some(path) if !self.log_config_to_make => LogConfig::read(path),
            _ => Ok((LogConfig::default(), Vec::new())),
        }
    }
}
