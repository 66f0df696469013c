//! Certificates by server name, swapped while running.
//!
//! A handshake reads a table that is replaced whole, so that new connections take the new certificate and open ones
//! are not touched. Where certificates come from is told in `tls/files`, `tls/local_ca` and `acme`; a name that has
//! none yet is answered with a self-signed one.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use pingora_core::listeners::tls::Acceptor;
use rustls::{
    ServerConfig,
    crypto::ring,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::Error;

pub(crate) mod disk;
pub(crate) mod files;
pub(crate) mod local_ca;
pub(crate) mod made;
pub(crate) mod own;

/// The protocol name of a TLS-ALPN-01 challenge (RFC 8737).
pub(crate) const ACME_ALPN: &[u8] = b"acme-tls/1";

/// Where a certificate comes from; the later, the more it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Made by ourselves until there is a better one.
    SelfSigned,
    /// Our own authority's.
    LocalCa,
    /// An ACME authority's.
    Acme,
    /// Files of the operator's.
    File,
}

/// A certificate in use, as told to operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateInfo {
    /// A file's path, or the first of its names.
    pub label: String,
    /// The names it is for.
    pub names: Vec<String>,
    /// Seconds since the epoch.
    pub not_before: i64,
    /// Seconds since the epoch.
    pub not_after: i64,
    /// Where it comes from.
    pub source: Source,
}

/// A certificate with its key, ready for handshakes.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    /// DNS names and addresses it is for; a leading `*.` stands for one label.
    pub names: Vec<String>,
    pub key: Arc<CertifiedKey>,
    /// Seconds since the epoch.
    pub not_before: i64,
    /// Seconds since the epoch.
    pub not_after: i64,
    pub source: Source,
}

/// All certificates, and those of challenges under way.
pub(crate) struct Certificates {
    /// By label: a file's path or the first name of a group.
    all: Mutex<HashMap<String, Certificate>>,
    table: ArcSwap<Table>,
    challenges: ArcSwap<HashMap<String, Arc<CertifiedKey>>>,
    /// The name whose certificate answers clients that name none.
    principal: String,
    /// Labels and sources that are on the metrics.
    shown: Mutex<HashSet<(String, Source)>>,
}

#[derive(Default)]
struct Table {
    exact: HashMap<String, Entry>,
    /// By what follows `*.`.
    wild: HashMap<String, Entry>,
    default: Option<Arc<CertifiedKey>>,
}

struct Entry {
    source: Source,
    key: Arc<CertifiedKey>,
}

impl Certificates {
    pub fn new(principal: String) -> Arc<Self> {
        Arc::new(Self {
            all: Mutex::default(),
            table: ArcSwap::default(),
            challenges: ArcSwap::default(),
            principal,
            shown: Mutex::default(),
        })
    }

    /// Adds a certificate, or puts it in the place of the one with the same label.
    pub fn put(&self, label: &str, certificate: Certificate) {
        let mut all = self.all.lock();
        all.insert(label.to_owned(), certificate);
        self.table.store(Arc::new(Table::build(&all, &self.principal)));
    }

    /// Takes away those certificates of a source that are not kept.
    pub fn retain(&self, source: Source, keep: impl Fn(&str, &Certificate) -> bool) {
        let mut all = self.all.lock();
        let before = all.len();
        all.retain(|label, c| c.source != source || keep(label, c));
        if all.len() != before {
            self.table.store(Arc::new(Table::build(&all, &self.principal)));
        }
    }

    /// The certificate of a label.
    pub fn get(&self, label: &str) -> Option<Certificate> {
        self.all.lock().get(label).cloned()
    }

    /// Whether a name has a certificate of this source or a better one.
    pub fn covers(&self, name: &str, least: Source) -> bool {
        let parent = name.split_once('.').map(|(_, parent)| parent);
        let fits = |of: &String| of == name || (parent.is_some() && of.strip_prefix("*.") == parent);
        self.all.lock().values().any(|c| c.source >= least && c.names.iter().any(fits))
    }

    /// All certificates, by label.
    pub fn list(&self) -> Vec<CertificateInfo> {
        let info = |(label, c): (&String, &Certificate)| CertificateInfo {
            label: label.clone(),
            names: c.names.clone(),
            not_before: c.not_before,
            not_after: c.not_after,
            source: c.source,
        };
        let mut all: Vec<_> = self.all.lock().iter().map(info).collect();
        all.sort_by(|a, b| a.label.cmp(&b.label));
        all
    }

    /// Shows a challenge's certificate to whoever asks for the name with [`ACME_ALPN`].
    pub fn set_challenge(&self, name: &str, key: Arc<CertifiedKey>) {
        self.challenges.rcu(|old| {
            let mut new = HashMap::clone(old);
            new.insert(name.to_owned(), key.clone());
            new
        });
    }

    /// Ends a challenge.
    pub fn clear_challenge(&self, name: &str) {
        self.challenges.rcu(|old| {
            let mut new = HashMap::clone(old);
            new.remove(name);
            new
        });
    }

    /// A TLS acceptor over this table: HTTP/2, HTTP/1.1 and TLS-ALPN-01; TLS 1.2 and 1.3.
    ///
    /// # Errors
    /// If the provider cannot do what every provider can.
    pub fn acceptor(self: &Arc<Self>) -> Result<Acceptor, Error> {
        let making = |e: rustls::Error| Error::Making(e.to_string());
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(making)?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec(), ACME_ALPN.to_vec()];
        config.ticketer = ring::Ticketer::new().map_err(making)?;
        config.send_tls13_tickets = 1;
        Ok(Acceptor::from_server_config(Arc::new(config)))
    }
}

impl Table {
    fn build(all: &HashMap<String, Certificate>, principal: &str) -> Self {
        let mut ordered: Vec<(&String, &Certificate)> = all.iter().collect();
        ordered.sort_by_key(|(label, c)| (c.source, c.not_after, *label));
        let mut table = Self::default();
        for (_, certificate) in &ordered {
            for name in &certificate.names {
                let entry = Entry { source: certificate.source, key: certificate.key.clone() };
                match name.strip_prefix("*.") {
                    Some(parent) => table.wild.insert(parent.to_owned(), entry),
                    None => table.exact.insert(name.clone(), entry),
                };
            }
        }
        table.default = table.find(principal).or_else(|| ordered.last().map(|(_, c)| c.key.clone()));
        table
    }

    /// The one for a name itself goes before one for all its siblings, unless the latter has a better source.
    fn find(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let exact = self.exact.get(name);
        let wild = name.split_once('.').and_then(|(_, parent)| self.wild.get(parent));
        let found = match (exact, wild) {
            (Some(exact), Some(wild)) if wild.source > exact.source => wild,
            (Some(found), _) | (None, Some(found)) => found,
            (None, None) => return None,
        };
        Some(found.key.clone())
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls has checked the name and made it lower case.
        let name = hello.server_name();
        if hello.alpn().is_some_and(|mut offered| offered.any(|p| p == ACME_ALPN)) {
            return self.challenges.load().get(name?).cloned();
        }
        let table = self.table.load();
        name.and_then(|name| table.find(name)).or_else(|| table.default.clone())
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("all", &self.list()).finish_non_exhaustive()
    }
}

/// Shows on the metrics how long each certificate still lasts. One that is not in use any more has no time to show, as no
/// series can be taken away.
pub(crate) fn report(certificates: &Certificates) {
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let lasts: HashMap<(String, Source), f64> =
        certificates.list().into_iter().map(|c| ((c.label, c.source), (c.not_after - now) as f64)).collect();
    let mut shown = certificates.shown.lock();
    shown.extend(lasts.keys().cloned());
    for (label, source) in shown.iter() {
        let left = lasts.get(&(label.clone(), *source)).copied().unwrap_or(f64::NAN);
        let source = format!("{source:?}").to_ascii_lowercase();
        metrics::gauge!("hearth_certificate_expiry_seconds", "certificate" => label.clone(), "source" => source.clone())
            .set(left);
        metrics::gauge!("hearth_certificate_expiry_days", "certificate" => label.clone(), "source" => source)
            .set(left / 86_400.0);
    }
}

#[cfg(test)]
mod tests;
