//! The `rooms` object of an answer, grown room by room.

use std::fmt::Write as _;

use hearth_base::{Error, Result};
use ruma::RoomId;

/// Rooms by what the user is in them, each a run of `"id":{…}` members.
#[derive(Debug, Default)]
pub(super) struct Sections {
    pub(super) join: String,
    pub(super) invite: String,
    pub(super) knock: String,
    pub(super) leave: String,
}

impl Sections {
    /// Writes what is there as `"rooms":{…}`; says whether there was anything.
    pub(super) fn write(&self, out: &mut String) -> Result<bool> {
        let parts = [("invite", &self.invite), ("join", &self.join), ("knock", &self.knock), ("leave", &self.leave)];
        if parts.iter().all(|(_, rooms)| rooms.is_empty()) {
            return Ok(false);
        }
        key(out, "rooms");
        out.push('{');
        let mut first = true;
        for (name, rooms) in parts.into_iter().filter(|(_, rooms)| !rooms.is_empty()) {
            if !first {
                out.push(',');
            }
            first = false;
            write!(out, "\"{name}\":{{{rooms}}}").map_err(|e| Error::fault("writing an answer", e))?;
        }
        out.push('}');
        Ok(true)
    }
}

/// Begins a room in a section.
pub(super) fn open(section: &mut String, room: &RoomId) {
    if !section.is_empty() {
        section.push(',');
    }
    section.push_str(&json_text(room.as_str()));
    section.push_str(":{");
}

/// Begins a member of an object.
pub(super) fn key(out: &mut String, name: &str) {
    if !out.is_empty() && !out.ends_with(['{', '[']) {
        out.push(',');
    }
    out.push('"');
    out.push_str(name);
    out.push_str("\":");
}

/// A member of an object whose value is a string.
pub(super) fn key_value(out: &mut String, name: &str, value: &str) {
    key(out, name);
    out.push_str(&json_text(value));
}

/// Begins a member of an object whose name a stranger chose.
pub(super) fn key_text(out: &mut String, name: &str) {
    if !out.is_empty() && !out.ends_with(['{', '[']) {
        out.push(',');
    }
    out.push_str(&json_text(name));
    out.push(':');
}

/// A string as JSON.
pub(super) fn json_text(text: &str) -> String {
    // A string always serialises.
    serde_json::to_string(text).unwrap_or_default()
}
