//! What a user has not read, as of now: from the database once, from then on from what commits tell.

use hearth_base::{
    Result,
    ids::{RoomNid, StreamPos, UserNid},
};
use hearth_store::{
    events::StoredEvent,
    log::{Change, Logged},
};
use ruma::{UserId, events::TimelineEventType};
use std::sync::Arc;

use super::{
    Push,
    counts::{MAIN, MAX_THREADS, MemberCounts, Snapshot, Sum, Sums, Unread},
};
use crate::account_data::{PUSH_RULES, ignored::IGNORED_USERS};

impl Push {
    /// What a user has not read of a room.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn unread(&self, user: UserNid, room: RoomNid) -> Result<Unread> {
        if !self.settings.enabled {
            return Ok(Unread::default());
        }
        let counts = self.rooms.get_with(room, Arc::default).counts.clone();
        let at = match counts.snapshot() {
            Some(at) => at,
            None => {
                let (pos, counter) =
                    self.store.room(room).await?.map_or((StreamPos::ZERO, 0), |r| (r.head.pos, r.head.counter));
                counts.begin(pos, counter);
                counts.snapshot().unwrap_or(Snapshot { pos, counter, totals: Sums::default() })
            }
        };
        let key = (user, room);
        let mut member = self.members.get_with(key, || Arc::new(MemberCounts::new(counts.clone())));
        if !Arc::ptr_eq(&member.room, &counts) {
            member = Arc::new(MemberCounts::new(counts.clone()));
            self.members.insert(key, member.clone());
        }
        if let Some(unread) = member.read() {
            return Ok(unread);
        }
        // Of a moment when the member's memory stood already, so that nothing falls between.
        let at = counts.snapshot().unwrap_or(at);
        match self.load(user, room, &at).await {
            Ok(own) => member.settle(&at, own),
            Err(e) => {
                self.members.invalidate(&key);
                return Err(e);
            }
        }
        Ok(member.loaded().unwrap_or_default())
    }

    /// What is unread as of a moment, from the database.
    async fn load(&self, user: UserNid, room: RoomNid, at: &Snapshot) -> Result<Sums> {
        let positions = self.store.read_positions(room, user).await?;
        let of = |thread: &str| positions.iter().find(|p| p.thread == thread).map(|p| (p.pos, p.counter));
        let read = match of("") {
            Some(read) => read,
            None => self.joined_at(user, room).await?.unwrap_or((at.pos, at.counter)),
        };
        let main_read = of(MAIN).filter(|main| *main > read).unwrap_or(read);
        let (mut own, mut in_threads) = (Sums::default(), 0);
        for row in self.store.unread_rows(user, room, read.0, at.pos).await? {
            // What was redacted stands under no thread: the room's counter has it, nobody else.
            in_threads += row.counted;
            if row.thread.is_empty() {
                continue;
            }
            own.add(&row.thread.into(), Sum::new(row.counted + row.deviation, row.highlights));
        }
        // Who has read some thread further than the room is not told of all that is in threads.
        if positions.iter().any(|p| !p.thread.is_empty()) {
            in_threads = self.store.counted_in_threads(room, main_read.0, at.pos).await?;
        }
        own.main = own.main.plus(Sum::new(at.counter - main_read.1 - in_threads, 0));
        Ok(own)
    }

    /// Where a member who has read nothing yet came in.
    async fn joined_at(&self, user: UserNid, room: RoomNid) -> Result<Option<(StreamPos, i64)>> {
        let Some(membership) = self.store.membership(room, user).await? else { return Ok(None) };
        let event = self.store.event(membership.event).await?;
        Ok(event.and_then(|e| Some((e.pos?, e.counter))))
    }

    /// Hears of a commit, before anybody who waits for it does.
    pub fn on_change(&self, logged: &Logged) {
        match &logged.change {
            Change::Event(event) => self.take_in(logged.pos, event),
            Change::State { room, changes } => {
                for (user, ours) in changes.iter().filter_map(|c| c.member) {
                    self.member_moved(*room, ours.then_some(user));
                }
            }
            Change::Whole { room, .. } => self.member_moved(*room, None),
            Change::Receipt { room, user } => self.members.invalidate(&(*user, *room)),
            Change::AccountData { user, room: None, kind } if matches!(&**kind, PUSH_RULES | IGNORED_USERS) => {
                self.rules.invalidate(user);
                self.changes.lock().push(*user);
            }
            _ => {}
        }
    }

    fn take_in(&self, pos: StreamPos, event: &StoredEvent) {
        let effects = self.effects.remove(event.event_id());
        let Some(memory) = self.rooms.get(&event.room) else { return };
        let (thread, highlight) = effects.as_ref().map_or((MAIN.into(), false), |e| (e.thread.clone(), e.highlight));
        if *event.pdu.event_type() == TimelineEventType::RoomRedaction || event.redacted_by.is_some() {
            memory.counts.redacted();
        }
        if memory.counts.take_in(pos, event.counter, &thread, highlight) > MAX_THREADS {
            self.rooms.invalidate(&event.room);
        }
        for deviation in effects.iter().flat_map(|e| &e.deviations) {
            let key = (deviation.user, event.room);
            if self.members.get(&key).is_some_and(|m| !m.take_in(pos, &thread, deviation.sum)) {
                self.members.invalidate(&key);
            }
        }
        // Whoever sends has read, and that is all there is to know of them; of others' users it is not even asked.
        if event.pdu.sender().server_name() == self.server_name
            && let Some(member) = self.members.get(&(event.sender, event.room))
            && !member.has_read(&memory.counts)
        {
            self.members.invalidate(&(event.sender, event.room));
        }
        if *event.pdu.event_type() == TimelineEventType::RoomMember
            && let Some(user) = event.pdu.state_key().and_then(|key| <&UserId>::try_from(key).ok())
        {
            let nid = (user.server_name() == self.server_name).then(|| self.store.known_user(user)).flatten();
            self.member_moved(event.room, nid);
        }
    }

    /// Somebody came or went; `ours` if they are a user of this server.
    fn member_moved(&self, room: RoomNid, ours: Option<UserNid>) {
        if let Some(memory) = self.rooms.get(&room) {
            memory.members.lock().moved(ours);
        }
        if let Some(nid) = ours {
            self.members.invalidate(&(nid, room));
        }
    }
}
