//! Ports to open, in the forms people write them: `443`, `"192.0.2.1:443"`, a list of those, `false` for none.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Visitor},
};

/// A port, on one address or on those of `listen.addresses`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bind {
    /// The one address, if the entry names one.
    pub address: Option<IpAddr>,
    /// The port; 0 lets the system choose, for tests.
    pub port: u16,
}

/// The ports of one purpose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports(pub Vec<Bind>);

impl Ports {
    /// One port on all addresses.
    #[must_use]
    pub fn one(port: u16) -> Self {
        Self(vec![Bind { address: None, port }])
    }

    /// Nothing to open.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// The sockets to open, given the addresses for entries without one.
    #[must_use]
    pub fn sockets(&self, addresses: &[IpAddr]) -> Vec<SocketAddr> {
        let mut out = Vec::new();
        for bind in &self.0 {
            match bind.address {
                Some(ip) => out.push(SocketAddr::new(ip, bind.port)),
                None => out.extend(addresses.iter().map(|ip| SocketAddr::new(*ip, bind.port))),
            }
        }
        out
    }
}

struct PortsVisitor;

impl<'de> Visitor<'de> for PortsVisitor {
    type Value = Ports;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a port, \"address:port\", a list of those, or false")
    }

    fn visit_bool<E: de::Error>(self, on: bool) -> Result<Ports, E> {
        if on { Err(E::custom("say which port, or `false` for none")) } else { Ok(Ports::none()) }
    }

    fn visit_unit<E: de::Error>(self) -> Result<Ports, E> {
        Ok(Ports::none())
    }

    fn visit_u64<E: de::Error>(self, n: u64) -> Result<Ports, E> {
        u16::try_from(n).map(Ports::one).map_err(|_| E::custom(format!("{n} is not a port")))
    }

    fn visit_i64<E: de::Error>(self, n: i64) -> Result<Ports, E> {
        u16::try_from(n).map(Ports::one).map_err(|_| E::custom(format!("{n} is not a port")))
    }

    fn visit_str<E: de::Error>(self, s: &str) -> Result<Ports, E> {
        if let Ok(port) = s.parse() {
            return Ok(Ports::one(port));
        }
        let socket: SocketAddr =
            s.parse().map_err(|_| E::custom(format!("`{s}` is not a port or an address with a port")))?;
        Ok(Ports(vec![Bind { address: Some(socket.ip()), port: socket.port() }]))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Ports, A::Error> {
        let mut all = Vec::new();
        while let Some(Ports(mut some)) = seq.next_element()? {
            all.append(&mut some);
        }
        Ok(Ports(all))
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(PortsVisitor)
    }
}

impl Serialize for Ports {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let text = |b: &Bind| match b.address {
            Some(ip) => SocketAddr::new(ip, b.port).to_string(),
            None => b.port.to_string(),
        };
        match self.0.as_slice() {
            [] => s.serialize_bool(false),
            [Bind { address: None, port }] => s.serialize_u16(*port),
            many => s.collect_seq(many.iter().map(text)),
        }
    }
}

/// Reads names of listeners; a port may be written without quotes.
pub(super) fn names<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "must be the name of a listener")]
    enum Name {
        Port(u16),
        Text(String),
    }
    let names: Option<Vec<Name>> = super::given(d)?;
    let text = |name| match name {
        Name::Port(port) => port.to_string(),
        Name::Text(text) => text,
    };
    Ok(names.map(|names| names.into_iter().map(text).collect()))
}
