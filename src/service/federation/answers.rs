//! What other servers may read of our rooms: single events, states, auth chains, pages of history ([`history`]).
//!
//! [`Answers::enter`] is the one door: a server reads a room while it has users joined to it and the room's ACL does not
//! keep it out. What it may not see of the history is given to it redacted, so that the graph of events stays whole. States
//! and auth chains are given whole, since nobody could check an event without them.
//!
//! Answers are spliced from the stored text, and long ones are made piece by piece ([`Pieces`]), so that neither a large
//! room nor a slow reader costs memory.

use std::{collections::HashMap, sync::Arc};

use hearth_base::{
    Error, OrNotFound, Result,
    cache::Cache,
    clock::Clock,
    ids::{EventNid, KeyNid, SnapNid},
};
use hearth_rules::visibility::{Membership, server_may_see};
use hearth_store::{
    Store,
    events::{Direction, Standing, StoredEvent},
    rooms::Room,
    state::StateMap,
};
use http::StatusCode;
use ruma::{EventId, OwnedServerName, RoomId, ServerName, events::room::member::MembershipState};

use super::{acl::Acls, servers::Servers};
use crate::state::{State, version_of};

mod history;
mod pieces;

pub use history::Missing;
pub use pieces::Pieces;

/// Users of other servers remembered, all rooms together.
const VISITORS: u64 = 500_000;
/// Events of auth chains remembered, all states together.
const CHAINS: u64 = 1_000_000;
/// Member events looked at together.
const BATCH: usize = 64;

/// Reads rooms for other servers.
#[derive(Debug)]
pub struct Answers {
    store: Store,
    state: Arc<State>,
    name: OwnedServerName,
    acls: Arc<Acls>,
    servers: Arc<Servers>,
    clock: Clock,
    /// By the state they were read from.
    visitors: Cache<(SnapNid, OwnedServerName), Arc<Visitors>>,
    /// Auth chains of whole states.
    chains: Cache<SnapNid, Arc<[EventNid]>>,
}

/// The users of one other server in one room.
#[derive(Debug)]
struct Visitors {
    /// Whether any of them is joined.
    joined: bool,
    /// Whether any of them is joined or invited.
    awaited: bool,
    /// The keys of their member events.
    keys: Vec<KeyNid>,
}

/// One server's eyes on one room.
#[derive(Debug)]
struct Eyes {
    room: Arc<Room>,
    visitors: Arc<Visitors>,
    /// What it may see after each state that was looked at.
    seen: HashMap<SnapNid, bool>,
    /// Whether it was in the room in each state that was looked at.
    there: HashMap<SnapNid, bool>,
}

impl Answers {
    /// Made once; `name` is ours.
    #[must_use]
    pub fn new(
        store: Store,
        state: Arc<State>,
        name: OwnedServerName,
        acls: Arc<Acls>,
        servers: Arc<Servers>,
        clock: Clock,
    ) -> Self {
        let count = |len: usize| u32::try_from(len + 8).unwrap_or(u32::MAX);
        Self {
            store,
            state,
            name,
            acls,
            servers,
            clock,
            visitors: Cache::weighed(VISITORS, move |_, v: &Arc<Visitors>| count(v.keys.len())),
            chains: Cache::weighed(CHAINS, move |_, chain: &Arc<[EventNid]>| count(chain.len())),
        }
    }

    /// Lets a server into a room, or not.
    ///
    /// # Errors
    /// 403 if it is not in the room, or there is none; 403 `M_UNABLE_DUE_TO_PARTIAL_STATE` while we cannot know (MSC3895).
    async fn enter(&self, server: &ServerName, room_id: &RoomId) -> Result<Eyes> {
        let eyes = self.enter_any(server, room_id).await?;
        if eyes.room.head.partial {
            let why = "This server has just joined this room and does not know all of it yet";
            return Err(Error::told(StatusCode::FORBIDDEN, "M_UNABLE_DUE_TO_PARTIAL_STATE", why));
        }
        Ok(eyes)
    }

    /// The same also for a room of whose state we know part: what we vouch for there is what our own users sent.
    async fn enter_any(&self, server: &ServerName, room_id: &RoomId) -> Result<Eyes> {
        let outside = || Error::forbidden(format!("{server} is not in this room"));
        let nid = self.store.room_nid(room_id).await?.ok_or_else(outside)?;
        let room = self.state.room_by_nid(nid).await?;
        let visitors = self.visitors(server, &room).await?;
        if !(visitors.joined || room.head.partial && self.servers.is_in(server, nid).await?) {
            return Err(outside());
        }
        if !self.acls.allows(nid, server).await? {
            return Err(Error::forbidden(format!("{server} is not admitted to this room")));
        }
        Ok(Eyes { room, visitors, seen: HashMap::new(), there: HashMap::new() })
    }

    /// Whether a server has users joined to a room.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn is_in(&self, server: &ServerName, room: &Room) -> Result<bool> {
        Ok(self.visitors(server, room).await?.joined)
    }

    /// Whether a server has users joined or invited to a room.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn is_awaited(&self, server: &ServerName, room: &Room) -> Result<bool> {
        Ok(self.visitors(server, room).await?.awaited)
    }

    async fn visitors(&self, server: &ServerName, room: &Room) -> Result<Arc<Visitors>> {
        let key = (room.head.snap, server.to_owned());
        if let Some(visitors) = self.visitors.get(&key) {
            return Ok(visitors);
        }
        let rows = self.store.members_of_server(room.nid, server).await?;
        let joined = rows.iter().any(|(_, membership)| *membership == MembershipState::Join);
        let awaited = joined || rows.iter().any(|(_, membership)| *membership == MembershipState::Invite);
        let visitors = Arc::new(Visitors { joined, awaited, keys: rows.into_iter().map(|(key, _)| key).collect() });
        self.visitors.insert(key, visitors.clone());
        Ok(visitors)
    }

    /// One event, as a transaction of one (spec: `GET /event/{eventId}`).
    ///
    /// # Errors
    /// 404 for an event we do not have or do not vouch for, 403 for one of a room that the server is not in.
    pub async fn event(&self, server: &ServerName, event_id: &EventId) -> Result<String> {
        let event = self.known(event_id).await?;
        let room = self.state.room_by_nid(event.room).await?;
        let mut eyes = match *event.pdu.sender().server_name() == self.name {
            true => self.enter_any(server, &room.room_id).await?,
            false => self.enter(server, &room.room_id).await?,
        };
        // Of state known from outside we have no state before it, and it is given with every state anyway.
        if event.snap.is_none() && !event.pdu.is_state() {
            return Err(Error::not_found("Event not found"));
        }
        let mut out = self.transaction();
        self.write_seen(&mut out, &mut eyes, &event).await?;
        out.push_str("]}");
        Ok(out)
    }

    /// The state before an event and its auth chain, as events (spec: `GET /state/{roomId}`).
    ///
    /// # Errors
    /// 403 for a server that is not in the room, 404 if we do not know the event, or what the state was.
    pub async fn state(&self, server: &ServerName, room_id: &RoomId, event_id: &EventId) -> Result<Pieces> {
        let (state, chain) = self.state_at(server, room_id, event_id).await?;
        Ok(Pieces::new(self.store.clone())
            .text("{\"auth_chain\":[")
            .events(chain)
            .text("],\"pdus\":[")
            .events(state)
            .text("]}"))
    }

    /// The same as ids (spec: `GET /state_ids/{roomId}`).
    ///
    /// # Errors
    /// As [`Self::state`].
    pub async fn state_ids(&self, server: &ServerName, room_id: &RoomId, event_id: &EventId) -> Result<Pieces> {
        let (state, chain) = self.state_at(server, room_id, event_id).await?;
        Ok(Pieces::new(self.store.clone())
            .text("{\"auth_chain_ids\":[")
            .ids(chain)
            .text("],\"pdu_ids\":[")
            .ids(state)
            .text("]}"))
    }

    /// State before an event, and its auth chain.
    async fn state_at(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<(Arc<[EventNid]>, Arc<[EventNid]>)> {
        let room = self.enter(server, room_id).await?.room;
        let event = self.known_in(&room, event_id).await?;
        let snap = event.snap.or_not_found("State at this event")?;
        let state: Arc<[EventNid]> = self.store.snapshot(snap).await?.values().copied().collect();
        let chain = match self.chains.get(&snap) {
            Some(chain) => chain,
            None => {
                let chain = sorted(self.store.auth_chain(state.iter().copied()).await?);
                self.chains.insert(snap, chain.clone());
                chain
            }
        };
        Ok((state, chain))
    }

    /// The auth chain of an event (spec: `GET /event_auth/{roomId}/{eventId}`).
    ///
    /// # Errors
    /// 403 for a server that is not in the room, 404 if we do not know the event.
    pub async fn event_auth(&self, server: &ServerName, room_id: &RoomId, event_id: &EventId) -> Result<Pieces> {
        let room = self.enter(server, room_id).await?.room;
        let event = self.known_in(&room, event_id).await?;
        let chain = sorted(self.store.auth_chain([event.nid]).await?);
        Ok(Pieces::new(self.store.clone()).text("{\"auth_chain\":[").events(chain).text("]}"))
    }

    /// The event of a room sent nearest to a time, ms: id and time (spec: `GET /timestamp_to_event/{roomId}`).
    ///
    /// # Errors
    /// 403 for a server that is not in the room, 404 if there is none in that direction.
    pub async fn event_by_time(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        direction: Direction,
        origin_ms: u64,
    ) -> Result<Arc<StoredEvent>> {
        let room = self.enter(server, room_id).await?.room;
        let origin_ms = i64::try_from(origin_ms).unwrap_or(i64::MAX);
        self.store.events_by_time(room.nid, direction, origin_ms, 1).await?.pop().or_not_found("Event")
    }

    /// An event that we have and vouch for. What we rejected is not handed on: others may judge it for themselves, where
    /// they get it from those who did not.
    async fn known(&self, event_id: &EventId) -> Result<Arc<StoredEvent>> {
        let event = self.store.event_by_id(event_id).await?;
        event.filter(|e| e.standing != Standing::Rejected).or_not_found("Event")
    }

    async fn known_in(&self, room: &Room, event_id: &EventId) -> Result<Arc<StoredEvent>> {
        Some(self.known(event_id).await?).filter(|e| e.room == room.nid).or_not_found("Event")
    }

    /// How an answer in the form of a transaction begins; `]}` ends it.
    fn transaction(&self) -> String {
        format!(r#"{{"origin":"{}","origin_server_ts":{},"pdus":["#, self.name, self.clock.now_ms())
    }

    /// Appends an event as that server may see it.
    async fn write_seen(&self, out: &mut String, eyes: &mut Eyes, event: &StoredEvent) -> Result<()> {
        let was_there = !self.store.is_erased(event.sender) || self.was_there(eyes, event).await?;
        if was_there && (self.sees(eyes, event).await? || self.stands(eyes, event).await?) {
            out.push_str(event.pdu.json());
        } else {
            out.push_str(event.pdu.redacted(version_of(&eyes.room)?)?.json());
        }
        Ok(())
    }

    /// Whether an event is of the room's present state, which every member has, whenever it came to be: redacted it would be
    /// taken for what the state is.
    async fn stands(&self, eyes: &Eyes, event: &StoredEvent) -> Result<bool> {
        let Some(key) = event.key.filter(|_| eyes.visitors.joined) else { return Ok(false) };
        Ok(self.state.current(&eyes.room).await?.get(&key) == Some(&event.nid))
    }

    /// Whether a server may see an event: by the state before it or after it, as a change of the setting or of a membership
    /// is seen if either side allows it.
    async fn sees(&self, eyes: &mut Eyes, event: &StoredEvent) -> Result<bool> {
        let Some(before) = event.snap else { return Ok(event.pdu.is_state()) };
        if self.sees_at(eyes, before).await? {
            return Ok(true);
        }
        match event.after {
            Some(after) if after != before => self.sees_at(eyes, after).await,
            _ => Ok(false),
        }
    }

    /// Whether a server had users in the room when an event was sent: what erased users sent is for those who were.
    async fn was_there(&self, eyes: &mut Eyes, event: &StoredEvent) -> Result<bool> {
        for snap in [event.snap, event.after].into_iter().flatten() {
            let there = match eyes.there.get(&snap) {
                Some(there) => *there,
                None => {
                    let state = self.store.snapshot(snap).await?;
                    let there = self.has_member(eyes, &state, |membership| membership == Membership::Join).await?;
                    eyes.there.insert(snap, there);
                    there
                }
            };
            if there {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether one of its users had such a membership in a state.
    async fn has_member(&self, eyes: &Eyes, state: &StateMap, is: impl Fn(Membership) -> bool) -> Result<bool> {
        let members: Vec<EventNid> = eyes.visitors.keys.iter().filter_map(|k| state.get(k).copied()).collect();
        for part in members.chunks(BATCH) {
            let events = self.store.events(part).await?;
            if events.iter().any(|e| is(Membership::parse(Some(&e.pdu.membership())))) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn sees_at(&self, eyes: &mut Eyes, snap: SnapNid) -> Result<bool> {
        if let Some(sees) = eyes.seen.get(&snap) {
            return Ok(*sees);
        }
        // Of a room of which we know part only our own events are given, to those who were there when we sent them.
        if eyes.room.head.partial {
            return Ok(true);
        }
        let state = self.store.snapshot(snap).await?;
        let visibility = self.state.history_visibility(&state).await?;
        let sees = server_may_see(visibility, [])
            || self.has_member(eyes, &state, |membership| server_may_see(visibility, [membership])).await?;
        eyes.seen.insert(snap, sees);
        Ok(sees)
    }
}

fn sorted(nids: impl IntoIterator<Item = EventNid>) -> Arc<[EventNid]> {
    let mut nids: Vec<EventNid> = nids.into_iter().collect();
    nids.sort_unstable();
    nids.into()
}
