//! Room state: current, before and after an event, and one from several ([`State::resolve`]). What is written is the
//! lanes' ([`crate::events`]).

use std::{sync::Arc, time::Duration};

use hearth_base::{
    Error, OrNotFound, Result,
    ids::{EventNid, RoomNid, UserNid},
};
use hearth_rules::{auth::PowerLevels, versions::RoomVersion, visibility::HistoryVisibility};
use hearth_store::{
    Store,
    events::StoredEvent,
    log::{Change, Logged},
    rooms::Room,
    state::StateMap,
};
use ruma::{OwnedRoomId, RoomId, UserId, events::room::member::MembershipState};
use serde::Deserialize;
use tokio::sync::Notify;

mod resolve;

pub use resolve::{Fresh, FreshEvent};

/// What a room shows of itself to those outside.
const SHOWN: [&str; 7] = [
    "m.room.create",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.encryption",
];

/// How long somebody waits for a room's state to be whole.
const PATIENCE: Duration = Duration::from_secs(300);

/// `m.room.tombstone`, as far as it leads on.
#[derive(Deserialize)]
pub(crate) struct Tombstone {
    pub(crate) replacement_room: OwnedRoomId,
}

/// Reads state. Owns no memory: rooms, snapshots and events are cached by the store.
#[derive(Debug)]
pub struct State {
    store: Store,
    /// Rings when all of some room's state is there.
    whole: Notify,
}

impl State {
    /// Over this store. [`Self::on_change`] is to hear of every commit.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store, whole: Notify::new() }
    }

    /// Hears of a commit.
    pub fn on_change(&self, logged: &Logged) {
        if matches!(logged.change, Change::Whole { .. }) {
            self.whole.notify_waiters();
        }
    }

    /// A room with all of its state, once that is there. Where nobody of ours is in the room it never comes.
    ///
    /// # Errors
    /// 404 if there is no such room; 503 if it takes too long.
    pub async fn whole(&self, nid: RoomNid) -> Result<Arc<Room>> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let bell = self.whole.notified();
            tokio::pin!(bell);
            bell.as_mut().enable();
            let room = self.room_by_nid(nid).await?;
            if !room.head.partial || !self.store.is_resident(nid).await? {
                return Ok(room);
            }
            if tokio::time::timeout_at(deadline, bell).await.is_err() {
                return Err(Error::unavailable("state", "not all of the room's state has come yet"));
            }
        }
    }

    /// A room by its id.
    ///
    /// # Errors
    /// 404 if we do not know it.
    pub async fn room(&self, room_id: &RoomId) -> Result<Arc<Room>> {
        self.store.known_room(room_id).await?.or_not_found("Room")
    }

    /// A room by its number.
    ///
    /// # Errors
    /// 404 if there is none.
    pub async fn room_by_nid(&self, nid: RoomNid) -> Result<Arc<Room>> {
        self.store.room(nid).await?.or_not_found("Room")
    }

    /// The current state of a room.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn current(&self, room: &Room) -> Result<StateMap> {
        self.store.snapshot(room.head.snap).await
    }

    /// One entry of a state.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn entry(&self, state: &StateMap, event_type: &str, state_key: &str) -> Result<Option<Arc<StoredEvent>>> {
        match self.entry_nid(state, event_type, state_key).await? {
            Some(nid) => self.store.event(nid).await,
            None => Ok(None),
        }
    }

    /// The number of one entry of a state.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn entry_nid(&self, state: &StateMap, event_type: &str, state_key: &str) -> Result<Option<EventNid>> {
        let key = self.store.key_nid(event_type, state_key).await?;
        Ok(key.and_then(|key| state.get(&key).copied()))
    }

    /// One entry of a room's current state.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn current_entry(
        &self,
        room: &Room,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<Arc<StoredEvent>>> {
        self.entry(&self.current(room).await?, event_type, state_key).await
    }

    /// The state after an event: the one before it, and the event itself if it is state that was allowed.
    ///
    /// # Errors
    /// 404 for an event without state (an outlier).
    pub async fn after(&self, event: &StoredEvent) -> Result<StateMap> {
        self.store.snapshot(event.after.or_not_found("State")?).await
    }

    /// A user's membership in a state; `leave` if it says nothing.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn membership_in(&self, state: &StateMap, user: &UserId) -> Result<MembershipState> {
        let event = self.entry(state, "m.room.member", user.as_str()).await?;
        Ok(event.map_or(MembershipState::Leave, |e| MembershipState::from(e.pdu.membership().into_owned())))
    }

    /// A user's current membership; `leave` if they never were there.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn membership(&self, room: RoomNid, user: UserNid) -> Result<MembershipState> {
        Ok(self.store.membership(room, user).await?.map_or(MembershipState::Leave, |m| m.membership))
    }

    /// The events of a state that one may know before joining (client-server API, "Stripped state"), with the member event
    /// of who invites; not all of them exist.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn before_joining(&self, state: &StateMap, inviter: Option<&UserId>) -> Result<Vec<Arc<StoredEvent>>> {
        let mut shown = Vec::with_capacity(SHOWN.len() + 1);
        for event_type in SHOWN {
            shown.extend(self.entry(state, event_type, "").await?);
        }
        if let Some(inviter) = inviter {
            shown.extend(self.entry(state, "m.room.member", inviter.as_str()).await?);
        }
        Ok(shown)
    }

    /// The history visibility that a state sets.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn history_visibility(&self, state: &StateMap) -> Result<HistoryVisibility> {
        #[derive(serde::Deserialize)]
        struct Content {
            history_visibility: String,
        }
        let event = self.entry(state, "m.room.history_visibility", "").await?;
        let content: Option<Content> = event.as_ref().and_then(|e| e.pdu.content_as());
        Ok(HistoryVisibility::parse(content.as_ref().map(|c| c.history_visibility.as_str())))
    }

    /// Whether a state gives the room a name or canonical alias that is not empty.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn is_named(&self, state: &StateMap) -> Result<bool> {
        #[derive(serde::Deserialize)]
        struct Content {
            name: Option<String>,
            alias: Option<String>,
        }
        for event_type in ["m.room.name", "m.room.canonical_alias"] {
            // Asked of every room: a server where none has such a thing would look it up each time.
            let key = self.store.intern_key(event_type, "").await?;
            let Some(nid) = state.get(&key) else { continue };
            let content: Option<Content> = self.store.event(*nid).await?.and_then(|e| e.pdu.content_as());
            if content.is_some_and(|c| [c.name, c.alias].into_iter().flatten().any(|text| !text.is_empty())) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// How many are joined in a state.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn joined_in(&self, state: &StateMap) -> Result<u64> {
        let names = self.store.keys(&state.keys().copied().collect::<Vec<_>>()).await?;
        let members = state.values().zip(names).filter(|(_, name)| name.event_type == "m.room.member");
        let members: Vec<EventNid> = members.map(|(nid, _)| *nid).collect();
        let joined = self.store.events(&members).await?.iter().filter(|e| e.pdu.membership() == "join").count();
        Ok(u64::try_from(joined).unwrap_or(u64::MAX))
    }

    /// Who holds what power in a room's current state.
    ///
    /// # Errors
    /// A fault if the room has no create event.
    pub async fn power_levels(&self, room: &Room) -> Result<PowerLevels> {
        self.power_levels_in(room, &self.current(room).await?).await
    }

    /// Who holds what power in a state of a room.
    ///
    /// # Errors
    /// A fault if it has no create event.
    pub async fn power_levels_in(&self, room: &Room, state: &StateMap) -> Result<PowerLevels> {
        let create = self
            .entry(state, "m.room.create", "")
            .await?
            .ok_or_else(|| Error::broken(format!("{} has no create event", room.room_id)))?;
        let levels = self.entry(state, "m.room.power_levels", "").await?;
        let version = version_of(room)?;
        PowerLevels::of(version, &create.pdu, levels.as_ref().map(|e| &*e.pdu))
            .map_err(|e| Error::fault("power levels", e))
    }
}

/// The rules of a room's version.
///
/// # Errors
/// 400 `M_UNSUPPORTED_ROOM_VERSION` for a room of a version we have stopped to offer.
pub fn version_of(room: &Room) -> Result<&'static RoomVersion> {
    RoomVersion::known(&room.version).ok_or_else(|| {
        Error::told(
            http::StatusCode::BAD_REQUEST,
            "M_UNSUPPORTED_ROOM_VERSION",
            format!("Room version {} is not supported", room.version),
        )
    })
}
