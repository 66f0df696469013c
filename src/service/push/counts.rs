//! Unread counts in memory: a room's totals, and what differs for each of its members that anybody asked about.
//!
//! A member's counts are what they were when loaded, plus what the room's totals have grown since, plus the member's own
//! deviations since. So an event costs the room one addition and a member something only if their outcome differs. Memory
//! of a member is made before it is loaded, and takes in what happens meanwhile. A member's own event reads all there is;
//! what a receipt changes is simply forgotten, and what a redaction may have changed once somebody asks.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use hearth_base::ids::{StreamPos, UserNid};
use imbl::OrdMap;
use parking_lot::Mutex;

/// What is unread in a room or thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Events that notify (spec: `notification_count`).
    pub notifications: u64,
    /// Those among them that highlight (`highlight_count`).
    pub highlights: u64,
}

impl Count {
    fn plus(self, other: Self) -> Self {
        Self { notifications: self.notifications + other.notifications, highlights: self.highlights + other.highlights }
    }
}

/// What is unread in a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unread {
    /// In the main timeline.
    pub main: Count,
    /// In threads, by the event id of their root; threads without anything unread are left out.
    pub threads: BTreeMap<String, Count>,
}

impl Unread {
    /// In the room as a whole, for clients that do not tell threads apart.
    #[must_use]
    pub fn total(&self) -> Count {
        self.threads.values().fold(self.main, |sum, count| sum.plus(*count))
    }
}

/// A sum of notifications and highlights; may be negative on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) notify: i64,
    pub(super) highlight: i64,
}

impl Sum {
    pub(super) fn new(notify: i64, highlight: i64) -> Self {
        Self { notify, highlight }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self { notify: self.notify + other.notify, highlight: self.highlight + other.highlight }
    }

    pub(super) fn minus(self, other: Self) -> Self {
        Self { notify: self.notify - other.notify, highlight: self.highlight - other.highlight }
    }

    fn count(self) -> Count {
        Count {
            notifications: u64::try_from(self.notify).unwrap_or(0),
            highlights: u64::try_from(self.highlight).unwrap_or(0),
        }
    }
}

/// `main` or the event id of a thread's root.
pub(super) type Thread = Arc<str>;

/// The name of the main timeline.
pub(super) const MAIN: &str = crate::relations::MAIN;

/// Sums by thread.
#[derive(Clone, Debug, Default)]
pub(super) struct Sums {
    pub(super) main: Sum,
    pub(super) threads: OrdMap<Thread, Sum>,
}

impl Sums {
    pub(super) fn add(&mut self, thread: &Thread, sum: Sum) {
        if **thread == *MAIN {
            self.main = self.main.plus(sum);
        } else {
            let old = self.threads.get(thread).copied().unwrap_or_default();
            self.threads.insert(thread.clone(), old.plus(sum));
        }
    }
}

/// A room's totals, as of a position.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    /// Of the newest event taken in.
    pub(super) pos: StreamPos,
    /// The room's counter there.
    pub(super) counter: i64,
    /// What the default rules made everyone's, since the memory of the room began.
    pub(super) totals: Sums,
}

/// Threads whose totals are kept; with more, the room's memory begins anew.
pub(super) const MAX_THREADS: usize = 1_000;

/// A room as far as counting goes.
#[derive(Debug, Default)]
pub(super) struct RoomCounts {
    now: Mutex<Option<Snapshot>>,
    /// Redactions heard of.
    redactions: AtomicU64,
}

impl RoomCounts {
    /// An event was redacted: whoever has something unread may have less than was thought.
    pub(super) fn redacted(&self) {
        self.redactions.fetch_add(1, Ordering::AcqRel);
    }

    /// The totals; `None` until begun.
    pub(super) fn snapshot(&self) -> Option<Snapshot> {
        self.now.lock().clone()
    }

    /// Begins from what the room's row says, unless an event came first.
    pub(super) fn begin(&self, pos: StreamPos, counter: i64) {
        self.now.lock().get_or_insert_with(|| Snapshot { pos, counter, totals: Sums::default() });
    }

    /// Takes in an event; gives the number of threads known then.
    pub(super) fn take_in(&self, pos: StreamPos, counter: i64, thread: &Thread, highlight: bool) -> usize {
        let mut now = self.now.lock();
        let Some(now) = now.as_mut() else {
            *now = Some(Snapshot { pos, counter, totals: Sums::default() });
            return 0;
        };
        if pos > now.pos {
            let sum = Sum::new(counter - now.counter, i64::from(highlight));
            if sum != Sum::default() {
                now.totals.add(thread, sum);
            }
            (now.pos, now.counter) = (pos, counter);
        }
        now.totals.threads.len()
    }
}

/// What an event did to a member beyond what it did to everyone.
#[derive(Clone, Debug)]
pub(super) struct Deviation {
    pub(super) user: UserNid,
    pub(super) sum: Sum,
}

/// A member as far as counting goes.
#[derive(Debug)]
pub(super) struct MemberCounts {
    /// The room's memory that this refers to.
    pub(super) room: Arc<RoomCounts>,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Loading(Loading),
    Loaded(Member),
}

/// Not loaded yet.
#[derive(Debug)]
struct Loading {
    /// What happened meanwhile.
    waiting: Vec<(StreamPos, Thread, Sum)>,
    /// Redactions of the room heard of when it began.
    redactions: u64,
}

#[derive(Debug)]
struct Member {
    /// Position as of which it was loaded: what is up to there is known.
    at: StreamPos,
    /// What was unread then, and deviations since.
    own: Sums,
    /// The room's totals when loaded.
    base: Sums,
    /// Redactions of the room that are in this.
    redactions: u64,
}

/// Deviations that may wait for a load; with more, nobody is loading any longer.
const MAX_WAITING: usize = 64;

impl MemberCounts {
    pub(super) fn new(room: Arc<RoomCounts>) -> Self {
        let redactions = room.redactions.load(Ordering::Acquire);
        Self { room, state: Mutex::new(State::Loading(Loading { waiting: Vec::new(), redactions })) }
    }

    /// Takes in a deviation; false if this memory had better be forgotten.
    pub(super) fn take_in(&self, pos: StreamPos, thread: &Thread, sum: Sum) -> bool {
        match &mut *self.state.lock() {
            State::Loading(Loading { waiting, .. }) if waiting.len() >= MAX_WAITING => return false,
            State::Loading(Loading { waiting, .. }) => waiting.push((pos, thread.clone(), sum)),
            State::Loaded(member) if pos <= member.at => {}
            State::Loaded(member) => {
                member.own.add(thread, sum);
                return member.own.threads.len() <= MAX_THREADS;
            }
        }
        true
    }

    /// What was loaded as of a snapshot of the room; what came after it is added.
    pub(super) fn settle(&self, at: &Snapshot, mut own: Sums) {
        let mut state = self.state.lock();
        if let State::Loading(Loading { waiting, redactions }) = &mut *state {
            let redactions = *redactions;
            for (pos, thread, sum) in waiting.drain(..) {
                if pos > at.pos {
                    own.add(&thread, sum);
                }
            }
            *state = State::Loaded(Member { at: at.pos, own, base: at.totals.clone(), redactions });
        }
    }

    /// The member has read all that the room's memory has taken in. False if this is of another memory of the room.
    pub(super) fn has_read(&self, room: &Arc<RoomCounts>) -> bool {
        if !Arc::ptr_eq(&self.room, room) {
            return false;
        }
        let redactions = room.redactions.load(Ordering::Acquire);
        let Some(now) = room.snapshot() else { return false };
        // In place of a load under way too: what it found is older.
        *self.state.lock() = State::Loaded(Member { at: now.pos, own: Sums::default(), base: now.totals, redactions });
        true
    }

    /// The counts now; `None` until loaded, and if a redaction asks for it to be loaded anew.
    pub(super) fn read(&self) -> Option<Unread> {
        let redactions = self.room.redactions.load(Ordering::Acquire);
        let now = self.room.snapshot()?.totals;
        let mut state = self.state.lock();
        let State::Loaded(member) = &mut *state else { return None };
        let unread = member.unread(&now);
        if member.redactions != redactions {
            // Who has read everything has read what is gone.
            if unread != Unread::default() {
                *state = State::Loading(Loading { waiting: Vec::new(), redactions });
                return None;
            }
            member.redactions = redactions;
        }
        Some(unread)
    }

    /// The counts as they were loaded, whatever was redacted since.
    pub(super) fn loaded(&self) -> Option<Unread> {
        let now = self.room.snapshot()?.totals;
        match &*self.state.lock() {
            State::Loaded(member) => Some(member.unread(&now)),
            State::Loading(_) => None,
        }
    }
}

impl Member {
    /// What is unread when the room's totals are these.
    fn unread(&self, now: &Sums) -> Unread {
        let mut unread =
            Unread { main: self.own.main.plus(now.main.minus(self.base.main)).count(), ..Unread::default() };
        let names = self.own.threads.keys().chain(now.threads.keys().filter(|t| !self.own.threads.contains_key(*t)));
        for thread in names {
            let of = |sums: &Sums| sums.threads.get(thread).copied().unwrap_or_default();
            let count = of(&self.own).plus(of(now).minus(of(&self.base))).count();
            if count != Count::default() {
                unread.threads.insert(thread.to_string(), count);
            }
        }
        unread
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn count(notifications: u64, highlights: u64) -> Count {
        Count { notifications, highlights }
    }

    #[test]
    fn what_happens_around_a_load_counts_once() {
        let (main, thread): (Thread, Thread) = (MAIN.into(), "$t".into());
        let room = Arc::new(RoomCounts::default());
        room.begin(StreamPos(5), 10);
        let member = MemberCounts::new(room.clone());
        assert_eq!(member.read(), None);
        let at = room.snapshot().unwrap();
        // The row of event 5 is read with the rest although its publication comes late; that of event 6 is not.
        for pos in [5, 6] {
            room.take_in(StreamPos(pos), pos + 5, &main, false);
            assert!(member.take_in(StreamPos(pos), &main, Sum::new(0, 1)));
        }
        let mut own = Sums::default();
        own.add(&main, Sum::new(3, 1));
        member.settle(&at, own);
        assert_eq!(member.read().unwrap().main, count(4, 2));
        assert!(member.take_in(StreamPos(5), &main, Sum::new(0, 1)), "known, whoever tells it late");
        assert_eq!(member.read().unwrap().main, count(4, 2));
        room.take_in(StreamPos(7), 12, &thread, true);
        assert!(member.take_in(StreamPos(7), &thread, Sum::new(-1, -1)));
        assert_eq!(member.read().unwrap().threads, BTreeMap::new(), "counted for all but not for this one");
        room.take_in(StreamPos(8), 13, &thread, false);
        let unread = member.read().unwrap();
        assert_eq!((unread.threads["$t"], unread.total()), (count(1, 0), count(5, 2)));
    }

    #[test]
    fn whoever_has_read_has_nothing_unread_whatever_is_being_loaded() {
        let main: Thread = MAIN.into();
        let room = Arc::new(RoomCounts::default());
        room.begin(StreamPos(5), 10);
        let member = MemberCounts::new(room.clone());
        let at = room.snapshot().unwrap();
        room.take_in(StreamPos(6), 11, &main, true);
        assert!(member.has_read(&room));
        let mut own = Sums::default();
        own.add(&main, Sum::new(3, 1));
        member.settle(&at, own);
        assert_eq!(member.read().unwrap(), Unread::default());
        room.take_in(StreamPos(7), 12, &main, false);
        assert_eq!(member.read().unwrap().main, count(1, 0));
        assert!(!member.has_read(&Arc::default()), "that is another memory");
    }

    #[test]
    fn a_redaction_has_those_looked_up_anew_who_have_something_unread() {
        let main: Thread = MAIN.into();
        let room = Arc::new(RoomCounts::default());
        room.begin(StreamPos(5), 10);
        let (reader, other) = (MemberCounts::new(room.clone()), MemberCounts::new(room.clone()));
        assert!(reader.has_read(&room));
        other.settle(&room.snapshot().unwrap(), Sums { main: Sum::new(2, 1), ..Sums::default() });
        room.redacted();
        assert_eq!((reader.read(), other.read()), (Some(Unread::default()), None));
        room.take_in(StreamPos(6), 11, &main, false);
        assert_eq!(reader.read().unwrap().main, count(1, 0), "what comes later is not asked about");
        // A redaction while it is being looked up: it may have been found or not.
        let at = room.snapshot().unwrap();
        room.redacted();
        other.settle(&at, Sums { main: Sum::new(2, 1), ..Sums::default() });
        assert_eq!((other.loaded().unwrap().main, other.read()), (count(2, 1), None));
        other.settle(&room.snapshot().unwrap(), Sums { main: Sum::new(1, 0), ..Sums::default() });
        assert_eq!(other.read().unwrap().main, count(1, 0));
    }

    #[test]
    fn a_load_that_never_ends_is_given_up() {
        let member = MemberCounts::new(Arc::default());
        let kept = (0..100).take_while(|n| member.take_in(StreamPos(*n), &MAIN.into(), Sum::new(1, 0))).count();
        assert_eq!(kept, MAX_WAITING);
    }
}
