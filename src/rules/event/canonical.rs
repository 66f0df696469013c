//! Canonical JSON as text (appendices, "Canonical JSON") and the size limits of events (client-server API,
//! "Size limits"). Shared by drafting, receiving and redacting.

use std::ops::Range;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedEventId, canonical_json::RedactingSerializer,
    room_version_rules::EventIdFormatVersion,
};
use sha2::{Digest, Sha256};

use crate::versions::RoomVersion;

/// The most an event may weigh as canonical JSON with its signatures, in bytes.
pub(crate) const MAX_EVENT: usize = 65_536;
/// The most a type, state key or id may weigh, in bytes.
pub(crate) const MAX_FIELD: usize = 255;
/// The most events an event may follow.
pub(crate) const MAX_PREV: usize = 20;
/// The most events an event may be allowed by.
pub(crate) const MAX_AUTH: usize = 10;
/// The largest integer of canonical JSON.
pub(crate) const MAX_INT: u64 = (1 << 53) - 1;

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

/// Appends a JSON string with its quotes.
pub(crate) fn push_str(out: &mut String, s: &str) {
    out.push('"');
    let mut from = 0;
    for (at, byte) in s.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            0x08 => "\\b",
            0x09 => "\\t",
            0x0a => "\\n",
            0x0c => "\\f",
            0x0d => "\\r",
            0x00..=0x1f => "",
            _ => continue,
        };
        out.push_str(s.get(from..at).unwrap_or_default());
        from = at + 1;
        if escape.is_empty() {
            out.push_str("\\u00");
            for nibble in [byte >> 4, byte & 15] {
                out.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
            }
        } else {
            out.push_str(escape);
        }
    }
    out.push_str(s.get(from..).unwrap_or_default());
    out.push('"');
}

/// Appends an unsigned number.
pub(crate) fn push_int(out: &mut String, n: u64) {
    out.push_str(itoa::Buffer::new().format(n));
}

/// The canonical text of an object.
pub(crate) fn to_text(object: &CanonicalJsonObject) -> Result<String, serde_json::Error> {
    serde_json::to_string(object)
}

/// The canonical text of an event and where its content stands in it (empty if it has none).
pub(crate) fn event_text(event: &CanonicalJsonObject) -> Result<(String, Range<u32>), serde_json::Error> {
    let mut out = Vec::with_capacity(1024);
    let mut content = 0..0;
    out.push(b'{');
    for (key, value) in event {
        if out.len() > 1 {
            out.push(b',');
        }
        serde_json::to_writer(&mut out, key)?;
        out.push(b':');
        let start = out.len();
        serde_json::to_writer(&mut out, value)?;
        if key == "content" {
            content = u32::try_from(start).unwrap_or(0)..u32::try_from(out.len()).unwrap_or(0);
        }
    }
    out.push(b'}');
    let text = String::from_utf8(out).map_err(serde::ser::Error::custom)?;
    Ok((text, content))
}

/// The text that is signed and whose hash is the event id: redacted, without `signatures` and `unsigned`
/// (server-server API, "Signing events" and "Calculating the reference hash": both are over the same text).
pub(crate) fn redacted_text(event: &CanonicalJsonObject, version: &RoomVersion) -> Result<String, serde_json::Error> {
    RedactingSerializer::new()
        .rules(&version.rules.redaction)
        .custom_redacted_root_fields(&["signatures", "unsigned"])
        .serialize(event)
}

/// The text of the content hash (server-server API, "Calculating the content hash for an event").
pub(crate) fn content_hash_text(event: &CanonicalJsonObject) -> Result<String, serde_json::Error> {
    RedactingSerializer::new().custom_redacted_root_fields(&["hashes", "signatures", "unsigned"]).serialize(event)
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
