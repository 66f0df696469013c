//! Our signing key and the document that publishes it (server-server API, "Publishing Keys").
//!
//! The document is signed once and served from memory until half of its time is over. Old keys stay in it, so that
//! what they signed can still be checked.

use std::sync::Arc;

use bytes::Bytes;
use hearth_base::{Doing, Result, clock::Clock};
use hearth_rules::Signer;
use hearth_store::server_keys::{VerifyKey, VerifyKeys};
use parking_lot::Mutex;
use ruma::CanonicalJsonObject;
use serde_json::json;

use super::Settings;

/// Our key, and the document that publishes it.
#[derive(Debug)]
pub(super) struct Ours {
    signer: Arc<Signer>,
    settings: Settings,
    clock: Clock,
    /// The document, and when it is to be made anew, ms.
    document: Mutex<Option<(u64, Bytes)>>,
}

impl Ours {
    pub fn new(signer: Arc<Signer>, settings: Settings, clock: Clock) -> Self {
        Self { signer, settings, clock, document: Mutex::new(None) }
    }

    /// Our keys as those of others are kept.
    pub fn verify_keys(&self) -> VerifyKeys {
        let now = VerifyKey { public_key: self.signer.public_key(), valid_ms: i64::MAX, old: false };
        let old = self.settings.old.iter().map(|k| {
            let valid_ms = i64::try_from(k.expired_ms).unwrap_or(i64::MAX);
            (k.key_id.clone(), VerifyKey { public_key: k.public_key.clone(), valid_ms, old: true })
        });
        old.chain([(self.signer.key_id().to_owned(), now)]).collect()
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
    use ruma::{ServerName, signatures::PublicKeyMap};
    use serde_json::Value;

    use super::*;
    use crate::server_keys::OldKey;

    fn keys(clock: &Clock) -> Ours {
        let mut settings = Settings::generate();
        settings.old.push(OldKey { key_id: "ed25519:old".into(), public_key: "AAAA".into(), expired_ms: 5 });
        let signer = settings.signer(ServerName::parse("example.org").unwrap()).unwrap();
        Ours::new(Arc::new(signer), settings, clock.clone())
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
}
