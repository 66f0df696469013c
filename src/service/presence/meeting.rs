//! Who comes into a room hears how those are who are there, and they hear of the newcomer: presence itself has not changed
//! then, only who may see it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use hearth_base::{
    Result,
    ids::{EventNid, RoomNid, UserNid},
    tasks::Supervisor,
};
use hearth_store::log::{Change, Logged};
use parking_lot::Mutex;
use ruma::{OwnedServerName, UserId, events::TimelineEventType, presence::PresenceState};
use tokio::sync::Notify;

use super::Presence;

/// Newcomers waiting to be introduced; beyond, they are seen when they next change.
const MAX_WAITING: usize = 10_000;

/// Users of ours of whom a server is told when one of its users comes into a room; and members of a room in which all hear
/// of all, also of those who are offline.
const INTRODUCED: usize = 200;
/// After so long a server whose user came into a room knows that it is in it: until then it may not listen.
const SETTLED: Duration = Duration::from_secs(1);

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

/// News of a user of ours for other servers.
#[derive(Clone, Debug)]
pub(crate) struct News {
    pub(crate) user: UserNid,
    /// Only this one has not heard of them yet.
    pub(crate) only: Option<OwnedServerName>,
}

impl News {
    pub(super) fn of(user: UserNid) -> Self {
        Self { user, only: None }
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
                    let mut later = Vec::new();
                    for (room, joined) in waiting.rooms {
                        this.meet(room, joined, &mut later).await?;
                    }
                    let news = this.news.clone();
                    drop(this);
                    if !later.is_empty() {
                        tokio::select! {
                            () = stopping.cancelled() => break,
                            () = tokio::time::sleep(SETTLED) => {}
                        }
                        later.truncate(MAX_WAITING);
                        later.into_iter().for_each(|one| drop(news.send(one)));
                    }
                    tokio::select! {
                        () = stopping.cancelled() => break,
                        () = wake.notified() => {}
                    }
                }
                Ok(())
            }
        });
    }

    /// Introduces newcomers and members of a room to each other, of large rooms those who are here; what the servers of
    /// newcomers are to hear is for `later`.
    async fn meet(
        &self,
        room: RoomNid,
        joined: HashMap<UserNid, Option<EventNid>>,
        later: &mut Vec<News>,
    ) -> Result<()> {
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
        let few = members.len() <= INTRODUCED;
        let (mut shown, mut ours, mut home) = (Vec::new(), HashSet::new(), None);
        {
            let users = self.users.lock();
            for nid in &members {
                let here = users.get(nid).filter(|s| s.shown != PresenceState::Offline);
                if few || here.is_some() {
                    shown.push(*nid);
                }
                if let Some(state) = here.filter(|s| !s.remote) {
                    ours.insert(*nid);
                    home.get_or_insert_with(|| state.user.server_name().to_owned());
                }
            }
        }
        let (new, old): (Vec<UserNid>, Vec<UserNid>) = shown.into_iter().partition(|nid| newcomers.contains(nid));
        if let Some(home) = home {
            new.iter().filter(|nid| ours.contains(nid)).for_each(|nid| drop(self.news.send(News::of(*nid))));
            let mut servers: BTreeSet<OwnedServerName> = BTreeSet::new();
            for nid in &newcomers {
                servers.insert(self.store.user_id(*nid).await?.server_name().to_owned());
            }
            servers.remove(&home);
            for server in servers {
                let those = old.iter().filter(|nid| ours.contains(nid)).take(INTRODUCED);
                later.extend(those.map(|nid| News { user: *nid, only: Some(server.clone()) }));
            }
        }
        if !new.is_empty() {
            // Who comes in, alone as a rule, is no news to themselves.
            let alone = if let [one] = new[..] { Some(one) } else { None };
            self.show(new, members.into_iter().filter(|member| Some(*member) != alone).collect());
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
