//! From start to stop: signals, readiness, reload.

use std::{path::PathBuf, process::ExitCode};

use hearth_config::{Config, Env};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use super::{STOP_DEADLINE, Server, telemetry};

/// Serves until SIGTERM or SIGINT. SIGHUP reads certificates and the static parts of the configuration again.
pub(super) async fn serve(
    config: Config,
    paths: Vec<PathBuf>,
    data_dir: PathBuf,
    greet: impl FnOnce(&Server),
) -> ExitCode {
    let started = match telemetry::metrics(config.telemetry.metrics) {
        Ok(metrics) => Server::start(&config, data_dir.clone(), metrics).await,
        Err(e) => Err(e),
    };
    let server = match started {
        Ok(server) => server,
        Err(e) => {
            error!("hearth cannot start: {e}");
            return ExitCode::FAILURE;
        }
    };
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()));
    let (Ok(mut term), Ok(mut int), Ok(mut hup)) = signals else {
        error!("hearth cannot listen for signals");
        return ExitCode::FAILURE;
    };
    if let Some(path) = &config.server.pid_file
        && let Err(e) = std::fs::write(path, format!("{}\n", std::process::id()))
    {
        warn!("pid_file {} cannot be written: {e}", path.display());
    }
    for address in server.addresses() {
        info!(listener = %address.listener, tls = address.tls, "listening on {}", address.label);
    }
    greet(&server);
    // Fails where no service manager waits for it, which is no fault.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let code = loop {
        tokio::select! {
            _ = term.recv() => break ExitCode::SUCCESS,
            _ = int.recv() => break ExitCode::SUCCESS,
            // What we remember is worth nothing any more; whoever starts us again has us begin with what is there.
            why = server.services.store.lost() => {
                error!("ending, to be started again: {why}");
                break ExitCode::FAILURE;
            }
            _ = hup.recv() => reload(&server, &paths, &data_dir),
        }
    };
    info!("stopping");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    let clean = server.stop(STOP_DEADLINE).await;
    if let Some(path) = &config.server.pid_file {
        let _ = std::fs::remove_file(path);
    }
    if clean {
        info!("stopped");
    } else {
        warn!("stopped; some requests did not end in time");
    }
    code
}

fn reload(server: &Server, paths: &[PathBuf], data_dir: &std::path::Path) {
    match Config::load(paths, Env::of_process()) {
        Ok(loaded) => match server.reload(&loaded.config, data_dir.to_owned()) {
            Ok(()) => info!("certificates and static configuration read again"),
            Err(e) => warn!("the old configuration stays in force: {e}"),
        },
        Err(mistakes) => warn!("the old configuration stays in force:\n{mistakes}"),
    }
}
