//! Our signing key and the document that publishes it (server-server API, "Publishing Keys").
//!
//! The document is signed once and served from memory until half of its time is over. Old keys stay in it, so that
//! what they signed can still be checked. Other servers' keys come with federation.

use std::{sync::Arc, time::Duration};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use hearth_base::{Doing, Error, Result, clock::Clock};
use hearth_rules::Signer;
use parking_lot::Mutex;
use ruma::{CanonicalJsonObject, ServerName};
use serde_json::json;

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
        Self { seed: rand::random(), version, old: Vec::new(), validity: Duration::from_secs(24 * 3600) }
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

/// Our key, and the document that publishes it.
#[derive(Debug)]
pub struct ServerKeys {
    signer: Arc<Signer>,
    settings: Settings,
    clock: Clock,
    /// The document, and when it is to be made anew, ms.
    document: Mutex<Option<(u64, Bytes)>>,
}

impl ServerKeys {
    /// The service for a server of this name.
    ///
    /// # Errors
    /// If the key cannot be used.
    pub fn new(server_name: &ServerName, settings: Settings, clock: Clock) -> Result<Self> {
        let signer = Arc::new(Signer::new(server_name.to_owned(), &settings.seed, &settings.version)?);
        Ok(Self { signer, settings, clock, document: Mutex::new(None) })
    }

    /// What signs in our name.
    #[must_use]
    pub fn signer(&self) -> &Arc<Signer> {
        &self.signer
    }

    /// The signed document of our keys, as JSON.
    ///
    /// # Errors
    /// If it cannot be signed.
    pub fn document(&self) -> Result<Bytes> {
        let now = self.clock.now_ms();
        let mut kept = self.document.lock();
        if let Some((renew, document)) = &*kept
            && now < *renew
        {
            return Ok(document.clone());
        }
        let validity = u64::try_from(self.settings.validity.as_millis()).unwrap_or(u64::MAX / 4);
        let document = Bytes::from(self.sign(now.saturating_add(validity))?);
        *kept = Some((now.saturating_add(validity / 2), document.clone()));
        Ok(document)
    }

    fn sign(&self, valid_until: u64) -> Result<String> {
        let old: serde_json::Map<_, _> = self
            .settings
            .old
            .iter()
            .map(|k| (k.key_id.clone(), json!({"key": k.public_key, "expired_ts": k.expired_ms})))
            .collect();
        let plain = json!({
            "server_name": self.signer.server_name(),
            "verify_keys": { self.signer.key_id(): { "key": self.signer.public_key() } },
            "old_verify_keys": old,
            "valid_until_ts": valid_until,
        });
        let mut object: CanonicalJsonObject = serde_json::from_value(plain).doing("making the key document")?;
        self.signer.sign_json(&mut object)?;
        serde_json::to_string(&object).doing("writing the key document")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use ruma::signatures::PublicKeyMap;
    use serde_json::Value;

    use super::*;

    fn keys(clock: &Clock) -> ServerKeys {
        let mut settings = Settings::generate();
        settings.old.push(OldKey { key_id: "ed25519:old".into(), public_key: "AAAA".into(), expired_ms: 5 });
        ServerKeys::new(ServerName::parse("example.org").unwrap().as_ref(), settings, clock.clone()).unwrap()
    }

    #[test]
    fn the_document_is_signed_and_made_anew_before_it_runs_out() {
        let clock = Clock::new();
        let keys = keys(&clock);
        let text = keys.document().unwrap();
        let doc: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(doc["old_verify_keys"]["ed25519:old"]["expired_ts"], 5);
        let object: CanonicalJsonObject = serde_json::from_slice(&text).unwrap();
        let public = ruma::serde::Base64::parse(keys.signer().public_key()).unwrap();
        let mut map = PublicKeyMap::new();
        map.entry("example.org".to_owned()).or_default().insert(keys.signer().key_id().to_owned(), public);
        ruma::signatures::verify_json(&map, &object).unwrap();

        clock.advance_ms(11 * 3600 * 1000);
        assert_eq!(keys.document().unwrap(), text);
        clock.advance_ms(2 * 3600 * 1000);
        let later: Value = serde_json::from_slice(&keys.document().unwrap()).unwrap();
        assert!(later["valid_until_ts"].as_u64() > doc["valid_until_ts"].as_u64());
    }

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
