//! Follows the devices of other servers' users (server-server API, "Device Management").
//!
//! A list that is followed is handed out by us; each change says which change it comes after, and one that does not fit
//! marks the list stale. Stale lists are fetched whole by a task, which goes round by itself and when woken. A user is
//! followed from when ours ask for their keys, or they show up in an encrypted room of ours: then their keys are here when
//! they are wanted, though their server may be away. Of others ours only hear that something changed, and may ask; most
//! members of open rooms are never asked for. A user who shares no room with ours is followed no longer: their changes do
//! not reach us any more.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream};
use hearth_base::{
    Result,
    cache::Lasting,
    ids::{RoomNid, UserNid},
    tasks::Supervisor,
};
use hearth_store::{
    Store,
    keys::theirs::{Followed, Known, RemoteDevice, RemoteList},
    log::{Change, Logged},
};
use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName, UserId, api::federation::device::get_devices, events::TimelineEventType};
use tokio::sync::Notify;

use crate::{federation::Federation, keys::is_name};

mod form;
mod soon;
mod unmet;

use form::{SigningKeys, Update, device, is_of_device, shortened, signing_keys};
use soon::Soon;
use unmet::Unmet;

/// Devices of a user.
const MAX_DEVICES: usize = 2_000;
/// Bytes of a whole list.
const MAX_ANSWER: usize = 16 << 20;
/// Lists fetched at the same time.
const AT_ONCE: usize = 8;
/// How long a server may take to tell a list that nobody waits for.
const WAIT: Duration = Duration::from_secs(20);
/// How often stale lists are looked at if nobody wakes.
const ROUND: Duration = Duration::from_secs(60);
/// Rooms that are looked at whether they are encrypted; who shares more with ours is followed in any case.
const ROOMS: usize = 8;
/// The least pause between two rounds.
const PAUSE: Duration = Duration::from_millis(250);
/// Users and rooms that wait to be looked at because somebody went.
const GONE: usize = 20_000;
/// Users whose lists are fetched, remembered.
const LANES: u64 = 10_000;

/// Follows devices of others.
#[derive(Debug)]
pub struct DeviceLists {
    store: Store,
    name: OwnedServerName,
    federation: Arc<Federation>,
    /// One fetch of a list at a time.
    lanes: Lasting<UserNid, Arc<Lane>>,
    gone: Mutex<HashSet<Gone>>,
    unmet: Unmet,
    soon: Soon,
    /// Rings when somebody is gone, or may be met.
    bell: Notify,
}

/// The fetches of a user's list.
#[derive(Debug, Default)]
struct Lane {
    turn: tokio::sync::Mutex<()>,
    /// Whether the user's signing keys changed since the list was asked for: what their server says of them has no number
    /// by which the older could be told from the newer.
    overtaken: AtomicBool,
}

/// What came of fetching a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fetched {
    /// It is here, or will be, or nobody needs it.
    Enough,
    /// Its server has none.
    NoList,
}

/// Who may share no room with ours any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Gone {
    /// A user of another server who left a room.
    User(UserNid),
    /// The members of a room that one of ours left.
    Room(RoomNid),
}

impl DeviceLists {
    /// Made once. [`Self::on_change`] is to hear of every commit.
    #[must_use]
    pub fn new(store: Store, federation: Arc<Federation>) -> Arc<Self> {
        let name = federation.name().to_owned();
        let lanes = Lasting::idle(LANES, Duration::from_secs(60));
        let (gone, unmet, soon, bell) = (Mutex::default(), Unmet::default(), Soon::default(), Notify::new());
        Arc::new(Self { store, name, federation, lanes, gone, unmet, soon, bell })
    }

    /// Starts the tasks that fetch what is stale, and that look at who is gone.
    pub fn start(self: &Arc<Self>, supervisor: &Supervisor) {
        let this = self.clone();
        crate::federation::until_stopping(supervisor, "users who are gone", move || this.clone().watch_the_gone());
        let this = self.clone();
        crate::federation::until_stopping(supervisor, "users followed soon", move || this.clone().follow_soon());
        let (this, stopping) = (self.clone(), supervisor.stopping());
        supervisor.task("device-lists", move || {
            let (this, stopping) = (this.clone(), stopping.clone());
            async move {
                let mut recovered = Box::pin(this.federation.health().recovered().notified());
                loop {
                    // Armed before the look, so that nothing falls between.
                    recovered.as_mut().enable();
                    tokio::select! {
                        () = stopping.cancelled() => return Ok(()),
                        done = this.fetch_stale() => done?,
                    }
                    // A server that sends nothing that fits is not fetched from without a pause.
                    tokio::time::sleep(PAUSE).await;
                    tokio::select! {
                        () = stopping.cancelled() => return Ok(()),
                        () = this.store.stale_lists_bell().notified() => {}
                        () = &mut recovered => {
                            recovered = Box::pin(this.federation.health().recovered().notified());
                        }
                        () = tokio::time::sleep(ROUND) => {}
                    }
                }
            }
        });
    }

    async fn watch_the_gone(self: Arc<Self>) -> Result<()> {
        loop {
            self.bell.notified().await;
            self.part().await?;
            self.meet().await?;
        }
    }

    /// Hears of a commit: who leaves a room may be followed no longer.
    pub fn on_change(&self, logged: &Logged) {
        let event = match &logged.change {
            Change::Event(event) => event,
            // Where branches meet, or all of a state comes, who seemed to be there may not be.
            Change::State { changes, .. } => {
                let gone = changes.iter().filter(|c| c.new.as_ref().is_none_or(|e| e.pdu.membership() != "join"));
                let gone = gone.filter_map(|c| c.member).filter(|(_, ours)| !ours);
                return self.may_be_gone(gone.map(|(user, _)| Gone::User(user)));
            }
            Change::Whole { .. } => {
                self.unmet.looked_for();
                return self.bell.notify_one();
            }
            _ => return,
        };
        if *event.pdu.event_type() != TimelineEventType::RoomMember || event.pdu.membership() == "join" {
            return;
        }
        let Some(user) = event.pdu.state_key().and_then(|key| <&UserId>::try_from(key).ok()) else { return };
        let gone = match (*user.server_name() == self.name, self.store.known_user(user)) {
            (true, _) => Gone::Room(event.room),
            (false, Some(nid)) => Gone::User(nid),
            (false, None) => return,
        };
        self.may_be_gone([gone].into_iter());
    }

    fn may_be_gone(&self, gone: impl Iterator<Item = Gone>) {
        let mut waiting = self.gone.lock();
        let room = GONE.saturating_sub(waiting.len());
        let before = waiting.len();
        waiting.extend(gone.take(room));
        let any = waiting.len() > before;
        drop(waiting);
        if any {
            self.bell.notify_one();
        }
    }

    /// `m.device_list_update`.
    pub(super) async fn update(&self, origin: &ServerName, content: &str) -> Result<()> {
        let Ok(said) = serde_json::from_str::<Update>(content) else { return Ok(()) };
        let is_first = said.prev_id.is_empty();
        let Some((user, followed)) = self.of_origin(origin, &said.user_id, is_first).await? else { return Ok(()) };
        if followed.stale {
            return self.store.device_change_missed(user, said.stream_id).await;
        }
        if said.stream_id == followed.stream_id {
            return Ok(());
        }
        let fits = !said.prev_id.is_empty() && said.prev_id.iter().all(|prev| *prev == followed.stream_id);
        let change = if said.deleted { Err(said.device_id.clone()) } else { device(&said) };
        let taken = match change {
            _ if !fits || !is_name(&said.device_id) => false,
            Ok(device) if device.json.is_none() && said.keys.is_some() => false,
            change => {
                let most = i64::try_from(MAX_DEVICES).unwrap_or(i64::MAX);
                self.store.change_remote_list(user, said.stream_id, change, most).await?
            }
        };
        if !taken {
            tracing::debug!(user.id = %said.user_id, "a change of devices does not fit what we have");
            self.store.mark_device_list_stale(user).await?;
        }
        Ok(())
    }

    /// `m.signing_key_update`.
    pub(super) async fn signing_keys(&self, origin: &ServerName, content: &str) -> Result<()> {
        let Ok(said) = serde_json::from_str::<SigningKeys>(content) else { return Ok(()) };
        let Some((user, _)) = self.of_origin(origin, &said.user_id, false).await? else { return Ok(()) };
        let keys = signing_keys(&said.user_id, said.master_key.as_deref(), said.self_signing_key.as_deref());
        if keys.is_empty() {
            return Ok(());
        }
        if let Some(lane) = self.lanes.get(&user) {
            lane.overtaken.store(true, Ordering::Release);
        }
        self.store.put_remote_signing_keys(user, keys).await
    }

    /// A user of that server whom we follow. Ours who share a room with others hear that something changed, if the join did
    /// not tell them. These are followed soon, if it was the first change of a sequence, which costs one question in all;
    /// those in encrypted rooms at once.
    async fn of_origin(
        &self,
        origin: &ServerName,
        user: &UserId,
        is_first: bool,
    ) -> Result<Option<(UserNid, Followed)>> {
        if user.server_name() != origin {
            return Ok(None);
        }
        if let Some(nid) = self.store.user_nid(user).await? {
            match self.store.known(nid, ROOMS).await? {
                Known::Followed(followed) => return Ok(Some((nid, followed))),
                Known::Met(rooms) if rooms.is_empty() => {}
                Known::Met(rooms) => {
                    // With a join their server tells of their devices. Ours were told to ask by the join itself, and whoever
                    // has asked since would have begun to follow.
                    let has_come = rooms.iter().any(|met| met.came);
                    match self.is_to_be_followed(&rooms).await? {
                        true if has_come => self.store.follow(vec![nid]).await?,
                        true => self.store.follow_and_tell(nid).await?,
                        false => {
                            if !(is_first && has_come) {
                                self.store.tell_of_devices(nid).await?;
                            }
                            if is_first {
                                self.soon.follow(nid);
                            }
                        }
                    }
                    return Ok(None);
                }
            }
        }
        self.may_be_met([user].into_iter()).await?;
        // All of a room may have come just now.
        self.tells_of(user).await?;
        Ok(None)
    }

    /// Looks at those who may share no room with ours any more.
    async fn part(&self) -> Result<()> {
        let gone = std::mem::take(&mut *self.gone.lock());
        let mut users = HashSet::new();
        for one in gone {
            match one {
                Gone::User(user) => drop(users.insert(user)),
                Gone::Room(room) if self.store.local_members(&[room]).await?.is_empty() => {
                    users.extend(self.store.remote_members(room).await?.into_iter().map(|(nid, _)| nid));
                }
                Gone::Room(_) => {}
            }
        }
        for user in users {
            if self.store.followed(user).await?.is_some() && !self.store.meets_ours(user).await? {
                self.store.unfollow(user).await?;
            }
        }
        Ok(())
    }

    /// Fetches stale lists, as far as their servers answer.
    pub(super) async fn fetch_stale(&self) -> Result<()> {
        let mut after = UserNid(0);
        loop {
            let stale = self.store.stale_device_lists(after, 100).await?;
            let Some(last) = stale.last() else { return Ok(()) };
            after = *last;
            let fetch = async |user| self.fetch(user, WAIT).await.map(|fetched| (user, fetched));
            let mut fetching = stream::iter(stale.into_iter().map(fetch)).buffer_unordered(AT_ONCE);
            while let Some(done) = fetching.next().await {
                if let (user, Fetched::NoList) = done? {
                    // Nobody follows: of each change ours are told.
                    self.store.tell_of_devices(user).await?;
                }
            }
        }
    }

    /// Follows users from now on, and fetches the lists among theirs that are not up to date, as far as their servers
    /// answer. Whoever asks meanwhile waits for the same answer.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn refresh(&self, users: Vec<UserNid>) -> Result<()> {
        self.store.follow(users.clone()).await?;
        let wait = self.federation.settings().patience;
        let mut fetching = stream::iter(users.into_iter().map(|user| self.fetch(user, wait))).buffer_unordered(AT_ONCE);
        while let Some(done) = fetching.next().await {
            done?;
        }
        Ok(())
    }

    async fn fetch(&self, nid: UserNid, wait: Duration) -> Result<Fetched> {
        let lane = self.lanes.get_with(nid, Arc::default);
        let _one = lane.turn.lock().await;
        lane.overtaken.store(false, Ordering::Release);
        let followed = self.store.followed(nid).await?;
        if followed.is_some_and(|followed| !followed.stale) {
            return Ok(Fetched::Enough);
        }
        // Who asked before the first was answered by its server just then; of what was missed meanwhile they are told.
        let is_first = followed.is_none_or(|followed| followed.stream_id == 0);
        let user = self.store.user_id(nid).await?;
        if !self.store.meets_ours(nid).await? {
            self.store.unfollow(nid).await?;
            return Ok(Fetched::Enough);
        }
        let patience = self.federation.once().within(wait).up_to(MAX_ANSWER);
        let request = get_devices::v1::Request::new(user.clone());
        let list = match self.federation.send(user.server_name(), request, patience).await {
            Ok(list) => list,
            Err(failure) if failure.is_not_found() => {
                // No such user, or no such question: whoever wants keys asks for these alone.
                self.store.unfollow(nid).await?;
                return Ok(Fetched::NoList);
            }
            Err(failure) => {
                tracing::debug!(user.id = %user, error = %failure, "a list of devices could not be fetched");
                return Ok(Fetched::Enough);
            }
        };
        if list.user_id != user {
            return Ok(Fetched::Enough);
        }
        let mut devices: BTreeMap<String, RemoteDevice> = BTreeMap::new();
        for found in list.devices.into_iter().take(MAX_DEVICES) {
            let id = found.device_id.to_string();
            if is_name(&id) && is_of_device(found.keys.json(), &user, &id) {
                let display_name = found.device_display_name.map(|name| shortened(&name));
                let json = Some(found.keys.json().get().to_owned());
                devices.insert(id.clone(), RemoteDevice { device_id: id, display_name, json });
            }
        }
        let key = |key: Option<&ruma::serde::Raw<ruma::encryption::CrossSigningKey>>| key.map(|k| k.json().to_owned());
        let (master, own) = (key(list.master_key.as_ref()), key(list.self_signing_key.as_ref()));
        let signing_keys = signing_keys(&user, master.as_deref(), own.as_deref());
        let stream_id = i64::from(list.stream_id);
        let list = RemoteList { stream_id, devices: devices.into_values().collect(), signing_keys };
        let lane = lane.clone();
        self.store.put_remote_list(nid, list, is_first, move || lane.overtaken.load(Ordering::Acquire)).await?;
        Ok(Fetched::Enough)
    }
}
