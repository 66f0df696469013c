//! Reading rooms: single events, pages of history, context, state, members; always as one user may see them.

use std::sync::Arc;

use hearth_base::{
    Error, OrNotFound, Requester, Result,
    clock::Clock,
    ids::{EventNid, StreamPos},
    stream::HistoryToken,
};
use hearth_rules::visibility::HistoryVisibility;
use hearth_store::{Store, events::StoredEvent, rooms::Room, state::StateMap};
use ruma::{
    EventId, RoomId, UserId,
    events::{TimelineEventType, room::member::MembershipState},
};

use crate::{account_data::AccountData, federation::backfill::Backfill, state::State, sync::filter};

mod answers;
mod by_time;
mod children;
mod pages;
mod past;
pub mod viewer;
mod writing;

pub use answers::Messages;
pub(crate) use children::Bundles;
pub use hearth_store::events::Direction;
use pages::Bounds;
pub use viewer::Viewer;
pub use writing::Form;

/// Events in a page at most, whatever a client asks for.
const MAX_PAGE: usize = 1000;

/// Reads rooms for users.
#[derive(Debug)]
pub struct History {
    store: Store,
    state: Arc<State>,
    account_data: Arc<AccountData>,
    backfill: Option<Arc<Backfill>>,
    clock: Clock,
}

/// Which events of a page are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// What the client wants.
    pub filter: &'a filter::Events,
    /// It wants events of this room.
    pub here: bool,
}

/// A page of history.
#[derive(Debug)]
pub struct Page {
    /// The events, in the direction asked for.
    pub events: Vec<Arc<StoredEvent>>,
    /// Where it begins.
    pub start: HistoryToken,
    /// Where the next begins; `None` if there was nothing and there is no more.
    pub end: Option<HistoryToken>,
    /// What is newer is left out of it, and of those that follow.
    pub upto: StreamPos,
}

/// An event with what stands around it.
#[derive(Debug)]
pub struct Context {
    /// The event.
    pub event: Arc<StoredEvent>,
    /// Before it, newest first.
    pub before: Vec<Arc<StoredEvent>>,
    /// After it, oldest first.
    pub after: Vec<Arc<StoredEvent>>,
    /// Where history goes on backwards.
    pub start: HistoryToken,
    /// Where history goes on forwards.
    pub end: HistoryToken,
    /// State at the last event shown.
    pub state: StateMap,
}

impl History {
    /// Made once. Without `backfill`, what is not here is missing.
    #[must_use]
    pub fn new(
        store: Store,
        state: Arc<State>,
        account_data: Arc<AccountData>,
        backfill: Option<Arc<Backfill>>,
        clock: Clock,
    ) -> Self {
        Self { store, state, account_data, backfill, clock }
    }

    /// A room through the eyes of a user.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn viewer(&self, who: &Requester, room: &Arc<Room>) -> Result<Viewer> {
        let ignored = self.account_data.ignored(who.user_nid).await?;
        Viewer::new(&self.store, &self.state, who, room.clone(), ignored).await
    }

    /// A room through the eyes of a user who is or was in it, or who may look in from outside.
    ///
    /// # Errors
    /// 403 if the user may see nothing of it, or there is no such room.
    pub async fn enter(&self, who: &Requester, room_id: &RoomId) -> Result<Viewer> {
        let not_there = || Error::forbidden("You are not in this room, and it cannot be read from outside");
        let nid = self.store.room_nid(room_id).await?.ok_or_else(not_there)?;
        let room = self.state.room_by_nid(nid).await?;
        let viewer = self.viewer(who, &room).await?;
        if viewer.was_ever_in() && !viewer.forgotten() || viewer.is_world_readable() {
            Ok(viewer)
        } else {
            Err(not_there())
        }
    }

    /// One event.
    ///
    /// # Errors
    /// 404 if there is none that the user may see.
    pub async fn event(
        &self,
        who: &Requester,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<(Viewer, Arc<StoredEvent>)> {
        let viewer = self.enter(who, room_id).await.map_err(|_| Error::not_found("Event not found"))?;
        let event = self.visible(&viewer, event_id).await?;
        Ok((viewer, event))
    }

    async fn visible(&self, viewer: &Viewer, event_id: &EventId) -> Result<Arc<StoredEvent>> {
        let event = self.store.event_by_id(event_id).await?;
        let event = event.filter(|e| e.room == viewer.room.nid && e.pos.is_some()).or_not_found("Event")?;
        viewer.shows(&event).await?.then_some(event).or_not_found("Event")
    }

    /// An event and its neighbours (spec: `GET /rooms/{roomId}/context/{eventId}`): `limit` in all, the event not counted.
    ///
    /// # Errors
    /// 404 if there is no such event that the user may see.
    pub async fn context(
        &self,
        viewer: &Viewer,
        event_id: &EventId,
        limit: usize,
        wanted: Wanted<'_>,
    ) -> Result<Context> {
        let event = self.visible(viewer, event_id).await?;
        let place = event.place().or_not_found("Event")?;
        let limit = limit.min(MAX_PAGE);
        let (start, end, bounds) = (HistoryToken::START, HistoryToken::END, Bounds::default());
        let before =
            self.page(viewer, Direction::Backward, (place.before(), start), bounds, limit / 2, wanted).await?.events;
        let after =
            self.page(viewer, Direction::Forward, (place, end), bounds, limit - limit / 2, wanted).await?.events;
        let start = before.last().and_then(|e| e.place()).map_or(place.before(), HistoryToken::before);
        let end = after.last().and_then(|e| e.place()).unwrap_or(place);
        let state = self.state_beside(viewer, after.last().unwrap_or(&event)).await?;
        Ok(Context { event, before, after, start, end, state })
    }

    /// The state of a room as the user may see it: the current one, or for those who left the one when they did.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn state(&self, viewer: &Viewer) -> Result<StateMap> {
        match viewer.left_with() {
            None => self.state.current(&viewer.room).await,
            Some(event) => self.state.after(event).await,
        }
    }

    /// As [`Self::enter`], once all of the room's state is there.
    ///
    /// # Errors
    /// As [`Self::enter`]; 503 if that takes too long.
    pub async fn enter_whole(&self, who: &Requester, room_id: &RoomId) -> Result<Viewer> {
        let viewer = self.enter(who, room_id).await?;
        if !viewer.room.head.partial {
            return Ok(viewer);
        }
        self.state.whole(viewer.room.nid).await?;
        self.enter(who, room_id).await
    }

    /// The events of a whole state, in no order.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn state_events(&self, state: &StateMap) -> Result<Vec<Arc<StoredEvent>>> {
        self.store.events(&state.values().copied().collect::<Vec<_>>()).await
    }

    /// Member events of a state, with `membership` or without `not_membership`; if both are given, either will do.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn members(
        &self,
        state: &StateMap,
        membership: Option<&MembershipState>,
        not_membership: Option<&MembershipState>,
    ) -> Result<Vec<Arc<StoredEvent>>> {
        let events = self.state_events(state).await?;
        Ok(events
            .into_iter()
            .filter(|e| *e.pdu.event_type() == TimelineEventType::RoomMember)
            .filter(|e| {
                let is = MembershipState::from(e.pdu.membership().into_owned());
                match (membership, not_membership) {
                    (None, None) => true,
                    (Some(wanted), None) => is == *wanted,
                    (None, Some(unwanted)) => is != *unwanted,
                    (Some(wanted), Some(unwanted)) => is == *wanted || is != *unwanted,
                }
            })
            .collect())
    }

    /// The state after an event; where that is not known the present one.
    pub(crate) async fn state_beside(&self, viewer: &Viewer, event: &StoredEvent) -> Result<StateMap> {
        match event.after {
            Some(after) => self.store.snapshot(after).await,
            None => self.state.current(&viewer.room).await,
        }
    }

    /// The numbers of the member events of those who sent these events, for lazy loading (spec: "Lazy-loading room
    /// members"). Of whom the state says nothing, since not all of it is there yet, the events themselves name one.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn speakers(&self, state: &StateMap, events: &[Arc<StoredEvent>]) -> Result<Vec<EventNid>> {
        let (mut seen, mut nids): (Vec<&UserId>, Vec<EventNid>) = (Vec::new(), Vec::new());
        for event in events {
            let sender = event.pdu.sender();
            if seen.contains(&sender) {
                continue;
            }
            seen.push(sender);
            match self.state.entry_nid(state, "m.room.member", sender.as_str()).await? {
                Some(nid) => nids.push(nid),
                None => nids.extend(self.named_member(event).await?),
            }
        }
        Ok(nids)
    }

    /// The member event of its sender that an event names as what allows it.
    async fn named_member(&self, event: &StoredEvent) -> Result<Option<EventNid>> {
        let edges = self.store.auth_edges(&[event.nid]).await?;
        let Some(edges) = edges.get(&event.nid) else { return Ok(None) };
        let named = self.store.events(edges).await?;
        let member = named.iter().find(|e| {
            *e.pdu.event_type() == TimelineEventType::RoomMember
                && e.pdu.state_key() == Some(event.pdu.sender().as_str())
        });
        Ok(member.map(|e| e.nid))
    }

    /// Member events of the senders of these events, for lazy loading (spec: "Lazy-loading room members").
    ///
    /// # Errors
    /// If the database fails.
    pub async fn members_of(&self, state: &StateMap, senders: &[&UserId]) -> Result<Vec<Arc<StoredEvent>>> {
        let mut nids = Vec::new();
        for user in senders {
            if let Some(nid) = self.state.entry_nid(state, "m.room.member", user.as_str()).await?
                && !nids.contains(&nid)
            {
                nids.push(nid);
            }
        }
        self.store.events(&nids).await
    }
}

/// Whether a room may be read by people who were never in it.
pub(crate) fn world_readable(visibility: HistoryVisibility) -> bool {
    visibility == HistoryVisibility::WorldReadable
}
