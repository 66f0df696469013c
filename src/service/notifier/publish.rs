//! What a commit does to hubs and slots, and whose bells it rings. Runs in the store's writer, between a commit and the
//! answers to those who waited for it: nothing here waits.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hearth_base::{
    ids::{RoomNid, StreamPos, UserNid},
    tasks::Supervisor,
};
use hearth_store::{
    events::{StateChange, StoredEvent},
    log::{Change, Logged},
};
use ruma::{UserId, events::TimelineEventType};

use super::{Notifier, UserSlot};

/// How long an answer takes at most, as a rule, once what it says is committed.
const ANSWERED: Duration = Duration::from_millis(5);

impl Notifier {
    /// Hears of a commit; gives those whose bells are to be rung once the commit can be read. Never waits: the writer
    /// stands behind it.
    pub(super) fn publish(&self, changes: &[Logged]) -> Bells {
        if let Some(last) = changes.last() {
            self.publishing.store(last.pos.0, Ordering::Release);
        }
        for logged in changes {
            for listener in self.listeners.get().into_iter().flatten() {
                listener(logged);
            }
        }
        let mut bells = HashSet::new();
        for logged in changes {
            self.take_in(logged, &mut bells);
        }
        let senders: HashSet<UserNid> = changes.iter().filter_map(sender).collect();
        // A timer costs more than a bell that nobody hears.
        let is_early = |slot: &Arc<UserSlot>| senders.contains(&slot.nid) && slot.is_waited_for();
        let (later, now) = bells.into_iter().filter_map(|nid| self.slot(nid)).partition(is_early);
        Bells { now, later, supervisor: self.supervisor.clone() }
    }

    fn take_in(&self, logged: &Logged, bells: &mut HashSet<UserNid>) {
        let pos = logged.pos.0;
        match &logged.change {
            Change::Event(event) => self.take_in_event(logged.pos, event, bells),
            Change::State { room, changes } => self.take_in_changes(logged.pos, *room, changes, bells),
            Change::Whole { room, .. } => {
                if let Some(hub) = self.live_hub(*room) {
                    hub.reaches(logged.pos);
                    hub.members_reach(logged.pos);
                    hub.tell(bells);
                }
            }
            Change::Receipt { room, .. } => {
                if let Some(hub) = self.live_hub(*room) {
                    hub.last_receipt.fetch_max(pos, Ordering::AcqRel);
                    hub.tell(bells);
                }
            }
            Change::AccountData { user, .. } => {
                if let Some(slot) = self.slot(*user) {
                    slot.last_own.fetch_max(pos, Ordering::AcqRel);
                    bells.insert(*user);
                }
            }
            Change::Rooms { user, .. } => {
                if let Some(slot) = self.slot(*user) {
                    slot.forget_rooms();
                    slot.last_own.fetch_max(pos, Ordering::AcqRel);
                    bells.insert(*user);
                }
            }
            Change::ToDevice { recipients } => {
                for (user, _) in recipients.iter() {
                    if let Some(slot) = self.slot(*user) {
                        slot.last_to_device.fetch_max(pos, Ordering::AcqRel);
                        bells.insert(*user);
                    }
                }
            }
            Change::DeviceList { user, .. } => {
                self.last_device_list.fetch_max(pos, Ordering::AcqRel);
                self.tell_sharers(*user);
            }
            Change::OwnKeys { user } => {
                self.last_device_list.fetch_max(pos, Ordering::AcqRel);
                if self.slot(*user).is_some() {
                    bells.insert(*user);
                }
            }
        }
    }

    fn take_in_event(&self, pos: StreamPos, event: &StoredEvent, bells: &mut HashSet<UserNid>) {
        let hub = self.live_hub(event.room);
        let member = self.member_target(event);
        if let Some(hub) = &hub {
            hub.push(pos, event.nid);
            if *event.pdu.event_type() == TimelineEventType::RoomMember {
                hub.members_reach(pos);
            }
            hub.tell(bells);
            if let Some((user, here)) = member {
                hub.member_moved(user, here);
            }
        }
        if let Some((user, _)) = member
            && let Some(slot) = self.slot(user)
        {
            slot.forget_rooms();
            slot.last_own.fetch_max(pos.0, Ordering::AcqRel);
            bells.insert(user);
        }
    }

    /// The state changed without an event: memberships are as the changes say.
    fn take_in_changes(&self, pos: StreamPos, room: RoomNid, changes: &[StateChange], bells: &mut HashSet<UserNid>) {
        let hub = self.live_hub(room);
        if let Some(hub) = &hub {
            hub.reaches(pos);
            if changes.iter().any(|change| change.member.is_some()) {
                hub.members_reach(pos);
            }
            hub.tell(bells);
        }
        for change in changes {
            let Some((user, true)) = change.member else { continue };
            if let Some(hub) = &hub {
                hub.member_moved(user, change.new.as_ref().is_some_and(|e| is_here(e)));
            }
            if let Some(slot) = self.slot(user) {
                slot.forget_rooms();
                slot.last_own.fetch_max(pos.0, Ordering::AcqRel);
                bells.insert(user);
            }
        }
    }

    /// Our user whose membership an event changes, and whether they hear of the room from now on.
    fn member_target(&self, event: &StoredEvent) -> Option<(UserNid, bool)> {
        if *event.pdu.event_type() != TimelineEventType::RoomMember {
            return None;
        }
        let user = <&UserId>::try_from(event.pdu.state_key()?).ok()?;
        if user.server_name() != self.server_name {
            return None;
        }
        Some((self.store.known_user(user)?, is_here(event)))
    }

    /// Wakes everybody who shares a room with a user whose keys changed.
    fn tell_sharers(&self, user: UserNid) {
        let store = self.store.clone();
        let slots: Vec<Arc<UserSlot>> = self.users.iter().filter_map(|e| e.value().upgrade()).collect();
        if slots.is_empty() {
            return;
        }
        self.supervisor.detach(async move {
            match store.sharing_rooms_with(user).await {
                Ok(sharers) => {
                    let sharers: HashSet<UserNid> = sharers.into_iter().collect();
                    slots.iter().filter(|s| s.nid == user || sharers.contains(&s.nid)).for_each(|s| s.ring_bell());
                }
                Err(e) => tracing::warn!(error = %e, "cannot tell who shares a room"),
            }
        });
    }
}

/// Who of ours sends an event under a transaction id, and waits for its answer.
fn sender(logged: &Logged) -> Option<UserNid> {
    match &logged.change {
        Change::Event(event) if event.txn_id.is_some() => Some(event.sender),
        _ => None,
    }
}

/// The bells that a commit rings.
pub(super) struct Bells {
    now: Vec<Arc<UserSlot>>,
    /// Of those who are about to be answered: clients know an event of their own by the answer to its request, and some
    /// take it for another's if /sync tells of it first.
    later: Vec<Arc<UserSlot>>,
    supervisor: Supervisor,
}

impl Bells {
    pub(super) fn ring(self) {
        self.now.iter().for_each(|slot| slot.ring_bell());
        if !self.later.is_empty() {
            self.supervisor.detach(async move {
                tokio::time::sleep(ANSWERED).await;
                self.later.iter().for_each(|slot| slot.ring_bell());
            });
        }
    }
}

/// Whether somebody hears of a room after this member event of theirs.
fn is_here(event: &StoredEvent) -> bool {
    matches!(&*event.pdu.membership(), "join" | "invite" | "knock")
}
