//! Events that others name, taken in without a place in a timeline: the state and auth chains that come with a join, the
//! auth events of what is received. Each is checked by its signatures and by its own auth events (server-server API,
//! "Checks performed on receipt of a PDU", 1 to 4); what fails the latter is kept as rejected, so that what leans on it
//! fails too.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use hearth_base::{
    OrNotFound, Result,
    cache::Lasting,
    ids::{EventNid, RoomNid},
};
use hearth_rules::{
    auth::{self, NotAllowed},
    event::{Pdu, Unverified},
    versions::RoomVersion,
};
use hearth_store::{
    Store,
    events::{NewEvent, Standing, StoredEvent},
    intern::StateKey,
    rooms::Room,
};
use ruma::{EventId, OwnedEventId, OwnedServerName, OwnedUserId, RoomId};
use serde_json::value::RawValue;

use super::order::in_order;
use crate::{
    server_keys::{ServerKeys, Unproven},
    state::version_of,
};

/// Events checked and stored together.
const PART: usize = 1_000;

/// An event that we have.
#[derive(Clone, Debug)]
pub struct Outlier {
    /// Its number.
    pub nid: EventNid,
    /// The event.
    pub pdu: Arc<Pdu>,
    /// How it stands; it may have had a place already.
    pub standing: Standing,
}

/// What became of events that were to be taken in.
#[derive(Debug, Default)]
pub struct TakenIn {
    /// Those that we have now, or had.
    pub found: HashMap<OwnedEventId, Outlier>,
    /// Servers of which no key was to be had, so that what they signed was left out.
    pub lacking: BTreeSet<OwnedServerName>,
}

/// A state and what allows it, taken in.
#[derive(Debug, Default)]
pub struct StateTakenIn {
    /// What stands in the auth chain alone.
    pub chain: HashMap<OwnedEventId, Outlier>,
    /// What stands in the state.
    pub state: HashMap<OwnedEventId, Outlier>,
    /// As in [`TakenIn`].
    pub lacking: BTreeSet<OwnedServerName>,
    /// What is still to be stored: all of a room that is not stored either.
    pub unstored: Vec<NewEvent>,
}

/// What events lean on.
type Context = HashMap<OwnedEventId, (EventNid, Arc<Pdu>)>;

/// The same, and what they cannot lean on, as it is of another room.
type Outside = (Context, HashSet<OwnedEventId>);

/// Takes in events without a place.
#[derive(Debug)]
pub struct Outliers {
    store: Store,
    server_keys: Arc<ServerKeys>,
    /// One at a time in a room, so that nothing is fetched and checked twice.
    lanes: Lasting<RoomNid, Arc<tokio::sync::Mutex<()>>>,
}

impl Outliers {
    /// Made once.
    #[must_use]
    pub fn new(store: Store, server_keys: Arc<ServerKeys>) -> Self {
        let lanes = Lasting::idle(10_000, Duration::from_secs(600));
        Self { store, server_keys, lanes }
    }

    /// Checks and stores events of a room. Those that are no events of this room, are not signed as they must be, or
    /// whose auth events are neither here nor among them are left out.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn take_in(&self, room: RoomNid, events: impl IntoIterator<Item = Box<RawValue>>) -> Result<TakenIn> {
        let room = self.store.room(room).await?.or_not_found("Room")?;
        let (taken, unstored) = self.take(&room, true, events, None, |_, _| {}).await?;
        debug_assert!(unstored.is_empty(), "what is stored waits for nothing");
        Ok(taken)
    }

    /// The same for a state and what allows it, each of which may lean on the other: what stands in a state need not stand
    /// in its auth chain again (MSC3706). Of a room that is not stored yet (`is_stored`) nothing can be here, if its
    /// events are named by their hashes; nothing is stored then. What the event that `follows` names is looked up along.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn take_in_state(
        &self,
        room: &Room,
        is_stored: bool,
        chain: Vec<Box<RawValue>>,
        state: Vec<Box<RawValue>>,
        follows: &Pdu,
    ) -> Result<StateTakenIn> {
        let (before, mut ids) = (chain.len(), HashSet::with_capacity(state.len()));
        let note = |n: usize, id: &EventId| {
            if n >= before {
                ids.insert(id.to_owned());
            }
        };
        let (taken, unstored) = self.take(room, is_stored, chain.into_iter().chain(state), Some(follows), note).await?;
        let (state, chain) = taken.found.into_iter().partition(|(id, _)| ids.contains(id));
        Ok(StateTakenIn { chain, state, lacking: taken.lacking, unstored })
    }

    /// Those of these events of a room that are here already, whatever their place.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn known(&self, room: RoomNid, ids: Vec<OwnedEventId>) -> Result<HashMap<OwnedEventId, Outlier>> {
        let events = self.store.events_by_id(&ids).await?;
        let events = events.into_iter().filter(|e| e.room == room);
        let outlier = |e: &StoredEvent| Outlier { nid: e.nid, pdu: e.pdu.clone(), standing: e.standing };
        Ok(events.map(|e| (e.event_id().to_owned(), outlier(&e))).collect())
    }

    /// As [`Self::take_in`]; `note` hears which event has which id. Of a room that is not stored, neither are they.
    async fn take(
        &self,
        room: &Room,
        is_stored: bool,
        events: impl IntoIterator<Item = Box<RawValue>>,
        follows: Option<&Pdu>,
        mut note: impl FnMut(usize, &EventId),
    ) -> Result<(TakenIn, Vec<NewEvent>)> {
        let version = version_of(room)?;
        let lane = self.lanes.get_with(room.nid, Arc::default);
        let _one = lane.lock().await;
        let TakenIn { mut found, mut lacking } = TakenIn::default();
        let mut fresh: Vec<Unverified> = Vec::new();
        let mut seen = HashSet::new();
        for (n, raw) in events.into_iter().enumerate() {
            match Pdu::parse_remote(raw.get(), version) {
                Ok(event) if event.claimed().room_id() == room.room_id => {
                    note(n, event.claimed().event_id());
                    if seen.insert(event.claimed().event_id().to_owned()) {
                        fresh.push(event);
                    }
                }
                Ok(_) => {}
                Err(e) => tracing::debug!(room.id = %room.room_id, error = %e, "a malformed event was left out"),
            }
        }
        let ids: Vec<OwnedEventId> = if is_stored { seen.into_iter().collect() } else { Vec::new() };
        for part in ids.chunks(PART) {
            for event in self.store.events_by_id(part).await? {
                if event.room == room.nid {
                    let outlier = Outlier { nid: event.nid, pdu: event.pdu.clone(), standing: event.standing };
                    found.insert(event.event_id().to_owned(), outlier);
                }
            }
        }
        let told = self.take_told(&mut found).await?;
        fresh.retain(|event| !found.contains_key(event.claimed().event_id()));
        let mut verified = Vec::with_capacity(fresh.len());
        while !fresh.is_empty() {
            let rest = fresh.split_off(fresh.len().min(PART));
            let part = std::mem::replace(&mut fresh, rest);
            for pdu in self.server_keys.prove(part, version).await? {
                match pdu {
                    Ok(pdu) => verified.push(pdu),
                    Err(Unproven::NoKey(server)) => drop(lacking.insert(server)),
                    Err(Unproven::Wrong(e)) => {
                        tracing::debug!(room.id = %room.room_id, error = %e, "an event was left out")
                    }
                }
            }
        }
        if !lacking.is_empty() {
            tracing::debug!(room.id = %room.room_id, servers = ?lacking, "events were left out: nobody gives keys of these servers");
        }
        let outside =
            if is_stored { self.outside(room.nid, version, &verified, &found).await? } else { Outside::default() };
        let fresh = self.check((&room.room_id, version), verified, follows, outside, &told, &mut found).await?;
        let add = |found: &mut HashMap<_, _>, nid, event: &NewEvent| {
            let outlier = Outlier { nid, pdu: event.pdu.clone(), standing: event.standing };
            found.insert(event.pdu.event_id().to_owned(), outlier);
        };
        if !is_stored {
            fresh.iter().for_each(|event| add(&mut found, event.nid, event));
            return Ok((TakenIn { found, lacking }, fresh));
        }
        let nids = self.store.insert_outliers(room.nid, fresh.clone()).await?;
        for event in &fresh {
            if let Some(nid) = nids.get(event.pdu.event_id()) {
                add(&mut found, *nid, event);
            }
        }
        Ok((TakenIn { found, lacking }, Vec::new()))
    }

    /// Invites and the like that were told to us from outside the room, when there was nothing to check them by.
    async fn take_told(&self, found: &mut HashMap<OwnedEventId, Outlier>) -> Result<HashMap<OwnedEventId, EventNid>> {
        let mut told: HashMap<OwnedEventId, EventNid> = found
            .iter()
            .filter(|(_, o)| o.standing == Standing::Outlier && !matches!(&*o.pdu.membership(), "" | "join"))
            .map(|(id, o)| (id.clone(), o.nid))
            .collect();
        let nids: Vec<EventNid> = told.values().copied().collect();
        let checked = self.store.auth_edges(&nids).await?;
        told.retain(|_, nid| !checked.contains_key(nid));
        found.retain(|id, _| !told.contains_key(id));
        Ok(told)
    }

    /// What is here of what allows events, beside themselves and what is found; and which of it is of other rooms.
    async fn outside(
        &self,
        room: RoomNid,
        version: &RoomVersion,
        events: &[Pdu],
        found: &HashMap<OwnedEventId, Outlier>,
    ) -> Result<Outside> {
        let inside: HashSet<OwnedEventId> = events.iter().map(|e| e.event_id().to_owned()).collect();
        let outside: HashSet<OwnedEventId> = events
            .iter()
            .flat_map(|e| auth_ids(version, e))
            .filter(|id| !inside.contains(id) && !found.contains_key(id))
            .collect();
        let (mut context, mut foreign) = Outside::default();
        for part in outside.into_iter().collect::<Vec<_>>().chunks(PART) {
            for event in self.store.events_by_id(part).await? {
                let id = event.event_id().to_owned();
                if event.room == room {
                    context.insert(id, (event.nid, event.pdu.clone()));
                } else {
                    foreign.insert(id);
                }
            }
        }
        Ok((context, foreign))
    }

    /// Checks events by what allows them; gives those that are to be stored.
    async fn check(
        &self,
        (room_id, version): (&RoomId, &'static RoomVersion),
        events: Vec<Pdu>,
        follows: Option<&Pdu>,
        (mut context, foreign): Outside,
        told: &HashMap<OwnedEventId, EventNid>,
        found: &mut HashMap<OwnedEventId, Outlier>,
    ) -> Result<Vec<NewEvent>> {
        context.extend(found.iter().map(|(id, o)| (id.clone(), (o.nid, o.pdu.clone()))));
        let senders: HashSet<OwnedUserId> = events.iter().map(|e| e.sender().to_owned()).collect();
        let key = |e: &Pdu| Some(StateKey::new(&e.event_type().to_string(), e.state_key()?));
        self.store.intern_names(&senders, &events.iter().chain(follows).filter_map(key).collect()).await?;
        let mut batch = Vec::new();
        let by_id = events.into_iter().map(|e| (e.event_id().to_owned(), e)).collect();
        for pdu in in_order(by_id, |pdu| auth_ids(version, pdu)) {
            let mut auth_nids = Vec::new();
            let mut all = true;
            for id in auth_ids(version, &pdu) {
                match context.get(&id) {
                    Some((nid, _)) => auth_nids.push(*nid),
                    None => all &= foreign.contains(&id),
                }
            }
            if !all {
                tracing::debug!(room.id = %room_id, event.id = %pdu.event_id(), "left out: not all its auth events are here");
                continue;
            }
            let refused = match auth_ids(version, &pdu).into_iter().find(|id| foreign.contains(id)) {
                Some(id) => Some(of_another_room(&id)),
                None => auth::check_auth_events(version, &pdu, |id| context.get(id).map(|(_, pdu)| pdu.clone())).err(),
            };
            if let Some(why) = &refused {
                tracing::debug!(room.id = %room_id, event.id = %pdu.event_id(), %why, "rejected");
            }
            let pdu = Arc::new(pdu.with_rejected(refused.is_some()));
            let key = match pdu.state_key().filter(|_| pdu.has_sound_names()) {
                Some(state_key) => Some(self.store.intern_key(&pdu.event_type().to_string(), state_key).await?),
                None => None,
            };
            if let Some(nid) = told.get(pdu.event_id()).copied() {
                self.store.judge_outlier(nid, auth_nids, refused.is_some()).await?;
                context.insert(pdu.event_id().to_owned(), (nid, pdu.clone()));
                let standing = if refused.is_some() { Standing::Rejected } else { Standing::Outlier };
                found.insert(pdu.event_id().to_owned(), Outlier { nid, pdu, standing });
                continue;
            }
            let nid = self.store.new_event_nid().await?;
            let sender = self.store.intern_user(pdu.sender()).await?;
            context.insert(pdu.event_id().to_owned(), (nid, pdu.clone()));
            batch.push(NewEvent::outlier(nid, pdu, sender, key, Some(auth_nids), refused.is_some()));
        }
        Ok(batch)
    }
}

/// Why an event is rejected that leans on one of another room ("Authorization rules": `auth_events` are of the same room).
pub(crate) fn of_another_room(id: &EventId) -> NotAllowed {
    NotAllowed(format!("its auth event {id} is of another room"))
}

/// What allows an event: what it names, and since version 12 the create event.
pub(crate) fn auth_ids(version: &RoomVersion, pdu: &Pdu) -> Vec<OwnedEventId> {
    let mut ids = pdu.auth_events().to_vec();
    if version.room_id_is_create_hash()
        && let Some(create) = auth::create_event_id(pdu)
        && create != *pdu.event_id()
        && !ids.contains(&create)
    {
        ids.push(create);
    }
    ids
}
