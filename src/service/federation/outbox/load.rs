//! Puts a transaction together from what waits for a server, and knows what its acknowledgement settles.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hearth_base::{
    Doing, Result,
    ids::{EventNid, RoomNid, StreamPos, UserNid},
};
use hearth_store::{events::StoredEvent, outbox::Owed};
use ruma::{OwnedUserId, UserId, events::TimelineEventType};
use serde_json::{Value, json, value::RawValue};
use sha2::{Digest, Sha256};

use super::{
    Outbox, Transaction,
    devices::Changed,
    peer::{Behind, News, Peer, Soft},
    share::Share,
};

/// Events of a transaction (server-server API, "Transactions").
const PDUS: usize = 50;
/// Everything else of it.
const EDUS: usize = 100;
/// Device changes of it.
const DEVICES: usize = 60;
/// To-device messages of it.
const TO_DEVICE: usize = 30;
/// Rows of the log read at a time for a server that is behind, and pages before it is let go for a moment.
const PAGE: usize = 500;
const PAGES: usize = 20;
/// Receipts in one EDU.
const RECEIPTS: usize = 200;

/// A transaction, and what is settled once it is acknowledged.
pub(super) struct Load {
    pub(super) transaction: Transaction,
    /// So many of the first news.
    pub(super) news: usize,
    /// The server is behind, and will have everything up to here.
    pub(super) upto: Option<StreamPos>,
    /// To-device messages.
    pub(super) to_device: Vec<i64>,
    /// What may be lost, but is kept if it does not arrive.
    pub(super) soft: Soft,
    /// The events in it.
    pub(super) events: Vec<Arc<StoredEvent>>,
}

/// What of the log goes into a transaction.
#[derive(Debug, Default)]
pub(super) struct Durable {
    share: Share,
    events: Vec<EventNid>,
    /// Device changes, in the order of the log.
    pub(super) devices: Vec<(StreamPos, Changed)>,
    /// The log does not reach back to here, where the server stands.
    pub(super) after: Option<StreamPos>,
    /// Users whose newest device change is to be told.
    pub(super) newest: Vec<UserNid>,
    news: usize,
    upto: Option<StreamPos>,
}

impl Durable {
    fn new(share: Share) -> Self {
        Self { share, ..Self::default() }
    }

    fn is_full(&self) -> bool {
        let devices = self.devices.len() + self.newest.len();
        self.events.len() >= self.share.of(PDUS)
            || devices >= self.share.of(DEVICES)
            || (self.share.is_alone() && !self.is_empty())
    }

    fn is_empty(&self) -> bool {
        self.events.is_empty() && self.devices.is_empty() && self.newest.is_empty()
    }

    fn add(&mut self, pos: StreamPos, news: &News) {
        match news {
            News::Event(nid) => self.events.push(*nid),
            News::Device(changed) => self.devices.push((pos, *changed)),
            News::Newest(user) => self.newest.push(*user),
        }
    }
}

impl Outbox {
    /// The next transaction for a server; `None` if there is nothing to send.
    pub(super) async fn load(&self, peer: &Peer) -> Result<Option<Load>> {
        let (behind, share) = {
            let pending = peer.pending.lock();
            (pending.behind, pending.disliked.share)
        };
        let durable = match behind {
            Some(behind) => self.read_log(peer, behind, share).await?,
            None => Durable::new(share),
        };
        let (durable, mut soft, to_device) = {
            let mut pending = peer.pending.lock();
            let mut durable = durable;
            if pending.behind.is_none() && durable.is_empty() {
                for (pos, news) in &pending.news {
                    if durable.is_full() {
                        break;
                    }
                    durable.add(*pos, news);
                    durable.news += 1;
                }
            }
            pending.receipts_from = 0;
            (durable, std::mem::take(&mut pending.soft), pending.to_device)
        };
        if share.is_alone() {
            soft = Soft::default();
        }
        let mut edus = Vec::new();
        let mut ids = Vec::new();
        if to_device && (durable.is_empty() || !share.is_alone()) {
            let most = i64::try_from(share.of(TO_DEVICE)).unwrap_or(1);
            for (id, json) in self.store.outgoing_to_device(peer.name.as_str(), most).await? {
                edus.push(RawValue::from_string(json).doing("reading a stored message")?);
                ids.push(id);
            }
            if ids.is_empty() {
                peer.pending.lock().to_device = false;
            }
        }
        edus.extend(self.device_edus(&durable).await?);
        // Content that is there once only makes an id that says so, and is the same again after a restart.
        let once = !edus.is_empty() || !durable.events.is_empty();
        edus.extend(self.soft_edus(&soft, EDUS.saturating_sub(edus.len())).await?);
        let events = self.store.events(&durable.events).await?;
        let pdus: Vec<Box<RawValue>> = events.iter().filter_map(|e| raw(e.pdu.json())).collect();
        if pdus.is_empty() && edus.is_empty() && durable.upto.is_none() && durable.news == 0 {
            return Ok(None);
        }
        let id = if once { named_by_content(&events, &durable.devices, &edus) } else { self.unique() };
        let transaction = Transaction { id, origin_server_ts: self.clock.now_ms(), pdus, edus };
        Ok(Some(Load { transaction, news: durable.news, upto: durable.upto, to_device: ids, soft, events }))
    }

    /// What a server that is behind is owed next. Once there is no more, it is behind no longer.
    async fn read_log(&self, peer: &Peer, behind: Behind, share: Share) -> Result<Durable> {
        let mut durable = Durable::new(share);
        let mut at = behind.pos;
        // If nothing is left of the log, all up to the head is gone.
        let oldest = self.store.oldest_logged().await?.unwrap_or(StreamPos(self.store.head().0 + 1));
        if oldest.0 > at.0 + 1 {
            return self.without_log(peer, at, share).await;
        }
        for _ in 0..PAGES {
            let upto = self.store.head();
            let rows = self.store.owed(at, upto, PAGE).await?;
            let more = rows.len() == PAGE;
            for (pos, owed) in rows {
                if let Some(news) = self.owed_to(peer, owed).await? {
                    durable.add(pos, &news);
                }
                at = pos;
                if durable.is_full() {
                    durable.upto = Some(at);
                    return Ok(durable);
                }
            }
            if !more {
                at = at.max(upto);
                if durable.is_empty() {
                    let mut pending = peer.pending.lock();
                    if pending.behind.is_some_and(|b| b.newest <= at) {
                        pending.caught_up(at);
                        return Ok(durable);
                    }
                }
                break;
            }
        }
        durable.upto = Some(at);
        Ok(durable)
    }

    /// What a server is owed that was away for longer than the log reaches back: the newest event of ours in each room,
    /// from which it finds the rest by itself, and the devices that changed.
    async fn without_log(&self, peer: &Peer, after: StreamPos, share: Share) -> Result<Durable> {
        let upto = self.store.head();
        let events = self.store.newest_for(peer.name.as_str(), self.name.as_str(), after).await?;
        let mut durable = Durable { upto: Some(upto), after: Some(after), ..Durable::new(share) };
        let mut devices = Vec::new();
        for change in self.store.device_changes_at(&self.store.device_changes_since(after, 10_000).await?).await? {
            let changed = Changed { user: UserNid(change.user_nid), device: !change.device_id.is_empty() };
            if self.servers.of_user(changed.user).await?.contains(&peer.name) {
                devices.push((StreamPos(change.pos), changed));
            }
        }
        // More rooms than fit are rooms of which it hears with the next event in them.
        if events.len() > share.of(PDUS) {
            tracing::info!(server = %peer.name, rooms = events.len(), "a server is back that shares many rooms");
        }
        if devices.is_empty() || !share.is_alone() {
            durable.events = events.into_iter().take(share.of(PDUS)).collect();
        }
        // What does not fit keeps the cursor where it is: device lists are never lost.
        let fit = share.of(DEVICES);
        if devices.len() > fit || (share.is_alone() && !devices.is_empty()) {
            durable.upto = devices.get(fit - 1).map(|(pos, _)| *pos);
            devices.truncate(fit);
        }
        durable.devices = devices;
        Ok(durable)
    }

    /// What of a thing in the log a server is owed.
    async fn owed_to(&self, peer: &Peer, owed: Owed) -> Result<Option<News>> {
        match owed {
            // Another server tells it; we tell of the devices of who came.
            Owed::Event { told: true, event, room, sender, .. } => {
                if !self.servers.is_in(&peer.name, room).await? {
                    return Ok(None);
                }
                let Some(event) = self.store.event(event).await? else { return Ok(None) };
                let comes = self.comes(&StoredEvent { told: true, ..(*event).clone() }).await?;
                Ok(comes.then_some(News::Newest(sender)))
            }
            Owed::Event { event, room, sender, relay, .. } => {
                let by = self.store.user_id(sender).await?;
                let ours = *by.server_name() == self.name;
                // Who sent it has it.
                if (!ours && !relay) || *by.server_name() == peer.name {
                    return Ok(None);
                }
                if self.servers.is_in(&peer.name, room).await? {
                    return Ok(Some(News::Event(event)));
                }
                // Whom a kick or ban concerns hears of it, though not in the room.
                let Some(event) = self.store.event(event).await? else { return Ok(None) };
                Ok((outsider(&event).is_some_and(|user| *user.server_name() == peer.name))
                    .then(|| News::Event(event.nid)))
            }
            Owed::Met { room, servers } if servers.contains(&peer.name) => {
                let newest = self.store.newest_of(room, self.name.as_str()).await?;
                Ok(newest.map(News::Event))
            }
            Owed::Met { .. } => Ok(None),
            Owed::Devices { user, device } => {
                let shares = self.is_ours(user).await? && self.servers.of_user(user).await?.contains(&peer.name);
                Ok(shares.then_some(News::Device(Changed { user, device })))
            }
        }
    }

    /// Typing, presence and receipts, as they are now.
    async fn soft_edus(&self, soft: &Soft, mut room: usize) -> Result<Vec<Box<RawValue>>> {
        let mut edus = Vec::new();
        if !soft.presence.is_empty() && room > 0 {
            let push: Vec<Value> = soft.presence.iter().filter_map(|user| self.presence.for_server(*user)).collect();
            if !push.is_empty() {
                edus.push(edu("m.presence", &json!({"push": push}))?);
                room -= 1;
            }
        }
        for content in self.receipts(&soft.receipts).await?.into_iter().take(room) {
            edus.push(edu("m.receipt", &content)?);
            room -= 1;
        }
        for ((nid, user), types) in soft.typing.iter().take(room) {
            let Some(at) = self.store.room(*nid).await? else { continue };
            edus.push(edu("m.typing", &json!({"room_id": at.room_id, "user_id": user, "typing": types}))?);
        }
        Ok(edus)
    }

    /// Contents of `m.receipt`. There is room for one receipt of a user and room in each, so threads go one by one.
    async fn receipts(&self, moved: &HashMap<(RoomNid, UserNid), StreamPos>) -> Result<Vec<Value>> {
        let mut contents: Vec<BTreeMap<String, BTreeMap<OwnedUserId, Value>>> = Vec::new();
        let mut counts: Vec<usize> = Vec::new();
        for ((nid, user), since) in moved {
            let Some(room) = self.store.room(*nid).await? else { continue };
            let user_id = self.store.user_id(*user).await?;
            let receipts = self.store.receipts_of(*nid, *user).await?;
            let public = receipts.into_iter().filter(|r| r.kind == "m.read" && r.pos >= *since);
            for (n, receipt) in public.enumerate() {
                let mut data = json!({"ts": receipt.ts_ms});
                if let Some(thread) = receipt.thread {
                    data["thread_id"] = Value::String(thread);
                }
                let entry = json!({"data": data, "event_ids": [receipt.event_id]});
                let mut at = n;
                while counts.get(at).is_some_and(|count| *count >= RECEIPTS) {
                    at += 1;
                }
                while contents.len() <= at {
                    contents.push(BTreeMap::new());
                    counts.push(0);
                }
                if let (Some(content), Some(count)) = (contents.get_mut(at), counts.get_mut(at)) {
                    content.entry(room.room_id.to_string()).or_default().insert(user_id.clone(), entry);
                    *count += 1;
                }
            }
        }
        let content = |rooms: BTreeMap<String, BTreeMap<OwnedUserId, Value>>| {
            let rooms = rooms.into_iter().map(|(room, users)| (room, json!({"m.read": users})));
            Value::Object(rooms.collect())
        };
        Ok(contents.into_iter().map(content).collect())
    }
}

/// The user a member event is about.
pub(super) fn target(event: &StoredEvent) -> Option<&UserId> {
    if *event.pdu.event_type() != TimelineEventType::RoomMember {
        return None;
    }
    event.pdu.state_key().and_then(|key| <&UserId>::try_from(key).ok())
}

/// The user a member event is about, who is to hear of it even outside of the room. An invite was signed by their server
/// already, which could do nothing with it but look for a room that it is not in.
pub(super) fn outsider(event: &StoredEvent) -> Option<&UserId> {
    target(event).filter(|_| event.pdu.membership() != "invite")
}

fn raw(json: &str) -> Option<Box<RawValue>> {
    RawValue::from_string(json.to_owned()).ok()
}

pub(super) fn edu(edu_type: &str, content: &Value) -> Result<Box<RawValue>> {
    serde_json::value::to_raw_value(&json!({"edu_type": edu_type, "content": content})).doing("writing an EDU")
}

/// An id that follows from the content, so that whoever has seen the transaction recognises it.
fn named_by_content(events: &[Arc<StoredEvent>], devices: &[(StreamPos, Changed)], edus: &[Box<RawValue>]) -> String {
    let mut hash = Sha256::new();
    for event in events {
        hash.update(event.event_id().as_bytes());
        hash.update([0]);
    }
    // Keys may be again what they were before.
    for (pos, _) in devices {
        hash.update(pos.0.to_be_bytes());
    }
    for edu in edus {
        hash.update(edu.get());
        hash.update([0]);
    }
    let hash = URL_SAFE_NO_PAD.encode(hash.finalize());
    hash.chars().take(24).collect()
}
