//! Whose certificates are believed: the system's authorities or those configured, for each host but those that the
//! administrator has named.

use std::{fs, sync::Arc};

use hearth_base::{Doing, Error, Result as Done};
use regex::Regex;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{self, CryptoProvider},
    server::ParsedCertificate,
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
            let listed = Arc::new(Listed::new(listed(settings)?, provider.clone())?);
            builder()?.dangerous().with_custom_certificate_verifier(listed).with_no_client_auth()
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

/// The certificates of `federation_custom_ca_list`.
fn listed(settings: &Settings) -> Done<Vec<CertificateDer<'static>>> {
    let mut all = Vec::new();
    for path in &settings.custom_ca {
        let file = path.display();
        let text = fs::read(path).map_err(|e| Error::fault(format!("reading {file}"), e))?;
        let before = all.len();
        for certificate in CertificateDer::pem_slice_iter(&text) {
            let certificate =
                certificate.map_err(|e| Error::fault(format!("reading the certificates in {file}"), e))?;
            RootCertStore::empty()
                .add(certificate.clone())
                .map_err(|e| Error::fault(format!("a certificate in {file} cannot be used"), e))?;
            all.push(certificate);
        }
        if all.len() == before {
            return Err(Error::broken(format!("there is no certificate in {file}")));
        }
    }
    Ok(all)
}

/// Believes certificates of the authorities that are listed, and those that are listed themselves: a server that signed its
/// own, usually one that says it is an authority, is known by it and nothing else.
#[derive(Debug)]
struct Listed {
    authorities: Arc<WebPkiServerVerifier>,
    certificates: Vec<CertificateDer<'static>>,
}

impl Listed {
    fn new(certificates: Vec<CertificateDer<'static>>, provider: Arc<CryptoProvider>) -> Done<Self> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates.iter().cloned());
        let authorities = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .doing("reading federation_custom_ca_list")?;
        Ok(Self { authorities, certificates })
    }

    /// Whether a certificate is listed itself, is for that name, and holds now.
    fn is_itself(&self, certificate: &CertificateDer<'_>, name: &ServerName<'_>, now: UnixTime) -> bool {
        let holds = || {
            let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
            let now = x509_parser::time::ASN1Time::from_timestamp(i64::try_from(now.as_secs()).ok()?).ok()?;
            Some(parsed.validity().is_valid_at(now))
        };
        let is_for = || {
            let parsed = ParsedCertificate::try_from(certificate).ok()?;
            verify_server_name(&parsed, name).ok()
        };
        self.certificates.contains(certificate) && is_for().is_some() && holds() == Some(true)
    }
}

impl ServerCertVerifier for Listed {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        match self.authorities.verify_server_cert(certificate, between, name, ocsp, now) {
            Err(_) if self.is_itself(certificate, name, now) => Ok(ServerCertVerified::assertion()),
            done => done,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.authorities.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.authorities.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
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
