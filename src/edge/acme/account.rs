//! Our account with an authority: made once, kept in a file for each authority, so that staging and production never
//! mix, and made anew if the authority no longer knows it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use hearth_config::edge::Acme as Config;
use instant_acme::{
    Account, AccountBuilder, AccountCredentials, CertificateIdentifier, ExternalAccountKey, LetsEncrypt, NewAccount,
    ZeroSsl,
};
use tokio::{sync::OnceCell, time::timeout};
use tracing::{debug, info, warn};
use url::Url;

use super::{order::Failed, schedule::Window};
use crate::{
    Error,
    examine::eab_key,
    tls::{Certificate, disk},
};

/// No call to an authority may take longer.
pub(super) const CALL: Duration = Duration::from_secs(30);

/// An authority and our account there.
pub(super) struct Authority {
    directory: String,
    email: Option<String>,
    ca_root: Option<PathBuf>,
    eab: Option<(String, Vec<u8>)>,
    file: PathBuf,
    account: ArcSwap<OnceCell<Account>>,
}

/// The directory that the configuration means.
fn directory(config: &Config) -> String {
    match config.directory.as_deref() {
        None | Some("letsencrypt") => LetsEncrypt::Production.url().to_owned(),
        Some("letsencrypt-staging") => LetsEncrypt::Staging.url().to_owned(),
        Some("zerossl") => ZeroSsl::Production.url().to_owned(),
        Some(url) => url.to_owned(),
    }
}

/// Where the account and the certificates of the configured authority are kept.
///
/// # Errors
/// If its address is none.
pub(super) fn folder(below: &Path, config: &Config) -> Result<PathBuf, Error> {
    let directory = directory(config);
    let wrong = || Error::Setting("edge.acme.directory".to_owned(), format!("`{directory}` is not an address"));
    let url = Url::parse(&directory).map_err(|_| wrong())?;
    let host = url.host_str().ok_or_else(wrong)?.replace([':', '[', ']'], "_");
    let name = match url.port() {
        Some(port) => format!("{host}_{port}"),
        None => host,
    };
    Ok(below.join("acme").join(name))
}

impl Authority {
    /// # Errors
    /// If the authority's address is none, or the external account key cannot be read.
    pub fn new(config: &Config, below: &Path) -> Result<Self, Error> {
        let eab = eab_key(config).map_err(|(part, what)| Error::Setting(format!("edge.acme.eab.{part}"), what))?;
        Ok(Self {
            directory: directory(config),
            email: config.email.clone(),
            ca_root: config.ca_root.clone(),
            eab,
            file: folder(below, config)?.join("account.json"),
            account: ArcSwap::default(),
        })
    }

    /// The account, made or loaded at the first call.
    ///
    /// # Errors
    /// What the authority or the disk says.
    pub async fn account(&self) -> Result<Account, Failed> {
        let cell = self.account.load_full();
        cell.get_or_try_init(|| self.open()).await.cloned()
    }

    /// Forgets an account that the authority does not know (any more); the next call makes another.
    pub fn forget(&self) {
        warn!(directory = %self.directory, "the authority does not know our account, making another");
        let _ = std::fs::rename(&self.file, self.file.with_extension("old"));
        self.account.store(Arc::default());
    }

    fn builder(&self) -> Result<AccountBuilder, Failed> {
        Ok(match &self.ca_root {
            Some(root) => Account::builder_with_root(root)?,
            None => Account::builder()?,
        })
    }

    async fn open(&self) -> Result<Account, Failed> {
        let said = |e: Error| Failed::said(e.to_string());
        if let Some(text) = disk::read(&self.file).map_err(said)? {
            match serde_json::from_slice::<AccountCredentials>(&text) {
                Ok(kept) => return call("loading the account", self.builder()?.from_credentials(kept)).await,
                Err(e) => warn!(file = %self.file.display(), error = %e, "kept ACME account cannot be read"),
            }
        }
        let contact = self.email.as_ref().map(|email| format!("mailto:{email}"));
        let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
        let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let eab = self.eab.as_ref().map(|(kid, key)| ExternalAccountKey::new(kid.clone(), key));
        let making = self.builder()?.create(&new, self.directory.clone(), eab.as_ref());
        let (account, credentials) = call("making an account", making).await?;
        let text = serde_json::to_vec(&credentials).map_err(|e| Failed::said(e.to_string()))?;
        disk::write(&self.file, &text, 0o600).map_err(said)?;
        info!(directory = %self.directory, "ACME account made");
        Ok(account)
    }

    /// When the authority would have the certificate renewed (RFC 9773); none if it does not say.
    pub async fn renewal_window(&self, certificate: &Certificate) -> Option<Window> {
        let id = CertificateIdentifier::try_from(certificate.key.cert.first()?).ok()?;
        let account = self.account().await.ok()?;
        match call("asking when to renew", account.renewal_info(&id)).await {
            Ok((info, again)) => Some(Window {
                start: info.suggested_window.start.unix_timestamp(),
                end: info.suggested_window.end.unix_timestamp(),
                again,
            }),
            Err(e) => {
                debug!(error = %e, "no renewal information");
                None
            }
        }
    }
}

/// A call with its time limit.
///
/// # Errors
/// What the call says, or that it took too long.
pub(super) async fn call<T>(
    what: &'static str,
    doing: impl Future<Output = Result<T, instant_acme::Error>>,
) -> Result<T, Failed> {
    match timeout(CALL, doing).await {
        Ok(done) => done.map_err(|e| Failed::from(e).during(what)),
        Err(_) => Err(Failed::said("the authority did not answer in time").during(what)),
    }
}
