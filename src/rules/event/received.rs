//! Events from other servers: nothing in them is believed. Form and size are checked when they are parsed, which
//! gives an [`Unverified`]; only checking its signatures and hash gives a [`Pdu`] (server-server API, "Checks performed
//! on receipt of a PDU", steps 1 to 3). Authorisation comes after, in [`crate::auth`].

use std::collections::BTreeSet;

use ruma::{
    AnyKeyName, EventId, OwnedEventId, OwnedServerName, RoomId, ServerName, SigningKeyId, UserId,
    events::TimelineEventType,
    serde::{Base64, base64::Standard},
    signatures::{PublicKeyMap, verify_canonical_json_bytes},
};

use super::{
    Pdu, Signer,
    canonical::{self, MAX_AUTH, MAX_EVENT, MAX_FIELD, MAX_PREV},
    redaction::redact_in_place,
    reference, room_id_of_create,
};
use crate::{
    json::{Invalid, Object, Value, parse_object},
    versions::RoomVersion,
};

/// Why an event from another server is dropped: its form, its size, or a signature. Says what to tell that server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It is not the JSON that its room version asks for.
    #[error("{0}")]
    Json(Invalid),
    /// It is no event as its room version has them, or not signed as it must be.
    #[error("{0}")]
    Form(String),
}

impl Malformed {
    fn new(why: impl Into<String>) -> Self {
        Self::Form(why.into())
    }
}

/// 400 `M_BAD_JSON`, or `M_INVALID_PARAM` for proper JSON.
impl From<Malformed> for hearth_base::Error {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::Json(why) => Self::bad_json(format!("The event is not canonical JSON: {why}")),
            Malformed::Form(why) => Self::invalid_param(why),
        }
    }
}

/// An event of proper form whose signatures and hash were not looked at yet.
#[derive(Debug, Clone)]
pub struct Unverified {
    pdu: Pdu,
    object: Object,
    version: &'static RoomVersion,
}

/// An event whose signatures hold.
#[derive(Debug, Clone)]
pub enum Verified {
    /// Its content is as it was signed.
    All(Pdu),
    /// Its content is not what was hashed, so what is left is the redacted event.
    HashMismatchRedacted(Pdu),
}

impl Verified {
    /// The event, whole or redacted.
    #[must_use]
    pub fn into_pdu(self) -> Pdu {
        match self {
            Self::All(pdu) | Self::HashMismatchRedacted(pdu) => pdu,
        }
    }
}

impl Pdu {
    /// Reads an event another server sent: its form (rooms/vN, "Event format"), the size limits, canonical JSON.
    /// `unsigned` is dropped: nobody vouches for it. The event id is computed, or in versions 1 and 2 read.
    pub fn parse_remote(json: &str, version: &'static RoomVersion) -> Result<Unverified, Malformed> {
        // Escapes can make JSON longer than its canonical form, at most sixfold.
        if json.len() > 8 * MAX_EVENT {
            return Err(Malformed::new("the event is too large"));
        }
        let mut object = parse_object(json, version.numbers()).map_err(Malformed::Json)?;
        object.remove("unsigned");
        let pdu = read(&object, version)?;
        Ok(Unverified { pdu, object, version })
    }

    /// The id of what [`Self::parse_remote`] refuses for its form, to name it by; `None` for what has none.
    #[must_use]
    pub fn id_of_malformed(json: &str, version: &'static RoomVersion) -> Option<OwnedEventId> {
        let object = (json.len() <= 8 * MAX_EVENT).then(|| parse_object(json, version.numbers()).ok()).flatten()?;
        if !version.event_id_is_hash() {
            return event_id(required_str(&object, "event_id").ok()?).ok();
        }
        canonical::event_id_of(&canonical::redacted_text(&object, version), version).ok()
    }
}

impl Unverified {
    /// The event as it claims to be: good for logs, for looking up keys, room and relatives, for nothing else.
    #[must_use]
    pub fn claimed(&self) -> &Pdu {
        &self.pdu
    }

    /// Which servers must have signed it (server-server API, "Validating hashes and signatures on received events";
    /// rooms/v8 for restricted joins), with the key ids each of them used, in ascending order.
    pub fn signers(&self) -> Result<Vec<(OwnedServerName, Vec<String>)>, Malformed> {
        let signatures = self.object.get("signatures").and_then(Value::as_object);
        let keys_of = |server: &ServerName| {
            signatures
                .and_then(|all| all.get(server.as_str())?.as_object())
                .map(|keys| keys.keys().cloned().collect())
                .unwrap_or_default()
        };
        let servers = required_servers(&self.pdu, self.version)?;
        Ok(servers.into_iter().map(|server| (keys_of(&server), server)).map(|(keys, server)| (server, keys)).collect())
    }

    /// The same with our signature beside those it has: for a join that one of our users vouches for, which is not whole
    /// without it (rooms/v8). Nothing of it may leave the server before [`Self::verify`].
    pub fn co_signed(mut self, signer: &Signer) -> Result<Self, Malformed> {
        signer.sign_event(&mut self.object, self.version);
        self.pdu = read(&self.object, self.version)?;
        Ok(self)
    }

    /// Checks signatures and content hash. `keys` holds, by server, the keys that were valid when the event was sent
    /// (since version 5 the caller leaves out those that were not); keys it does not know are skipped, and each server
    /// of [`Self::signers`] must be left with one good signature and no bad one.
    pub fn verify(self, keys: &PublicKeyMap) -> Result<Verified, Malformed> {
        let version = self.version;
        let text = canonical::redacted_text(&self.object, version);
        for server in required_servers(&self.pdu, version)? {
            verify_signature(&self.object, &server, keys, &text)?;
        }
        let text = canonical::content_hash_text(&self.object);
        let claimed = self.object.get("hashes").and_then(|h| h.as_object()?.get("sha256")?.as_str());
        // Compared as bytes, since padding and alphabet of another server's base64 are its own affair.
        let same = claimed
            .and_then(|hash| Base64::<Standard>::parse(hash).ok())
            .zip(Base64::<Standard>::parse(canonical::hash_base64(&text)).ok())
            .is_some_and(|(theirs, ours)| theirs.as_bytes() == ours.as_bytes());
        if same {
            return Ok(Verified::All(self.pdu));
        }
        let mut object = self.object;
        redact_in_place(&mut object, version);
        let pdu = read(&object, version)?;
        Ok(Verified::HashMismatchRedacted(pdu))
    }
}

impl Pdu {
    /// The same event with the signatures that `server` put on a copy of it (server-server API, "Inviting to a room").
    /// Nothing else of the copy counts, as long as it is one.
    pub fn with_signatures_of(
        &self,
        server: &ServerName,
        copy: &str,
        version: &'static RoomVersion,
    ) -> Result<Self, Malformed> {
        let copy = Self::parse_remote(copy, version)?;
        if copy.pdu.event_id != self.event_id {
            return Err(Malformed::new("this is another event"));
        }
        let theirs = copy.object.get("signatures").and_then(|all| all.as_object()?.get(server.as_str())?.as_object());
        let theirs = theirs.filter(|keys| !keys.is_empty() && keys.values().all(|key| key.as_str().is_some()));
        let theirs = theirs.ok_or_else(|| Malformed::new(format!("not signed by {server}")))?;
        let mut object = parse_object(&self.json, version.numbers()).map_err(Malformed::Json)?;
        if let Some(Value::Object(all)) = object.get_mut("signatures") {
            match all.get_mut(server.as_str()) {
                // It may have signed before, as the room's policy server.
                Some(Value::Object(known)) => known.extend(theirs.clone()),
                _ => drop(all.insert(server.to_string(), Value::Object(theirs.clone()))),
            }
        }
        Ok(read(&object, version)?.with_rejected(self.rejected))
    }
}

/// The servers that must have signed an event.
fn required_servers(pdu: &Pdu, version: &RoomVersion) -> Result<BTreeSet<OwnedServerName>, Malformed> {
    #[derive(serde::Deserialize)]
    struct Member {
        #[serde(default)]
        third_party_invite: Option<serde::de::IgnoredAny>,
        #[serde(default)]
        join_authorised_via_users_server: Option<serde_json::Value>,
    }
    let mut servers = BTreeSet::new();
    let member = (pdu.event_type == TimelineEventType::RoomMember).then(|| pdu.content_as::<Member>()).flatten();
    let membership = pdu.membership();
    // A third-party invite is proved by the identity server's signature inside it, in the authorisation rules.
    if !(membership == "invite" && member.as_ref().is_some_and(|m| m.third_party_invite.is_some())) {
        servers.insert(pdu.sender.server_name().to_owned());
    }
    if version.rules.signatures.check_event_id_server {
        let server = pdu.event_id.server_name().ok_or_else(|| Malformed::new("the event id has no server name"))?;
        servers.insert(server.to_owned());
    }
    // Of joins only: other memberships may carry a stale copy of the key, which binds nobody.
    if version.rules.signatures.check_join_authorised_via_users_server
        && membership == "join"
        && let Some(authoriser) = member.and_then(|m| m.join_authorised_via_users_server)
    {
        let user = UserId::parse(authoriser.as_str().unwrap_or_default())
            .map_err(|_| Malformed::new("join_authorised_via_users_server is not a user id"))?;
        servers.insert(user.server_name().to_owned());
    }
    Ok(servers)
}

/// Checks all of one server's signatures whose keys we know; one must be there (appendices, "Checking for a
/// Signature").
fn verify_signature(object: &Object, server: &ServerName, keys: &PublicKeyMap, text: &str) -> Result<(), Malformed> {
    let signatures = object
        .get("signatures")
        .and_then(|all| all.as_object()?.get(server.as_str())?.as_object())
        .ok_or_else(|| Malformed::new(format!("not signed by {server}")))?;
    let known = keys.get(server.as_str());
    let mut good = false;
    for (key_id, signature) in signatures {
        let Some(key) = known.and_then(|keys| keys.get(key_id)) else { continue };
        let Ok(id) = <&SigningKeyId<AnyKeyName>>::try_from(key_id.as_str()) else { continue };
        let signature = signature.as_str().and_then(|s| Base64::<Standard>::parse(s).ok());
        let signature = signature.ok_or_else(|| Malformed::new(format!("a signature of {server} is not base64")))?;
        verify_canonical_json_bytes(&id.algorithm(), key.as_bytes(), signature.as_bytes(), text.as_bytes())
            .map_err(|e| Malformed::new(format!("signature {key_id} of {server}: {e}")))?;
        good = true;
    }
    if good { Ok(()) } else { Err(Malformed::new(format!("no signature of {server} with a key we know"))) }
}

/// Reads and checks the fields of a hostile event.
pub(super) fn read(object: &Object, version: &RoomVersion) -> Result<Pdu, Malformed> {
    let (json, content) = canonical::event_text(object);
    if json.len() > MAX_EVENT {
        return Err(Malformed::new("the event is too large"));
    }
    if object.get("content").and_then(Value::as_object).is_none() {
        return Err(Malformed::new("`content` is not an object"));
    }
    let hash = object.get("hashes").and_then(|hashes| hashes.as_object()?.get("sha256")?.as_str());
    if hash.is_none() {
        return Err(Malformed::new("`hashes` has no `sha256`"));
    }
    if object.get("signatures").and_then(Value::as_object).is_none() {
        return Err(Malformed::new("`signatures` is not an object"));
    }
    let event_id = if version.event_id_is_hash() {
        let text = canonical::redacted_text(object, version);
        canonical::event_id_of(&text, version).map_err(|e| Malformed::new(e.to_string()))?
    } else {
        event_id(required_str(object, "event_id")?)?
    };
    let event_type = TimelineEventType::from(required_str(object, "type")?);
    let is_create = event_type == TimelineEventType::RoomCreate;
    let (room_id, names_room) = if is_create && version.room_id_is_create_hash() {
        if object.contains_key("room_id") {
            return Err(Malformed::new("a create event of this room version has no `room_id`"));
        }
        (room_id_of_create(&event_id).map_err(|e| Malformed::new(e.to_string()))?, false)
    } else {
        let room_id = RoomId::parse(required_str(object, "room_id")?);
        (room_id.map_err(|e| Malformed::new(format!("`room_id`: {e}")))?, true)
    };
    let auth_events = references(object, "auth_events", MAX_AUTH, version)?;
    if !version.rules.event_format.allow_room_create_in_auth_events
        && auth_events.iter().any(|id| id.as_str().get(1..) == room_id.as_str().get(1..))
    {
        return Err(Malformed::new("`auth_events` names the create event"));
    }
    let redacts = if version.redacts_in_content() {
        object.get("content").and_then(|content| content.as_object()?.get("redacts")?.as_str())
    } else {
        object.get("redacts").and_then(Value::as_str)
    };
    let redacts = redacts.filter(|_| event_type == TimelineEventType::RoomRedaction);
    Ok(Pdu {
        room_id,
        names_room,
        sender: UserId::parse(required_str(object, "sender")?).map_err(|e| Malformed::new(format!("`sender`: {e}")))?,
        state_key: optional_str(object, "state_key")?.map(Into::into),
        origin_server_ts: required_uint(object, "origin_server_ts", version.max_depth())?,
        depth: required_uint(object, "depth", version.max_depth())?,
        prev_events: references(object, "prev_events", MAX_PREV, version)?,
        auth_events,
        // Not an event id: then it redacts nothing, which is no reason to refuse it.
        redacts: redacts.and_then(|id| self::event_id(id).ok()),
        rejected: false,
        event_id,
        event_type,
        content,
        json: json.into_boxed_str(),
    })
}

fn optional_str<'a>(object: &'a Object, field: &str) -> Result<Option<&'a str>, Malformed> {
    match object.get(field) {
        None => Ok(None),
        // Counted as old servers did: what has more bytes than that is rejected, and has its place (`auth`).
        Some(Value::String(s)) if s.chars().nth(MAX_FIELD).is_none() => Ok(Some(s)),
        Some(Value::String(_)) => Err(Malformed::new(format!("`{field}` is too long"))),
        Some(_) => Err(Malformed::new(format!("`{field}` is not a string"))),
    }
}

fn required_str<'a>(object: &'a Object, field: &str) -> Result<&'a str, Malformed> {
    optional_str(object, field)?.ok_or_else(|| Malformed::new(format!("`{field}` is missing")))
}

fn required_uint(object: &Object, field: &str, most: u64) -> Result<u64, Malformed> {
    object
        .get(field)
        .and_then(Value::as_u63)
        .filter(|n| *n <= most)
        .ok_or_else(|| Malformed::new(format!("`{field}` is missing or not a number from 0 to {most}")))
}

fn references(
    object: &Object,
    field: &str,
    most: usize,
    version: &RoomVersion,
) -> Result<Box<[OwnedEventId]>, Malformed> {
    let list = object.get(field).and_then(Value::as_array);
    let list = list.ok_or_else(|| Malformed::new(format!("`{field}` is not a list")))?;
    if list.len() > most {
        return Err(Malformed::new(format!("`{field}` has more than {most} entries")));
    }
    let pairs = reference::in_pairs(version);
    list.iter()
        .map(|entry| match entry {
            Value::Array(pair) if pairs => pair.first().and_then(Value::as_str),
            Value::String(id) if !pairs => Some(id.as_str()),
            _ => None,
        })
        .map(|id| event_id(id.ok_or_else(|| Malformed::new(format!("`{field}` holds what is not an event id")))?))
        .collect()
}

/// ruma takes ids without a server name of any length, and NUL in them.
pub(super) fn event_id(id: &str) -> Result<OwnedEventId, Malformed> {
    match EventId::parse(id) {
        Ok(event_id) if id.len() <= MAX_FIELD && !id.contains('\0') => Ok(event_id),
        _ => Err(Malformed::new("not an event id")),
    }
}
