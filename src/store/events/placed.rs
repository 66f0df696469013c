//! Events on their way into a room, with the positions that they get.

use hearth_base::ids::{RoomNid, StreamPos};
use hearth_rules::event::Pdu;

use super::{NewEvent, Standing, StoredEvent};

/// An event with its position.
pub(super) struct Placed<'a> {
    pub(super) room: RoomNid,
    pub(super) event: &'a NewEvent,
    /// Of the log if live, negative if backfilled; else unused.
    pub(super) pos: StreamPos,
}

impl Placed<'_> {
    pub(super) fn timeline_pos(&self) -> Option<i64> {
        matches!(self.event.standing, Standing::Live | Standing::Backfilled).then_some(self.pos.0)
    }

    /// The event as it stands once it is stored.
    pub(super) fn stored(&self) -> StoredEvent {
        let e = self.event;
        StoredEvent {
            nid: e.nid,
            room: self.room,
            pos: self.timeline_pos().map(StreamPos),
            depth: clamp(e.pdu.depth()),
            standing: e.standing,
            sender: e.sender,
            key: e.key,
            snap: e.snap,
            after: e.after,
            counter: e.counter,
            replaces: e.replaces,
            redacted_by: None,
            device: e.txn.as_ref().map(|t| t.0.as_str().into()),
            txn_id: e.txn.as_ref().map(|t| t.1.as_str().into()),
            relay: e.relay,
            told: e.told,
            pdu: e.pdu.clone(),
        }
    }
}

pub(super) fn clamp(depth: u64) -> i64 {
    i64::try_from(depth).unwrap_or(i64::MAX)
}

/// An event's type as a column has it: PostgreSQL has no NUL. The event itself is kept as it came.
pub(super) fn type_of(pdu: &Pdu) -> String {
    pdu.event_type().to_string().replace('\0', "\u{FFFD}")
}
