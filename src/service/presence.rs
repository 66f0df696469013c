//! Who is here (spec: "Presence"): in memory; how users of other servers are outlives a restart ([`kept`]).
//!
//! A user is online while a client of theirs syncs and says so, or by their own word; idle and offline come with time. A
//! change is kept with those who may hear of it (they share a room), in a bounded list that /sync reads by the notifier's
//! ephemeral counter.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use hearth_base::{Error, OrNotFound, Requester, Result, clock::Clock, ids::UserNid, tasks::Supervisor};
use hearth_store::Store;
use parking_lot::Mutex;
use ruma::{OwnedUserId, UserId, presence::PresenceState};
use serde_json::{Value, json};
use tokio::sync::broadcast;

use crate::{events::check_may_write, notifier::Notifier};

mod elsewhere;
mod kept;
mod meeting;
mod told;

pub use elsewhere::RemotePresence;
pub(crate) use meeting::News;

/// How presence is configured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whether there is presence at all (`presence.enabled`).
    pub enabled: bool,
    /// How long "currently active" lasts after activity (`presence.last_active_granularity`).
    pub active: Duration,
    /// How long after the last sync a user goes offline (`presence.sync_online_timeout`).
    pub online: Duration,
    /// How long after activity a user becomes idle (`presence.idle_timeout`).
    pub idle: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            enabled: true,
            active: Duration::from_secs(60),
            online: Duration::from_secs(30),
            idle: Duration::from_secs(300),
        }
    }
}

/// Bytes of a status message.
const MAX_STATUS: usize = 1_000;
/// Users remembered; beyond, those who are offline are forgotten.
const MAX_USERS: usize = 50_000;
/// Changes remembered, and users named in them all together.
const MAX_CHANGES: usize = 2_000;
const MAX_NAMES: usize = 500_000;
/// How often it is looked whether somebody went idle or offline.
const TICK: Duration = Duration::from_secs(10);

/// Presence of users.
#[derive(Debug)]
pub struct Presence {
    store: Store,
    notifier: Arc<Notifier>,
    clock: Clock,
    settings: Settings,
    users: Mutex<HashMap<UserNid, State>>,
    changes: Mutex<Changes>,
    /// Our users whose presence changed: news for other servers.
    news: broadcast::Sender<News>,
    met: meeting::Met,
    kept: kept::Kept,
}

/// One user.
#[derive(Clone, Debug)]
struct State {
    user: OwnedUserId,
    /// What they want to be seen as.
    wanted: PresenceState,
    /// What they are seen as.
    shown: PresenceState,
    status: Option<String>,
    /// When they last did something.
    active_ms: u64,
    /// When a sync of theirs last began or ended.
    synced_ms: u64,
    /// Syncs that wait at present.
    syncing: u32,
    /// A user of another server: it alone says how they are.
    remote: bool,
    /// When other servers were last told, ms.
    told_ms: u64,
}

/// How often other servers are told of somebody who stays as they are, ms; and when a user is taken for gone of whom
/// their server says no more.
const TELL_AGAIN_MS: u64 = 25 * 60_000;
const REMOTE: Duration = Duration::from_secs(30 * 60);
/// News that a slow listener may miss.
const UNHEARD: usize = 1024;

#[derive(Debug, Default)]
struct Changes {
    list: VecDeque<Change>,
    names: usize,
    /// Changes up to this counter may have been dropped.
    floor: u64,
}

#[derive(Debug)]
struct Change {
    counter: u64,
    users: Vec<UserNid>,
    recipients: HashSet<UserNid>,
}

/// A sync that goes on; its user is not offline meanwhile.
#[derive(Debug)]
pub struct Syncing {
    presence: Arc<Presence>,
    user: UserNid,
}

impl Drop for Syncing {
    fn drop(&mut self) {
        let now = self.presence.clock.steady_ms();
        if let Some(state) = self.presence.users.lock().get_mut(&self.user) {
            state.syncing = state.syncing.saturating_sub(1);
            state.synced_ms = now;
        }
    }
}

impl State {
    fn new(user: &UserId) -> Self {
        Self {
            user: user.to_owned(),
            wanted: PresenceState::Offline,
            shown: PresenceState::Offline,
            status: None,
            active_ms: 0,
            synced_ms: 0,
            syncing: 0,
            remote: false,
            told_ms: 0,
        }
    }

    /// What they are to be seen as now.
    fn due(&self, now: u64, settings: &Settings) -> PresenceState {
        let past = |since: u64, limit: Duration| u128::from(now.saturating_sub(since)) >= limit.as_millis();
        match self.wanted {
            PresenceState::Offline => PresenceState::Offline,
            _ if self.remote => {
                if past(self.synced_ms, REMOTE) {
                    PresenceState::Offline
                } else {
                    self.wanted.clone()
                }
            }
            _ if self.syncing == 0 && past(self.synced_ms, settings.online) => PresenceState::Offline,
            PresenceState::Online if past(self.active_ms, settings.idle) => PresenceState::Unavailable,
            _ => self.wanted.clone(),
        }
    }

    fn content(&self, now: u64, settings: &Settings) -> Value {
        let ago = now.saturating_sub(self.active_ms);
        let mut content = json!({"presence": self.shown});
        if let Some(fields) = content.as_object_mut() {
            if self.active_ms > 0 {
                fields.insert("last_active_ago".to_owned(), json!(ago));
            }
            if let Some(status) = &self.status {
                fields.insert("status_msg".to_owned(), json!(status));
            }
            if self.shown == PresenceState::Online {
                fields.insert("currently_active".to_owned(), json!(u128::from(ago) < settings.active.as_millis()));
            }
        }
        content
    }
}

impl Presence {
    /// Made once; starts the task that sees who went away.
    #[must_use]
    pub fn new(
        store: Store,
        notifier: Arc<Notifier>,
        clock: Clock,
        settings: Settings,
        supervisor: &Supervisor,
    ) -> Arc<Self> {
        let changes = Mutex::new(Changes { floor: notifier.ephemeral(), ..Changes::default() });
        let this = Arc::new(Self {
            store,
            notifier,
            clock,
            settings,
            users: Mutex::default(),
            changes,
            news: broadcast::Sender::new(UNHEARD),
            met: meeting::Met::default(),
            kept: kept::Kept::default(),
        });
        if this.settings.enabled {
            let (weak, stopping) = (Arc::downgrade(&this), supervisor.stopping());
            supervisor.task("presence", move || {
                let (weak, stopping) = (weak.clone(), stopping.clone());
                async move {
                    while let Some(this) = weak.upgrade() {
                        this.tick().await?;
                        drop(this);
                        tokio::select! {
                            () = stopping.cancelled() => break,
                            () = tokio::time::sleep(TICK) => {}
                        }
                    }
                    Ok(())
                }
            });
            this.introduce(supervisor);
            this.keep(supervisor);
        }
        this
    }

    /// A user says how they are.
    ///
    /// # Errors
    /// 403 for other users, 400 for a state that is none or a message too long.
    pub async fn set(
        &self,
        who: &Requester,
        user: &UserId,
        wanted: PresenceState,
        status: Option<String>,
    ) -> Result<()> {
        if !who.is(user) {
            return Err(Error::forbidden("You cannot set somebody else's presence"));
        }
        check_may_write(who)?;
        check_state(&wanted)?;
        let status = status.filter(|s| !s.is_empty());
        if status.as_ref().is_some_and(|s| s.len() > MAX_STATUS) {
            return Err(Error::invalid_param("The status message is too long"));
        }
        if !self.settings.enabled {
            return Ok(());
        }
        let now = self.clock.steady_ms();
        let changed = {
            let mut users = self.users.lock();
            let Some(state) = entry(&mut users, who.user_nid, &who.user_id) else { return Ok(()) };
            (state.active_ms, state.synced_ms) = (now, now);
            state.wanted = wanted;
            let due = state.due(now, &self.settings);
            let changed = state.shown != due || state.status != status;
            (state.shown, state.status) = (due, status);
            changed
        };
        if changed { self.tell(who.user_nid).await } else { Ok(()) }
    }

    /// A client syncs, and says how its user is to be seen (`set_presence`; online if it says nothing). The user counts
    /// as syncing until the answer is dropped; `None` if there is no presence.
    ///
    /// # Errors
    /// If the database fails; 400 for a state that is none.
    pub async fn syncing(self: &Arc<Self>, who: &Requester, wanted: PresenceState) -> Result<Option<Syncing>> {
        check_state(&wanted)?;
        if !self.settings.enabled || wanted == PresenceState::Offline {
            return Ok(None);
        }
        let now = self.clock.steady_ms();
        let changed = {
            let mut users = self.users.lock();
            let Some(state) = entry(&mut users, who.user_nid, &who.user_id) else { return Ok(None) };
            if wanted == PresenceState::Online && state.wanted != PresenceState::Online {
                state.active_ms = now;
            }
            state.synced_ms = now;
            state.syncing += 1;
            state.wanted = wanted;
            let due = state.due(now, &self.settings);
            let changed = state.shown != due;
            state.shown = due;
            changed
        };
        let syncing = Syncing { presence: self.clone(), user: who.user_nid };
        if changed {
            self.tell(who.user_nid).await?;
        }
        Ok(Some(syncing))
    }

    /// How a user is, as `GET /presence/{userId}/status` tells it.
    ///
    /// # Errors
    /// 404 for users we do not know, 403 for those one shares no room with.
    pub async fn get(&self, who: &Requester, user: &UserId) -> Result<Value> {
        let nid = self.store.user_nid(user).await?.or_not_found("User")?;
        if !who.is(user) && !self.store.share_a_room(who.user_nid, nid).await? {
            return Err(Error::forbidden("You are not allowed to see their presence"));
        }
        let now = self.clock.steady_ms();
        let users = self.users.lock();
        Ok(users.get(&nid).map_or_else(|| json!({"presence": "offline"}), |s| s.content(now, &self.settings)))
    }

    /// Sees who went idle or offline.
    pub(crate) async fn tick(&self) -> Result<()> {
        let now = self.clock.steady_ms();
        let mut changed = Vec::new();
        for (nid, state) in self.users.lock().iter_mut() {
            let due = state.due(now, &self.settings);
            if state.shown != due {
                state.shown = due;
                changed.push(*nid);
            } else if !state.remote
                && due != PresenceState::Offline
                && now.saturating_sub(state.told_ms) >= TELL_AGAIN_MS
            {
                state.told_ms = now;
                let _ = self.news.send(News::of(*nid));
            }
        }
        for nid in changed {
            self.tell(nid).await?;
        }
        Ok(())
    }
}

impl Change {
    fn names(&self) -> usize {
        self.users.len() + self.recipients.len()
    }
}

impl Changes {
    fn push(&mut self, change: Change) {
        self.names += change.names();
        self.list.push_back(change);
        while self.list.len() > MAX_CHANGES || self.names > MAX_NAMES {
            let Some(old) = self.list.pop_front() else { break };
            self.names -= old.names();
            self.floor = old.counter;
        }
    }
}

/// The memory of a user; `None` if there is no room for one more.
fn entry<'a>(users: &'a mut HashMap<UserNid, State>, nid: UserNid, user: &UserId) -> Option<&'a mut State> {
    if users.len() >= MAX_USERS && !users.contains_key(&nid) {
        users.retain(|_, s| s.shown != PresenceState::Offline || s.syncing > 0);
        if users.len() >= MAX_USERS {
            return None;
        }
    }
    Some(users.entry(nid).or_insert_with(|| State::new(user)))
}

fn check_state(state: &PresenceState) -> Result<()> {
    match state {
        PresenceState::Online | PresenceState::Unavailable | PresenceState::Offline => Ok(()),
        _ => Err(Error::invalid_param("Presence is `online`, `unavailable` or `offline`")),
    }
}

#[cfg(test)]
mod tests;
