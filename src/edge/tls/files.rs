//! Certificates from PEM files: loaded, checked against their key, and loaded again when a file changes.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use hearth_config::edge::CertificateFiles;
use parking_lot::Mutex;
use rustls::{crypto::ring::sign::any_supported_type, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use time::OffsetDateTime;
use tracing::{error, info, warn};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use super::{Certificate, Certificates, Source};
use crate::Error;

/// The configured pairs of files and how they looked when they were read.
pub(crate) struct Files {
    pairs: Mutex<Vec<Watched>>,
}

struct Watched {
    files: CertificateFiles,
    seen: Option<Stamp>,
}

/// What changes when a file does.
type Stamp = [(Option<SystemTime>, u64); 2];

impl Files {
    /// Reads all pairs; at the start a bad one is an error.
    ///
    /// # Errors
    /// The file that is missing, unreadable or holds the wrong thing.
    pub fn load(pairs: Vec<CertificateFiles>, into: &Certificates) -> Result<Self, Error> {
        let mut watched = Vec::new();
        for files in pairs {
            let seen = stamp(&files);
            into.put(&label(&files), read_pair(&files)?);
            watched.push(Watched { files, seen });
        }
        Ok(Self { pairs: Mutex::new(watched) })
    }

    /// Takes another list of pairs.
    ///
    /// # Errors
    /// As [`Self::load`]; then all stays as it was.
    pub fn replace(&self, pairs: Vec<CertificateFiles>, into: &Certificates) -> Result<(), Error> {
        let mut loaded = Vec::new();
        for files in pairs {
            let (seen, certificate) = (stamp(&files), read_pair(&files)?);
            warn_if_refused(&files, &certificate);
            loaded.push((seen, certificate, files));
        }
        into.retain(Source::File, |old, _| loaded.iter().any(|(_, _, files)| label(files) == old));
        let watched = loaded.into_iter().map(|(seen, certificate, files)| {
            into.put(&label(&files), certificate);
            Watched { files, seen }
        });
        *self.pairs.lock() = watched.collect();
        Ok(())
    }

    /// Reads again what has changed. A pair that cannot be read keeps its old certificate: it may be half written,
    /// and is tried again with the next change.
    pub fn refresh(&self, into: &Certificates) {
        for watched in self.pairs.lock().iter_mut() {
            let now = stamp(&watched.files);
            if now == watched.seen {
                continue;
            }
            watched.seen = now;
            let file = watched.files.cert.display();
            match read_pair(&watched.files) {
                Ok(certificate) => {
                    info!(%file, names = ?certificate.names, "certificate changed on disk, now in use");
                    warn_if_refused(&watched.files, &certificate);
                    into.put(&label(&watched.files), certificate);
                }
                Err(e) => error!(%file, error = %e, "changed certificate cannot be used, the old one stays"),
            }
        }
    }
}

fn label(files: &CertificateFiles) -> String {
    files.cert.display().to_string()
}

fn stamp(files: &CertificateFiles) -> Option<Stamp> {
    let one = |path: &Path| fs::metadata(path).ok().map(|m| (m.modified().ok(), m.len()));
    Some([one(&files.cert)?, one(&files.key)?])
}

fn read_pair(files: &CertificateFiles) -> Result<Certificate, Error> {
    let read = |path: &PathBuf| fs::read(path).map_err(|e| Error::File("read", path.clone(), e));
    parse(&read(&files.cert)?, &read(&files.key)?, Source::File)
        .map_err(|what| Error::Content(files.cert.clone(), what))
}

/// What is wrong with a pair of files: the key of its entry (`cert`, `key`) and a sentence, for both at once.
pub(crate) fn faults(pair: &CertificateFiles) -> Vec<(&'static str, String)> {
    let read = |path: &Path| fs::read(path).map_err(|e| format!("cannot be read: {e}"));
    let chain = read(&pair.cert).and_then(|text| Chain::described(chain(&text)?));
    let key = read(&pair.key).and_then(|text| private_key(&text));
    let of = |part: &'static str, path: &Path, what: String| (part, format!("`{}`: {what}", path.display()));
    let (cert_is, key_is) = match (chain, key) {
        (Ok(chain), Ok(key)) => (None, chain.with(&key, Source::File).err()),
        (chain, key) => (chain.err(), key.err()),
    };
    let cert_is = cert_is.map(|what| of("cert", &pair.cert, what));
    cert_is.into_iter().chain(key_is.map(|what| of("key", &pair.key, what))).collect()
}

/// Why clients refuse the certificate of a pair of files at this time, and the way out. Nothing of one that cannot be read.
pub(crate) fn out_of_time(pair: &CertificateFiles) -> Option<String> {
    refused_now(pair, &read_pair(pair).ok()?)
}

fn refused_now(files: &CertificateFiles, certificate: &Certificate) -> Option<String> {
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let day =
        |at: i64| OffsetDateTime::from_unix_timestamp(at).map_or_else(|_| at.to_string(), |at| at.date().to_string());
    let why = if certificate.not_after < now {
        let ran_out = day(certificate.not_after);
        format!(
            "ran out on {ran_out}, so clients refuse it: put a renewed one there, which is taken up without a restart"
        )
    } else if now < certificate.not_before {
        let begins = day(certificate.not_before);
        format!(
            "holds from {begins} on and not yet, so clients refuse it: put one there that holds, or set the clock of \
             this machine right"
        )
    } else {
        return None;
    };
    Some(format!("`{}` {why}", files.cert.display()))
}

fn warn_if_refused(files: &CertificateFiles, certificate: &Certificate) {
    if let Some(why) = refused_now(files, certificate) {
        warn!("certificate {why}");
    }
}

/// A certificate from PEM: its chain from one text, its key from another (which may be the same).
///
/// # Errors
/// What is wrong, in a sentence: nothing there, no names, a key of another certificate.
pub(crate) fn parse(chain_text: &[u8], key: &[u8], source: Source) -> Result<Certificate, String> {
    assemble(chain(chain_text)?, &private_key(key)?, source)
}

fn chain(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = CertificateDer::pem_slice_iter(text).collect::<Result<_, _>>();
    all.map_err(|e| format!("not a PEM certificate: {e}"))
}

/// What the heads of keys with a passphrase have, in PKCS#8 as in the older forms.
const ENCRYPTED: &[u8] = b"ENCRYPTED";

fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    let is_encrypted = || text.windows(ENCRYPTED.len()).any(|part| part == ENCRYPTED);
    PrivateKeyDer::from_pem_slice(text).map_err(|e| match is_encrypted() {
        true => {
            "the private key has a passphrase, which nobody is there to type: write it without one by openssl pkey \
                 -in FILE -out FILE"
                .to_owned()
        }
        false => format!("no private key: {e}"),
    })
}

/// A certificate from its parts, checked to belong together.
///
/// # Errors
/// What is wrong, in a sentence.
pub(crate) fn assemble(
    chain: Vec<CertificateDer<'static>>,
    key: &PrivateKeyDer<'static>,
    source: Source,
) -> Result<Certificate, String> {
    Chain::described(chain)?.with(key, source)
}

/// A chain whose first certificate was read.
struct Chain {
    all: Vec<CertificateDer<'static>>,
    names: Vec<String>,
    not_before: i64,
    not_after: i64,
}

impl Chain {
    /// # Errors
    /// What is wrong with the chain by itself.
    fn described(all: Vec<CertificateDer<'static>>) -> Result<Self, String> {
        let leaf = all.first().ok_or("holds no certificate")?;
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|e| format!("not a certificate: {e}"))?;
        let names = names(&parsed);
        if names.is_empty() {
            return Err("the certificate names no host".to_owned());
        }
        let validity = parsed.validity();
        let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        Ok(Self { all, names, not_before, not_after })
    }

    /// # Errors
    /// What is wrong with the key.
    fn with(self, key: &PrivateKeyDer<'static>, source: Source) -> Result<Certificate, String> {
        let signing = any_supported_type(key).map_err(|e| format!("the private key cannot be used: {e}"))?;
        let key = CertifiedKey::new(self.all, signing);
        key.keys_match().map_err(|_| "the private key is not that of the certificate".to_owned())?;
        let Self { names, not_before, not_after, .. } = self;
        Ok(Certificate { names, key: Arc::new(key), not_before, not_after, source })
    }
}

/// The hosts a certificate is for. One without alternative names, as `openssl req` makes it unasked, is taken by its
/// subject, though clients seldom do.
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(alternative)) = certificate.subject_alternative_name() else {
        let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        let host =
            |name: &&str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._*:".contains(&b));
        return common.filter(host).map(str::to_ascii_lowercase).collect();
    };
    let name = |general: &GeneralName<'_>| match general {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| std::net::IpAddr::from(b).to_string()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|b| std::net::IpAddr::from(b).to_string()),
            _ => None,
        },
        _ => None,
    };
    alternative.value.general_names.iter().filter_map(name).collect()
}
