//! A user's own data: global and per room, tags, filters (spec: "Client Config", "Room Tagging", "Filtering").
//!
//! Push rules are account data, too, and are read here with the server's default rules filled in; changing them is
//! [`crate::push`]'s, the fully-read marker [`crate::receipts`]'.

use std::{collections::HashSet, sync::Arc};

use hearth_base::{
    Doing, Error, OrNotFound, Requester, Result,
    cache::Cache,
    ids::{RoomNid, StreamPos, UserNid},
};
use hearth_store::{Store, account_data::AccountData as Piece};
use http::StatusCode;
use ruma::{OwnedUserId, RoomId, RoomVersionId, UserId};
use serde_json::{Map, Value, json, value::RawValue};

pub mod filters;
mod following;
pub mod ignored;
pub(crate) mod invites;
pub mod push_rules;

/// How account data is limited.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes of one piece at most.
    pub max_bytes: usize,
    /// Pieces a user may have, all rooms together, deleted ones included.
    pub max_pieces: u64,
    /// Filters a user may have; beyond, the oldest go.
    pub max_filters: u64,
    /// Whether MSC3391's deletion is offered.
    pub deletion: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { max_bytes: 1 << 20, max_pieces: 20_000, max_filters: 500, deletion: true }
    }
}

/// Kinds that only the server changes.
const MANAGED: [&str; 2] = ["m.fully_read", "m.push_rules"];
/// The kind that holds push rules.
pub const PUSH_RULES: &str = "m.push_rules";
const TAGS: &str = "m.tag";
/// Bytes of a name: of a kind, of a tag.
const MAX_NAME: usize = 255;
/// Lists of ignored users remembered.
const IGNORED: u64 = 2_000;

/// Account data and filters.
#[derive(Debug)]
pub struct AccountData {
    store: Store,
    settings: Settings,
    ignored: Cache<UserNid, ignored::Parsed>,
    /// Whom those ignore who ignore nobody.
    nobody: Arc<HashSet<OwnedUserId>>,
}

impl AccountData {
    /// Made once.
    #[must_use]
    pub fn new(store: Store, settings: Settings) -> Self {
        Self { store, settings, ignored: Cache::new(IGNORED), nobody: Arc::default() }
    }

    /// One piece, global if `room` is `None`.
    ///
    /// # Errors
    /// 403 for other users' data, 404 if there is none.
    pub async fn get(
        &self,
        who: &Requester,
        user: &UserId,
        room: Option<&RoomId>,
        kind: &str,
    ) -> Result<Box<RawValue>> {
        own(who, user)?;
        let Some(room) = self.room(room).await? else { return Err(Error::not_found("Account data not found")) };
        let stored = self.store.account_data(who.user_nid, room, kind).await?;
        if room.is_none() && kind == PUSH_RULES {
            return raw(push_rules::content(&push_rules::read(stored.as_deref(), user)));
        }
        raw(stored.or_not_found("Account data")?.as_ref().to_owned())
    }

    /// Sets one piece. The room may be one that nobody here has heard of: what a user notes of it is theirs.
    ///
    /// # Errors
    /// 403 for other users' data, 405 for kinds that the server manages, 400 for what is no object, 413 beyond the
    /// limits.
    pub async fn put(
        &self,
        who: &Requester,
        user: &UserId,
        room: Option<&RoomId>,
        kind: &str,
        content: &RawValue,
    ) -> Result<()> {
        own(who, user)?;
        writable(kind)?;
        if !content.get().starts_with('{') {
            return Err(Error::bad_json("Content must be a JSON object"));
        }
        self.fits(Some(content.get()))?;
        let room = self.noted(who, room).await?;
        self.write(who.user_nid, room, kind, Some(content.get().to_owned())).await
    }

    /// Deletes one piece (MSC3391); deleting what is not there is no error.
    ///
    /// # Errors
    /// As [`Self::put`]; 404 if deletion is not offered.
    pub async fn delete(&self, who: &Requester, user: &UserId, room: Option<&RoomId>, kind: &str) -> Result<()> {
        if !self.settings.deletion {
            return Err(Error::unrecognized("Deleting account data is not offered here"));
        }
        own(who, user)?;
        writable(kind)?;
        let Some(room) = self.room(room).await? else { return Ok(()) };
        if self.store.account_data(who.user_nid, room, kind).await?.is_none() {
            return Ok(());
        }
        self.write(who.user_nid, room, kind, None).await
    }

    async fn write(&self, user: UserNid, room: Option<RoomNid>, kind: &str, content: Option<String>) -> Result<()> {
        self.fits(content.as_deref())?;
        self.store.change_account_data(user, room, kind, self.settings.max_pieces, move |_| Ok(content)).await
    }

    fn fits(&self, content: Option<&str>) -> Result<()> {
        if content.is_some_and(|c| c.len() > self.settings.max_bytes) {
            return Err(Error::too_large("This piece of account data is too large"));
        }
        Ok(())
    }

    /// The tags of a room: name to what goes with it.
    ///
    /// # Errors
    /// 403 for other users' tags.
    pub async fn tags(&self, who: &Requester, user: &UserId, room: &RoomId) -> Result<Map<String, Value>> {
        own(who, user)?;
        let Some(room) = self.room(Some(room)).await? else { return Ok(Map::new()) };
        let stored = self.store.account_data(who.user_nid, room, TAGS).await?;
        Ok(tags_of(&parse(stored.as_deref())))
    }

    /// Puts a tag on a room.
    ///
    /// # Errors
    /// 403 for other users' tags, 400 for a name too long or an `order` that is no number.
    pub async fn set_tag(
        &self,
        who: &Requester,
        user: &UserId,
        room: &RoomId,
        tag: &str,
        info: Map<String, Value>,
    ) -> Result<()> {
        if info.get("order").is_some_and(|order| !order.is_number() && !order.is_null()) {
            return Err(Error::bad_json("`order` must be a number"));
        }
        self.change_tags(who, user, room, tag, Some(info)).await
    }

    /// Takes a tag off a room; taking off what is not there is no error.
    ///
    /// # Errors
    /// 403 for other users' tags.
    pub async fn delete_tag(&self, who: &Requester, user: &UserId, room: &RoomId, tag: &str) -> Result<()> {
        self.change_tags(who, user, room, tag, None).await
    }

    async fn change_tags(
        &self,
        who: &Requester,
        user: &UserId,
        room: &RoomId,
        tag: &str,
        info: Option<Map<String, Value>>,
    ) -> Result<()> {
        own(who, user)?;
        if tag.is_empty() || tag.len() > MAX_NAME {
            return Err(Error::invalid_param("The name of a tag is 1 to 255 bytes long"));
        }
        let room = match (self.room(Some(room)).await?, &info) {
            (Some(known), _) => known,
            (None, None) => return Ok(()),
            (None, Some(info)) => {
                self.fits(Some(&json!({ "tags": { tag: info } }).to_string()))?;
                self.noted(who, Some(room)).await?
            }
        };
        let (tag, max_bytes) = (tag.to_owned(), self.settings.max_bytes);
        let change = move |stored: Option<String>| {
            let mut content = parse(stored.as_deref());
            let mut tags = tags_of(&content);
            match info {
                Some(info) => tags.insert(tag, Value::Object(info)),
                None => tags.shift_remove(&tag),
            };
            content.insert("tags".to_owned(), Value::Object(tags));
            let content = Value::Object(content).to_string();
            if content.len() > max_bytes {
                return Err(Error::too_large("There are too many tags on this room"));
            }
            Ok(Some(content))
        };
        self.store.change_account_data(who.user_nid, room, TAGS, self.settings.max_pieces, change).await
    }

    /// For /sync: what changed in `(after, upto]`, as (room, kind, content). What was deleted has `{}` for content.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn since(
        &self,
        user: &UserId,
        nid: UserNid,
        after: StreamPos,
        upto: StreamPos,
    ) -> Result<Vec<(Option<RoomNid>, String, Box<RawValue>)>> {
        let pieces = self.store.account_data_since(nid, after, upto).await?;
        pieces.into_iter().map(|piece| for_sync(piece, user)).collect()
    }

    /// For an initial /sync: all there is as of `upto`; the push rules also if the user never changed any.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn all(
        &self,
        user: &UserId,
        nid: UserNid,
        upto: StreamPos,
    ) -> Result<Vec<(Option<RoomNid>, String, Box<RawValue>)>> {
        let mut pieces = self.store.account_data_all(nid, upto).await?;
        if !pieces.iter().any(|p| p.room.is_none() && p.kind == PUSH_RULES) {
            pieces.insert(0, Piece { room: None, kind: PUSH_RULES.to_owned(), content: None, pos: upto });
        }
        pieces.into_iter().map(|piece| for_sync(piece, user)).collect()
    }

    /// For /sync, when a room is shown for the first time: all there is for it.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn of_room(&self, user: UserNid, room: RoomNid) -> Result<Vec<(String, Box<RawValue>)>> {
        let pieces = self.store.account_data_of(user, Some(room)).await?;
        pieces.into_iter().filter_map(|p| Some(raw(p.content?).map(|content| (p.kind, content)))).collect()
    }

    /// The number of a room, `Some(None)` for what is of none; `None` for a room nobody has heard of.
    async fn room(&self, room: Option<&RoomId>) -> Result<Option<Option<RoomNid>>> {
        match room {
            Some(room) => Ok(self.store.room_nid(room).await?.map(Some)),
            None => Ok(Some(None)),
        }
    }

    /// The same, for a piece that is to be written: a room nobody has heard of gets a row if the user may have one piece
    /// more, so that of these, too, there are no more than pieces.
    async fn noted(&self, who: &Requester, room: Option<&RoomId>) -> Result<Option<RoomNid>> {
        if let Some(known) = self.room(room).await? {
            return Ok(known);
        }
        let Some(room) = room else { return Ok(None) };
        if self.store.account_data_count(who.user_nid).await? >= self.settings.max_pieces {
            return Err(Error::too_large("Too many pieces of account data"));
        }
        // Of the room no more is known than its id, which says something of its version. Whoever tells us more is believed.
        let version = if room.server_name().is_none() { RoomVersionId::V12 } else { RoomVersionId::V11 };
        self.store.make_stub_room(room.to_owned(), version, who.user_nid, 0).await.map(Some)
    }
}

/// Nobody reads or writes other people's data.
fn own(who: &Requester, user: &UserId) -> Result<()> {
    if who.is(user) { Ok(()) } else { Err(Error::forbidden("This belongs to another user")) }
}

fn writable(kind: &str) -> Result<()> {
    if MANAGED.contains(&kind) {
        let error = format!("{kind} cannot be set through this API");
        return Err(Error::told(StatusCode::METHOD_NOT_ALLOWED, "M_BAD_JSON", error));
    }
    if kind.is_empty() || kind.len() > MAX_NAME {
        return Err(Error::invalid_param("The type of account data is 1 to 255 bytes long"));
    }
    Ok(())
}

fn for_sync(piece: Piece, user: &UserId) -> Result<(Option<RoomNid>, String, Box<RawValue>)> {
    let content = if piece.room.is_none() && piece.kind == PUSH_RULES {
        push_rules::content(&push_rules::read(piece.content.as_deref(), user))
    } else {
        piece.content.unwrap_or_else(|| "{}".to_owned())
    };
    Ok((piece.room, piece.kind, raw(content)?))
}

fn raw(json: String) -> Result<Box<RawValue>> {
    RawValue::from_string(json).doing("reading account data")
}

/// What a client put there under that name, if it is an object; else as if nothing were there.
fn parse(content: Option<&str>) -> Map<String, Value> {
    content.and_then(|c| serde_json::from_str(c).ok()).unwrap_or_default()
}

fn tags_of(content: &Map<String, Value>) -> Map<String, Value> {
    content.get("tags").and_then(Value::as_object).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests;
