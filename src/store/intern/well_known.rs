//! State keys that every room has, or is asked for.

use hearth_base::Result;

use super::{Interner, StateKey};
use crate::{
    db::{Session, Texts},
    fetch_all, sql,
};

/// State of which a room has one (client-server API, "Room events" and the modules), asked for of every room.
const WELL_KNOWN: [&str; 14] = [
    "m.room.avatar",
    "m.room.canonical_alias",
    "m.room.create",
    "m.room.encryption",
    "m.room.guest_access",
    "m.room.history_visibility",
    "m.room.join_rules",
    "m.room.name",
    "m.room.pinned_events",
    "m.room.policy",
    "m.room.power_levels",
    "m.room.server_acl",
    "m.room.tombstone",
    "m.room.topic",
];

impl Interner<StateKey> {
    /// Knows the numbers of [`WELL_KNOWN`] from the start, and which have none.
    pub(crate) async fn load(session: &mut Session) -> Result<Self> {
        let names = WELL_KNOWN.map(str::to_owned).to_vec();
        let sql = sql!("SELECT key_nid, event_type FROM state_keys WHERE state_key = '' AND event_type " [in 1]);
        let rows: Vec<(i64, String)> = fetch_all!(session, (i64, String), sql, Texts(names))?;
        let this = Self::default();
        for event_type in WELL_KNOWN {
            this.by_name.insert(StateKey::new(event_type, ""), None);
        }
        for (nid, event_type) in rows {
            this.remember(StateKey { event_type, state_key: String::new() }, nid);
        }
        Ok(this)
    }
}
