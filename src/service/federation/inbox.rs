//! Events that other servers send us (server-server API, "Transactions", "Checks performed on receipt of a PDU"): sorted
//! by room, checked for form and signatures, their gaps filled ([`gaps`]), and placed ([`placing`]) by [`crate::events`].
//!
//! A room's events are placed one after the other, whoever sends them; nobody is asked anything meanwhile, so that a server
//! that answers slowly delays its own events alone. A bad event costs its sender a sentence in the answer.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, future::BoxFuture, stream};
use hearth_base::{Error, OrNotFound, Result, cache::Lasting, clock::Clock, ids::RoomNid};
use hearth_rules::{event::Pdu, versions::RoomVersion};
use hearth_store::{Store, events::Standing, graph::Known, rooms::Room};
use ruma::{OwnedEventId, OwnedRoomId, RoomId, ServerName};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::{Notify, Semaphore};

use super::{Federation, acl::Acls, joins::Joins, outliers::Outliers, policy::Policy, servers::Servers};
use crate::{events::Events, server_keys::ServerKeys, state::version_of};

mod asking;
mod gaps;
pub mod held;
mod placing;
mod strangers;
mod vain;
mod whole;

use placing::Taken;
pub use whole::Telling;

/// Rooms of one transaction taken in at the same time.
const ROOMS_AT_ONCE: usize = 4;
/// Events looked at of a room that we are not in.
const FROM_OUTSIDE: usize = 10;
/// States fetched at the same time: each may be large.
const HEAVY: usize = 8;

/// Takes in events of other servers.
#[derive(Debug)]
pub struct Inbox {
    store: Store,
    events: Arc<Events>,
    server_keys: Arc<ServerKeys>,
    federation: Arc<Federation>,
    outliers: Arc<Outliers>,
    acls: Arc<Acls>,
    joins: Arc<Joins>,
    servers: Arc<Servers>,
    policy: Arc<Policy>,
    /// One write at a time in a room.
    lanes: Lasting<RoomNid, Arc<tokio::sync::Mutex<()>>>,
    heavy: Semaphore,
    vain: vain::Vain,
    strangers: strangers::Asked,
    clock: Clock,
    /// Rings when events are held, or are to be tried again.
    held: Notify,
    /// What held events follow; forgotten when nothing is held any more.
    awaited: parking_lot::Mutex<HashSet<OwnedEventId>>,
}

/// What became of each event of a transaction: taken in, or why not.
pub type Answers = BTreeMap<OwnedEventId, std::result::Result<(), Refused>>;

/// Why an event was not taken in, as its sender is told ("PDU Processing Result").
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// For who is kept out of the room: `M_FORBIDDEN`, as any other request of theirs is answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errcode: Option<&'static str>,
    /// In a sentence.
    pub error: String,
}

impl From<String> for Refused {
    fn from(error: String) -> Self {
        Self { errcode: None, error }
    }
}

/// Those of some events that we have, placed or not.
type KnownEvents = HashMap<OwnedEventId, Known>;

/// How events came to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    /// Their server tells everybody in the room.
    News,
    /// News that was held: it is taken in without what nobody gives.
    Held,
    /// Only we were told (`send_join` and its like).
    ToldToUs,
    /// Asked for, as history.
    History,
}

impl Inbox {
    /// Made once.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "explicit dependencies")]
    pub fn new(
        store: Store,
        events: Arc<Events>,
        server_keys: Arc<ServerKeys>,
        federation: Arc<Federation>,
        outliers: Arc<Outliers>,
        acls: Arc<Acls>,
        joins: Arc<Joins>,
        servers: Arc<Servers>,
        policy: Arc<Policy>,
        clock: Clock,
    ) -> Self {
        let lanes = Lasting::idle(10_000, Duration::from_secs(600));
        let heavy = Semaphore::new(HEAVY);
        let held = Notify::new();
        Self {
            store,
            events,
            server_keys,
            federation,
            outliers,
            acls,
            joins,
            servers,
            policy,
            lanes,
            heavy,
            vain: vain::Vain::new(),
            strangers: strangers::Asked::default(),
            clock,
            held,
            awaited: parking_lot::Mutex::default(),
        }
    }

    /// Takes in the events of a transaction. Those whose form is so broken that they have no id are not answered.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn receive(&self, origin: &ServerName, pdus: Vec<Box<RawValue>>) -> Result<Answers> {
        #[derive(Deserialize)]
        struct Where {
            room_id: Option<OwnedRoomId>,
        }
        let mut rooms: BTreeMap<OwnedRoomId, Vec<Box<RawValue>>> = BTreeMap::new();
        for pdu in pdus {
            // Create events of version 12 name no room; nobody is in a room whose create event they do not have.
            if let Ok(Where { room_id: Some(room_id) }) = serde_json::from_str(pdu.get()) {
                rooms.entry(room_id).or_default().push(pdu);
            }
        }
        // Boxed: the compiler cannot see by itself that such a future may be sent to another thread.
        let of_room = |(room_id, pdus): (OwnedRoomId, _)| -> BoxFuture<'_, Result<Answers>> {
            Box::pin(async move { Ok(self.receive_in(origin, &room_id, pdus, Sort::News).await?.answers) })
        };
        let done: Vec<Result<Answers>> =
            stream::iter(rooms).map(of_room).buffer_unordered(ROOMS_AT_ONCE).collect().await;
        let mut answers = Answers::new();
        for of_room in done {
            match of_room {
                Ok(of_room) => answers.extend(of_room),
                // What is wrong with events of one room stops neither the other rooms nor what is no event.
                Err(e) if e.is_final() => tracing::warn!(server = %origin, error = %e, "events could not be taken in"),
                Err(e) => return Err(e),
            }
        }
        Ok(answers)
    }

    /// Takes in events of one room. Those that wait for what they follow are held, and named beside the answers.
    async fn receive_in(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        raw: Vec<Box<RawValue>>,
        sort: Sort,
    ) -> Result<Taken> {
        let mut answers = Answers::new();
        let Some(room) = self.known_room(room_id).await? else {
            return Ok(Taken { answers: self.hear_from_outside(room_id, raw).await?, ..Taken::default() });
        };
        let version = version_of(&room)?;
        let admitted = self.acls.allows(room.nid, origin).await?;
        let mut events = Vec::new();
        let mut malformed = Answers::new();
        for pdu in raw {
            match Pdu::parse_remote(pdu.get(), version) {
                Ok(event) if !admitted => {
                    let error = format!("{origin} is not admitted to this room");
                    let why = Refused { errcode: Some("M_FORBIDDEN"), error };
                    drop(answers.insert(event.claimed().event_id().to_owned(), Err(why)));
                }
                Ok(event)
                    if event.claimed().room_id() == room_id && self.is_before_us(&room, event.claimed()).await? =>
                {
                    let why = "it is older than this server's time in the room".to_owned();
                    drop(answers.insert(event.claimed().event_id().to_owned(), Err(why.into())));
                }
                Ok(event) if event.claimed().room_id() == room_id => events.push(event),
                Ok(event) => {
                    let why = "of another room".to_owned();
                    drop(answers.insert(event.claimed().event_id().to_owned(), Err(why.into())));
                }
                Err(e) => {
                    tracing::debug!(server = %origin, room.id = %room_id, error = %e, "a malformed event");
                    malformed
                        .extend(Pdu::id_of_malformed(pdu.get(), version).map(|id| (id, Err(e.to_string().into()))));
                }
            }
        }
        let known = self.known(&room, events.iter().map(|e| e.claimed())).await?;
        let mut seen = HashSet::new();
        events.retain(|event| {
            let id = event.claimed().event_id();
            let placed = known.get(id).is_some_and(|k| k.standing != Standing::Outlier);
            if placed {
                answers.insert(id.to_owned(), Ok(()));
            }
            !placed && seen.insert(id.to_owned())
        });
        let ids: Vec<OwnedEventId> = events.iter().map(|e| e.claimed().event_id().to_owned()).collect();
        let sent: HashSet<OwnedEventId> = ids.iter().cloned().collect();
        let mut good = Vec::with_capacity(events.len());
        for (id, verified) in ids.into_iter().zip(self.server_keys.verify(events, version).await?) {
            match verified {
                Ok(pdu) => good.push(pdu),
                Err(e) => drop(answers.insert(id, Err(told(&e).into()))),
            }
        }
        let mut taken = self.take_in(origin, &room, version, (good, known), sort).await?;
        self.hasten(&room, &taken.answers).await?;
        self.hold(origin, &room, &taken.wait).await?;
        // What filled their gaps was not in the transaction.
        taken.answers.retain(|id, _| sent.contains(id));
        taken.answers.append(&mut answers);
        // A twin of a good event may differ in what makes no part of its id.
        for (id, why) in malformed {
            taken.answers.entry(id).or_insert(why);
        }
        Ok(taken)
    }

    /// Events of a room that we are not in (any more): an invite that is withdrawn, a knock that is refused. To all else
    /// there is nothing to say, and the sender finds out by our leave.
    async fn hear_from_outside(&self, room_id: &RoomId, raw: Vec<Box<RawValue>>) -> Result<Answers> {
        let mut answers = Answers::new();
        let Some(nid) = self.store.room_nid(room_id).await? else { return Ok(answers) };
        let Some(room) = self.store.room(nid).await? else { return Ok(answers) };
        let version = version_of(&room)?;
        let parsed = raw.iter().filter_map(|pdu| Pdu::parse_remote(pdu.get(), version).ok());
        let mut events = Vec::new();
        for event in parsed.filter(|e| e.claimed().room_id() == room_id).take(FROM_OUTSIDE) {
            // Only those are worth a check of signatures.
            if self.joins.may_withdraw(&room, event.claimed()).await?.is_some() {
                events.push(event);
            }
        }
        for pdu in self.server_keys.verify(events, version).await?.into_iter().flatten() {
            let event_id = pdu.event_id().to_owned();
            if self.joins.withdrawn(&room, Arc::new(pdu)).await? {
                answers.insert(event_id, Ok(()));
            }
        }
        Ok(answers)
    }

    /// Places one event whose signatures are good: a join that another server had us sign, an invite that it signed.
    ///
    /// # Errors
    /// 403 if the room's rules refuse it; if the database fails.
    pub async fn place(&self, origin: &ServerName, room: RoomNid, pdu: Pdu) -> Result<()> {
        let room = self.store.room(room).await?.or_not_found("Room")?;
        let version = version_of(&room)?;
        let event_id = pdu.event_id().to_owned();
        let known = self.known(&room, [&pdu]).await?;
        if known.values().any(|k| k.standing != Standing::Outlier) {
            return Ok(());
        }
        let mut taken = self.take_in(origin, &room, version, (vec![pdu], known), Sort::ToldToUs).await?;
        match taken.answers.remove(&event_id) {
            Some(Ok(())) => Ok(()),
            Some(Err(why)) => Err(Error::forbidden(why.error)),
            None => Err(Error::forbidden("The event could not be placed")),
        }
    }

    /// Takes in history that another server handed out: part of the timeline, no news. Only what leads to `from` is
    /// history; whatever else it hands out would go past the checks on news.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn take_in_history(
        &self,
        origin: &ServerName,
        room: RoomNid,
        from: &[OwnedEventId],
        raw: Vec<Box<RawValue>>,
    ) -> Result<usize> {
        let room = self.store.room(room).await?.or_not_found("Room")?;
        let version = version_of(&room)?;
        let (good, known) = self.verified(&room, version, raw).await?;
        let taken = self.take_in(origin, &room, version, (leading_to(from, good), known), Sort::History).await?;
        Ok(taken.answers.values().filter(|a| a.is_ok()).count())
    }

    /// The room, if one of our users is joined to it.
    async fn known_room(&self, room_id: &RoomId) -> Result<Option<Arc<Room>>> {
        let Some(nid) = self.store.room_nid(room_id).await? else { return Ok(None) };
        if !self.store.is_resident(nid).await? {
            return Ok(None);
        }
        self.store.room(nid).await
    }

    /// Whether an event lies before our time in the room. As news it would be an end of the room, and bring back the state
    /// that stood there. What follows what we have does not lie before it, whatever its depth says.
    async fn is_before_us(&self, room: &Room, event: &Pdu) -> Result<bool> {
        if !room.head.is_before(event.depth()) {
            return Ok(false);
        }
        let prevs = event.prev_events();
        let known = self.store.events_by_id(prevs).await?;
        let placed =
            |id: &OwnedEventId| known.iter().any(|e| e.room == room.nid && e.after.is_some() && e.event_id() == id);
        Ok(prevs.is_empty() || !prevs.iter().all(placed))
    }

    /// Which of these events we have, as far as is asked for ([`Store::may_have`]).
    async fn known(&self, room: &Room, events: impl IntoIterator<Item = &Pdu>) -> Result<KnownEvents> {
        let may_be = |e: &&Pdu| self.store.may_have(room, e.event_id(), e.depth());
        let ids: Vec<OwnedEventId> = events.into_iter().filter(may_be).map(|e| e.event_id().to_owned()).collect();
        self.store.known_events(&ids).await
    }

    /// Those of these events that are of the room, that we have not placed yet, and whose signatures are good; and which
    /// of them we know.
    async fn verified(
        &self,
        room: &Room,
        version: &'static RoomVersion,
        raw: Vec<Box<RawValue>>,
    ) -> Result<(Vec<Pdu>, KnownEvents)> {
        let mut events = Vec::new();
        let mut seen = HashSet::new();
        for pdu in raw {
            if let Ok(event) = Pdu::parse_remote(pdu.get(), version)
                && event.claimed().room_id() == room.room_id
                && seen.insert(event.claimed().event_id().to_owned())
            {
                events.push(event);
            }
        }
        let known = self.store.known_events(&seen.into_iter().collect::<Vec<_>>()).await?;
        events.retain(|e| known.get(e.claimed().event_id()).is_none_or(|k| k.standing == Standing::Outlier));
        let verified = self.server_keys.verify(events, version).await?;
        Ok((verified.into_iter().flatten().collect(), known))
    }
}

/// Those of the events that are `from`, or lie before it with no hole between.
fn leading_to(from: &[OwnedEventId], events: Vec<Pdu>) -> Vec<Pdu> {
    let mut events: HashMap<OwnedEventId, Pdu> = events.into_iter().map(|e| (e.event_id().to_owned(), e)).collect();
    let mut next: Vec<OwnedEventId> = from.to_vec();
    let mut found = Vec::with_capacity(events.len());
    while let Some(id) = next.pop() {
        if let Some(event) = events.remove(&id) {
            next.extend(event.prev_events().iter().cloned());
            found.push(event);
        }
    }
    found
}

/// What the sender of an event is told.
fn told(e: &Error) -> String {
    match e {
        Error::Told(_) => e.to_string(),
        Error::Fault(_) => "it could not be checked".to_owned(),
    }
}
