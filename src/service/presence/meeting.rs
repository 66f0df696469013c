//! Who comes into a room hears how those are who are there, and they hear of the newcomer: presence itself has not changed
//! then, only who may see it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use hearth_base::{
    Result,
    ids::{EventNid, RoomNid, UserNid},
    tasks::Supervisor,
};
use hearth_store::log::{Change, Logged};
use parking_lot::Mutex;
use ruma::{UserId, events::TimelineEventType, presence::PresenceState};
use tokio::sync::Notify;

use super::Presence;

/// Newcomers waiting to be introduced; beyond, they are seen when they next change.
const MAX_WAITING: usize = 10_000;

/// Who may have come into which room lately.
#[derive(Debug, Default)]
pub(super) struct Met {
    waiting: Mutex<Waiting>,
    wake: Arc<Notify>,
}

/// Newcomers by room: with the event before, which tells whether they were in it already.
#[derive(Debug, Default)]
struct Waiting {
    rooms: BTreeMap<RoomNid, HashMap<UserNid, Option<EventNid>>>,
    /// How many newcomers, some of them perhaps twice.
    count: usize,
}

impl Waiting {
    /// Adds one, if there is room.
    fn add(&mut self, room: RoomNid, user: UserNid, before: Option<EventNid>) -> bool {
        if self.count >= MAX_WAITING {
            return false;
        }
        self.count += 1;
        self.rooms.entry(room).or_default().entry(user).or_insert(before);
        true
    }
}

impl Presence {
    /// Hears of a commit: who joins a room.
    pub fn on_change(&self, logged: &Logged) {
        let Change::Event(event) = &logged.change else { return };
        if !self.settings.enabled
            || *event.pdu.event_type() != TimelineEventType::RoomMember
            || event.pdu.membership() != "join"
            || self.users.lock().is_empty()
        {
            return;
        }
        let user = event.pdu.state_key().and_then(|key| <&UserId>::try_from(key).ok());
        let Some(nid) = user.and_then(|user| self.store.known_user(user)) else { return };
        if self.met.waiting.lock().add(event.room, nid, event.replaces) {
            self.met.wake.notify_one();
        }
    }

    /// Starts the task that introduces newcomers.
    pub(super) fn introduce(self: &Arc<Self>, supervisor: &Supervisor) {
        let (weak, stopping, wake) = (Arc::downgrade(self), supervisor.stopping(), self.met.wake.clone());
        supervisor.task("presence-meeting", move || {
            let (weak, stopping, wake) = (weak.clone(), stopping.clone(), wake.clone());
            async move {
                while let Some(this) = weak.upgrade() {
                    let waiting = std::mem::take(&mut *this.met.waiting.lock());
                    for (room, joined) in waiting.rooms {
                        this.meet(room, joined).await?;
                    }
                    drop(this);
                    tokio::select! {
                        () = stopping.cancelled() => break,
                        () = wake.notified() => {}
                    }
                }
                Ok(())
            }
        });
    }

    /// Introduces newcomers and members of a room to each other, as far as they are here.
    async fn meet(&self, room: RoomNid, joined: HashMap<UserNid, Option<EventNid>>) -> Result<()> {
        let mut newcomers = HashSet::with_capacity(joined.len());
        for (user, before) in joined {
            let before = match before {
                Some(nid) => self.store.event(nid).await?,
                None => None,
            };
            // A new name is no new member.
            if before.is_none_or(|e| e.pdu.membership() != "join") {
                newcomers.insert(user);
            }
        }
        if newcomers.is_empty() {
            return Ok(());
        }
        let members = self.store.joined_to(room).await?;
        let here: Vec<UserNid> = {
            let users = self.users.lock();
            let here = |nid: &UserNid| users.get(nid).is_some_and(|s| s.shown != PresenceState::Offline);
            members.iter().copied().filter(here).collect()
        };
        let (new, old): (Vec<UserNid>, Vec<UserNid>) = here.into_iter().partition(|nid| newcomers.contains(nid));
        if !new.is_empty() {
            self.show(new, members.into_iter().collect());
        }
        if !old.is_empty() {
            self.show(old, newcomers);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_wait_are_bounded_in_one_room_as_in_many() {
        let mut waiting = Waiting::default();
        for n in 0..2 * i64::try_from(MAX_WAITING).unwrap_or(i64::MAX) {
            waiting.add(RoomNid(n % 3), UserNid(n), None);
        }
        assert_eq!(waiting.rooms.values().map(HashMap::len).sum::<usize>(), MAX_WAITING);
        assert!(!waiting.add(RoomNid(1), UserNid(1), None));
    }
}
