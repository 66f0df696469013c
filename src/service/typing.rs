//! Who is typing: in memory only, and soon forgotten (spec: "Typing Notifications").
//!
//! Changes are counted by the notifier's ephemeral counter. A task wakes when somebody's time is over; whoever sends or
//! leaves stops typing.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use hearth_base::{Error, Requester, Result, clock::Clock, ids::RoomNid, tasks::Supervisor};
use hearth_store::{
    Store,
    log::{Change, Logged},
};
use parking_lot::Mutex;
use ruma::{
    OwnedUserId, RoomId, UserId,
    events::{TimelineEventType, room::member::MembershipState},
};
use tokio::sync::{Notify, broadcast};

use crate::notifier::Notifier;

/// How long somebody types who does not say.
const DEFAULT: Duration = Duration::from_secs(30);
/// How long anybody types at most without saying so again.
const LONGEST: Duration = Duration::from_secs(120);
/// People shown as typing in a room at most.
const MAX_TYPISTS: usize = 50;
/// Rooms in which somebody types at most.
const MAX_ROOMS: usize = 10_000;

/// How often other servers are told of somebody who goes on typing.
const TELL_AGAIN_MS: u64 = 30_000;
/// How long somebody of another server types who does not say so again.
const REMOTE: Duration = Duration::from_secs(60);
/// News that a slow listener may miss.
const UNHEARD: usize = 256;

/// Somebody of ours began to type, goes on, or stopped: news for other servers.
#[derive(Clone, Debug)]
pub struct News {
    /// Where.
    pub room: RoomNid,
    /// Who.
    pub user: OwnedUserId,
    /// Whether they type.
    pub types: bool,
}

/// Who types where.
#[derive(Debug)]
pub struct Typing {
    news: broadcast::Sender<News>,
    store: Store,
    notifier: Arc<Notifier>,
    clock: Clock,
    rooms: Mutex<HashMap<RoomNid, Vec<Typist>>>,
    /// Rooms whose list changed without their members having been told.
    untold: Mutex<HashSet<RoomNid>>,
    wake: Notify,
}

#[derive(Debug)]
struct Typist {
    user: OwnedUserId,
    until_ms: u64,
    /// When other servers were last told; `None` for who is of another server.
    told_ms: Option<u64>,
}

impl Typing {
    /// Made once; starts the task that forgets. [`Self::on_change`] is to hear of every commit.
    #[must_use]
    pub fn new(store: Store, notifier: Arc<Notifier>, clock: Clock, supervisor: &Supervisor) -> Arc<Self> {
        let this = Arc::new(Self {
            news: broadcast::Sender::new(UNHEARD),
            store,
            notifier,
            clock,
            rooms: Mutex::default(),
            untold: Mutex::default(),
            wake: Notify::new(),
        });
        let (weak, stopping) = (Arc::downgrade(&this), supervisor.stopping());
        supervisor.task("typing", move || {
            let (weak, stopping) = (weak.clone(), stopping.clone());
            async move {
                while let Some(this) = weak.upgrade() {
                    let next = this.tick().await?;
                    tokio::select! {
                        () = stopping.cancelled() => break,
                        () = this.wake.notified() => {}
                        () = tokio::time::sleep(next.unwrap_or(Duration::from_secs(3600))) => {}
                    }
                }
                Ok(())
            }
        });
        this
    }

    /// A client says that its user types, or has stopped.
    ///
    /// # Errors
    /// 403 for other users, and in rooms the user is not in.
    pub async fn set(
        &self,
        who: &Requester,
        room: &RoomId,
        user: &UserId,
        types: bool,
        timeout: Option<Duration>,
    ) -> Result<()> {
        if !who.is(user) {
            return Err(Error::forbidden("You cannot type for somebody else"));
        }
        let not_in = || Error::forbidden("You are not in this room");
        let nid = self.store.room_nid(room).await?.ok_or_else(not_in)?;
        let membership = self.store.membership(nid, who.user_nid).await?;
        if membership.is_none_or(|m| m.membership != MembershipState::Join) {
            return Err(not_in());
        }
        if who.is_shadow_banned {
            return Ok(());
        }
        let changed = if types {
            self.started(nid, user, timeout.unwrap_or(DEFAULT).min(LONGEST), true)
        } else {
            self.stopped(nid, user)
        };
        if changed { self.notifier.typing_changed(nid).await } else { Ok(()) }
    }

    /// A user of another server, who is in the room, types there or has stopped.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn set_remote(&self, room: RoomNid, user: &UserId, types: bool) -> Result<()> {
        let changed = if types { self.started(room, user, REMOTE, false) } else { self.stopped(room, user) };
        if changed { self.notifier.typing_changed(room).await } else { Ok(()) }
    }

    /// Hears who of ours types, from now on. Whoever is slow misses some.
    #[must_use]
    pub fn watch(&self) -> broadcast::Receiver<News> {
        self.news.subscribe()
    }

    fn tell(&self, room: RoomNid, user: &UserId, types: bool) {
        let _ = self.news.send(News { room, user: user.to_owned(), types });
    }

    /// Notes that somebody types; returns whether that is news.
    fn started(&self, room: RoomNid, user: &UserId, timeout: Duration, ours: bool) -> bool {
        let now = self.clock.steady_ms();
        let until_ms = now.saturating_add(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
        let mut rooms = self.rooms.lock();
        if rooms.len() >= MAX_ROOMS && !rooms.contains_key(&room) {
            return false;
        }
        let typists = rooms.entry(room).or_default();
        if let Some(typist) = typists.iter_mut().find(|t| t.user == user) {
            typist.until_ms = until_ms;
            if let Some(told) = &mut typist.told_ms
                && now.saturating_sub(*told) >= TELL_AGAIN_MS
            {
                *told = now;
                self.tell(room, user, true);
            }
            return false;
        }
        if typists.len() >= MAX_TYPISTS {
            return false;
        }
        typists.push(Typist { user: user.to_owned(), until_ms, told_ms: ours.then_some(now) });
        drop(rooms);
        if ours {
            self.tell(room, user, true);
        }
        self.wake.notify_one();
        true
    }

    /// Notes that somebody stopped; returns whether that is news.
    fn stopped(&self, room: RoomNid, user: &UserId) -> bool {
        let mut rooms = self.rooms.lock();
        let Some(typists) = rooms.get_mut(&room) else { return false };
        let before = typists.len();
        typists.retain(|t| {
            if t.user == user && t.told_ms.is_some() {
                self.tell(room, user, false);
            }
            t.user != user
        });
        let changed = typists.len() != before;
        if typists.is_empty() {
            rooms.remove(&room);
        }
        changed
    }

    /// For /sync: who types in a room, in the order in which they began.
    #[must_use]
    pub fn users(&self, room: RoomNid) -> Vec<OwnedUserId> {
        self.rooms.lock().get(&room).map(|typists| typists.iter().map(|t| t.user.clone()).collect()).unwrap_or_default()
    }

    /// Forgets those whose time is over and has members told. Gives the time until the next one's is.
    pub(crate) async fn tick(&self) -> Result<Option<Duration>> {
        let now = self.clock.steady_ms();
        let mut changed: HashSet<RoomNid> = std::mem::take(&mut *self.untold.lock());
        let mut next = None;
        self.rooms.lock().retain(|room, typists| {
            let before = typists.len();
            typists.retain(|t| {
                if t.until_ms <= now && t.told_ms.is_some() {
                    self.tell(*room, &t.user, false);
                }
                t.until_ms > now
            });
            if typists.len() != before {
                changed.insert(*room);
            }
            next = typists.iter().map(|t| t.until_ms).chain(next).min();
            !typists.is_empty()
        });
        for room in changed {
            self.notifier.typing_changed(room).await?;
        }
        Ok(next.map(|until| Duration::from_millis(until.saturating_sub(now).max(1))))
    }

    /// Hears of a commit: who sends a message or leaves does not type any longer.
    pub fn on_change(&self, logged: &Logged) {
        let Change::Event(event) = &logged.change else { return };
        let stops = match event.pdu.event_type() {
            TimelineEventType::RoomMessage | TimelineEventType::RoomEncrypted => Some(event.pdu.sender()),
            TimelineEventType::RoomMember if event.pdu.membership() != "join" => {
                event.pdu.state_key().and_then(|key| <&UserId>::try_from(key).ok())
            }
            _ => None,
        };
        if stops.is_some_and(|user| self.stopped(event.room, user)) {
            self.untold.lock().insert(event.room);
            self.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
