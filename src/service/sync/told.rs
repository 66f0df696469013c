//! Which members a device has been told of, so that those who speak again are not told again (spec: "Lazy-loading room
//! members", `include_redundant_members`).
//!
//! Noted is under which answer a member was told, and only an answer that the client goes on from counts: one that was lost
//! on the way is told again. What is forgotten, by lack of room or by a restart, is told once more than need be.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use hearth_base::{
    cache::Lasting,
    ids::{EventNid, RoomNid, StreamPos, UserNid},
};

use super::Turn;

/// Members remembered for all devices together, and for how long.
const MEMBERS: u64 = 100_000;
const DEVICES: u64 = 20_000;
const KEPT: Duration = Duration::from_secs(3600);

/// A device of a user; of its id the hash, which is as good as the id here.
type Device = (UserNid, u64);

/// What devices have been told.
pub(crate) struct Told {
    /// The answer in which a device was told of a member event.
    members: Lasting<(Device, EventNid), StreamPos>,
    /// The answer with which a device began: what it was told before is gone from it.
    began: Lasting<Device, StreamPos>,
    /// The answer with which a room began anew on a device that had begun: a room that was left may be gone from it.
    entered: Lasting<(Device, RoomNid), StreamPos>,
    /// The newest answer that a device was given.
    answered: Lasting<Device, StreamPos>,
    /// Between which answers those lie that a device may never have had: after the first, up to the second.
    lost: Lasting<Device, (StreamPos, StreamPos)>,
    hasher: RandomState,
}

/// One device in one answer, about one room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listener {
    device: Device,
    began: StreamPos,
    since: StreamPos,
    now: StreamPos,
    lost: (StreamPos, StreamPos),
}

impl Told {
    pub(super) fn new() -> Self {
        let members = Lasting::idle(MEMBERS, KEPT);
        let began = Lasting::idle(DEVICES, KEPT);
        let entered = Lasting::idle(DEVICES, KEPT);
        let answered = Lasting::idle(DEVICES, KEPT);
        let lost = Lasting::idle(DEVICES, KEPT);
        Self { members, began, entered, answered, lost, hasher: RandomState::new() }
    }

    /// Who listens to what is told of a room; `None` for who has no device, or wants to be told everything again.
    pub(super) fn listener(&self, turn: &Turn<'_>, room: RoomNid) -> Option<Listener> {
        let device = self.device(turn)?;
        let (since, now) = (turn.after(), turn.now.pos);
        let began = match turn.since {
            Some(_) => self.began.get_with(device, || now),
            None => {
                self.began.insert(device, now);
                now
            }
        };
        let began = self.entered.get(&(device, room)).map_or(began, |entered| entered.max(began));
        let lost = self.lost.get(&device).unwrap_or((StreamPos::ZERO, StreamPos::ZERO));
        Some(Listener { device, began, since, now, lost })
    }

    fn device(&self, turn: &Turn<'_>) -> Option<Device> {
        let filter = &turn.ask.filter.state;
        if !filter.lazy_members || filter.redundant_members {
            return None;
        }
        let id = turn.who.device_id.as_ref()?;
        Some((turn.who.user_nid, self.hasher.hash_one(id.as_str())))
    }

    /// Begins an answer. A device that does not go on from the newest it was given may have lost that, and what it was told
    /// with it: a later answer looks as if it had come after all.
    pub(super) fn begin(&self, turn: &Turn<'_>) {
        let Some(device) = self.device(turn).filter(|_| turn.since.is_some()) else { return };
        let Some(newest) = self.answered.get(&device).filter(|newest| *newest > turn.after()) else { return };
        // The very answer that was given before is given once more if nothing has happened.
        let upto = if newest == turn.now.pos { StreamPos(newest.0 - 1) } else { newest };
        let (first, last) = self.lost.get(&device).unwrap_or((turn.after(), upto));
        self.lost.insert(device, (first.min(turn.after()), last.max(upto)));
    }

    /// Notes that an answer is given.
    pub(super) fn end(&self, turn: &Turn<'_>) {
        if let Some(device) = self.device(turn) {
            self.answered.insert(device, turn.now.pos);
        }
    }

    /// Notes that a room begins anew on a device with this answer.
    pub(super) fn enter(&self, turn: &Turn<'_>, room: RoomNid) {
        if turn.since.is_some()
            && let Some(who) = self.listener(turn, room)
        {
            self.entered.insert((who.device, room), who.now);
        }
    }

    /// Whether the device has that member event already.
    pub(super) fn has(&self, who: &Listener, member: EventNid) -> bool {
        let told = self.members.get(&(who.device, member));
        told.is_some_and(|told| who.began <= told && told <= who.since && !(who.lost.0 < told && told <= who.lost.1))
    }

    /// Notes that a device is told of member events with this answer.
    pub(super) fn note(&self, who: &Listener, members: impl Iterator<Item = EventNid>) {
        for member in members {
            if !self.has(who, member) {
                self.members.insert((who.device, member), who.now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(began: i64, since: i64, now: i64) -> Listener {
        let at = StreamPos;
        let lost = (at(0), at(0));
        Listener { device: (UserNid(1), 7), began: at(began), since: at(since), now: at(now), lost }
    }

    #[test]
    fn what_was_told_counts_when_the_client_goes_on_from_it() {
        let (told, member) = (Told::new(), EventNid(5));
        let first = listener(10, 0, 10);
        assert!(!told.has(&first, member));
        told.note(&first, [member].into_iter());
        assert!(told.has(&listener(10, 10, 12), member));
        assert!(!told.has(&listener(10, 9, 12), member), "the answer was lost");
        assert!(!told.has(&listener(11, 11, 12), member), "the client has begun anew");
        assert!(!told.has(&listener(10, 10, 12), EventNid(6)));
        let lost = Listener { lost: (StreamPos(9), StreamPos(11)), ..listener(10, 10, 12) };
        assert!(!told.has(&lost, member), "the answer may have been lost, though a later one was not");
        let other = Listener { device: (UserNid(1), 8), ..listener(10, 10, 12) };
        assert!(!told.has(&other, member));
    }

    #[test]
    fn being_told_again_does_not_move_the_answer_on() {
        let (told, member) = (Told::new(), EventNid(5));
        told.note(&listener(10, 0, 10), [member].into_iter());
        told.note(&listener(10, 10, 20), [member].into_iter());
        assert!(told.has(&listener(10, 10, 25), member));
    }
}
