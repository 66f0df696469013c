//! Who in a room has to be looked at for its events: our members whose own rules may matter there. Kept by room, and
//! brought up to date by what changed: rules, and who came and went.

use std::{collections::VecDeque, sync::Arc};

use hearth_base::{
    Result,
    ids::{RoomNid, UserNid},
};
use ruma::RoomId;

use super::{Push, RoomMemory};
use crate::account_data::{PUSH_RULES, ignored::IGNORED_USERS};

/// Changes of users' rules that rooms catch up with one by one; a room further behind looks at all its members again.
const CHANGES: usize = 256;

/// Account data by which an event may do something else to a member than to others.
const KINDS: [&str; 2] = [PUSH_RULES, IGNORED_USERS];

/// Whose rules changed lately.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// How many there were since the start.
    seen: u64,
    /// The last of them, oldest first.
    last: VecDeque<UserNid>,
}
#[derive(Debug, Default)]
pub(super) struct Members {
    /// Our joined members to whom events may do something else than the default rules say; `None` until read.
    deviants: Option<Arc<[UserNid]>>,
    /// `Changes::seen` when that was.
    seen: u64,
    /// Members who came or went since.
    moved: Vec<UserNid>,
    /// How many are joined, servers all together; `None` if it may have changed.
    joined: Option<u64>,
    /// Counts changes of membership.
    moves: u64,
}

impl Members {
    /// Somebody came or went; `ours` if it is a user of this server.
    pub(super) fn moved(&mut self, ours: Option<UserNid>) {
        self.joined = None;
        self.moves += 1;
        // One more than are caught up with has the next look begin anew.
        if self.moved.len() <= CHANGES {
            self.moved.extend(ours);
        }
    }
}

impl Push {
    /// Our joined members to whom events of the room may do something else than the default rules say.
    pub(super) async fn deviants(
        &self,
        memory: &RoomMemory,
        room: RoomNid,
        room_id: &RoomId,
    ) -> Result<Arc<[UserNid]>> {
        if let Some(known) = self.known_deviants(memory) {
            return Ok(known);
        }
        let _one = memory.reading.lock().await;
        if let Some(known) = self.known_deviants(memory) {
            return Ok(known);
        }
        let (known, moved) = {
            let mut members = memory.members.lock();
            (members.deviants.clone().map(|d| (d, members.seen)), std::mem::take(&mut members.moved))
        };
        let found = self.find_deviants(known, moved, room, room_id).await;
        let mut members = memory.members.lock();
        match found {
            Ok((deviants, seen)) => {
                (members.deviants, members.seen) = (Some(deviants.clone()), seen);
                Ok(deviants)
            }
            Err(e) => {
                members.deviants = None;
                Err(e)
            }
        }
    }

    /// Brings the list up to date, with the number of changes that it knows of.
    async fn find_deviants(
        &self,
        known: Option<(Arc<[UserNid]>, u64)>,
        moved: Vec<UserNid>,
        room: RoomNid,
        room_id: &RoomId,
    ) -> Result<(Arc<[UserNid]>, u64)> {
        let mut again = moved;
        // Whatever changes from here on is seen by the next look.
        let (seen, changed) = self.changes.lock().since(known.as_ref().map(|k| k.1));
        let mut deviants: Vec<UserNid> = Vec::new();
        match (known, changed) {
            (Some((known, _)), Some(changed)) if again.len() <= CHANGES => {
                again.extend(changed);
                again.sort_unstable();
                again.dedup();
                deviants.extend(known.iter().filter(|u| again.binary_search(u).is_err()));
                again = self.store.members_with_account_data(room, Some(&again), KINDS).await?;
            }
            _ => again = self.store.members_with_account_data(room, None, KINDS).await?,
        }
        for user in again {
            if self.rules_of(user).await?.is_some_and(|rules| rules.deviates_in(room_id)) {
                deviants.push(user);
            }
        }
        Ok((deviants.into(), seen))
    }

    fn known_deviants(&self, memory: &RoomMemory) -> Option<Arc<[UserNid]>> {
        let seen = self.changes.lock().seen;
        let members = memory.members.lock();
        members.deviants.clone().filter(|_| members.moved.is_empty() && members.seen == seen)
    }

    pub(super) async fn joined(&self, memory: &RoomMemory, room: RoomNid) -> Result<u64> {
        let before = {
            let members = memory.members.lock();
            if let Some(joined) = members.joined {
                return Ok(joined);
            }
            members.moves
        };
        let (mut joined, _) = self.store.member_counts(room).await?;
        if self.store.room(room).await?.is_some_and(|r| r.head.partial) {
            // How many there are is not known; a conversation of two it is not.
            joined = joined.max(3);
        }
        let mut members = memory.members.lock();
        members.joined = Some(joined).filter(|_| members.moves == before);
        Ok(joined)
    }
}

impl Changes {
    pub(super) fn push(&mut self, user: UserNid) {
        self.seen += 1;
        if self.last.len() == CHANGES {
            self.last.pop_front();
        }
        self.last.push_back(user);
    }

    /// How many there were, and those since the `seen`-th; `None` if that is longer ago than is remembered.
    fn since(&self, seen: Option<u64>) -> (u64, Option<Vec<UserNid>>) {
        let missed = seen.and_then(|seen| usize::try_from(self.seen - seen).ok());
        let missed = missed.filter(|missed| *missed <= self.last.len());
        (self.seen, missed.map(|missed| self.last.iter().rev().take(missed).copied().collect()))
    }
}
