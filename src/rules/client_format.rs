//! Events as clients see them (client-server API, "Room event format"), spliced from the signed text: content is copied
//! as it stands and never parsed, which is what makes long timelines cheap.
//!
//! What goes into `unsigned` is found out by the caller and written here. Filtering by `event_fields` is the slow way
//! round, for the few clients that ask for it.

use ruma::{EventId, UserId, events::TimelineEventType};
use serde::Deserialize;

use crate::{
    event::{Pdu, Text},
    json::{push_int, push_str},
};

pub mod fields;

pub use fields::EventFields;

/// What the server adds to an event for one reader. Every field is left out when it is `None`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unsigned<'a> {
    /// Milliseconds since it was sent; negative if the sender's clock is ahead.
    pub age_ms: Option<i64>,
    /// The transaction id under which this very device sent it.
    pub transaction_id: Option<&'a str>,
    /// The reader's membership at the event, including the change it makes (`leave` for none).
    pub membership: Option<&'a str>,
    /// Content of the state event it replaced, as JSON; only if the reader may see that event.
    pub prev_content: Option<&'a str>,
    /// Sender of the state event it replaced.
    pub prev_sender: Option<&'a UserId>,
    /// The state event it replaced.
    pub replaces_state: Option<&'a EventId>,
    /// The redaction that took its content, as JSON in client form.
    pub redacted_because: Option<&'a str>,
    /// Its id.
    pub redacted_by: Option<&'a EventId>,
    /// Bundled aggregations: the value of `m.relations`, as JSON.
    pub relations: Option<&'a str>,
    /// Anything else: key, and value as JSON. Unstable features put theirs here.
    pub more: &'a [(&'a str, &'a str)],
}

/// Appends an event in client form, with `room_id` or, as in `/sync`, without.
pub fn write_client_event(out: &mut String, pdu: &Pdu, with_room_id: bool, unsigned: &Unsigned<'_>) {
    out.reserve(pdu.content_json().len() + 384);
    out.push_str("{\"content\":");
    let redacts = pdu.redacts();
    match redacts {
        Some(redacts) => push_redaction_content(out, pdu, redacts),
        None => out.push_str(pdu.content_json()),
    }
    out.push_str(",\"event_id\":");
    push_str(out, pdu.event_id().as_str());
    out.push_str(",\"origin_server_ts\":");
    push_int(out, pdu.origin_server_ts());
    if let Some(redacts) = redacts {
        // Older clients look here in every room version (rooms/v11, "Moving the redacts property").
        out.push_str(",\"redacts\":");
        push_str(out, redacts.as_str());
    }
    if with_room_id {
        out.push_str(",\"room_id\":");
        push_str(out, pdu.room_id().as_str());
    }
    out.push_str(",\"sender\":");
    push_str(out, pdu.sender().as_str());
    if let Some(state_key) = pdu.state_key() {
        out.push_str(",\"state_key\":");
        push_str(out, state_key);
    }
    out.push_str(",\"type\":");
    push_type(out, pdu);
    push_unsigned(out, unsigned);
    out.push('}');
}

/// Appends an event as other servers get it, for clients that ask for that (`event_format` of a filter); with its id, which
/// since room version 3 does not stand in it.
pub fn write_federation_event(out: &mut String, pdu: &Pdu, id_is_hash: bool) {
    let json = pdu.json();
    match json.strip_prefix('{').filter(|_| id_is_hash) {
        Some(rest) => {
            out.push_str("{\"event_id\":");
            push_str(out, pdu.event_id().as_str());
            out.push(',');
            out.push_str(rest);
        }
        None => out.push_str(json),
    }
}

/// Appends a state event in stripped form, as invites and knocks show it (client-server API, "Stripped state"). With
/// `origin_server_ts` it is the form of `children_state` in space hierarchies, which by custom names the room too. Nothing
/// is written for other events.
pub fn write_stripped(out: &mut String, pdu: &Pdu, with_origin_server_ts: bool) {
    let Some(state_key) = pdu.state_key() else { return };
    out.reserve(pdu.content_json().len() + 192);
    out.push_str("{\"content\":");
    out.push_str(pdu.content_json());
    if with_origin_server_ts {
        out.push_str(",\"origin_server_ts\":");
        push_int(out, pdu.origin_server_ts());
        out.push_str(",\"room_id\":");
        push_str(out, pdu.room_id().as_str());
    }
    out.push_str(",\"sender\":");
    push_str(out, pdu.sender().as_str());
    out.push_str(",\"state_key\":");
    push_str(out, state_key);
    out.push_str(",\"type\":");
    push_type(out, pdu);
    out.push('}');
}

/// Appends `,"unsigned":{…}`, or nothing if it would be empty.
fn push_unsigned(out: &mut String, unsigned: &Unsigned<'_>) {
    let before = out.len();
    out.push_str(",\"unsigned\":{");
    let empty = out.len();
    let next = |out: &mut String, key: &str| {
        if out.len() > empty {
            out.push(',');
        }
        push_str(out, key);
        out.push(':');
    };
    if let Some(age) = unsigned.age_ms {
        next(out, "age");
        out.push_str(itoa::Buffer::new().format(age));
    }
    let raw = [
        ("m.relations", unsigned.relations),
        ("prev_content", unsigned.prev_content),
        ("redacted_because", unsigned.redacted_because),
    ];
    for (key, json) in raw.into_iter().filter_map(|(key, json)| Some((key, json?))).chain(unsigned.more.iter().copied())
    {
        next(out, key);
        out.push_str(json);
    }
    let strings = [
        ("membership", unsigned.membership),
        // Not in the specification; servers have told it at all times.
        ("redacted_by", unsigned.redacted_by.map(EventId::as_str)),
        ("prev_sender", unsigned.prev_sender.map(UserId::as_str)),
        ("replaces_state", unsigned.replaces_state.map(EventId::as_str)),
        ("transaction_id", unsigned.transaction_id),
    ];
    for (key, value) in strings.into_iter().filter_map(|(key, value)| Some((key, value?))) {
        next(out, key);
        push_str(out, value);
    }
    if out.len() == empty {
        out.truncate(before);
    } else {
        out.push('}');
    }
}

fn push_type(out: &mut String, pdu: &Pdu) {
    match pdu.event_type() {
        TimelineEventType::RoomMessage => out.push_str("\"m.room.message\""),
        TimelineEventType::RoomEncrypted => out.push_str("\"m.room.encrypted\""),
        TimelineEventType::RoomMember => out.push_str("\"m.room.member\""),
        other => push_str(out, &other.to_string()),
    }
}

/// The content of a redaction, with `redacts` in it also where the room version puts that beside the content.
fn push_redaction_content(out: &mut String, pdu: &Pdu, redacts: &EventId) {
    #[derive(Deserialize)]
    struct Redaction<'a> {
        #[serde(borrow)]
        redacts: Option<Text<'a>>,
    }
    let content = pdu.content_json();
    match serde_json::from_str::<Redaction<'_>>(content) {
        Ok(Redaction { redacts: Some(text) }) if *text.0 == *redacts.as_str() => out.push_str(content),
        Ok(Redaction { redacts: None }) if !content.contains("\"redacts\"") => {
            out.push_str("{\"redacts\":");
            push_str(out, redacts.as_str());
            let rest = content.get(1..).unwrap_or("}");
            if rest != "}" {
                out.push(',');
            }
            out.push_str(rest);
        }
        // Something else stands under that name, and two of a name cannot be.
        _ => {
            let mut content = pdu.content_as::<serde_json::Map<String, serde_json::Value>>().unwrap_or_default();
            content.insert("redacts".to_owned(), serde_json::Value::String(redacts.to_string()));
            out.push_str(&serde_json::Value::Object(content).to_string());
        }
    }
}

#[cfg(test)]
mod tests;
