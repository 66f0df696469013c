//! Cutting an event down to what its room needs to keep working (client-server API, "Redactions", and the room
//! version's own list). The event keeps its id and signatures: both are over the redacted form anyway.

use hearth_base::error::{Doing, Result};
use ruma::room_version_rules::RedactionRules;

use super::Pdu;
use crate::{
    json::{Members, Object, Value, parse_object, write_object},
    versions::RoomVersion,
};

/// The redacted form of an event's JSON. Redacting it again changes nothing.
pub fn redact(json: &str, version: &RoomVersion) -> Result<String> {
    let mut event = parse_object(json, version.numbers()).doing("reading an event to redact")?;
    redact_in_place(&mut event, version);
    let mut out = String::with_capacity(json.len());
    write_object(&mut out, &event);
    Ok(out)
}

/// The redacted form of an event.
pub(super) fn redact_in_place(event: &mut Object, version: &RoomVersion) {
    let rules = &version.rules.redaction;
    let event_type = event.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    event.retain(|key, _| keeps_at_top(key, rules));
    if let Some(Value::Object(content)) = event.get_mut("content") {
        content.retain(|key, value| match keeps_in_content(&event_type, key, rules) {
            Keep::Whole => true,
            Keep::No => false,
            Keep::Member(name) => match value {
                Value::Object(inner) => {
                    inner.retain(|key, _| key == name);
                    true
                }
                _ => false,
            },
        });
    }
}

/// Writes what is left of a content.
pub(super) fn write_redacted_content(out: &mut String, content: &Object, event_type: &str, rules: &RedactionRules) {
    let mut members = Members::begin(out);
    for (key, value) in content {
        match (keeps_in_content(event_type, key, rules), value) {
            (Keep::Whole, value) => value.write(members.key(key)),
            (Keep::Member(name), Value::Object(inner)) => {
                let mut member = Members::begin(members.key(key));
                if let Some(value) = inner.get(name) {
                    value.write(member.key(name));
                }
                member.end();
            }
            _ => {}
        }
    }
    members.end();
}

/// Whether a property of the event itself stays.
pub(super) fn keeps_at_top(key: &str, rules: &RedactionRules) -> bool {
    match key {
        "event_id" | "type" | "room_id" | "sender" | "state_key" | "content" | "hashes" | "signatures" | "depth"
        | "prev_events" | "auth_events" | "origin_server_ts" => true,
        "origin" | "membership" | "prev_state" => rules.keep_origin_membership_prev_state,
        _ => false,
    }
}

/// What stays of a property of the content.
enum Keep {
    Whole,
    /// An object with that member alone; nothing if it is no object.
    Member(&'static str),
    No,
}

fn keeps_in_content(event_type: &str, key: &str, rules: &RedactionRules) -> Keep {
    let whole = match (event_type, key) {
        ("m.room.member", "third_party_invite") if rules.keep_room_member_third_party_invite_signed => {
            return Keep::Member("signed");
        }
        ("m.room.member", "membership")
        | ("m.room.create", "creator")
        | ("m.room.join_rules", "join_rule")
        | ("m.room.history_visibility", "history_visibility")
        | (
            "m.room.power_levels",
            "ban" | "events" | "events_default" | "kick" | "redact" | "state_default" | "users" | "users_default",
        ) => true,
        ("m.room.member", "join_authorised_via_users_server") => {
            rules.keep_room_member_join_authorised_via_users_server
        }
        ("m.room.create", _) => rules.keep_room_create_content,
        ("m.room.join_rules", "allow") => rules.keep_room_join_rules_allow,
        ("m.room.power_levels", "invite") => rules.keep_room_power_levels_invite,
        ("m.room.redaction", "redacts") => rules.keep_room_redaction_redacts,
        ("m.room.aliases", "aliases") => rules.keep_room_aliases_aliases,
        _ => false,
    };
    if whole { Keep::Whole } else { Keep::No }
}

impl Pdu {
    /// The same event, redacted; its id stays.
    pub fn redacted(&self, version: &RoomVersion) -> Result<Self> {
        let json = redact(self.json(), version)?;
        Ok(Self::parse_stored(self.event_id.clone(), json, version)?.with_rejected(self.rejected))
    }
}
