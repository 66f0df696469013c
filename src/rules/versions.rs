//! What differs between room versions, as one table.
//!
//! The differences themselves are ruma's [`RoomVersionRules`]; this adds which of the versions we offer and the
//! lookup by name. Every other module takes a [`RoomVersion`] and never compares version names.

use std::fmt;

use ruma::{
    RoomVersionId,
    room_version_rules::{EventIdFormatVersion, RoomVersionRules},
};

use crate::json::{MAX_INT, Numbers};

/// A room version of the specification (rooms/v1 to rooms/v12). Only ever seen as `&'static RoomVersion`.
pub struct RoomVersion {
    /// Its name.
    pub id: RoomVersionId,
    /// What it changes.
    pub rules: RoomVersionRules,
    /// Whether we take part in rooms of this version.
    pub supported: bool,
}

static TABLE: [RoomVersion; 12] = [
    RoomVersion { id: RoomVersionId::V1, rules: RoomVersionRules::V1, supported: true },
    RoomVersion { id: RoomVersionId::V2, rules: RoomVersionRules::V2, supported: true },
    RoomVersion { id: RoomVersionId::V3, rules: RoomVersionRules::V3, supported: true },
    RoomVersion { id: RoomVersionId::V4, rules: RoomVersionRules::V4, supported: true },
    RoomVersion { id: RoomVersionId::V5, rules: RoomVersionRules::V5, supported: true },
    RoomVersion { id: RoomVersionId::V6, rules: RoomVersionRules::V6, supported: true },
    RoomVersion { id: RoomVersionId::V7, rules: RoomVersionRules::V7, supported: true },
    RoomVersion { id: RoomVersionId::V8, rules: RoomVersionRules::V8, supported: true },
    RoomVersion { id: RoomVersionId::V9, rules: RoomVersionRules::V9, supported: true },
    RoomVersion { id: RoomVersionId::V10, rules: RoomVersionRules::V10, supported: true },
    RoomVersion { id: RoomVersionId::V11, rules: RoomVersionRules::V11, supported: true },
    RoomVersion { id: RoomVersionId::V12, rules: RoomVersionRules::V12, supported: true },
];

/// The version of a new room when nobody asks for another (rooms/index: "Servers SHOULD use room version 12").
pub static DEFAULT: &RoomVersion = &TABLE[11];

impl RoomVersion {
    /// The version of that name, if we take part in such rooms.
    #[must_use]
    pub fn get(id: impl AsRef<str>) -> Option<&'static Self> {
        Self::known(id).filter(|v| v.supported)
    }

    /// The version of that name, if the specification has it, even one we do not offer.
    #[must_use]
    pub fn known(id: impl AsRef<str>) -> Option<&'static Self> {
        let id = id.as_ref();
        TABLE.iter().find(|v| v.id.as_str() == id)
    }

    /// All versions we offer, oldest first.
    pub fn supported() -> impl Iterator<Item = &'static Self> {
        TABLE.iter().filter(|v| v.supported)
    }

    /// Whether the event id is the hash of the event rather than a name given by the sender (rooms/v3).
    #[must_use]
    pub fn event_id_is_hash(&self) -> bool {
        self.rules.event_id_format != EventIdFormatVersion::V1
    }

    /// Which numbers its events may have (rooms/v6, "Canonical JSON").
    #[must_use]
    pub fn numbers(&self) -> Numbers {
        if self.rules.authorization.strict_canonical_json { Numbers::Canonical } else { Numbers::Any }
    }

    /// How deep an event can be: what canonical JSON can say, and before it what 64 bits can (rooms/v1, "Event format").
    #[must_use]
    pub fn max_depth(&self) -> u64 {
        match self.numbers() {
            Numbers::Canonical => MAX_INT,
            Numbers::Any => i64::MAX.unsigned_abs(),
        }
    }

    /// Whether redactions need nobody's leave once they are in the room, as the authorisation rules asked for it
    /// (until rooms/v3).
    #[must_use]
    pub fn redactions_are_authorised(&self) -> bool {
        self.rules.authorization.special_case_room_redaction
    }

    /// Whether resolution also looks at what lies between conflicted events (rooms/v12, "Conflicted state subgraph").
    #[must_use]
    pub fn resolves_between(&self) -> bool {
        self.rules.state_res.v2_rules().is_some_and(|rules| rules.consider_conflicted_state_subgraph)
    }

    /// Whether the room id is that of the create event with another sigil (rooms/v12).
    #[must_use]
    pub fn room_id_is_create_hash(&self) -> bool {
        self.rules.authorization.room_create_event_id_as_room_id
    }

    /// Whether what a redaction redacts stands in its content instead of beside it (rooms/v11).
    #[must_use]
    pub fn redacts_in_content(&self) -> bool {
        self.rules.redaction.content_field_redacts
    }
}

impl PartialEq for RoomVersion {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for RoomVersion {}

impl fmt::Debug for RoomVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RoomVersion({})", self.id)
    }
}

impl fmt::Display for RoomVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_agrees_with_ruma() {
        for (n, version) in TABLE.iter().enumerate() {
            assert_eq!(version.id.as_str(), (n + 1).to_string());
            let theirs = version.id.rules();
            assert_eq!(format!("{:?}", Some(&version.rules)), format!("{:?}", theirs.as_ref()));
        }
        assert_eq!(DEFAULT.id, RoomVersionId::V12);
    }

    #[test]
    fn all_versions_of_the_specification_are_offered() {
        assert!(RoomVersion::get("1").is_some_and(|v| v.numbers() == Numbers::Any && v.max_depth() == (1 << 63) - 1));
        assert!(RoomVersion::get(RoomVersionId::V6).is_some_and(|v| v.max_depth() == (1 << 53) - 1));
        assert!(RoomVersion::known("org.example.13").is_none());
        assert_eq!(RoomVersion::supported().count(), 12);
    }
}
