//! Rooms that were whole but for a hole in the state at our join, which can be filled now: all that was placed since is
//! judged again, as in a room that came in part.

use std::sync::Arc;

use hearth_base::{
    OrNotFound, Result,
    ids::{KeyNid, RoomNid},
};
use hearth_store::{
    Store,
    events::{Part, StoredEvent, Wholeness},
    state::StateMap,
};

use super::Anew;
use crate::events::{
    ATTEMPTS, Events,
    heads::too_busy,
    lane::{Builder, Head, Staged},
};

impl Events {
    /// Makes a room partial again from our join on, so that what is told of the state before that comes into the states
    /// of all that was placed since. Nothing happens to a room that is partial. Runs to its end even if the caller goes.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn begin_again(self: &Arc<Self>, room: RoomNid, join: Arc<StoredEvent>, part: Part) -> Result<()> {
        let this = self.clone();
        self.supervisor.job(async move { this.begin_again_now(room, &join, part).await }).await
    }

    async fn begin_again_now(&self, room: RoomNid, join: &StoredEvent, part: Part) -> Result<()> {
        let lane = self.lanes.get_with(room, Arc::default);
        for _ in 0..ATTEMPTS {
            let mut newest = lane.newest.lock().await;
            let head = match newest.head.clone() {
                Some(head) => head,
                None => Head::read(&self.store, room).await?,
            };
            if head.room.head.partial {
                return Ok(());
            }
            let (epoch, on_rev) = (newest.epoch, head.room.head.rev);
            let mut staged = Staged::on(head, Some(on_rev));
            staged.wholeness = Wholeness::Again { join: join.nid, depth: join.depth, part: part.clone() };
            staged.head.room.head.partial = true;
            staged.head.room.head.rev += 1;
            let (head, append) = staged.into_append();
            let committed = self.store.enqueue(append).await?;
            newest.head = Some(head);
            drop(newest);
            if self.settled(&lane, epoch, committed).await? {
                return Ok(());
            }
        }
        Err(too_busy())
    }
}

impl Staged {
    /// The state before an event as others told it, with what lacked at our beginning: nothing that stood ever leaves a
    /// state, so what is not in this one lacked there too. `None` while the beginning is not known.
    pub(super) async fn filled(&self, store: &Store, anew: &mut Anew, event: &StoredEvent) -> Result<Option<StateMap>> {
        let join = store.event(anew.partial.join).await?.or_not_found("Event")?;
        if anew.pending.contains(&join.nid) {
            return Ok(None);
        }
        let restated = self.restated.iter().find(|r| r.event == join.nid).map(|r| r.snap);
        let beginning = anew.state(store, restated.or(join.snap).or_not_found("State")?).await?;
        let known = anew.state(store, event.snap.or_not_found("State")?).await?;
        Ok(Some(known.map.union(beginning.map)))
    }

    /// Whether an event was hidden only because the state with the hole said nothing of its sender, and not by the room's
    /// policy server.
    pub(super) async fn was_unknown(&self, cx: &Builder<'_>, anew: &Anew, event: &StoredEvent) -> Result<bool> {
        let (store, present) = (cx.store, &self.head.state.map);
        if !anew.partial.again {
            return Ok(false);
        }
        let member = store.key_nid("m.room.member", event.pdu.sender().as_str()).await?;
        let policy = store.key_nid("m.room.policy", "").await?;
        let has = |key: Option<KeyNid>| key.is_some_and(|key| present.contains_key(&key));
        Ok(!has(member) && !has(policy))
    }
}
