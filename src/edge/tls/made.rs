//! Certificates we make ourselves: self-signed ones until better come, and the answer to a TLS-ALPN-01 challenge.

use std::{sync::Arc, time::Duration};

use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, KeyPair};
use rustls::{crypto::ring::sign::any_supported_type, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;

use super::{Certificate, Source, files};
use crate::Error;

/// How long a self-signed certificate lasts; it is made anew at each start.
const SELF_SIGNED: Duration = Duration::from_secs(90 * 86_400);
/// Clocks differ.
pub(super) const SKEW: Duration = Duration::from_secs(3600);

pub(super) fn making(e: impl std::fmt::Display) -> Error {
    Error::Making(e.to_string())
}

/// A self-signed certificate for these names.
///
/// # Errors
/// If a name cannot stand in a certificate.
pub(crate) fn self_signed(names: &[String]) -> Result<Certificate, Error> {
    let key = KeyPair::generate().map_err(making)?;
    let mut params = CertificateParams::new(names).map_err(making)?;
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - SKEW, now + SELF_SIGNED);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Hearth, no certificate yet");
    let certificate = params.self_signed(&key).map_err(making)?;
    let secret = PrivateKeyDer::try_from(key.serialize_der()).map_err(making)?;
    files::assemble(vec![certificate.der().clone()], &secret, Source::SelfSigned).map_err(Error::Making)
}

/// The certificate that answers a TLS-ALPN-01 challenge (RFC 8737): for one name, with the digest of the key
/// authorization in a critical extension.
///
/// # Errors
/// If the name cannot stand in a certificate.
pub(crate) fn challenge(name: &str, digest: &[u8]) -> Result<Arc<CertifiedKey>, Error> {
    let key = KeyPair::generate().map_err(making)?;
    let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(making)?;
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - SKEW, now + 24 * SKEW);
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let certificate = params.self_signed(&key).map_err(making)?;
    let secret = PrivateKeyDer::try_from(key.serialize_der()).map_err(making)?;
    let signing = any_supported_type(&secret).map_err(making)?;
    // Not checked by `keys_match`: it parses the certificate and refuses the extension that makes it one of these.
    let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
    Ok(Arc::new(CertifiedKey::new(chain, signing)))
}
