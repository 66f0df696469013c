//! Lists of address ranges: `10.0.0.0/8`, and a bare address for a range of one, as elsewhere in the file.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de};

/// A range in either form.
struct Net(IpNet);

impl<'de> Deserialize<'de> for Net {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        let net = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        let wrong = || de::Error::custom(format!("`{text}` is no address range: write it as 10.0.0.0/8 or fe80::/10"));
        net.map(|net| Self(net.trunc())).ok_or_else(wrong)
    }
}

pub(super) fn list<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<IpNet>, D::Error> {
    Ok(given(d)?.unwrap_or_default())
}

pub(super) fn given<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<IpNet>>, D::Error> {
    let nets: Option<Vec<Net>> = super::given(d)?;
    Ok(nets.map(|nets| nets.into_iter().map(|net| net.0).collect()))
}
