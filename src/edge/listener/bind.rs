//! Opens the sockets of a listener, before anything else is started.

use std::{
    fs,
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
    os::{
        fd::{IntoRawFd, OwnedFd},
        unix::{
            fs::FileTypeExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use pingora_core::{
    listeners::ListenerConfig, protocols::l4::stream::L4BufferSettings, server::Fds, services::listening::Service,
};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tracing::warn;

use super::{Door, Planned, connection::DoorApp};
use crate::{Error, Shared, settings::Place};

/// An open socket with the listener it belongs to.
pub(crate) struct Bound {
    pub door: Arc<Door>,
    /// Where it listens in fact; a Unix socket has none.
    pub address: Option<SocketAddr>,
    /// How it is called in logs, and in Pingora's table of sockets.
    pub label: String,
    socket: OwnedFd,
    unix: Option<UnixName>,
}

/// The name of a Unix socket. Goes from the disk with the socket, unless it is served.
struct UnixName {
    path: PathBuf,
    mode: u32,
    served: bool,
}

impl Drop for UnixName {
    fn drop(&mut self) {
        if !self.served {
            // What is gone is gone; what cannot be removed is replaced at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// How many connections the kernel may hold that we have not accepted yet.
const BACKLOG: i32 = 4096;

/// How long a connection may be silent before the kernel asks whether the other side is still there, and how often.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// A TLS record is at most 16 KiB: read one whole with one system call.
const TLS_READ_BUFFER: usize = 16 * 1024;

/// Opens all sockets of a listener.
///
/// # Errors
/// A sentence naming the address and the way out, when one cannot be opened.
pub(crate) fn open(planned: &Planned) -> Result<Vec<Bound>, Error> {
    let name = &planned.door.name;
    let door = || planned.door.clone();
    match &planned.place {
        Place::Unix(path, mode) => {
            let socket = open_unix(path, *mode).map_err(|e| Error::listen_unix(path.display().to_string(), name, e))?;
            let label = path.display().to_string();
            let unix = Some(UnixName { path: path.clone(), mode: *mode, served: false });
            Ok(vec![Bound { door: door(), address: None, label, socket, unix }])
        }
        Place::Tcp(sockets) => {
            let mut out = Vec::new();
            for address in sockets {
                // `::` beside `0.0.0.0` must leave IPv4 to the other one.
                let v6_only = sockets.iter().any(SocketAddr::is_ipv4);
                let socket = match open_tcp(*address, v6_only) {
                    Err(e) if no_ipv6(&e, *address) && sockets.len() > 1 => {
                        warn!(listener = %name, %address, "this machine has no IPv6, listening without");
                        continue;
                    }
                    other => other.map_err(|e| Error::listen(address.to_string(), name, e))?,
                };
                let bound = socket.local_addr().ok().and_then(|a| a.as_socket()).unwrap_or(*address);
                let socket = OwnedFd::from(socket);
                out.push(Bound { door: door(), address: Some(bound), label: bound.to_string(), socket, unix: None });
            }
            Ok(out)
        }
    }
}

fn no_ipv6(e: &io::Error, address: SocketAddr) -> bool {
    address.is_ipv6() && (e.kind() == ErrorKind::AddrNotAvailable || e.raw_os_error() == Some(libc::EAFNOSUPPORT))
}

fn open_tcp(address: SocketAddr, v6_only: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if matches!(address.ip(), IpAddr::V6(_)) {
        socket.set_only_v6(v6_only)?;
    }
    // Only frees ports that linger after a stop; a listening program still keeps its port.
    socket.set_reuse_address(true)?;
    // For the connections accepted here: a client that has gone without a word must not hold a WebSocket for ever.
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE))?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn open_unix(path: &Path, mode: u32) -> io::Result<OwnedFd> {
    // A socket that nobody answers on was left behind; one that is answered belongs to somebody. What is no socket is
    // none of ours, whatever `connect` says of it.
    if fs::metadata(path).is_ok_and(|there| !there.file_type().is_socket()) {
        return Err(io::Error::other("there is something else there already; name another path"));
    }
    match UnixStream::connect(path) {
        Ok(_) => return Err(ErrorKind::AddrInUse.into()),
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path)?,
        Err(_) => {}
    }
    let socket = UnixListener::bind(path)?;
    socket.set_nonblocking(true)?;
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
    Ok(socket.into())
}

/// Makes Pingora's service for a socket, and hands the socket over.
pub(crate) fn service(bound: Bound, shared: &Arc<Shared>, sockets: &mut Fds) -> Service<DoorApp> {
    let Bound { door, label, socket, mut unix, .. } = bound;
    // Hyper has buffers of its own and flushes after each write; under TLS, records are read in larger pieces.
    let buffers = match door.tls {
        true => L4BufferSettings::new(TLS_READ_BUFFER, 0),
        false => L4BufferSettings::unbuffered(),
    };
    let config = match &mut unix {
        None => ListenerConfig::tcp(label.clone()),
        Some(name) => {
            name.served = true;
            ListenerConfig::uds(label.clone()).permissions(std::os::unix::fs::PermissionsExt::from_mode(name.mode))
        }
    };
    let mut service = Service::new(format!("edge {label}"), DoorApp { shared: shared.clone(), door });
    service.add_listener(config.l4_buffer(buffers));
    sockets.add(label, socket.into_raw_fd());
    service
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn connections_are_asked_whether_they_live() {
        let socket = open_tcp("127.0.0.1:0".parse().unwrap(), true).unwrap();
        let at = socket.local_addr().unwrap().as_socket().unwrap();
        let _client = TcpStream::connect(at).unwrap();
        let (accepted, _) = socket.accept().unwrap();
        assert!(accepted.keepalive().unwrap());
    }

    #[test]
    fn only_a_socket_is_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let (file, left) = (dir.path().join("homeserver.db"), dir.path().join("left"));
        fs::write(&file, "precious").unwrap();
        assert!(open_unix(&file, 0o600).is_err());
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
        drop(UnixListener::bind(&left).unwrap());
        assert!(left.exists());
        drop(open_unix(&left, 0o600).unwrap());
    }
}
