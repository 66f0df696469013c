//! Other people's servers: how they are found ([`discovery`]), how they are spoken to ([`http`]), the typed, signed calls
//! of the server-server API ([`federation`]), identity servers ([`identity`]), and pages on the web ([`preview`]).
//!
//! Nothing an answer holds is believed here or kept on disk; whom to call and when is the business of services. What
//! all calls share is [`Failure`]: whose fault it was, and whether another try is sane.

pub mod discovery;
mod failure;
pub mod federation;
pub mod http;
pub mod identity;
pub mod preview;

#[cfg(test)]
mod tests;

pub use failure::{Failure, Refusal};

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;

/// How other servers are called.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What we call ourselves in `User-Agent`.
    pub user_agent: String,
    /// Addresses that are never dialled (`ip_range_blacklist`, `federation_ip_range_blacklist`).
    pub deny: Vec<IpNet>,
    /// Addresses that are dialled all the same (`ip_range_whitelist`).
    pub allow: Vec<IpNet>,
    /// Whether certificates are checked (`federation_verify_certificates`).
    pub verify_certificates: bool,
    /// Globs of hosts whose certificates are not checked (`federation_certificate_verification_whitelist`).
    pub unverified_hosts: Vec<String>,
    /// PEM files that stand in place of the system's authorities (`federation_custom_ca_list`).
    pub custom_ca: Vec<PathBuf>,
    /// TLS 1.3 and nothing older (`federation_client_minimum_tls_version`).
    pub only_tls13: bool,
    /// One try of one call (`federation.client_timeout`).
    pub timeout: Duration,
    /// Tries after the first where somebody waits, and the longest pause between them (`federation.max_short_…`).
    pub short: (u32, Duration),
    /// Tries after the first where nobody waits (`federation.max_long_…`).
    pub long: (u32, Duration),
    /// The proxy that stands between us and the others, if there is one (`https_proxy`).
    pub proxy: Option<http::Proxy>,
    /// The port of `.well-known/matrix/server`: 443 but in tests.
    pub well_known_port: u16,
    /// The name server to ask in place of the system's; for tests.
    pub name_server: Option<SocketAddr>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            user_agent: concat!("Hearth/", env!("CARGO_PKG_VERSION")).to_owned(),
            deny: Vec::new(),
            allow: Vec::new(),
            verify_certificates: true,
            unverified_hosts: Vec::new(),
            custom_ca: Vec::new(),
            only_tls13: false,
            timeout: Duration::from_secs(60),
            short: (3, Duration::from_secs(2)),
            long: (10, Duration::from_secs(60)),
            proxy: None,
            well_known_port: 443,
            name_server: None,
        }
    }
}
