//! What is remembered of rooms' members: their numbers, the first of them, and whether one is ours.

use std::{collections::HashMap, sync::Arc};

use hearth_base::{
    cache::Cache,
    ids::{RoomNid, UserNid},
};
use ruma::events::room::member::MembershipState;

use crate::{
    events::{Append, NewEvent, NewMembership},
    log::Tx,
};

/// Rooms whose numbers of members are remembered.
const COUNTED: u64 = 20_000;

/// How many are joined to and invited to rooms, who of them comes first, and which rooms are known to have a user of ours.
pub(crate) struct Counts {
    pub(super) numbers: Cache<RoomNid, (u64, u64)>,
    /// One more than are named, since nobody is named to themselves.
    pub(super) first: Cache<RoomNid, Arc<[UserNid]>>,
    /// Joins keep it, whatever else happens to a member takes it away.
    pub(super) resident: Cache<RoomNid, ()>,
}

impl Default for Counts {
    fn default() -> Self {
        Self { numbers: Cache::new(COUNTED), first: Cache::new(COUNTED), resident: Cache::new(COUNTED) }
    }
}

impl Counts {
    /// Forgets, once they are committed, what these appends change.
    pub(crate) fn changing(tx: &mut Tx, appends: &[&Append]) {
        let mut moved: HashMap<RoomNid, Moves> = HashMap::new();
        for append in appends {
            let moves = |e: &NewEvent| e.membership.as_ref().map(Moves::of);
            let others = !append.members.is_empty() || append.changes.iter().any(|c| c.member.is_some());
            let joins = others.then_some(Moves::default()).into_iter().chain(append.events.iter().filter_map(moves));
            for moves in joins {
                let all = moved.entry(append.room.nid).or_insert(Moves { only_joins: true, ours: false });
                all.only_joins &= moves.only_joins;
                all.ours |= moves.ours;
            }
        }
        if !moved.is_empty() {
            tx.after_commit(move |store| {
                let counts = &store.inner.member_counts;
                for (room, moves) in &moved {
                    counts.numbers.invalidate(room);
                    counts.first.invalidate(room);
                    match moves {
                        Moves { only_joins: false, .. } => counts.resident.invalidate(room),
                        Moves { ours: true, .. } => counts.resident.put(*room, ()),
                        Moves { .. } => {}
                    }
                }
            });
        }
    }
}

/// What a batch does to the members of a room.
#[derive(Clone, Copy, Default)]
struct Moves {
    only_joins: bool,
    /// Whether a user of ours is among those who join.
    ours: bool,
}

impl Moves {
    fn of(member: &NewMembership) -> Self {
        let joins = member.membership == MembershipState::Join;
        Self { only_joins: joins, ours: joins && member.local }
    }
}
