//! What one address may cost us before anything it says is read: connections, and requests a second.
//!
//! An IPv6 /64 counts as one address. Nothing here grows with the number of strangers: connections are bounded in
//! total, requests are counted in a sketch of fixed size.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use dashmap::DashMap;
use hearth_config::edge::Limits as Config;
use ipnet::IpNet;
use pingora_limits::rate::Rate;

pub(crate) mod body;

/// The limits in force, from the configuration.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub connections: u32,
    pub connections_per_address: u32,
    /// Within [`WINDOW`].
    pub requests_per_address: isize,
    pub exempt: Vec<IpNet>,
    pub header_size: usize,
    pub headers: usize,
    pub body_size: u64,
    pub handshake_timeout: Duration,
    pub header_timeout: Duration,
    pub body_timeout: Duration,
    pub h2_streams: u32,
}

/// Requests are counted over this long, so that a page that loads does no harm.
const WINDOW: Duration = Duration::from_secs(10);

/// What a body may be larger than the largest upload: multipart and JSON around it.
const BODY_SLACK: u64 = 1024 * 1024;
/// No smaller limit than this: federation transactions are larger than a small server's uploads.
const BODY_LEAST: u64 = 50 * 1024 * 1024;

impl Limits {
    pub fn new(config: &Config, max_upload_size: u64) -> Arc<Self> {
        let loopback = || ["127.0.0.0/8", "::1/128"].iter().filter_map(|n| n.parse().ok()).collect();
        Arc::new(Self {
            connections: config.connections,
            connections_per_address: config.connections_per_address,
            requests_per_address: isize::try_from(u64::from(config.requests_per_address) * WINDOW.as_secs())
                .unwrap_or(isize::MAX),
            exempt: config.exempt.clone().unwrap_or_else(loopback),
            header_size: usize::try_from(config.header_size).unwrap_or(usize::MAX),
            headers: usize::try_from(config.headers).unwrap_or(usize::MAX),
            body_size: config.body_size.unwrap_or_else(|| max_upload_size.saturating_add(BODY_SLACK).max(BODY_LEAST)),
            handshake_timeout: Duration::from_secs(config.handshake_timeout),
            header_timeout: Duration::from_secs(config.header_timeout),
            body_timeout: Duration::from_secs(config.body_timeout),
            h2_streams: config.h2_streams,
        })
    }

    fn exempts(&self, ip: IpAddr) -> bool {
        self.exempt.iter().any(|net| net.contains(&ip))
    }
}

/// The counters; they outlive a change of the limits.
pub(crate) struct Gate {
    counts: Arc<Counts>,
    requests: Rate,
}

#[derive(Default)]
struct Counts {
    total: AtomicU32,
    by_address: DashMap<u128, u32>,
}

/// A connection's place among the counted ones; given back when dropped.
pub(crate) struct Pass {
    counts: Arc<Counts>,
    key: Option<u128>,
}

impl Default for Gate {
    fn default() -> Self {
        // 4 rows of 8192: a false count needs a collision in each, and all of it is half a megabyte.
        Self { counts: Arc::default(), requests: Rate::new_with_estimator_config(WINDOW, 4, 8192) }
    }
}

impl Gate {
    /// A place for a connection, or none if there are too many. `uncounted`: a trusted proxy, which stands for many.
    pub fn admit(&self, limits: &Limits, ip: IpAddr, uncounted: bool) -> Option<Pass> {
        let mut pass = Pass { counts: self.counts.clone(), key: None };
        let total = self.counts.total.fetch_add(1, Ordering::Relaxed) + 1;
        metrics::gauge!("hearth_edge_connections").set(f64::from(total));
        if total > limits.connections {
            metrics::counter!("hearth_edge_refused_total", "why" => "connections").increment(1);
            return None;
        }
        (uncounted || pass.count(limits, ip)).then_some(pass)
    }

    /// Counts a request; how long to wait if there were too many.
    pub fn request(&self, limits: &Limits, ip: IpAddr) -> Option<Duration> {
        if limits.exempts(ip) {
            return None;
        }
        if self.requests.observe(&key(ip), 1) <= limits.requests_per_address {
            return None;
        }
        metrics::counter!("hearth_edge_refused_total", "why" => "requests_per_address").increment(1);
        Some(WINDOW)
    }
}

impl Pass {
    /// Counts the connection as one of that address; whether it has not too many. To be asked once.
    pub fn count(&mut self, limits: &Limits, ip: IpAddr) -> bool {
        if limits.exempts(ip) {
            return true;
        }
        let key = key(ip);
        let mine = {
            let mut entry = self.counts.by_address.entry(key).or_insert(0);
            *entry += 1;
            *entry
        };
        self.key = Some(key);
        if mine > limits.connections_per_address {
            metrics::counter!("hearth_edge_refused_total", "why" => "connections_per_address").increment(1);
            return false;
        }
        true
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let total = self.counts.total.fetch_sub(1, Ordering::Relaxed).saturating_sub(1);
        metrics::gauge!("hearth_edge_connections").set(f64::from(total));
        if let Some(key) = self.key {
            if let Some(mut entry) = self.counts.by_address.get_mut(&key) {
                *entry = entry.saturating_sub(1);
            }
            self.counts.by_address.remove_if(&key, |_, n| *n == 0);
        }
    }
}

/// An address as one number: IPv4 whole, IPv6 by its first 64 bits.
fn key(ip: IpAddr) -> u128 {
    match ip.to_canonical() {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6) >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn limits(connections: u32, per_address: u32, requests: u32) -> Arc<Limits> {
        let config = Config {
            connections,
            connections_per_address: per_address,
            requests_per_address: requests,
            ..Config::default()
        };
        Limits::new(&config, 0)
    }

    #[test]
    fn connections_are_counted_and_given_back() {
        let (gate, limits) = (Gate::default(), limits(3, 2, 1));
        let ip = |s: &str| s.parse::<IpAddr>().unwrap();
        let one = gate.admit(&limits, ip("2001:db8::1"), false).unwrap();
        let two = gate.admit(&limits, ip("2001:db8::2"), false).unwrap();
        assert!(gate.admit(&limits, ip("2001:db8::3"), false).is_none(), "the /64 is full");
        let other = gate.admit(&limits, ip("192.0.2.1"), false).unwrap();
        assert!(gate.admit(&limits, ip("192.0.2.2"), false).is_none(), "the total is reached");
        assert!(gate.admit(&limits, ip("127.0.0.1"), false).is_none(), "the total binds everybody");
        drop((one, other));
        assert!(gate.admit(&limits, ip("2001:db8::9"), false).is_some());
        drop(two);
        assert_eq!(gate.counts.total.load(Ordering::Relaxed), 0);
        assert!(gate.counts.by_address.is_empty());
    }

    #[test]
    fn requests_over_the_rate_are_told_to_wait() {
        let (gate, limits) = (Gate::default(), limits(9, 9, 2));
        let ip: IpAddr = "192.0.2.1".parse().unwrap();
        let refused = (0..30).filter(|_| gate.request(&limits, ip).is_some()).count();
        assert_eq!(refused, 10, "20 in ten seconds are free");
        assert!(gate.request(&limits, "192.0.2.2".parse().unwrap()).is_none());
        assert!((0..100).all(|_| gate.request(&limits, "127.0.0.1".parse().unwrap()).is_none()));
    }
}
