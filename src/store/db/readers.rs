//! Connections for reading, kept at hand: the first that is free is the next to be used, so that few are ever warm, always
//! the same, and while some are in use one of them is waited for a moment before another is opened: what a new one reads
//! of the database's catalogs and prepares costs more than most waits. A pool asks every connection that comes back
//! whether it still works, which costs as much as a small statement; here only one whose last statement failed or was left
//! in the middle goes back to it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hearth_base::{Error, Result};
use parking_lot::Mutex;
use tokio::sync::{Mutex as Slot, Notify, OwnedMappedMutexGuard, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use super::{HasSession, Pools, Session, ask, failed};

/// A connection of PostgreSQL that was not used for so long is asked whether it still is one.
const IDLE: Duration = Duration::from_secs(1);
/// How long a reader waits for others to end.
const WAIT: Duration = Duration::from_secs(10);
/// How long a reader waits for an open connection before another is opened.
const PATIENCE: Duration = Duration::from_millis(5);

/// As many connections as may read at the same time, each made when it is first wanted.
#[derive(Debug)]
pub(super) struct Readers {
    slots: Box<[Arc<Slot<Option<Session>>>]>,
    /// A permit for each of `free`.
    places: Arc<Semaphore>,
    idle: Mutex<Idle>,
    /// Told when one is given back.
    back: Notify,
}

#[derive(Debug)]
struct Idle {
    /// The slots that nobody holds, in no order.
    free: Vec<Free>,
    /// How many hold a connection, or are about to, and are held by a reader.
    busy: usize,
    /// When a connection was last seen to be lost: those not used since may be too.
    doubted: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Free {
    slot: usize,
    used: Instant,
    /// Whether it was ever used.
    opened: bool,
    /// Whether every statement begun has ended well.
    whole: bool,
}

/// A connection for reading.
#[derive(Debug)]
pub struct Reading {
    // Given back before its place is.
    session: OwnedMappedMutexGuard<Option<Session>, Session>,
    place: Place,
}

#[derive(Debug)]
struct Place {
    readers: Arc<Readers>,
    slot: usize,
    whole: bool,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        let used = Instant::now();
        let mut idle = self.readers.idle.lock();
        idle.free.push(Free { slot: self.slot, used, opened: true, whole: self.whole });
        idle.busy = idle.busy.saturating_sub(1);
        if !self.whole {
            idle.doubted = Some(used);
        }
        drop(idle);
        self.readers.back.notify_one();
    }
}

impl Reading {
    /// Whether this is the one that everybody reads by who reads alone.
    pub(super) fn is_first(&self) -> bool {
        self.place.slot == 0
    }
}

impl HasSession for Reading {
    fn session(&mut self) -> &mut Session {
        self.place.whole = false;
        &mut self.session
    }

    fn ended(&mut self) {
        self.place.whole = true;
    }
}

impl Readers {
    pub(super) fn new(places: u32) -> Self {
        let free = |slot| Free { slot, used: Instant::now(), opened: false, whole: false };
        let places = usize::try_from(places).unwrap_or(1);
        Self {
            slots: (0..places).map(|_| Arc::default()).collect(),
            places: Arc::new(Semaphore::new(places)),
            idle: Mutex::new(Idle { free: (0..places).map(free).collect(), busy: 0, doubted: None }),
            back: Notify::new(),
        }
    }

    /// One of them, or a new one from the pool.
    pub(super) async fn read(self: &Arc<Self>, pools: &Pools) -> Result<Reading> {
        let permit = match self.places.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => tokio::time::timeout(WAIT, self.places.clone().acquire_owned())
                .await
                .map_err(|_| failed(sqlx::Error::PoolTimedOut))?
                .map_err(|_| failed(sqlx::Error::PoolClosed))?,
        };
        let lacking = || Error::broken("fewer connections than places for them");
        let (found, doubted) = match self.take(false) {
            Some(taken) => taken,
            None => self.take_patiently().await,
        };
        let Free { slot, used, whole, .. } = found.ok_or_else(lacking)?;
        let surely_good = used.elapsed() < IDLE && doubted.is_none_or(|at| at < used);
        let mut place = Place { readers: self.clone(), slot, whole: false, _permit: permit };
        let mut held = self.slots.get(slot).ok_or_else(lacking)?.clone().lock_owned().await;
        let good = whole
            && match &mut *held {
                Some(Session::Postgres(c)) => {
                    let answers = surely_good || ask(c).await.is_ok();
                    if !answers {
                        // The pool would ask again, and wait.
                        c.close_on_drop();
                    }
                    answers
                }
                Some(Session::Sqlite(_)) => true,
                None => false,
            };
        if !good {
            drop(held.take());
            // Opening is rare and a large future, which every statement would carry about with it.
            *held = Some(Box::pin(pools.reader()).await?);
        }
        let session = OwnedMutexGuard::try_map(held, Option::as_mut).map_err(|_| lacking())?;
        place.whole = true;
        Ok(Reading { session, place })
    }

    /// The first slot that was ever used, or else the first of all, and since when connections are doubted. `None` if all
    /// that were ever used are in use, unless `anyway`. One whose connection is of no use any more is not waited for: it is
    /// to be replaced.
    fn take(&self, anyway: bool) -> Option<(Option<Free>, Option<Instant>)> {
        let mut idle = self.idle.lock();
        let first = idle.free.iter().enumerate().min_by_key(|(_, free)| (!free.opened, free.slot));
        let first = first.map(|(n, free)| (n, free.opened));
        if !anyway && idle.busy > 0 && first.is_some_and(|(_, opened)| !opened) {
            return None;
        }
        let taken = first.map(|(n, _)| idle.free.swap_remove(n));
        idle.busy += usize::from(taken.is_some());
        Some((taken, idle.doubted))
    }

    /// Takes a slot whose connection comes back before patience ends, or else any.
    async fn take_patiently(&self) -> (Option<Free>, Option<Instant>) {
        let patient = async {
            loop {
                self.back.notified().await;
                if let Some(taken) = self.take(false) {
                    return taken;
                }
            }
        };
        match tokio::time::timeout(PATIENCE, patient).await {
            Ok(taken) => taken,
            Err(_) => self.take(true).unwrap_or_default(),
        }
    }

    /// Has those asked that were not used since whether they still work.
    pub(super) fn doubt(&self) {
        self.idle.lock().doubted = Some(Instant::now());
    }

    /// Gives all of them back to their pool, each when nobody holds it any longer.
    pub(super) async fn close(&self) {
        self.places.close();
        for slot in &self.slots {
            drop(slot.lock().await.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_opened_is_put_off_and_what_is_broken_is_not() {
        let readers = Readers::new(3);
        assert!(readers.take(false).is_some(), "nobody reads");
        assert!(readers.take(false).is_none(), "one may come back");
        let broken = Free { slot: 2, used: Instant::now(), opened: true, whole: false };
        readers.idle.lock().free.push(broken);
        assert!(readers.take(false).is_some_and(|(taken, _)| taken.is_some_and(|free| free.slot == broken.slot)));
        assert!(readers.take(true).is_some_and(|(taken, _)| taken.is_some()), "patience has ended");
    }

    #[test]
    fn the_first_that_is_free_is_taken_whichever_was_used_last() {
        let readers = Readers::new(3);
        let slot = || readers.take(true).and_then(|(taken, _)| taken).map(|free| free.slot);
        assert_eq!([slot(), slot(), slot(), slot()], [Some(0), Some(1), Some(2), None]);
        let back = |slot| Free { slot, used: Instant::now(), opened: true, whole: true };
        readers.idle.lock().free.extend([back(0), back(2), back(1)]);
        assert_eq!([slot(), slot(), slot()], [Some(0), Some(1), Some(2)]);
    }
}
