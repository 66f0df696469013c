//! Sends, redacts and reads single events. Owns the rooms' lanes; what is committed is told by the store's log.

use std::{sync::Arc, time::Duration};

use hearth_base::{
    Error, OrNotFound, Requester, Result,
    cache::Lasting,
    clock::Clock,
    ids::{RoomNid, UserNid},
    tasks::Supervisor,
};
use hearth_rules::event::{Draft, Signer, redaction};
use hearth_store::{
    Store,
    events::{Append, StoredEvent},
    rooms::Room,
    state::SnapRow,
};
use ruma::{EventId, OwnedEventId, OwnedServerName, RoomId, events::TimelineEventType};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{federation::policy::Policy, push::Push, relations, state::State};

mod allowed;
mod arrivals;
mod before;
mod ends;
mod heads;
pub mod lane;
mod noted;
mod offers;
mod redactions;
mod restate;
pub(crate) mod sense;
mod unheard;

pub use arrivals::{Arrival, Arrived};
pub use ends::says_nothing;
pub use heads::Entry;
use heads::too_busy;
use lane::{Builder, Head, Lane, Staged, Step};
pub use lane::{Redaction, With};
pub use restate::{Restating, Told};
use sense::{check_names, check_txn_id};

/// How often an event is built again when the room keeps moving.
const ATTEMPTS: usize = 8;

/// Sends and reads events.
pub struct Events {
    store: Store,
    state: Arc<State>,
    push: Arc<Push>,
    policy: Arc<Policy>,
    signer: Arc<Signer>,
    server_name: OwnedServerName,
    clock: Clock,
    supervisor: Supervisor,
    lanes: Lasting<RoomNid, Arc<Lane>>,
    /// One reaction at a time of a user in a room; an equal one finds it given.
    annotating: Lasting<(UserNid, RoomNid), Arc<tokio::sync::Mutex<()>>>,
    /// Rooms whose branches nobody of ours could bring together lately.
    torn: Lasting<RoomNid, ()>,
    /// Transactions committed or on their way, so that a repetition costs no write and waits for the first. The unique
    /// index of the table stands behind it.
    txns: moka::future::Cache<Txn, OwnedEventId>,
}

/// Sender, room, device, transaction id.
type Txn = (UserNid, RoomNid, String, String);

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Events({} lanes)", self.lanes.len())
    }
}

/// An event asked for by a client.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// Its type.
    pub event_type: TimelineEventType,
    /// Its state key, if it is state.
    pub state_key: Option<String>,
    /// Its content as the client sent it.
    pub content: &'a RawValue,
    /// Transaction id of the client.
    pub txn_id: Option<String>,
    /// When it was sent, ms; appservices may say.
    pub timestamp: Option<u64>,
}

impl Events {
    /// Made once.
    #[must_use]
    pub fn new(
        store: Store,
        state: Arc<State>,
        push: Arc<Push>,
        policy: Arc<Policy>,
        signer: Arc<Signer>,
        clock: Clock,
        supervisor: Supervisor,
    ) -> Self {
        Self {
            store,
            state,
            push,
            policy,
            server_name: signer.server_name().to_owned(),
            signer,
            clock,
            supervisor,
            lanes: Lasting::idle(10_000, Duration::from_secs(900)),
            annotating: Lasting::idle(10_000, Duration::from_secs(60)),
            torn: Lasting::new(10_000, Duration::from_secs(600)),
            txns: moka::future::Cache::builder().max_capacity(20_000).time_to_live(Duration::from_secs(3600)).build(),
        }
    }

    /// Sends a message or state event. A repeated transaction id gives the first event's id; a state event that changes
    /// nothing gives the id of the one that stands.
    ///
    /// # Errors
    /// 403 if not allowed, 400/413 if it cannot be an event.
    pub async fn send(self: &Arc<Self>, who: &Requester, room_id: &RoomId, out: Outgoing<'_>) -> Result<OwnedEventId> {
        check_names(&out)?;
        // What was made of ruma's types for messages alone, or for state alone, hides the well-known types of the other
        // sort as custom ones, to which no rule applies.
        let out = Outgoing { event_type: TimelineEventType::from(out.event_type.to_string()), ..out };
        if out.state_key.is_none() && out.event_type == TimelineEventType::RoomRedaction {
            // Redactions may also be sent as ordinary events (spec v1.18, "Sending events to a room").
            #[derive(Deserialize)]
            struct Redacts {
                redacts: OwnedEventId,
            }
            let target: Redacts = serde_json::from_str(out.content.get())
                .map_err(|_| Error::bad_json("A redaction names the event it redacts in `redacts`"))?;
            return self.redact_under(out.txn_id, who, room_id, &target.redacts, Some(out.content)).await;
        }
        check_may_write(who)?;
        let room = self.known_room(room_id).await?;
        if let Some(done) = self.sent_before(who, room, out.txn_id.as_deref()).await {
            return Ok(done);
        }
        self.check_sense(room_id, room, &out).await?;
        let is_state = out.state_key.is_some();
        let _one = match out.event_type {
            TimelineEventType::Reaction => {
                Some(self.annotating.get_with((who.user_nid, room), Arc::default).lock_owned().await)
            }
            _ => None,
        };
        if !is_state {
            relations::check(&self.store, room, who.user_nid, &out.event_type, out.content.get()).await?;
        }
        let draft = Draft::new(
            Some(room_id.to_owned()),
            who.user_id.clone(),
            out.event_type,
            out.state_key,
            out.content,
            out.timestamp.unwrap_or_else(|| self.clock.now_ms()),
        )?;
        let with = With { txn: txn_of(who, out.txn_id), dedupe: is_state, ..With::default() };
        self.append(room, who.user_nid, draft, with).await
    }

    /// Redacts an event. Transaction ids are apart from those of [`Self::send`]: they are of another endpoint (spec:
    /// "Transaction identifiers").
    ///
    /// # Errors
    /// 403 if the requester may not redact it, 404 if the room has no such event that we know of and they may not redact all.
    pub async fn redact(
        self: &Arc<Self>,
        who: &Requester,
        room_id: &RoomId,
        target: &EventId,
        txn_id: Option<String>,
        content: Option<&RawValue>,
    ) -> Result<OwnedEventId> {
        check_txn_id(txn_id.as_deref())?;
        self.redact_under(txn_id.map(sense::of_redact), who, room_id, target, content).await
    }

    async fn redact_under(
        self: &Arc<Self>,
        txn_id: Option<String>,
        who: &Requester,
        room_id: &RoomId,
        target: &EventId,
        content: Option<&RawValue>,
    ) -> Result<OwnedEventId> {
        let nid = self.known_room(room_id).await?;
        if let Some(done) = self.sent_before(who, nid, txn_id.as_deref()).await {
            return Ok(done);
        }
        let room = self.state.room_by_nid(nid).await?;
        // Of a room that we only heard of there is no state to judge by.
        if room.head.extremities.is_empty() {
            return Err(Error::forbidden("You are not a member of this room"));
        }
        let event = self.store.event_by_id(target).await?;
        // What they said themselves they may take back (spec: "Account suspension").
        if event.as_ref().is_none_or(|e| e.pdu.sender() != who.user_id) {
            check_may_write(who)?;
        }
        if event.as_ref().is_some_and(|e| e.room != nid) {
            let levels = self.state.power_levels(&room).await?;
            // Who may redact nothing of others here is not told either that it is elsewhere.
            return Err(match levels.can(&who.user_id, levels.redact) {
                true => Error::invalid_param("The event is not of this room"),
                false => Error::not_found("Event not found"),
            });
        }
        // What has no place in the room is to us as if it were not here.
        let event = event.filter(|e| e.pos.is_some());
        if event.as_ref().is_some_and(|e| *e.pdu.event_type() == TimelineEventType::RoomCreate) {
            return Err(Error::forbidden("The create event cannot be redacted"));
        }
        if event.as_ref().is_none_or(|e| e.pdu.sender() != who.user_id) {
            let levels = self.state.power_levels(&room).await?;
            if !levels.can(&who.user_id, levels.redact) {
                // Who may redact anything may redact what others have and we do not.
                event.as_ref().or_not_found("Event")?;
                return Err(Error::forbidden("You may not redact other people's events in this room"));
            }
        }
        let version = crate::state::version_of(&room)?;
        let remains = |e: Arc<StoredEvent>| {
            redaction::redact(e.pdu.json(), version).map(|json| Redaction { target: e.nid, json })
        };
        let remains = event.map(remains).transpose()?;
        let empty = RawValue::from_string("{}".to_owned()).map_err(|e| Error::fault("empty content", e))?;
        let draft = Draft::new(
            Some(room_id.to_owned()),
            who.user_id.clone(),
            TimelineEventType::RoomRedaction,
            None,
            content.unwrap_or(&empty),
            self.clock.now_ms(),
        )?
        .redacting(target.to_owned());
        let with = With { txn: txn_of(who, txn_id), redaction: remains, ..With::default() };
        self.append(nid, who.user_nid, draft, with).await
    }

    /// Appends one event of our own to a room and waits until it is durable. Runs to its end even if the caller goes.
    ///
    /// # Errors
    /// As the room's rules and the database have it.
    pub async fn append(
        self: &Arc<Self>,
        room: RoomNid,
        sender: UserNid,
        draft: Draft,
        with: With,
    ) -> Result<OwnedEventId> {
        let key = with.txn.clone().map(|(device, txn_id)| (sender, room, device, txn_id));
        let this = self.clone();
        let work = async move {
            let supervisor = this.supervisor.clone();
            supervisor.job(async move { this.append_now(room, sender, &draft, with).await }).await
        };
        // The cache makes a future twice as large of what it is given.
        let work = Box::pin(work);
        match key {
            None => work.await,
            Some(key) => self.txns.try_get_with(key, work).await.map_err(shared),
        }
    }

    async fn append_now(&self, room: RoomNid, sender: UserNid, draft: &Draft, with: With) -> Result<OwnedEventId> {
        let lane = self.lanes.get_with(room, Arc::default);
        for _ in 0..ATTEMPTS {
            let mut newest = lane.newest.lock().await;
            if newest.head.is_none() {
                newest.head = Some(Head::read(&self.store, room).await?);
            }
            let Some(head) = newest.head.clone() else { return Err(Error::broken("a lane without a head")) };
            if let Some(server) = self.policy_server(&head, draft).await? {
                drop(newest);
                return Box::pin(self.append_signed(room, sender, draft, with, &server)).await;
            }
            let epoch = newest.epoch;
            let on_rev = head.room.head.rev;
            let mut staged = Staged::on(head, Some(on_rev));
            if let Step::Same(event_id) = staged.push(&self.builder(), sender, draft, with.clone()).await? {
                return Ok(event_id);
            }
            let event_id = staged
                .events
                .last()
                .map(|e| e.pdu.event_id().to_owned())
                .ok_or_else(|| Error::broken("nothing staged"))?;
            let (head, append) = staged.into_append();
            let committed = self.store.enqueue(append).await?;
            newest.head = Some(head);
            drop(newest);
            match self.settled(&lane, epoch, committed).await {
                Ok(true) => return Ok(event_id),
                Ok(false) => {}
                Err(e) => return self.done_before(sender, room, &with).await.ok_or(e),
            }
        }
        Err(too_busy())
    }

    /// The event that was sent under the same transaction id: the table refuses another.
    async fn done_before(&self, sender: UserNid, room: RoomNid, with: &With) -> Option<OwnedEventId> {
        let (device, txn_id) = with.txn.as_ref()?;
        let done = self.store.event_by_txn(sender, room, device, txn_id).await.ok().flatten()?;
        Some(done.event_id().to_owned())
    }

    /// Builds the first events of a new room; nothing is written yet. Gives what [`Store`] is to append.
    ///
    /// The room's id is taken from the create event (since version 12 it follows from it); `rest` makes the other events.
    ///
    /// # Errors
    /// As the room's rules have it: 400/403 for initial state that cannot stand.
    pub async fn first_events(
        &self,
        room: Room,
        create: Draft,
        rest: impl FnOnce(&RoomId) -> Result<Vec<(UserNid, Draft)>>,
    ) -> Result<Append> {
        let version = crate::state::version_of(&room)?;
        let creator = room.creator;
        let (head, empty): (Head, SnapRow) = Head::first(room, version);
        self.store.remember_state(&head.state);
        let mut staged = Staged::on(head, None);
        staged.snaps.push(empty);
        staged.push(&self.builder(), creator, &create, With::default()).await?;
        if let Some(event) = staged.events.first() {
            staged.head.room.room_id = event.pdu.room_id().to_owned();
        }
        let drafts = rest(&staged.head.room.room_id)?;
        for (sender, draft) in &drafts {
            staged.push(&self.builder(), *sender, draft, With::default()).await?;
        }
        Ok(staged.into_append().1)
    }

    /// What an event of ours would be signed with, for the create event of version 12, whose id is the room's.
    #[must_use]
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    fn builder(&self) -> Builder<'_> {
        let Self { store, signer, server_name, push, state, .. } = self;
        Builder { store, signer, server_name, push, state }
    }

    /// The event a device sent under this transaction id, if it did.
    async fn sent_before(&self, who: &Requester, room: RoomNid, txn_id: Option<&str>) -> Option<OwnedEventId> {
        let (device, txn_id) = (who.device_id.as_ref()?, txn_id?);
        self.txns.get(&(who.user_nid, room, device.to_string(), txn_id.to_owned())).await
    }

    /// A room to write to. Rooms we do not know answer like rooms one is not in.
    async fn known_room(&self, room_id: &RoomId) -> Result<RoomNid> {
        self.store.room_nid(room_id).await?.ok_or_else(|| Error::forbidden("You are not a member of this room"))
    }

    /// The events of the store, for those who only read.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn stored(&self, event_id: &EventId) -> Result<Option<Arc<StoredEvent>>> {
        self.store.event_by_id(event_id).await
    }
}

/// The error of work that several waited for.
fn shared(e: Arc<Error>) -> Error {
    Arc::try_unwrap(e).unwrap_or_else(|e| match &*e {
        Error::Told(told) => Error::Told(told.clone()),
        Error::Fault(fault) if fault.retry => Error::unavailable("append", e.to_string()),
        Error::Fault(_) => Error::fault("append", e.to_string()),
    })
}

fn txn_of(who: &Requester, txn_id: Option<String>) -> Option<(String, String)> {
    Some((who.device_id.as_ref()?.to_string(), txn_id?))
}

/// Suspended accounts read, leave and take back what is theirs; they do not write (spec: "Account suspension").
pub(crate) fn check_may_write(who: &Requester) -> Result<()> {
    if who.is_suspended {
        return Err(Error::told(
            http::StatusCode::FORBIDDEN,
            "M_USER_SUSPENDED",
            "Your account has been suspended and may not do this",
        ));
    }
    Ok(())
}
