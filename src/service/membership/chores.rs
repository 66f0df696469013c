//! What follows from events whoever sent them, one thing after the other behind the commits: guests leave a room that is not
//! open to them any longer, who is in the successor of a room already takes along what they keep with the old one, and
//! whoever is out of a room has forgotten it, if the server is to do that.

use std::{collections::VecDeque, sync::Arc};

use hearth_base::{
    Requester, Result,
    ids::{RoomNid, UserNid},
    tasks::Supervisor,
};
use hearth_store::log::{Change, Logged};
use parking_lot::Mutex;
use ruma::{
    OwnedRoomId, UserId,
    events::{TimelineEventType, room::member::MembershipState},
};
use tokio::sync::Notify;

use super::Membership;
use crate::state::Tombstone;

/// Chores waiting; what comes on top of them is not done.
const MAX_WAITING: usize = 10_000;

/// Work that waits.
#[derive(Debug, Default)]
pub(super) struct Chores {
    waiting: Mutex<VecDeque<Chore>>,
    wake: Arc<Notify>,
}

#[derive(Debug)]
enum Chore {
    /// A room may not be open to guests any longer.
    Guests(RoomNid),
    /// A room was replaced by that one.
    Replaced(OwnedRoomId),
    /// One of our users may be out of a room.
    Gone(RoomNid, UserNid),
}

impl Chores {
    fn add(&self, chore: Chore) {
        let mut waiting = self.waiting.lock();
        if waiting.len() < MAX_WAITING {
            waiting.push_back(chore);
            self.wake.notify_one();
        }
    }
}

impl Membership {
    /// Hears of a commit.
    pub fn on_change(&self, logged: &Logged) {
        if self.settings.forget_on_leave {
            self.see_off(&logged.change);
        }
        let Change::Event(event) = &logged.change else { return };
        if event.pdu.state_key() != Some("") {
            return;
        }
        let chore = match event.pdu.event_type() {
            // Those of our users have it done before they are answered.
            TimelineEventType::RoomGuestAccess if event.pdu.sender().server_name() != self.server_name => {
                Chore::Guests(event.room)
            }
            TimelineEventType::RoomTombstone => match event.pdu.content_as::<Tombstone>() {
                Some(tombstone) => Chore::Replaced(tombstone.replacement_room),
                None => return,
            },
            _ => return,
        };
        self.chores.add(chore);
    }

    /// Notes who of ours may be out of a room by a change: by their own doing, by others', or by what another server says of
    /// a room that we are not in.
    fn see_off(&self, change: &Change) {
        match change {
            Change::Event(event) if matches!(&*event.pdu.membership(), "leave" | "ban") => {
                let user = event.pdu.state_key().and_then(|key| <&UserId>::try_from(key).ok());
                let user = user.filter(|user| user.server_name() == self.server_name);
                if let Some(nid) = user.and_then(|user| self.store.known_user(user)) {
                    self.chores.add(Chore::Gone(event.room, nid));
                }
            }
            Change::State { room, changes } => {
                for (user, _) in changes.iter().filter_map(|c| c.member).filter(|(_, ours)| *ours) {
                    self.chores.add(Chore::Gone(*room, user));
                }
            }
            Change::Rooms { user, room } => self.chores.add(Chore::Gone(*room, *user)),
            _ => {}
        }
    }

    /// Starts the task that does the chores.
    pub fn start(self: &Arc<Self>, supervisor: &Supervisor) {
        let (weak, stopping, wake) = (Arc::downgrade(self), supervisor.stopping(), self.chores.wake.clone());
        supervisor.task("membership", move || {
            let (weak, stopping, wake) = (weak.clone(), stopping.clone(), wake.clone());
            async move {
                while let Some(this) = weak.upgrade() {
                    let next = this.chores.waiting.lock().pop_front();
                    if let Some(chore) = next {
                        this.work(chore).await?;
                        continue;
                    }
                    drop(this);
                    tokio::select! {
                        () = stopping.cancelled() => break,
                        () = wake.notified() => {}
                    }
                }
                Ok(())
            }
        });
    }

    async fn work(&self, chore: Chore) -> Result<()> {
        match chore {
            Chore::Guests(room) => self.put_guests_out(room).await,
            Chore::Gone(room, user) => {
                let is_out = |m: &MembershipState| matches!(m, MembershipState::Leave | MembershipState::Ban);
                let membership = self.store.membership(room, user).await?;
                // What is forgotten already is not, again: that would be a change of its own, and so on for ever.
                if membership.is_some_and(|m| is_out(&m.membership) && !m.forgotten) {
                    self.store.forget(room, user).await?;
                }
                Ok(())
            }
            Chore::Replaced(by) => {
                let Some(new) = self.store.room_nid(&by).await? else { return Ok(()) };
                let new = self.state.room_by_nid(new).await?;
                for nid in self.store.joined_here(new.nid).await? {
                    let who = Requester::internal(self.store.user_id(nid).await?, nid);
                    self.follow(&who, &new).await;
                }
                Ok(())
            }
        }
    }
}
