//! Cutting an event down to what its room needs to keep working (client-server API, "Redactions", and the room
//! version's own list). The event keeps its id and signatures: both are over the redacted form anyway.

use hearth_base::error::{Doing, Result};
use ruma::{CanonicalJsonObject, canonical_json::redact_in_place};

use super::{Pdu, canonical};
use crate::versions::RoomVersion;

/// The redacted form of an event's JSON. Redacting it again changes nothing.
pub fn redact(json: &str, version: &RoomVersion) -> Result<String> {
    let mut event: CanonicalJsonObject = serde_json::from_str(json).doing("reading an event to redact")?;
    redact_in_place(&mut event, &version.rules.redaction, None).doing("redacting an event")?;
    canonical::to_text(&event).doing("writing a redacted event")
}

impl Pdu {
    /// The same event, redacted; its id stays.
    pub fn redacted(&self, version: &RoomVersion) -> Result<Self> {
        let json = redact(self.json(), version)?;
        Ok(Self::parse_stored(self.event_id.clone(), json, version)?.with_rejected(self.rejected))
    }
}
