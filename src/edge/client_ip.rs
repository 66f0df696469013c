//! Whom to believe about the caller's address.
//!
//! A forwarded header is believed only on a listener with `x_forwarded` and only from a listed proxy; it is read from
//! the right, past further listed proxies, so that what a client wrote itself at the left is never taken.

use std::net::IpAddr;

use http::HeaderMap;
use ipnet::IpNet;

/// The proxies that are believed.
#[derive(Clone, Debug)]
pub(crate) struct Trust(Vec<IpNet>);

/// What trusted proxies say of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub ip: IpAddr,
    /// Whether the caller spoke TLS to the proxy, if it says.
    pub tls: Option<bool>,
}

/// Networks that no stranger can send from: loopback, private and unique local addresses.
const PRIVATE: [&str; 7] =
    ["127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "::1/128", "fc00::/7"];

impl Trust {
    /// The listed networks, or private ones when there is no list.
    pub fn new(listed: Option<&[IpNet]>) -> Self {
        match listed {
            Some(listed) => Self(listed.to_vec()),
            None => Self(PRIVATE.iter().filter_map(|net| net.parse().ok()).collect()),
        }
    }

    pub fn believes(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|net| net.contains(&ip))
    }

    /// Who calls, given the other end of the connection. `unix`: it came by a Unix socket, which only a proxy on this
    /// machine can open.
    pub fn caller(&self, peer: IpAddr, unix: bool, headers: &HeaderMap) -> Told {
        if !unix && !self.believes(peer) {
            return Told { ip: peer, tls: None };
        }
        let tls = headers
            .get("x-forwarded-proto")
            .and_then(|v| v.to_str().ok())
            .map(|proto| proto.split(',').next_back().unwrap_or_default().trim().eq_ignore_ascii_case("https"));
        let mut ip = peer;
        // Several header lines count as one list; the rightmost entry is the nearest.
        'lines: for line in headers.get_all("x-forwarded-for").iter().rev() {
            let Ok(line) = line.to_str() else { break };
            for entry in line.rsplit(',') {
                let Some(told) = parse(entry.trim()) else { break 'lines };
                ip = told;
                if !self.believes(told) {
                    break 'lines;
                }
            }
        }
        Told { ip, tls }
    }
}

/// An address as proxies write it: bare, or with a port (`1.2.3.4:5`, `[::1]:5`, `[::1]`).
fn parse(entry: &str) -> Option<IpAddr> {
    let ip = if let Ok(ip) = entry.parse::<IpAddr>() {
        ip
    } else if let Ok(socket) = entry.parse::<std::net::SocketAddr>() {
        socket.ip()
    } else {
        entry.strip_prefix('[')?.strip_suffix(']')?.parse().ok()?
    };
    Some(ip.to_canonical())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn told(trust: &Trust, peer: &str, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("x-forwarded-for", line.parse().unwrap());
        }
        trust.caller(peer.parse().unwrap(), false, &headers).ip.to_string()
    }

    #[test]
    fn a_stranger_cannot_choose_its_address() {
        let trust = Trust::new(None);
        assert_eq!(told(&trust, "198.51.100.7", &["1.1.1.1"]), "198.51.100.7");
        assert_eq!(told(&trust, "127.0.0.1", &["1.1.1.1, 203.0.113.9"]), "203.0.113.9");
        assert_eq!(told(&trust, "127.0.0.1", &["1.1.1.1", "203.0.113.9, 10.0.0.3"]), "203.0.113.9");
        assert_eq!(told(&trust, "127.0.0.1", &["rubbish"]), "127.0.0.1");
        assert_eq!(told(&trust, "127.0.0.1", &["203.0.113.9, rubbish, 10.0.0.3"]), "10.0.0.3");
        assert_eq!(told(&trust, "127.0.0.1", &[]), "127.0.0.1");
        let listed = Trust::new(Some(&["198.51.100.0/24".parse().unwrap()]));
        assert_eq!(told(&listed, "198.51.100.7", &["2001:db8::1"]), "2001:db8::1");
        assert_eq!(told(&listed, "127.0.0.1", &["1.1.1.1"]), "127.0.0.1");
    }

    #[test]
    fn ports_and_brackets_are_read() {
        for (text, ip) in [("1.2.3.4:55", "1.2.3.4"), ("[::1]:5", "::1"), ("[2001:db8::2]", "2001:db8::2")] {
            assert_eq!(parse(text).unwrap().to_string(), ip);
        }
        assert_eq!(parse("::ffff:1.2.3.4").unwrap().to_string(), "1.2.3.4");
        assert!(parse("unknown").is_none());
    }
}
