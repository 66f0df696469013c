//! Events whose gaps could not be filled, because who knows what they follow could not be asked, or because nobody gives
//! what they follow directly, which as a rule comes right behind: held, and tried again until they are placed, refused, or
//! given up. Nobody sends them a second time, and if nobody speaks after them nothing else would show that they are missing.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use hearth_base::{Result, ids::RoomNid, tasks::Supervisor};
use hearth_rules::event::Pdu;
use hearth_store::{
    events::{HeldEvent, HeldGroup},
    rooms::Room,
};
use ruma::{OwnedEventId, OwnedServerName, ServerName};
use serde_json::value::RawValue;

use super::{Answers, Inbox, Sort, placing::Taken};

/// How events are tried again.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The first pause; doubled each time.
    pub first: Duration,
    /// The longest.
    pub longest: Duration,
    /// How long after what it follows an event is tried again: what comes in the wrong order seldom comes alone, and may just
    /// be sent once more.
    pub gathered: Duration,
    /// After so many tries an event is given up: whoever speaks next in the room shows what is missing.
    pub tries: u32,
}

impl Default for Settings {
    fn default() -> Self {
        // Some two hours in all.
        let gathered = Duration::from_millis(250);
        Self { first: Duration::from_secs(2), longest: Duration::from_secs(3600), gathered, tries: 12 }
    }
}

/// Servers whose events are tried again at the same time.
const AT_ONCE: usize = 8;
/// Ids of events that are waited for, remembered; for others the pauses do.
const AWAITED: usize = 20_000;
/// Doublings of a pause.
const DOUBLINGS: u32 = 20;
/// The longest wait for a bell.
const IDLE: Duration = Duration::from_secs(3600);

impl Inbox {
    /// Holds events of a room.
    pub(super) async fn hold(&self, origin: &ServerName, room: &Room, events: &[Pdu]) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        tracing::debug!(server = %origin, room.id = %room.room_id, events = events.len(), "held: what they follow cannot be had at present");
        {
            let mut awaited = self.awaited.lock();
            let space = AWAITED.saturating_sub(awaited.len());
            awaited.extend(events.iter().flat_map(Pdu::prev_events).take(space).cloned());
        }
        let events = events.iter().map(|e| (e.event_id().to_owned(), e.json().to_owned())).collect();
        self.store.hold_events(room.nid, origin, events, self.again_ms(0)).await?;
        self.held.notify_one();
        Ok(())
    }

    /// Has what a room holds tried again soon if these events are what it waits for.
    pub(super) async fn hasten(&self, room: &Room, come: &Answers) -> Result<()> {
        {
            let mut awaited = self.awaited.lock();
            let waiting = awaited.len();
            // Nearly always nothing is.
            if waiting == 0 {
                return Ok(());
            }
            for id in come.keys() {
                awaited.remove(id);
            }
            if awaited.len() == waiting {
                return Ok(());
            }
        }
        let gathered = ms(self.federation.settings().held.gathered);
        self.store.hasten_held(room.nid, self.now().saturating_add(gathered)).await?;
        self.held.notify_one();
        Ok(())
    }

    /// Starts the task that tries them again.
    pub fn start(self: &Arc<Self>, supervisor: &Supervisor) {
        let this = self.clone();
        crate::federation::until_stopping(supervisor, "held events", move || this.clone().run());
    }

    async fn run(self: Arc<Self>) -> Result<()> {
        let mut busy: HashSet<OwnedServerName> = HashSet::new();
        let mut running: FuturesUnordered<BoxFuture<'static, OwnedServerName>> = FuturesUnordered::new();
        loop {
            let now = self.now();
            let mut wait = IDLE;
            let groups = self.store.held_groups().await?;
            if groups.is_empty() {
                self.awaited.lock().clear();
            }
            for HeldGroup { room, origin, tries, retry_ms } in groups {
                // More than the pause ahead was noted by a clock that has been put back.
                let left = retry_ms.saturating_sub(now);
                if (1..=self.pause_ms(tries)).contains(&left) {
                    wait = wait.min(Duration::from_millis(left.unsigned_abs()));
                    continue;
                }
                // One room of a server at a time, so that one who answers slowly keeps nobody else's events waiting.
                if running.len() < AT_ONCE && busy.insert(origin.clone()) {
                    let this = self.clone();
                    running.push(Box::pin(async move {
                        if let Err(e) = this.try_again(room, &origin).await {
                            tracing::warn!(room.nid = room.0, server = %origin, error = %e, "held events could not be tried again");
                            tokio::time::sleep(this.federation.settings().held.first).await;
                        }
                        origin
                    }));
                }
            }
            tokio::select! {
                Some(origin) = running.next(), if !running.is_empty() => drop(busy.remove(&origin)),
                () = self.held.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Takes a server's held events of a room in as if they came now.
    async fn try_again(&self, room: RoomNid, origin: &ServerName) -> Result<()> {
        let held = self.store.held_events(room, origin).await?;
        let raw: Vec<Box<RawValue>> = held.iter().filter_map(|e| RawValue::from_string(e.json.clone()).ok()).collect();
        let taken = match self.store.room(room).await? {
            Some(room) => self.receive_in(origin, &room.room_id, raw, Sort::Held).await,
            None => Ok(Taken::default()),
        };
        let wait: Option<HashSet<OwnedEventId>> = match taken {
            Ok(taken) => Some(taken.wait.iter().map(|e| e.event_id().to_owned()).collect()),
            // The database, or a fault of ours: it counts as a try.
            Err(e) => {
                tracing::warn!(room.nid = room.0, server = %origin, error = %e, "held events could not be taken in");
                None
            }
        };
        let tries = i64::from(self.federation.settings().held.tries);
        let stays = |e: &HeldEvent| {
            e.tries < tries && wait.as_ref().is_none_or(|wait| wait.iter().any(|id| id.as_str() == e.event_id))
        };
        let (deferred, gone): (Vec<_>, Vec<_>) = held.into_iter().partition(stays);
        let deferred = deferred.into_iter().map(|e| (e.event_id, e.tries + 1, self.again_ms(e.tries + 1))).collect();
        self.store.settle_held(gone.into_iter().map(|e| e.event_id).collect(), deferred).await
    }

    /// When to try again after so many tries, ms.
    fn again_ms(&self, tries: i64) -> i64 {
        self.now().saturating_add(self.pause_ms(tries))
    }

    /// The pause after so many tries, ms.
    fn pause_ms(&self, tries: i64) -> i64 {
        let settings = self.federation.settings().held;
        let doublings = u32::try_from(tries).unwrap_or(DOUBLINGS).min(DOUBLINGS);
        ms(settings.first).saturating_mul(1 << doublings).min(ms(settings.longest))
    }

    fn now(&self) -> i64 {
        i64::try_from(self.clock.now_ms()).unwrap_or(i64::MAX)
    }
}

fn ms(pause: Duration) -> i64 {
    i64::try_from(pause.as_millis()).unwrap_or(i64::MAX / 4)
}
