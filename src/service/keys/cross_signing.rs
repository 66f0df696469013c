//! Cross-signing: users' own signing keys, and signatures by them (spec: end-to-end encryption, "Cross-signing").
//!
//! What is stored here verifies: self-signing and user-signing keys are signed by the master key, devices by the
//! self-signing key, one's own master key by one's devices, others' master keys by the user-signing key.

use std::collections::BTreeMap;

use hearth_base::{Error, Result, ids::UserNid, requester::Requester};
use hearth_store::keys::{CrossSigned, NewCrossSigningKey, NewSignature, Usage, UserKeys};
use http::StatusCode;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedUserId, SigningKeyAlgorithm,
    serde::{Base64, base64::Standard},
    signatures::{to_canonical_json_string_for_signing, verify_canonical_json_bytes},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};

use super::{Keys, keep_signatures_of};

/// A user's new signing keys (`POST /keys/device_signing/upload`).
#[derive(Debug, Default)]
pub struct NewSigningKeys {
    /// The master key.
    pub master: Option<Box<RawValue>>,
    /// Signed by the master key.
    pub self_signing: Option<Box<RawValue>>,
    /// Signed by the master key.
    pub user_signing: Option<Box<RawValue>>,
}

/// What became of new signing keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SigningKeysUploaded {
    /// They are published.
    Done,
    /// They would change who the user is: to be repeated once they have authenticated themselves.
    NeedsAuth,
}

/// Why a signature was not stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SignatureFailure {
    /// E.g. `M_INVALID_SIGNATURE`.
    pub errcode: &'static str,
    /// A sentence for humans.
    pub error: &'static str,
}

/// By user and key: why its signatures were not stored.
pub type SignatureFailures = BTreeMap<OwnedUserId, BTreeMap<String, SignatureFailure>>;

/// Signed keys by user and device id or public key (`POST /keys/signatures/upload`).
pub type SignedKeys = BTreeMap<OwnedUserId, BTreeMap<String, Box<RawValue>>>;

/// Signatures checked in a request; a check costs a tenth of a millisecond.
const MAX_SIGNATURES: usize = 250;

fn invalid_signature(error: &'static str) -> Error {
    Error::told(StatusCode::BAD_REQUEST, "M_INVALID_SIGNATURE", error)
}

/// The parts of a cross-signing key that are ours to check.
#[derive(Deserialize)]
struct Form {
    user_id: String,
    usage: Vec<String>,
    keys: BTreeMap<String, String>,
    #[serde(default)]
    signatures: BTreeMap<String, BTreeMap<String, String>>,
}

/// A signed object, ready for checking its signatures.
struct Signed {
    object: CanonicalJsonObject,
    text: String,
}

impl Signed {
    fn parse(json: &str) -> Option<Self> {
        let object: CanonicalJsonObject = serde_json::from_str(json).ok()?;
        let text = to_canonical_json_string_for_signing(&object).ok()?;
        Some(Self { object, text })
    }

    /// The signatures of a user: key id and signature.
    fn signatures_of(&self, user: &str) -> impl Iterator<Item = (&str, &str)> {
        let all = self.object.get("signatures").and_then(CanonicalJsonValue::as_object);
        let of_user = all.and_then(|all| all.get(user)).and_then(CanonicalJsonValue::as_object);
        of_user.into_iter().flatten().filter_map(|(id, signature)| Some((id.as_str(), signature.as_str()?)))
    }

    fn signature(&self, user: &str, key_id: &str) -> Option<&str> {
        self.signatures_of(user).find(|(id, _)| *id == key_id).map(|(_, signature)| signature)
    }

    /// Whether a signature is by that ed25519 key, unpadded base64.
    fn is_signed_by(&self, public_key: &str, signature: &str) -> bool {
        let (Ok(key), Ok(signature)) = (Base64::<Standard>::parse(public_key), Base64::<Standard>::parse(signature))
        else {
            return false;
        };
        let checked = verify_canonical_json_bytes(
            &SigningKeyAlgorithm::Ed25519,
            key.as_bytes(),
            signature.as_bytes(),
            self.text.as_bytes(),
        );
        checked.is_ok()
    }
}

impl Keys {
    /// Publishes the requester's signing keys. The first ones, and the same ones again, come freely; others only if
    /// the user is `authenticated` anew. Appservices answer for their users.
    ///
    /// # Errors
    /// 400 `M_INVALID_SIGNATURE`, `M_MISSING_PARAM` without a master key, `M_INVALID_PARAM` for keys of a wrong form;
    /// 403 for a key named like a device.
    pub async fn upload_signing_keys(
        &self,
        requester: &Requester,
        keys: &NewSigningKeys,
        authenticated: bool,
    ) -> Result<SigningKeysUploaded> {
        let given = [
            (Usage::Master, &keys.master),
            (Usage::SelfSigning, &keys.self_signing),
            (Usage::UserSigning, &keys.user_signing),
        ];
        let mut new: Vec<NewCrossSigningKey> = Vec::new();
        for (usage, raw) in given {
            if let Some(raw) = raw {
                new.push(self.signing_key(requester, usage, raw)?);
            }
        }
        if new.is_empty() {
            return Ok(SigningKeysUploaded::Done);
        }
        let had = self.store.keys_of(requester.user_nid).await?;
        let master = match new.iter().find(|k| k.usage == Usage::Master) {
            Some(master) => Some(master.public.clone()),
            None => had.cross_signing(Usage::Master).map(|k| k.public.clone()),
        };
        let master = master.ok_or_else(|| Error::missing_param("There is no master key to sign the others"))?;
        for key in new.iter().filter(|k| k.usage != Usage::Master) {
            if key.public == master {
                return Err(Error::invalid_param("Each signing key must be another"));
            }
            let signed = Signed::parse(&key.json).ok_or_else(|| Error::bad_json("A signing key is not signable"))?;
            let signature = signed.signature(requester.user_id.as_str(), &format!("ed25519:{master}"));
            if !signature.is_some_and(|signature| signed.is_signed_by(&master, signature)) {
                return Err(invalid_signature("The master key has not signed that key"));
            }
        }
        let may_replace = authenticated || requester.appservice.is_some();
        match self.store.put_cross_signing_keys(requester.user_nid, new, may_replace).await? {
            CrossSigned::Done => Ok(SigningKeysUploaded::Done),
            CrossSigned::WouldReplace => Ok(SigningKeysUploaded::NeedsAuth),
            CrossSigned::NameTaken => Err(Error::forbidden("One of the user's devices is named like this key")),
        }
    }

    /// Checks the form of a signing key.
    fn signing_key(&self, requester: &Requester, usage: Usage, raw: &RawValue) -> Result<NewCrossSigningKey> {
        let what = usage.as_str();
        self.check_size(raw)?;
        let form: Form = serde_json::from_str(raw.get()).map_err(|e| Error::bad_json(format!("{what} key: {e}")))?;
        if form.user_id != requester.user_id.as_str() {
            return Err(Error::invalid_param(format!("The {what} key names another user")));
        }
        if !form.usage.iter().any(|usage| usage == what) {
            return Err(Error::invalid_param(format!("The {what} key does not name its usage")));
        }
        let mut keys = form.keys.iter();
        let (Some((id, public)), None) = (keys.next(), keys.next()) else {
            return Err(Error::invalid_param(format!("The {what} key must have exactly one public key")));
        };
        let bytes = Base64::<Standard>::parse(public).map(Base64::into_inner).unwrap_or_default();
        if id.strip_prefix("ed25519:") != Some(public.as_str()) || bytes.len() != 32 {
            return Err(Error::invalid_param(format!("The {what} key must be an ed25519 key under its own name")));
        }
        let mut object: Map<String, Value> =
            serde_json::from_str(raw.get()).map_err(|e| Error::bad_json(format!("{what} key: {e}")))?;
        object.shift_remove("unsigned");
        keep_signatures_of(&mut object, &requester.user_id, form.signatures.keys());
        let json = serde_json::to_string(&object).map_err(|e| Error::fault("writing a key", e))?;
        if Signed::parse(&json).is_none() {
            return Err(Error::bad_json(format!("The {what} key is not canonical JSON")));
        }
        Ok(NewCrossSigningKey { usage, public: public.clone(), json })
    }

    /// Stores the requester's signatures on their own devices and master key, and on others' master keys, as far as
    /// they verify; says which do not.
    ///
    /// # Errors
    /// 413 for too many at once.
    pub async fn upload_signatures(&self, requester: &Requester, signed: SignedKeys) -> Result<SignatureFailures> {
        if signed.values().map(BTreeMap::len).sum::<usize>() > MAX_SIGNATURES {
            return Err(Error::too_large("Too many signatures at once"));
        }
        let users: Vec<OwnedUserId> = signed.keys().cloned().collect();
        let nids: BTreeMap<OwnedUserId, UserNid> = self.store.user_nids(&users).await?.into_iter().collect();
        let mut to_load: Vec<UserNid> = nids.values().copied().collect();
        to_load.push(requester.user_nid);
        let all = self.store.user_keys(&to_load).await?;
        let own = all.get(&requester.user_nid).cloned().unwrap_or_default();
        let (mut good, mut failures) = (Vec::new(), SignatureFailures::new());
        for (user, keys) in signed {
            let target = nids.get(&user).and_then(|nid| Some((*nid, &**all.get(nid)?)));
            for (name, raw) in keys {
                let checked = match target {
                    _ if good.len() > MAX_SIGNATURES => Err(failure("M_TOO_LARGE", "Too many signatures at once")),
                    _ if raw.get().len() > self.settings.max_key_bytes => {
                        Err(failure("M_TOO_LARGE", "The key is too large"))
                    }
                    None => Err(failure("M_NOT_FOUND", "Unknown user")),
                    Some((nid, _)) if requester.is(&user) => own_key(requester, nid, &own, &name, &raw),
                    Some((nid, keys)) => others_key(requester, &own, nid, keys, &name, &raw),
                };
                match checked {
                    Ok(signatures) => good.extend(signatures),
                    Err(failure) => drop(failures.entry(user.clone()).or_default().insert(name, failure)),
                }
            }
        }
        self.store.put_signatures(requester.user_nid, good).await?;
        Ok(failures)
    }
}

fn failure(errcode: &'static str, error: &'static str) -> SignatureFailure {
    SignatureFailure { errcode, error }
}

/// The signed object, if it says what the stored key says.
fn same_as_stored(raw: &RawValue, stored: &RawValue) -> std::result::Result<Signed, SignatureFailure> {
    let signed = Signed::parse(raw.get()).ok_or(failure("M_BAD_JSON", "Not a signed JSON object"))?;
    match Signed::parse(stored.get()) {
        Some(stored) if stored.text == signed.text => Ok(signed),
        _ => Err(failure("M_INVALID_SIGNATURE", "The key is not the one that was published")),
    }
}

/// Signatures on the requester's own device, by their self-signing key, or on their master key, by their devices.
fn own_key(
    requester: &Requester,
    user: UserNid,
    own: &UserKeys,
    name: &str,
    raw: &RawValue,
) -> std::result::Result<Vec<NewSignature>, SignatureFailure> {
    let user_id = requester.user_id.as_str();
    if let Some(device) = own.devices.get(name) {
        let by = own.cross_signing(Usage::SelfSigning).ok_or(failure("M_NOT_FOUND", "There is no self-signing key"))?;
        let signed = same_as_stored(raw, device)?;
        return Ok(vec![checked(&signed, user_id, user, name, &format!("ed25519:{}", by.public), &by.public)?]);
    }
    let Some(master) = own.cross_signing(Usage::Master).filter(|master| master.public == name) else {
        return Err(failure("M_NOT_FOUND", "Unknown device or master key"));
    };
    let signed = same_as_stored(raw, &master.json)?;
    let mut signatures = Vec::new();
    for (key_id, _) in signed.signatures_of(user_id).take(MAX_SIGNATURES) {
        let device = key_id.strip_prefix("ed25519:").and_then(|device| own.devices.get(device));
        // Signatures by what is no device, such as the master key itself, say nothing here.
        let Some(key) = device.and_then(|json| ed25519_of(json, key_id)) else { continue };
        signatures.push(checked(&signed, user_id, user, name, key_id, &key)?);
    }
    if signatures.is_empty() {
        return Err(failure("M_INVALID_SIGNATURE", "None of the user's devices has signed the key"));
    }
    Ok(signatures)
}

/// A signature on another user's master key, by the requester's user-signing key.
fn others_key(
    requester: &Requester,
    own: &UserKeys,
    target: UserNid,
    keys: &UserKeys,
    name: &str,
    raw: &RawValue,
) -> std::result::Result<Vec<NewSignature>, SignatureFailure> {
    let Some(master) = keys.cross_signing(Usage::Master).filter(|master| master.public == name) else {
        return Err(failure("M_NOT_FOUND", "Unknown master key"));
    };
    let by = own.cross_signing(Usage::UserSigning).ok_or(failure("M_NOT_FOUND", "There is no user-signing key"))?;
    let signed = same_as_stored(raw, &master.json)?;
    let key_id = format!("ed25519:{}", by.public);
    Ok(vec![checked(&signed, requester.user_id.as_str(), target, name, &key_id, &by.public)?])
}

/// One signature, if it is there and verifies.
fn checked(
    signed: &Signed,
    signer: &str,
    target: UserNid,
    name: &str,
    key_id: &str,
    public_key: &str,
) -> std::result::Result<NewSignature, SignatureFailure> {
    let signature = signed.signature(signer, key_id).filter(|signature| signed.is_signed_by(public_key, signature));
    let signature = signature.ok_or(failure("M_INVALID_SIGNATURE", "Invalid signature"))?;
    Ok(NewSignature { target, target_key: name.to_owned(), key_id: key_id.to_owned(), signature: signature.to_owned() })
}

/// The public key that a device has under that id.
fn ed25519_of(device_keys: &RawValue, key_id: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Device {
        keys: BTreeMap<String, String>,
    }
    let mut device: Device = serde_json::from_str(device_keys.get()).ok()?;
    device.keys.remove(key_id)
}
