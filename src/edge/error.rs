//! What can keep the edge from opening, told in one sentence that names the way out.

use std::{io, path::PathBuf};

/// Why the edge could not be built, bound or reloaded. Each is a sentence for the operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another program has the port.
    #[error("{0} is in use by another program: stop that one, or choose another port for `{1}`")]
    Busy(String, String),
    /// The port needs rights we do not have.
    #[error(
        "no permission to listen on {0} (`{1}`): ports below 1024 need root or CAP_NET_BIND_SERVICE \
         (systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE)"
    )]
    Forbidden(String, String),
    /// The address is not one of this machine.
    #[error("{0} is not an address of this machine: correct the address of `{1}`")]
    NoSuchAddress(String, String),
    /// Anything else about a socket.
    #[error("cannot listen on {0} (`{1}`): {2}")]
    Listen(String, String, io::Error),
    /// A file that cannot be read or written.
    #[error("cannot {0} {1}: {2}")]
    File(&'static str, PathBuf, io::Error),
    /// A file with the wrong things in it.
    #[error("{0}: {1}")]
    Content(PathBuf, String),
    /// A setting that cannot be.
    #[error("{0}: {1}")]
    Setting(String, String),
    /// A certificate or key that could not be made.
    #[error("cannot make a certificate: {0}")]
    Making(String),
    /// Used out of order.
    #[error("{0}")]
    State(&'static str),
}

impl Error {
    /// The same of a Unix socket, which is a file.
    pub(crate) fn listen_unix(path: String, name: &str, e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::AddrInUse => Self::Busy(path, name.to_owned()),
            _ => Self::Listen(path, name.to_owned(), e),
        }
    }

    /// Sorts what the operating system said about a socket.
    pub(crate) fn listen(address: String, name: &str, e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::AddrInUse => Self::Busy(address, name.to_owned()),
            io::ErrorKind::PermissionDenied => Self::Forbidden(address, name.to_owned()),
            io::ErrorKind::AddrNotAvailable => Self::NoSuchAddress(address, name.to_owned()),
            _ => Self::Listen(address, name.to_owned(), e),
        }
    }
}
