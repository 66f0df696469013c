//! The newest changes that may concern somebody's device lists, in memory: a sync that has nothing to hear of costs no query.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicI64, Ordering},
};

use hearth_base::ids::{EventNid, RoomNid, UserNid};
use parking_lot::Mutex;
use ruma::{UserId, events::TimelineEventType};

use crate::{
    Inner,
    events::StoredEvent,
    log::{Change, Logged},
};

/// Changes remembered.
const REMEMBERED: usize = 4096;

/// The newest changes that may concern somebody's device lists.
#[derive(Debug)]
pub(super) struct Recent {
    newest: AtomicI64,
    ring: Mutex<Ring>,
}

#[derive(Debug)]
struct Ring {
    /// Every change after this position is in `items`.
    complete_after: i64,
    items: VecDeque<(i64, News)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// A user's devices or keys.
    Keys(UserNid),
    /// What of them a user alone sees: their user-signing key, or their signatures on keys of others.
    Own(UserNid),
    /// A user came into a room or went.
    Moved(Moved),
    /// Who is in a room was found out.
    Whole(RoomNid),
    /// Somebody was invited: what is said from now on may be for them too.
    Invited { by: UserNid, user: UserNid },
    /// An invite was declined or taken back.
    Uninvited { room: RoomNid, by: UserNid, user: UserNid },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) room: RoomNid,
    pub(super) user: UserNid,
    pub(super) joined: bool,
    /// What the event replaces, if that is not in memory: it may have been no move.
    pub(super) replaced: Option<EventNid>,
}

impl Recent {
    pub(super) fn new(head: i64) -> Self {
        let ring = Ring { complete_after: head, items: VecDeque::new() };
        Self { newest: AtomicI64::new(head), ring: Mutex::new(ring) }
    }

    /// Remembers what of a commit matters here.
    pub(super) fn note(&self, inner: &Inner, changes: &[Logged]) {
        for logged in changes {
            let news = match &logged.change {
                Change::DeviceList { user, .. } => Ok(News::Keys(*user)),
                Change::OwnKeys { user } => Ok(News::Own(*user)),
                Change::Whole { room, .. } => Ok(News::Whole(*room)),
                // Seldom, and whoever stands before this asks the tables.
                Change::State { changes, .. } if changes.iter().any(|c| c.member.is_some()) => Err(()),
                Change::Event(event) => match told_by(inner, event) {
                    Some(news) => news.ok_or(()),
                    None => continue,
                },
                _ => continue,
            };
            let mut ring = self.ring.lock();
            match news {
                Ok(news) => {
                    if ring.items.len() == REMEMBERED
                        && let Some((pos, _)) = ring.items.pop_front()
                    {
                        ring.complete_after = pos;
                    }
                    ring.items.push_back((logged.pos.0, news));
                }
                Err(()) => {
                    // Who it was is not remembered: whoever stands before this asks the tables.
                    ring.items.clear();
                    ring.complete_after = logged.pos.0;
                }
            }
            self.newest.store(logged.pos.0, Ordering::Release);
        }
    }

    /// Whether nothing happened after a position.
    pub(super) fn is_quiet_since(&self, pos: i64) -> bool {
        self.newest.load(Ordering::Acquire) <= pos
    }

    /// The changes in `(after, upto]`; `None` if they are not all remembered.
    pub(super) fn between(&self, after: i64, upto: i64) -> Option<Vec<News>> {
        let ring = self.ring.lock();
        if after < ring.complete_after {
            return None;
        }
        let (from, to) =
            (ring.items.partition_point(|(pos, _)| *pos <= after), ring.items.partition_point(|(pos, _)| *pos <= upto));
        Some(ring.items.range(from..to.max(from)).map(|(_, news)| *news).collect())
    }
}

/// What a member event says here. `Some(None)`: something, but what and of whom is not remembered.
fn told_by(inner: &Inner, event: &StoredEvent) -> Option<Option<News>> {
    if *event.pdu.event_type() != TimelineEventType::RoomMember {
        return None;
    }
    let user = UserId::parse(event.pdu.state_key()?).ok()?;
    let known = || inner.users.known(&user).map(UserNid);
    let before = event.replaces.map(|nid| inner.events.get(&nid));
    // A state event that is not in memory may have been anything.
    let unknown = matches!(before, Some(None));
    let before = before.flatten();
    let was = before.as_ref().map(|e| e.pdu.membership());
    let (was, is) = (was.as_deref(), event.pdu.membership());
    let replaced = event.replaces.filter(|_| unknown);
    let moved = |joined| Some(known().map(|user| News::Moved(Moved { room: event.room, user, joined, replaced })));
    match &*is {
        // With branches it may take the place of a join.
        "invite" if unknown || was == Some("join") => Some(None),
        "invite" => Some(known().map(|user| News::Invited { by: event.sender, user })),
        "join" => {
            if was == Some("join") {
                None
            } else {
                moved(true)
            }
        }
        _ if unknown || was == Some("join") => moved(false),
        _ => {
            let by = before.as_ref().filter(|_| was == Some("invite"))?.sender;
            Some(known().map(|user| News::Uninvited { room: event.room, by, user }))
        }
    }
}
