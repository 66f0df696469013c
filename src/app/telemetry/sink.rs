//! Where lines go: the terminal, files, the system's log. A line that cannot be written is lost; the server goes on.

use std::{io::Write as _, net::UdpSocket, os::unix::net::UnixDatagram, path::Path};

use chrono::{DateTime, Local};
use hearth_base::{Error, Result};
use hearth_config::telemetry::LogTarget;
use parking_lot::Mutex;
use tracing::Level;

use super::file::{self, LogFile};

/// An open target.
#[derive(Debug)]
pub(super) enum Sink {
    Stdout,
    Stderr,
    File(Mutex<LogFile>),
    Syslog { socket: Syslog, facility: u8 },
}

/// The way to the system's log.
#[derive(Debug)]
pub(super) enum Syslog {
    Unix(UnixDatagram),
    Udp(UdpSocket),
}

impl Sink {
    /// Opens a target.
    ///
    /// # Errors
    /// A sentence on the file or address.
    pub(super) fn open(target: &LogTarget) -> Result<Self> {
        match target {
            LogTarget::Stdout => Ok(Self::Stdout),
            LogTarget::Stderr => Ok(Self::Stderr),
            LogTarget::File { path, rotation } => match LogFile::open(path, *rotation) {
                Ok(file) => Ok(Self::File(Mutex::new(file))),
                Err(e) => Err(Error::fault(format!("log_config: {}", not_written(path)), e)),
            },
            LogTarget::Syslog { address, facility } => match syslog(address) {
                Ok(socket) => Ok(Self::Syslog { socket, facility: *facility }),
                Err(e) => Err(Error::fault(format!("log_config: the system's log at {address} cannot be reached"), e)),
            },
        }
    }

    /// Looks whether a target could be opened, and makes nothing.
    ///
    /// # Errors
    /// A sentence on the file or address.
    pub(super) fn look(target: &LogTarget) -> std::result::Result<(), String> {
        match target {
            LogTarget::Stdout | LogTarget::Stderr => Ok(()),
            LogTarget::File { path, .. } => file::look(path).map_err(|e| format!("{}: {e}", not_written(path))),
            LogTarget::Syslog { address, .. } => {
                syslog(address).map(drop).map_err(|e| format!("the system's log at {address} cannot be reached: {e}"))
            }
        }
    }

    /// Writes a line.
    pub(super) fn write(&self, line: &str, level: Level, now: DateTime<Local>) {
        let whole = || format!("{line}\n");
        let _ = match self {
            // One write a line, so that lines of threads do not mix.
            Self::Stdout => std::io::stdout().lock().write_all(whole().as_bytes()),
            Self::Stderr => std::io::stderr().lock().write_all(whole().as_bytes()),
            Self::File(file) => file.lock().write(&whole(), now),
            Self::Syslog { socket, facility } => {
                let packet = format!("<{}>hearth: {line}", u32::from(*facility) * 8 + severity(level));
                match socket {
                    Syslog::Unix(socket) => socket.send(packet.as_bytes()).map(drop),
                    Syslog::Udp(socket) => socket.send(packet.as_bytes()).map(drop),
                }
            }
        };
    }
}

fn not_written(path: &Path) -> String {
    format!("the log file {} cannot be written (check its folder and owner)", path.display())
}

fn syslog(address: &str) -> std::io::Result<Syslog> {
    if address.starts_with('/') {
        let socket = UnixDatagram::unbound()?;
        socket.connect(address)?;
        socket.set_nonblocking(true)?;
        return Ok(Syslog::Unix(socket));
    }
    let socket = UdpSocket::bind("[::]:0").or_else(|_| UdpSocket::bind("0.0.0.0:0"))?;
    match socket.connect(address) {
        // Some machines refuse IPv4 through a socket of IPv6.
        Err(_) => {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(address)?;
            socket.set_nonblocking(true)?;
            Ok(Syslog::Udp(socket))
        }
        Ok(()) => {
            socket.set_nonblocking(true)?;
            Ok(Syslog::Udp(socket))
        }
    }
}

/// RFC 5424's severities.
fn severity(level: Level) -> u32 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_systems_log_is_told_by_either_way() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let unix = UnixDatagram::bind(&path).unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (mut one, mut two) = ([0; 64], [0; 64]);
        for (address, facility) in [(path.display().to_string(), 1), (udp.local_addr().unwrap().to_string(), 16)] {
            let sink = Sink::open(&LogTarget::Syslog { address, facility }).unwrap();
            sink.write("a line", Level::WARN, Local::now());
        }
        let length = unix.recv(&mut one).unwrap();
        assert_eq!(&one[..length], b"<12>hearth: a line");
        let length = udp.recv(&mut two).unwrap();
        assert_eq!(&two[..length], b"<132>hearth: a line");
        let gone = LogTarget::Syslog { address: "/nowhere/log".to_owned(), facility: 1 };
        assert!(Sink::open(&gone).unwrap_err().to_string().contains("/nowhere/log"));
    }
}
