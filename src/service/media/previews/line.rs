//! Who waits for previews to be made: so many pages are fetched at once, so many of them for one user, so that whoever posts
//! links to servers that never answer keeps nobody else waiting.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use hearth_base::ids::UserNid;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Previews made at once for one user, and those that may wait.
const EACH: usize = 4;
const EACH_WAITING: usize = 64;
/// Previews that may wait for all.
const ALL_WAITING: usize = 1000;

/// All who wait.
pub(super) struct Line {
    at_once: Arc<Semaphore>,
    users: Mutex<HashMap<UserNid, Place>>,
}

/// Those of one user.
struct Place {
    count: usize,
    at_once: Arc<Semaphore>,
}

/// A place in the line, until it is dropped.
pub(super) struct Ticket {
    line: Arc<Line>,
    user: UserNid,
    own: Arc<Semaphore>,
}

/// A turn, until it is dropped.
pub(super) struct Turn(#[expect(dead_code, reason = "held")] [OwnedSemaphorePermit; 2]);

impl Line {
    pub(super) fn new(at_once: usize) -> Arc<Self> {
        Arc::new(Self { at_once: Arc::new(Semaphore::new(at_once.max(1))), users: Mutex::default() })
    }

    /// Joins the line; `None` if it is too long.
    pub(super) fn join(self: &Arc<Self>, user: UserNid) -> Option<Ticket> {
        let mut users = self.users.lock();
        if users.values().map(|place| place.count).sum::<usize>() >= ALL_WAITING {
            return None;
        }
        let place = users.entry(user).or_insert_with(|| Place { count: 0, at_once: Arc::new(Semaphore::new(EACH)) });
        if place.count >= EACH_WAITING {
            return None;
        }
        place.count += 1;
        Some(Ticket { line: self.clone(), user, own: place.at_once.clone() })
    }
}

impl Ticket {
    /// Waits until it is our turn; `None` at no time, since nobody closes the line.
    pub(super) async fn turn(&self) -> Option<Turn> {
        let own = self.own.clone().acquire_owned().await.ok()?;
        let all = self.line.at_once.clone().acquire_owned().await.ok()?;
        Some(Turn([own, all]))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Entry::Occupied(mut place) = self.line.users.lock().entry(self.user) {
            place.get_mut().count -= 1;
            if place.get().count == 0 {
                place.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn one_user_does_not_keep_others_waiting() {
        let line = Line::new(EACH + 1);
        let many: Vec<Ticket> = (0..EACH_WAITING).map(|_| line.join(UserNid(1)).unwrap()).collect();
        assert!(line.join(UserNid(1)).is_none());
        let turns: Vec<Turn> = many.iter().filter_map(|t| t.turn().now_or_never().flatten()).collect();
        assert_eq!(turns.len(), EACH);
        let other = line.join(UserNid(2)).unwrap();
        let turn = other.turn().now_or_never().flatten().unwrap();
        let third = line.join(UserNid(3)).unwrap();
        assert!(third.turn().now_or_never().is_none());
        drop(turn);
        assert!(third.turn().now_or_never().is_some());
        drop((many, other, third));
        assert!(line.users.lock().is_empty());
    }
}
