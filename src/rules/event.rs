//! One event of a room, as it is signed: [`Pdu`]. Immutable; its canonical JSON is kept once, as text, and the
//! content is a range of that text.
//!
//! Events are born in [`draft`] (ours) or [`received`] (everybody else's), are cut down by [`redaction`], and
//! come back from our own disk through [`Pdu::parse_stored`]. How clients see them is `client_format`'s.

use std::{borrow::Cow, fmt, ops::Range};

use hearth_base::error::{Doing, Result};
use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UInt, UserId,
    events::TimelineEventType, state_res::Event,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::versions::RoomVersion;

pub(crate) mod canonical;
pub mod draft;
pub mod policy;
pub mod received;
pub mod redaction;
pub mod reference;
pub mod signer;

pub use self::{
    draft::Draft,
    policy::PolicyServer,
    received::{Malformed, Unverified, Verified},
    reference::Reference,
    signer::Signer,
};

/// An event as it stands in its room. Cheap to share (`Arc<Pdu>`), never changed.
#[derive(Clone)]
pub struct Pdu {
    event_id: OwnedEventId,
    room_id: OwnedRoomId,
    sender: OwnedUserId,
    event_type: TimelineEventType,
    state_key: Option<Box<str>>,
    origin_server_ts: u64,
    depth: u64,
    prev_events: Box<[OwnedEventId]>,
    auth_events: Box<[OwnedEventId]>,
    redacts: Option<OwnedEventId>,
    rejected: bool,
    /// False for create events since version 12, whose room id follows from their event id.
    names_room: bool,
    json: Box<str>,
    content: Range<u32>,
}

impl Pdu {
    /// An event from our own disk: `json` was written by us, so form, size and hashes are taken on trust and
    /// only the fields are read. A failure means that the disk lies.
    pub fn parse_stored(event_id: OwnedEventId, json: impl Into<Box<str>>, version: &RoomVersion) -> Result<Self> {
        let json = json.into();
        let fields: Fields<'_> = serde_json::from_str(&json).doing("reading a stored event")?;
        let content = range_of(&json, fields.content.get());
        // What is no event id redacts nothing; as in `received`, that is no fault of the event.
        let redacts = match &*fields.event_type.0 {
            "m.room.redaction" if version.redacts_in_content() => redacts_of(fields.content.get()),
            "m.room.redaction" => redacts_of(&json),
            _ => None,
        };
        let (room_id, names_room) = match fields.room_id {
            Some(room_id) => (RoomId::parse(room_id.0.as_ref()).doing("reading a stored event's room id")?, true),
            None => (room_id_of_create(&event_id).doing("deriving the room id of a stored event")?, false),
        };
        Ok(Self {
            event_id,
            room_id,
            names_room,
            sender: UserId::parse(fields.sender.0.as_ref()).doing("reading a stored event's sender")?,
            event_type: TimelineEventType::from(fields.event_type.0.as_ref()),
            state_key: fields.state_key.map(|key| key.0.into_owned().into_boxed_str()),
            origin_server_ts: fields.origin_server_ts,
            depth: fields.depth,
            prev_events: fields.prev_events.into_iter().map(Reference::into_event_id).collect(),
            auth_events: fields.auth_events.into_iter().map(Reference::into_event_id).collect(),
            redacts,
            rejected: false,
            content,
            json,
        })
    }

    /// The same event, marked as having failed (or passed) the checks on receipt. Authorisation refuses events
    /// that lean on rejected ones.
    #[must_use]
    pub fn with_rejected(mut self, rejected: bool) -> Self {
        self.rejected = rejected;
        self
    }

    /// Its id.
    #[must_use]
    pub fn event_id(&self) -> &EventId {
        &self.event_id
    }

    /// Its room, also for create events of version 12 and later, which do not name it.
    #[must_use]
    pub fn room_id(&self) -> &RoomId {
        &self.room_id
    }

    /// Who sent it.
    #[must_use]
    pub fn sender(&self) -> &UserId {
        &self.sender
    }

    /// Its type.
    #[must_use]
    pub fn event_type(&self) -> &TimelineEventType {
        &self.event_type
    }

    /// Its state key; `None` for messages.
    #[must_use]
    pub fn state_key(&self) -> Option<&str> {
        self.state_key.as_deref()
    }

    /// Whether type and state key can be kept: they have 255 bytes at most (spec: "Size limits"; old servers counted
    /// characters) and no NUL, which no text of PostgreSQL has, with us or with others. An event with other names is
    /// rejected and has its place, but is no part of any state.
    #[must_use]
    pub fn has_sound_names(&self) -> bool {
        let is_sound = |name: &str| name.len() <= canonical::MAX_FIELD && !name.contains('\0');
        is_sound(&self.event_type.to_string()) && self.state_key().is_none_or(is_sound)
    }

    /// Whether it is a state event.
    #[must_use]
    pub fn is_state(&self) -> bool {
        self.state_key.is_some()
    }

    /// Whether it is this state event.
    #[must_use]
    pub fn is(&self, event_type: &TimelineEventType, state_key: &str) -> bool {
        self.event_type == *event_type && self.state_key.as_deref() == Some(state_key)
    }

    /// When its server says it was sent, in milliseconds since 1970.
    #[must_use]
    pub fn origin_server_ts(&self) -> u64 {
        self.origin_server_ts
    }

    /// One more than the deepest of the events before it, as its server says; at most [`RoomVersion::max_depth`].
    #[must_use]
    pub fn depth(&self) -> u64 {
        self.depth
    }

    /// The events before it.
    #[must_use]
    pub fn prev_events(&self) -> &[OwnedEventId] {
        &self.prev_events
    }

    /// The events that allow it, as it names them (since version 12 without the create event).
    #[must_use]
    pub fn auth_events(&self) -> &[OwnedEventId] {
        &self.auth_events
    }

    /// What it redacts, if it is a redaction, wherever its version puts that.
    #[must_use]
    pub fn redacts(&self) -> Option<&EventId> {
        self.redacts.as_deref()
    }

    /// Whether it was rejected on receipt.
    #[must_use]
    pub fn rejected(&self) -> bool {
        self.rejected
    }

    /// The canonical JSON as signed: what goes to other servers and to disk. Has `event_id` only in versions 1 and 2,
    /// and never `unsigned`.
    #[must_use]
    pub fn json(&self) -> &str {
        &self.json
    }

    /// The content as text.
    #[must_use]
    pub fn content_json(&self) -> &str {
        self.json.get(self.content.start as usize..self.content.end as usize).unwrap_or("{}")
    }

    /// The content, unread. Checks the text on the way, so prefer [`Self::content_json`] where text will do.
    #[must_use]
    pub fn content(&self) -> &RawValue {
        serde_json::from_str(self.content_json()).unwrap_or(RawValue::NULL)
    }

    /// The content as any type that can be read from it; `None` if it is not of that shape, as any sender may
    /// put anything there.
    #[must_use]
    pub fn content_as<'a, T: Deserialize<'a>>(&'a self) -> Option<T> {
        serde_json::from_str(self.content_json()).ok()
    }

    /// The `membership` of a member event; empty if it is none.
    #[must_use]
    pub fn membership(&self) -> Cow<'_, str> {
        #[derive(Deserialize)]
        struct Member<'a> {
            #[serde(borrow)]
            membership: Text<'a>,
        }
        if self.event_type != TimelineEventType::RoomMember {
            return Cow::Borrowed("");
        }
        self.content_as::<Member<'_>>().map_or(Cow::Borrowed(""), |m| m.membership.0)
    }
}

impl fmt::Debug for Pdu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pdu({} {} by {})", self.event_id, self.event_type, self.sender)
    }
}

impl Event for Pdu {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        &self.event_id
    }

    // The authorisation rules ask what the event says, and since version 12 a create event that says its room is wrong.
    fn room_id(&self) -> Option<&RoomId> {
        self.names_room.then_some(&*self.room_id)
    }

    fn sender(&self) -> &UserId {
        &self.sender
    }

    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        MilliSecondsSinceUnixEpoch(UInt::new_saturating(self.origin_server_ts))
    }

    fn event_type(&self) -> &TimelineEventType {
        &self.event_type
    }

    fn content(&self) -> &RawValue {
        self.content()
    }

    fn state_key(&self) -> Option<&str> {
        self.state_key.as_deref()
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.prev_events.iter())
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.auth_events.iter())
    }

    fn redacts(&self) -> Option<&OwnedEventId> {
        self.redacts.as_ref()
    }

    fn rejected(&self) -> bool {
        self.rejected
    }
}

/// The room id that follows from a create event's id (rooms/v12).
pub(crate) fn room_id_of_create(event_id: &EventId) -> std::result::Result<OwnedRoomId, ruma::IdParseError> {
    let hash = event_id.as_str().strip_prefix('$').unwrap_or_default();
    RoomId::parse(format!("!{hash}"))
}

/// The `redacts` of an object, if it is an event id.
fn redacts_of(object: &str) -> Option<OwnedEventId> {
    #[derive(Deserialize)]
    struct Redaction<'a> {
        #[serde(borrow)]
        redacts: Text<'a>,
    }
    let object: Redaction<'_> = serde_json::from_str(object).ok()?;
    received::event_id(&object.redacts.0).ok()
}

/// Where `part`, which was borrowed from `whole`, stands in it.
fn range_of(whole: &str, part: &str) -> Range<u32> {
    let start = (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize);
    let end = start.saturating_add(part.len());
    u32::try_from(start).unwrap_or(0)..u32::try_from(end).unwrap_or(0)
}

/// A JSON string, borrowed from the text unless it holds escapes.
#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

/// The fields of a stored event that we keep parsed.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    room_id: Option<Text<'a>>,
    #[serde(borrow)]
    sender: Text<'a>,
    #[serde(borrow, rename = "type")]
    event_type: Text<'a>,
    #[serde(borrow)]
    state_key: Option<Text<'a>>,
    origin_server_ts: u64,
    depth: u64,
    prev_events: Vec<Reference>,
    auth_events: Vec<Reference>,
    #[serde(borrow)]
    content: &'a RawValue,
}

#[cfg(test)]
mod tests;
