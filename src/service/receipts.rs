//! Read receipts and the fully-read marker (spec: "Receipts", "Read and unread markers").
//!
//! Receipts only move forward, by the order in which events reached this server. What they do to unread counts is
//! [`crate::push`]'s, which hears of them from the log.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use hearth_base::{
    Doing, Error, Requester, Result,
    clock::Clock,
    ids::{RoomNid, StreamPos, UserNid},
};
use hearth_store::{
    Store,
    events::StoredEvent,
    receipts::{NewReceipt, Receipt},
};
use ruma::{EventId, OwnedEventId, OwnedUserId, RoomId};
use serde::{Deserialize, Serialize};

use crate::{
    history::History,
    relations::{self, MAIN, RelatesTo},
};

const READ: &str = "m.read";
const PRIVATE: &str = "m.read.private";
const FULLY_READ: &str = "m.fully_read";

/// Receipts and markers.
#[derive(Debug)]
pub struct Receipts {
    store: Store,
    history: Arc<History>,
    clock: Clock,
}

/// Where a user says to have read to; `None` leaves a marker where it is.
#[derive(Clone, Debug, Default)]
pub struct Markers {
    /// The fully-read marker.
    pub fully_read: Option<OwnedEventId>,
    /// The receipt that others see.
    pub read: Option<OwnedEventId>,
    /// The receipt that they do not.
    pub private: Option<OwnedEventId>,
}

/// A public receipt of a user of another server.
#[derive(Clone, Debug)]
pub struct RemoteReceipt {
    /// Where.
    pub room: RoomNid,
    /// Whose.
    pub user: UserNid,
    /// `main` or the root's event id; `None` is unthreaded.
    pub thread: Option<String>,
    /// The event, as that server calls it; it need not be here.
    pub event_id: String,
    /// When it was sent, ms.
    pub ts_ms: i64,
}

/// One receipt in the content of `m.receipt`.
#[derive(Serialize)]
struct Entry {
    ts: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    thread_id: Option<String>,
}

impl Receipts {
    /// Made once.
    #[must_use]
    pub fn new(store: Store, history: Arc<History>, clock: Clock) -> Self {
        Self { store, history, clock }
    }

    /// Sends a receipt of a kind (`m.read`, `m.read.private`, `m.fully_read`).
    ///
    /// # Errors
    /// 400 for another kind, and for a thread that the event is not in; 403 if the user is not in the room; 404 for an
    /// event that is not there or that they may not see.
    pub async fn send(
        &self,
        who: &Requester,
        room: &RoomId,
        kind: &str,
        event: &EventId,
        thread: Option<&str>,
    ) -> Result<()> {
        let event_id = Some(event.to_owned());
        match kind {
            FULLY_READ if thread.is_some() => {
                Err(Error::invalid_param("The fully-read marker knows no threads: `thread_id` does not go with it"))
            }
            FULLY_READ => self.mark(who, room, Markers { fully_read: event_id, ..Markers::default() }).await,
            READ | PRIVATE => {
                let found = self.find(who, room, event).await?;
                if let Some(thread) = thread {
                    self.check_thread(&found, thread).await?;
                }
                let receipt = self.receipt(kind, thread, &found);
                let (user, nid) = (who.user_nid, found.room);
                self.store
                    .write(move |tx| Box::pin(async move { tx.put_receipts(nid, user, &[receipt]).await.map(drop) }))
                    .await
            }
            _ => Err(Error::invalid_param("There is no such type of receipt")),
        }
    }

    /// Moves several markers at once.
    ///
    /// # Errors
    /// As [`Self::send`]; then none moves.
    pub async fn mark(&self, who: &Requester, room: &RoomId, markers: Markers) -> Result<()> {
        let mut receipts = Vec::new();
        let mut nid = None;
        for (kind, event) in [(READ, markers.read), (PRIVATE, markers.private)] {
            if let Some(event) = event {
                let found = self.find(who, room, &event).await?;
                nid = Some(found.room);
                receipts.push(self.receipt(kind, None, &found));
            }
        }
        let mut fully_read = None;
        if let Some(event) = markers.fully_read {
            let found = self.find(who, room, &event).await?;
            nid = Some(found.room);
            if self.is_ahead(who.user_nid, &found).await? {
                fully_read = Some(serde_json::json!({"event_id": event}).to_string());
            }
        }
        let Some(nid) = nid else { return Ok(()) };
        let user = who.user_nid;
        self.store
            .write(move |tx| {
                Box::pin(async move {
                    tx.put_receipts(nid, user, &receipts).await?;
                    if let Some(content) = &fully_read {
                        tx.put_account_data(user, Some(nid), FULLY_READ, Some(content)).await?;
                    }
                    Ok(())
                })
            })
            .await
    }

    /// Public receipts of users of other servers, who are in the rooms.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn receive(&self, receipts: Vec<RemoteReceipt>) -> Result<()> {
        let now = i64::try_from(self.clock.now_ms()).unwrap_or(i64::MAX);
        let mut new = Vec::with_capacity(receipts.len());
        for r in receipts {
            let event = match <&EventId>::try_from(r.event_id.as_str()) {
                Ok(id) => self.store.event_by_id(id).await?.filter(|e| e.room == r.room),
                Err(_) => None,
            };
            let receipt = NewReceipt {
                kind: READ.to_owned(),
                thread: r.thread,
                event_id: r.event_id,
                event_pos: event.as_ref().and_then(|e| e.pos),
                counter: event.map_or(0, |e| e.counter),
                // A clock that is ahead, for once, is not to outdate what its user reads until then.
                ts_ms: r.ts_ms.min(now),
                is_remote: true,
            };
            new.push((r.room, r.user, receipt));
        }
        if new.is_empty() {
            return Ok(());
        }
        self.store
            .write(move |tx| {
                Box::pin(async move {
                    for (room, user, receipt) in new {
                        tx.put_receipts(room, user, &[receipt]).await?;
                    }
                    Ok(())
                })
            })
            .await
    }

    /// The event of a receipt.
    async fn find(&self, who: &Requester, room: &RoomId, event: &EventId) -> Result<Arc<StoredEvent>> {
        let (viewer, event) = self.history.event(who, room, event).await?;
        if viewer.is_joined() { Ok(event) } else { Err(Error::forbidden("You are not in this room")) }
    }

    fn receipt(&self, kind: &str, thread: Option<&str>, event: &StoredEvent) -> NewReceipt {
        NewReceipt {
            kind: kind.to_owned(),
            thread: thread.map(ToOwned::to_owned),
            event_id: event.event_id().to_string(),
            event_pos: event.pos,
            counter: event.counter,
            ts_ms: i64::try_from(self.clock.now_ms()).unwrap_or(i64::MAX),
            is_remote: false,
        }
    }

    /// Whether an event is ahead of the user's fully-read marker.
    async fn is_ahead(&self, user: UserNid, event: &StoredEvent) -> Result<bool> {
        #[derive(Deserialize)]
        struct FullyRead {
            event_id: OwnedEventId,
        }
        let stored = self.store.account_data(user, Some(event.room), FULLY_READ).await?;
        let Some(stored) = stored.and_then(|s| serde_json::from_str::<FullyRead>(&s).ok()) else { return Ok(true) };
        let old = self.store.event_by_id(&stored.event_id).await?;
        Ok(old.is_none_or(|old| event.pos > old.pos))
    }

    /// Whether a receipt for that thread may stand at the event: the event is in it, or is what it grows from.
    async fn check_thread(&self, event: &StoredEvent, thread: &str) -> Result<()> {
        if thread.is_empty() {
            return Err(Error::invalid_param("`thread_id` must not be empty"));
        }
        let is_in = match RelatesTo::of(event.pdu.content_json()) {
            Some(relation) => relations::thread_of(&self.store, event.room, &relation, Some(thread)).await?,
            None => MAIN.to_owned(),
        };
        if thread == event.event_id() || is_in == thread {
            return Ok(());
        }
        Err(Error::invalid_param("The event is not in the thread that `thread_id` names"))
    }

    /// For /sync: the content of `m.receipt` with what changed in `(after, upto]`, or (`None`) with all there is as of
    /// `upto`. `None` if that is nothing. Private receipts are shown to their owner only.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn content_since(
        &self,
        room: RoomNid,
        after: Option<StreamPos>,
        upto: StreamPos,
        for_user: UserNid,
    ) -> Result<Option<String>> {
        let receipts = self.store.receipts_since(room, after.unwrap_or(StreamPos::ZERO), upto).await?;
        self.content(receipts.into_iter().filter(|r| shown(r, for_user)).collect()).await
    }

    /// For sliding sync: the same, but only receipts at these events, and all of the user's own.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn content_at(
        &self,
        room: RoomNid,
        events: &HashSet<&EventId>,
        upto: StreamPos,
        for_user: UserNid,
    ) -> Result<Option<String>> {
        let receipts = self.store.receipts_since(room, StreamPos::ZERO, upto).await?;
        let at = |r: &Receipt| <&EventId>::try_from(r.event_id.as_str()).is_ok_and(|id| events.contains(id));
        let receipts = receipts.into_iter().filter(|r| r.user == for_user || (shown(r, for_user) && at(r)));
        self.content(receipts.collect()).await
    }

    async fn content(&self, receipts: Vec<Receipt>) -> Result<Option<String>> {
        if receipts.is_empty() {
            return Ok(None);
        }
        let mut nids: Vec<UserNid> = receipts.iter().map(|r| r.user).collect();
        nids.sort_unstable();
        nids.dedup();
        let users: HashMap<UserNid, OwnedUserId> =
            nids.iter().copied().zip(self.store.user_ids(&nids).await?).collect();
        let mut content: BTreeMap<&str, BTreeMap<&str, BTreeMap<&str, Entry>>> = BTreeMap::new();
        for receipt in &receipts {
            let Some(user) = users.get(&receipt.user) else { continue };
            let kinds = content.entry(&receipt.event_id).or_default();
            let entries = kinds.entry(&receipt.kind).or_default();
            // There is room for one receipt of a user at an event: the unthreaded one stands for the others (MSC4102).
            if receipt.thread.is_none() || !entries.contains_key(user.as_str()) {
                entries.insert(user.as_str(), Entry { ts: receipt.ts_ms, thread_id: receipt.thread.clone() });
            }
        }
        serde_json::to_string(&content).doing("writing receipts").map(Some)
    }
}

/// Whether a user is shown a receipt at all.
fn shown(receipt: &Receipt, for_user: UserNid) -> bool {
    receipt.kind != PRIVATE || receipt.user == for_user
}

#[cfg(test)]
mod tests;
