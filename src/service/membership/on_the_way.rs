//! Users on their way into a room, who may take another name or avatar meanwhile: they are not in the room yet when that is
//! shown in all of theirs, and what says who they are is on its way.

use std::collections::HashMap;

use hearth_base::{Requester, ids::UserNid};
use parking_lot::Mutex;
use ruma::RoomId;

use super::Membership;

/// Who is on their way.
#[derive(Debug, Default)]
pub(super) struct OnTheWay(Mutex<HashMap<UserNid, Way>>);

#[derive(Debug, Default)]
struct Way {
    /// Rooms they are about to come into.
    rooms: usize,
    /// Whether a name or avatar was taken since they set out.
    renamed: bool,
}

/// A user on their way into a room; no longer when this is dropped.
#[derive(Debug)]
pub struct Coming<'a> {
    all: &'a OnTheWay,
    user: UserNid,
}

impl Coming<'_> {
    fn is_renamed(&self) -> bool {
        self.all.0.lock().get(&self.user).is_some_and(|way| way.renamed)
    }
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        let mut all = self.all.0.lock();
        if let Some(way) = all.get_mut(&self.user) {
            way.rooms = way.rooms.saturating_sub(1);
            if way.rooms == 0 {
                all.remove(&self.user);
            }
        }
    }
}

impl OnTheWay {
    /// Notes that a user has taken another name or avatar.
    pub(super) fn renamed(&self, user: UserNid) {
        if let Some(way) = self.0.lock().get_mut(&user) {
            way.renamed = true;
        }
    }
}

impl Membership {
    /// A user sets out for a room: to be said before their profile is read for it.
    pub(crate) fn sets_out(&self, user: UserNid) -> Coming<'_> {
        self.on_the_way.0.lock().entry(user).or_default().rooms += 1;
        Coming { all: &self.on_the_way, user }
    }

    /// The user is in the room: a name or avatar that they took on the way is shown there. That it fails is no reason not to
    /// be in the room.
    pub(crate) async fn arrives(&self, coming: Coming<'_>, who: &Requester, room_id: &RoomId) {
        if !coming.is_renamed() {
            return;
        }
        let shown = async { self.show_profile(who, &*self.state.room(room_id).await?).await };
        if let Err(e) = shown.await {
            tracing::warn!(room.id = %room_id, error = %e, "a name taken meanwhile could not be shown in a room");
        }
    }
}
