//! Names by the system's settings: hosts file, `resolv.conf`, and the time that records may be kept, in a bounded cache.
//!
//! The files are read again within seconds of a change, so a laptop that changes networks, or a container whose name
//! server moved, needs no restart.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use hearth_base::{Doing, Result as Done};
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::{RData, rdata::SRV},
    system_conf,
};
use rand::Rng;

use crate::Failure;

/// A place that an SRV record names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub target: String,
    /// Its port.
    pub port: u16,
}

/// Records of a service that are looked at.
const MAX_SERVICES: usize = 8;
/// Answers that are remembered.
const CACHE: u64 = 20_000;
/// How long an answer is remembered at most, whatever it says itself.
const MAX_TTL: Duration = Duration::from_secs(6 * 3600);
/// How long it is remembered that there is none.
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(300);
/// How often the system's files are looked at.
const LOOK: Duration = Duration::from_secs(5);
const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// Asks for names.
#[derive(Clone)]
pub struct Dns(Arc<Inner>);

struct Inner {
    /// Whether the system's files are followed.
    follows: bool,
    current: ArcSwap<Current>,
}

struct Current {
    resolver: TokioResolver,
    files: [Option<SystemTime>; 2],
    looked: Instant,
}

impl fmt::Debug for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dns")
    }
}

impl Dns {
    /// By the system's settings.
    ///
    /// # Errors
    /// If they make no resolver.
    pub fn system() -> Done<Self> {
        let current = Current { files: stamps(), resolver: from_system()?, looked: Instant::now() };
        Ok(Self(Arc::new(Inner { follows: true, current: ArcSwap::from_pointee(current) })))
    }

    /// By one name server, without a hosts file; for tests.
    ///
    /// # Errors
    /// If that makes no resolver.
    pub fn at(server: SocketAddr) -> Done<Self> {
        let mut connection = ConnectionConfig::udp();
        connection.port = server.port();
        let servers = vec![NameServerConfig::new(server.ip(), true, vec![connection])];
        let mut options = ResolverOpts::default();
        options.use_hosts_file = ResolveHosts::Never;
        options.attempts = 1;
        options.timeout = Duration::from_secs(2);
        let resolver = build(ResolverConfig::from_parts(None, Vec::new(), servers), options)?;
        let current = Current { files: [None; 2], resolver, looked: Instant::now() };
        Ok(Self(Arc::new(Inner { follows: false, current: ArcSwap::from_pointee(current) })))
    }

    fn resolver(&self) -> TokioResolver {
        let current = self.0.current.load();
        if !self.0.follows || current.looked.elapsed() < LOOK {
            return current.resolver.clone();
        }
        let files = stamps();
        let resolver = if files == current.files {
            current.resolver.clone()
        } else {
            match from_system() {
                Ok(fresh) => {
                    tracing::info!("the system's resolver settings have changed");
                    fresh
                }
                Err(e) => {
                    tracing::warn!(error = %e, "the system's new resolver settings cannot be used");
                    current.resolver.clone()
                }
            }
        };
        self.0.current.store(Arc::new(Current { resolver: resolver.clone(), files, looked: Instant::now() }));
        resolver
    }

    /// The addresses of a host, IPv6 and IPv4 in turn.
    ///
    /// # Errors
    /// [`Failure::Unreachable`] if it has none, or nobody could say.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, Failure> {
        let found = self.resolver().lookup_ip(absolute(host)).await.map_err(|e| unresolved(host, &e))?;
        let (six, four): (Vec<IpAddr>, Vec<IpAddr>) = found.iter().partition(IpAddr::is_ipv6);
        let (mut six, mut four) = (six.into_iter(), four.into_iter());
        let mut all = Vec::new();
        loop {
            let pair = (six.next(), four.next());
            all.extend(pair.0);
            all.extend(pair.1);
            if pair == (None, None) {
                break;
            }
        }
        if all.is_empty() { Err(Failure::Unreachable(format!("{host} has no address"))) } else { Ok(all) }
    }

    /// The SRV records of a name in the order in which they are to be tried; `None` if there are none, and nothing in it
    /// if they say that there is no such service.
    ///
    /// # Errors
    /// None that is not better answered by the next step: whoever cannot say is taken for nobody.
    pub async fn services(&self, name: &str) -> Result<Option<Vec<Service>>, Failure> {
        let found = match self.resolver().srv_lookup(absolute(name)).await {
            Ok(found) => found,
            Err(e) => {
                if !e.is_no_records_found() && !e.is_nx_domain() {
                    tracing::debug!(name, error = %e, "SRV records could not be looked up");
                }
                return Ok(None);
            }
        };
        let records: Vec<SRV> = found
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::SRV(srv) => Some(srv.clone()),
                _ => None,
            })
            .collect();
        if records.is_empty() {
            return Ok(None);
        }
        Ok(Some(in_order(records, &mut rand::rng())))
    }
}

/// Records by priority, and by chance according to their weights where that is the same (RFC 2782).
fn in_order(mut records: Vec<SRV>, rng: &mut impl Rng) -> Vec<Service> {
    // Weights of 0 first, so that they have a small chance at all.
    records.sort_by_key(|r| (r.priority, r.weight));
    let mut services = Vec::new();
    while let Some(first) = records.first() {
        let priority = first.priority;
        let alike = records.iter().take_while(|r| r.priority == priority);
        let total: u64 = alike.clone().map(|r| u64::from(r.weight)).sum();
        let mut drawn = rng.random_range(0..=total);
        let chosen = alike
            .take_while(|r| {
                let weight = u64::from(r.weight);
                let before = drawn > weight;
                drawn = drawn.saturating_sub(weight);
                before
            })
            .count();
        let record = records.remove(chosen.min(records.len() - 1));
        if !record.target.is_root() && record.port != 0 {
            let target = record.target.to_ascii().trim_end_matches('.').to_ascii_lowercase();
            services.push(Service { target, port: record.port });
        }
    }
    services.truncate(MAX_SERVICES);
    services
}

/// A name with dots stands for itself; a name without may be completed by the search list, as in containers.
fn absolute(host: &str) -> String {
    if host.contains('.') { format!("{host}.") } else { host.to_owned() }
}

fn unresolved(host: &str, e: &NetError) -> Failure {
    Failure::Unreachable(if e.is_nx_domain() || e.is_no_records_found() {
        format!("{host} is not known to DNS")
    } else {
        format!("{host} could not be looked up: {e}")
    })
}

fn stamps() -> [Option<SystemTime>; 2] {
    FILES.map(|path| std::fs::metadata(path).and_then(|m| m.modified()).ok())
}

fn from_system() -> Done<TokioResolver> {
    // Without a resolv.conf the C library asks this machine.
    let (config, options) = system_conf::read_system_conf().unwrap_or_else(|e| {
        tracing::debug!(error = %e, "no resolv.conf: asking a name server on this machine");
        let local = NameServerConfig::udp_and_tcp(IpAddr::from([127, 0, 0, 1]));
        (ResolverConfig::from_parts(None, Vec::new(), vec![local]), ResolverOpts::default())
    });
    build(config, options)
}

fn build(config: ResolverConfig, mut options: ResolverOpts) -> Done<TokioResolver> {
    options.cache_size = CACHE;
    options.positive_max_ttl = Some(MAX_TTL);
    options.negative_max_ttl = Some(MAX_NEGATIVE_TTL);
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.try_tcp_on_error = true;
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    builder.build().doing("setting up the resolver")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::str::FromStr;

    use hickory_resolver::proto::rr::Name;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    fn srv(priority: u16, weight: u16, target: &str) -> SRV {
        SRV::new(priority, weight, 8448, Name::from_str(target).unwrap())
    }

    #[test]
    fn services_come_by_priority_and_weight() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut first = [0; 3];
        for _ in 0..1000 {
            let order = in_order(vec![srv(2, 0, "last."), srv(1, 90, "big."), srv(1, 10, "small.")], &mut rng);
            let names: Vec<&str> = order.iter().map(|s| s.target.as_str()).collect();
            assert_eq!((names.len(), names[2]), (3, "last"));
            first[usize::from(names[0] == "small")] += 1;
        }
        assert!(first[0] > 850 && first[1] > 50, "{first:?}");
        assert_eq!(in_order(vec![srv(0, 0, ".")], &mut rng), []);
    }
}
