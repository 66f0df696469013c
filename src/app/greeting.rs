//! What somebody reads who starts the server in a terminal: where it listens, where its data is, how to begin.
//!
//! The link of the first account stands here and nowhere else, never in the log.

use std::path::{Path, PathBuf};

use hearth_base::Result;
use hearth_config::{Config, server::ListenerKind};
use hearth_edge::Address;

use super::{Server, cli::say};

/// Greets. `folder` is the folder of a server that was started without a configuration; others, who know where they put
/// things (`files`), hear of the first account alone.
pub(super) async fn say_hello(
    server: &Server,
    config: &Config,
    files: &[PathBuf],
    folder: Option<&Path>,
) -> Result<()> {
    let first = server.first_account().await?;
    let at = addresses(server.addresses(), config);
    if let Some(folder) = folder {
        say(&format!("\nHearth serves {} at {}", config.server.name, at.join(" and ")));
        say(&format!("Configuration and data are in {}/", folder.display()));
        if let Some(ca) = server.edge().local_ca() {
            say(&format!("Browsers trust https once they know the authority in {}", ca.display()));
        }
    }
    match first {
        Some(path) => {
            let public = (config.edge.is_some() && config.server.has_public_baseurl)
                .then(|| config.server.public_baseurl.as_str().trim_end_matches('/').to_owned());
            match public.or_else(|| at.first().cloned()) {
                Some(base) => say(&format!(
                    "Make the first account, an administrator's, here (the link works once):\n\n    {base}{path}\n"
                )),
                None => behind_a_proxy(server.addresses(), config, files, &path),
            }
        }
        None if folder.is_some() => say("Log in with any Matrix client; further accounts: hearth register-user\n"),
        None => {}
    }
    Ok(())
}

/// How the first account is made where no address of ours is one for a browser: by the proxy before a Unix socket, which
/// need not pass on what it does not know of, or on this machine.
fn behind_a_proxy(open: &[Address], config: &Config, files: &[PathBuf], path: &str) {
    let Some(socket) = open.iter().find(|address| address.socket.is_none()) else { return };
    let base = config.server.public_baseurl.as_str().trim_end_matches('/');
    say(&format!(
        "Make the first account, an administrator's, by the proxy that stands before {}; it has to pass /_hearth on, and the \
         link works once:\n\n    {base}{path}\n",
        socket.label
    ));
    if config.accounts.registration.shared_secret.is_some() {
        let files: String = files.iter().map(|file| format!(" -c {}", file.display())).collect();
        say(&format!("Or on this machine:\n\n    hearth register-user -a{files}\n"));
    }
}

/// What to type into a browser on this machine, each address once and plain HTTP first.
fn addresses(open: &[Address], config: &Config) -> Vec<String> {
    let metrics = |address: &Address| {
        config.server.listeners.iter().any(|listener| {
            listener.kind == ListenerKind::Metrics
                && matches!((&listener.socket, address.socket),
                    (hearth_config::server::Socket::Tcp { port, .. }, Some(at)) if *port == at.port())
        })
    };
    let mut all: Vec<String> = Vec::new();
    for tls in [false, true] {
        for address in open.iter().filter(|a| a.tls == tls && !metrics(a)) {
            let Some(socket) = address.socket else { continue };
            let ip = socket.ip();
            let host = if ip.is_loopback() || ip.is_unspecified() { "localhost".to_owned() } else { host(socket) };
            let url = format!("{}://{host}:{}", if tls { "https" } else { "http" }, socket.port());
            if !all.contains(&url) {
                all.push(url);
            }
        }
    }
    all
}

fn host(socket: std::net::SocketAddr) -> String {
    match socket.ip() {
        std::net::IpAddr::V4(ip) => ip.to_string(),
        std::net::IpAddr::V6(ip) => format!("[{ip}]"),
    }
}
