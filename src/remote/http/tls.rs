//! Whose certificates are believed: the system's authorities or those configured, for each host but those that the
//! administrator has named.

use std::{fs, sync::Arc};

use hearth_base::{Doing, Error, Result as Done};
use regex::Regex;
use rustls::{
    CipherSuite, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
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
    verified: Versions,
    unverified: Versions,
    verify: bool,
    not_for: Vec<Regex>,
}

/// One way to look at certificates, by what is spoken then. Tickets of sessions are shared.
struct Versions {
    /// HTTP/1.1 alone.
    plain: Arc<ClientConfig>,
    /// HTTP/2 where it is spoken.
    many: Arc<ClientConfig>,
}

impl Versions {
    fn of(mut config: ClientConfig) -> Self {
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut many = config.clone();
        many.alpn_protocols.insert(0, b"h2".to_vec());
        Self { plain: Arc::new(config), many: Arc::new(many) }
    }
}

impl Tls {
    /// # Errors
    /// If authorities cannot be read, with the file's name.
    pub fn new(settings: &Settings) -> Done<Self> {
        let provider = Arc::new(provider());
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
        Ok(Self {
            verified: Versions::of(verified),
            unverified: Versions::of(unverified),
            verify: settings.verify_certificates,
            not_for: settings.unverified_hosts.iter().map(|glob| regex_of(glob)).collect::<Done<_>>()?,
        })
    }

    /// For looking on, without HTTP/2; and one that believes every certificate, to see which one there is.
    pub fn for_inspection(&self, host: &Host) -> (Arc<ClientConfig>, Arc<ClientConfig>) {
        (self.versions(host).plain.clone(), self.unverified.plain.clone())
    }

    /// For requests; `many` if there are several at the same time.
    pub fn for_host(&self, host: &Host, many: bool) -> Arc<ClientConfig> {
        let versions = self.versions(host);
        if many { versions.many.clone() } else { versions.plain.clone() }
    }

    fn versions(&self, host: &Host) -> &Versions {
        let text = match host {
            Host::Ip(ip) => ip.to_string(),
            Host::Name(name) => name.clone(),
        };
        let verify = self.verify && !self.not_for.iter().any(|glob| glob.is_match(&text));
        if verify { &self.verified } else { &self.unverified }
    }
}

/// What shakes hands and ciphers. Servers mostly take the first suite they are offered, as ours does: one whose hash
/// processors have built in costs a handshake a tenth less than the strongest one, and is safe as far as anybody knows.
fn provider() -> CryptoProvider {
    let mut provider = crypto::ring::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    provider
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
