//! Filters as /sync and history apply them: ruma's definition, with patterns made ready once.

use ruma::api::client::filter::{EventFormat, FilterDefinition, LazyLoadOptions, RoomEventFilter, UrlFilter};
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};

use std::{collections::HashSet, sync::Arc};

use hearth_base::{
    Result,
    ids::{EventNid, RoomNid, UserNid},
};
use hearth_rules::{client_format::EventFields, event::Pdu};
use hearth_store::{Store, events::StoredEvent};

use crate::{
    account_data::filters::{self, Unstable},
    relations::RelatesTo,
};

/// Events in a timeline when the client does not say.
const DEFAULT_LIMIT: usize = 10;

/// A whole filter (spec: client-server API, "Filtering").
#[derive(Debug)]
pub struct Filter {
    /// Which rooms at all.
    pub rooms: Rooms,
    /// Whether left rooms are shown in an initial sync.
    pub include_leave: bool,
    /// Timeline events.
    pub timeline: Events,
    /// State events.
    pub state: Events,
    /// Receipts and typing.
    pub ephemeral: Events,
    /// Account data of rooms.
    pub room_account_data: Events,
    /// Global account data.
    pub account_data: Events,
    /// Presence.
    pub presence: Events,
    /// Whether events are wanted as other servers get them.
    pub federation_format: bool,
    /// Fields of events to keep, if not all.
    pub event_fields: Option<EventFields>,
}

/// A choice of rooms.
#[derive(Debug, Default)]
pub struct Rooms {
    only: Option<Vec<OwnedRoomId>>,
    never: Vec<OwnedRoomId>,
}

impl Rooms {
    /// Whether a room is chosen.
    #[must_use]
    pub fn has(&self, room: &RoomId) -> bool {
        !self.never.iter().any(|r| r == room) && self.only.as_ref().is_none_or(|only| only.iter().any(|r| r == room))
    }
}

/// A choice of events.
#[derive(Debug, Default)]
pub struct Events {
    rooms: Rooms,
    types: Option<Vec<Pattern>>,
    not_types: Vec<Pattern>,
    senders: Option<Vec<OwnedUserId>>,
    not_senders: Vec<OwnedUserId>,
    with_url: Option<bool>,
    /// What proposals ask for.
    pub(super) unstable: Unstable,
    /// At most so many; `None` if the client does not say.
    pub limit: Option<usize>,
    /// Only members who speak.
    pub lazy_members: bool,
    /// Also members that the client has been told of.
    pub redundant_members: bool,
    /// Counts by thread.
    pub thread_counts: bool,
}

#[derive(Debug)]
struct Pattern(String);

impl Pattern {
    /// `*` stands for any run of characters.
    fn fits(&self, text: &str) -> bool {
        let mut parts = self.0.split('*');
        let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
        let parts: Vec<&str> = parts.collect();
        let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
        for part in middle {
            match rest.find(part) {
                Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

impl Events {
    /// From the text that a client gives with a page of history; without one, everything passes.
    ///
    /// # Errors
    /// 400 `M_NOT_JSON`, `M_BAD_JSON` for what is no filter.
    pub fn read(text: Option<&str>) -> Result<Self> {
        let Some(text) = text else { return Ok(Self::default()) };
        let (filter, unstable) = filters::read_events(text)?;
        Ok(Self { unstable, ..Self::of(filter) })
    }

    /// From ruma's form.
    #[must_use]
    pub fn of(filter: RoomEventFilter) -> Self {
        let (lazy_members, redundant_members) = match filter.lazy_load_options {
            LazyLoadOptions::Enabled { include_redundant_members } => (true, include_redundant_members),
            LazyLoadOptions::Disabled => (false, false),
        };
        Self {
            rooms: Rooms { only: filter.rooms, never: filter.not_rooms },
            types: filter.types.map(patterns),
            not_types: patterns(filter.not_types),
            senders: filter.senders,
            not_senders: filter.not_senders,
            with_url: filter.url_filter.map(|u| u == UrlFilter::EventsWithUrl),
            unstable: Unstable::default(),
            limit: filter.limit.map(limit),
            lazy_members,
            redundant_members,
            thread_counts: filter.unread_thread_notifications,
        }
    }

    fn plain(filter: ruma::api::client::filter::Filter) -> Self {
        Self {
            types: filter.types.map(patterns),
            not_types: patterns(filter.not_types),
            senders: filter.senders,
            not_senders: filter.not_senders,
            limit: filter.limit.map(limit),
            ..Self::default()
        }
    }

    /// Whether everything passes.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.types.is_none()
            && self.not_types.is_empty()
            && self.senders.is_none()
            && self.not_senders.is_empty()
            && self.with_url.is_none()
            && self.unstable.only.is_none()
            && self.unstable.never.is_empty()
            && !self.asks_relations()
    }

    /// Whether only events pass that others relate to in a certain way: what [`Self::has`] does not look at.
    #[must_use]
    pub fn asks_relations(&self) -> bool {
        !self.unstable.related_by_rel_types.is_empty() || !self.unstable.related_by_senders.is_empty()
    }

    /// Those of a room's events that others relate to in the way asked for; `None` if any will do.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn related(
        &self,
        store: &Store,
        room: RoomNid,
        events: &[Arc<StoredEvent>],
    ) -> Result<Option<HashSet<EventNid>>> {
        if !self.asks_relations() {
            return Ok(None);
        }
        let Unstable { related_by_rel_types: types, related_by_senders: senders, .. } = &self.unstable;
        let senders = store.user_nids(senders).await?;
        let senders: Vec<UserNid> = senders.into_iter().map(|(_, nid)| nid).collect();
        let is_any = self.unstable.related_by_senders.is_empty();
        let ids = events.iter().map(|e| e.event_id().to_string()).collect();
        let related: HashSet<String> = store
            .relations_to(room, ids)
            .await?
            .into_iter()
            .filter(|r| types.is_empty() || types.contains(&r.rel_type))
            .filter(|r| is_any || senders.contains(&r.sender))
            .map(|r| r.target)
            .collect();
        Ok(Some(events.iter().filter(|e| related.contains(e.event_id().as_str())).map(|e| e.nid).collect()))
    }

    /// Whether every event of a room passes.
    #[must_use]
    pub fn is_open_for(&self, room: &RoomId) -> bool {
        self.is_open() && self.has_room(room)
    }

    /// Whether events of a room pass.
    #[must_use]
    pub fn has_room(&self, room: &RoomId) -> bool {
        self.rooms.has(room)
    }

    /// Whether anything of that type passes.
    #[must_use]
    pub fn has_type(&self, kind: &str) -> bool {
        !self.not_types.iter().any(|p| p.fits(kind))
            && self.types.as_ref().is_none_or(|types| types.iter().any(|p| p.fits(kind)))
    }

    /// Whether anything from that sender passes.
    #[must_use]
    pub fn has_sender(&self, sender: &UserId) -> bool {
        !self.not_senders.iter().any(|s| s == sender)
            && self.senders.as_ref().is_none_or(|senders| senders.iter().any(|s| s == sender))
    }

    /// Whether an event passes, whatever relates to it ([`Self::related`]).
    #[must_use]
    pub fn has(&self, pdu: &Pdu) -> bool {
        self.is_open()
            || (self.has_sender(pdu.sender())
                && self.has_type(&pdu.event_type().to_string())
                && self.with_url.is_none_or(|wanted| has_url(pdu) == wanted)
                && self.has_relation_of(pdu))
    }

    /// Whether how an event relates to others is wanted.
    fn has_relation_of(&self, pdu: &Pdu) -> bool {
        let Unstable { only, never, .. } = &self.unstable;
        if only.is_none() && never.is_empty() {
            return true;
        }
        let relation = RelatesTo::of(pdu.content_json()).map(|r| r.rel_type);
        match relation {
            Some(rel_type) => {
                !never.contains(&rel_type) && only.as_ref().is_none_or(|wanted| wanted.contains(&rel_type))
            }
            None => only.is_none(),
        }
    }

    /// Events in a timeline at most; `most` is the server's own limit.
    #[must_use]
    pub fn timeline_limit(&self, most: usize) -> usize {
        self.limit.unwrap_or(DEFAULT_LIMIT).min(most)
    }
}

fn has_url(pdu: &Pdu) -> bool {
    #[derive(serde::Deserialize)]
    struct Content {
        url: Option<serde::de::IgnoredAny>,
    }
    pdu.content_as::<Content>().is_some_and(|c| c.url.is_some())
}

fn patterns(types: Vec<String>) -> Vec<Pattern> {
    types.into_iter().map(Pattern).collect()
}

fn limit(limit: ruma::UInt) -> usize {
    usize::try_from(u64::from(limit)).unwrap_or(usize::MAX)
}

impl Filter {
    /// From ruma's form.
    #[must_use]
    pub fn of((definition, unstable): (FilterDefinition, Unstable)) -> Self {
        let room = definition.room;
        Self {
            rooms: Rooms { only: room.rooms, never: room.not_rooms },
            include_leave: room.include_leave,
            timeline: Events { unstable, ..Events::of(room.timeline) },
            state: Events::of(room.state),
            ephemeral: Events::of(room.ephemeral),
            room_account_data: Events::of(room.account_data),
            account_data: Events::plain(definition.account_data),
            presence: Events::plain(definition.presence),
            federation_format: definition.event_format == EventFormat::Federation,
            event_fields: definition.event_fields.map(|paths| EventFields::new(paths.iter().map(String::as_str))),
        }
    }
}

impl Default for Filter {
    fn default() -> Self {
        Self::of(Default::default())
    }
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    #[test]
    fn stars_stand_for_anything() {
        let fits = |p: &str, t: &str| Pattern(p.to_owned()).fits(t);
        assert!(fits("m.room.message", "m.room.message"));
        assert!(!fits("m.room.message", "m.room.messages"));
        assert!(fits("m.room.*", "m.room.message"));
        assert!(fits("*", ""));
        assert!(fits("m.*.member*", "m.room.member"));
        assert!(!fits("m.*.member", "m.room.members"));
        assert!(fits("*a*b", "xaab"));
        assert!(!fits("a*a", "a"));
    }
}
