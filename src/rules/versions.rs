//! What differs between room versions, as one table.
//!
//! The differences themselves are ruma's [`RoomVersionRules`]; this adds which of the versions we offer and the
//! lookup by name. Every other module takes a [`RoomVersion`] and never compares version names.

use std::fmt;

use ruma::{
    RoomVersionId,
    room_version_rules::{EventIdFormatVersion, RoomVersionRules},
};

/// A room version of the specification (rooms/v1 to rooms/v12). Only ever seen as `&'static RoomVersion`.
pub struct RoomVersion {
    /// Its name.
    pub id: RoomVersionId,
    /// What it changes.
    pub rules: RoomVersionRules,
    /// Whether we take part in rooms of this version. Versions 1 to 5 allow numbers that canonical JSON does
    /// not have (rooms/v6, "Canonical JSON"), which we would lose, so we stay away from them.
    pub supported: bool,
}

static TABLE: [RoomVersion; 12] = [
    RoomVersion { id: RoomVersionId::V1, rules: RoomVersionRules::V1, supported: false },
    RoomVersion { id: RoomVersionId::V2, rules: RoomVersionRules::V2, supported: false },
    RoomVersion { id: RoomVersionId::V3, rules: RoomVersionRules::V3, supported: false },
    RoomVersion { id: RoomVersionId::V4, rules: RoomVersionRules::V4, supported: false },
    RoomVersion { id: RoomVersionId::V5, rules: RoomVersionRules::V5, supported: false },
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
    fn old_versions_are_known_but_not_offered() {
        assert!(RoomVersion::get("5").is_none());
        assert!(RoomVersion::known("5").is_some());
        assert!(RoomVersion::get(RoomVersionId::V6).is_some());
        assert!(RoomVersion::known("org.example.13").is_none());
        assert_eq!(RoomVersion::supported().count(), 7);
    }
}
