//! From where a request came, as the edge established it; travels as an extension of the in-process request.

use std::{net::IpAddr, sync::Arc};

/// The other end of a connection, after trusted proxies were believed.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The caller's address; 127.0.0.1 for a Unix socket without forwarding headers.
    pub ip: IpAddr,
    /// Whether the caller speaks TLS to us or, as a trusted proxy says, to it.
    pub tls: bool,
    /// Name of the listener, for logs and metrics.
    pub listener: Arc<str>,
}
