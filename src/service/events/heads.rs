//! Writes on the newest head of a room: how each ends, and those that are not events of our own: what other servers sent
//! ([`super::arrivals`]), and the head that a join through another server makes.

use std::{collections::HashMap, sync::Arc};

use hearth_base::{
    Error, Result,
    ids::{EventNid, RoomNid, UserNid},
};
use hearth_store::{
    Store,
    events::{Appended, MemberRow, NewEvent, Part, Standing, StoredEvent, Wholeness},
    rooms::{Extremity, Room},
    state::{RoomState, StateMap},
};
use ruma::{
    ServerName, UserId,
    events::{TimelineEventType, room::member::MembershipState},
};
use tokio::sync::oneshot;

use super::{
    ATTEMPTS, Arrival, Arrived, Events,
    arrivals::{Near, changes},
    lane::{Builder, Head, Lane, Staged, membership_of},
    unheard::ours_who_left,
};
use crate::state::version_of;

/// What is to be built on the newest head of a room.
pub(super) enum Work {
    Receive(Vec<Arrival>),
    Enter(Box<Entry>),
}

/// How we come into a room through another server.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What stood there before the join, or part of it.
    pub state: Vec<EventNid>,
    /// The join.
    pub join: Arrival,
    /// What came with the part; `None` if it is all.
    pub part: Option<Part>,
    /// Events of the state, and of what allows it, that are not stored yet: all there are, or none.
    pub unstored: Vec<NewEvent>,
}

impl Events {
    /// Places events of other servers, each after those before it, in one write; gives what became of each. Runs to its
    /// end even if the caller goes.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn receive(self: &Arc<Self>, room: RoomNid, arrivals: Vec<Arrival>) -> Result<Vec<Arrived>> {
        let this = self.clone();
        self.supervisor.job(async move { this.build(room, Work::Receive(arrivals)).await }).await
    }

    /// Makes the room that we joined through another server: the join is its one extremity then. Whatever we knew of the
    /// room before is overtaken.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn enter(self: &Arc<Self>, room: RoomNid, entry: Entry) -> Result<()> {
        let this = self.clone();
        self.supervisor.job(async move { this.build(room, Work::Enter(Box::new(entry))).await.map(drop) }).await
    }

    /// Makes a room that is not stored yet, nor any event of it ([`Entry::unstored`]), in one write. Runs to its end even
    /// if the caller goes.
    ///
    /// # Errors
    /// If the database fails, or somebody made the room meanwhile.
    pub async fn enter_new(self: &Arc<Self>, room: Room, entry: Entry) -> Result<()> {
        let this = self.clone();
        let enter = async move {
            let version = version_of(&room)?;
            let mut staged = Staged::on(Head::first(room, version).0, None);
            staged.enter(&this.builder(), &entry).await?;
            match this.store.append(staged.into_append().1).await? {
                Appended::Done(_) => Ok(()),
                Appended::Conflict => Err(too_busy()),
            }
        };
        self.supervisor.job(enter).await
    }

    /// Builds a write on the newest head of a room and waits until it is durable; again if the room has moved on.
    pub(super) async fn build(&self, room: RoomNid, work: Work) -> Result<Vec<Arrived>> {
        let lane = self.lanes.get_with(room, Arc::default);
        for _ in 0..ATTEMPTS {
            let mut newest = lane.newest.lock().await;
            if newest.head.is_none() {
                newest.head = Some(Head::read(&self.store, room).await?);
            }
            let Some(head) = newest.head.clone() else { return Err(Error::broken("a lane without a head")) };
            let (epoch, on_rev) = (newest.epoch, head.room.head.rev);
            let mut staged = Staged::on(head, Some(on_rev));
            let mut outcomes = Vec::new();
            match &work {
                Work::Receive(arrivals) => {
                    let mut near = Near::default();
                    for arrival in arrivals {
                        let arrived = staged.receive(&self.builder(), &self.state, &mut near, arrival.clone()).await?;
                        outcomes.push(arrived);
                    }
                }
                Work::Enter(entry) => staged.enter(&self.builder(), entry).await?,
            }
            let (head, append) = staged.into_append();
            let committed = self.store.enqueue(append).await?;
            newest.head = Some(head);
            drop(newest);
            if self.settled(&lane, epoch, committed).await? {
                return Ok(outcomes);
            }
        }
        Err(too_busy())
    }

    /// Waits until a queued write is durable; false if the room had moved on, so that it is to be built again. Whoever
    /// builds next on this lane after anything but a success reads its head again.
    pub(super) async fn settled(
        &self,
        lane: &Lane,
        epoch: u64,
        committed: oneshot::Receiver<Result<Appended>>,
    ) -> Result<bool> {
        let ended = committed.await;
        if let Ok(Ok(Appended::Done(_))) = ended {
            return Ok(true);
        }
        self.start_over(lane, epoch).await;
        match ended {
            Ok(Ok(_)) => Ok(false),
            Ok(Err(e)) => Err(e),
            Err(_) => Err(Error::unavailable("append", "the writer is gone")),
        }
    }

    /// Makes a lane read its head again, unless somebody already had it do so.
    async fn start_over(&self, lane: &Lane, epoch: u64) {
        let mut newest = lane.newest.lock().await;
        if newest.epoch == epoch {
            newest.epoch += 1;
            newest.head = None;
        }
    }
}

/// What is said when a room moved on each time.
pub(super) fn too_busy() -> Error {
    Error::unavailable("append", "the room is too busy")
}

/// Events of a state looked at together.
pub(super) const PART: usize = 1_000;

/// The membership that a member event says.
pub(super) async fn member_row(store: &Store, event: &StoredEvent, ours: &ServerName) -> Result<Option<MemberRow>> {
    if *event.pdu.event_type() != TimelineEventType::RoomMember {
        return Ok(None);
    }
    let Some(user) = event.pdu.state_key().and_then(|key| <&UserId>::try_from(key).ok()) else { return Ok(None) };
    Ok(Some(MemberRow {
        user: store.intern_user(user).await?,
        membership: MembershipState::from(event.pdu.membership().into_owned()),
        event: event.nid,
        local: user.server_name() == ours,
    }))
}

impl Staged {
    /// Puts the head of the room where a join through another server says it is.
    async fn enter(&mut self, cx: &Builder<'_>, entry: &Entry) -> Result<()> {
        let Builder { store, server_name, .. } = *cx;
        let arrival = entry.join.clone();
        let pdu = arrival.pdu.clone();
        let own = match pdu.state_key() {
            Some(state_key) => store.intern_key(&pdu.event_type().to_string(), state_key).await?,
            None => return Err(Error::broken("a join that is not state")),
        };
        let (mut map, mut ours) = (StateMap::new(), Vec::new());
        let mut members: HashMap<UserNid, MemberRow> = HashMap::new();
        // Who was there when we left and is not named any more is gone.
        let were_here = match self.head.room.head.extremities.is_empty() {
            true => Vec::new(),
            false => store.members(self.head.room.nid, &MembershipState::Join).await?,
        };
        for old in were_here {
            let gone =
                MemberRow { user: old.user, membership: MembershipState::Leave, event: old.event, local: old.local };
            members.insert(old.user, gone);
        }
        let mut unstored: HashMap<EventNid, Arc<StoredEvent>> = HashMap::with_capacity(entry.unstored.len());
        for event in &entry.unstored {
            self.head.remember(event.nid, &event.pdu, event.auth.as_deref().unwrap_or_default());
            unstored.insert(event.nid, Arc::new(event.as_outlier(self.head.room.nid)));
        }
        self.events.extend(entry.unstored.iter().cloned());
        for part in entry.state.chunks(PART) {
            let events = match unstored.is_empty() {
                true => store.events(part).await?,
                false => part.iter().filter_map(|nid| unstored.get(nid).cloned()).collect(),
            };
            for event in events {
                let Some(key) = event.key else { continue };
                map.insert(key, event.nid);
                if let Some(row) = member_row(store, &event, server_name).await? {
                    if row.local {
                        ours.push((key, event.nid));
                    }
                    members.insert(row.user, row);
                }
            }
        }
        let sender = store.intern_user(pdu.sender()).await?;
        let unheard = self.unheard(store, server_name, &ours).await?;
        // Who comes back had left, whoever has not heard of it.
        let (had_left, unheard): (Vec<_>, Vec<_>) = unheard.into_iter().partition(|event| event.key == Some(own));
        if entry.part.is_some() {
            self.know_ours(store, &unheard, &mut map, &mut members).await?;
        }
        let replaces = had_left.first().map(|event| event.nid).or(map.get(&own).copied());
        let (before, row) = RoomState::whole(store.new_snap_nid().await?, map);
        self.keep(store, &before, row);
        let (after, row) = before.set(store.new_snap_nid().await?, own, arrival.nid);
        self.keep(store, &after, row);
        self.head.remember(arrival.nid, &pdu, &arrival.auth);
        let depth = i64::try_from(pdu.depth()).unwrap_or(i64::MAX);
        self.missing = arrival.missing.into_iter().map(|id| (id, depth)).collect();
        let mut ends =
            vec![Extremity { nid: arrival.nid, event: pdu.reference(self.head.version), depth, after: after.snap }];
        let mut now = after.clone();
        // What was known in part is no state to resolve with.
        if entry.part.is_none()
            && !self.head.room.head.partial
            && let Some((more, state)) = self.beside(cx, &unheard, std::slice::from_ref(&after.map), &after).await?
            // Whom a server let in is in, as far as it knows.
            && state.map.get(&own) == Some(&arrival.nid)
        {
            self.overtake(cx, &after.map, &state.map, &mut members).await?;
            ends.extend(more);
            now = state;
        }
        members.remove(&sender);
        self.members = members.into_values().collect();
        self.head.state = now.clone();
        let rh = &mut self.head.room.head;
        rh.rev += 1;
        rh.forked = true;
        rh.partial = entry.part.is_some();
        let partial = rh.partial.then_some(rh.rev);
        self.wholeness = Wholeness::Entered(entry.part.clone());
        rh.snap = now.snap;
        (rh.depth, rh.entered) = (depth, depth);
        rh.extremities = ends;
        let counter = rh.counter;
        self.head.reopen(store).await?;
        let membership = membership_of(store, &pdu, server_name, None).await?;
        self.events.push(NewEvent {
            standing: Standing::Live,
            known: arrival.known,
            snap: Some(before.snap),
            after: Some(after.snap),
            counter,
            replaces,
            sets_state: true,
            membership,
            reads: true,
            told: arrival.told,
            partial,
            thread: crate::relations::MAIN.to_owned(),
            ..NewEvent::outlier(arrival.nid, pdu, sender, Some(own), Some(arrival.auth), false)
        });
        Ok(())
    }

    /// Adds what we know of our own users to a state that says little of members, until all of it is there.
    async fn know_ours(
        &self,
        store: &Store,
        unheard: &[Arc<StoredEvent>],
        map: &mut StateMap,
        members: &mut HashMap<UserNid, MemberRow>,
    ) -> Result<()> {
        for event in unheard {
            let Some(key) = event.key else { continue };
            map.insert(key, event.nid);
            if let Some(user) = event.pdu.state_key().and_then(|key| <&UserId>::try_from(key).ok()) {
                // Their row says so already.
                members.remove(&store.intern_user(user).await?);
            }
        }
        for (key, left) in ours_who_left(store, self.head.room.nid).await? {
            map.entry(key).or_insert(left.nid);
        }
        Ok(())
    }

    /// Takes note of members who are something else by all branches of a room than by the one that was told.
    async fn overtake(
        &self,
        cx: &Builder<'_>,
        told: &StateMap,
        now: &StateMap,
        members: &mut HashMap<UserNid, MemberRow>,
    ) -> Result<()> {
        for (_, was, is) in changes(told, now) {
            let Some(event) = cx.store.events(&[is.or(was)].into_iter().flatten().collect::<Vec<_>>()).await?.pop()
            else {
                continue;
            };
            if let Some(mut row) = member_row(cx.store, &event, cx.server_name).await? {
                if is.is_none() {
                    row.membership = MembershipState::Leave;
                }
                members.insert(row.user, row);
            }
        }
        Ok(())
    }
}
