//! One user's eyes on one room: what their membership was, and what the room let be seen, at each point of its history.
//!
//! Both are read from the chains of state events that replaced each other (few, and cached), not from the state before
//! each event: a page of history costs no snapshots.

use std::{collections::HashSet, sync::Arc};

use hearth_base::{
    Requester, Result,
    ids::{StreamPos, UserNid},
};
use hearth_rules::visibility::{HistoryVisibility, Membership, Point, may_see};
use hearth_store::{Store, events::StoredEvent, rooms::Room};
use ruma::{OwnedDeviceId, OwnedUserId, UserId, events::TimelineEventType};

use crate::state::State;

/// Links followed at most; a user who came and went more often sees less of the oldest part.
const MAX_CHAIN: usize = 500;

/// What one user may see of one room.
#[derive(Debug)]
pub struct Viewer {
    /// The room.
    pub room: Arc<Room>,
    /// The user.
    pub user: UserNid,
    /// Their device, for transaction ids.
    pub device: Option<OwnedDeviceId>,
    user_id: OwnedUserId,
    /// Member events of the user, oldest first: position and what they are from there on.
    memberships: Vec<(StreamPos, String)>,
    /// History visibility events, oldest first.
    visibilities: Vec<(StreamPos, HistoryVisibility)>,
    /// The event by which they left after they had been in, if they are not in the room now.
    left_with: Option<Arc<StoredEvent>>,
    forgotten: bool,
    /// Position up to which they were joined at some later time.
    joined_until: StreamPos,
    /// Whom they do not want to hear of.
    ignored: Arc<HashSet<OwnedUserId>>,
}

impl Viewer {
    pub(super) async fn new(
        store: &Store,
        state: &State,
        who: &Requester,
        room: Arc<Room>,
        ignored: Arc<HashSet<OwnedUserId>>,
    ) -> Result<Self> {
        let current = state.current(&room).await?;
        let own = state.entry(&current, "m.room.member", who.user_id.as_str()).await?;
        let setting = state.entry(&current, "m.room.history_visibility", "").await?;
        let memberships = chain(store, own.clone()).await?;
        let visibilities = chain(store, setting).await?;
        let forgotten = match &own {
            Some(own) if !matches!(&*own.pdu.membership(), "join" | "invite" | "knock") => {
                store.membership(room.nid, who.user_nid).await?.is_some_and(|m| m.forgotten)
            }
            _ => false,
        };
        // Whatever happened to them afterwards (a ban, another invite), what they may see ends with that leave.
        let last_join = memberships.iter().rposition(|e| e.pdu.membership() == "join");
        let left_with = last_join.and_then(|n| memberships.get(n + 1)).cloned();
        let memberships: Vec<(StreamPos, String)> =
            memberships.iter().map(|e| (position(e), e.pdu.membership().into_owned())).collect();
        let mut joined_until = StreamPos(i64::MIN);
        for (n, (_, membership)) in memberships.iter().enumerate() {
            if membership == "join" {
                joined_until = memberships.get(n + 1).map_or(StreamPos(i64::MAX), |next| next.0);
            }
        }
        Ok(Self {
            room,
            user: who.user_nid,
            device: who.device_id.clone(),
            user_id: who.user_id.clone(),
            memberships,
            visibilities: visibilities.iter().map(|e| (position(e), setting_of(e))).collect(),
            left_with,
            forgotten,
            joined_until,
            ignored,
        })
    }

    /// Whose eyes.
    #[must_use]
    pub fn user_id(&self) -> &UserId {
        &self.user_id
    }

    /// Whom the user ignores.
    #[must_use]
    pub fn ignored(&self) -> &HashSet<OwnedUserId> {
        &self.ignored
    }

    /// Whether an event is one that the user does not want to hear of: state is shown whoever sets it (spec: "Ignoring
    /// Users").
    #[must_use]
    pub fn ignores(&self, event: &StoredEvent) -> bool {
        !event.pdu.is_state() && self.ignored.contains(event.pdu.sender())
    }

    /// Whether the user may see an event, and wants to.
    #[must_use]
    pub fn shows(&self, event: &StoredEvent) -> bool {
        !self.ignores(event) && self.may_see(event)
    }

    /// Whether the user may see an event.
    #[must_use]
    pub fn may_see(&self, event: &StoredEvent) -> bool {
        let pos = position(event);
        let is_own = *event.pdu.event_type() == TimelineEventType::RoomMember
            && event.pdu.state_key() == Some(self.user_id.as_str());
        let is_setting =
            *event.pdu.event_type() == TimelineEventType::RoomHistoryVisibility && event.pdu.state_key() == Some("");
        may_see(&Point {
            visibility: self
                .visibilities
                .iter()
                .rev()
                .find(|(p, _)| *p < pos)
                .map_or(HistoryVisibility::Shared, |(_, v)| *v),
            visibility_after: is_setting.then(|| setting_of(event)),
            membership: Membership::parse(self.before(pos)),
            membership_after: is_own.then(|| Membership::parse(Some(&event.pdu.membership()))),
            joined_since: pos < self.joined_until,
        })
    }

    /// The user's membership at an event, the change it makes included (spec v1.11, `unsigned.membership`).
    #[must_use]
    pub fn membership_at(&self, event: &StoredEvent) -> &str {
        let pos = position(event);
        self.memberships.iter().rev().find(|(p, _)| *p <= pos).map_or("leave", |(_, m)| m)
    }

    fn before(&self, pos: StreamPos) -> Option<&str> {
        self.memberships.iter().rev().find(|(p, _)| *p < pos).map(|(_, m)| m.as_str())
    }

    /// Whether the user is joined now.
    #[must_use]
    pub fn is_joined(&self) -> bool {
        self.memberships.last().is_some_and(|(_, m)| m == "join")
    }

    /// Since when the user is joined without a break; `None` if they are not.
    #[must_use]
    pub fn joined_since(&self) -> Option<StreamPos> {
        let run = self.memberships.iter().rev().take_while(|(_, m)| m == "join");
        run.last().map(|(pos, _)| *pos)
    }

    /// Whether the user is or was a member.
    #[must_use]
    pub fn was_ever_in(&self) -> bool {
        self.memberships.iter().any(|(_, m)| m == "join")
    }

    /// Whether they left and asked not to hear of it again.
    #[must_use]
    pub fn forgotten(&self) -> bool {
        self.forgotten
    }

    /// Whether anybody may read the room now.
    #[must_use]
    pub fn is_world_readable(&self) -> bool {
        self.visibilities.last().is_some_and(|(_, v)| super::world_readable(*v))
    }

    /// The event by which the user left, if they were in and are not now.
    #[must_use]
    pub fn left_with(&self) -> Option<&StoredEvent> {
        self.left_with.as_deref().filter(|_| !self.is_world_readable())
    }
}

/// An event and those it replaced, oldest first.
async fn chain(store: &Store, newest: Option<Arc<StoredEvent>>) -> Result<Vec<Arc<StoredEvent>>> {
    let mut out = Vec::new();
    let mut next = newest;
    while let Some(event) = next {
        next = match event.replaces {
            Some(nid) if out.len() < MAX_CHAIN => store.event(nid).await?,
            _ => None,
        };
        out.push(event);
    }
    out.reverse();
    Ok(out)
}

/// Where an event stands among those of its room; events outside the timeline stand before all.
fn position(event: &StoredEvent) -> StreamPos {
    event.pos.unwrap_or(StreamPos(i64::MIN))
}

fn setting_of(event: &StoredEvent) -> HistoryVisibility {
    #[derive(serde::Deserialize)]
    struct Content {
        history_visibility: String,
    }
    let content: Option<Content> = event.pdu.content_as();
    HistoryVisibility::parse(content.as_ref().map(|c| c.history_visibility.as_str()))
}
