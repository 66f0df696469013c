//! What other servers say of devices: its form, and which of it is sound.

use std::collections::BTreeMap;

use hearth_store::keys::{Usage, theirs::RemoteDevice};
use ruma::{CanonicalJsonObject, OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Bytes of a key.
const MAX_KEY: usize = 16 << 10;
/// Bytes of a device's name that are kept.
const MAX_NAME: usize = 256;

#[derive(Deserialize)]
pub(super) struct Update {
    pub(super) user_id: OwnedUserId,
    pub(super) device_id: String,
    pub(super) stream_id: i64,
    #[serde(default)]
    pub(super) prev_id: Vec<i64>,
    #[serde(default)]
    pub(super) deleted: bool,
    #[serde(default)]
    pub(super) device_display_name: Option<String>,
    #[serde(default)]
    pub(super) keys: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
pub(super) struct SigningKeys {
    pub(super) user_id: OwnedUserId,
    #[serde(default)]
    pub(super) master_key: Option<Box<RawValue>>,
    #[serde(default)]
    pub(super) self_signing_key: Option<Box<RawValue>>,
}

/// A device as an update has it.
pub(super) fn device(said: &Update) -> std::result::Result<RemoteDevice, String> {
    let keys = said.keys.as_deref().filter(|keys| is_of_device(keys, &said.user_id, &said.device_id));
    Ok(RemoteDevice {
        device_id: said.device_id.clone(),
        display_name: said.device_display_name.as_deref().map(shortened),
        json: keys.map(|keys| keys.get().to_owned()),
    })
}

/// A name as it is kept.
pub(super) fn shortened(name: &str) -> String {
    let mut short = String::new();
    for c in name.chars().filter(|c| !c.is_control()) {
        if short.len() + c.len_utf8() > MAX_NAME {
            break;
        }
        short.push(c);
    }
    short
}

/// Whether keys may be kept as those of a device. They do not say that they are of another; whether they say anything at
/// all is for clients to look at, who trust no keys that are not signed by the device they name.
pub(super) fn is_of_device(json: &RawValue, user: &UserId, device: &str) -> bool {
    #[derive(Deserialize)]
    struct Form {
        #[serde(default)]
        user_id: Option<String>,
        #[serde(default)]
        device_id: Option<String>,
    }
    is_sound(json)
        && serde_json::from_str::<Form>(json.get()).is_ok_and(|form| {
            form.user_id.is_none_or(|u| u == user.as_str()) && form.device_id.is_none_or(|d| d == device)
        })
}

/// Whether a key can be kept.
fn is_sound(json: &RawValue) -> bool {
    json.get().len() <= MAX_KEY
        && !json.get().contains("\\u0000")
        && !hearth_base::nests_too_deep(json.get().as_bytes())
        && serde_json::from_str::<CanonicalJsonObject>(json.get()).is_ok()
}

/// The cross-signing keys that are sound: of that user, for that use, one public key each.
pub(super) fn signing_keys(user: &UserId, master: Option<&RawValue>, own: Option<&RawValue>) -> Vec<(Usage, String)> {
    #[derive(Deserialize)]
    struct Form {
        user_id: String,
        usage: Vec<String>,
        keys: BTreeMap<String, String>,
    }
    let sound = |usage: Usage, json: &RawValue| {
        is_sound(json)
            && serde_json::from_str::<Form>(json.get()).is_ok_and(|form| {
                form.user_id == user.as_str() && form.keys.len() == 1 && form.usage.iter().any(|u| u == usage.as_str())
            })
    };
    [(Usage::Master, master), (Usage::SelfSigning, own)]
        .into_iter()
        .filter_map(|(usage, json)| json.filter(|json| sound(usage, json)).map(|json| (usage, json.get().to_owned())))
        .collect()
}
