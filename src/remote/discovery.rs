//! From a server's name to where it listens (server-server API, "Resolving server names").
//!
//! Two steps. [`Discovery::authority`] says in whose name the server is spoken to: the name itself if it has a port or
//! is an address, else what `.well-known/matrix/server` delegates to ([`well_known`]). [`Place::find`] turns that
//! authority into addresses: a literal address, an explicit port, SRV records, port 8448 ([`dns`]). The second step is
//! taken whenever a connection is opened, so a pool of connections is a pool for an authority.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use hearth_base::clock::Clock;
use ruma::ServerName;
use rustls_pki_types::ServerName as TlsName;

use crate::{Failure, Settings, http::Http};

pub mod dns;
pub mod well_known;

use dns::Dns;
use well_known::{Delegation, WellKnown};

/// The port of servers that name none.
pub const PORT: u16 = 8448;

/// In whose name a server is spoken to: the `Host` header, and (without the port) the name in its certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Authority {
    text: String,
    host: Host,
    port: Option<u16>,
}

/// A name or an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// An address; nothing is looked up.
    Ip(IpAddr),
    /// A name in lower case.
    Name(String),
}

impl Authority {
    /// Reads `host[:port]` by the grammar of server names, and more strictly: a name must be one that DNS can hold, so
    /// that nothing but a name or an address ever gets to the resolver, a URL or a TLS handshake.
    ///
    /// # Errors
    /// [`Failure::Name`].
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = || Failure::Name(text.chars().filter(|c| !c.is_control()).take(100).collect());
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, rest) = rest.split_once(']').ok_or_else(wrong)?;
                let address: Ipv6Addr = address.parse().map_err(|_| wrong())?;
                let port = match rest.strip_prefix(':') {
                    Some(port) => Some(port),
                    None if rest.is_empty() => None,
                    None => return Err(wrong()),
                };
                (Host::Ip(address.into()), port)
            }
            None => {
                let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
                match host.parse::<Ipv4Addr>() {
                    Ok(address) => (Host::Ip(address.into()), port),
                    Err(_) if is_dns_name(host) => (Host::Name(host.to_ascii_lowercase()), port),
                    Err(_) => return Err(wrong()),
                }
            }
        };
        let port = match port {
            Some(port) if port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit()) => {
                Some(port.parse().ok().filter(|p: &u16| *p != 0).ok_or_else(wrong)?)
            }
            Some(_) => return Err(wrong()),
            None => None,
        };
        Ok(Self { text: text.to_ascii_lowercase(), host, port })
    }

    /// As it goes into the `Host` header.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The name or address.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port, if it names one.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// What its certificate must be for; an address sends no SNI.
    ///
    /// # Errors
    /// [`Failure::Name`], which [`Self::parse`] leaves no reason for.
    pub fn certificate_name(&self) -> Result<TlsName<'static>, Failure> {
        match &self.host {
            Host::Ip(address) => Ok(TlsName::IpAddress((*address).into())),
            Host::Name(name) => TlsName::try_from(name.clone()).map_err(|_| Failure::Name(self.text.clone())),
        }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Labels of letters, digits and hyphens, 63 bytes each at most, 253 together, and not all digits at the end: DNS has no
/// such names, but the C library would take them for addresses (`127.1`, `2130706433`).
fn is_dns_name(host: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.len() <= 253
        && host.split('.').all(is_label)
        && host.rsplit('.').next().is_some_and(|last| !last.bytes().all(|b| b.is_ascii_digit()))
}

/// How an authority without a port is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// As a homeserver: SRV records, then port 8448.
    Server,
    /// As a web server, on this port.
    Web(u16),
}

/// A host that may answer for an authority; hosts are tried in order, the addresses of one nearly at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The name that was looked up.
    pub host: String,
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
}

/// Addresses of a host that are tried at most.
const MAX_ADDRESSES: usize = 16;

impl Place {
    /// Where an authority listens, the best first.
    ///
    /// # Errors
    /// [`Failure::Unreachable`] with what DNS said.
    pub async fn find(authority: &Authority, lookup: Lookup, dns: &Dns) -> Result<Vec<Self>, Failure> {
        let name = match &authority.host {
            Host::Ip(address) => {
                let port = authority.port.unwrap_or(match lookup {
                    Lookup::Server => PORT,
                    Lookup::Web(port) => port,
                });
                let addresses = vec![SocketAddr::new(*address, port)];
                return Ok(vec![Self { host: address.to_string(), addresses }]);
            }
            Host::Name(name) => name,
        };
        let port = match (authority.port, lookup) {
            (Some(port), _) | (None, Lookup::Web(port)) => port,
            (None, Lookup::Server) => {
                for service in ["_matrix-fed._tcp", "_matrix._tcp"] {
                    if let Some(found) = dns.services(&format!("{service}.{name}")).await? {
                        return Self::of_services(name, found, dns).await;
                    }
                }
                PORT
            }
        };
        let addresses = Self::at(dns.addresses(name).await?, port);
        Ok(vec![Self { host: name.clone(), addresses }])
    }

    async fn of_services(name: &str, services: Vec<dns::Service>, dns: &Dns) -> Result<Vec<Self>, Failure> {
        if services.is_empty() {
            // A target of "." (RFC 2782).
            return Err(Failure::Unreachable(format!("the SRV record of {name} says that there is no such service")));
        }
        let (mut places, mut failure) = (Vec::new(), None);
        for service in services {
            match dns.addresses(&service.target).await {
                Ok(found) => places.push(Self { addresses: Self::at(found, service.port), host: service.target }),
                Err(e) => failure = Some(e),
            }
        }
        match failure {
            Some(failure) if places.is_empty() => Err(failure),
            _ => Ok(places),
        }
    }

    fn at(addresses: Vec<IpAddr>, port: u16) -> Vec<SocketAddr> {
        addresses.into_iter().take(MAX_ADDRESSES).map(|address| SocketAddr::new(address, port)).collect()
    }
}

/// Finds servers, and remembers what they delegate to. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Discovery {
    well_known: Arc<WellKnown>,
}

impl Discovery {
    /// Finds servers by this resolver.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new(settings: &Settings, dns: Dns, clock: Clock) -> hearth_base::Result<Self> {
        let web = Http::new(settings, dns, Lookup::Web(settings.well_known_port))?;
        Ok(Self { well_known: Arc::new(WellKnown::new(web, clock)) })
    }

    /// In whose name a server is spoken to.
    ///
    /// # Errors
    /// [`Failure::Name`]; a well-known document that cannot be had is no error.
    pub async fn authority(&self, server: &ServerName) -> Result<Authority, Failure> {
        let own = Authority::parse(server.as_str())?;
        match &own.host {
            Host::Name(name) if own.port.is_none() => match self.well_known.of(name).await {
                Delegation::To(authority) => Ok(authority),
                Delegation::None(_) => Ok(own),
            },
            _ => Ok(own),
        }
    }

    /// What a host's `.well-known/matrix/server` says.
    pub async fn delegation(&self, host: &str) -> Delegation {
        self.well_known.of(host).await
    }
}
