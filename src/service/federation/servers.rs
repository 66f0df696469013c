//! Which servers are in which rooms, in memory: read once from the memberships, then kept up by what commits change.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use hearth_base::{
    Result,
    cache::Cache,
    ids::{RoomNid, StreamPos, UserNid},
};
use hearth_store::{
    Store,
    events::StoredEvent,
    log::{Change, Logged},
};
use parking_lot::{Mutex, RwLock};
use ruma::{OwnedServerName, ServerName, UserId, events::TimelineEventType};

/// Users of other servers that are remembered, in all rooms together.
const REMEMBERED: u64 = 2_000_000;

/// The servers of rooms, but for our own.
#[derive(Debug)]
pub struct Servers {
    store: Store,
    name: OwnedServerName,
    rooms: Cache<RoomNid, Arc<RoomServers>>,
    /// Those of rooms that are about to be stored.
    coming: Mutex<HashMap<RoomNid, Arc<RoomServers>>>,
}

/// A room that is about to be stored; ends with the write.
#[derive(Debug)]
pub struct Coming<'a> {
    servers: &'a Servers,
    room: RoomNid,
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        self.servers.coming.lock().remove(&self.room);
    }
}

/// The other servers in a room.
#[derive(Debug)]
struct RoomServers {
    inner: RwLock<Members>,
    /// How many members there were when it was read, for the weight.
    size: u32,
}

#[derive(Debug, Default)]
struct Members {
    joined: HashMap<OwnedServerName, HashSet<UserNid>>,
    /// Those that we were told of, while not all members are known: whether they are still there nobody can say.
    told: Vec<OwnedServerName>,
    names: Arc<[OwnedServerName]>,
    /// Where those stand in the log, and in the graph, who came since it was read.
    came: HashMap<OwnedServerName, (StreamPos, i64)>,
}

impl Members {
    fn rename(&mut self) {
        let mut names: Vec<OwnedServerName> = self.joined.keys().chain(&self.told).cloned().collect();
        names.sort_unstable();
        names.dedup();
        self.names = names.into();
    }
}

impl Servers {
    /// Seen from the server of this name. [`Self::on_change`] is to hear of every commit.
    #[must_use]
    pub fn new(store: Store, name: OwnedServerName) -> Self {
        let weigh = |_: &RoomNid, room: &Arc<RoomServers>| room.size.saturating_add(4);
        Self { store, name, rooms: Cache::weighed(REMEMBERED, weigh), coming: Mutex::default() }
    }

    /// Of a room that is new here and about to be stored these users of others are joined, and these servers are told to be
    /// in it: once it is, nobody need ask the disk.
    #[must_use]
    pub fn come(&self, room: RoomNid, joined: &[(UserNid, OwnedServerName)], told: &[OwnedServerName]) -> Coming<'_> {
        let mut members = Members { told: told.to_vec(), ..Members::default() };
        for (user, server) in joined {
            members.joined.entry(server.clone()).or_default().insert(*user);
        }
        let coming = self.of_members(members, joined.len());
        self.coming.lock().insert(room, Arc::new(coming));
        Coming { servers: self, room }
    }

    fn of_members(&self, mut members: Members, joined: usize) -> RoomServers {
        members.told.retain(|server| *server != self.name);
        members.rename();
        let size = u32::try_from(joined + members.told.len()).unwrap_or(u32::MAX);
        RoomServers { inner: RwLock::new(members), size }
    }

    /// The other servers with users joined to a room.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn of_room(&self, room: RoomNid) -> Result<Arc<[OwnedServerName]>> {
        let names = self.read(room).await?.inner.read().names.clone();
        Ok(names)
    }

    /// Those of them that an event is for, which stands in the log at `pos`: whoever came after it was told what was before.
    /// What stands beside a join in the graph was not.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn to_hear_of(&self, event: &StoredEvent, pos: StreamPos) -> Result<Arc<[OwnedServerName]>> {
        let room = self.read(event.room).await?;
        let inner = room.inner.read();
        let later = |came: &(StreamPos, i64)| came.0 > pos && came.1 > event.depth;
        if !inner.came.values().any(later) {
            return Ok(inner.names.clone());
        }
        Ok(inner.names.iter().filter(|server| !inner.came.get(*server).is_some_and(later)).cloned().collect())
    }

    /// The other servers with users joined to a room, those with the most users first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn by_members(&self, room: RoomNid) -> Result<Vec<OwnedServerName>> {
        let room = self.read(room).await?;
        let inner = room.inner.read();
        let users = |server: &OwnedServerName| inner.joined.get(server).map_or(0, HashSet::len);
        let mut counted: Vec<(usize, &OwnedServerName)> = inner.names.iter().map(|s| (users(s), s)).collect();
        counted.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
        Ok(counted.into_iter().map(|(_, server)| server.clone()).collect())
    }

    async fn read(&self, room: RoomNid) -> Result<Arc<RoomServers>> {
        let load = || async {
            let mut members = Members::default();
            let rows = self.store.remote_members(room).await?;
            let joined = rows.len();
            for (nid, user) in rows {
                if let Ok(user) = <&UserId>::try_from(user.as_str()) {
                    members.joined.entry(user.server_name().to_owned()).or_default().insert(nid);
                }
            }
            if self.store.room(room).await?.is_some_and(|r| r.head.partial)
                && let Some(partial) = self.store.partial_room(room).await?
            {
                members.told = partial.part.servers;
            }
            Ok(Arc::new(self.of_members(members, joined)))
        };
        self.rooms.get_or(room, load).await
    }

    /// Whether a server has users joined to a room.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn is_in(&self, server: &ServerName, room: RoomNid) -> Result<bool> {
        Ok(self.of_room(room).await?.binary_search_by(|name| (**name).cmp(server)).is_ok())
    }

    /// The other servers that share a room with a user.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn of_user(&self, user: UserNid) -> Result<HashSet<OwnedServerName>> {
        let mut servers = HashSet::new();
        for room in self.store.joined_rooms(user).await? {
            servers.extend(self.of_room(room).await?.iter().cloned());
        }
        Ok(servers)
    }

    /// Whether a room is known to have no other server in it, without asking the disk.
    #[must_use]
    pub fn is_ours_alone(&self, room: RoomNid) -> bool {
        self.rooms.get(&room).is_some_and(|room| room.inner.read().names.is_empty())
    }

    /// Hears of a commit.
    pub fn on_change(&self, logged: &Logged) {
        match &logged.change {
            Change::Event(event) if *event.pdu.event_type() == TimelineEventType::RoomMember => {
                let Some(user) = event.pdu.state_key().and_then(|key| <&UserId>::try_from(key).ok()) else { return };
                if user.server_name() == self.name {
                    return;
                }
                match self.store.known_user(user) {
                    Some(nid) => self.moved(event, logged.pos, user, nid),
                    None => self.rooms.invalidate(&event.room),
                }
            }
            // A room that is made here begins without others: nobody need ask the disk.
            Change::Event(event)
                if *event.pdu.event_type() == TimelineEventType::RoomCreate
                    && event.pdu.sender().server_name() == self.name =>
            {
                let nobody = RoomServers { inner: RwLock::default(), size: 0 };
                self.rooms.put(event.room, Arc::new(nobody));
            }
            // A join through another server has changed them all.
            Change::State { room, changes } if changes.is_empty() => match self.coming.lock().remove(room) {
                Some(come) => self.rooms.put(*room, come),
                None => self.rooms.invalidate(room),
            },
            // Resolution may have changed anybody's membership.
            Change::State { room, changes } if changes.iter().any(|c| c.member.is_some_and(|(_, ours)| !ours)) => {
                self.rooms.invalidate(room);
            }
            Change::Whole { room, .. } => self.rooms.invalidate(room),
            _ => {}
        }
    }

    fn moved(&self, event: &StoredEvent, pos: StreamPos, user: &UserId, nid: UserNid) {
        let room = event.room;
        let kept = self.rooms.get(&room);
        // Whoever reads the disk just now may have read what was before.
        self.rooms.invalidate(&room);
        let Some(kept) = kept else { return };
        {
            let mut members = kept.inner.write();
            let server = user.server_name();
            let before = members.joined.len();
            if event.pdu.membership() == "join" {
                members.joined.entry(server.to_owned()).or_default().insert(nid);
                if members.joined.len() != before {
                    members.came.insert(server.to_owned(), (pos, event.depth));
                }
            } else if let Some(users) = members.joined.get_mut(server) {
                users.remove(&nid);
                if users.is_empty() {
                    members.joined.remove(server);
                    members.came.remove(server);
                }
            }
            if members.joined.len() != before {
                members.rename();
            }
        }
        let ticket = self.rooms.ticket(&room);
        self.rooms.fill(room, kept, ticket);
    }
}
