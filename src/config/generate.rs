//! Writes what a server needs to start: `homeserver.yaml`, log file, signing key, secrets that have a file of their own.
//!
//! Three occasions: `generate`, in the manner of Synapse's container image; the first start without any configuration;
//! and a configuration that names files of these kinds which are missing. The sample under `conf/` comes from here too.

mod text;

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use rand::{CryptoRng, Rng};
use ruma::OwnedServerName;

use crate::{
    Config,
    env::Env,
    federation::SigningKey,
    files::create,
    mistakes::{Mistake, Mistakes},
    secret::Secret,
};

/// What `generate` is told.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Domain part of all ids.
    pub server_name: OwnedServerName,
    /// Where the files go.
    pub config_dir: PathBuf,
    /// The main file; `homeserver.yaml` in [`Self::config_dir`] unless told otherwise.
    pub config_path: PathBuf,
    /// Where database and media are to be.
    pub data_dir: PathBuf,
    /// Port of plain HTTP.
    pub http_port: u16,
    /// Level of the log.
    pub log_level: String,
    /// Whether the log shows SQL, and with it secrets.
    pub log_sql: bool,
    /// Whether metrics are on, on port 19090.
    pub metrics: bool,
    /// Whether registration is open without verification.
    pub open_registration: bool,
    /// Whether plain HTTP is open on all addresses: in a container its port is published to the outside by hand.
    pub open_private_ports: bool,
    /// Whether this is a first start on somebody's own machine: loopback only, with TLS on 8448.
    pub loopback: bool,
}

/// What was written, and what was there already and left alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// New files.
    pub made: Vec<PathBuf>,
    /// Files that were there.
    pub kept: Vec<PathBuf>,
}

/// Why nothing could be generated.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// A value that is needed is absent or cannot be understood.
    #[error("{0}")]
    Plan(String),
    /// A file or directory could not be written.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl GenerateError {
    /// Whether the disk is to blame.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Io { error, .. } if is_full(error))
    }
}

/// Whether there is no room for a file, or it may not grow.
fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | FileTooLarge | QuotaExceeded)
}

impl Plan {
    /// By the variables of Synapse's container image: `SYNAPSE_SERVER_NAME` and `SYNAPSE_REPORT_STATS`, which must be
    /// set, `SYNAPSE_CONFIG_DIR` (that of `SYNAPSE_CONFIG_PATH`, or `/data`), `SYNAPSE_DATA_DIR` (`/data`),
    /// `SYNAPSE_CONFIG_PATH`, `SYNAPSE_HTTP_PORT` (8008),
    /// `SYNAPSE_LOG_LEVEL`, `SYNAPSE_LOG_SENSITIVE`, `SYNAPSE_ENABLE_METRICS`, `SYNAPSE_ENABLE_REGISTRATION`.
    pub fn from_env(env: &Env) -> Result<Self, GenerateError> {
        let missing = |name: &str, what: &str| GenerateError::Plan(format!("{name} must be set: {what}"));
        let name = env
            .get("SYNAPSE_SERVER_NAME")
            .ok_or_else(|| missing("SYNAPSE_SERVER_NAME", "the domain of the ids (or --server-name)"))?;
        match env.get("SYNAPSE_REPORT_STATS") {
            Some("yes" | "no") => {}
            _ => {
                return Err(missing(
                    "SYNAPSE_REPORT_STATS",
                    "yes or no (or --report-stats); nothing is reported either way",
                ));
            }
        }
        let dir = |name: &str| env.get(name).map(PathBuf::from);
        let image = || PathBuf::from("/data");
        let config_path = env.get("SYNAPSE_CONFIG_PATH").map(PathBuf::from);
        // The key goes where the file goes, if only that is named.
        let beside = config_path.as_deref().map(|path| match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
            _ => PathBuf::from("."),
        });
        let config_dir = dir("SYNAPSE_CONFIG_DIR").or(beside).unwrap_or_else(image);
        let mut plan = Self::new(name, &config_dir, &dir("SYNAPSE_DATA_DIR").unwrap_or_else(image))?;
        if let Some(path) = config_path {
            plan.config_path = path;
        }
        if let Some(port) = env.get("SYNAPSE_HTTP_PORT") {
            plan.http_port = port
                .parse()
                .map_err(|_| GenerateError::Plan(format!("SYNAPSE_HTTP_PORT is {port:?}, which is no port")))?;
        }
        if let Some(level) = env.get("SYNAPSE_LOG_LEVEL") {
            plan.log_level = level.to_uppercase();
            if !matches!(plan.log_level.as_str(), "DEBUG" | "INFO" | "WARNING" | "ERROR" | "CRITICAL") {
                return Err(GenerateError::Plan(format!("SYNAPSE_LOG_LEVEL is {level:?}, which is no level")));
            }
        }
        let on = |name: &str| env.get(name).is_some_and(|value| matches!(value, "1" | "yes" | "true" | "on"));
        plan.log_sql = on("SYNAPSE_LOG_SENSITIVE");
        plan.metrics = on("SYNAPSE_ENABLE_METRICS");
        plan.open_registration = on("SYNAPSE_ENABLE_REGISTRATION");
        Ok(plan)
    }

    /// A plan with the defaults of `generate`.
    pub fn new(server_name: &str, config_dir: &Path, data_dir: &Path) -> Result<Self, GenerateError> {
        let server_name = server_name
            .parse()
            .map_err(|error| GenerateError::Plan(format!("{server_name:?} cannot be a server name: {error}")))?;
        Ok(Self {
            server_name,
            config_dir: config_dir.to_owned(),
            config_path: config_dir.join("homeserver.yaml"),
            data_dir: data_dir.to_owned(),
            http_port: 8008,
            log_level: "INFO".to_owned(),
            log_sql: false,
            metrics: false,
            open_registration: false,
            open_private_ports: data_dir == Path::new("/data"),
            loopback: false,
        })
    }

    /// The plan of a first start without any configuration: everything in one directory, server name `localhost`,
    /// SQLite, plain HTTP on 8008 and TLS on 8448, both on loopback.
    pub fn first_start(dir: &Path) -> Result<Self, GenerateError> {
        Ok(Self { loopback: true, ..Self::new("localhost", dir, dir)? })
    }

    /// Writes configuration, log file and signing key; what exists is left as it is. The configuration names its files by
    /// whole paths, so that it means the same wherever the server is started. If one cannot be written, the others go again.
    pub fn write(&self, rng: &mut (impl Rng + CryptoRng)) -> Result<Written, GenerateError> {
        let mut written = Written::default();
        match self.write_all(rng, &mut written) {
            Ok(()) => Ok(written),
            Err(e) => {
                written.undo();
                Err(e)
            }
        }
    }

    fn write_all(&self, rng: &mut (impl Rng + CryptoRng), written: &mut Written) -> Result<(), GenerateError> {
        for dir in [&self.config_dir, &self.data_dir] {
            // What is in them concerns nobody else on this machine.
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
            made.map_err(|error| GenerateError::Io { path: dir.clone(), error })?;
        }
        let name = &self.server_name;
        let secrets = Secrets::generate(rng);
        // The key first: a configuration without its key would look finished.
        let key = SigningKey::generate(rng);
        written.file(&self.signing_key_path(), |path| key.create(path))?;
        if !self.loopback {
            let log = text::log_config(&self.log_level, self.log_sql);
            written.file(&self.log_config_path(), |path| create(path, &log, 0o644))?;
        }
        let whole =
            |path: &PathBuf| std::path::absolute(path).map_err(|error| GenerateError::Io { path: path.clone(), error });
        let (config_dir, data_dir) = (whole(&self.config_dir)?, whole(&self.data_dir)?);
        let config = text::homeserver(&Self { config_dir, data_dir, ..self.clone() }, &secrets);
        written.file(&self.config_path, |path| create(path, &config, 0o600))?;
        tracing::debug!(server = %name, made = ?written.made, "wrote a configuration");
        Ok(())
    }

    fn signing_key_path(&self) -> PathBuf {
        self.config_dir.join(format!("{}.signing.key", self.server_name))
    }

    fn log_config_path(&self) -> PathBuf {
        self.config_dir.join(format!("{}.log.config", self.server_name))
    }
}

/// The commented sample, with placeholders in place of secrets.
#[must_use]
pub fn sample() -> String {
    match Plan::new("my.domain.example", Path::new("/data"), Path::new("/data")) {
        Ok(plan) => text::homeserver(&plan, &Secrets::placeholders()),
        Err(error) => error.to_string(),
    }
}

/// The secrets of a new configuration.
pub(crate) struct Secrets {
    registration: String,
    macaroon: String,
    /// What stands before their lines: `#` in the sample, so that nobody starts with a secret that all the world knows.
    lead: &'static str,
}

impl Secrets {
    fn generate(rng: &mut (impl Rng + CryptoRng)) -> Self {
        let mut one = || random_secret(rng);
        Self { registration: one(), macaroon: one(), lead: "" }
    }

    fn placeholders() -> Self {
        let one = || "a long random text".to_owned();
        Self { registration: one(), macaroon: one(), lead: "#" }
    }
}

/// 43 letters and digits: 256 bits, and nothing that YAML or a shell would take for a sign.
fn random_secret(rng: &mut (impl Rng + CryptoRng)) -> String {
    (0..43).map(|_| char::from(rng.sample(rand::distr::Alphanumeric))).collect()
}

impl Written {
    /// Takes away what was made.
    pub fn undo(&self) {
        for file in &self.made {
            // What is gone is gone; what stays is taken for what it is by the next who writes.
            let _ = fs::remove_file(file);
        }
    }

    fn file(&mut self, path: &Path, create: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), GenerateError> {
        match create(path) {
            Ok(()) => self.made.push(path.to_owned()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.kept.push(path.to_owned()),
            Err(error) => return Err(GenerateError::Io { path: path.to_owned(), error }),
        }
        Ok(())
    }
}

impl Config {
    /// Makes the signing key, the log file and the file of the registration secret, where the configuration names them and
    /// they are missing, and takes them over. Answers with the files that were made.
    pub fn make_missing(&mut self, rng: &mut (impl Rng + CryptoRng)) -> Result<Vec<PathBuf>, Mistakes> {
        let mut made = Vec::new();
        let mut mistakes = Vec::new();
        let fault = |key: &str, path: &Path, error: &io::Error| {
            let way_out = match is_full(error) {
                true => "make room there",
                false => "make its directory, and let this user write there",
            };
            Mistake::new(key, format!("names {}, which is missing and cannot be made: {error}", path.display()))
                .way_out(way_out)
        };
        if self.federation.signing_key_to_make {
            let path = &self.federation.signing_key_path;
            let key = SigningKey::generate(rng);
            match key.create(path) {
                Ok(()) => {
                    made.push(path.clone());
                    self.federation.signing_keys = vec![key];
                    self.federation.signing_key_to_make = false;
                }
                Err(error) => mistakes.push(fault("signing_key_path", path, &error)),
            }
        }
        if let Some(path) = self.telemetry.log_config.as_ref().filter(|_| self.telemetry.log_config_to_make) {
            match create(path, &text::log_config("INFO", false), 0o644) {
                Ok(()) => made.push(path.clone()),
                Err(error) => mistakes.push(fault("log_config", path, &error)),
            }
            self.telemetry.log_config_to_make = false;
        }
        let registration = &mut self.accounts.registration;
        if let Some(path) = registration.shared_secret_to_make.take() {
            let secret = random_secret(rng);
            match create(&path, &format!("{secret}\n"), 0o600) {
                Ok(()) => {
                    made.push(path);
                    registration.shared_secret = Some(Secret::new(secret));
                }
                Err(error) => mistakes.push(fault("registration_shared_secret_path", &path, &error)),
            }
        }
        if mistakes.is_empty() { Ok(made) } else { Err(Mistakes(mistakes)) }
    }
}
