//! Whose certificates are believed: the system's authorities or those configured, for each host but those that the
//! administrator has named.

use std::{fs, sync::Arc};

use hearth_base::{Doing, Error, Result as Done};
use regex::Regex;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{self, CryptoProvider},
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use rustls_platform_verifier::BuilderVerifierExt;

use crate::{Settings, discovery::Host};

/// How to shake hands.
pub(super) struct Tls {
    verified: Arc<ClientConfig>,
    unverified: Arc<ClientConfig>,
    verify: bool,
    not_for: Vec<Regex>,
}

impl Tls {
    /// # Errors
    /// If authorities cannot be read, with the file's name.
    pub fn new(settings: &Settings) -> Done<Self> {
        let provider = Arc::new(crypto::ring::default_provider());
        let versions: &[&rustls::SupportedProtocolVersion] =
            if settings.only_tls13 { &[&TLS13] } else { &[&TLS13, &TLS12] };
        let builder = || {
            ClientConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(versions)
                .doing("choosing versions of TLS")
        };
        let anything = Arc::new(Anything(provider.clone()));
        let unverified = builder()?.dangerous().with_custom_certificate_verifier(anything).with_no_client_auth();
        let verified = if !settings.verify_certificates {
            unverified.clone()
        } else if settings.custom_ca.is_empty() {
            builder()?.with_platform_verifier().doing("reading this system's authorities")?.with_no_client_auth()
        } else {
            builder()?.with_root_certificates(roots(settings)?).with_no_client_auth()
        };
        let finish = |mut config: ClientConfig| {
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            Arc::new(config)
        };
        Ok(Self {
            verified: finish(verified),
            unverified: finish(unverified),
            verify: settings.verify_certificates,
            not_for: settings.unverified_hosts.iter().map(|glob| regex_of(glob)).collect::<Done<_>>()?,
        })
    }

    /// The same for looking on: HTTP/1.1 alone; and one that believes every certificate, to see which one there is.
    pub fn for_inspection(&self, host: &Host) -> (Arc<ClientConfig>, Arc<ClientConfig>) {
        let plain = |config: &ClientConfig| {
            let mut config = config.clone();
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            Arc::new(config)
        };
        (plain(&self.for_host(host)), plain(&self.unverified))
    }

    pub fn for_host(&self, host: &Host) -> Arc<ClientConfig> {
        let text = match host {
            Host::Ip(ip) => ip.to_string(),
            Host::Name(name) => name.clone(),
        };
        let verify = self.verify && !self.not_for.iter().any(|glob| glob.is_match(&text));
        if verify { self.verified.clone() } else { self.unverified.clone() }
    }
}

fn roots(settings: &Settings) -> Done<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for path in &settings.custom_ca {
        let file = path.display();
        let text = fs::read(path).map_err(|e| Error::fault(format!("reading {file}"), e))?;
        let before = roots.len();
        for certificate in CertificateDer::pem_slice_iter(&text) {
            let certificate =
                certificate.map_err(|e| Error::fault(format!("reading the certificates in {file}"), e))?;
            roots.add(certificate).map_err(|e| Error::fault(format!("a certificate in {file} cannot be used"), e))?;
        }
        if roots.len() == before {
            return Err(Error::broken(format!("there is no certificate in {file}")));
        }
    }
    Ok(roots)
}

/// A glob of a domain: `*` for anything, `?` for one character.
fn regex_of(glob: &str) -> Done<Regex> {
    let pattern = regex::escape(&glob.to_ascii_lowercase()).replace(r"\*", ".*").replace(r"\?", ".");
    Regex::new(&format!("^{pattern}$")).doing("reading federation_certificate_verification_whitelist")
}

/// Believes every certificate; only that its owner is there is still checked.
#[derive(Debug)]
struct Anything(Arc<CryptoProvider>);

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        crypto::verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        crypto::verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
