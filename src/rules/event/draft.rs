//! Drafts: events of our own, before they have a place in the room's history, a hash, a signature and an id.
//!
//! The content is brought into canonical form once, when the draft is made; building then only splices text, so
//! that a draft which lost a race for its room is rebuilt for the price of a signature.

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use hearth_base::error::{Doing, Error, Result};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedRoomId, OwnedUserId, events::TimelineEventType,
};
use serde::Serialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::{
    Pdu, Reference, Signer,
    canonical::{self, MAX_AUTH, MAX_DEPTH, MAX_EVENT, MAX_FIELD, MAX_PREV},
    redaction::write_redacted_content,
    room_id_of_create,
};
use crate::{
    json::{MAX_INT, Numbers, parse_object, push_int, push_str},
    versions::RoomVersion,
};

/// An event to be.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The room; `None` for the create event of a room whose id follows from it (version 12 and later).
    pub room_id: Option<OwnedRoomId>,
    /// Who sends it.
    pub sender: OwnedUserId,
    /// Its type.
    pub event_type: TimelineEventType,
    /// Its state key, if it is state.
    pub state_key: Option<String>,
    /// What it redacts, if it is a redaction; put where the room version wants it.
    pub redacts: Option<OwnedEventId>,
    /// Milliseconds since 1970.
    pub origin_server_ts: u64,
    content: CanonicalJsonObject,
    content_json: String,
}

impl Draft {
    /// A draft with content as a client sent it. Fails with 400 `M_BAD_JSON` if that is not an object or has
    /// numbers that canonical JSON does not (fractions, beyond ±(2^53 - 1)), or nests too deeply.
    pub fn new(
        room_id: Option<OwnedRoomId>,
        sender: OwnedUserId,
        event_type: TimelineEventType,
        state_key: Option<String>,
        content: &RawValue,
        origin_server_ts: u64,
    ) -> Result<Self> {
        // An event of this size cannot be, so that a huge body is not even read.
        if content.get().len() > 4 * MAX_EVENT {
            return Err(Error::too_large("The event is too large"));
        }
        let content = serde_json::from_str(content.get())
            .map_err(|e| Error::bad_json(format!("The content cannot be sent as canonical JSON: {e}")))?;
        Self::canonical(room_id, sender, event_type, state_key, content, origin_server_ts)
    }

    /// A draft with content of our own making: any type of ruma's or ours that serialises to an object.
    pub fn of(
        room_id: Option<OwnedRoomId>,
        sender: OwnedUserId,
        event_type: TimelineEventType,
        state_key: Option<String>,
        content: &impl Serialize,
        origin_server_ts: u64,
    ) -> Result<Self> {
        match ruma::canonical_json::to_canonical_value(content) {
            Ok(CanonicalJsonValue::Object(content)) => {
                Self::canonical(room_id, sender, event_type, state_key, content, origin_server_ts)
            }
            Ok(_) => Err(Error::bad_json("The content is not an object")),
            Err(e) => Err(Error::bad_json(format!("The content cannot be sent as canonical JSON: {e}"))),
        }
    }

    /// A draft with content already in canonical form.
    pub fn canonical(
        room_id: Option<OwnedRoomId>,
        sender: OwnedUserId,
        event_type: TimelineEventType,
        state_key: Option<String>,
        content: CanonicalJsonObject,
        origin_server_ts: u64,
    ) -> Result<Self> {
        if !canonical::is_shallow(&content, MAX_DEPTH) {
            return Err(Error::bad_json("The content nests too deeply"));
        }
        let content_json = canonical::to_text(&content).doing("writing content")?;
        Ok(Self {
            room_id,
            sender,
            event_type,
            state_key,
            redacts: None,
            origin_server_ts: origin_server_ts.min(MAX_INT),
            content,
            content_json,
        })
    }

    /// The same draft, redacting that event.
    #[must_use]
    pub fn redacting(mut self, event_id: OwnedEventId) -> Self {
        self.redacts = Some(event_id);
        self
    }

    /// The content.
    #[must_use]
    pub fn content(&self) -> &CanonicalJsonObject {
        &self.content
    }

    /// The content as text.
    #[must_use]
    pub fn content_json(&self) -> &str {
        &self.content_json
    }

    /// The event itself: placed after `prev`, allowed by `auth`, hashed and signed. `depth` is cut to what the version
    /// allows. Fails with 413 `M_TOO_LARGE` when a limit of the client-server API, "Size limits", is passed.
    ///
    /// The caller chooses `auth` by [`crate::auth::auth_keys`] and checks the result by [`crate::auth`].
    pub fn build(
        &self,
        version: &RoomVersion,
        prev: &[Reference],
        depth: u64,
        auth: &[Reference],
        signer: &Signer,
    ) -> Result<Pdu> {
        let draft = self.placed(version, prev, auth)?;
        let draft = draft.as_ref().unwrap_or(self);
        let mut top = Top { draft, version, event_id: None, prev, auth, depth: depth.min(version.max_depth()) };

        let mut hashed = top.text(&draft.content_json, None, None).0;
        if !version.event_id_is_hash() {
            let name = canonical::event_name(&hashed, signer.server_name().as_str()).doing("naming an event")?;
            top.event_id = Some(name);
            hashed = top.text(&draft.content_json, None, None).0;
        }
        let hash = STANDARD_NO_PAD.encode(Sha256::digest(hashed));
        let redacted = top.text(&draft.redacted_content(version)?, Some(&hash), None).0;
        let event_id = match top.event_id.clone() {
            Some(name) => name,
            None => canonical::event_id_of(&redacted, version).doing("naming an event")?,
        };
        let (json, content) = top.text(&draft.content_json, Some(&hash), Some((signer, &signer.sign_text(&redacted))));
        if json.len() > MAX_EVENT {
            return Err(Error::too_large("The event is too large"));
        }

        let (room_id, names_room) = match &draft.room_id {
            Some(room_id) => (room_id.clone(), true),
            None => (room_id_of_create(&event_id).doing("naming a room")?, false),
        };
        Ok(Pdu {
            event_id,
            room_id,
            names_room,
            sender: draft.sender.clone(),
            event_type: draft.event_type.clone(),
            state_key: draft.state_key.as_deref().map(Into::into),
            origin_server_ts: draft.origin_server_ts,
            depth: top.depth,
            prev_events: prev.iter().map(|r| r.event_id().to_owned()).collect(),
            auth_events: auth.iter().map(|r| r.event_id().to_owned()).collect(),
            redacts: draft.redacts.clone(),
            rejected: false,
            content: u32::try_from(content.start).unwrap_or(0)..u32::try_from(content.end).unwrap_or(0),
            json: json.into_boxed_str(),
        })
    }

    /// What `make_join` and its kin hand out: the event without hashes and signatures (server-server API,
    /// "Joining Rooms"), for the other server to complete.
    pub fn template(
        &self,
        version: &RoomVersion,
        prev: &[Reference],
        depth: u64,
        auth: &[Reference],
    ) -> Result<String> {
        let draft = self.placed(version, prev, auth)?;
        let draft = draft.as_ref().unwrap_or(self);
        let top = Top { draft, version, event_id: None, prev, auth, depth: depth.min(version.max_depth()) };
        Ok(top.text(&draft.content_json, None, None).0)
    }

    /// Checks that such a draft can stand at such a place, and moves `redacts` into the content for the versions
    /// that want it there (`None` when nothing was to be moved).
    fn placed(&self, version: &RoomVersion, prev: &[Reference], auth: &[Reference]) -> Result<Option<Self>> {
        if self.event_type.to_string().len() > MAX_FIELD {
            return Err(Error::too_large("The event type is too long"));
        }
        if self.state_key.as_ref().is_some_and(|key| key.len() > MAX_FIELD) {
            return Err(Error::too_large("The state key is too long"));
        }
        if self.event_type.to_string().contains('\0') || self.state_key.as_ref().is_some_and(|key| key.contains('\0')) {
            return Err(Error::invalid_param("Event types and state keys cannot contain NUL"));
        }
        if !prev.iter().chain(auth).all(|reference| reference.fits(version)) {
            return Err(Error::broken("an event of room version 1 or 2 names others without their hashes"));
        }
        if prev.len() > MAX_PREV || auth.len() > MAX_AUTH {
            return Err(Error::broken("an event has too many previous or auth events"));
        }
        let unnamed = version.room_id_is_create_hash() && self.event_type == TimelineEventType::RoomCreate;
        if unnamed != self.room_id.is_none() {
            return Err(Error::broken("only a create event of version 12 and later goes without a room id"));
        }
        let Some(redacts) = &self.redacts else { return Ok(None) };
        if !version.redacts_in_content() {
            return Ok(None);
        }
        let mut content = self.content.clone();
        content.insert("redacts".to_owned(), CanonicalJsonValue::String(redacts.to_string()));
        let content_json = canonical::to_text(&content).doing("writing content")?;
        Ok(Some(Self { content, content_json, ..self.clone() }))
    }

    /// The content as it is after redaction.
    fn redacted_content(&self, version: &RoomVersion) -> Result<String> {
        let event_type = self.event_type.to_string();
        // Only types of the core survive redaction with anything; the commonest event need not be asked about.
        if !event_type.starts_with("m.room.") || event_type == "m.room.message" || event_type == "m.room.encrypted" {
            return Ok("{}".to_owned());
        }
        let content = parse_object(&self.content_json, Numbers::Canonical).doing("reading content")?;
        let mut out = String::with_capacity(self.content_json.len());
        write_redacted_content(&mut out, &content, &event_type, &version.rules.redaction);
        Ok(out)
    }
}

/// A draft at its place, ready to be written as text.
struct Top<'a> {
    draft: &'a Draft,
    version: &'a RoomVersion,
    /// Of versions 1 and 2, where it is part of the text.
    event_id: Option<OwnedEventId>,
    prev: &'a [Reference],
    auth: &'a [Reference],
    depth: u64,
}

impl Top<'_> {
    /// Canonical text (keys in order, no spaces) and where the content stands in it. Without `signature` but with
    /// `hash` it is the text to be signed, which leaves out `redacts`: redaction takes it.
    fn text(
        &self,
        content: &str,
        hash: Option<&str>,
        signature: Option<(&Signer, &str)>,
    ) -> (String, std::ops::Range<usize>) {
        let draft = self.draft;
        let ids = self.prev.iter().chain(self.auth).map(|r| r.event_id().as_str().len() + 3).sum::<usize>();
        let mut out = String::with_capacity(content.len() + ids + 640);
        out.push_str("{\"auth_events\":");
        push_references(&mut out, self.auth, self.version);
        out.push_str(",\"content\":");
        let start = out.len();
        out.push_str(content);
        let end = out.len();
        out.push_str(",\"depth\":");
        push_int(&mut out, self.depth);
        if let Some(event_id) = &self.event_id {
            out.push_str(",\"event_id\":");
            push_str(&mut out, event_id.as_str());
        }
        if let Some(hash) = hash {
            out.push_str(",\"hashes\":{\"sha256\":\"");
            out.push_str(hash);
            out.push_str("\"}");
        }
        out.push_str(",\"origin_server_ts\":");
        push_int(&mut out, draft.origin_server_ts);
        out.push_str(",\"prev_events\":");
        push_references(&mut out, self.prev, self.version);
        let to_be_signed = hash.is_some() && signature.is_none();
        if let Some(redacts) = draft.redacts.as_deref().filter(|_| !self.version.redacts_in_content() && !to_be_signed)
        {
            out.push_str(",\"redacts\":");
            push_str(&mut out, redacts.as_str());
        }
        if let Some(room_id) = &draft.room_id {
            out.push_str(",\"room_id\":");
            push_str(&mut out, room_id.as_str());
        }
        out.push_str(",\"sender\":");
        push_str(&mut out, draft.sender.as_str());
        if let Some((signer, signature)) = signature {
            out.push_str(",\"signatures\":{");
            push_str(&mut out, signer.server_name().as_str());
            out.push_str(":{");
            push_str(&mut out, signer.key_id());
            out.push_str(":\"");
            out.push_str(signature);
            out.push_str("\"}}");
        }
        if let Some(state_key) = &draft.state_key {
            out.push_str(",\"state_key\":");
            push_str(&mut out, state_key);
        }
        out.push_str(",\"type\":");
        push_str(&mut out, &draft.event_type.to_string());
        out.push('}');
        (out, start..end)
    }
}

fn push_references(out: &mut String, references: &[Reference], version: &RoomVersion) {
    out.push('[');
    for (n, reference) in references.iter().enumerate() {
        if n > 0 {
            out.push(',');
        }
        reference.write(out, version);
    }
    out.push(']');
}
