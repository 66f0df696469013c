//! What waits for one server, and what is on its way to it.

use std::collections::{HashMap, HashSet, VecDeque};

use hearth_base::ids::{EventNid, RoomNid, StreamPos, UserNid};
use parking_lot::Mutex;
use ruma::{OwnedServerName, OwnedUserId};

use super::{devices::Changed, share::Disliked};

/// News kept in memory for a server; beyond, it is behind and reads the log.
const NEWS: usize = 400;
/// Ephemeral things of each sort kept for a server; beyond, they are lost.
const SOFT: usize = 500;
/// For a server that is left alone for longer, nothing that may be lost is kept, ms.
const SOON: u64 = 3_600_000;

/// Something of the log that the server is owed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    Event(EventNid),
    /// The device change made at this position.
    Device(Changed),
    /// The newest device change of a user whom the server may meet for the first time.
    Newest(UserNid),
}

/// Where a server is that does not keep up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Behind {
    /// It has, or is not owed, all up to here.
    pub(super) pos: StreamPos,
    /// Behind since then, ms.
    pub(super) since_ms: i64,
    /// The log holds something for it up to here.
    pub(super) newest: StreamPos,
}

/// What may be lost.
#[derive(Debug, Default)]
pub(super) struct Soft {
    /// Who types where, or has stopped.
    pub(super) typing: HashMap<(RoomNid, OwnedUserId), bool>,
    /// Receipts that moved, and the first position at which they did.
    pub(super) receipts: HashMap<(RoomNid, UserNid), StreamPos>,
    /// Users whose presence changed.
    pub(super) presence: HashSet<UserNid>,
}

impl Soft {
    pub(super) fn is_empty(&self) -> bool {
        self.typing.is_empty() && self.receipts.is_empty() && self.presence.is_empty()
    }

    /// Takes back what did not arrive, but for who types: that is over by the time it would.
    pub(super) fn put_back(&mut self, lost: Self) {
        let room = SOFT.saturating_sub(self.receipts.len());
        for (whose, since) in lost.receipts.into_iter().take(room) {
            self.receipts.entry(whose).and_modify(|at| *at = since.min(*at)).or_insert(since);
        }
        let room = SOFT.saturating_sub(self.presence.len());
        self.presence.extend(lost.presence.into_iter().take(room));
    }
}

#[derive(Debug, Default)]
pub(super) struct Pending {
    /// A job sends to it at present.
    pub(super) sending: bool,
    /// To be left alone until then, ms.
    pub(super) rests_until: u64,
    /// Failures in a row that were not for want of an answer.
    pub(super) refusals: u32,
    pub(super) disliked: Disliked,
    pub(super) behind: Option<Behind>,
    /// In the order of the log; empty while behind.
    pub(super) news: VecDeque<(StreamPos, News)>,
    /// What is up to here is done, whether or not it comes again.
    pub(super) floor: StreamPos,
    /// The newest that was handed out to it.
    pushed: StreamPos,
    /// To-device messages wait on disk.
    pub(super) to_device: bool,
    pub(super) soft: Soft,
    /// Receipts are to wait until then, ms, unless something else goes out.
    pub(super) receipts_from: u64,
    /// Its cursor on disk is not what is said here.
    pub(super) unsaved: bool,
}

impl Pending {
    /// Takes in what the log holds for the server.
    pub(super) fn push(&mut self, pos: StreamPos, news: News, now_ms: i64) {
        // What is read from the log anew may have been handed out before.
        let again =
            pos < self.pushed || (pos == self.pushed && self.news.back().is_some_and(|(_, last)| *last == news));
        if pos <= self.floor || again {
            return;
        }
        self.pushed = pos;
        if let Some(behind) = &mut self.behind {
            behind.newest = behind.newest.max(pos);
            return;
        }
        self.news.push_back((pos, news));
        if self.news.len() > NEWS {
            self.fall_behind(now_ms);
        }
    }

    /// From now on what it is owed is read from the log.
    pub(super) fn fall_behind(&mut self, now_ms: i64) {
        if self.behind.is_some() {
            return;
        }
        let (Some((first, _)), Some((last, _))) = (self.news.front(), self.news.back()) else { return };
        self.behind = Some(Behind { pos: StreamPos(first.0 - 1), since_ms: now_ms, newest: *last });
        self.news.clear();
        self.unsaved = true;
    }

    /// It has everything there is.
    pub(super) fn caught_up(&mut self, pos: StreamPos) {
        self.behind = None;
        self.floor = self.floor.max(pos);
        self.unsaved = true;
    }

    /// What it surely has; `None` if nothing waits for it.
    pub(super) fn acknowledged(&self) -> Option<StreamPos> {
        self.behind.map(|b| b.pos).or_else(|| self.news.front().map(|(pos, _)| StreamPos(pos.0 - 1)))
    }

    /// Whether there is something to send at this time.
    pub(super) fn has_work(&self, now_ms: u64) -> bool {
        let soft = &self.soft;
        let soft = !soft.typing.is_empty()
            || !soft.presence.is_empty()
            || (!soft.receipts.is_empty() && self.receipts_from <= now_ms);
        self.behind.is_some() || !self.news.is_empty() || self.to_device || soft
    }

    /// Whether nothing would be lost if the server were forgotten.
    pub(super) fn is_idle(&self, now_ms: u64) -> bool {
        !self.sending
            && self.behind.is_none()
            && self.news.is_empty()
            && !self.to_device
            && self.soft.is_empty()
            && !self.unsaved
            && self.rests_until <= now_ms
    }

    /// Whether who types is worth saying.
    fn listens(&self, now_ms: u64) -> bool {
        self.rests_until <= now_ms && self.behind.is_none()
    }

    /// Whether what may be lost, but holds for longer, is worth keeping.
    fn listens_soon(&self, now_ms: u64) -> bool {
        self.rests_until <= now_ms.saturating_add(SOON)
    }

    /// Leaves the server alone until then, ms. What may be lost is kept as far as it may still be news.
    pub(super) fn rest(&mut self, until_ms: u64, now_ms: i64) {
        self.sending = false;
        self.rests_until = until_ms;
        self.fall_behind(now_ms);
        self.soft.typing.clear();
        if !self.listens_soon(u64::try_from(now_ms).unwrap_or(0)) {
            self.soft = Soft::default();
        }
    }

    pub(super) fn typing(&mut self, room: RoomNid, user: &OwnedUserId, types: bool, now_ms: u64) {
        if self.listens(now_ms) && self.soft.typing.len() < SOFT {
            self.soft.typing.insert((room, user.clone()), types);
        }
    }

    /// Takes in a receipt that may wait until `from_ms`; whether it is the first that waits.
    pub(super) fn receipt(&mut self, room: RoomNid, user: UserNid, pos: StreamPos, from_ms: u64, now_ms: u64) -> bool {
        if !self.listens_soon(now_ms) || self.soft.receipts.len() >= SOFT {
            return false;
        }
        let is_first = self.soft.receipts.is_empty();
        if is_first || from_ms < self.receipts_from {
            self.receipts_from = from_ms;
        }
        self.soft.receipts.entry((room, user)).or_insert(pos);
        is_first
    }

    pub(super) fn presence(&mut self, user: UserNid, now_ms: u64) {
        if self.listens_soon(now_ms) && self.soft.presence.len() < SOFT {
            self.soft.presence.insert(user);
        }
    }
}

/// A server to which something goes.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) name: OwnedServerName,
    pub(super) pending: Mutex<Pending>,
}

impl Peer {
    pub(super) fn new(name: OwnedServerName) -> Self {
        Self { name, pending: Mutex::default() }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn too_much_news_stays_in_the_log() {
        let mut pending = Pending::default();
        let device = News::Device(Changed { user: UserNid(1), device: true });
        for n in 10..10 + NEWS as i64 {
            pending.push(StreamPos(n), device.clone(), 5);
        }
        assert_eq!((pending.behind, pending.acknowledged()), (None, Some(StreamPos(9))));
        pending.push(StreamPos(9_000), device.clone(), 5);
        let behind = pending.behind.unwrap();
        assert_eq!((behind.pos, behind.newest, behind.since_ms), (StreamPos(9), StreamPos(9_000), 5));
        assert!(pending.news.is_empty() && pending.unsaved);
        pending.push(StreamPos(9_001), device.clone(), 6);
        assert_eq!(pending.behind.unwrap().newest, StreamPos(9_001));
        pending.caught_up(StreamPos(9_001));
        pending.push(StreamPos(9_001), device.clone(), 6);
        assert_eq!(pending.acknowledged(), None, "what was caught up with does not come again");
    }
}
