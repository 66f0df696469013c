//! The sockets that `listeners` asks for, each with what is served on it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use crate::{mistakes::NoticeSort, read::At};

/// A socket and what is served on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where it stands in the file, as `listeners[0]`.
    pub key: String,
    /// Where it listens.
    pub socket: Socket,
    /// What speaks on it.
    pub kind: ListenerKind,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Whether a proxy stands before it whose `X-Forwarded-For` and `-Proto` are to be believed.
    pub x_forwarded: bool,
    /// The header that carries an id for the log, if the proxy sets one.
    pub request_id_header: Option<String>,
    /// Its name in the log; the port or path when absent.
    pub tag: Option<String>,
    /// What is served.
    pub resources: Vec<Resources>,
}

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Socket {
    /// TCP, on each of the addresses.
    Tcp {
        /// The port.
        port: u16,
        /// The addresses; never empty.
        addresses: Vec<IpAddr>,
    },
    /// A Unix socket.
    Unix {
        /// Its path.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
}

/// What speaks on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerKind {
    /// The APIs of its resources.
    Http,
    /// Metrics alone.
    Metrics,
}

/// A group of APIs on a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Which ones.
    pub names: Vec<Resource>,
    /// Whether answers may be compressed.
    pub compress: bool,
}

/// One API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// `/_matrix/client`, `/_synapse/admin`, `/_synapse/client`, `/.well-known`, and media and static with them.
    Client,
    /// The page where users agree to the policy.
    Consent,
    /// `/_matrix/federation`, and keys and media with it.
    Federation,
    /// `/_matrix/key`.
    Keys,
    /// `/_matrix/media`.
    Media,
    /// `/_synapse/metrics`.
    Metrics,
    /// `/_matrix/federation/v1/openid` alone.
    OpenId,
    /// The built-in pages.
    Static,
    /// `/health`, which is on every listener anyway.
    Health,
}

const KINDS: &[(&str, Option<ListenerKind>)] =
    &[("http", Some(ListenerKind::Http)), ("metrics", Some(ListenerKind::Metrics)), ("manhole", None)];

const RESOURCES: &[(&str, Option<Resource>)] = &[
    ("client", Some(Resource::Client)),
    ("consent", Some(Resource::Consent)),
    ("federation", Some(Resource::Federation)),
    ("keys", Some(Resource::Keys)),
    ("media", Some(Resource::Media)),
    ("metrics", Some(Resource::Metrics)),
    ("openid", Some(Resource::OpenId)),
    ("static", Some(Resource::Static)),
    ("health", Some(Resource::Health)),
    ("replication", None),
];

/// All listeners that are opened.
pub(crate) fn read(root: &At<'_>) -> Vec<Listener> {
    let listeners = root.get("listeners").each(listener);
    let edge = root.get("edge").is_set();
    if root.get("listeners").is_set() && root.get("listeners").items().is_empty() && !edge {
        let text = "listeners is empty and there is no section edge: nobody can reach the server.".to_owned();
        root.get("listeners").notice(NoticeSort::Other, text);
    }
    let files = root.get("tls_certificate_path").is_set() && root.get("tls_private_key_path").is_set();
    if !edge && !files {
        for at in root.get("listeners").items().iter().map(|at| at.get("tls")).filter(|at| at.is_set() && at.bool()) {
            at.wrong(
                "asks for TLS, and there is no certificate",
                "set tls_certificate_path and tls_private_key_path, or have one obtained by the edge section",
            );
        }
    }
    if root.get("user_consent").entries().is_empty() {
        for at in root.get("listeners").items().iter().flat_map(|at| at.get("resources").items()) {
            for name in at.get("names").items().iter().filter(|name| name.opt_str().as_deref() == Some("consent")) {
                name.wrong(
                    "needs the section user_consent, which is absent",
                    "add that section, or remove the resource",
                );
            }
        }
    }
    listeners
}

fn listener(at: &At<'_>) -> Option<Listener> {
    let kind = at.get("type").word(KINDS)?;
    let Some(kind) = kind else {
        let text = format!("{} is not opened: there is no debug shell into the running process.", at.path());
        at.notice(NoticeSort::NoEffect, text);
        return None;
    };
    let resources = at.get("resources").each(|at| {
        let names = at.get("names").each(|name| {
            let resource = name.word(RESOURCES)?;
            if resource.is_none() {
                let text = format!("{} is not served: Hearth is one process.", name.path());
                name.notice(NoticeSort::NoEffect, text);
            }
            resource
        });
        Some(Resources { names, compress: at.get("compress").bool() })
    });
    Some(Listener {
        key: at.path().to_owned(),
        socket: socket(at, kind)?,
        kind,
        tls: at.get("tls").bool(),
        // Before a Unix socket there is nobody but a proxy.
        x_forwarded: at.get("x_forwarded").opt_bool().unwrap_or(at.get("path").is_set()),
        request_id_header: at.get("request_id_header").opt_str(),
        tag: at.get("tag").opt_str(),
        resources,
    })
}

fn socket(at: &At<'_>, kind: ListenerKind) -> Option<Socket> {
    let (port, path) = (at.get("port"), at.get("path"));
    match (port.is_set(), path.is_set()) {
        (true, true) => {
            path.wrong("stands beside a port", "a listener has a port or a path: make two of it");
            None
        }
        (false, false) => {
            at.wrong("has neither a port nor a path", "add port: 8008");
            None
        }
        (true, false) => {
            let number: u16 = port.int();
            if number == 0 {
                port.wrong("must be a port", "choose a number from 1 to 65535");
                return None;
            }
            Some(Socket::Tcp { port: number, addresses: addresses(at, kind) })
        }
        (false, true) => Some(Socket::Unix { path: path.path_buf(), mode: mode(&at.get("mode")) }),
    }
}

fn addresses(at: &At<'_>, kind: ListenerKind) -> Vec<IpAddr> {
    let (list, single) = (at.get("bind_addresses"), at.get("bind_address"));
    let single = single.opt_str().filter(|text| !text.is_empty()).map(|_| single);
    let mut all: Vec<IpAddr> = list.items().iter().chain(&single).flat_map(address).collect();
    if all.is_empty() {
        all = match kind {
            ListenerKind::Http => vec![Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()],
            ListenerKind::Metrics => vec![Ipv4Addr::UNSPECIFIED.into()],
        };
    }
    all
}

fn address(at: &At<'_>) -> Vec<IpAddr> {
    let text = at.str();
    match text.as_str() {
        "" | "*" => vec![Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()],
        "localhost" => vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()],
        text => match text.trim_start_matches('[').trim_end_matches(']').parse() {
            Ok(address) => vec![address],
            Err(_) => {
                at.wrong("must be an IP address of this machine", "write 127.0.0.1, ::1, 0.0.0.0 or ::");
                Vec::new()
            }
        },
    }
}

/// Permissions are written in octal digits, with or without the zero that makes YAML read them as octal.
fn mode(at: &At<'_>) -> u32 {
    let Some(node) = at.node() else { return 0o666 };
    let digits = node.raw.trim_start_matches("0o");
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if mode <= 0o777 => mode,
        _ => {
            at.wrong("must be permissions in octal digits", "write it as 660");
            0
        }
    }
}
