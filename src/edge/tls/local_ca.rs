//! A certificate authority of our own, for a laptop or a closed network.
//!
//! It lives in the data directory and may sign only for names that are no public ones and for those it was made for,
//! so that trusting it in a browser gives away nothing else, even if its key is lost.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints,
};
use time::OffsetDateTime;
use tracing::info;

use super::{
    Certificate, Source, disk, files,
    made::{SKEW, making},
};
use crate::Error;

/// How long the authority lasts.
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);
/// How long a certificate of its lasts; browsers refuse more than 398 days.
const LEAF_LIFE: Duration = Duration::from_secs(90 * 86_400);
/// A certificate with less left than this is made anew.
const LEAF_LEFT: Duration = Duration::from_secs(30 * 86_400);

/// Suffixes that no public authority signs for.
const LOCAL_SUFFIXES: [&str; 6] = ["localhost", "local", "test", "internal", "lan", "home.arpa"];

/// The authority's certificate, for people to import.
pub(crate) fn certificate_path(folder: &Path) -> PathBuf {
    folder.join("local-ca.crt")
}

/// The certificate of the authority that a server with this data directory has; none if it has none.
#[must_use]
pub fn local_authority(data_dir: &Path) -> Option<PathBuf> {
    Some(certificate_path(&data_dir.join("edge"))).filter(|path| path.exists())
}

/// A certificate of our own authority for these names and loopback, from disk while it is good, else a new one.
/// Makes the authority too when there is none, or when it may not sign for one of the names.
///
/// # Errors
/// If files cannot be read or written.
pub(crate) fn certificate(folder: &Path, names: &[String]) -> Result<Certificate, Error> {
    let mut names: Vec<String> = names.to_vec();
    names.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    names.sort();
    names.dedup();
    let path = folder.join("local.pem");
    let (ca, key, fresh) = authority(folder, &names)?;
    if !fresh && let Some(text) = disk::read(&path)? {
        let good_until = OffsetDateTime::now_utc() + LEAF_LEFT;
        if let Ok(old) = files::parse(&text, &text, Source::LocalCa)
            && old.not_after > good_until.unix_timestamp()
            && names.iter().all(|n| old.names.contains(n))
        {
            return Ok(old);
        }
    }
    let issuer = Issuer::from_ca_cert_pem(&ca, key).map_err(making)?;
    let leaf_key = KeyPair::generate().map_err(making)?;
    let mut params = CertificateParams::new(names).map_err(making)?;
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - SKEW, now + LEAF_LIFE);
    params.distinguished_name = DistinguishedName::new();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let leaf = params.signed_by(&leaf_key, &issuer).map_err(making)?;
    let text = format!("{}{}{}", leaf_key.serialize_pem(), leaf.pem(), ca);
    disk::write(&path, text.as_bytes(), 0o600)?;
    files::parse(text.as_bytes(), text.as_bytes(), Source::LocalCa).map_err(Error::Making)
}

/// The authority's certificate and key, and whether they are new.
fn authority(folder: &Path, names: &[String]) -> Result<(String, KeyPair, bool), Error> {
    let (cert_path, key_path) = (certificate_path(folder), folder.join("local-ca.key"));
    let names_path = folder.join("local-ca.names");
    if let (Some(cert), Some(key), Some(made_for)) =
        (disk::read(&cert_path)?, disk::read(&key_path)?, disk::read(&names_path)?)
    {
        let made_for = String::from_utf8_lossy(&made_for);
        let may = |name: &String| is_local(name) || made_for.lines().any(|line| line == name);
        if names.iter().all(may) {
            let text = |bytes: Vec<u8>, path: &Path| {
                String::from_utf8(bytes).map_err(|_| Error::Content(path.to_owned(), "is not PEM".to_owned()))
            };
            let key = KeyPair::from_pem(&text(key, &key_path)?)
                .map_err(|e| Error::Content(key_path.clone(), e.to_string()))?;
            return Ok((text(cert, &cert_path)?, key, false));
        }
        info!("the local certificate authority may not sign for a new name and is made anew: import it again");
    }
    let key = KeyPair::generate().map_err(making)?;
    let extra: Vec<&String> = names.iter().filter(|n| !is_local(n)).collect();
    let certificate = authority_params(&extra).self_signed(&key).map_err(making)?;
    let lines: String = extra.iter().map(|n| format!("{n}\n")).collect();
    disk::write(&key_path, key.serialize_pem().as_bytes(), 0o600)?;
    disk::write(&names_path, lines.as_bytes(), 0o644)?;
    disk::write(&cert_path, certificate.pem().as_bytes(), 0o644)?;
    Ok((certificate.pem(), key, true))
}

fn authority_params(extra: &[&String]) -> CertificateParams {
    let mut params = CertificateParams::default();
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - SKEW, now + CA_LIFE);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Hearth local authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let mut permitted: Vec<GeneralSubtree> =
        LOCAL_SUFFIXES.iter().map(|s| GeneralSubtree::DnsName((*s).to_owned())).collect();
    permitted.push(GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix([127, 0, 0, 0], 8)));
    permitted.push(GeneralSubtree::IpAddress(CidrSubnet::from_v6_prefix(std::net::Ipv6Addr::LOCALHOST.octets(), 128)));
    for name in extra {
        permitted.push(match name.parse::<IpAddr>() {
            Ok(ip) => GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(ip, if ip.is_ipv4() { 32 } else { 128 })),
            Err(_) => GeneralSubtree::DnsName((*name).clone()),
        });
    }
    params.name_constraints = Some(NameConstraints { permitted_subtrees: permitted, excluded_subtrees: Vec::new() });
    params
}

/// Whether the constraints of every authority we make allow this name.
pub(crate) fn is_local(name: &str) -> bool {
    match name.parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback(),
        Err(_) => LOCAL_SUFFIXES.iter().any(|s| name == *s || name.strip_suffix(s).is_some_and(|p| p.ends_with('.'))),
    }
}
