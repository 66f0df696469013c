//! The texts of an event that are hashed, signed and kept (server-server API, "Signing Events"), and the size limits of
//! events (client-server API, "Size limits"). Shared by drafting, receiving and redacting.

use std::ops::Range;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedEventId, room_version_rules::EventIdFormatVersion};
use sha2::{Digest, Sha256};

use super::redaction::{keeps_at_top, write_redacted_content};
use crate::{
    json::{Members, Object, Value},
    versions::RoomVersion,
};

/// The most an event may weigh as canonical JSON with its signatures, in bytes.
pub(crate) const MAX_EVENT: usize = 65_536;
/// The most a type, state key or id may weigh, in bytes.
pub(crate) const MAX_FIELD: usize = 255;
/// The most events an event may follow.
pub(crate) const MAX_PREV: usize = 20;
/// The most events an event may be allowed by.
pub(crate) const MAX_AUTH: usize = 10;

/// How deep the content of our own events may nest. Well below the 127 levels at which JSON readers give up, so that an
/// event can still be read inside the event, transaction or answer that carries it.
pub(crate) const MAX_DEPTH: usize = 100;

/// Whether a value nests no deeper than that many levels.
pub(crate) fn is_shallow(object: &CanonicalJsonObject, levels: usize) -> bool {
    fn value_is(value: &CanonicalJsonValue, levels: usize) -> bool {
        match value {
            CanonicalJsonValue::Object(inner) => is_shallow(inner, levels),
            CanonicalJsonValue::Array(inner) => levels > 0 && inner.iter().all(|value| value_is(value, levels - 1)),
            _ => true,
        }
    }
    levels > 0 && object.values().all(|value| value_is(value, levels - 1))
}

/// The canonical text of an object that needs no loose numbers.
pub(crate) fn to_text(object: &CanonicalJsonObject) -> Result<String, serde_json::Error> {
    serde_json::to_string(object)
}

/// The canonical text of an event and where its content stands in it (empty if it has none).
pub(crate) fn event_text(event: &Object) -> (String, Range<u32>) {
    let mut out = String::with_capacity(1024);
    let mut content = 0..0;
    let mut members = Members::begin(&mut out);
    for (key, value) in event {
        let out = members.key(key);
        let start = out.len();
        value.write(out);
        if key == "content" {
            content = u32::try_from(start).unwrap_or(0)..u32::try_from(out.len()).unwrap_or(0);
        }
    }
    members.end();
    (out, content)
}

/// The text that is signed and whose hash is the event id: redacted, without `signatures` and `unsigned`
/// (server-server API, "Signing events" and "Calculating the reference hash": both are over the same text).
pub(crate) fn redacted_text(event: &Object, version: &RoomVersion) -> String {
    let rules = &version.rules.redaction;
    let event_type = event.get("type").and_then(Value::as_str).unwrap_or_default();
    let mut out = String::with_capacity(1024);
    let mut members = Members::begin(&mut out);
    for (key, value) in event.iter().filter(|(key, _)| *key != "signatures" && keeps_at_top(key, rules)) {
        let out = members.key(key);
        match value {
            Value::Object(content) if key == "content" => write_redacted_content(out, content, event_type, rules),
            other => other.write(out),
        }
    }
    members.end();
    out
}

/// The text of the content hash (server-server API, "Calculating the content hash for an event").
pub(crate) fn content_hash_text(event: &Object) -> String {
    let mut out = String::with_capacity(1024);
    let mut members = Members::begin(&mut out);
    for (key, value) in event.iter().filter(|(key, _)| !matches!(key.as_str(), "hashes" | "signatures" | "unsigned")) {
        value.write(members.key(key));
    }
    members.end();
    out
}

/// SHA-256 in unpadded standard base64, as in `hashes`.
pub(crate) fn hash_base64(text: &str) -> String {
    STANDARD_NO_PAD.encode(Sha256::digest(text))
}

/// The event id that follows from the redacted text (rooms/v3 and later).
pub(crate) fn event_id_of(redacted_text: &str, version: &RoomVersion) -> Result<OwnedEventId, ruma::IdParseError> {
    let hash = Sha256::digest(redacted_text);
    let mut id = String::with_capacity(44);
    id.push('$');
    if version.rules.event_id_format == EventIdFormatVersion::V2 {
        STANDARD_NO_PAD.encode_string(hash, &mut id);
    } else {
        URL_SAFE_NO_PAD.encode_string(hash, &mut id);
    }
    EventId::parse(id)
}

/// An event id for versions 1 and 2, where it is a name that the sender's server gives. It follows from all else in the
/// event, so that building it once more gives the same.
pub(crate) fn event_name(text: &str, server_name: &str) -> Result<OwnedEventId, ruma::IdParseError> {
    let mut id = String::with_capacity(48 + server_name.len());
    id.push('$');
    URL_SAFE_NO_PAD.encode_string(Sha256::digest(text), &mut id);
    id.push(':');
    id.push_str(server_name);
    EventId::parse(id)
}
