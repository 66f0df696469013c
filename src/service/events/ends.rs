//! Keeps the ends of a room's branches few: each new event of another server that names an old one as its predecessor is
//! another end, and every end makes the resolution of the next events dearer. An event of ours that says nothing and that
//! nobody is shown names them all, or as many as an event may name. The same is told to others when a server has come in
//! that knows only some of the ends.

use std::sync::{Arc, LazyLock};

use hearth_base::{OrNotFound, Result, ids::RoomNid};
use hearth_rules::event::{Draft, Pdu, Reference};
use hearth_store::rooms::Extremity;
use ruma::events::{TimelineEventType, room::member::MembershipState};
use serde_json::json;

use super::{Events, With};

/// Predecessors an event names at most (server-server API, "PDUs").
const MAX_PREV: usize = 20;
/// Ends of a room that are left alone.
const FEW: usize = 10;
/// Such events at a time: for more ends than any transaction brings.
const AT_ONCE: usize = 10;
/// Users of ours in whose names it is tried.
const USERS: usize = 5;
/// What other servers call such events too.
const DUMMY: &str = "org.matrix.dummy_event";

/// Whether an event only brings branches together: clients are not shown it.
#[must_use]
pub fn says_nothing(event: &Pdu) -> bool {
    static TYPE: LazyLock<TimelineEventType> = LazyLock::new(|| DUMMY.into());
    !event.is_state() && *event.event_type() == *TYPE
}

impl Events {
    /// Brings the branches of a room together if there are many, in the name of a user of ours who may.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn bring_together(self: &Arc<Self>, nid: RoomNid) -> Result<()> {
        for _ in 0..AT_ONCE {
            if !self.bring_some_together(nid).await? {
                break;
            }
        }
        Ok(())
    }

    /// Shows all ends of a room to a server that has just come in by an event which may name only some of them: what was
    /// said between its template and its join was sent to those who were there. Whoever speaks meanwhile does the same.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn show_ends(self: &Arc<Self>, nid: RoomNid) -> Result<()> {
        let told = With { unshown: true, ..With::default() };
        self.bring_ends_together(nid, 1, told).await.map(drop)
    }

    /// The same for as many as one event names; whether there may be more.
    async fn bring_some_together(self: &Arc<Self>, nid: RoomNid) -> Result<bool> {
        self.bring_ends_together(nid, FEW, With { quiet: true, ..With::default() }).await
    }

    async fn bring_ends_together(self: &Arc<Self>, nid: RoomNid, few: usize, with: With) -> Result<bool> {
        let room = self.store.room(nid).await?.or_not_found("Room")?;
        if room.head.extremities.len() <= few || self.torn.get(&nid).is_some() {
            return Ok(false);
        }
        let members = self.store.members(nid, &MembershipState::Join).await?;
        for member in members.iter().filter(|m| m.local).take(USERS) {
            let sender = self.store.user_id(member.user).await?;
            let room_id = Some(room.room_id.clone());
            let draft =
                Draft::of(room_id, sender, TimelineEventType::from(DUMMY), None, &json!({}), self.clock.now_ms())?;
            match Box::pin(self.append(nid, member.user, draft, with.clone())).await {
                Ok(_) => return Ok(true),
                Err(e) => tracing::debug!(room.id = %room.room_id, error = %e, "branches were not brought together"),
            }
        }
        self.torn.insert(nid, ());
        Ok(false)
    }
}

/// The extremities that the next event names: of too many the newest and the oldest, so that none is left for ever.
pub(super) fn some_extremities(extremities: &[Extremity]) -> Vec<Reference> {
    let mut sorted: Vec<&Extremity> = extremities.iter().collect();
    if sorted.len() > MAX_PREV {
        sorted.sort_by_key(|e| std::cmp::Reverse(e.depth));
        let oldest = sorted.split_off(sorted.len() - MAX_PREV / 2);
        sorted.truncate(MAX_PREV / 2);
        sorted.extend(oldest);
    }
    sorted.into_iter().map(|e| e.event.clone()).collect()
}
