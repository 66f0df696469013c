//! Keys of servers: ours ([`ours`]), those of others ([`theirs`]), signatures of requests and events ([`checks`]), and
//! what we tell third parties about them ([`notary`]).
//!
//! A key document is believed if its server signed it ([`document`]) and gave it to us over TLS, or a notary vouches
//! for it that the administrator trusts.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use hearth_base::{Doing, Error, Result, clock::Clock, tasks::Supervisor};
use hearth_rules::Signer;
use hearth_store::Store;
use ruma::OwnedServerName;

use crate::federation::Federation;

mod checks;
mod document;
mod notary;
mod ours;
mod theirs;

pub use checks::Unproven;
pub use notary::Criteria;
use ours::Ours;
use theirs::Theirs;

/// Base64 as key files have it: unpadded, but padding is not held against anyone.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_encode_padding(false).with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A key we signed with once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldKey {
    /// E.g. `ed25519:a_1`.
    pub key_id: String,
    /// Public key in base64.
    pub public_key: String,
    /// When it was put away, ms.
    pub expired_ms: u64,
}

/// With which key we sign.
#[derive(Clone)]
pub struct Settings {
    /// The secret seed.
    pub seed: [u8; 32],
    /// The part of the key's id behind `ed25519:`.
    pub version: String,
    /// Keys we signed with before (`old_signing_keys`).
    pub old: Vec<OldKey>,
    /// How long others may keep our key without asking again (`key_refresh_interval`).
    pub validity: Duration,
    /// Whose word we take about keys of others (`trusted_key_servers`).
    pub notaries: Vec<Notary>,
    /// Keys we sign with as a notary, seed and version; our own if there are none (`key_server_signing_keys_path`).
    pub notary_keys: Vec<([u8; 32], String)>,
}

/// A server whose word we take about keys of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notary {
    /// Its name.
    pub name: OwnedServerName,
    /// Its keys (key id and unpadded base64) by which its answers are checked; without them TLS has to do.
    pub keys: BTreeMap<String, String>,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Settings(ed25519:{})", self.version)
    }
}

impl Settings {
    /// A fresh key.
    #[must_use]
    pub fn generate() -> Self {
        let version = format!("a_{}", crate::login::random_text(4));
        Self {
            seed: rand::random(),
            version,
            old: Vec::new(),
            validity: Duration::from_secs(24 * 3600),
            notaries: Vec::new(),
            notary_keys: Vec::new(),
        }
    }

    /// What signs in the name of this server.
    ///
    /// # Errors
    /// If the key cannot be used.
    pub fn signer(&self, server_name: OwnedServerName) -> Result<Signer> {
        Signer::new(server_name, &self.seed, &self.version)
    }

    /// The first key of a file of lines `ed25519 <version> <seed in base64>`, Synapse's `signing.key`.
    ///
    /// # Errors
    /// One sentence for the operator if there is none.
    pub fn from_key_file(text: &str) -> Result<Self> {
        let line = text.lines().find(|l| !l.trim().is_empty());
        let mut words = line.ok_or_else(|| Error::broken("the signing key file has no key"))?.split_whitespace();
        let (Some("ed25519"), Some(version), Some(seed)) = (words.next(), words.next(), words.next()) else {
            return Err(Error::broken("a line of the signing key file is not `ed25519 <version> <key>`"));
        };
        let bytes = BASE64.decode(seed).doing("reading the signing key file: the key is not base64")?;
        let seed = <[u8; 32]>::try_from(bytes.as_slice())
            .map_err(|_| Error::broken("the key in the signing key file is not 32 bytes long"))?;
        Ok(Self { seed, version: version.to_owned(), ..Self::generate() })
    }

    /// The line of a key file.
    #[must_use]
    pub fn to_key_file(&self) -> String {
        format!("ed25519 {} {}\n", self.version, BASE64.encode(self.seed))
    }
}

/// Reads a key document as we would to believe it: whose it is, the ids of the keys that sign, until when it holds, ms.
pub(crate) fn examine(json: &[u8], now_ms: i64) -> Result<(OwnedServerName, BTreeMap<String, String>, i64), String> {
    let text = std::str::from_utf8(json).map_err(|e| e.to_string())?;
    let kept = document::read(text, now_ms)?.kept;
    let signing = kept.keys.into_iter().filter(|(_, key)| !key.old).map(|(id, key)| (id, key.public_key));
    Ok((kept.server, signing.collect(), kept.valid_ms))
}

/// Keys of servers.
#[derive(Debug)]
pub struct ServerKeys {
    ours: Ours,
    theirs: Arc<Theirs>,
    /// What signs when we vouch for others.
    notary: Vec<Arc<Signer>>,
    clock: Clock,
}

impl ServerKeys {
    /// Made once, with the signer of these settings.
    ///
    /// # Errors
    /// If a key cannot be used.
    pub fn new(
        signer: Arc<Signer>,
        settings: Settings,
        federation: Arc<Federation>,
        store: Store,
        clock: Clock,
        supervisor: Supervisor,
    ) -> Result<Self> {
        let sign = |(seed, version): &([u8; 32], String)| {
            Signer::new(signer.server_name().to_owned(), seed, version).map(Arc::new)
        };
        let mut notary: Vec<Arc<Signer>> = settings.notary_keys.iter().map(sign).collect::<Result<_>>()?;
        if notary.is_empty() {
            notary.push(signer.clone());
        }
        let theirs = Theirs::new(settings.notaries.clone(), federation, store, clock.clone(), supervisor);
        Ok(Self { ours: Ours::new(signer, settings, clock.clone()), theirs: Arc::new(theirs), notary, clock })
    }

    /// What signs in our name.
    #[must_use]
    pub fn signer(&self) -> &Arc<Signer> {
        self.ours.signer()
    }

    /// The signed document of our keys, as JSON.
    ///
    /// # Errors
    /// If it cannot be signed.
    pub fn document(&self) -> Result<Bytes> {
        self.ours.document()
    }

    fn now(&self) -> i64 {
        i64::try_from(self.clock.now_ms()).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_key_file_is_read_back() {
        let settings = Settings::generate();
        let back = Settings::from_key_file(&settings.to_key_file()).unwrap();
        assert_eq!((back.seed, back.version), (settings.seed, settings.version));
        assert!(Settings::from_key_file("").is_err());
        assert!(Settings::from_key_file("rsa a b").is_err());
        assert!(Settings::from_key_file("ed25519 a_1 AAAA").is_err());
    }
}
