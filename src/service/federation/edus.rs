//! What comes beside events: typing, receipts, presence, to-device messages, changes of devices and keys.
//!
//! Each is checked by itself: a server speaks for its own users alone, about rooms these are in and that keep it not
//! out. What is wrong is passed over, as the specification wants; nothing here fails a transaction. Device lists are
//! kept by [`device_lists`].

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use hearth_base::{
    Result,
    cache::Cache,
    ids::{RoomNid, UserNid},
};
use hearth_store::Store;
use ruma::{
    OwnedRoomId, OwnedServerName, OwnedUserId, ServerName, UserId, events::room::member::MembershipState,
    presence::PresenceState, to_device::DeviceIdOrAllDevices,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{acl::Acls, servers::Servers};
use crate::{
    devices::to_device::ToDevice,
    keys::is_name,
    presence::{Presence, RemotePresence},
    receipts::{Receipts, RemoteReceipt},
    typing::Typing,
};

pub mod device_lists;

use device_lists::DeviceLists;

/// Bytes of one EDU; a to-device message to many devices is the largest there is.
const MAX_BYTES: usize = 4 << 20;
/// Rooms of a transaction's EDUs: one server's users are seldom in more at once, and each costs a look at the disk.
const MAX_ROOMS_IN_ALL: usize = 1_000;
/// Rooms and users in one receipt EDU, users in one presence EDU, messages in one to-device EDU.
const MAX_ROOMS_EACH: usize = 200;
const MAX_RECEIPTS: usize = 1_000;
const MAX_PRESENCE: usize = 1_000;
const MAX_MESSAGES: usize = 10_000;
/// Users of whom nothing but a receipt is known, in a room, and rooms in which they are counted.
const STRANGERS: usize = 1_000;
const ROOMS: u64 = 1_000;

/// Takes in what comes beside events.
#[derive(Debug)]
pub struct Edus {
    store: Store,
    name: OwnedServerName,
    acls: Arc<Acls>,
    typing: Arc<Typing>,
    presence: Arc<Presence>,
    receipts: Arc<Receipts>,
    to_device: Arc<ToDevice>,
    device_lists: Arc<DeviceLists>,
    servers: Arc<Servers>,
    /// Users in rooms of whose members not all are known, whom nobody but their server has spoken of.
    strangers: Cache<RoomNid, Arc<AtomicUsize>>,
}

/// What they are handed to.
#[derive(Debug)]
pub struct Parts {
    /// Whom rooms keep out.
    pub acls: Arc<Acls>,
    /// Who types.
    pub typing: Arc<Typing>,
    /// Who is here.
    pub presence: Arc<Presence>,
    /// What has been read.
    pub receipts: Arc<Receipts>,
    /// Messages to devices.
    pub to_device: Arc<ToDevice>,
    /// Devices of others.
    pub device_lists: Arc<DeviceLists>,
    /// Which servers are in which rooms.
    pub servers: Arc<Servers>,
}

#[derive(Deserialize)]
struct Edu<'e> {
    edu_type: String,
    #[serde(borrow)]
    content: &'e RawValue,
}

#[derive(Deserialize)]
struct TypingContent {
    room_id: OwnedRoomId,
    user_id: OwnedUserId,
    typing: bool,
}

#[derive(Deserialize)]
struct PresenceContent {
    push: Vec<PresenceUpdate>,
}

#[derive(Deserialize)]
struct PresenceUpdate {
    user_id: OwnedUserId,
    presence: PresenceState,
    #[serde(default)]
    status_msg: Option<String>,
    #[serde(default)]
    last_active_ago: u64,
}

#[derive(Deserialize)]
struct ReceiptEntry {
    data: ReceiptData,
    event_ids: Vec<String>,
}

#[derive(Deserialize)]
struct ReceiptData {
    #[serde(default)]
    ts: i64,
    #[serde(default)]
    thread_id: Option<String>,
}

/// What is known of rooms that a transaction's EDUs name; `None` for those that are not here, or keep the server out.
type Rooms = HashMap<OwnedRoomId, Option<RoomNid>>;

/// By room, kind and user.
type ReceiptContent = BTreeMap<OwnedRoomId, BTreeMap<String, BTreeMap<OwnedUserId, ReceiptEntry>>>;

#[derive(Deserialize)]
struct ToDeviceContent {
    sender: OwnedUserId,
    #[serde(rename = "type")]
    event_type: String,
    message_id: String,
    messages: BTreeMap<OwnedUserId, BTreeMap<DeviceIdOrAllDevices, Box<RawValue>>>,
}

impl Edus {
    /// Made once.
    #[must_use]
    pub fn new(store: Store, name: OwnedServerName, parts: Parts) -> Self {
        let Parts { acls, typing, presence, receipts, to_device, device_lists, servers } = parts;
        let strangers = Cache::new(ROOMS);
        Self { store, name, acls, typing, presence, receipts, to_device, device_lists, servers, strangers }
    }

    /// Takes in what a server sent, in its order.
    ///
    /// # Errors
    /// If the database fails: then the server is to send it again. What is wrong with an EDU is no error.
    pub async fn receive(&self, origin: &ServerName, edus: &[Box<RawValue>]) -> Result<()> {
        let mut rooms = Rooms::new();
        for raw in edus {
            if raw.get().len() > MAX_BYTES {
                tracing::info!(%origin, bytes = raw.get().len(), most_bytes = MAX_BYTES, "an EDU is too large and was dropped");
                continue;
            }
            let Ok(edu) = serde_json::from_str::<Edu<'_>>(raw.get()) else { continue };
            let content = edu.content.get();
            let done = match edu.edu_type.as_str() {
                "m.typing" => self.typing(origin, content, &mut rooms).await,
                "m.receipt" => self.receipt(origin, content, &mut rooms).await,
                "m.presence" => self.presence(origin, content).await,
                "m.direct_to_device" => self.to_device(origin, content).await,
                "m.device_list_update" => self.device_lists.update(origin, content).await,
                // The second is how it was called before it was in the specification.
                "m.signing_key_update" | "org.matrix.signing_key_update" => {
                    self.device_lists.signing_keys(origin, content).await
                }
                other => {
                    tracing::trace!(%origin, edu_type = other, "an EDU of a type unknown here");
                    Ok(())
                }
            };
            match done {
                // What is wrong with one stops none of the others.
                Err(e) if e.is_final() => {
                    tracing::debug!(%origin, edu_type = edu.edu_type, error = %e, "an EDU that cannot be taken in");
                }
                done => done?,
            }
        }
        Ok(())
    }

    /// A room that we have and that does not keep the server out; of a transaction's first rooms.
    async fn room(&self, origin: &ServerName, room: OwnedRoomId, rooms: &mut Rooms) -> Result<Option<RoomNid>> {
        if let Some(known) = rooms.get(&room) {
            return Ok(*known);
        }
        if rooms.len() >= MAX_ROOMS_IN_ALL {
            return Ok(None);
        }
        let mut found = self.store.room_nid(&room).await?;
        if let Some(nid) = found
            && !self.acls.allows(nid, origin).await?
        {
            found = None;
        }
        rooms.insert(room, found);
        Ok(found)
    }

    /// A user of that server who is in a room.
    async fn member(&self, origin: &ServerName, room: RoomNid, user: &UserId) -> Result<Option<UserNid>> {
        if user.server_name() != origin {
            return Ok(None);
        }
        let Some(nid) = self.store.user_nid(user).await? else { return Ok(None) };
        let membership = self.store.membership(room, nid).await?;
        Ok(membership.is_some_and(|m| m.membership == MembershipState::Join).then_some(nid))
    }

    /// Whether a user of that server may be in a room of whose members not all are known, and nothing says that they are
    /// not.
    async fn may_be_member(&self, origin: &ServerName, room: RoomNid, user: &UserId) -> Result<bool> {
        if user.server_name() != origin || !self.store.room(room).await?.is_some_and(|r| r.head.partial) {
            return Ok(false);
        }
        if let Some(nid) = self.store.user_nid(user).await?
            && self.store.membership(room, nid).await?.is_some()
        {
            return Ok(false);
        }
        self.servers.is_in(origin, room).await
    }

    /// Such a user's number, as long as there are not too many of them.
    async fn stranger(&self, origin: &ServerName, room: RoomNid, user: &UserId) -> Result<Option<UserNid>> {
        if !self.may_be_member(origin, room, user).await? {
            return Ok(None);
        }
        match self.store.user_nid(user).await? {
            Some(nid) => Ok(Some(nid)),
            None if self.strangers.get_with(room, Arc::default).fetch_add(1, Ordering::Relaxed) < STRANGERS => {
                self.store.intern_user(user).await.map(Some)
            }
            None => Ok(None),
        }
    }

    async fn typing(&self, origin: &ServerName, content: &str, rooms: &mut Rooms) -> Result<()> {
        let Ok(said) = serde_json::from_str::<TypingContent>(content) else { return Ok(()) };
        let Some(room) = self.room(origin, said.room_id, rooms).await? else { return Ok(()) };
        if self.member(origin, room, &said.user_id).await?.is_none()
            && !self.may_be_member(origin, room, &said.user_id).await?
        {
            return Ok(());
        }
        self.typing.set_remote(room, &said.user_id, said.typing).await
    }

    async fn receipt(&self, origin: &ServerName, content: &str, rooms: &mut Rooms) -> Result<()> {
        let Ok(said) = serde_json::from_str::<ReceiptContent>(content) else { return Ok(()) };
        let mut good = Vec::new();
        let mut left = MAX_RECEIPTS;
        for (room, mut kinds) in said.into_iter().take(MAX_ROOMS_EACH) {
            // There are no others between servers.
            let Some(users) = kinds.remove("m.read") else { continue };
            let Some(room) = self.room(origin, room, rooms).await? else { continue };
            for (user, entry) in users {
                if left == 0 {
                    break;
                }
                left -= 1;
                let thread = entry.data.thread_id.filter(|thread| !thread.is_empty());
                let is_id = |id: &str| id.starts_with('$') && id.len() <= 255 && !id.contains('\0');
                if thread.as_ref().is_some_and(|thread| thread != "main" && !is_id(thread)) {
                    continue;
                }
                // Which events there are elsewhere is not for us to say; clients know those they have.
                let is_name = |id: &String| !id.is_empty() && id.len() <= 255 && !id.contains('\0');
                let event_id = entry.event_ids.into_iter().next().filter(is_name);
                let Some(event_id) = event_id else { continue };
                let user = match self.member(origin, room, &user).await? {
                    Some(member) => Some(member),
                    None => self.stranger(origin, room, &user).await?,
                };
                let Some(user) = user else { continue };
                good.push(RemoteReceipt { room, user, thread, event_id, ts_ms: entry.data.ts });
            }
        }
        self.receipts.receive(good).await
    }

    async fn presence(&self, origin: &ServerName, content: &str) -> Result<()> {
        let Ok(said) = serde_json::from_str::<PresenceContent>(content) else { return Ok(()) };
        for update in said.push.into_iter().take(MAX_PRESENCE) {
            if update.user_id.server_name() != origin {
                continue;
            }
            let Some(nid) = self.store.user_nid(&update.user_id).await? else { continue };
            if !self.store.meets_ours(nid).await? {
                continue;
            }
            let said = RemotePresence {
                presence: update.presence,
                status: update.status_msg,
                last_active_ago: update.last_active_ago,
            };
            self.presence.set_remote(nid, &update.user_id, said).await?;
        }
        Ok(())
    }

    async fn to_device(&self, origin: &ServerName, content: &str) -> Result<()> {
        let Ok(said) = serde_json::from_str::<ToDeviceContent>(content) else { return Ok(()) };
        let count: usize = said.messages.values().map(BTreeMap::len).sum();
        let bad = said.sender.server_name() != origin
            || !is_name(&said.event_type)
            || !is_name(&said.message_id)
            || count > MAX_MESSAGES;
        if bad {
            return Ok(());
        }
        let messages = said.messages.into_iter().filter(|(user, _)| *user.server_name() == self.name).collect();
        self.to_device.receive(origin, &said.sender, &said.event_type, &said.message_id, messages).await
    }
}
