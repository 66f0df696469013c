//! A document of a server's keys, as hostile as all that comes from outside: form, size, its own signature, and how long
//! it may be believed (server-server API, "Publishing Keys").

use hearth_store::server_keys::{KeyDocument, VerifyKey, VerifyKeys};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName, SigningKeyAlgorithm,
    serde::{Base64, base64::Standard},
    signatures::{to_canonical_json_string_for_signing, verify_canonical_json_bytes},
};

/// How long a document is believed at most, whatever it says itself (spec: "7 days").
const LONGEST: i64 = 7 * 24 * 3600 * 1000;
/// Bytes of a document.
pub(super) const MAX_BYTES: usize = 128 << 10;
/// Keys in it that sign, and keys that did.
const MAX_KEYS: usize = 20;
const MAX_OLD_KEYS: usize = 200;
/// Bytes of a key's id.
const MAX_KEY_ID: usize = 128;

/// A document that its server signed.
#[derive(Debug)]
pub(super) struct Document {
    pub kept: KeyDocument,
    pub object: CanonicalJsonObject,
}

/// Reads a document and checks its signature by the keys in it; `now` is ms since 1970.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(json: &str, now: i64) -> Result<Document, String> {
    if json.len() > MAX_BYTES {
        return Err(format!("it has more than {MAX_BYTES} bytes"));
    }
    let object: CanonicalJsonObject = serde_json::from_str(json).map_err(|e| format!("not canonical JSON: {e}"))?;
    let text = |key: &str| object.get(key).and_then(CanonicalJsonValue::as_str);
    let map = |key: &str| object.get(key).and_then(CanonicalJsonValue::as_object);
    let server: OwnedServerName =
        text("server_name").and_then(|s| ServerName::parse(s).ok()).ok_or("it names no server")?;
    let valid = object.get("valid_until_ts").and_then(|v| match v {
        CanonicalJsonValue::Integer(ts) => Some(i64::from(*ts)),
        _ => None,
    });
    let valid_ms = valid.ok_or("it does not say how long it holds")?.min(now.saturating_add(LONGEST));

    let current = map("verify_keys").ok_or("it has no verify_keys")?;
    let old = map("old_verify_keys");
    if current.len() > MAX_KEYS || old.is_some_and(|old| old.len() > MAX_OLD_KEYS) {
        return Err("it has too many keys".to_owned());
    }
    let mut keys = VerifyKeys::new();
    for (key_id, value) in old.into_iter().flatten() {
        let expired = match value.as_object().and_then(|o| o.get("expired_ts")) {
            Some(CanonicalJsonValue::Integer(ts)) => i64::from(*ts),
            _ => continue,
        };
        // What is of no use to us is no reason to refuse the rest.
        if let Some(public_key) = key_of(key_id, value) {
            keys.insert(key_id.clone(), VerifyKey { public_key: public_key.encode(), valid_ms: expired, old: true });
        }
    }
    let signing = to_canonical_json_string_for_signing(&object).map_err(|e| e.to_string())?;
    let signatures = map("signatures").and_then(|s| s.get(server.as_str())?.as_object());
    let mut is_signed = false;
    for (key_id, value) in current {
        let Some(public_key) = key_of(key_id, value) else { continue };
        if let Some(signature) = signatures.and_then(|s| s.get(key_id)) {
            check(&public_key, signature, &signing).map_err(|e| format!("signature {key_id}: {e}"))?;
            is_signed = true;
        }
        keys.insert(key_id.clone(), VerifyKey { public_key: public_key.encode(), valid_ms, old: false });
    }
    if !is_signed {
        return Err("it is not signed by a key in it".to_owned());
    }
    let kept = KeyDocument { server, json: json.to_owned(), valid_ms, fetched_ms: now, keys, second_hand: false };
    Ok(Document { kept, object })
}

/// Whether `server` signed an object by one of these keys (key id and unpadded base64).
pub(super) fn is_signed_by<'k>(
    object: &CanonicalJsonObject,
    server: &ServerName,
    keys: impl IntoIterator<Item = (&'k String, &'k String)>,
) -> bool {
    let Ok(signing) = to_canonical_json_string_for_signing(object) else { return false };
    let signatures = object.get("signatures").and_then(|s| s.as_object()?.get(server.as_str())?.as_object());
    let Some(signatures) = signatures else { return false };
    keys.into_iter().any(|(key_id, key)| {
        let key = Base64::<Standard>::parse(key).ok();
        let signature = signatures.get(key_id);
        key.zip(signature).is_some_and(|(key, signature)| check(&key, signature, &signing).is_ok())
    })
}

fn check(key: &Base64, signature: &CanonicalJsonValue, signing: &str) -> Result<(), String> {
    let signature = signature.as_str().and_then(|s| Base64::<Standard>::parse(s).ok()).ok_or("it is not base64")?;
    verify_canonical_json_bytes(&SigningKeyAlgorithm::Ed25519, key.as_bytes(), signature.as_bytes(), signing.as_bytes())
        .map_err(|e| e.to_string())
}

/// An ed25519 key with a sane id; others are of no use to us.
fn key_of(key_id: &str, value: &CanonicalJsonValue) -> Option<Base64> {
    let version = key_id.strip_prefix("ed25519:")?;
    let is_sane = key_id.len() <= MAX_KEY_ID && !version.is_empty() && !version.contains(|c: char| c.is_control());
    let key = Base64::<Standard>::parse(value.as_object()?.get("key")?.as_str()?).ok()?;
    (is_sane && key.as_bytes().len() == 32).then_some(key)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use hearth_rules::Signer;
    use serde_json::{Value, json};

    use super::*;

    const NOW: i64 = 1_700_000_000_000;

    fn signer() -> Signer {
        Signer::new(ServerName::parse("x.org").unwrap(), &[7; 32], "a_1").unwrap()
    }

    fn signed(change: impl FnOnce(&mut Value)) -> String {
        let signer = signer();
        let mut value = json!({
            "server_name": "x.org",
            "verify_keys": { "ed25519:a_1": { "key": signer.public_key() } },
            "old_verify_keys": { "ed25519:0": { "key": signer.public_key(), "expired_ts": 5 } },
            "valid_until_ts": NOW + 1000,
        });
        change(&mut value);
        let mut object: CanonicalJsonObject = serde_json::from_value(value).unwrap();
        signer.sign_json(&mut object).unwrap();
        serde_json::to_string(&object).unwrap()
    }

    #[test]
    fn a_good_document_gives_its_keys() {
        let document = read(&signed(|_| ()), NOW).unwrap();
        assert_eq!(document.kept.keys["ed25519:a_1"].valid_ms, NOW + 1000);
        let old = &document.kept.keys["ed25519:0"];
        assert_eq!((old.valid_ms, old.old), (5, true));
        let public = (signer().key_id().to_owned(), signer().public_key());
        let by = |name: &str, key: &(String, String)| {
            is_signed_by(&document.object, &ServerName::parse(name).unwrap(), [(&key.0, &key.1)])
        };
        assert!(by("x.org", &public));
        assert!(!by("y.org", &public));
        assert!(!by("x.org", &(public.0.clone(), "A".repeat(43))));
    }

    #[test]
    fn nobody_is_believed_for_more_than_a_week() {
        let document = read(&signed(|v| v["valid_until_ts"] = json!(9_007_199_254_740_991_i64)), NOW).unwrap();
        assert_eq!(document.kept.valid_ms, NOW + LONGEST);
    }

    #[test]
    fn hostile_documents() {
        let tampered = signed(|_| ()).replace("x.org", "y.org");
        let forged = signed(|_| ()).replace(&(NOW + 1000).to_string(), &(NOW + 2000).to_string());
        let many = signed(|v| {
            for n in 0..=MAX_KEYS {
                v["verify_keys"][format!("ed25519:{n}")] = json!({ "key": signer().public_key() });
            }
        });
        let unsigned_key = signed(|v| v["verify_keys"] = json!({ "ed25519:b": { "key": signer().public_key() } }));
        let no_key = signed(|v| v["verify_keys"] = json!({ "ed25519:a_1": { "key": "AAAA" } }));
        let float = signed(|_| ()).replace("1700000001000", "1700000001000.5");
        for bad in [tampered, forged, many, unsigned_key, no_key, float, "{}".to_owned(), "[".to_owned()] {
            assert!(read(&bad, NOW).is_err(), "{bad}");
        }
        // What we do not understand is left out, the rest stays.
        let odd = signed(|v| v["verify_keys"]["rsa:1"] = json!(5));
        assert_eq!(read(&odd, NOW).unwrap().kept.keys.len(), 2);
    }
}
