//! Hears what happens and hands it out to the servers it concerns: from commits while memory keeps up, else from the log.

use std::{
    cmp::Reverse,
    collections::{HashSet, VecDeque},
    sync::{Arc, atomic::Ordering},
};

use hearth_base::{
    Result,
    ids::{RoomNid, StreamPos, UserNid},
};
use hearth_store::{
    events::StoredEvent,
    log::{Change, Logged},
    outbox::Owed,
    rooms::RoomHead,
};
use ruma::{OwnedServerName, events::room::member::MembershipState};
use tokio::sync::broadcast;

use crate::{presence, typing};

use super::{
    Item, Outbox,
    devices::Changed,
    load::{outsider, target},
    peer::News,
};

/// Changes that wait to be handed out; beyond, they are read from the log.
const NEWS: usize = 4096;
/// Rows of the log read at a time.
const PAGE: usize = 500;
/// Users of ours whose devices a server is told of that was met late.
const MET: usize = 50;

impl Outbox {
    /// Hears of a commit. Never waits.
    pub fn on_change(&self, logged: &Logged) {
        let item = match &logged.change {
            Change::Event(event) => self.concerns_others(event).then(|| Item::Event(event.clone())),
            Change::DeviceList { user, device } => Some(Item::Devices(Changed { user: *user, device: *device })),
            Change::Whole { room, met } => (!met.is_empty()).then(|| Item::Met(*room, met.clone())),
            Change::Receipt { room, user } => {
                (!self.servers.is_ours_alone(*room)).then_some(Item::Receipt(*room, *user))
            }
            _ => None,
        };
        let mut heard = self.heard.lock();
        heard.seen = logged.pos;
        let Some(item) = item else { return };
        if heard.missed {
            return;
        }
        if heard.news.len() >= NEWS {
            heard.news.clear();
            heard.missed = true;
        } else {
            heard.news.push_back((logged.pos, item));
        }
        drop(heard);
        self.bell.notify_one();
    }

    pub(super) fn concerns_others(&self, event: &StoredEvent) -> bool {
        if *event.pdu.sender().server_name() != self.name && !event.relay {
            return false;
        }
        let foreign = outsider(event).is_some_and(|user| *user.server_name() != self.name);
        foreign || !self.servers.is_ours_alone(event.room)
    }

    /// Hands out everything heard of.
    pub(super) async fn dispatch(self: &Arc<Self>) -> Result<()> {
        loop {
            let (items, seen, missed) = {
                let mut heard = self.heard.lock();
                let missed = std::mem::take(&mut heard.missed);
                (std::mem::take(&mut heard.news), heard.seen, missed)
            };
            let mut items: VecDeque<(StreamPos, Item)> = items;
            if missed {
                items.clear();
            }
            let done = self.hand_out(items, seen, missed).await;
            if done.is_err() {
                self.heard.lock().missed = true;
            }
            done?;
            let heard = self.heard.lock();
            if heard.news.is_empty() && !heard.missed {
                return Ok(());
            }
        }
    }

    pub(super) async fn hand_out(
        self: &Arc<Self>,
        items: VecDeque<(StreamPos, Item)>,
        seen: StreamPos,
        missed: bool,
    ) -> Result<()> {
        if missed {
            loop {
                let from = StreamPos(self.dispatched.load(Ordering::Acquire));
                let rows = self.store.owed(from, seen, PAGE).await?;
                let more = rows.len() == PAGE;
                for (pos, owed) in rows {
                    self.hand_out_logged(pos, owed).await?;
                    self.dispatched.store(pos.0, Ordering::Release);
                }
                if !more {
                    break;
                }
            }
        }
        for (pos, item) in items {
            match item {
                Item::Event(event) => self.event(pos, &event).await?,
                Item::Devices(changed) => self.devices(pos, changed).await?,
                Item::Receipt(room, user) => self.receipt(pos, room, user).await?,
                Item::Met(room, servers) => self.met(pos, room, &servers).await?,
            }
        }
        self.dispatched.fetch_max(seen.0, Ordering::AcqRel);
        Ok(())
    }

    pub(super) async fn hand_out_logged(self: &Arc<Self>, pos: StreamPos, owed: Owed) -> Result<()> {
        match owed {
            Owed::Event { event, sender, relay, told, .. } => {
                if (relay || self.is_ours(sender).await?)
                    && let Some(event) = self.store.event(event).await?
                {
                    self.event(pos, &StoredEvent { told, ..(*event).clone() }).await?;
                }
                Ok(())
            }
            Owed::Devices { user, device } => self.devices(pos, Changed { user, device }).await,
            Owed::Met { room, servers } => self.met(pos, room, &servers).await,
        }
    }

    pub(super) async fn event(self: &Arc<Self>, pos: StreamPos, event: &StoredEvent) -> Result<()> {
        let servers = self.servers.to_hear_of(event, pos).await?;
        let now = self.now_ms();
        let target = target(event);
        for server in servers.iter() {
            // Who sent it has it, and what another server tells we need not.
            if *server != *event.pdu.sender().server_name() && !event.told {
                self.push(server, pos, News::Event(event.nid), now);
            }
        }
        let Some(target) = target else { return Ok(()) };
        if *target.server_name() == self.name {
            if self.comes(event).await? {
                // Servers that meet one of our users for the first time are told to look at their devices.
                for server in self.who_meet(&servers, event).await? {
                    self.push(&server, pos, News::Newest(event.sender), now);
                }
            }
        } else if servers.binary_search_by(|name| (**name).cmp(target.server_name())).is_err()
            && event.pdu.sender().server_name() != target.server_name()
            && outsider(event).is_some()
        {
            self.push(&target.server_name().to_owned(), pos, News::Event(event.nid), now);
        }
        Ok(())
    }

    /// Whether an event is a join of ours and no change of a name, so that servers may meet its user. Through another server
    /// it always is: that one may not have heard yet that they had left, and we told nobody there of devices meanwhile. Of a
    /// room of which we knew part only that one tells the others, who ask; but where they were before it may see no join. What
    /// it has missed then is news, unless the join leans on how they left.
    pub(super) async fn comes(&self, event: &StoredEvent) -> Result<bool> {
        let is_join = event.pdu.membership() == "join";
        if !is_join || target(event).is_none_or(|user| user != event.pdu.sender() || *user.server_name() != self.name) {
            return Ok(false);
        }
        let before = match event.replaces {
            Some(before) => self.store.event(before).await?,
            None => None,
        };
        let was = before.as_deref().map(|before| before.pdu.membership().into_owned());
        let in_part = |head: &RoomHead| head.partial || event.pos.is_some_and(|pos| pos < head.whole);
        if self.store.room(event.room).await?.is_some_and(|room| in_part(&room.head)) {
            let Some(before) = before.filter(|_| event.told) else { return Ok(false) };
            let seen = event.pdu.auth_events().iter().any(|id| id == before.event_id());
            if was.as_deref() == Some("join") || was.as_deref() == Some("leave") && !seen {
                return self.store.have_devices_changed(event.sender, before.pos).await;
            }
            return Ok(false);
        }
        Ok(event.told || was.as_deref() != Some("join"))
    }

    /// Those of the servers to which nothing was told of the devices of who comes: who shares another room with them heard of
    /// each change, and looked at the devices when they met there. Where we know part of a room only, nobody was told.
    async fn who_meet(&self, servers: &[OwnedServerName], event: &StoredEvent) -> Result<Vec<OwnedServerName>> {
        let mut left = servers.to_vec();
        for room in self.store.joined_rooms(event.sender).await? {
            if left.is_empty() {
                break;
            }
            if room == event.room || self.store.room(room).await?.is_none_or(|room| room.head.partial) {
                continue;
            }
            let there = self.servers.of_room(room).await?;
            left.retain(|server| there.binary_search(server).is_err());
        }
        Ok(left)
    }

    /// Servers were in a room without our knowing: they look anew at the devices of ours there, and find by our newest
    /// event whatever else they missed.
    async fn met(self: &Arc<Self>, pos: StreamPos, room: RoomNid, servers: &[OwnedServerName]) -> Result<()> {
        let members = self.store.members(room, &MembershipState::Join).await?;
        let here = self.servers.of_room(room).await?;
        let newest = self.store.newest_of(room, self.name.as_str()).await?;
        for server in servers {
            for user in members.iter().filter(|m| m.local).take(MET) {
                self.push(server, pos, News::Newest(user.user), self.now_ms());
            }
            if let Some(newest) = newest.filter(|_| here.binary_search(server).is_ok()) {
                self.push(server, pos, News::Event(newest), self.now_ms());
            }
        }
        Ok(())
    }

    pub(super) async fn devices(self: &Arc<Self>, pos: StreamPos, changed: Changed) -> Result<()> {
        if self.is_ours(changed.user).await? {
            for server in self.servers.of_user(changed.user).await? {
                self.push(&server, pos, News::Device(changed), self.now_ms());
            }
        }
        Ok(())
    }

    pub(super) async fn receipt(self: &Arc<Self>, pos: StreamPos, room: RoomNid, user: UserNid) -> Result<()> {
        if !self.is_ours(user).await? {
            return Ok(());
        }
        let servers = self.servers.of_room(room).await?;
        let now = self.now();
        let from = self.receipts_from(room, servers.len() as u64, now);
        for server in servers.iter() {
            let peer = self.peer(server);
            let begins = peer.pending.lock().receipt(room, user, pos, from, now);
            if from <= now {
                self.wake(&peer);
            } else if begins {
                self.due.lock().push(Reverse((from, server.clone())));
            }
        }
        Ok(())
    }

    /// When a receipt of a room may go out, ms: at once if none did lately, else together with the others of the room.
    fn receipts_from(&self, room: RoomNid, servers: u64, now: u64) -> u64 {
        let pause = servers * 1000 / u64::from(self.settings.receipts_per_second.max(1));
        let (mut flush, mut free) = self.receipts.get(&room).unwrap_or_default();
        if free <= now {
            (flush, free) = (0, now + pause);
        } else if flush <= now {
            (flush, free) = (free, free + pause);
        }
        self.receipts.insert(room, (flush, free));
        flush
    }

    pub(super) fn push(self: &Arc<Self>, server: &OwnedServerName, pos: StreamPos, news: News, now_ms: i64) {
        let peer = self.peer(server);
        {
            let mut pending = peer.pending.lock();
            pending.push(pos, news, now_ms);
            if pending.rests_until > self.now() {
                pending.fall_behind(now_ms);
            }
        }
        self.wake(&peer);
    }

    pub(super) fn to_device_news(self: &Arc<Self>) {
        for server in self.store.take_outgoing_news() {
            if let Ok(name) = OwnedServerName::try_from(server) {
                let peer = self.peer(&name);
                peer.pending.lock().to_device = true;
                self.wake(&peer);
            }
        }
    }

    /// Hears who types and whose presence changed.
    pub(super) async fn hear_soft(
        self: &Arc<Self>,
        mut typing: broadcast::Receiver<typing::News>,
        mut presence: broadcast::Receiver<presence::News>,
    ) -> Result<()> {
        let stopping = self.supervisor.stopping();
        loop {
            // Who lags has lost something that may be lost.
            tokio::select! {
                () = stopping.cancelled() => return Ok(()),
                news = typing.recv() => if let Ok(news) = news {
                    let servers = self.servers.of_room(news.room).await?;
                    for server in servers.iter() {
                        let peer = self.peer(server);
                        peer.pending.lock().typing(news.room, &news.user, news.types, self.now());
                        self.wake(&peer);
                    }
                },
                news = presence.recv() => if let Ok(presence::News { user, only }) = news {
                    let servers = match only {
                        Some(server) => HashSet::from([server]),
                        None => self.servers.of_user(user).await?,
                    };
                    for server in servers {
                        let peer = self.peer(&server);
                        peer.pending.lock().presence(user, self.now());
                        self.wake(&peer);
                    }
                },
            }
        }
    }
}
