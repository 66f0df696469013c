//! From the configuration to the end of the process: the start in an order that leaves nothing half done, readiness,
//! signals, reload, stop.
//!
//! Sockets are opened first, then missing keys are made, then the database is opened. What a first start wrote that came to
//! nothing is taken away again.

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use hearth_base::{Error, Result};
use hearth_config::{
    Config, Env, Loaded, NoticeSort,
    database::Engine,
    generate::{Plan, Written},
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use super::{
    Bound, STOP_DEADLINE, Server,
    cli::{complain, load_to_serve},
    greeting, telemetry,
};

/// The folder of a first start.
pub(super) const FIRST: &str = "hearth-data";

/// What the server is started from.
struct Sources {
    /// Configuration files, to be read again on SIGHUP.
    paths: Vec<PathBuf>,
    /// Where certificates are kept.
    data_dir: PathBuf,
    /// The folder of our own choice, when nobody named a configuration.
    folder: Option<PathBuf>,
    /// What was written just now.
    written: Written,
    /// Whether the folder was made just now.
    is_new: bool,
}

/// Serves by these configuration files; without any by those that the environment names, or by `hearth-data/`, which is
/// made if need be.
pub(super) fn run(mut paths: Vec<PathBuf>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            complain(&format!("the threads of the server cannot be started: {e}"));
            return ExitCode::FAILURE;
        }
    };
    {
        let _inside = runtime.enter();
        // A file that may not grow (`LimitFSIZE=`) is an error to whoever writes it, as a full disk is, and not our end.
        let _ = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()));
    }
    let (mut folder, mut written, mut is_new) = (None, Written::default(), false);
    if paths.is_empty() && !is_in_environment() {
        let dir = PathBuf::from(FIRST);
        is_new = !dir.exists();
        match Plan::first_start(&dir).and_then(|plan| plan.write(&mut rand::rng())) {
            Ok(done) => written = done,
            Err(e) => {
                if is_new {
                    let _ = fs::remove_dir(&dir);
                }
                let way_out = match e.is_full() {
                    true => "make room there",
                    false => "start in a folder where this user may write, or name a configuration by -c",
                };
                complain(&format!("{FIRST}/ cannot be made: {e}; {way_out}"));
                return ExitCode::FAILURE;
            }
        }
        paths = vec![dir.join("homeserver.yaml")];
        folder = Some(dir);
    }
    let Some(loaded) = load_to_serve(&paths) else { return ExitCode::FAILURE };
    if let Err(why) = log(&loaded) {
        complain(&why);
        return ExitCode::FAILURE;
    }
    let config = loaded.config;
    raise_file_limit(config.server.soft_file_limit);
    let data_dir = folder.clone().unwrap_or_else(|| data_dir_of(&config));
    let code = runtime.block_on(serve(config, Sources { paths, data_dir, folder, written, is_new }));
    // Work that does not end by itself is not waited for: the stop had its deadline.
    runtime.shutdown_timeout(Duration::from_millis(500));
    code
}

/// Each connection is an open file. 0 asks for as many as there may be.
fn raise_file_limit(wanted: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let current = match (wanted, now.maximum) {
        (0, most) => most,
        (wanted, Some(most)) => Some(wanted.min(most)),
        (wanted, None) => Some(wanted),
    };
    if current != now.current
        && let Err(e) = setrlimit(Resource::Nofile, Rlimit { current, maximum: now.maximum })
    {
        warn!("soft_file_limit: the limit of open files cannot be changed: {e}");
    }
    if wanted > 0 && current.is_some_and(|current| current < wanted) {
        warn!("soft_file_limit is {wanted}, and the system allows {} open files", current.unwrap_or_default());
    }
}

/// The configuration files that are meant: as named, else none where the environment names them, else those of a first
/// start if they are there.
pub(super) fn usual(named: Vec<PathBuf>) -> Vec<PathBuf> {
    let first = PathBuf::from(FIRST).join("homeserver.yaml");
    if named.is_empty() && !is_in_environment() && first.exists() { vec![first] } else { named }
}

/// Whether the environment names a configuration.
pub(super) fn is_in_environment() -> bool {
    let env = Env::of_process();
    env.get("SYNAPSE_CONFIG_PATH").is_some() || env.get("SYNAPSE_CONFIG_DIR").is_some()
}

/// Where certificates and ACME accounts are kept (in a folder `edge`): beside the signing key, which every installation
/// keeps safe. Where that stands among read-only configuration, as in `/etc`, beside the database or the media. What was
/// found once is found again by its folder.
pub(super) fn data_dir_of(config: &Config) -> PathBuf {
    let mut files = vec![config.federation.signing_key_path.clone()];
    if let Engine::Sqlite { path } = &config.database.main {
        files.push(path.clone());
    }
    files.push(config.media.store_path.clone());
    data_dir_beside(&files)
}

/// The same by the files that such a folder may be beside.
pub(super) fn data_dir_beside(files: &[PathBuf]) -> PathBuf {
    let folder = |file: &PathBuf| match file.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
        _ => PathBuf::from("."),
    };
    let folders: Vec<PathBuf> = files.iter().map(folder).collect();
    let writable = |dir: &&PathBuf| rustix::fs::access(*dir, rustix::fs::Access::WRITE_OK).is_ok();
    let used = folders.iter().find(|dir| dir.join("edge").is_dir());
    used.or_else(|| folders.iter().find(writable)).or(folders.first()).cloned().unwrap_or_default()
}

fn log(loaded: &Loaded) -> std::result::Result<(), String> {
    let (config, notices) = loaded.config.telemetry.log().map_err(|mistakes| mistakes.to_string())?;
    telemetry::log(&config).map_err(|e| sentence(&e))?;
    for notice in loaded.notices.iter().chain(&notices) {
        match notice.sort {
            NoticeSort::Warning => warn!("{notice}"),
            _ => info!("{notice}"),
        }
    }
    Ok(())
}

/// Opens, in the order that leaves nothing half done.
async fn open(config: &mut Config, sources: &Sources) -> Result<Server> {
    let bound = Bound::open(config, sources.data_dir.clone()).inspect_err(|_| undo(sources))?;
    // The sockets are ours, so there is nobody else who would use a folder that was not there before.
    let mut begun = Begun { folder: sources.folder.as_ref().filter(|_| sources.is_new) };
    let server = go_on(bound, config).await?;
    begun.folder = None;
    Ok(server)
}

async fn go_on(bound: Bound, config: &mut Config) -> Result<Server> {
    config.make_missing(&mut rand::rng()).map_err(|mistakes| Error::broken(mistakes.to_string()))?;
    let metrics = telemetry::metrics(config.telemetry.metrics, &bound.supervisor)?;
    bound.start(config, metrics).await
}

/// Takes away what a first start wrote before it had its sockets.
fn undo(sources: &Sources) {
    sources.written.undo();
    if let Some(folder) = sources.folder.as_ref().filter(|_| sources.is_new) {
        let _ = fs::remove_dir_all(folder.join("edge"));
        // Only if there is nothing else in it.
        let _ = fs::remove_dir(folder);
    }
}

/// A first start under way. One that comes to nothing, or is told to stop, leaves no folder.
struct Begun<'a> {
    folder: Option<&'a PathBuf>,
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if let Some(folder) = self.folder {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// Serves until SIGTERM or SIGINT; a second one does not wait for what is under way. SIGHUP reads certificates, log
/// configuration and the static parts of the configuration again.
async fn serve(mut config: Config, sources: Sources) -> ExitCode {
    // A signal may come before all is open: to wait for a database is no reason to be deaf.
    let (Ok(mut stop), Ok(mut hup)) = (Stop::listen(), signal(SignalKind::hangup())) else {
        error!("hearth cannot listen for signals");
        return ExitCode::FAILURE;
    };
    let opened = tokio::select! {
        opened = open(&mut config, &sources) => opened,
        () = stop.asked() => {
            info!("stopped before the start was over");
            return ExitCode::SUCCESS;
        }
    };
    let server = match opened {
        Ok(server) => server,
        Err(e) => {
            let why = format!("cannot start: {}", sentence(&e));
            // Whoever reads the log only is told as well.
            if !telemetry::on_terminal() {
                error!("{why}");
            }
            complain(&why);
            return ExitCode::FAILURE;
        }
    };
    if let Some(path) = &config.server.pid_file
        && let Err(e) = fs::write(path, format!("{}\n", std::process::id()))
    {
        warn!("pid_file {} cannot be written: {e}", path.display());
    }
    for address in server.addresses() {
        info!(listener = %address.listener, tls = address.tls, "listening on {}", address.label);
    }
    if let Err(e) = greeting::say_hello(&server, &config, &sources.paths, sources.folder.as_deref()).await {
        warn!("whether there is an account cannot be told: {e}");
    }
    // Fails where no service manager waits for it, which is no fault.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let code = loop {
        tokio::select! {
            () = stop.asked() => break ExitCode::SUCCESS,
            // What we remember is worth nothing any more; whoever starts us again has us begin with what is there.
            why = server.services.store.lost() => {
                error!("ending, to be started again: {why}");
                break ExitCode::FAILURE;
            }
            _ = hup.recv() => reload(&server, &sources),
        }
    };
    info!("stopping");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    let clean = tokio::select! {
        clean = server.stop(STOP_DEADLINE) => Some(clean),
        () = stop.asked() => None,
    };
    if let Some(path) = &config.server.pid_file {
        let _ = fs::remove_file(path);
    }
    match clean {
        Some(true) => info!("stopped"),
        Some(false) => warn!("stopped; some requests did not end in time"),
        None => {
            warn!("stopped at the second signal; requests under way were cut off");
            return ExitCode::FAILURE;
        }
    }
    code
}

/// SIGTERM and SIGINT.
struct Stop {
    term: Signal,
    int: Signal,
}

impl Stop {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one.
    async fn asked(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

fn reload(server: &Server, sources: &Sources) {
    match Config::load(&sources.paths, Env::of_process()) {
        Ok(loaded) => {
            match loaded.config.telemetry.log() {
                _ if loaded.config.telemetry.log_config_to_make => {
                    warn!("log_config is missing; the old log configuration stays in force");
                }
                Ok((log, notices)) => match telemetry::log(&log) {
                    Ok(()) => {
                        notices.iter().for_each(|notice| info!("{notice}"));
                        info!("log configuration read again");
                    }
                    Err(e) => warn!("the old log configuration stays in force: {}", sentence(&e)),
                },
                Err(mistakes) => warn!("the old log configuration stays in force:\n{mistakes}"),
            }
            match server.reload(&loaded.config, sources.data_dir.clone()) {
                // The edge has said that it did.
                Ok(()) => {}
                Err(e) => warn!("the old configuration stays in force: {}", sentence(&e)),
            }
        }
        Err(mistakes) => warn!("the old configuration stays in force:\n{mistakes}"),
    }
}

/// An error as the operator is told: what and why, without the place in the code.
pub(super) fn sentence(e: &Error) -> String {
    match e {
        Error::Told(told) => told.error.to_string(),
        Error::Fault(fault) => {
            let mut text = fault.what.to_string();
            let mut cause = fault.cause.as_deref().map(|c| c as &dyn std::error::Error);
            while let Some(c) = cause {
                // A cause often repeats the next one's words.
                let said = c.downcast_ref().map_or_else(|| c.to_string(), sentence);
                if !text.contains(&said) {
                    text = format!("{text}: {said}");
                }
                cause = c.source();
            }
            text
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn certificates_are_kept_where_one_may_write() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("etc")).unwrap();
        fs::write(at("etc/signing.key"), "ed25519 a_1 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n").unwrap();
        fs::create_dir(at("lib")).unwrap();
        let yaml = format!(
            "server_name: a.test\nreport_stats: false\nsigning_key_path: {0}/etc/signing.key\nmedia_store_path: {0}/lib/media\n\
             database: {{ name: psycopg2, args: {{ database: x }} }}\n",
            dir.path().display()
        );
        fs::write(at("homeserver.yaml"), yaml).unwrap();
        let mut config = Config::load(&[at("homeserver.yaml")], Env::default()).unwrap().config;
        assert_eq!(data_dir_of(&config), at("etc"));
        fs::create_dir(at("lib/edge")).unwrap();
        assert_eq!(data_dir_of(&config), at("lib"), "what was made there is found there");
        fs::remove_dir(at("lib/edge")).unwrap();
        // Rights do not bind root; what is not there cannot be written by anybody.
        config.federation.signing_key_path = at("gone/signing.key");
        assert_eq!(data_dir_of(&config), at("lib"));
        config.federation.signing_key_path = "signing.key".into();
        assert_eq!(data_dir_of(&config), PathBuf::from("."));
    }
}
