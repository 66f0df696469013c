//! How an event names others in `prev_events` and `auth_events`: by their ids, and in versions 1 and 2 by pairs of id and
//! reference hash (rooms/v1, "Event format"). Nobody checks those hashes, but they belong to the form.

use std::fmt;

use ruma::{EventId, OwnedEventId, room_version_rules::EventsReferenceFormatVersion};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{IgnoredAny, SeqAccess, Visitor},
    ser::SerializeTuple,
};

use super::{Pdu, canonical};
use crate::{
    json::{parse_object, push_str},
    versions::RoomVersion,
};

/// The name of an event in another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    event_id: OwnedEventId,
    hashes: Option<Hashes>,
}

/// The hashes of a reference, as versions 1 and 2 have them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Hashes {
    sha256: Box<str>,
}

impl Reference {
    /// Which event it names.
    #[must_use]
    pub fn event_id(&self) -> &EventId {
        &self.event_id
    }

    /// The id alone.
    #[must_use]
    pub fn into_event_id(self) -> OwnedEventId {
        self.event_id
    }

    /// Whether events of that version can name others so: versions 1 and 2 need the hash.
    #[must_use]
    pub fn fits(&self, version: &RoomVersion) -> bool {
        self.hashes.is_some() || !in_pairs(version)
    }

    pub(super) fn write(&self, out: &mut String, version: &RoomVersion) {
        match &self.hashes {
            Some(hashes) if in_pairs(version) => {
                out.push('[');
                push_str(out, self.event_id.as_str());
                out.push_str(",{\"sha256\":");
                push_str(out, &hashes.sha256);
                out.push_str("}]");
            }
            _ => push_str(out, self.event_id.as_str()),
        }
    }
}

pub(super) fn in_pairs(version: &RoomVersion) -> bool {
    version.rules.events_reference_format == EventsReferenceFormatVersion::V1
}

impl From<OwnedEventId> for Reference {
    fn from(event_id: OwnedEventId) -> Self {
        Self { event_id, hashes: None }
    }
}

impl Pdu {
    /// How events of its room name this one.
    #[must_use]
    pub fn reference(&self, version: &RoomVersion) -> Reference {
        let hashes = in_pairs(version)
            .then(|| parse_object(&self.json, version.numbers()).ok())
            .flatten()
            .map(|event| Hashes { sha256: canonical::hash_base64(&canonical::redacted_text(&event, version)).into() });
        Reference { event_id: self.event_id.clone(), hashes }
    }
}

/// In the form of its version.
impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(hashes) = &self.hashes else { return self.event_id.serialize(serializer) };
        let mut pair = serializer.serialize_tuple(2)?;
        pair.serialize_element(&self.event_id)?;
        pair.serialize_element(hashes)?;
        pair.end()
    }
}

/// In either form.
impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IdOrPair;

        impl<'de> Visitor<'de> for IdOrPair {
            type Value = Reference;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event id or a pair of event id and hashes")
            }

            fn visit_str<E: serde::de::Error>(self, id: &str) -> Result<Reference, E> {
                EventId::parse(id).map(Reference::from).map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<Reference, A::Error> {
                /// Any object may stand there, with whatever hashes.
                #[derive(Deserialize)]
                #[serde(untagged)]
                enum Second {
                    Hashes(Hashes),
                    Other(IgnoredAny),
                }
                let event_id: Option<OwnedEventId> = pair.next_element()?;
                let event_id = event_id.ok_or_else(|| serde::de::Error::custom("an empty event reference"))?;
                let hashes = match pair.next_element()? {
                    Some(Second::Hashes(hashes)) => Some(hashes),
                    Some(Second::Other(_)) | None => None,
                };
                while pair.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Reference { event_id, hashes })
            }
        }

        deserializer.deserialize_any(IdOrPair)
    }
}
