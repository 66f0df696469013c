//! What follows when another server has let us in: whether its answer holds, and the room made of it, with all of its
//! state or (MSC3902) with part of it.

use std::{collections::HashMap, sync::Arc};

use hearth_base::{
    Error, Result,
    ids::{EventNid, RoomNid, UserNid},
};
use hearth_rules::{auth, event::Pdu, versions::RoomVersion};
use hearth_store::{
    events::{Part, Standing},
    intern::StateKey,
    rooms::Room,
    state::StateMap,
};
use ruma::{
    EventId, OwnedEventId, OwnedServerName, RoomId, ServerName, UserId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::EventIdFormatVersion,
};
use serde_json::value::RawValue;

use super::{Joins, template::nonsense};
use crate::{
    events::{Arrival, Arrived, Entry},
    federation::outliers::{Outlier, StateTakenIn, auth_ids},
};

/// Servers in a room that are kept at most, as another server names them.
const MAX_SERVERS: usize = 20_000;

/// An answer to a join whose events were checked.
pub(super) struct Answer<'a> {
    pub(super) server: &'a ServerName,
    pub(super) room: Arc<Room>,
    /// Whether it is stored; if not, nor is any event of it.
    pub(super) is_stored: bool,
    /// Whether we were in the room when it was asked for; nobody else of ours gets in meanwhile.
    pub(super) was_here: bool,
    pub(super) version: &'static RoomVersion,
    pub(super) taken: StateTakenIn,
    /// What came with part of the state; `None` if all of it came.
    pub(super) part: Option<Part>,
}

impl Joins {
    /// The room that `user` is let into, made or corrected by its create event: the one thing of an answer that decides all
    /// else, and that nobody but the room's own server can have made. Says too whether it is stored: one that is new need not
    /// be before it is entered (`at_once`), so that all of it is one write.
    pub(super) async fn room_of(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        version: &'static RoomVersion,
        state: &[Box<RawValue>],
        user: &UserId,
        at_once: bool,
    ) -> Result<(Arc<Room>, bool)> {
        let create = state
            .iter()
            .filter(|raw| raw.get().contains("m.room.create"))
            .filter_map(|raw| Pdu::parse_remote(raw.get(), version).ok())
            .find(|e| e.claimed().is(&TimelineEventType::RoomCreate, "") && e.claimed().room_id() == room_id)
            .ok_or_else(|| nonsense(server, "the room's state has no create event"))?;
        let create = self.verified(create, version).await.map_err(|e| nonsense(server, e))?;
        // No other server could tell a better one: there is no such room.
        auth::check_independent(version, &create, |_| None)
            .map_err(|e| Error::unknown(format!("The room's create event is against the rules: {e}")))?;
        // With what a small room names besides.
        let member = |user: &UserId| StateKey::new("m.room.member", user.as_str());
        let names = [member(create.sender()), member(user)].into();
        self.store.look_up(&[create.sender().to_owned()].into(), &names).await?;
        let creator = self.store.intern_user(create.sender()).await?;
        // An event whose id is the hash of what names the room is not here without the room.
        let by_hash = version.rules.event_id_format != EventIdFormatVersion::V1;
        let (id, now_ms) = (room_id.to_owned(), self.now_ms());
        let room = self.store.new_stub_room(id, version.id.clone(), creator, now_ms).await?;
        if at_once && by_hash && self.store.room_nid(room_id).await?.is_none() {
            return Ok((Arc::new(room), false));
        }
        Ok((self.stored(server, &room).await?, true))
    }

    /// The room as it is stored, now if it was not.
    async fn stored(&self, server: &ServerName, room: &Room) -> Result<Arc<Room>> {
        let Room { room_id, version, creator, created_ms, .. } = room;
        let nid = self.store.make_stub_room(room_id.clone(), version.clone(), *creator, *created_ms).await?;
        let known = self.state.room_by_nid(nid).await?;
        if known.version == *version {
            return Ok(known);
        }
        if !known.head.extremities.is_empty() {
            return Err(nonsense(server, "the room is of another version"));
        }
        self.store.revise_stub_room(known, version.clone(), *creator).await?;
        self.state.room_by_nid(nid).await
    }

    /// Stores a room and its events that were to be written with our join, but cannot be.
    async fn store_first(&self, answer: &mut Answer<'_>) -> Result<()> {
        let room = self.stored(answer.server, &answer.room).await?;
        let nids = self.store.insert_outliers(room.nid, std::mem::take(&mut answer.taken.unstored)).await?;
        for (id, outlier) in answer.taken.state.iter_mut().chain(&mut answer.taken.chain) {
            outlier.nid = nids.get(id).copied().unwrap_or(outlier.nid);
        }
        (answer.room, answer.is_stored) = (room, true);
        Ok(())
    }

    /// What came with part of a state.
    pub(super) fn part(&self, server: &ServerName, named: Vec<String>) -> Part {
        let mut servers: Vec<OwnedServerName> = named
            .into_iter()
            .filter_map(|name| OwnedServerName::try_from(name).ok())
            .filter(|name| self.federation.admits(name))
            .take(MAX_SERVERS)
            .collect();
        servers.push(server.to_owned());
        servers.sort_unstable();
        servers.dedup();
        Part { via: server.to_owned(), servers }
    }

    /// Goes into the room with the state before the join, or with part of it, if that holds.
    pub(super) async fn go_in(&self, mut answer: Answer<'_>, join: Pdu) -> Result<()> {
        let (join, nid) = (Arc::new(join), self.store.new_event_nid().await?);
        if !answer.is_stored {
            if self.go_in_at_once(&answer, &join, nid).await? {
                return Ok(());
            }
            self.store_first(&mut answer).await?;
        }
        let (before, auth) = self.allowing(&answer, &join).await?;
        let Answer { server, room, was_here, part, taken, .. } = answer;
        let prev: Vec<OwnedEventId> = join.prev_events().to_vec();
        let known = self.store.events_by_id(&prev).await?;
        let mut missing = prev;
        missing.retain(|id| !known.iter().any(|e| e.room == room.nid && e.after.is_some() && e.event_id() == id));
        let arrival = arrival(nid, join, auth, missing);
        if was_here && self.store.is_resident(room.nid).await? {
            return self.place_among(room.nid, arrival, before, part.is_some()).await;
        }
        // Before, so that no stop in between forgets it. Nothing is to be forgotten where we never were.
        if !taken.lacking.is_empty() || !self.state.room_by_nid(room.nid).await?.head.extremities.is_empty() {
            let lacking = taken.lacking.into_iter().collect();
            self.store.set_lacking_keys((room.nid, arrival.nid), server, lacking, self.now_ms()).await?;
        }
        let state = before.values().copied().collect();
        self.events.enter(room.nid, Entry { state, join: arrival, part, unstored: Vec::new() }).await
    }

    /// The same for a room that is not stored, with its state and all that allows it. False if that cannot be, or somebody
    /// has made the room meanwhile for another reason; then nothing was written.
    async fn go_in_at_once(&self, answer: &Answer<'_>, join: &Arc<Pdu>, nid: EventNid) -> Result<bool> {
        if !answer.taken.lacking.is_empty() {
            return Ok(false);
        }
        let (before, auth) = self.allowing(answer, join).await?;
        let missing = join.prev_events().to_vec();
        let entry = Entry {
            state: before.values().copied().collect(),
            join: arrival(nid, join.clone(), auth, missing),
            part: answer.part.clone(),
            unstored: answer.taken.unstored.clone(),
        };
        let _coming = self.remote_members(answer).map(|members| {
            let told = answer.part.as_ref().map_or(&[][..], |part| &part.servers);
            self.servers.come(answer.room.nid, &members, told)
        });
        match self.events.enter_new((*answer.room).clone(), entry).await {
            Ok(()) => Ok(true),
            Err(_) if self.store.room_nid(&answer.room.room_id).await?.is_some() => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Users of other servers who are joined by the state of an answer; `None` if not all of them have a number.
    fn remote_members(&self, answer: &Answer<'_>) -> Option<Vec<(UserNid, OwnedServerName)>> {
        let members = answer
            .taken
            .state
            .values()
            .filter(|o| o.standing != Standing::Rejected)
            .filter(|o| *o.pdu.event_type() == TimelineEventType::RoomMember && o.pdu.membership() == "join");
        let users = members.filter_map(|o| o.pdu.state_key().and_then(|key| <&UserId>::try_from(key).ok()));
        let others = users.filter(|user| user.server_name() != self.federation.name());
        others.map(|user| Some((self.store.known_user(user)?, user.server_name().to_owned()))).collect()
    }

    /// The state of an answer, and the events that allow our join, if these and the state do.
    async fn allowing(&self, answer: &Answer<'_>, join: &Pdu) -> Result<(StateMap, Vec<EventNid>)> {
        let Answer { server, room, is_stored, version, part, taken: StateTakenIn { chain, state, .. }, .. } = answer;
        let ids = auth_ids(version, join);
        // Who comes back may lean on how they left, which a state without members does not show, and we know.
        let lacking = ids.iter().filter(|id| *is_stored && !state.contains_key(*id) && !chain.contains_key(*id));
        let here = self.outliers.known(room.nid, lacking.cloned().collect()).await?;
        let find = |id: &EventId| state.get(id).or_else(|| chain.get(id)).or_else(|| here.get(id));
        let mut entries: HashMap<(StateEventType, &str), &Outlier> = HashMap::with_capacity(state.len());
        let mut map = StateMap::new();
        for outlier in state.values().filter(|o| o.standing != Standing::Rejected) {
            let Some(state_key) = outlier.pdu.state_key() else { continue };
            let event_type = outlier.pdu.event_type().to_string();
            let key = self.store.intern_key(&event_type, state_key).await?;
            if entries.insert((event_type.into(), state_key), outlier).is_some() {
                return Err(nonsense(server, "the room's state has an entry twice"));
            }
            map.insert(key, outlier.nid);
        }
        if !entries.contains_key(&(StateEventType::RoomCreate, "")) {
            return Err(nonsense(server, "the room's state has no create event that holds"));
        }
        let mut auth = Vec::new();
        let mut members: Vec<&Outlier> = Vec::new();
        for id in &ids {
            let event = find(id).ok_or_else(|| nonsense(server, "the join leans on events that are not there"))?;
            auth.push(event.nid);
            // Of members that were left out the join's own word is taken, until all of the state is there.
            if part.is_some() && *event.pdu.event_type() == TimelineEventType::RoomMember {
                members.push(event);
            }
        }
        let entry = |event_type: &StateEventType, state_key: &str| {
            let told = || {
                members
                    .iter()
                    .find(|o| *event_type == StateEventType::RoomMember && o.pdu.state_key() == Some(state_key))
            };
            let known = entries.get(&(event_type.clone(), state_key));
            known.or_else(told).map(|o| o.pdu.clone())
        };
        let allowed = auth::check_auth_events(version, join, |id| find(id).map(|o| o.pdu.clone()))
            .and_then(|()| auth::check_against(version, join, entry));
        allowed.map_err(|e| nonsense(server, format!("the room's state does not allow the join: {e}")))?;
        Ok((map, auth))
    }

    /// Places a join that another server let in, in a room we are in. `in_part` says that the state before it is not whole.
    async fn place_among(&self, room: RoomNid, arrival: Arrival, before: StateMap, in_part: bool) -> Result<()> {
        let arrival = match (arrival.missing.is_empty(), in_part) {
            (true, _) => arrival,
            (false, in_part) => Arrival { states: vec![before], whole: in_part, in_part, ..arrival },
        };
        match self.events.receive(room, vec![arrival]).await?.pop() {
            Some(Arrived::Placed) => Ok(()),
            Some(Arrived::SoftFailed(why) | Arrived::Rejected(why)) => Err(Error::forbidden(why)),
            None => Err(Error::broken("nothing became of a join")),
        }
    }
}

/// Our join as an event about to be placed. The server that let us in tells the others (server-server API, "Joining Rooms").
fn arrival(nid: EventNid, join: Arc<Pdu>, auth: Vec<EventNid>, missing: Vec<OwnedEventId>) -> Arrival {
    Arrival { missing, relay: false, told: true, ..Arrival::placed(nid, join, auth) }
}
