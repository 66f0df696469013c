//! One user's eyes on one room: what their membership was, and what the room let be seen, at each point of its history.
//!
//! Where history is one line, both are read from the chains of state events that replaced each other (few, and cached):
//! a page of history costs no snapshots. Where it forks, what replaced what is not what stood at an event; then the state
//! before each event tells, read once for all events that share it.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use hearth_base::{
    Requester, Result,
    ids::{KeyNid, SnapNid, StreamPos, UserNid},
    stream::HistoryToken,
};
use hearth_rules::visibility::{HistoryVisibility, Membership, Point, may_see};
use hearth_store::{Store, events::StoredEvent, rooms::Room};
use parking_lot::Mutex;
use ruma::{
    OwnedDeviceId, OwnedUserId, UserId,
    events::{TimelineEventType, room::member::MembershipState},
};

use crate::{events::says_nothing, state::State};

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
    /// History visibility events, oldest first; where history forks, only the present one.
    visibilities: Vec<(StreamPos, HistoryVisibility)>,
    /// The event by which they left after they had been in, if they are not in the room now.
    left_with: Option<Arc<StoredEvent>>,
    forgotten: bool,
    /// Up to where in history they were joined at some later time.
    joined_until: HistoryToken,
    /// Whom they do not want to hear of.
    ignored: Arc<HashSet<OwnedUserId>>,
    /// What states say, if history forks.
    states: Option<States>,
}

/// What stood at points of a history that forks.
#[derive(Debug)]
struct States {
    store: Store,
    own: Option<KeyNid>,
    setting: Option<KeyNid>,
    read: Mutex<HashMap<SnapNid, At>>,
}

/// What a state says to a viewer.
#[derive(Clone, Debug)]
struct At {
    visibility: HistoryVisibility,
    membership: Option<Arc<StoredEvent>>,
}

impl States {
    async fn at(&self, snap: SnapNid) -> Result<At> {
        if let Some(at) = self.read.lock().get(&snap) {
            return Ok(at.clone());
        }
        let state = self.store.snapshot(snap).await?;
        let entry = async |key: Option<KeyNid>| match key.and_then(|key| state.get(&key)) {
            Some(nid) => self.store.event(*nid).await,
            None => Ok(None),
        };
        let at = At {
            visibility: entry(self.setting).await?.map_or(HistoryVisibility::Shared, |e| setting_of(&e)),
            membership: entry(self.own).await?,
        };
        self.read.lock().insert(snap, at.clone());
        Ok(at)
    }
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
        let own = match state.entry(&current, "m.room.member", who.user_id.as_str()).await? {
            Some(own) => Some(own),
            None => left(store, &room, who.user_nid).await?,
        };
        let setting = state.entry(&current, "m.room.history_visibility", "").await?;
        let memberships = chain(store, own.clone()).await?;
        let (visibilities, states) = if room.head.forked {
            let states = States {
                store: store.clone(),
                own: store.key_nid("m.room.member", who.user_id.as_str()).await?,
                setting: store.key_nid("m.room.history_visibility", "").await?,
                read: Mutex::default(),
            };
            (setting.into_iter().collect(), Some(states))
        } else {
            (chain(store, setting).await?, None)
        };
        let forgotten = match &own {
            Some(own) if !matches!(&*own.pdu.membership(), "join" | "invite" | "knock") => {
                store.membership(room.nid, who.user_nid).await?.is_some_and(|m| m.forgotten)
            }
            _ => false,
        };
        // Whatever happened to them afterwards (a ban, another invite), what they may see ends with that leave.
        let last_join = memberships.iter().rposition(|e| e.pdu.membership() == "join");
        let left_with = last_join.and_then(|n| memberships.get(n + 1)).cloned();
        let joined_until = match (last_join, &left_with) {
            (None, _) => HistoryToken::START,
            (Some(_), None) => HistoryToken::END,
            (Some(_), Some(left)) => place(left),
        };
        Ok(Self {
            room,
            user: who.user_nid,
            device: who.device_id.clone(),
            user_id: who.user_id.clone(),
            memberships: memberships.iter().map(|e| (position(e), e.pdu.membership().into_owned())).collect(),
            visibilities: visibilities.iter().map(|e| (position(e), setting_of(e))).collect(),
            left_with,
            forgotten,
            joined_until,
            ignored,
            states,
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
    ///
    /// # Errors
    /// If the database fails.
    pub async fn shows(&self, event: &StoredEvent) -> Result<bool> {
        Ok(!self.ignores(event) && !says_nothing(&event.pdu) && self.may_see(event).await?)
    }

    /// Those of these events that the user may see, and wants to.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn shown(&self, events: Vec<Arc<StoredEvent>>) -> Result<Vec<Arc<StoredEvent>>> {
        let mut shown = Vec::with_capacity(events.len());
        for event in events {
            if self.shows(&event).await? {
                shown.push(event);
            }
        }
        Ok(shown)
    }

    /// Whether the user may see an event (client-server API, "Server behaviour" of room history visibility).
    ///
    /// # Errors
    /// If the database fails.
    pub async fn may_see(&self, event: &StoredEvent) -> Result<bool> {
        let (visibility, membership) = match (&self.states, event.snap) {
            (Some(states), Some(snap)) => {
                let at = states.at(snap).await?;
                let membership = at.membership.as_ref().map(|e| e.pdu.membership());
                (at.visibility, Membership::parse(membership.as_deref()))
            }
            _ => {
                let pos = position(event);
                let visibility = self.visibilities.iter().rev().find(|(p, _)| *p < pos);
                let membership = self.memberships.iter().rev().find(|(p, _)| *p < pos);
                (
                    visibility.map_or(HistoryVisibility::Shared, |(_, v)| *v),
                    Membership::parse(membership.map(|(_, m)| m.as_str())),
                )
            }
        };
        let is_setting =
            *event.pdu.event_type() == TimelineEventType::RoomHistoryVisibility && event.pdu.state_key() == Some("");
        Ok(may_see(&Point {
            visibility,
            visibility_after: is_setting.then(|| setting_of(event)),
            membership,
            membership_after: self.is_own(event).then(|| Membership::parse(Some(&event.pdu.membership()))),
            joined_since: place(event) < self.joined_until,
        }))
    }

    /// The user's membership at an event, the change it makes included (spec v1.11, `unsigned.membership`); `None` if the
    /// state at the event is not known.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn membership_at(&self, event: &StoredEvent) -> Result<Option<Cow<'_, str>>> {
        let Some(states) = &self.states else {
            let pos = position(event);
            let last = self.memberships.iter().rev().find(|(p, _)| *p <= pos);
            return Ok(Some(Cow::Borrowed(last.map_or("leave", |(_, m)| m))));
        };
        if self.is_own(event) {
            return Ok(Some(Cow::Owned(event.pdu.membership().into_owned())));
        }
        let Some(snap) = event.snap else { return Ok(None) };
        let membership = states.at(snap).await?.membership;
        Ok(Some(membership.map_or(Cow::Borrowed("leave"), |e| Cow::Owned(e.pdu.membership().into_owned()))))
    }

    /// Whether an event says what the user is in the room.
    pub(super) fn is_own(&self, event: &StoredEvent) -> bool {
        *event.pdu.event_type() == TimelineEventType::RoomMember && event.pdu.state_key() == Some(self.user_id.as_str())
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

    /// Whether the user was not in the room at that time and came in later.
    #[must_use]
    pub fn came_after(&self, pos: StreamPos) -> bool {
        let (before, after) = self.memberships.split_at(self.memberships.partition_point(|(p, _)| *p <= pos));
        before.last().is_none_or(|(_, m)| m != "join") && after.iter().any(|(_, m)| m == "join")
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

/// How a user left a room whose state says nothing of them: who let others of ours in may never have heard of them.
async fn left(store: &Store, room: &Room, user: UserNid) -> Result<Option<Arc<StoredEvent>>> {
    let Some(row) = store.membership(room.nid, user).await? else { return Ok(None) };
    if !matches!(row.membership, MembershipState::Leave | MembershipState::Ban) {
        return Ok(None);
    }
    let event = store.event(row.event).await?;
    Ok(event.filter(|event| event.pos.is_some() && event.pdu.membership() == row.membership.as_str()))
}

/// An event and those it replaced, oldest first.
async fn chain(store: &Store, newest: Option<Arc<StoredEvent>>) -> Result<Vec<Arc<StoredEvent>>> {
    let mut out = Vec::new();
    let mut next = newest;
    while let Some(event) = next {
        next = match event.replaces {
            _ if out.len() >= MAX_CHAIN => None,
            Some(nid) => store.event(nid).await?,
            None => allowed_by(store, &event).await?,
        };
        out.push(event);
    }
    out.reverse();
    Ok(out)
}

/// Of a state event that came without its place in history: what it most likely replaced, since that is among what
/// allows it (a member event names the one before it).
async fn allowed_by(store: &Store, event: &StoredEvent) -> Result<Option<Arc<StoredEvent>>> {
    if event.snap.is_some() || event.key.is_none() {
        return Ok(None);
    }
    let auth = store.auth_edges(&[event.nid]).await?;
    let Some(auth) = auth.get(&event.nid) else { return Ok(None) };
    let before = store.events(auth).await?.into_iter().find(|e| e.key == event.key && e.depth < event.depth);
    Ok(before)
}

/// Where an event stands among those of its room; events outside the timeline stand before all.
fn position(event: &StoredEvent) -> StreamPos {
    event.pos.unwrap_or(StreamPos(i64::MIN))
}

/// The same in the order of history, where events outside the timeline stand by their depth.
fn place(event: &StoredEvent) -> HistoryToken {
    HistoryToken { depth: event.depth, pos: event.pos.unwrap_or(StreamPos::ZERO) }
}

fn setting_of(event: &StoredEvent) -> HistoryVisibility {
    #[derive(serde::Deserialize)]
    struct Content {
        history_visibility: String,
    }
    let content: Option<Content> = event.pdu.content_as();
    HistoryVisibility::parse(content.as_ref().map(|c| c.history_visibility.as_str()))
}
